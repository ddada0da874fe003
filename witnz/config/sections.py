"""The sections of witnz.yaml: one pydantic model each, every key with its meaning and an example.

The field descriptions are the documentation: ``witnz config explain`` and the configuration reference are generated from them
(:mod:`witnz.config.keys`).  All models are frozen and refuse unknown keys.  An attribute carries its unit where the key does
not (``verify_interval: 5m`` is ``table.verify_interval_s == 300.0``).  Aliases stand for keys that were renamed.
"""

from __future__ import annotations

import re
from base64 import b64decode
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from witnz.config import types as kinds
from witnz.config.types import Secret
from witnz.core.journal_facts import Member
from witnz.core.names import format_table_name
from witnz.errors import ConfigError

DAY_S: Final = 86400.0
BUILT_IN_SINKS: Final = ("log", "slack", "pagerduty")

Flag = Annotated[bool, kinds.FLAG]
Text = Annotated[str, kinds.TEXT]
Word = Annotated[str, kinds.WORD]
PathValue = Annotated[Path, kinds.PATH]
Address = Annotated[str, kinds.ADDRESS]
PgName = Annotated[str, kinds.PG_NAME]
NodeId = Annotated[str, kinds.NODE_ID]
SecretText = Annotated[Secret, kinds.SECRET]
SecretUrl = Annotated[Secret, kinds.SECRET_URL]
TextList = Annotated[tuple[str, ...], kinds.list_of(kinds.TEXT)]
SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]


def setting(meaning: str, example: str, default: Any = ..., *, name: str | None = None, also: str | None = None) -> Any:
    """A field with its documentation; ``name`` is the key where the attribute is called otherwise, ``also`` an older name."""
    alias = AliasChoices(name or also, also) if also and name else name
    return Field(default, description=meaning, examples=[example], validation_alias=alias)


class Section(BaseModel):
    """Base of all sections."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class DatabaseConfig(Section):
    """The database whose tables are protected, and the unprivileged role that witnz connects as."""

    host: Text | None = setting("Host name, address, or the folder of the server's Unix socket.", "db.internal", None)
    port: Annotated[int, kinds.number(1, 65535)] = setting("Port.", "5432", 5432)
    database: Text = setting("Name of the database.", "app", name="database", also="name")
    user: Text | None = setting("Role with REPLICATION and SELECT on the protected tables; not their owner.", "witnz", None)
    password: SecretText | None = setting("Its password.", "${WITNZ_DB_PASSWORD}", None)
    sslmode: Annotated[SslMode, kinds.one_of("disable", "allow", "prefer", "require", "verify-ca", "verify-full")] = setting(
        "TLS to the server as libpq does it; only verify-full is safe against someone in between.", "verify-full", "prefer"
    )
    sslrootcert: PathValue | None = setting("Certificates that may sign the server's.", "/etc/witnz/db-ca.pem", None)
    sslcert: PathValue | None = setting("Client certificate.", "/etc/witnz/db.crt", None)
    sslkey: PathValue | None = setting("Key of the client certificate.", "/etc/witnz/db.key", None)

    def connection_params(self) -> dict[str, str]:
        """libpq's keyword parameters, the password in clear among them: for connecting, never for showing.

        Raises :class:`ConfigError` where the password's file cannot be read.
        """
        given: dict[str, object] = {
            "host": self.host,
            "port": self.port,
            "dbname": self.database,
            "user": self.user,
            "password": self.password.reveal() if self.password else None,
            "sslmode": self.sslmode,
            "sslrootcert": self.sslrootcert,
            "sslcert": self.sslcert,
            "sslkey": self.sslkey,
        }
        return {name: str(value) for name, value in given.items() if value is not None}

    def conninfo(self) -> str:
        escaped = {name: re.sub(r"(['\\])", r"\\\1", value) for name, value in self.connection_params().items()}
        escaped = {name: re.sub(r"(['\\\\])", r"\\\1", value) for name, value in self.connection_params().items()}
        return " ".join(f"{name}='{value}'" for name, value in escaped.items())


class NodeConfig(Section):
    """This node."""

    id: NodeId | None = setting("Name of this node within the cluster.", "node1", None)
    data_dir: PathValue | None = setting("Folder of this node's keys and evidence, mode 0700.", "/var/lib/witnz", None)
    bind_addr: Address | None = setting("Where the other nodes reach this one.", "node1.internal:7000", None)
    listen_addr: Address | None = setting(
        "Where it listens for them, if that is another address: in a container, behind NAT.", "0.0.0.0:7000", None
    )
    http_addr: Address | None = setting("Where the HTTP interface listens.", "127.0.0.1:8000", None)
    bootstrap: Flag = setting("Whether this node founds the cluster if there is none.", "true", False)
    peer_addrs: Annotated[tuple[tuple[str | None, str], ...], kinds.PEERS] = setting(
        "Addresses of the other nodes; their keys stand under nodes.", "{node2: node2.internal:7000}", ()
    )
    grpc_addr: Text | None = setting("Without effect.", "0.0.0.0:7001", None)
    peers: TextList = setting("Without effect.", "[node2]", ())


class MemberConfig(Section):
    """A member of the cluster, this node included."""

    id: NodeId | None = setting("Its node.id.", "node1", None)
    addr: Address | None = setting("Where the others reach it.", "node1.internal:7000", None)
    host: Text | None = setting("Its host, where addr is not given.", "node1.internal", None)
    port: Annotated[int, kinds.number(1, 65535)] = setting("The port beside host.", "7000", 7000)
    key: Text | None = setting("Its identity key, as `witnz keys show` prints it.", "0qf3…", None)
    cosigner: Text | None = setting(
        "Its cosigner's verifier key, as `witnz keys show` prints it.", "example.com/nodes/node1+…", None
    )

    @property
    def address(self) -> str | None:
        """``addr``, or ``host`` with ``port``."""
        return self.addr or (self.host and f"{self.host}:{self.port}")

    def member(self) -> Member:
        """What genesis says of it.  Raises FormatError for keys that are none, ConfigError where one is missing."""
        if self.id is None or self.address is None or self.key is None or self.cosigner is None:
            raise ConfigError(f"nodes: member {self.id} lacks its addr, key or cosigner", hint="`witnz keys show` prints them")
        identity = b64decode(kinds.IDENTITY.parse(self.key))
        return Member(self.id, self.address, identity, kinds.COSIGNER.parse(self.cosigner), 0)


class OperatorConfig(Section):
    """A person whose key decides: what a node that joins compares genesis with."""

    name: Text = setting("The key's name in the journal.", "alice")
    key: Annotated[str, kinds.IDENTITY] = setting(
        "The public key, as `witnz keys show` prints it.", "vGZHmcl5HW/mYCXlB2mcwIsTClVxfhuqfhqA6OQ9Vbo="
    )


class EtcdConfig(Section):
    """The etcd cluster that orders the journal under engine: etcd."""

    endpoints: Annotated[tuple[str, ...], kinds.list_of(kinds.HTTP_URL, or_one=True)] = setting(
        "Its client URLs, tried in this order.", "[https://etcd1.internal:2379]", ()
    )
    prefix: Text | None = setting("Where in its key space; the cluster's name if not given.", "/witnz/app", None)
    ca: PathValue | None = setting("Certificates that may sign the servers'.", "/etc/witnz/etcd-ca.pem", None)
    cert: PathValue | None = setting("Client certificate.", "/etc/witnz/etcd.crt", None)
    key: PathValue | None = setting("Key of the client certificate.", "/etc/witnz/etcd.key", None)


class TableConfig(Section):
    """A protected table and its rules."""

    reference: Annotated[tuple[str | None, str], kinds.TABLE] = setting(
        'The table; a part with dots stands in double quotes: sales."odd.name".', "billing.prices", name="name", also="table"
    )
    schema_name: Text | None = setting("Its schema, where the name does not say it.", "billing", None, name="schema")
    mode: Annotated[Literal["append_only", "state_integrity"], kinds.one_of("append_only", "state_integrity")] = setting(
        "append_only: only inserts are legitimate; state_integrity: changes are, if recorded.", "append_only", "state_integrity"
    )
    on_change: Annotated[Literal["alert", "record"], kinds.one_of("alert", "record")] = setting(
        "What a recorded change of a state_integrity table is: a finding until approved, or accepted.", "record", "alert"
    )
    require_intent: Flag = setting("Whether every change, an insert too, needs a signed intent.", "true", False)
    inserts_only: Flag = setting("Publish inserts and truncates only; the rest is found by scan.", "true", False)
    retain: Annotated[Literal["rows", "none"], kinds.one_of("rows", "none")] = setting(
        "rows: keep encrypted images of the rows, so that they can be restored.", "rows", "none"
    )
    on_tamper: Annotated[Literal["alert", "repair"], kinds.one_of("alert", "repair")] = setting(
        "repair: restore the recorded rows at once; needs retain: rows and repair_url.", "repair", "alert"
    )
    verify_interval_s: Annotated[float, kinds.duration(1, 400 * DAY_S, or_zero="only when asked")] = setting(
        "How often the whole table is compared with the log.", "5m", 300.0, name="verify_interval"
    )
    verify_mode: Annotated[Literal["snapshot", "rolling"], kinds.one_of("snapshot", "rolling")] = setting(
        "snapshot: all rows in one snapshot; rolling: range of keys after range, resumable, for large tables.",
        "rolling",
        "snapshot",
    )
    verify_budget: Annotated[int | None, kinds.number(1, 10**9)] = setting(
        "Rows a second that rolling verification may read; as fast as it can if not given.", "20000", None
    )
    exclude_columns: TextList = setting("Columns of reg* and aclitem types that are left out; recorded.", "[acl]", ())
    keys: Annotated[Literal["plain", "hidden"], kinds.one_of("plain", "hidden")] = setting(
        "hidden: the log holds digests of key values instead of the values.", "hidden", "plain"
    )
    alert: Annotated[tuple[str, ...], kinds.list_of(kinds.WORD, or_one=True)] = setting(
        "Where its findings are sent: log, slack, pagerduty or names of webhooks; all if not given.", "slack", ()
    )
    repair_url: SecretText | None = setting(
        "Connection for repairs of this table, instead of the general one.", "${REPAIR_URL}", None
    )

    @property
    def relation(self) -> tuple[str, str]:
        """The raw identifiers ``(schema, table)``."""
        return self.schema_name or self.reference[0] or "public", self.reference[1]

    @property
    def name(self) -> str:
        """The canonical name of formats.md, ``public.audit_logs``."""
        return format_table_name(*self.relation)


class WebhookConfig(Section):
    """A generic webhook."""

    name: Word | None = setting("What tables call it under alert; webhook, webhook2, … if not given.", "oncall", None)
    url: SecretUrl = setting("Where findings are posted.", "https://hooks.example.com/witnz")
    secret: SecretText | None = setting("Key of the HMAC signature; unsigned without.", "${WEBHOOK_SECRET}", None)


class AlertsConfig(Section):
    """Where findings are sent besides the log."""

    enabled: Flag = setting("Whether anything is sent.", "true", True)
    slack_webhook: SecretUrl | None = setting("Slack incoming webhook.", "${SLACK_WEBHOOK_URL}", None)
    pagerduty_key: SecretText | None = setting("Integration key of PagerDuty's Events API v2.", "${PAGERDUTY_KEY}", None)
    pagerduty_url: Annotated[str, kinds.HTTP_URL] = setting(
        "Address of that API.", "https://events.eu.pagerduty.com/v2/enqueue", "https://events.pagerduty.com/v2/enqueue"
    )
    webhooks: tuple[WebhookConfig, ...] = setting("Generic webhooks.", "[{url: …, secret_file: …}]", ())
    max_per_minute: Annotated[int, kinds.number(1, 6000)] = setting(
        "Messages a minute to one place; what exceeds it is summarised, never dropped.", "30", 30
    )
    timeout_s: Annotated[float, kinds.duration(0.1, 300)] = setting(
        "How long a delivery may take.", "10s", 10.0, name="timeout"
    )

    def named_webhooks(self) -> dict[str, WebhookConfig]:
        """The webhooks by name; one without a name is ``webhook``, or ``webhook2`` in the second place."""
        return {hook.name or default_webhook_name(place): hook for place, hook in enumerate(self.webhooks)}


class WitnessConfig(Section):
    """Cosigning the checkpoints of other people's logs (C2SP tlog-witness), beside everything else."""

    addr: Address | None = setting("Where the witness listens; it does not where this is not set.", "0.0.0.0:7080", None)
    logs: TextList = setting(
        "Verifier keys of the logs that it witnesses; the name in a key is the log's origin.",
        "[other.example.com/app+53af…+AZ…]",
        (),
    )


class LogConfig(Section):
    """The log on stderr."""

    level: Annotated[str, kinds.one_of("debug", "info", "warning", "error")] = setting("Least level shown.", "debug", "info")
    format: Annotated[Literal["console", "json"], kinds.one_of("console", "json")] = setting(
        "For people or for machines.", "json", "console"
    )


class RaftConfig(Section):
    """Without effect."""

    leadership_transfer_interval: Text | None = setting("Without effect.", "24h", None)
    follower_auto_shutdown: Flag = setting("Without effect.", "false", False)


class HashConfig(Section):
    """Without effect: witnz hashes with SHA-256."""

    algorithm: Annotated[str, kinds.one_of("sha256")] = setting("Always sha256.", "sha256", "sha256")


def default_webhook_name(place: int) -> str:
    """The name of the webhook at ``place`` (from 0) that was given none."""
    return "webhook" if place == 0 else f"webhook{place + 1}"
