"""Anchor ``s3``: checkpoint bundles as objects that nobody can delete before their time (S3 Object Lock, COMPLIANCE).

    <prefix>/checkpoints/<size, 16 digits>-<first 16 hex digits of the digest>.witnz.json     the bundle
    <prefix>/logs/<origin>/tile/…                                                             with upload_logs: C2SP tiles

Each object is written once under its key with a SHA-256 that the server checks, and read back by its version id, by which it is
known from then on: a key can be covered by a marker or a newer version, a version cannot be replaced.  A bucket without
versioning and Object Lock is refused.  What the lock is worth is what its owner is worth: on a server of one's own the
administrator can go behind it, and then the version is missing, which is a finding.

S3 signs nothing, so offline a receipt is a claim (:mod:`witnz.verify.receipts`); :mod:`witnz.anchor.s3_look` asks the bucket.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from botocore.exceptions import ClientError

from witnz.anchor.base import Memory, Pending, Publication, Published, Surroundings
from witnz.anchor.s3_client import error_code, is_absent, make_client, translate, translated
from witnz.anchor.s3_look import LOCKED, S3Look, read_object, utc_us
from witnz.config import AnchorConfig
from witnz.core.bundle import MEDIA_TYPE, parse_bundle
from witnz.core.checkpoint import checkpoint_digest
from witnz.core.note import format_note
from witnz.core.receipt import Receipt, parse_receipt
from witnz.core.timestamp import format_time
from witnz.core.verdict import Check, CheckStatus
from witnz.errors import AnchorError, AnchorRefused, FormatError

US: Final = 1_000_000
SIZE_DIGITS: Final = 16
REHEARSAL_S: Final = 120.0
MAX_LOOKED_AT: Final = 20


class S3Anchor:
    """One bucket and prefix."""

    type = "s3"

    def __init__(self, config: AnchorConfig, surroundings: Surroundings) -> None:
        self._config, self._clock = config, surroundings.clock
        self._bucket = str(config.bucket)
        self._prefix = (config.prefix or surroundings.cluster).strip("/")
        self._made: Any = None
        self._owner = {"ExpectedBucketOwner": config.bucket_owner} if config.bucket_owner else {}

    @property
    def _client(self) -> Any:
        if self._made is None:
            self._made = make_client(self._config)
        return self._made

    @property
    def endpoint(self) -> str:
        return str(self._client.meta.endpoint_url)

    @property
    def place(self) -> str:
        at = f" at {self._config.endpoint}" if self._config.endpoint else ""
        return f"s3://{self._bucket}/{self._prefix}{at}"

    # -- publishing -----------------------------------------------------------------------------------------------------------

    def publish(self, publication: Publication, memory: Memory) -> Published | Pending:
        """Write the bundle, or find what an interrupted attempt wrote; the logs' tiles before it, where they are wanted."""
        self._check_bucket()
        if self._config.upload_logs:
            self._upload_logs(publication, memory)
        size, digest = publication.checkpoint.size, publication.digest
        key = f"{self._checkpoints}{size:0{SIZE_DIGITS}d}-{digest.hex()[:16]}.witnz.json"
        until = self._until(self._config.retention_s)
        receipt = self._existing(key, digest, until) or self._put(key, publication.bundle(), until, digest, size)
        return Published(receipt)

    @property
    def _checkpoints(self) -> str:
        return f"{self._prefix}/checkpoints/"

    def _until(self, retention_s: float) -> datetime:
        """The end of a retention that begins now, in whole seconds, as S3 keeps it."""
        return datetime.fromtimestamp(self._clock() // US, UTC) + timedelta(seconds=round(retention_s))

    def _check_bucket(self) -> None:
        """Refuse a bucket that cannot lock.  Where we may not ask, the write itself tells: it is read back with its lock."""
        versioning = self._ask("get_bucket_versioning")
        if versioning is not None and versioning.get("Status") != "Enabled":
            found = str(versioning.get("Status") or "never enabled").lower()
            raise AnchorRefused(
                f"bucket {self._bucket}: versioning is {found}, so what is written could be overwritten",
                hint="use a bucket that was created with Object Lock; docs/anchors/s3.md says how",
            )
        lock = self._ask("get_object_lock_configuration")
        if lock is not None and lock.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") != "Enabled":
            raise AnchorRefused(
                f"bucket {self._bucket} has no Object Lock, so what is written could be deleted",
                hint="create a bucket with Object Lock; docs/anchors/s3.md says how",
            )

    def _ask(self, operation: str) -> Mapping[str, Any] | None:
        """What the bucket says of itself; None where this identity may not know.  Raises AnchorRefused where it has no lock."""
        what = f"bucket {self._bucket} ({operation})"
        with translated(what):
            try:
                answer: Mapping[str, Any] = getattr(self._client, operation)(Bucket=self._bucket, **self._owner)
            except ClientError as error:
                code = error_code(error)
                if code == "ObjectLockConfigurationNotFoundError":
                    raise AnchorRefused(
                        f"bucket {self._bucket} has no Object Lock, so what is written could be deleted",
                        hint="create a bucket with Object Lock; docs/anchors/s3.md says how",
                    ) from error
                if code in ("AccessDenied", "NotImplemented"):
                    return None
                raise
            return answer

    def _put(self, key: str, body: bytes, until: datetime, digest: bytes, size: int) -> Receipt:
        """Write an object, read it back by its version, and say what is there."""
        answer = self._write(key, body, until, {"witnz-digest": digest.hex(), "witnz-size": str(size)})
        version = answer.get("VersionId")
        if not version or version == "null":
            raise AnchorRefused(
                f"bucket {self._bucket} gave no version id: versioning is off",
                hint="use a bucket that was created with Object Lock; docs/anchors/s3.md says how",
            )
        return self._read_back(key, version, hashlib.sha256(body).digest(), until, digest, size, str(answer["Date"]))

    def _write(self, key: str, body: bytes, until: datetime, metadata: Mapping[str, str]) -> Mapping[str, Any]:
        """PUT once; where something else covers the key already, as a further version: ours is known by its id."""
        arguments = {
            "Bucket": self._bucket,
            "Key": key,
            "Body": body,
            "ContentType": MEDIA_TYPE if key.endswith(".witnz.json") else "application/octet-stream",
            "ContentMD5": base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode(),
            "ChecksumAlgorithm": "SHA256",
            "ChecksumSHA256": base64.b64encode(hashlib.sha256(body).digest()).decode(),
            "ObjectLockMode": LOCKED,
            "ObjectLockRetainUntilDate": until,
            "Metadata": dict(metadata),
            **self._owner,
        }
        with translated(f"s3://{self._bucket}/{key} was not written"):
            try:
                answer = self._client.put_object(**arguments, IfNoneMatch="*")
            except ClientError as error:
                if error_code(error) != "PreconditionFailed":
                    raise
                answer = self._client.put_object(**arguments)
            headers = answer["ResponseMetadata"]["HTTPHeaders"]
            return {**answer, "Date": headers.get("date", "unknown")}

    def _read_back(
        self, key: str, version: str, sha256: bytes, until: datetime, digest: bytes, size: int, date: str
    ) -> Receipt:
        """The receipt of a version, once its content and its lock were seen there.  Raises AnchorRefused where they are not."""
        what = f"s3://{self._bucket}/{key} version {version}"
        with translated(f"{what} was not read back"):
            head, content = read_object(self._client, self._bucket, key, version)
        if hashlib.sha256(content).digest() != sha256:
            raise AnchorRefused(f"{what} reads back as something else than was written", hint="is there a proxy in between?")
        mode, retained = head.get("ObjectLockMode"), head.get("ObjectLockRetainUntilDate")
        if mode != LOCKED or not isinstance(retained, datetime) or utc_us(retained) < utc_us(until):
            raise AnchorRefused(
                f"{what} was stored without the lock that was asked for (mode {mode}, until {retained})",
                hint="the server does not keep Object Lock; do not use it as an anchor",
            )
        members = {
            "type": "s3",
            "digest": digest.hex(),
            "size": size,
            "bucket": self._bucket,
            "key": key,
            "version_id": version,
            "etag": str(head.get("ETag", "")),
            "sha256": sha256.hex(),
            "mode": mode,
            "retain_until": format_time(utc_us(retained)),
            "date": date,
            "endpoint": self.endpoint,
        }
        return parse_receipt(members)

    def _existing(self, key: str, digest: bytes, until: datetime) -> Receipt | None:
        """The receipt of what an attempt before has written under the key, if it is this checkpoint and locked long enough."""
        long_enough = until - timedelta(seconds=self._config.retention_s * 0.1)
        with translated(f"s3://{self._bucket}/{key} was not looked up"):
            found = self._client.list_object_versions(Bucket=self._bucket, Prefix=key, MaxKeys=MAX_LOOKED_AT, **self._owner)
        for one in found.get("Versions", []):
            if one["Key"] != key:
                continue
            with translated(f"s3://{self._bucket}/{key} was not looked up"):
                head, content = read_object(self._client, self._bucket, key, one["VersionId"])
            try:
                same = checkpoint_digest(parse_bundle(content).head.note.text) == digest
            except FormatError:
                continue
            retained = head.get("ObjectLockRetainUntilDate")
            locked = head.get("ObjectLockMode") == LOCKED and isinstance(retained, datetime) and retained >= long_enough
            if same and locked and isinstance(retained, datetime):
                sha256 = hashlib.sha256(content).digest()
                date = head["ResponseMetadata"]["HTTPHeaders"].get("date", "unknown")
                size = parse_bundle(content).head.checkpoint.size
                return self._read_back(key, one["VersionId"], sha256, retained, digest, size, date)
        return None

    def _upload_logs(self, publication: Publication, memory: Memory) -> None:
        """What the logs gained since the last time, as tiles that never change; kept sizes are noted once all are there."""
        kept: dict[str, int] = dict(memory.load().get("logs", {}))
        reached = dict(kept)
        until = self._until(self._config.retention_s)
        for file in publication.files(kept):
            self._write_once(f"{self._prefix}/logs/{file.log}/{file.path}", file.data, until)
            reached[file.log] = max(file.size, reached.get(file.log, 0))
        if reached != kept:
            memory.save({**memory.load(), "logs": reached})

    def _write_once(self, key: str, data: bytes, until: datetime) -> None:
        """A tile: left alone where its newest version is these bytes already."""
        with translated(f"s3://{self._bucket}/{key} was not looked up"):
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=key, **self._owner)
                if answer["ContentLength"] == len(data) and answer["Body"].read() == data:
                    return
            except ClientError as error:
                if not is_absent(error) and error_code(error) != "AccessDenied":
                    raise
        self._write(key, data, until, {})

    # -- looking --------------------------------------------------------------------------------------------------------------

    def look(self, receipt: Receipt) -> Sequence[Any]:
        """See :class:`witnz.anchor.s3_look.S3Look`."""
        try:
            client = self._client
        except AnchorError as error:
            return S3Look.unable(error)
        return S3Look(client, receipt, self._clock()).checks()

    def newest(self, origin: str, above: int) -> str | None:
        """The note of the largest checkpoint beyond ``above``; versions are listed, so that no marker hides one."""
        found: list[Mapping[str, Any]] = []
        after = f"{self._checkpoints}{above:0{SIZE_DIGITS}d}~"
        with translated(f"{self.place} was not listed"):
            pages = self._client.get_paginator("list_object_versions")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._checkpoints, KeyMarker=after, **self._owner):
                found = [*found, *page.get("Versions", [])][-MAX_LOOKED_AT:]
        for one in reversed(found):
            with translated(f"s3://{self._bucket}/{one['Key']} was not read"):
                _, content = read_object(self._client, self._bucket, one["Key"], one["VersionId"])
            try:
                head = parse_bundle(content).head
            except FormatError:
                continue  # something that others put there
            if head.checkpoint.origin == origin and head.checkpoint.size > above:
                return format_note(head.note)
        return None

    def is_own(self, receipt: Receipt) -> bool:
        return bool(receipt.members["bucket"] == self._bucket and receipt.members["endpoint"] == self.endpoint)

    # -- rehearsing -----------------------------------------------------------------------------------------------------------

    def rehearse(self) -> Sequence[Check]:
        """Is the bucket fit, and does a small object written under a lock of two minutes keep it?"""
        checks = []
        try:
            self._check_bucket()
            checks.append(Check("bucket", CheckStatus.OK, f"{self._bucket} has versioning and Object Lock"))
            key = f"{self._prefix}/rehearsal/{secrets.token_hex(16)}"
            until = self._until(REHEARSAL_S)
            receipt = self._put(key, b"a rehearsal of witnz\n", until, bytes(32), 0)
            checks.append(Check("lock", CheckStatus.OK, f"an object was locked until {receipt.members['retain_until']}"))
            checks.append(self._refuses_deletion(receipt))
        except AnchorError as error:
            return [*checks, Check("publish", CheckStatus.FAIL, f"{error.message}: {error.hint}")]
        real = self._until(self._config.retention_s)
        sentence = f"what is anchored today nobody can remove before {real:%Y-%m-%d}: anchors[].retention cannot be undone"
        return [*checks, Check("retention", CheckStatus.OK, sentence)]

    def _refuses_deletion(self, receipt: Receipt) -> Check:
        bucket, key, version = (receipt.members[name] for name in ("bucket", "key", "version_id"))
        try:
            self._client.delete_object(Bucket=bucket, Key=key, VersionId=version, **self._owner)
        except ClientError as error:
            refusal = translate("deletion", error)
            return Check("delete", CheckStatus.OK, f"deleting the locked version is refused ({refusal.message})")
        return Check("delete", CheckStatus.FAIL, "the server deleted a version that is locked; do not use it as an anchor")


class S3Backend:
    """Object storage with Object Lock."""

    type = "s3"
    about = "bundles under S3 Object Lock: nobody removes them before their time, if the bucket's owner keeps to S3's rules"
    extra = "s3"
    latency = "seconds"

    def open(self, config: AnchorConfig, surroundings: Surroundings) -> S3Anchor:
        return S3Anchor(config, surroundings)

    def implied(self, receipt: Receipt) -> AnchorConfig:
        """Credentials come from where AWS programs look; Amazon's own endpoint is found by region."""
        endpoint, bucket = str(receipt.members["endpoint"]), receipt.members["bucket"]
        theirs = {} if "amazonaws.com" in endpoint else {"endpoint": endpoint}
        return AnchorConfig.model_validate({"type": "s3", "bucket": bucket, **theirs})

    def party(self, receipt: Receipt) -> str:
        return f"the provider of the storage behind bucket {receipt.members['bucket']} ({receipt.members['endpoint']})"


BACKEND: Final = S3Backend()
