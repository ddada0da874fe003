"""The recorder: decoded events in, durable entries out.

Rules of this file:

1.  One thread owns a recorder.  Between ``begin`` and ``commit`` it holds the store's write transaction; entries, tiles,
live state,
    findings, alerts and the position in the stream become durable together or not at all.
2.  ``commit`` is called at the end of a PostgreSQL transaction only, so what is stored always is a whole number of them.
3.  Position: ``position`` is the end LSN of the last stored transaction.  A transaction whose final LSN lies below it was
stored
    before and is skipped; that is what makes re-delivery harmless.
4.  After a failed commit nothing in memory can be trusted; the owner throws the recorder away and loads a new one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from witnz.core.classify import SCHEMA
from witnz.core.message import CLAIM_PREFIX, MARK_PREFIX, parse_message
from witnz.node.applier import Draft, apply_block
from witnz.node.block import Block, Said, Transaction
from witnz.node.findings import FindingBook
from witnz.node.images import ImageBox
from witnz.node.intents import IntentJudge
from witnz.node.spool import spool_block
from witnz.node.table_state import OPEN, TableState
from witnz.postgres.pgoutput import Begin, Commit, Event, LogicalMessage, Relation, Rows, Truncate
from witnz.postgres.xid import widen
from witnz.store import images, live, logs, meta, tablelog
from witnz.store.database import Database

FLUSH_ROWS = 8192  # rows held in memory per table before they are hashed and written
FINDINGS_PER_TRANSACTION = 1000  # one by one; what one transaction does beyond that is one more finding that says so

Unknown = Callable[[Relation, Transaction], "TableState | None"]


@dataclass(slots=True)
class Outcome:
    """What a commit made durable."""

    entries: int = 0
    findings: list[str] = field(default_factory=list)
    marks: list[bytes] = field(default_factory=list)
    stale: list[TableState] = field(default_factory=list)


class Recorder:
    """Turns the event stream of one replication connection after another into table logs."""

    def __init__(
        self,
        db: Database,
        tables: Iterable[TableState],
        *,
        book: FindingBook,
        intents: IntentJudge,
        box: ImageBox | None,
        position: int,
        last_final_lsn: int,
        xid_near: int,
        unknown: Unknown,
        max_findings: int = FINDINGS_PER_TRANSACTION,
    ) -> None:
        """``max_findings``: how many of one class one transaction makes in one table; one more stands for all others."""
        self.db, self.book, self.intents, self.box = db, book, intents, box
        self.max_findings = max_findings
        self.position, self.last_final_lsn = position, last_final_lsn
        self.horizon = self.xid_near = xid_near
        self._unknown = unknown
        self.relations: dict[int, Relation] = {}
        self.by_oid: dict[int, list[TableState]] = {}
        for table in tables:
            self.add_table(table)
        self._tx: Transaction | None = None
        self._said: Said | None = None
        self._skip = False
        self._rows = 0
        self._writer: AbstractContextManager[sqlite3.Connection] | None = None
        self._conn: sqlite3.Connection | None = None
        self._outcome = Outcome()
        self.recorded = 0  # entries, those that wait in a spool among them
        self._flood: dict[tuple[int, int, str], int] = {}

    # -- tables ---------------------------------------------------------------------------------------------------------------

    def add_table(self, table: TableState) -> None:
        """Record into one more log; a connection describes each relation once, perhaps before this log was there."""
        self.by_oid.setdefault(table.oid, []).append(table)
        if table.oid in self.relations:
            table.describe(self.relations[table.oid])

    def remove_table(self, table: TableState) -> None:
        states = self.by_oid.get(table.oid, [])
        if table in states:
            states.remove(table)
        if not states:
            self.by_oid.pop(table.oid, None)

    def tables(self) -> list[TableState]:
        return [state for states in list(self.by_oid.values()) for state in list(states)]  # other threads ask, too

    # -- the write transaction ------------------------------------------------------------------------------------------------

    @property
    def in_transaction(self) -> bool:
        """Whether a PostgreSQL transaction is open, so that this is no place to commit."""
        return self._tx is not None

    @property
    def dirty(self) -> bool:
        return self._writer is not None

    def connection(self) -> sqlite3.Connection:
        """The store's write transaction, begun if it is not open yet."""
        if self._conn is None:
            self._writer = self.db.write(urgent=True)
            self._conn = self._writer.__enter__()
        return self._conn

    def commit(self) -> Outcome:
        """Write what is held and make it durable.  Only between PostgreSQL transactions."""
        if self._writer is not None:
            self._flush()
        outcome, self._outcome = self._outcome, Outcome()
        if self._writer is not None:
            conn, writer = self.connection(), self._writer
            meta.save_value(conn, "position", str(self.position))
            meta.save_value(conn, "last_final_lsn", str(self.last_final_lsn))
            self._writer = self._conn = None
            writer.__exit__(None, None, None)
        self._flood.clear()
        return outcome

    def abandon(self, error: BaseException) -> None:
        """Roll back; the recorder must not be used afterwards."""
        writer, self._writer, self._conn = self._writer, None, None
        if writer is not None:
            writer.__exit__(type(error), error, error.__traceback__)

    def reconnected(self) -> None:
        """A new replication connection: Relation messages are sent anew, a half-received transaction comes again."""
        self.relations.clear()

    # -- events ---------------------------------------------------------------------------------------------------------------

    def apply(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case Rows():
                    self._on_rows(event)
                case Begin():
                    self._on_begin(event)
                case Commit():
                    self._on_commit(event)
                case Relation():
                    self._on_relation(event)
                case Truncate():
                    self._on_truncate(event)
                case LogicalMessage():
                    self._on_message(event)
                case _:
                    pass  # Origin says who replicated a transaction to this server; it changes nothing that is recorded

    def _on_begin(self, event: Begin) -> None:
        xid64 = widen(event.xid, self.xid_near)
        self.xid_near = max(self.xid_near, xid64)
        self._skip = event.final_lsn < self.position
        self._tx = Transaction(event.final_lsn, event.xid, xid64, event.commit_us)
        self._said = None

    def _on_commit(self, event: Commit) -> None:
        if not self._skip and self._tx is not None:
            self.connection()
            self.position = event.end_lsn
            self.last_final_lsn = self._tx.final_lsn
        self._tx = None
        if self._rows >= FLUSH_ROWS:
            self._flush()

    def _on_relation(self, event: Relation) -> None:
        self.relations[event.oid] = event
        for table in self.by_oid.get(event.oid, ()):
            table.describe(event)
            if table.stale and table not in self._outcome.stale:
                self._outcome.stale.append(table)

    def _on_message(self, event: LogicalMessage) -> None:
        if not event.transactional or self._skip or self._tx is None:
            return
        if event.prefix == CLAIM_PREFIX:
            self._tx.speak(parse_message(event.content))
            self._said = None
        elif event.prefix == MARK_PREFIX:
            self._outcome.marks.append(event.content)

    def _on_rows(self, event: Rows) -> None:
        tx = self._tx
        if self._skip or tx is None:
            return
        for table in self._states(event.oid, tx):
            if table.wants(tx):
                table.add_rows(event, self._say(tx))
                self._rows += len(event.new) or len(event.old)
        if self._rows >= FLUSH_ROWS:
            self._flush()

    def _on_truncate(self, event: Truncate) -> None:
        tx = self._tx
        if self._skip or tx is None:
            return
        for oid in event.oids:
            for table in self._states(oid, tx):
                if table.wants(tx):
                    table.add_truncate(self._say(tx))
                    self._rows += 1

    def _say(self, tx: Transaction) -> Said:
        if self._said is None:
            self._said = Said(tx, tx.message, tx.suffix)
        return self._said

    def _states(self, oid: int, tx: Transaction) -> Sequence[TableState]:
        states = self.by_oid.get(oid)
        if states is None:
            relation = self.relations.get(oid)
            table = self._unknown(relation, tx) if relation is not None else None
            if table is not None:
                self.add_table(table)
            else:
                self.by_oid[oid] = []
            states = self.by_oid[oid]
        return states

    # -- writing --------------------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        if not self._rows:
            return
        self._rows = 0
        for table in self.tables():
            if len(table.block):
                self.record(table, table.take_block())

    def record(self, table: TableState, block: Block) -> None:
        """Append a block to its log and move the table's state; or spool it while the table's baseline is being read."""
        conn = self.connection()
        self.recorded += len(block)
        if table.status == OPEN:
            spool_block(conn, table, block, self.box)
            return
        if table.final_lsn is not None:
            self._spool_beyond(conn, table, block)
            return
        first = tablelog.append(conn, table.head, block.ops, block.fields, block.hashes, [s.suffix for s in block.said])
        if SCHEMA in block.ops:
            logs.set_schema(conn, table.head.id, table.logged_schema, first + _last(block.ops, SCHEMA))
        applied = apply_block(conn, table, block, first, self.horizon, self._intended(conn))
        if table.rules.retain and self.box is not None:
            for seq, (line, row_hash) in enumerate(zip(block.lines, block.hashes, strict=True), first):
                if line is not None and row_hash is not None:
                    images.put(conn, table.head.id, seq, self.box.seal(table.head.origin, row_hash, line))
            images.drop(conn, table.head.id, applied.superseded)
        for draft in applied.drafts:
            self._find(conn, table, block, draft)
        self._outcome.entries += len(block)

    def _spool_beyond(self, conn: sqlite3.Connection, table: TableState, block: Block) -> None:
        """A newer generation has its L: what lies below it still belongs here, the rest waits for that one's fate."""
        below, beyond = block.split(lambda said: said.tx.final_lsn < (table.final_lsn or 0))
        if len(beyond):
            spool_block(conn, table, beyond, self.box)
        if len(below):
            limit, table.final_lsn = table.final_lsn, None
            self.record(table, below)
            table.final_lsn = limit

    def _intended(self, conn: sqlite3.Connection) -> Callable[[Said, str], bool]:
        def intended(said: Said, table: str) -> bool:
            return said.message.intent is not None and self.intents.covers(conn, said.message.intent, said.tx, table)

        return intended

    def _find(self, conn: sqlite3.Connection, table: TableState, block: Block, draft: Draft) -> None:
        tx = block.said[draft.index].tx
        flood = (tx.xid64, table.head.id, draft.cls)
        count = self._flood[flood] = self._flood.get(flood, 0) + 1
        if count > self.max_findings + 1:
            return
        overflow = count == self.max_findings + 1
        opened = self.book.from_stream(conn, table, block, draft, overflow=overflow)
        if opened is not None:
            self._outcome.findings.append(opened)


def stored_position(conn: sqlite3.Connection) -> tuple[int, int]:
    """(position, last final LSN) as last committed; zeros before the first commit."""
    return meta.load_number(conn, "position") or 0, meta.load_number(conn, "last_final_lsn") or 0


def has_overlay(conn: sqlite3.Connection, log: int) -> bool:
    """Whether the applied state of a log differs from its accepted one anywhere."""
    return next(live.overlay_items(conn, log), None) is not None


def _last(ops: Sequence[bytes], op: bytes) -> int:
    return len(ops) - 1 - list(reversed(ops)).index(op)
