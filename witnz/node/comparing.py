"""What another database system holds of what was recorded: a dump that was loaded there, compared row by row.

The positions of another system say nothing about the log, so here the tables themselves are read, once, by name and under one
snapshot each.  A row that some entry of its key brought, though not the newest, is one that such a dump may have: it is older.
A row that no entry ever brought is not, and is named by itself.  Rows that are not there are listed as lost.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import psycopg

from witnz.core import hashing
from witnz.core.entry import parse_entry, parse_schema_hint
from witnz.core.journal_facts import TableRecord
from witnz.core.keyplan import KeyPlan, state_key_of_entry
from witnz.core.names import parse_table_name
from witnz.errors import Inconclusive
from witnz.node.rewinding import NONE, Loss, Rows, loss_of, row_name
from witnz.postgres.catalog import find_table
from witnz.postgres.scan import SnapshotScan
from witnz.store import entries, granted, live
from witnz.store.logs import LogRow
from witnz.verify.live import Difference


@dataclass(slots=True)
class Compared:
    """One table, as the database holds it that was put in place.

    ``foreign``: rows that are no work of the restore, each a finding with ``why`` as its detail; ``unjudged``: rows that nobody
    can judge, because no log says what the table was then; ``problem``: why it was not compared, or not in full.
    """

    loss: Loss
    foreign: list[Difference] = field(default_factory=list)
    problem: str = ""
    unjudged: Rows = NONE
    why: str = "the row of the new database was never recorded like that"

    def __bool__(self) -> bool:
        return bool(self.loss or self.foreign or self.problem or self.unjudged.count)

    def __str__(self) -> str:
        said = [str(self.loss)] if self.loss else []
        if self.foreign:
            said.append(f"{self.loss.table}: {len(self.foreign)} row(s) that were never recorded")
        if self.unjudged.count:
            said.append(f"{self.loss.table}: not recorded what they were then {self.unjudged}")
        if self.problem:
            said.append(f"{self.loss.table}: {self.problem}")
        return "; ".join(said)


def compare(scanning: psycopg.Connection[Any], conn: sqlite3.Connection, row: LogRow, record: TableRecord) -> Compared:
    """Read what stands under the recorded name now.  ``scanning``: made for a scan, idle; ``conn``: a read of the store."""
    nothing = Compared(loss_of(row.table, {}, {}))
    columns = parse_schema_hint(parse_entry(entries.entry_at(conn, row.id, 1)).hint or "").columns
    names = [column.name for column in columns]
    info = find_table(scanning, *parse_table_name(row.table))
    if info is None:
        nothing.problem = "the table is not there"
    elif row.schema_seq > 1 or not {*names} <= {column.name for column in info.replicated_columns}:
        nothing.problem = "it has other columns than its rows were recorded with, so they were not compared"
    elif not info.is_partitioned:
        plan = KeyPlan.of(row.key_columns, names, row.secret, hidden=record.hidden_keys)
        with SnapshotScan(scanning, info, columns=names) as scan:
            comparison = _Comparison(conn, row, plan)
            for lines in scan.lines():
                comparison.take(lines)
        if scan.changed_during():
            raise Inconclusive(f"the definition of {row.table} changed while it was compared")
        return comparison.end()
    return nothing


class _Comparison:
    """Collects what differs; what is as recorded is only flagged."""

    def __init__(self, conn: sqlite3.Connection, row: LogRow, plan: KeyPlan) -> None:
        self._conn, self._row, self._plan = conn, row, plan
        self._seen: set[int] = set()
        self._differing: dict[bytes, bytes | None] = {}
        self._found: Counter[bytes] = Counter()

    def take(self, lines: list[bytes]) -> None:
        hashes = hashing.row_hashes(self._plan.secret, lines)
        if not self._plan.keyed:
            self._found.update(row for row in hashes if row is not None)
            return
        keys = self._plan.state_keys(lines)[0]
        seqs = live.applied_many(self._conn, self._row.id, keys)
        recorded = self._hashes(seqs)
        for key, found in zip(keys, hashes, strict=True):
            if recorded.get(key) == found:
                self._seen.add(seqs[key])
            else:
                self._differing[key] = found

    def end(self) -> Compared:
        before = self._recorded()
        after = {key: Counter({row: 1}) for key, row in self._differing.items()} if self._plan.keyed else {}
        after |= {row: Counter({row: number}) for row, number in self._found.items()}
        ever = self._ever_recorded(after)
        foreign = []
        for key in sorted(after.keys() - ever):
            more = after[key].total() if self._plan.keyed else after[key].total() - before.get(key, Counter()).total()
            foreign += [self._difference(key, before, after)] * max(0, more)
            if self._plan.keyed:
                before.pop(key, None)
            del after[key]
        return Compared(loss_of(self._row.table, self._named(before), self._named(after)), foreign)

    def _difference(
        self, key: bytes, before: dict[bytes, Counter[bytes | None]], after: dict[bytes, Counter[Any]]
    ) -> Difference:
        recorded = next(iter(before.get(key, ())), None)
        cls = "row.inserted" if recorded is None else "row.modified"
        seq = live.applied_many(self._conn, self._row.id, [key]).get(key) if self._plan.keyed else None
        name = self._name(key)
        return Difference(cls, name, key, seq if seq and seq > 0 else None, recorded, next(iter(after[key])), explained=False)

    def _recorded(self) -> dict[bytes, Counter[bytes | None]]:
        """What the stream left and the scan has not found like that, by state key; of rows without a key all, by hash."""
        left = {key: seq for key, seq in live.applied_items(self._conn, self._row.id) if seq not in self._seen}
        found: dict[bytes, Counter[bytes | None]] = {}
        for key, row in self._hashes(left).items():
            found.setdefault(key if self._plan.keyed else row or key, Counter())[row] += 1
        return found

    def _ever_recorded(self, after: dict[bytes, Counter[Any]]) -> set[bytes]:
        """Which of these rows, as they were found, some entry of theirs brought."""
        ever: set[bytes] = set()
        if after:
            for line in entries.entries(self._conn, self._row.id):
                entry = parse_entry(line)
                if entry.row is None or entry.op == "delete":
                    continue
                key = state_key_of_entry(line, entry.seq, entry.row, keyed=True) if self._plan.keyed else entry.row
                if key in after and entry.row in after[key]:
                    ever.add(key)
        return ever

    def _hashes(self, seqs: dict[bytes, int]) -> dict[bytes, bytes | None]:
        hashes = entries.row_hashes_at(self._conn, self._row.id, [seq for seq in seqs.values() if seq > 0])
        return {key: hashes[seq] if seq > 0 else granted.get(self._conn, self._row.id, seq)[1] for key, seq in seqs.items()}

    def _named(self, rows: dict[bytes, Counter[Any]]) -> dict[str, Counter[bytes | None]]:
        return {self._name(key): found for key, found in rows.items()}

    def _name(self, key: bytes) -> str:
        return row_name(key) if self._plan.keyed else key.hex()
