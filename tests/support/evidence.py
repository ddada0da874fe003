"""A paper cluster in a real store, over some days of a simulated clock, and the evidence package made from it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.support.journal_maker import (
    CLUSTER,
    CLUSTER_ID,
    COLUMNS,
    SECRET,
    START_US,
    TABLE,
    PaperCluster,
    b64,
    head_body,
    seal_body,
    table_body,
    verify_body,
)
from tests.support.receipts import RECEIPTS
from witnz.core.checkpoint import checkpoint_digest
from witnz.core.entry import entry_suffix, schema_hint
from witnz.core.lsn import format_lsn
from witnz.core.names import log_origin
from witnz.core.note import parse_note
from witnz.core.record import Record, format_record
from witnz.core.timestamp import format_time
from witnz.report import package
from witnz.report.evidence import Request
from witnz.report.key import ReportKey, create, key_body
from witnz.report.mapping import load_standard
from witnz.report.package import Built
from witnz.report.period import parse_period
from witnz.store import checkpoints, journal, logs, meta, tablelog
from witnz.store.database import Database

DAY_US = 86_400_000_000
HOUR_US = 3_600_000_000
FIRST_DAY_US = START_US - START_US % DAY_US
"""Midnight of the day on which genesis stands."""

Op = tuple[bytes, bytes]
"""(operation, key)."""


class PaperStore:
    """A node's store that was filled by hand.  ``at``: the simulated time, µs since 1970."""

    def __init__(self, directory: Path, nodes: int = 3) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.db = Database.create(directory / "witnz.db")
        self.cluster = PaperCluster(nodes)
        self.at = START_US
        self.lsn = 0x1949850
        with self.db.write() as conn:
            meta.save_value(conn, "cluster", CLUSTER)
            meta.save_value(conn, "cluster_id", CLUSTER_ID)
            meta.save_value(conn, "node", "node1")
            self.head = journal.load_head(conn)
        self.logs: dict[str, tablelog.LogHead] = {}
        self.key = create(CLUSTER, "node1", START_US)

    def add(self, record_type: str, body: Mapping[str, Any], **keywords: Any) -> Record:
        """One more record, now."""
        record = self.cluster.add(record_type, body, at=self.at, **keywords)
        with self.db.write() as conn:
            journal.append_record(conn, self.head, format_record(record))
        return record

    def start(self) -> PaperStore:
        """Genesis, one protected table, the report key."""
        self.add("genesis", self.cluster.genesis_body())
        self.protect(TABLE)
        self.add("key", key_body(self.key, "node1", "0/0"))
        return self

    def protect(self, table: str, **changed: Any) -> None:
        self.add("table", table_body(table=table, **changed))
        with self.db.write() as conn:
            self.logs[table] = tablelog.create_log(
                conn, table=table, generation=1, origin=log_origin(CLUSTER, table, 1), oid=16384, secret=SECRET,
                key_columns=["id"],
            )  # fmt: skip
            suffix = entry_suffix(self.lsn, 0, self.at, None, schema_hint(COLUMNS, "d", 16384), None)
            tablelog.append(conn, self.logs[table], [b"schema"], [b"\\N"], [None], [suffix])
            logs.set_schema(conn, self.logs[table].id, schema_hint(COLUMNS, "d", 16384), 1)

    def change(self, ops: Sequence[Op], table: str = TABLE) -> None:
        """Entries, committed now."""
        self.lsn += 400
        suffix = entry_suffix(self.lsn, 741, self.at, None, None, None)
        with self.db.write() as conn:
            tablelog.append(
                conn,
                self.logs[table],
                [op for op, _ in ops],
                [key for _, key in ops],
                [sha256(key).digest() for _, key in ops],
                [suffix] * len(ops),
            )

    def seal(self, *tables: str) -> None:
        """Seal these tables as they are; a checkpoint over it."""
        heads = []
        for table in tables or (TABLE,):
            head = self.logs[table]
            log = {"table": table, "generation": 1, "size": head.size, "chain": head.chain.decode()}
            heads.append({**log, "root": b64(head.root())})
        self.lsn += 100
        self.add("seal", seal_body(format_lsn(self.lsn), *heads))
        self.checkpoint()

    def checkpoint(self, cosigners: Sequence[str] | None = None) -> str:
        """Sign what there is."""
        note, size = self.cluster.note(cosigners=cosigners, cosigned_s=self.at // 1_000_000), len(self.cluster.records)
        with self.db.write() as conn:
            checkpoints.save_checkpoint(conn, size, note, self.at, final=cosigners is None)
        return note

    def verify(self, table: str = TABLE, **changed: Any) -> None:
        size = self.logs[table].size
        self.add("verify", verify_body(size, self.cluster.state.size, table=table, **changed), node="node2")

    def anchor(self, kind: str) -> None:
        """A receipt for the newest checkpoint."""
        with self.db.read() as conn:
            note = checkpoints.latest(conn)
        assert note is not None
        digest = checkpoint_digest(parse_note(note.note).text).hex()
        receipt = {**RECEIPTS.get(kind, {"type": kind}), "digest": digest, "size": note.size}
        self.add("anchor", {"type": kind, "digest": digest, "size": note.size, "receipt": receipt})

    def close(self) -> None:
        self.db.close()


def eventful(directory: Path, days: int = 12) -> PaperStore:
    """Genesis on day 0, then a quiet life with changes, verifications and anchors, and a few things that auditors ask about."""
    store = PaperStore(directory).start()
    store.change([(b"insert", b"%d" % key) for key in range(1, 40)])
    store.seal()
    for day in range(1, days):
        store.at = FIRST_DAY_US + day * DAY_US + 8 * HOUR_US
        store.change([(b"insert", b"%d" % (100 * day + key)) for key in range(4 + day % 5)])
        store.seal()
        store.at += HOUR_US
        store.verify(rows=40 + day)
        store.anchor("s3" if day % 2 else "chalk-board")
        if day == 3:
            _violation(store)
        if day == 5:
            store.add(
                "gap",
                {"from_lsn": "0/194A000", "to_lsn": "0/194B000", "reason": "slot was recreated", "tables": ["public.lost"]},
            )
        if day == 6:
            store.verify(verdict="INCONCLUSIVE", not_checked=["the stream did not move"])
        store.at += HOUR_US
        store.change([(b"update", b"%d" % (100 * day))])
        store.seal()
    return store


def _violation(store: PaperStore) -> None:
    body = store.cluster.finding(
        "violation.update", key="=1+1", seq=41, recorded="1" * 64, found="2" * 64, explained_by="xid 741"
    )
    store.add("finding", body)
    store.at += 20 * 60_000_000
    store.add("operator", {"action": "findings.ack", "detail": '{"by":"bob","finding":"' + body["id"] + '"}'})
    store.add("ack", {"finding": body["id"], "reason": "電話で確認した"})
    store.at += HOUR_US
    row = {"key": "=1+1", "row": "2" * 64, "seq": 41}
    store.add(
        "accept",
        {"table": TABLE, "generation": 1, "rows": [row], "finding": body["id"], "reason": "ticket 4711"},
    )
    other = store.cluster.finding("row.modified", key="電子-2", seq=2, found="3" * 64)
    store.add("finding", other)
    store.add("drill", {"attack": "UPDATE by the superuser", "detected_s": 2, "result": "found and paged"})


def day_text(day: int) -> str:
    """The date of a day counted from genesis."""
    return format_time(FIRST_DAY_US + day * DAY_US)[:10]


def request(standard: str = "soc2", begin: int = 0, end: int = 12, created: int | None = None) -> Request:
    """A report over days counted from genesis."""
    when = FIRST_DAY_US + end * DAY_US + HOUR_US if created is None else created
    return Request(load_standard(standard), parse_period(day_text(begin), day_text(end)), when, "node1")


def make_package(store: PaperStore, target: Path, asked: Request, *, lang: str = "en", **keywords: Any) -> Built:
    """A whole package, with its record and the checkpoint over it."""
    target.mkdir(parents=True)
    with store.db.read() as conn:
        built = package.build(conn, store.cluster.state, store.key, asked, target, lang=lang, **keywords)
    store.at = max(store.at + 1_000_000, asked.created)
    record = store.add("report", built.body)
    note = store.checkpoint()
    key_seq = next(one.seq for one in store.cluster.records if one.type == "key" and one.body["kind"] == "report")
    with store.db.read() as conn:
        package.finish(conn, store.cluster.state, built, note, (key_seq or 0, record.seq or 0), asked.created)
    return built


def policy_of(store: PaperStore) -> str:
    """The policy that an auditor has from elsewhere."""
    from witnz.report.bundles import policy_of as claimed

    return claimed(store.cluster.state)


def copy_package(source: Path, target: Path) -> Path:
    """A package to be spoilt."""
    shutil.copytree(source, target)
    return target


__all__ = ["PaperStore", "ReportKey", "copy_package", "eventful", "head_body", "make_package", "policy_of", "request"]
