"""What a database holds that was restored to before the present generation of a table began.

The present log says nothing of what the table was before its baseline.  The generation that was recorded at that place does:
its state there, derived anew from its entries, is what the restored table must show.  So the table is read, once, by name, and
each row is compared with both:

    as it was last recorded      nothing to say
    as it was recorded then      in an earlier version, or regained
    neither                      no work of the restore: a finding of its own

Rows last recorded that are not there are lost.  Where no log says what the table was (it was not protected yet, its generation
is pruned, a gap or another restore lies before the place) such rows are named and nobody judges them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from witnz.core import hashing
from witnz.core.entry import parse_entry, parse_schema_hint
from witnz.core.journal import JournalState
from witnz.core.journal_facts import TableRecord
from witnz.core.keyplan import KeyPlan
from witnz.core.lsn import parse_lsn
from witnz.core.names import parse_table_name
from witnz.core.record import Record
from witnz.errors import Inconclusive
from witnz.node.comparing import all_lost
from witnz.node.losses import Compared, Differences, Loss, Losses, Names, row_name
from witnz.postgres.catalog import find_table
from witnz.postgres.scan import SnapshotScan
from witnz.store import entries, live, logs, nonces
from witnz.store.logs import LogRow
from witnz.store.tally import BATCH, tally
from witnz.store.versions import Seen, row_hashes
from witnz.verify.live import Difference
from witnz.verify.replay import Intents, batches, decisions_of, held_until
from witnz.verify.scratch import replayed

NOT_AS_THEN = "the row is neither as it was recorded where the database was restored to, nor as it was last recorded"
NOT_PROTECTED = "no generation that was recorded then is left to compare with"
UNSEEN = "not everything was recorded before the place that the database was restored to"


@dataclass(frozen=True, slots=True)
class Past:
    """The generation that was recorded where the database left, and how many of its entries it had then."""

    row: LogRow
    record: TableRecord
    held: int


def past_of(
    conn: sqlite3.Connection, row: LogRow, records: Sequence[Record], state: JournalState, switch_lsn: int
) -> tuple[Past | None, str]:
    """Which earlier generation says what a table was at ``switch_lsn``; else None and why there is none."""
    then, why, system = None, NOT_PROTECTED, None
    for record in records:
        body = record.body
        if record.type == "genesis":
            system = body["database"]["system"]
        elif record.type == "table" and body["table"] == row.table:
            if body["generation"] >= row.generation:
                break
            if parse_lsn(body["lsn"]) <= switch_lsn:
                then, why = TableRecord.from_record(record), NOT_PROTECTED
        elif record.type == "epoch":
            if body["system"] != system:
                then, why = None, NOT_PROTECTED  # LSNs were other ones before
            elif parse_lsn(body["switch_lsn"]) < switch_lsn:
                why = UNSEEN
            system = body["system"]
        elif record.type == "gap" and row.table in body["tables"] and parse_lsn(body["from_lsn"]) < switch_lsn:
            why = UNSEEN
        elif record.type == "unprotect" and body["table"] == row.table:
            then = None
    if then is None or why == UNSEEN:
        return None, why
    older = logs.find_log(conn, row.table, then.generation)
    if older is None or older.status == "pruned":
        return None, NOT_PROTECTED
    ended = state.ended_at(older.table, older.generation)
    size = older.size if ended is None else min(ended.size, older.size)
    return Past(older, then, held_until(conn, older, switch_lsn, size)), ""


def look_back(
    scanning: psycopg.Connection[Any],
    conn: sqlite3.Connection,
    row: LogRow,
    record: TableRecord,
    records: Sequence[Record],
    state: JournalState,
    switch_lsn: int,
    folder: Path,
) -> Compared:
    """Read what stands under the recorded name now.  ``scanning``: made for a scan, idle; ``conn``: a read of the store;
    ``records``: the journal's decisive ones; ``folder``: where there is room for a state."""
    past, why = past_of(conn, row, records, state, switch_lsn)
    result = Compared(Loss(row.table))
    info = find_table(scanning, *parse_table_name(row.table))
    with ExitStack() as stack:
        now = _State(conn, conn, row, row.id, record)
        if info is None:
            return Compared(all_lost(conn, row), problem="the table is not there")
        if info.is_partitioned:
            return result
        then = None if past is None else _open(stack, conn, past, records, state, folder)
        read = then or now
        if then is not None and past is not None and then.columns_changed_before(past.held):
            result.problem = f"its columns changed within generation {then.row.generation}, so its rows were not compared"
        elif not {*read.names} <= {column.name for column in info.replicated_columns}:
            result.problem = "it has other columns than its rows were recorded with, so they were not compared"
        elif then is not None and now.row.key_columns != then.row.key_columns:
            result.problem = "its key was another one then, so its rows were not compared"
        elif not now.row.keyed and now.columns_differ(read.names):
            result.problem = "its columns were other ones then, so its rows were not compared"
        else:
            with SnapshotScan(scanning, info, columns=read.names) as scan:
                looking = _Keyed(now, then, read.names) if row.keyed else _Keyless(now, then, stack, folder)
                for lines in scan.lines():
                    looking.take(lines)
            if scan.changed_during():
                raise Inconclusive(f"the definition of {row.table} changed while it was compared")
            result = looking.end()
            result.problem = "; ".join(text for text in (result.problem, why) if text)
    return result


def _open(
    stack: ExitStack, conn: sqlite3.Connection, past: Past, records: Sequence[Record], state: JournalState, folder: Path
) -> _State:
    counted = nonces.all_counted(conn)
    made = decisions_of(records)[past.row.table, past.row.generation]
    lines = entries.entries(conn, past.row.id, 1, past.held)
    out, log = stack.enter_context(replayed(past.row, past.record.rules, Intents(state, counted), made, lines, folder))
    return _State(conn, out, past.row, log, past.record)


class _State:
    """What a log's stream left: its state in ``held`` under ``log``, its entries in ``conn``."""

    def __init__(self, conn: sqlite3.Connection, held: sqlite3.Connection, row: LogRow, log: int, record: TableRecord) -> None:
        self._conn, self._held, self.row, self._log, self._record = conn, held, row, log, record
        columns = parse_schema_hint(parse_entry(entries.entry_at(conn, row.id, 1)).hint or "").columns
        self.names = [column.name for column in columns]

    def columns_changed_before(self, size: int) -> bool:
        return 1 < self.row.schema_seq <= size

    def columns_differ(self, names: Sequence[str]) -> bool:
        """Whether rows as they were last recorded cannot be told from lines of these columns."""
        return self.names != list(names) or self.row.schema_seq > 1

    def plan(self, names: Sequence[str]) -> KeyPlan:
        return KeyPlan.of(self.row.key_columns, names, self.row.secret, hidden=self._record.hidden_keys)

    def seqs(self, keys: Sequence[bytes]) -> dict[bytes, int]:
        return live.applied_many(self._held, self._log, keys)

    def hashes(self, seqs: dict[bytes, int]) -> dict[bytes, bytes | None]:
        return row_hashes(self._conn, self.row.id, seqs, (self._held, self._log))

    def items(self) -> Iterator[list[tuple[bytes, int]]]:
        """All rows, some thousands at a time: state key and seq."""
        return batches(live.applied_items(self._held, self._log), BATCH)


class _Keyed:
    """Row by row, by key.  ``now``: as last recorded; ``then``: as recorded where the database left, None if unknown."""

    def __init__(self, now: _State, then: _State | None, names: Sequence[str]) -> None:
        self._now, self._then = now, then
        self._plans = now.plan(names), None if then is None else then.plan(names)
        self._exact = not now.columns_differ(names)
        self._seen = Seen(now.row.size)
        self._losses, self._unjudged, self._other = Losses(), Names(), Names()
        self._foreign = Differences()

    def take(self, lines: list[bytes]) -> None:
        plan, before = self._plans
        keys = plan.state_keys(lines)[0]
        hashes = hashing.row_hashes(plan.secret, lines) if self._exact else [None] * len(lines)
        seqs = self._now.seqs(keys)
        last = self._now.hashes(seqs)
        as_then = [False] * len(lines)
        if self._then is not None and before is not None:
            keys_then = before.state_keys(lines)[0]
            recorded = self._then.hashes(self._then.seqs(keys_then))
            found_then = hashing.row_hashes(before.secret, lines)
            as_then = [found is not None and recorded.get(k) == found for k, found in zip(keys_then, found_then, strict=True)]
        for key, found, was_so in zip(keys, hashes, as_then, strict=True):
            seq = seqs.get(key)
            if seq is not None:
                self._seen.add(seq)
            if self._exact and found is not None and last.get(key) == found:
                continue
            if was_so:
                if seq is None:
                    self._losses.regained.add(row_name(key))
                elif self._exact:
                    self._losses.earlier.add(row_name(key))
            elif self._then is None:
                self._unjudged.add(row_name(key))
            elif not self._exact:
                self._other.add(row_name(key))
            else:
                cls = "row.inserted" if seq is None else "row.modified"
                at = seq if seq is not None and seq > 0 else None
                self._foreign.add(Difference(cls, row_name(key), key, at, last.get(key), found, explained=False))

    def end(self) -> Compared:
        plan, before = self._plans
        comparable = before is not None and not plan.hidden and not before.hidden  # keys that name a row in both logs
        for some in self._now.items():
            part = {key: seq for key, seq in some if seq not in self._seen}
            there = self._then.seqs(list(part)) if comparable and self._then is not None else {}
            recorded = self._now.hashes({key: part[key] for key in there if key in part})
            for key, seq in part.items():
                if key in there:
                    name, place = row_name(key), seq if seq > 0 else None
                    self._foreign.add(Difference("row.deleted", name, key, place, recorded[key], None, explained=False))
                else:
                    self._losses.lost.add(row_name(key))
        result = Compared(self._losses.of(self._now.row.table), self._foreign.foreign(), why=NOT_AS_THEN)
        result.unjudged = self._unjudged.rows()
        if not self._exact:
            result.problem = "its columns were other ones then: which of its rows are in an earlier version is not known"
            if self._other.count:
                result.problem += f"; not as they were recorded then {self._other.rows()}"
        elif self._then is not None and not comparable and self._losses.lost.count:
            result.problem = "of the lost rows it is not known which ones it should still have: their keys are hidden"
        return result


class _Keyless:
    """All rows against all rows, by their hashes, which are counted in ``folder`` until the ``stack`` ends."""

    def __init__(self, now: _State, then: _State | None, stack: ExitStack, folder: Path) -> None:
        self._now, self._then = now, then
        self._rows = stack.enter_context(tally(folder))  # by the hash in the present log; before: last recorded; after: found
        self._had = stack.enter_context(tally(folder))  # by the hash in the log of then; before: recorded then

    def take(self, lines: list[bytes]) -> None:
        hashes = hashing.row_hashes(self._now.row.secret, lines)
        then = [None] * len(lines) if self._then is None else hashing.row_hashes(self._then.row.secret, lines)
        self._rows.add((found or b"", before, 0, 1) for found, before in zip(hashes, then, strict=True))

    def end(self) -> Compared:
        for some in self._now.items():
            self._rows.add((key[:32], None, 1, 0) for key, _ in some)
        missing = 0
        for some in self._then.items() if self._then is not None else ():
            missing += len(some)
            self._had.add((key[:32], None, 1, 0) for key, _ in some)
        losses, unjudged, foreign = Losses(), Names(), Differences()
        for counts in self._rows.batches():
            then = self._had.find([count.value for _, count in counts if count.value is not None])
            for row_hash, count in counts:
                name, kept, number = row_hash.hex(), count.before, count.after
                had = then[count.value].before if count.value in then else 0
                losses.lost.add(name, kept - number)
                losses.regained.add(name, min(number, had) - kept)
                missing -= had - max(0, min(kept, had) - number) if number else 0
                more = number - max(kept, had)
                if self._then is None:
                    unjudged.add(name, more)
                else:
                    foreign.add(Difference("row.inserted", name, row_hash, None, None, row_hash, explained=False), more)
        result = Compared(losses.of(self._now.row.table), foreign.foreign(), why=NOT_AS_THEN, unjudged=unjudged.rows())
        if missing:
            result.problem = f"{missing} row(s) that it held then are not there"
        return result
