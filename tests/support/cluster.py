"""Three real nodes of one cluster beside one real PostgreSQL, in this process; engine and channel are simulated or real.

with Trio.start(directory, database, tables) as trio:
    trio["node2"].config ...
    trio.links.isolate("node1")
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.support.links import Links
from tests.support.members import Members
from tests.support.node import TIMEOUT_S, wait
from tests.support.postgres import Database
from tests.support.sightings import SIGHTINGS
from tests.support.simulated_engine import EngineHub
from tests.support.simulated_peers import PeerHub
from witnz.cluster.peers import Member
from witnz.config import Config, load_config
from witnz.core.finding import Finding
from witnz.node.approval import Approvals
from witnz.node.journal import authorise
from witnz.node.keyring import create_node_keys, load_person_key
from witnz.node.node import Node, now_us
from witnz.node.peering import Fellows
from witnz.node.setup import initialise
from witnz.postgres.session import Conninfo
from witnz.store import checkpoints, logs, meta
from witnz.store import journal as stored
from witnz.store.database import Database as Store
from witnz.verify.stream import Patience

IDS = ("node1", "node2", "node3")
Tables = Sequence[Mapping[str, Any]]


def write_configs(
    directory: Path, database: Database, tables: Tables, ids: Sequence[str] = IDS, **extra: Any
) -> dict[str, Config]:
    """A configuration and keys for each of several nodes; all name all members."""
    conninfo = Conninfo.from_conninfo(database.witnz_dsn)
    cluster = f"test.example/{database.name}"
    members = []
    for place, node in enumerate(ids):
        keys_dir = directory / node / "data" / "keys"
        keys_dir.mkdir(parents=True, mode=0o700)
        (directory / node / "data").chmod(0o700)
        keys = create_node_keys(keys_dir, cluster, node)
        addr = extra.get("addresses", {}).get(node, f"127.0.0.1:{9 + place}")
        members.append({"id": node, "addr": addr, "key": keys.identity_b64, "cosigner": keys.cosigner_key})
    found = {}
    for place, node in enumerate(ids):
        document = {
            "cluster": cluster,
            "database": {
                "host": conninfo.host,
                "port": conninfo.port,
                "database": conninfo.dbname,
                "user": conninfo.user,
                "sslmode": "prefer",
            },
            "node": {
                "id": node,
                "data_dir": str(directory / node / "data"),
                "bind_addr": members[place]["addr"],
                "bootstrap": place == 0,
            },
            "nodes": members,
            "protected_tables": [dict(table) for table in tables],
            "seal_interval": "0.3s",
            **{name: value for name, value in extra.items() if name != "addresses"},
        }
        path = directory / node / "witnz.yaml"
        path.write_text(yaml.safe_dump(document, allow_unicode=True))
        found[node] = load_config(path, {})
    return found


def found_cluster(configs: Mapping[str, Config], database: Database) -> None:
    """What `witnz init` does on every node; the others then have genesis and log key as if they had joined."""
    first, *others = configs.values()
    initialise(first, admin=Conninfo.from_conninfo(database.owner_dsn), clock=now_us, operator="alice")
    with Store.open(first.data_dir / "witnz.db") as db, db.read() as conn:
        genesis, cluster_id = stored.record_at(conn, 1), meta.load_value(conn, "cluster_id")
    for config in others:
        initialise(config, admin=None, clock=now_us)
        keys = config.data_dir / "keys"
        for name in ("log.key",):
            shutil.copy(first.data_dir / "keys" / name, keys / name)
        with Store.open(config.data_dir / "witnz.db") as db, db.write() as conn:
            meta.save_value(conn, "cluster_id", cluster_id)
            stored.append_record(conn, stored.load_head(conn), genesis)


@dataclass
class Trio(Members):
    """Running nodes by id; ``links`` cuts and heals."""

    database: Database
    configs: dict[str, Config]
    directory: Path
    links: Links = field(default_factory=Links)
    nodes: dict[str, Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._server_pid = self.database.server.pid
        self.engines = EngineHub(list(self.configs), self.links)
        self.peers = PeerHub(self.links)

    @classmethod
    def start(cls, directory: Path, database: Database, tables: Tables, ids: Sequence[str] = IDS, **extra: Any) -> Trio:
        """Found and start a cluster; every table is active on every node when this returns."""
        configs = write_configs(directory, database, tables, ids, **extra)
        found_cluster(configs, database)
        trio = cls(database, configs, directory)
        for node in ids:
            trio.run(node)
        trio.ready()
        return trio

    def __getitem__(self, node: str) -> Node:
        return self.nodes[node]

    @property
    def leader(self) -> str:
        return wait(self.engines.leader, "a leader")

    def followers(self) -> list[str]:
        return [node for node in self.nodes if node != self.leader]

    def run(self, node: str) -> Node:
        """Start one node, or start it again."""
        config = self.configs[node]
        members = [Member(m.id, m.addr, m.identity) for entry in config.nodes for m in [entry.member()]]
        me = next(member for member in members if member.id == node)
        fellows = Fellows(self.engines.engine(node), self.peers.join(me, members))
        self.nodes[node] = Node(config, fellows=fellows)
        self.nodes[node].start(schedule=False)
        return self.nodes[node]

    def halt(self, node: str) -> None:
        self.links.disturbed = True
        self.nodes.pop(node).stop()

    def stop(self) -> None:
        for node in list(self.nodes):
            self.halt(node)

    def ready(self, *ids: str) -> None:
        """Every configured table is recorded by each of these nodes, or of all that run."""
        wanted = {table.name for config in self.configs.values() for table in config.protected_tables}
        for node in ids or list(self.nodes):
            one = self.nodes[node]
            wait(
                lambda one=one: {s.name for s in one.states() if s.status == "active"} >= wanted,
                f"{node} to record {wanted}; {[(o.plan.name, o.phase, o.error) for o in one.generations.opening()]}, "
                f"{one.capture.status}",
                4 * TIMEOUT_S,
            )

    def caught_up(self, *ids: str) -> None:
        """Everything committed before this call is recorded by these nodes, or by all that run."""
        for node in ids or list(self.nodes):
            self.nodes[node].capture.await_mark(f"test-{time.monotonic_ns()}".encode(), Patience(TIMEOUT_S, TIMEOUT_S))

    def settled(self, *ids: str) -> int:
        """Everything recorded is sealed, and a final checkpoint covers the seal, on each node; its size."""
        self.caught_up(*ids)
        names = ids or tuple(self.nodes)

        def look() -> int | None:
            sizes = []
            for node in names:
                one = self.nodes[node]
                with one.db.read() as conn:
                    for row in logs.list_logs(conn, "active"):
                        sealed = one.journal.state.last_sealed(row.table, row.generation)
                        if sealed is None or sealed.size < row.size:
                            return None
                    final = checkpoints.latest(conn, final=True)
                    newest = max((r.seq or 0 for r in self.records(node) if r.type == "seal"), default=0)
                    if final is None or final.size < newest:
                        return None
                    sizes.append(final.size)
            return min(sizes)

        return wait(look, "everything to be sealed and cosigned")

    # -- asking ---------------------------------------------------------------------------------------------------------------

    @contextmanager
    def store(self, node: str) -> Iterator[sqlite3.Connection]:
        with self.nodes[node].db.read() as conn:
            yield conn

    def findings(self, node: str, *, state: str | None = "open") -> list[Finding]:
        return [finding for finding in self.every_finding(node) if state is None or finding.state == state]

    def wait_for(self, node: str, cls: str, key: str | None = None) -> Finding:
        def look() -> Finding | None:
            for finding in self.findings(node, state=None):
                if finding.cls == cls and (key is None or finding.key == key):
                    return finding
            return None

        found = wait(look, f"finding {cls} of key {key} on {node}")
        SIGHTINGS.saw(cls)
        return found

    def approve(self, node: str, finding: Finding, reason: str = "approved by the test") -> Finding:
        key = self.configs[IDS[0]].data_dir / "operator-alice.key"
        name, signer = load_person_key(key, "operator")
        one = self.nodes[node]
        body = Approvals.accept_body(one.approvals, finding.id, reason)
        return one.approve(authorise("accept", body, one.cluster_id, name, signer))

    # -- what must hold at the end of everything ------------------------------------------------------------------------------

    def assert_alike(self, *, expected: Callable[[Finding], bool] = lambda finding: False) -> None:
        """Identical logs, one history of final checkpoints, one journal, no finding but the expected ones.

        Where a test cut members off or stopped them for long, they may have said that they missed a quorum: they did; and where
        it stopped the server, that they missed that.
        """
        self.settled()
        names = list(self.nodes)
        with self.nodes[names[0]].db.read() as conn:
            all_logs = [(row.table, row.generation) for row in logs.list_logs(conn) if row.status in ("active", "ended")]
        assert all_logs, "nothing was recorded"
        missed = {"quorum.lost"} if self.links.disturbed else set()
        missed |= {"source.unreachable"} if self.database.server.pid != self._server_pid else set()
        self.assert_one_history(names, all_logs, lambda f: expected(f) or f.cls in missed)


LEDGER = "public.ledger"


def ledger_trio(directory: Path, database: Database, **extra: Any) -> Trio:
    """Three nodes that guard two append-only tables of ten rows each; everything is sealed and cosigned."""
    for table in ("ledger", "untouched"):
        database.sql(f"CREATE TABLE {table} (id int PRIMARY KEY, owner text NOT NULL, amount int NOT NULL)")
        database.sql(f"INSERT INTO {table} SELECT g, 'user' || g, g * 10 FROM generate_series(1, 10) g")
    tables = [{"name": name, "mode": "append_only", "verify_interval": "0s"} for name in ("ledger", "untouched")]
    trio = Trio.start(directory, database, tables, **extra)
    trio.settled()
    return trio
