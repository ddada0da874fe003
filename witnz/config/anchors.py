"""``anchors[]``: where final checkpoints are published; one model for all of witnz's own types, each key with its types.

A key that does not belong to the section's type is refused, and so is a type's required key that is not there
(:func:`witnz.config.rules.check_rules`).  A type that another package brings keeps whatever keys it has, as texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final

from pydantic import ConfigDict

from witnz.config import types as kinds
from witnz.config.sections import DAY_S, Flag, PathValue, SecretText, SecretUrl, Section, Text, TextList, Word, setting
from witnz.config.types import Secret

COMMON_KEYS: Final = frozenset({"type", "name", "every", "timeout"})

KEYS_OF: Final[Mapping[str, frozenset[str]]] = {
    "basic": frozenset({"directory", "git"}),
    "witness": frozenset({"url", "witness_key"}),
    "s3": frozenset(
        {
            "bucket", "prefix", "region", "endpoint", "retention", "upload_logs", "bucket_owner", "ca", "path_style",
            "access_key_id", "secret_access_key", "session_token", "profile",
        }
    ),
    "evm": frozenset(
        {
            "rpc_url", "second_rpc_url", "chain_id", "key", "key_password", "address", "confirmations", "max_fee_gwei",
            "max_priority_fee_gwei",
        }
    ),
    "rfc3161": frozenset({"url", "root", "user", "password", "ca"}),
    "opentimestamps": frozenset({"calendars"}),
}  # fmt: skip
"""The keys of each of witnz's own types, as they stand in the file, without ``_file``."""

REQUIRED_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "witness": ("url", "witness_key"),
    "s3": ("bucket",),
    "evm": ("rpc_url", "chain_id", "key"),
    "rfc3161": ("url",),
}


class AnchorConfig(Section):
    """A place that the database's administrators do not control."""

    model_config = ConfigDict(extra="allow", frozen=True, hide_input_in_errors=True)

    type: Word = setting("Kind of anchor: basic, witness, s3, evm, rfc3161, opentimestamps, or one of another package.", "s3")
    name: Word | None = setting("What it is called in status and commands; its type if not given.", "evidence-bucket", None)
    every_s: Annotated[float, kinds.duration(1, 400 * DAY_S)] = setting(
        "How often the newest final checkpoint is published.", "15m", 3600.0, name="every"
    )
    timeout_s: Annotated[float, kinds.duration(0.1, 600)] = setting(
        "How long one request may take.", "20s", 30.0, name="timeout"
    )

    directory: PathValue | None = setting("basic: folder that somebody else reads or copies.", "/srv/checkpoints", None)
    git: PathValue | None = setting(
        "basic: a git work tree, made if it is not there; each checkpoint is a commit, pushed where it has a remote.",
        "/srv/checkpoints.git",
        None,
    )

    url: SecretUrl | None = setting(
        "rfc3161: the authority's address. witness: the submission prefix, to which /add-checkpoint is appended.",
        "https://tsa.example/tsr",
        None,
    )
    witness_key: Text | None = setting(
        "witness: its verifier key, obtained from whoever runs it.", "witness.example.org+b8a2cf20+BFLN3y…", None
    )

    bucket: Text | None = setting("s3: bucket with versioning and Object Lock.", "witnz-evidence", None)
    prefix: Text | None = setting("s3: start of every key; the cluster's name if not given.", "prod/app", None)
    region: Text | None = setting("s3: region; else as the environment says.", "eu-central-1", None)
    endpoint: Annotated[str, kinds.HTTP_URL] | None = setting(
        "s3: address of a server other than Amazon's.", "https://s3.example.net", None
    )
    retention_s: Annotated[float, kinds.duration(60, 36500 * DAY_S)] = setting(
        "s3: how long nobody, no administrator either, can delete or shorten an object; choose it with care.",
        "400d",
        400 * DAY_S,
        name="retention",
    )
    upload_logs: Flag = setting("s3: whether the log itself goes there too, so that the bucket alone proves it.", "true", False)
    bucket_owner: Text | None = setting(
        "s3: account that must own the bucket; refused where another does.", "111122223333", None
    )
    access_key_id: Text | None = setting("s3: access key; else as the environment or the machine's role says.", "AKIA…", None)
    secret_access_key: SecretText | None = setting("s3: its secret.", "${AWS_SECRET_ACCESS_KEY}", None)
    session_token: SecretText | None = setting("s3: its session token, where it is a temporary one.", "${TOKEN}", None)
    profile: Text | None = setting("s3: profile of the AWS configuration files, instead of a key.", "witnz", None)
    path_style: Flag = setting("s3: whether the bucket stands in the path instead of the host name.", "true", False)

    ca: PathValue | None = setting("s3, rfc3161: certificates that may sign the server's TLS.", "/etc/witnz/ca.pem", None)
    root: PathValue | None = setting(
        "rfc3161: PEM file of the authority's root; put into receipts.", "/etc/witnz/tsa.pem", None
    )
    user: Text | None = setting("rfc3161: user for HTTP authentication.", "witnz", None)
    password: SecretText | None = setting("rfc3161: its password.", "${TSA_PASSWORD}", None)

    rpc_url: SecretUrl | None = setting("evm: JSON-RPC endpoint of the chain.", "https://rpc.example/v3/…", None)
    second_rpc_url: SecretUrl | None = setting(
        "evm: endpoint of somebody else; what both say must agree before a receipt is believed.", "https://rpc2.example", None
    )
    chain_id: Annotated[int, kinds.number(1, 2**53 - 1)] | None = setting(
        "evm: the chain; refused where it is another.", "1", None
    )
    key: SecretText | None = setting(
        "evm: private key of the account that pays, as hex digits or as a keystore (JSON).", "${WITNZ_ETH_KEY}", None
    )
    key_password: SecretText | None = setting("evm: password of the keystore.", "${WITNZ_ETH_PASSWORD}", None)
    address: Text | None = setting(
        "evm: the account's address, which verifiers know; a key of another is refused.", "0x9d8A62f656a8d1615C1294…", None
    )
    confirmations: Annotated[int, kinds.number(0, 100_000)] = setting(
        "evm: blocks on top of the transaction's before a receipt is made.", "12", 12
    )
    max_fee_gwei: Annotated[int, kinds.number(1, 1_000_000)] = setting(
        "evm: never pay more for a unit of gas; wait instead.", "60", 100
    )
    max_priority_fee_gwei: Annotated[int, kinds.number(0, 1_000_000)] = setting("evm: tip for a unit of gas, at most.", "1", 1)

    calendars: TextList = setting(
        "opentimestamps: calendar servers; the public ones if none.", "[https://alice.btc.calendar.opentimestamps.org]", ()
    )

    @property
    def options(self) -> dict[str, Any]:
        """The keys of a type that another package brings, as texts."""
        return dict(self.__pydantic_extra__ or {})

    def secrets(self) -> list[Secret]:
        """Every secret of the section."""
        return [value for name in type(self).model_fields if isinstance(value := getattr(self, name), Secret)]

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield "type", self.type  # options may hold credentials
        yield "every_s", self.every_s
