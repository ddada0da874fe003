"""What another database system holds of what was recorded: a dump that was loaded there, compared row by row.

The positions of another system say nothing about the log, and a dump may be from any time, so here the tables themselves are
read, once, by name and under one snapshot each:

    as it was last recorded                        nothing to say
    as some entry of its key once brought it       in an earlier version, or regained; in whichever generation that was
    neither                                        no work of the restore: a finding of its own

Rows last recorded that are not there are lost.  A generation can be asked where all columns are there that its rows were
recorded with, and nobody has pruned it.  Where those of the present one are not all there the dump is older than they are, and
only keys tell which rows are in both.
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
from witnz.core.journal_facts import TableRecord
from witnz.core.keyplan import KeyPlan, state_key_of_entry
from witnz.core.names import parse_table_name
from witnz.core.record import Record
from witnz.errors import Inconclusive
from witnz.node.losses import Compared, Differences, Loss, Losses, Names, row_name
from witnz.postgres.catalog import find_table
from witnz.postgres.scan import SnapshotScan
from witnz.store import entries, granted, live, logs
from witnz.store.logs import LogRow
from witnz.store.tally import BATCH, tally
from witnz.store.versions import Seen, row_hashes
from witnz.verify.live import Difference
from witnz.verify.replay import batches

NEVER = "the row of the new database was never recorded like that"
OTHER_COLUMNS = "it has other columns than its rows were recorded with, so they were not compared"
EARLIER_UNKNOWN = "its rows were last recorded with other columns: which ones are in an earlier version is not known"
GONE = ("pruned", "open", "provisional", "fetching")


@dataclass(frozen=True, slots=True)
class _Way:
    """How the rows of a generation were recorded for a time: with which columns, in which order."""

    row: LogRow
    columns: tuple[str, ...]
    hidden_keys: bool

    def of(self, read: Sequence[str], lines: list[bytes]) -> list[bytes]:
        """What was recorded of row lines with the columns ``read``, which must hold all of its own."""
        if tuple(read) == self.columns:
            return lines
        places = [list(read).index(column) for column in self.columns]
        return [b"\t".join([cells[at] for at in places]) for cells in [line.split(b"\t") for line in lines]]

    def hashes(self, lines: list[bytes]) -> list[bytes]:
        return [row or b"" for row in hashing.row_hashes(self.row.secret, lines)]

    def ids(self, lines: list[bytes], hashes: Sequence[bytes]) -> list[bytes]:
        """What an entry is found by that brought just this row under its key: state key and row hash."""
        plan = KeyPlan.of(self.row.key_columns, self.columns, self.row.secret, hidden=self.hidden_keys)
        return [key + row for key, row in zip(plan.state_keys(lines)[0], hashes, strict=True)] if plan.keyed else list(hashes)


def compare(
    scanning: psycopg.Connection[Any], conn: sqlite3.Connection, row: LogRow, records: Sequence[Record], folder: Path
) -> Compared:
    """Read what stands under the recorded name now.  ``scanning``: made for a scan, idle; ``conn``: a read of the store;
    ``records``: the journal's decisive ones; ``folder``: where there is room for what differs."""
    info = find_table(scanning, *parse_table_name(row.table))
    if info is None:
        return Compared(all_lost(conn, row), problem="the table is not there")
    if info.is_partitioned:
        return Compared(Loss(row.table))
    there = {column.name for column in info.replicated_columns}
    every, gone = _ways(conn, row, records)
    ways = [way for way in every if {*way.columns} <= there]
    read = list(dict.fromkeys(column for way in ways for column in way.columns))
    exact = every[0] in ways and row.schema_seq <= 1
    if not ways or not {*row.key_columns} <= {*read} or not (row.keyed or exact):
        return Compared(Loss(row.table), problem=OTHER_COLUMNS)
    with ExitStack() as stack:
        comparison = (_Keyed if row.keyed else _Keyless)(stack, conn, every[0], ways, read, folder, exact=exact)
        with SnapshotScan(scanning, info, columns=read) as scan:
            for lines in scan.lines():
                comparison.take(lines)
        if scan.changed_during():
            raise Inconclusive(f"the definition of {row.table} changed while it was compared")
        result = comparison.end()
    unasked = sorted(gone | {way.row.generation for way in every} - {way.row.generation for way in ways})
    result.why = NEVER
    if unasked:
        result.why += f"; nobody can ask generation {', '.join(map(str, unasked))}: pruned, or recorded with other columns"
    return result


def all_lost(conn: sqlite3.Connection, row: LogRow) -> Loss:
    """Every row that a log last recorded."""
    losses = Losses()
    for key, _ in live.applied_items(conn, row.id):
        losses.lost.add(row_name(key) if row.keyed else key[:32].hex())
    return losses.of(row.table)


def _ways(conn: sqlite3.Connection, row: LogRow, records: Sequence[Record]) -> tuple[list[_Way], set[int]]:
    """How rows of a table were recorded, the present way first; and the generations whose entries are not there."""
    ways: list[_Way] = []
    gone: set[int] = set()
    adopted = [TableRecord.from_record(each) for each in records if each.type == "table" and each.body["table"] == row.table]
    for record in sorted(adopted, key=lambda record: -record.generation):
        log = logs.find_log(conn, row.table, record.generation) if record.generation <= row.generation else None
        if log is None or log.status in GONE:
            gone |= {record.generation} if record.generation <= row.generation else set()
            continue
        for seq in sorted({1, max(1, log.schema_seq)}):
            columns = parse_schema_hint(parse_entry(entries.entry_at(conn, log.id, seq)).hint or "").columns
            ways.append(_Way(log, tuple(column.name for column in columns), record.hidden_keys))
    return ways, gone


class _Comparison:
    """What both kinds of tables have in common.  ``present``: how rows are recorded now, which the columns ``read`` tell if it
    is ``exact``; ``ways``: all those that they tell."""

    def __init__(
        self,
        stack: ExitStack,
        conn: sqlite3.Connection,
        present: _Way,
        ways: Sequence[_Way],
        read: Sequence[str],
        folder: Path,
        *,
        exact: bool,
    ) -> None:
        self._conn, self._present, self._row, self._ways = conn, present, present.row, ways
        self._read, self._exact = read, exact
        self._found = stack.enter_context(tally(folder))  # marked: some entry, or an operator, once brought it
        self._wanted = stack.enter_context(tally(folder))  # ids of what may have been recorded once: its key in ``found``
        self._losses, self._foreign = Losses(), Differences()

    def _want(self, keys: list[bytes], lines: list[bytes]) -> None:
        """Ask of these rows whether they were ever recorded like that; ``keys``: what they are found under."""
        for way in self._ways if lines else ():
            own = way.of(self._read, lines)
            self._wanted.add((name, key, 0, 0) for name, key in zip(way.ids(own, way.hashes(own)), keys, strict=True))

    def _mark_recorded(self) -> None:
        if not self._wanted:
            return
        for log in {way.row.id: way.row for way in self._ways}.values():
            for some in batches(_ever(self._conn, log), BATCH):
                self._found.mark(count.value for count in self._wanted.find(some).values() if count.value is not None)


def _ever(conn: sqlite3.Connection, log: LogRow) -> Iterator[bytes]:
    """The ids of every row that an entry of a log brought, or an operator."""
    for line in entries.entries(conn, log.id):
        entry = parse_entry(line)
        if entry.row is not None and entry.op != "delete":
            yield state_key_of_entry(line, entry.seq, entry.row, keyed=True) + entry.row if log.keyed else entry.row
    for key, row in granted.every(conn, log.id):
        yield key + row if log.keyed else row


class _Keyed(_Comparison):
    """Row by row, by key.  What is as recorded is only flagged; of what is not, the tally has the key and the row hash."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._seen = Seen(self._row.size)
        self._plan = KeyPlan.of(self._row.key_columns, self._read, self._row.secret, hidden=self._present.hidden_keys)
        self._other = Names()

    def take(self, lines: list[bytes]) -> None:
        keys = self._plan.state_keys(lines)[0]
        if self._exact:
            hashes = self._present.hashes(self._present.of(self._read, lines))
            seqs = live.applied_many(self._conn, self._row.id, keys)
            recorded = row_hashes(self._conn, self._row.id, seqs)
            differing = [at for at, key in enumerate(keys) if recorded.get(key) != hashes[at]]
            for key, found in zip(keys, hashes, strict=True):
                if recorded.get(key) == found:
                    self._seen.add(seqs[key])
            self._found.add((keys[at], hashes[at], 0, 1) for at in differing)
            keys, lines = [keys[at] for at in differing], [lines[at] for at in differing]
        else:
            self._found.add((key, None, 0, 1) for key in keys)
        self._want(keys, lines)

    def end(self) -> Compared:
        self._mark_recorded()
        for counts in self._found.batches():
            applied = live.applied_many(self._conn, self._row.id, [key for key, _ in counts])
            seqs = {key: seq for key, seq in applied.items() if seq not in self._seen}
            recorded = row_hashes(self._conn, self._row.id, seqs)
            for key, found in counts:
                if found.marked and key not in seqs:
                    self._losses.regained.add(row_name(key))
                elif found.marked and self._exact:
                    self._losses.earlier.add(row_name(key))
                elif not found.marked and not self._exact:
                    self._other.add(row_name(key))
                elif not found.marked:
                    seq, last = seqs.get(key), recorded.get(key)
                    cls = "row.inserted" if seq is None else "row.modified"
                    place = seq if seq is not None and seq > 0 else None
                    self._foreign.add(Difference(cls, row_name(key), key, place, last, found.value, explained=False))
        for items in batches(live.applied_items(self._conn, self._row.id), BATCH):
            missing = [key for key, seq in items if seq not in self._seen]
            here = self._found.find(missing)
            for key in missing:
                if key not in here:
                    self._losses.lost.add(row_name(key))
        result = Compared(self._losses.of(self._row.table), self._foreign.foreign())
        if not self._exact:
            result.problem = EARLIER_UNKNOWN
            if self._other.count:
                result.problem += f"; never recorded like that {self._other.rows()}"
        return result


class _Keyless(_Comparison):
    """All rows against all rows, by their hashes; the tally has how often each was last recorded, and how often it is there."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        for items in batches(live.applied_items(self._conn, self._row.id), BATCH):
            self._found.add((key[:32], None, 1, 0) for key, _ in items)

    def take(self, lines: list[bytes]) -> None:
        hashes = self._present.hashes(self._present.of(self._read, lines))
        last = self._found.find(hashes)
        unknown = [at for at, row in enumerate(hashes) if row not in last or not last[row].before]
        self._found.add((row, None, 0, 1) for row in hashes)
        self._want([hashes[at] for at in unknown], [lines[at] for at in unknown])

    def end(self) -> Compared:
        self._mark_recorded()
        for counts in self._found.batches():
            for row, count in counts:
                more = count.after - count.before
                self._losses.lost.add(row.hex(), -more)
                if count.marked or count.before:
                    self._losses.regained.add(row.hex(), more)
                else:
                    self._foreign.add(Difference("row.inserted", row.hex(), row, None, None, row, explained=False), more)
        return Compared(self._losses.of(self._row.table), self._foreign.foreign())
