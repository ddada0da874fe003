"""A node for the tests of what shows it: a real store, journal, sealer and approvals, and no database behind them.

:class:`StandingNode` has everything that the HTTP interface asks of a node.  What would read PostgreSQL is told by the test:
``verify_table`` runs ``scan``, ``protect_table`` notes what it was asked for.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from witnz.cluster.engine import LocalEngine
from witnz.config import Config, load_config
from witnz.core.classify import Rules
from witnz.core.entry import SchemaColumn, entry_suffix, key_field, schema_hint
from witnz.core.finding import Finding
from witnz.core.keys import Ed25519Signer
from witnz.core.lsn import format_lsn
from witnz.core.names import log_origin
from witnz.core.rowline import row_hash, secret_commitment
from witnz.core.verdict import Verdict
from witnz.errors import WitnzError
from witnz.metrics import Metrics
from witnz.node.anchor_lane import Parts
from witnz.node.anchoring import Anchoring
from witnz.node.approval import Approvals
from witnz.node.capture import SourceStatus
from witnz.node.cosigning import Cosigner
from witnz.node.events import Broadcaster
from witnz.node.findings import FindingBook
from witnz.node.following import Following
from witnz.node.journal import Journal, authorise
from witnz.node.keyring import create_keyring
from witnz.node.opening import Opening
from witnz.node.sealer import Sealer
from witnz.node.verification import Verified
from witnz.store import live, logs, meta, tablelog
from witnz.store.database import Database
from witnz.store.datadir import DataDir
from witnz.verify.live import Progress, TableResult

CLUSTER = "test.example/app"
TABLE = "public.accounts"
SECRET = bytes(range(32))
START_US = 1_795_284_579_000_000
COLUMNS = (SchemaColumn("id", 20, -1, True), SchemaColumn("owner", 25, -1, False))

CONFIG = """
cluster: {cluster}
database: {{host: db, database: app, user: witnz}}
node: {{id: node1, data_dir: {data_dir}}}
protected_tables: [{{name: accounts, mode: append_only}}]
"""


@dataclass
class StandingCapture:
    """What the capture shows of itself."""

    status: SourceStatus = field(default_factory=lambda: SourceStatus(connected=True, lag_bytes=120, retained_bytes=4096))
    fatal: WitnzError | None = None


@dataclass
class StandingGenerations:
    openings: list[Opening] = field(default_factory=list)

    def opening(self) -> list[Opening]:
        return self.openings


@dataclass
class AuditState:
    """How far the audit of the store is."""

    status: Literal["pending", "ok", "fail"] = "pending"
    message: str = ""
    since: int | None = None


class StandingNode:
    """See the module.  ``close`` it."""

    def __init__(self, directory: Path) -> None:
        data = DataDir(directory / "data")
        data.create()
        text = CONFIG.format(cluster=CLUSTER, data_dir=data.path)
        (directory / "witnz.yaml").write_text(text)
        self.config: Config = load_config(directory / "witnz.yaml", {})
        self.now_us = START_US
        self.clock: Callable[[], int] = lambda: self.now_us
        self.db = Database.create(data.database)
        self.keys = create_keyring(data.keys_dir, CLUSTER, "node1")
        self.operator = Ed25519Signer("operator/alice", os.urandom(32))
        self.cluster_id = "0123456789abcdef0123456789abcdef"
        with self.db.write() as conn:
            meta.save_value(conn, "cluster", CLUSTER)
            meta.save_value(conn, "cluster_id", self.cluster_id)
            meta.save_value(conn, "node", "node1")
        self.engine = LocalEngine("node1")
        self.journal = Journal(
            self.db, self.engine, "node1", self.keys.identity, self.clock, cluster=CLUSTER, cluster_id=self.cluster_id
        )
        self.journal.propose("genesis", self._genesis())
        self.book = FindingBook(self.cluster_id, self.clock, lambda conn, finding: None)
        self.sealer = Sealer(self.db, self.journal)
        self.cosigner = Cosigner(self.db, self.journal, self.keys, CLUSTER, self.clock)
        self.approvals = Approvals(self.db, self.journal, self.book, self.sealer.seal)
        self.following = Following(self.db, {"accept": self.approvals.carry_out})
        self.approvals.follow = self.following.follow
        self.metrics, self.events = Metrics(), Broadcaster()
        parts = Parts(self.db, self.journal, self.book, self.clock, self.metrics, CLUSTER, lambda: True)
        self.anchoring = Anchoring(self.config, parts)
        self.capture, self.generations = StandingCapture(), StandingGenerations()
        self.audit = AuditState("ok")
        self.peering = None
        self.scan: Callable[[str, Progress], TableResult] = self.scanned
        self.protected: list[tuple[str, Rules, bool, frozenset[str]]] = []
        self.rows: dict[int, bytes] = {}
        self._lsn = 0x1949850

    def close(self) -> None:
        self.events.close()
        self.db.close()

    # -- filling --------------------------------------------------------------------------------------------------------------

    def add_table(
        self, name: str = TABLE, rows: int = 0, *, key_columns: tuple[str, ...] = ("id",), hidden: bool = False
    ) -> int:
        """Protect a table as if its baseline had been ``rows`` rows; the id of its log."""
        with self.db.write() as conn:
            hint = schema_hint(COLUMNS, "d", 16384)
            head = tablelog.create_log(
                conn,
                table=name,
                generation=1,
                origin=log_origin(CLUSTER, name, 1),
                oid=16384,
                secret=SECRET,
                key_columns=key_columns,
                columns=hint,
                lsn=self._lsn,
            )
            suffix = entry_suffix(self._lsn, 0, self.now_us, None, hint, None)
            tablelog.append(conn, head, [b"schema"], [b"\\N"], [None], [suffix])
            logs.set_schema(conn, head.id, hint, 1)
        self.journal.propose(
            "table",
            {
                "table": name,
                "generation": 1,
                "mode": "append_only",
                "on_change": "alert",
                "rules": {"inserts_only": False, "require_intent": False, "retain": False},
                "keys": {"columns": list(key_columns), "form": "hidden" if hidden else "plain"},
                "oid": 16384,
                "snapshot": "741:741:",
                "lsn": format_lsn(self._lsn),
                "secret_sha256": secret_commitment(SECRET),
                "previous": None,
                "reason": "protected",
            },
        )
        if rows:
            self.add_rows(name, [b"%d\towner %d" % (i, i) for i in range(1, rows + 1)], op=b"baseline")
        return head.id

    def add_rows(
        self, name: str, lines: list[bytes], *, op: bytes = b"insert", by: str | None = None, hint: str | None = None
    ) -> None:
        """Record row lines, keyed by their first cell, in one transaction."""
        self._lsn += 0x100
        with self.db.write() as conn:
            row = logs.find_log(conn, name)
            assert row is not None
            head = tablelog.load_head(conn, row.id)
            xid = 0 if op == b"baseline" else 740
            suffix = entry_suffix(self._lsn, xid, self.now_us, by, hint, None)
            record = self.journal.state.newest_generation(name)
            assert record is not None
            keys = [key_field(line.partition(b"\t")[0], SECRET, record.hidden_keys) for line in lines]
            hashes: list[bytes | None] = [row_hash(SECRET, line) for line in lines]
            first = tablelog.append(conn, head, [op] * len(lines), keys, hashes, [suffix] * len(lines))
            live.set_accepted(conn, head.id, [(key, first + i) for i, key in enumerate(keys)])
            meta.save_value(conn, "last_final_lsn", str(self._lsn))
            self.rows.update((first + i, line) for i, line in enumerate(lines))

    def seal(self) -> None:
        self.sealer.seal()
        self.cosigner.checkpoint()

    def find(self, cls: str = "violation.update", key: str = "1", seq: int | None = 2) -> str:
        """Open a finding; its id."""
        with self.db.write() as conn:
            name = self.book.open(conn, cls=cls, table=TABLE, generation=1, key=key, seq=seq, detail="a test did it")
        assert name is not None
        return name

    def sign(self, body: dict[str, Any], signer: Ed25519Signer | None = None, record_type: str = "accept") -> dict[str, Any]:
        """As the operator's own machine does."""
        return authorise(record_type, body, self.cluster_id, "alice", signer or self.operator)

    # -- what a node does -----------------------------------------------------------------------------------------------------

    def verify_table(self, table: str, progress: Progress, share: str | None = None) -> Verified:
        result = self.scan(table, progress)
        return Verified(result, result.verdict, (), tuple(result.not_checked), None, self.now_us)

    def roll(self, table: str, progress: Progress) -> Verified:
        return replace(self.verify_table(table, progress), rolling={"mode": "rolling", "ranges": 3, "reread_s": 90.0})

    def verify_sample(self, table: str, wanted: int, parts: int, progress: Progress) -> Verified:
        rolling = {"mode": "sample", "ranges": wanted, "of_ranges": parts}
        return replace(self.verify_table(table, progress), rolling=rolling)

    def scanned(self, table: str, progress: Progress) -> TableResult:
        for rows in (1000, 2000, 3000):
            progress(rows)
        return TableResult(table, 1, verdict=Verdict.VERIFIED, size=4, snapshot="743:743:", lsn=self._lsn, rows=3000)

    def approve(self, body: dict[str, Any]) -> Finding:
        return self.approvals.approve(body)

    def protect_table(self, name: str, rules: Rules, *, hidden: bool, excluded: frozenset[str]) -> None:
        self.protected.append((name, rules, hidden, excluded))

    def decide(self, record_type: str, body: dict[str, Any]) -> int:
        return self.journal.propose(record_type, body)

    @property
    def repairs(self) -> Any:
        raise AssertionError("a repair needs a database: see tests/web/test_node.py")

    def row_line(self, conn: Any, log: int, seq: int) -> bytes | None:
        return self.rows.get(seq)

    def _genesis(self) -> dict[str, Any]:
        member = {
            "id": "node1",
            "addr": "local",
            "identity": self.keys.identity_b64,
            "cosigner": self.keys.cosigner_key,
        }
        return {
            "cluster": CLUSTER,
            "members": [member],
            "operators": [{"name": "alice", "key": base64.b64encode(self.operator.public).decode()}],
            "quorum": 1,
            "log_key": self.keys.log_key,
            "database": {"system": "7123456789012345678", "timeline": 1, "name": "app"},
        }


@dataclass(frozen=True)
class Shared:
    """One node for all tests of a module that only ask for what is refused: a table of 301 sealed entries, an open finding."""

    node: StandingNode
    path: Path
    finding: str
