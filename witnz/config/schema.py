"""The whole of witnz.yaml as one frozen model, and what follows from it.

Two historical shapes load unchanged (interface.md 3): keys that were renamed have aliases, and keys that no longer do anything
are accepted, listed in :data:`HISTORICAL`, and reported as notices.  Whether the configuration is enough to *start* a node is
a question of its own, :meth:`Config.missing_for_start`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from pydantic import PrivateAttr

from witnz.config import types as kinds
from witnz.config.anchors import AnchorConfig
from witnz.config.sections import (
    AlertsConfig,
    DatabaseConfig,
    EtcdConfig,
    HashConfig,
    LogConfig,
    MemberConfig,
    NodeConfig,
    OperatorConfig,
    PathValue,
    PgName,
    RaftConfig,
    SecretText,
    Section,
    TableConfig,
    Text,
    WitnessConfig,
    setting,
)
from witnz.config.types import UNIX_PATH_MAX_BYTES, Secret
from witnz.errors import ConfigError, FormatError

T = TypeVar("T")

#: Keys of earlier versions that load and do nothing, with what is done instead.
HISTORICAL: Final = {
    "node.grpc_addr": "nodes speak to each other on node.bind_addr only",
    "node.peers": "members are listed under nodes",
    "raft": "leadership needs no settings",
    "hash": "witnz hashes with SHA-256 only",
}


class Config(Section):
    """The whole configuration, valid in itself; see :meth:`missing_for_start` for whether it is enough."""

    cluster: Annotated[str, kinds.CLUSTER] = setting(
        "Origin of every log; local/ and the database's name if not given. Never change it later.", "prod.example.com/app"
    )
    database: DatabaseConfig
    node: NodeConfig = NodeConfig()
    nodes: tuple[MemberConfig, ...] = setting("The members of the cluster, with their keys.", "[{id: node1, addr: …}]", ())
    quorum: Annotated[int | None, kinds.number(1, 64)] = setting(
        "How many members must agree, counted when the cluster is founded; a majority if not given.", "2", None
    )
    operators: tuple[OperatorConfig, ...] = setting(
        "Operators that genesis must name, if they are known beforehand.", "[{name: alice, key: …}]", ()
    )
    genesis: Annotated[str | None, kinds.DIGEST] = setting(
        "Digest of the journal's first record, for a node that is added to a cluster; `witnz keys show` prints it.",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        None,
    )
    engine: Annotated[Literal["builtin", "etcd"], kinds.one_of("builtin", "etcd")] = setting(
        "What orders the journal among several nodes: the Raft that comes with witnz, or your etcd.", "etcd", "builtin"
    )
    etcd: EtcdConfig = EtcdConfig()
    verify: Annotated[Literal["rotate", "all"], kinds.one_of("rotate", "all")] = setting(
        "Which nodes verify: in turn, or all in the very same snapshot.", "all", "rotate"
    )
    protected_tables: tuple[TableConfig, ...] = setting("The tables to protect.", "[{name: audit_logs}]", ())
    seal_interval_s: Annotated[float, kinds.duration(0.05, 3600)] = setting(
        "How often what was recorded is sealed and cosigned.", "5s", 5.0, name="seal_interval"
    )
    socket_path_given: PathValue | None = setting(
        "Unix socket of this node; witnz.sock in node.data_dir if not given.", "/run/witnz/witnz.sock", None, name="socket_path"
    )
    socket_group: Text | None = setting("Group whose members may use the socket as auditors.", "auditors", None)
    slot_name_given: PgName | None = setting(
        "Replication slot of this node; derived if not given.", "witnz_node1", None, name="slot_name"
    )
    publication_given: PgName | None = setting(
        "Publication of the cluster; derived if not given.", "witnz", None, name="publication"
    )
    max_retained_wal_bytes: Annotated[int, kinds.size(1 << 20, 1 << 50)] = setting(
        "WAL that the slot may hold back before it is given up for the disk's sake.", "10GB", 10 << 30, name="max_retained_wal"
    )
    repair_url: SecretText | None = setting("Connection of a role that may write, for repairs.", "${REPAIR_URL}", None)
    anchors: tuple[AnchorConfig, ...] = setting("Where checkpoints are anchored.", "[{type: s3, every: 15m}]", ())
    witness: WitnessConfig = WitnessConfig()
    alerts: AlertsConfig = AlertsConfig()
    log: LogConfig = LogConfig()
    raft: RaftConfig = RaftConfig()
    hash: HashConfig = HashConfig()

    _path: Path | None = PrivateAttr(default=None)
    _notices: tuple[str, ...] = PrivateAttr(default=())

    @property
    def path(self) -> Path | None:
        """The file it was read from."""
        return self._path

    @property
    def notices(self) -> tuple[str, ...]:
        """What loads but deserves a look: keys without effect, secrets that others can read."""
        return self._notices

    @property
    def data_dir(self) -> Path:
        """``node.data_dir``.  Raises :class:`ConfigError` where it is not set."""
        return _needed(self.node.data_dir, "node.data_dir")

    @property
    def node_id(self) -> str:
        """``node.id``.  Raises :class:`ConfigError` where it is not set."""
        return _needed(self.node.id, "node.id")

    @property
    def socket_path(self) -> Path:
        """Where the node listens and the other commands connect."""
        return self.socket_path_given or self.data_dir / "witnz.sock"

    @property
    def slot_name(self) -> str:
        """The replication slot of this node."""
        return self.slot_name_given or default_slot(self.cluster, self.node_id)

    @property
    def publication(self) -> str:
        """The publication that all nodes of the cluster read."""
        return self.publication_given or default_publication(self.cluster)

    def table(self, name: str) -> TableConfig | None:
        """The protected table of a canonical name, or None where the file does not list it."""
        return next((table for table in self.protected_tables if table.name == name), None)

    def repair_url_for(self, name: str) -> Secret | None:
        """The connection for repairs of a table (canonical name)."""
        table = self.table(name)
        return (table.repair_url if table else None) or self.repair_url

    def secrets(self) -> list[Secret]:
        """Every secret there is, for the log's redaction."""
        hooks = [secret for hook in self.alerts.webhooks for secret in (hook.url, hook.secret)]
        tables = [table.repair_url for table in self.protected_tables]
        alerts = [self.alerts.slack_webhook, self.alerts.pagerduty_key]
        anchors = [secret for anchor in self.anchors for secret in anchor.secrets()]
        return [secret for secret in (self.database.password, self.repair_url, *alerts, *hooks, *tables, *anchors) if secret]

    @property
    def is_one_of_several(self) -> bool:
        """Whether the file speaks of other members than this node."""
        others = {member.id for member in self.nodes} - {self.node.id}
        return bool(others) or len(self.nodes) > 1 or bool(self.node.peer_addrs)

    def member(self, node_id: str) -> MemberConfig | None:
        """The entry of a node under ``nodes``, None where there is none."""
        return next((member for member in self.nodes if member.id == node_id), None)

    def missing_members(self) -> list[str]:
        """What the list of members still lacks, one sentence each."""
        return list(self._missing_members())

    def missing_for_start(self) -> list[str]:
        """What `witnz start` still needs, one sentence each; empty when it can start."""
        missing = [f"{path} is not set" for path, value in self._wanted() if value is None]
        missing += self._missing_members()
        missing += [
            f"protected_tables[{place}].alert names {sink}, and alerts.{wanted} is not set"
            for place, table in enumerate(self.protected_tables)
            for sink, wanted in (("slack", "slack_webhook"), ("pagerduty", "pagerduty_key"))
            if sink in table.alert and self.alerts.enabled and getattr(self.alerts, wanted) is None
        ]
        if (self.socket_path_given or self.node.data_dir) and len(bytes(self.socket_path.absolute())) > UNIX_PATH_MAX_BYTES:
            missing.append(f"socket_path must be shorter: a Unix socket's path has at most {UNIX_PATH_MAX_BYTES} bytes")
        return missing + [secret.problem for secret in self.secrets() if secret.problem]

    def _wanted(self) -> Iterator[tuple[str, object]]:
        yield "database.host", self.database.host
        yield "database.user", self.database.user
        yield "node.id", self.node.id
        yield "node.data_dir", self.node.data_dir
        if self.engine == "etcd":
            yield "etcd.endpoints", self.etcd.endpoints or None

    def _missing_members(self) -> Iterator[str]:
        listed = {member.id for member in self.nodes if member.id}
        if len(self.nodes) <= 1 and not self.node.peer_addrs:
            if listed and self.node.id and self.node.id not in listed:
                yield f"nodes lists {', '.join(sorted(listed))} and not this node, {self.node.id}"
            return
        if self.node.bind_addr is None:
            yield "node.bind_addr is not set, and the cluster has other members"
        for place, member in enumerate(self.nodes):
            for name, value in (
                ("id", member.id),
                ("addr", member.address),
                ("key", member.key),
                ("cosigner", member.cosigner),
            ):
                if value is None:
                    yield f"nodes[{place}].{name} is not set"
            yield from _unfit_keys(place, member, self.cluster)
        if len(self.nodes) not in (1, 3, 5) and not self.node.peer_addrs:
            yield f"nodes lists {len(self.nodes)} members, and a cluster has 1, 3 or 5"
        if self.quorum is not None and not len(self.nodes) // 2 < self.quorum <= len(self.nodes):
            yield f"quorum is {self.quorum}, which is no majority of {len(self.nodes)} members"
        wanted = [self.node.id, *(node for node, _ in self.node.peer_addrs)]
        for name in dict.fromkeys(node for node in wanted if node and node not in listed):
            yield f"nodes has no entry for {name} with its id, addr, key and cosigner"
        addresses = {member.address for member in self.nodes}
        for node, address in self.node.peer_addrs:
            if node is None and address not in addresses:
                yield f"nodes has no entry for the member at {address} with its id, addr, key and cosigner"


def _unfit_keys(place: int, member: MemberConfig, cluster: str) -> Iterator[str]:
    """Keys that are set and are none, or the cosigner of another node."""
    for name, value, kind in (("key", member.key, kinds.IDENTITY), ("cosigner", member.cosigner, kinds.COSIGNER)):
        try:
            if value is not None:
                kind.parse(value)
        except FormatError as error:
            yield f"nodes[{place}].{name} {error.message}"
            return
    wanted = f"{cluster}/nodes/{member.id}"
    if member.cosigner is not None and member.cosigner.partition("+")[0] != wanted:
        yield f"nodes[{place}].cosigner is not one of {wanted}; copy the line that `witnz init` printed on that node"


def _needed(value: T | None, path: str) -> T:
    if value is None:
        raise ConfigError(f"{path} is not set", hint=f"witnz config explain {path}")
    return value


def default_cluster(database: str) -> str:
    """``local/`` and the database's name in lower case, other characters as ``-``."""
    slug = re.sub(r"[^a-z0-9._-]", "-", database.lower())
    return "local/" + ("-" if slug in {"", ".", ".."} else slug)


def default_slot(cluster: str, node_id: str) -> str:
    """``witnz_<node>_<8 hex of SHA256(cluster)>``: one slot per node, no two clusters of one server in each other's way."""
    return _pg_name(node_id, cluster)


def default_publication(cluster: str) -> str:
    """``witnz_<cluster>_<8 hex of SHA256(cluster)>``."""
    return _pg_name(cluster, cluster)


def _pg_name(text: str, cluster: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:48]
    return f"witnz_{slug}_{hashlib.sha256(cluster.encode()).hexdigest()[:8]}"
