"""The S3 client of an anchor, and what its errors mean: whether trying again helps, and what somebody has to change.

boto3 takes credentials from the section, else from where AWS programs look: environment, configuration files, the machine's
role.  Requests carry checksums that we compute and answers are hashed by us, so the client's own are left out: some servers do
not know them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from botocore import exceptions as aws
from botocore.config import Config

from witnz.config import AnchorConfig
from witnz.errors import AnchorError, AnchorRefused, AnchorUnreachable

DEFAULT_REGION: Final = "us-east-1"
CONNECT_TIMEOUT_S: Final = 10.0

_CREDENTIALS = "check access_key_id and secret_access_key (or the environment, profile or role that they come from)"
_REFUSED: Final = {
    "AccessDenied": "the identity lacks a permission; docs/anchors/s3.md lists those that it needs",
    "403": "the identity lacks a permission; docs/anchors/s3.md lists those that it needs",
    "AllAccessDisabled": "the account or bucket is disabled",
    "InvalidAccessKeyId": _CREDENTIALS,
    "SignatureDoesNotMatch": _CREDENTIALS,
    "AuthFailure": _CREDENTIALS,
    "ExpiredToken": "the temporary credentials have expired; renew them",
    "InvalidToken": "the session token does not belong to the key; renew the credentials",
    "RequestTimeTooSkewed": "the clocks of this machine and of the server differ by too much; set this machine's clock (NTP)",
    "NoSuchBucket": "create it with versioning and Object Lock, or correct anchors[].bucket",
    "PermanentRedirect": "set anchors[].region to the bucket's region",
    "AuthorizationHeaderMalformed": "set anchors[].region to the bucket's region",
    "IllegalLocationConstraintException": "set anchors[].region to the bucket's region",
    "301": "set anchors[].region to the bucket's region",
    "InvalidRequest": "has the bucket Object Lock and versioning? docs/anchors/s3.md says how to create it",
    "InvalidBucketState": "has the bucket Object Lock and versioning? docs/anchors/s3.md says how to create it",
    "ObjectLockConfigurationNotFoundError": "create a bucket with Object Lock; docs/anchors/s3.md says how",
    "QuotaExceeded": "the bucket or account is full",
    "InvalidArgument": "is anchors[].retention within what the server allows?",
}
_BUSY: Final = frozenset(
    {
        "SlowDown",
        "ServiceUnavailable",
        "InternalError",
        "RequestTimeout",
        "Throttling",
        "OperationAborted",
        "ConditionalRequestConflict",
    }
)
_ABSENT: Final = frozenset({"NoSuchKey", "NoSuchVersion", "NoSuchBucket", "404", "405", "MethodNotAllowed"})


def make_client(config: AnchorConfig) -> Any:
    """A client for a section.  Raises AnchorRefused where there is a profile or certificate that cannot be used."""
    import boto3

    with translated("the S3 client cannot be made"):
        session = boto3.session.Session(profile_name=config.profile, region_name=config.region)
        region = config.region or session.region_name or (DEFAULT_REGION if config.endpoint else None)
        secret, token = config.secret_access_key, config.session_token
        return session.client(
            "s3",
            region_name=region,
            endpoint_url=config.endpoint,
            verify=None if config.ca is None else str(config.ca),
            aws_access_key_id=config.access_key_id,
            aws_secret_access_key=None if secret is None else secret.reveal(),
            aws_session_token=None if token is None else token.reveal(),
            config=Config(
                connect_timeout=min(config.timeout_s, CONNECT_TIMEOUT_S),
                read_timeout=config.timeout_s,
                retries={"total_max_attempts": 2, "mode": "standard"},
                s3={"addressing_style": "path" if config.path_style or config.endpoint else "auto"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                user_agent_extra="witnz",
            ),
        )


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn whatever boto3 raises into AnchorUnreachable or AnchorRefused that says ``what`` went wrong."""
    try:
        yield
    except aws.ClientError as error:
        raise translate(what, error) from error
    except (aws.NoCredentialsError, aws.PartialCredentialsError, aws.CredentialRetrievalError, aws.ProfileNotFound) as error:
        raise AnchorRefused(f"{what}: {_sentence(error)}", hint=_CREDENTIALS) from error
    except aws.SSLError as error:
        raise AnchorRefused(
            f"{what}: {_sentence(error)}", hint="is the server's certificate signed by a known authority? else set anchors[].ca"
        ) from error
    except (aws.HTTPClientError, aws.ConnectionError, aws.ResponseStreamingError, aws.IncompleteReadError) as error:
        raise AnchorUnreachable(f"{what}: {_sentence(error)}", hint="is the endpoint right, and the network up?") from error
    except (aws.BotoCoreError, OSError, ValueError) as error:
        raise AnchorRefused(
            f"{what}: {_sentence(error)}", hint="correct the anchor's section; `witnz doctor` tries it"
        ) from error


def translate(what: str, error: aws.ClientError) -> AnchorError:
    """The error of ours for an answer of the server."""
    code, status = error_code(error), status_of(error)
    message = f"{what}: {code}: {_sentence(error)}"
    if code in _BUSY or status >= 500:
        return AnchorUnreachable(message, hint="the server is busy or broken; it is tried again")
    hint = _REFUSED.get(code, "`witnz doctor` tries the anchor; docs/anchors/s3.md says what it needs")
    region = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region")
    return AnchorRefused(message, hint=f"set anchors[].region to {region}" if region and "region" in hint else hint)


def error_code(error: aws.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code") or status_of(error))


def status_of(error: aws.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_absent(error: aws.ClientError) -> bool:
    """Whether an answer says that there is no such object or version."""
    return error_code(error) in _ABSENT


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
