"""The accepted and applied state of a log, derived anew from its entries and the journal alone (formats.md 3).

The slow, obvious reference beside the running node's incremental state: one entry after another, judged by the rules of its
``table`` record, by signed intents and by the journal's ``accept`` records.  What it derives goes into a scratch store
through the same tables, so memory stays bounded and the comparison is by value.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from witnz.core.classify import DELETE, INSERT, SCHEMA, TRUNCATE, UPDATE, Rules, judge
from witnz.core.entry import Entry, parse_entry
from witnz.core.journal import JournalState
from witnz.core.journal_view import JournalView
from witnz.core.keyplan import keyless_state_key, state_key_of_entry, state_key_of_text
from witnz.core.message import check_intent, parse_intent
from witnz.core.orders import Erasure, Orders
from witnz.core.record import Record
from witnz.errors import FormatError
from witnz.store import entries as stored_entries
from witnz.store import erasures, granted, live
from witnz.store.logs import LogRow

BATCH = 4096
T = TypeVar("T")
XID_MASK = 0xFFFFFFFF


@dataclass(slots=True)
class Decisions:
    """What operators decided about one log.

    ``entries``, ``rows``: what ``accept`` records say, entries by seq, and rows that no entry brought, by the size they were
    made at; ``after``: rows that no entry brought, accepted after an epoch ended the log; ``erasures``: by the size from which
    on they cover a delete.
    """

    entries: set[int] = field(default_factory=set)
    rows: dict[int, list[Mapping[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    after: list[Mapping[str, Any]] = field(default_factory=list)
    erasures: dict[int, list[Erasure]] = field(default_factory=lambda: defaultdict(list))


def decisions_of(records: Iterable[Record]) -> dict[tuple[str, int], Decisions]:
    """Every log's decisions.  A row without a seq was accepted after the entries that the seal before it covers."""
    found: dict[tuple[str, int], Decisions] = defaultdict(Decisions)
    sealed: dict[tuple[str, int], int] = {}
    streamed: set[str] = set()
    ended: set[tuple[str, int]] = set()
    orders = Orders()
    for at, record in enumerate(records, 1):
        if record.type == "seal":
            sealed |= {(head["table"], head["generation"]): head["size"] for head in record.body["tables"]}
        elif record.type == "epoch":
            ended |= {(head["table"], head["generation"]) for head in record.body["final"]}
        elif record.type == "finding" and record.body["seq"] is not None and not record.body["class"].startswith("row."):
            streamed.add(record.body["id"])
        elif record.type == "accept" and record.body["table"] is not None:
            log = (record.body["table"], record.body["generation"])
            for row in record.body["rows"]:
                if row["seq"] is not None and record.body["finding"] in streamed:
                    found[log].entries.add(row["seq"])
                elif log in ended:
                    found[log].after.append(row)
                else:
                    found[log].rows[sealed.get(log, 0)].append(row)
        elif record.type in ("erase", "prune", "config"):
            log = (record.body.get("table", ""), record.body.get("generation", 0))
            order = orders.take(record, record.seq or at, sealed.get(log, 0))
            if isinstance(order, Erasure):
                found[log].erasures[order.base].append(order)
    return found


class Intents:
    """Which entries valid intents cover, judged from the journal; ``nonces``: what the node says it counted, nonce to LSN."""

    def __init__(self, journal: JournalState, nonces: Mapping[str, int]) -> None:
        self._journal, self._nonces = journal, nonces
        self._last: tuple[str, int, frozenset[str]] | None = None

    def cover(self, entry: Entry, table: str) -> bool:
        if entry.intent is None:
            return False
        if self._last is None or self._last[:2] != (entry.intent, entry.lsn):
            self._last = (entry.intent, entry.lsn, self._tables(entry))
        return table in self._last[2]

    def _tables(self, entry: Entry) -> frozenset[str]:
        try:
            intent = parse_intent(entry.intent or "")
        except FormatError:
            return frozenset()
        public = self._journal.signer_key(intent.key, entry.lsn)
        if public is None or intent.xid & XID_MASK != entry.xid or self._nonces.get(intent.nonce) != entry.lsn:
            return frozenset()
        return frozenset(intent.tables) if check_intent(intent, self._journal.cluster_id, public) else frozenset()


class Replay:
    """Derives the state of one log into a scratch store's ``live``, ``overlay`` and ``granted``."""

    def __init__(
        self,
        scratch: sqlite3.Connection,
        log: int,
        table: str,
        rules: Rules,
        intents: Intents,
        decisions: Decisions,
        *,
        keyed: bool,
    ) -> None:
        self._conn, self._log, self._table, self._rules = scratch, log, table, rules
        self._intents, self._decisions, self._keyed = intents, decisions, keyed
        self._awaited: set[bytes] = set()

    def run(self, lines: Iterable[bytes]) -> None:
        """Take all entry lines of the log, or those that :func:`held_entries` leaves, in order."""
        self._grant(self._decisions.rows.get(0, ()))
        self._order(0)
        for batch in batches(lines, BATCH):
            entries = [(line, parse_entry(line)) for line in batch]
            if self._keyed and all(_has_key(entry) or entry.op in ("schema", "truncate") for _, entry in entries):
                self._keyed_batch(entries)
                continue
            for line, entry in entries:
                if entry.op == "delete" and not _has_key(entry):
                    self._keyless_delete(entry)
                else:
                    self._keyed_batch([(line, entry)])
        self._grant(self._decisions.after)

    def _keyed_batch(self, entries: Sequence[tuple[bytes, Entry]]) -> None:
        keys = {
            state_key_of_entry(line, e.seq, e.row, keyed=self._keyed)
            for line, e in entries
            if e.op not in ("schema", "truncate")
        }
        accepted: dict[bytes, int | None] = dict(live.accepted_many(self._conn, self._log, keys))
        applied: dict[bytes, int | None] = dict(live.applied_many(self._conn, self._log, keys))
        changed: set[bytes] = set()
        for line, entry in entries:
            op = entry.op.encode()
            if op == TRUNCATE:
                self._awaited.clear()
                erasures.cover_all(self._conn, self._log, entry.seq)
                self._write(changed, accepted, applied)
                self._truncate(entry)
                changed, applied = set(), {}
                accepted = dict(live.accepted_many(self._conn, self._log, keys))
            elif op != SCHEMA:
                key = state_key_of_entry(line, entry.seq, entry.row, keyed=self._keyed)
                after = entry.seq if op in (INSERT, UPDATE) or entry.op == "baseline" else None
                known = _has_key(entry) and (accepted.get(key) is not None or applied.get(key) is not None)
                erased = self._erases(op, key, entry.seq)
                if self._accepts(entry, op, known, erased=erased):
                    accepted[key] = after
                applied[key] = after
                changed.add(key)
            if entry.seq in self._decisions.rows or entry.seq in self._decisions.erasures:
                self._write(changed, accepted, applied)
                changed = set()
                self._grant(self._decisions.rows.get(entry.seq, ()))
                self._order(entry.seq)
                accepted = dict(live.accepted_many(self._conn, self._log, keys))
                applied = dict(live.applied_many(self._conn, self._log, keys))
        self._write(changed, accepted, applied)

    def _erases(self, op: bytes, key: bytes, seq: int) -> bool:
        """Whether this is the delete that an order to erase the row covers."""
        if op != DELETE or key not in self._awaited:
            return False
        self._awaited.discard(key)
        erasures.cover(self._conn, self._log, key, seq)
        return True

    def _order(self, size: int) -> None:
        """Await the deletes that operators ordered when the log had this size; what was not there then is not awaited."""
        for order in self._decisions.erasures.get(size, ()):
            keys = [state_key_of_text(text) for text in order.keys]
            there = live.applied_many(self._conn, self._log, keys)
            items = [(key, None if key in there else erasures.NOTHING) for key in keys]
            erasures.add(self._conn, self._log, order.seq, order.base, items)
            self._awaited.update(key for key in keys if key in there)

    def _accepts(self, entry: Entry, op: bytes, known: bool, *, erased: bool = False) -> bool:
        cls = None
        if not erased and entry.seq not in self._decisions.entries:
            cls = judge(self._rules, op, intended=self._intents.cover(entry, self._table), key_known=known)
        self.judged(entry, cls)
        return cls is None

    def judged(self, entry: Entry, cls: str | None) -> None:
        """Told of each entry, and of its finding class where it is not accepted; for whoever wants to know."""

    def _keyless_delete(self, entry: Entry) -> None:
        row = entry.row or bytes(32)
        if self._accepts(entry, b"delete", known=False):
            # As the node does: the stream takes the oldest row that is still there, an operator the oldest that is accepted.
            decided = entry.seq in self._decisions.entries
            gone = live.keyless_find(self._conn, self._log, row, applied=not decided)
            live.set_accepted(self._conn, self._log, [(gone, None)] if gone is not None else [])
            live.clear_overlay(self._conn, self._log, [gone] if gone is not None else [])
            return
        gone = live.keyless_find(self._conn, self._log, row, applied=True)
        if gone is not None:
            live.set_overlay(self._conn, self._log, [(gone, None)])

    def _truncate(self, entry: Entry) -> None:
        if self._accepts(entry, TRUNCATE, known=True):
            live.truncate_accepted(self._conn, self._log, None, entry.seq)
        else:
            live.truncate_applied(self._conn, self._log, None, entry.seq)

    def _write(self, changed: set[bytes], accepted: Mapping[bytes, int | None], applied: Mapping[bytes, int | None]) -> None:
        if not changed:
            return
        live.set_accepted(self._conn, self._log, [(key, accepted.get(key)) for key in changed])
        live.clear_overlay(self._conn, self._log, changed)
        differing = [(key, applied.get(key)) for key in changed if applied.get(key) != accepted.get(key)]
        live.set_overlay(self._conn, self._log, differing)

    def _grant(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Accept rows that no entry brought."""
        for row in rows:
            found = bytes.fromhex(row["row"]) if row["row"] else None
            if not self._keyed:
                self._grant_keyless(row, found)
                continue
            key = state_key_of_text(row["key"] or "")
            seq = granted.grant(self._conn, self._log, key, found) if found is not None else None
            live.set_accepted(self._conn, self._log, [(key, seq)])
            live.clear_overlay(self._conn, self._log, [key])

    def _grant_keyless(self, row: Mapping[str, Any], found: bytes | None) -> None:
        if found is None:
            gone = live.keyless_find(self._conn, self._log, bytes.fromhex(row["key"] or ""))
            live.set_accepted(self._conn, self._log, [(gone, None)] if gone is not None else [])
            return
        seq = granted.grant(self._conn, self._log, b"", found)
        live.set_accepted(self._conn, self._log, [(keyless_state_key(found, -seq), seq)])


def _has_key(entry: Entry) -> bool:
    return entry.key is not None or entry.hidden_key is not None


def held_size(conn: sqlite3.Connection, row: LogRow, journal: JournalView) -> int:
    """How many of the first entries of a log the database holds: all, unless it was restored to a point before the last.

    Never less than the baseline, whose rows were there before the log: what a database holds that was restored to before that,
    or is another system, this log cannot say, and then nothing of it is left out.
    """
    switch, ended = journal.switched_at(row.table, row.generation), journal.ended_at(row.table, row.generation)
    return row.size if switch is None or ended is None else held_until(conn, row, switch, min(ended.size, row.size))


def held_until(conn: sqlite3.Connection, row: LogRow, switch_lsn: int, size: int) -> int:
    """How many of the first ``size`` entries are the baseline, or lie at or below an LSN."""
    low, high = 0, size  # entries come in commit order
    limit = max(switch_lsn, row.lsn)
    while low < high:
        middle = (low + high + 1) // 2
        entry = parse_entry(stored_entries.entry_at(conn, row.id, middle))
        low, high = (middle, high) if entry.lsn <= limit else (low, middle - 1)
    return low


def held_entries(conn: sqlite3.Connection, row: LogRow, journal: JournalView) -> Iterator[bytes]:
    """The entries that led to what the database holds: without those that a restore took back."""
    held, ended = held_size(conn, row, journal), journal.ended_at(row.table, row.generation)
    yield from stored_entries.entries(conn, row.id, 1, held)
    if ended is not None and held < row.size:
        yield from stored_entries.entries(conn, row.id, max(ended.size, held) + 1)


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of ``size``, the last one shorter."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch
