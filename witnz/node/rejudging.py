"""Keys that come into force, or cease, from an LSN that is recorded already: what they signed is judged anew (formats.md 2).

Whether an intent authorises its rows depends on the log and the journalled ``key`` records alone.  But a node judges a row when
it records it, and the record may come later: an application goes on signing with the old key while its end is being agreed, and
a member that was cut off sees the new key before it knows of it.  So when a ``key`` record is carried out, the transactions
behind its LSN that name the key are looked at again.  Where one was judged otherwise, its logs are derived anew, on the capture
thread, while nothing records; then

    authorised now      the finding is taken back, where the journal does not have it yet
    no longer           a finding is opened, as on every node that had the record first

Until that is done the record counts as not carried out, and nobody is told anything (:mod:`witnz.node.abreast`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from witnz.core.entry import Entry, parse_entry
from witnz.core.finding import Finding
from witnz.core.journal_facts import TableRecord
from witnz.core.keyplan import key_text
from witnz.core.lsn import format_lsn, parse_lsn
from witnz.core.message import parse_intent
from witnz.core.record import Record
from witnz.core.rowline import escape
from witnz.core.timestamp import format_time
from witnz.errors import FormatError
from witnz.node.derive import valid_nonce
from witnz.node.findings import FindingBook, last_good
from witnz.node.following import FOLLOWED, NotYet
from witnz.node.journal import Journal
from witnz.node.log_notes import LogNotes
from witnz.node.recorder import FINDINGS_PER_TRANSACTION
from witnz.store import entries, findings, importing, journal, logs, meta, nonces
from witnz.store.database import Database
from witnz.store.logs import LogRow
from witnz.verify.replay import Intents, Replay, decisions_of, held_entries, held_until

log = structlog.get_logger(__name__)

KINDS: Final = ("intent", "operator")
STREAM: Final = ("violation.update", "violation.delete", "violation.truncate", "violation.reinsert", "change.unapproved")

Meanwhile = Callable[[str, Callable[[], None]], None]


@dataclass(frozen=True, slots=True)
class _Changed:
    """A transaction's use of a key that is to be judged anew: whether its nonce counts now."""

    nonce: str
    lsn: int
    counts: bool


class Rejudging:
    """Judges anew on one node; whoever puts the node together sets what it needs for that."""

    def __init__(self, db: Database, journal: Journal, book: FindingBook) -> None:
        self._db, self._journal, self._book = db, journal, book
        self.meanwhile: Meanwhile | None = None
        """Has the capture thread do something while nothing records; None until there is one."""
        self.again: Callable[[], None] = lambda: None
        """Goes on carrying out the journal."""
        self.newest_xid: Callable[[], int] = lambda: 0
        """The 64-bit id below which a snapshot may not see what was derived."""

    def follow(self, record: Record) -> None:
        """A ``key`` record.  Raises NotYet while what this node recorded before it is being judged anew."""
        if record.body["kind"] not in KINDS:
            return
        with self._db.write() as conn:  # behind what the recorder has judged and not committed
            if next(self._changed(conn, record), None) is None:
                return
        if self.meanwhile is not None:
            self.meanwhile("key", lambda: self._judge_anew(record))
        raise NotYet(f"what the key {record.body['name']} signed is being judged anew")

    # -- what is judged otherwise ---------------------------------------------------------------------------------------------

    def _changed(self, conn: sqlite3.Connection, record: Record) -> Iterator[tuple[LogRow, _Changed]]:
        name, from_lsn = record.body["name"], parse_lsn(record.body["from_lsn"])
        for row in _judged_logs(conn):
            first = held_until(conn, row, from_lsn - 1, row.size) + 1
            before: tuple[str, int] | None = None
            for entry in _signed(conn, row, first):
                if (entry.intent, entry.lsn) == before:
                    continue
                before = (entry.intent or "", entry.lsn)
                changed = self._use(conn, entry, name)
                if changed is not None:
                    yield row, changed

    def _use(self, conn: sqlite3.Connection, entry: Entry, name: str) -> _Changed | None:
        try:
            intent = parse_intent(entry.intent or "")
        except FormatError:
            return None
        if intent.key != name:
            return None
        at = nonces.counted(conn, intent.nonce)
        valid = valid_nonce(entry.intent or "", entry.lsn, entry.xid, self._journal.state) is not None
        counts = valid and (at is None or at >= entry.lsn)
        return None if counts == (at == entry.lsn) else _Changed(intent.nonce, entry.lsn, counts)

    # -- judging anew ---------------------------------------------------------------------------------------------------------

    def _judge_anew(self, record: Record) -> None:
        newest = self.newest_xid()
        with self._db.read() as conn:  # it takes a while where the journal is long; what stands up to there changes no more
            records = journal.decisive_records(conn, record.seq)
        with self._db.write() as conn:
            found = list(self._changed(conn, record))
            if not found:
                return
            for _, change in found:
                nonces.settle(conn, change.nonce, change.lsn, counts=change.counts)
            lsns = {change.lsn for _, change in found}
            rows = {
                row.id: row for row in _judged_logs(conn) if any(entry.lsn in lsns for entry in _since(conn, row, min(lsns)))
            }
            for row in rows.values():
                self._derive(conn, row, records, lsns)
                notes = replace(LogNotes.of(logs.get_log(conn, row.id)), settled_xid=newest)
                logs.set_mode(conn, row.id, notes.to_json())
            if (meta.load_number(conn, FOLLOWED) or 0) < (record.seq or 0):
                meta.save_value(conn, FOLLOWED, record.seq)  # an audit beside this node must count the record, too
        log.info("what a key signed was judged anew", key=record.body["name"], transactions=len(lsns), record=record.seq)
        self.again()

    def _derive(self, conn: sqlite3.Connection, row: LogRow, records: Iterable[Record], lsns: set[int]) -> None:
        made = list(records)
        rules = _rules(made, row)
        if rules is None:
            return
        importing.clear_state(conn, row.id)
        counted = nonces.all_counted(conn)
        decisions = decisions_of(made)[row.table, row.generation]
        judged = _Judged(
            conn, row.id, row.table, rules.rules, Intents(self._journal.state, counted), decisions, keyed=row.keyed
        )  # fmt: skip
        judged.lsns = lsns
        judged.run(held_entries(conn, row, self._journal.state))
        known = self._known(conn, row)
        flood: dict[tuple[int, str], int] = {}
        for entry, cls in judged.classes:
            if cls is None:
                self._take_back(conn, known.pop(entry.seq, ()))
                continue
            count = flood[entry.lsn, cls] = flood.get((entry.lsn, cls), 0) + 1
            if count <= FINDINGS_PER_TRANSACTION + 1:
                self._find(conn, row, entry, cls, overflow=count > FINDINGS_PER_TRANSACTION)

    def _find(self, conn: sqlite3.Connection, row: LogRow, entry: Entry, cls: str, *, overflow: bool) -> None:
        self._book.open(
            conn, cls=cls, table=row.table, generation=row.generation, key=None if overflow else _key(entry), seq=entry.seq,
            lsn=format_lsn(entry.lsn), xid=str(entry.xid), found=entry.row.hex() if entry.row is not None else None,
            explained_by=f"entry {entry.seq}", window=(last_good(conn, row.table), format_time(entry.at)),
            detail=f"{entry.op} in transaction {entry.xid}, signed with a key that was not in force",
        )  # fmt: skip

    @staticmethod
    def _known(conn: sqlite3.Connection, row: LogRow) -> dict[int, list[Finding]]:
        """What the stream found in a log, by the seq of the entry: read once, a key may have signed many."""
        found: dict[int, list[Finding]] = {}
        for finding in findings.list_findings(conn, table=row.table, classes=STREAM):
            if finding.generation == row.generation and finding.entry_seq is not None:
                found.setdefault(finding.entry_seq, []).append(finding)
        return found

    def _take_back(self, conn: sqlite3.Connection, found: Iterable[Finding]) -> None:
        for finding in found:
            if self._journal.state.finding_state(finding.id) is None:
                self._book.take_back(conn, finding, "the key that signed the change was in force")
                log.info("finding was taken back: its key was in force", finding=finding.id)


class _Judged(Replay):
    """A replay that notes how the entries of some transactions are judged: (entry, its class or None)."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.lsns: set[int] = set()
        self.classes: list[tuple[Entry, str | None]] = []

    def judged(self, entry: Entry, cls: str | None) -> None:
        if entry.lsn in self.lsns:
            self.classes.append((entry, cls))


def _key(entry: Entry) -> str | None:
    """The key as a finding of the stream names it."""
    field = b"\\N" if entry.key is None else escape(entry.key)
    text = key_text(field if entry.hidden_key is None else b"\\H" + entry.hidden_key.encode())
    return entry.row.hex() if text is None and entry.row is not None else text


def _judged_logs(conn: sqlite3.Connection) -> list[LogRow]:
    return [row for row in logs.list_logs(conn) if row.status in ("active", "ended") and row.size]


def _rules(records: Iterable[Record], row: LogRow) -> TableRecord | None:
    wanted = (row.table, row.generation)
    adopted = [r for r in records if r.type == "table" and (r.body["table"], r.body["generation"]) == wanted]
    return TableRecord.from_record(adopted[-1]) if adopted else None


def _since(conn: sqlite3.Connection, row: LogRow, lsn: int) -> Iterator[Entry]:
    """The entries of transactions that ended at an LSN or behind it."""
    for line in entries.entries(conn, row.id, held_until(conn, row, lsn - 1, row.size) + 1):
        yield parse_entry(line)


def _signed(conn: sqlite3.Connection, row: LogRow, first: int) -> Iterator[Entry]:
    """The entries from a seq on that carry an intent."""
    for line in entries.entries(conn, row.id, first):
        if not line.endswith(b"\t\\N"):
            yield parse_entry(line)
