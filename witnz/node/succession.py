"""From one generation to the next without a hole: the old rows are verified in the new baseline's snapshot.

The old generation ends with exactly the transactions below L, and the baseline is read under S while the table is locked;
so the old generation's accepted state under S is what the baseline must show, seen through the old columns (formats.md 2).

    a column was added       each line is cut to the old columns; a row that was written after the change, and before the new
                             generation, was recorded with the columns there were then: as many of the first ones
    renamed, widened         the line is the same
    dropped, printed anew    the old hashes can not be recomputed: nobody but an operator can let a new generation begin
    a row without a hash     the same: only an operator resolves it, and no change of a definition may do that in passing

Rows with a key are matched one by one, by the entry that they come from.  Rows without one are a multiset of hashes.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from witnz.core import hashing
from witnz.core.keyplan import KeyPlan, key_text
from witnz.core.rowline import escape
from witnz.core.state import split_hashes
from witnz.errors import WitnzError
from witnz.node.rootscan import RootScan
from witnz.node.table_state import TableState
from witnz.postgres.scan import SnapshotScan
from witnz.store import departed, entries, logs
from witnz.store.database import Database
from witnz.verify.expected import ExpectedState
from witnz.verify.live import MAX_DIFFERENCES, Difference
from witnz.verify.partition import PARTITIONS, Partitions

MAX_NEWER: Final = 1_000_000  # rows of a table without a key, written between the change and the new generation: about 170 MB


class RowsChanged(WitnzError):
    """The rows that the old generation recorded are not the rows that the new baseline shows, or nobody can say so.

    ``differences`` names them, at most MAX_DIFFERENCES.
    """

    code = "rows-changed"
    exit_code = 3

    def __init__(self, differences: list[Difference], count: int, unresolved: int) -> None:
        said = [f"{count} row(s) differ from what was recorded before the definition changed"] if count else []
        said += [f"{unresolved} row(s) have no recorded hash to compare with"] if unresolved else []
        super().__init__("; ".join(said))
        self.differences = differences


@dataclass(slots=True)
class Predecessor:
    """The generation before.  ``projection``: where the old columns stand in a line of the new baseline; None where an
    operator has decided to begin anew without comparing."""

    state: TableState
    projection: tuple[int, ...] | None
    _stack: ExitStack = field(default_factory=ExitStack)
    _comparison: _Keyed | _Keyless | None = None

    def begin(self, db: Database, scan: SnapshotScan | RootScan) -> None:
        """The stream has passed L: take the old generation's accepted state under the snapshot."""
        if self.projection is None:
            return
        conn = self._stack.enter_context(db.read())
        log = logs.get_log(conn, self.state.head.id)
        expected = ExpectedState(conn, log.id, log.size, scan.snapshot, keyed=log.keyed)
        shapes = [self.projection]
        if log.schema_seq > 1 and isinstance(scan, SnapshotScan):
            shapes += [tuple(range(count)) for count in range(len(self.projection) + 1, len(scan.columns) + 1)]
        if log.keyed:
            self._comparison = _Keyed(self.state, expected, shapes)
        else:
            gone = [row for xid, row in departed.rows(conn, log.id) if scan.snapshot.visible(xid)]
            self._comparison = self._stack.enter_context(_Keyless(self.state, expected, shapes, gone, db))

    def compare(self, lines: list[bytes]) -> None:
        """Judge a batch of the baseline's lines."""
        if self._comparison is not None:
            self._comparison.take(lines)

    def finish(self) -> None:
        """Raises RowsChanged if a row differs, is missing or is too many, or has no hash."""
        comparison = self._comparison
        if comparison is None:
            return
        try:
            comparison.end()
        finally:
            self.close()
        if comparison.count or comparison.unresolved:
            raise RowsChanged(comparison.differences, comparison.count, comparison.unresolved)

    def close(self) -> None:
        """Let go of the store; a comparison that did not finish says nothing."""
        self._comparison = None
        self._stack.close()


class _Comparison:
    """What differs so far: counted, and named up to a bound."""

    def __init__(self, state: TableState, expected: ExpectedState, shapes: list[tuple[int, ...]]) -> None:
        self._secret, self._expected, self._shapes = state.head.secret, expected, shapes
        self.differences: list[Difference] = []
        self.count = self.unresolved = 0

    def _hashes(self, lines: list[bytes], shape: tuple[int, ...]) -> list[bytes | None]:
        return hashing.row_hashes(self._secret, [_cut(line, shape) for line in lines])

    def _differ(
        self, cls: str, name: str | None, key: bytes, seq: int | None, recorded: bytes | None, found: bytes | None
    ) -> None:
        self.count += 1
        if len(self.differences) < MAX_DIFFERENCES:
            self.differences.append(Difference(cls, name, key, seq, recorded, found, explained=False))


class _Keyed(_Comparison):
    """Each line against the accepted row of its key; ``_matched`` has a flag for each entry whose row was seen."""

    def __init__(self, state: TableState, expected: ExpectedState, shapes: list[tuple[int, ...]]) -> None:
        super().__init__(state, expected, shapes)
        names = [column.name for column in state.first_columns or ()]
        self._keys = KeyPlan.of(state.key_columns, names, state.head.secret, hidden=state.hidden_keys)
        self._matched = bytearray(expected.size + 1)
        self._granted: set[int] = set()

    def take(self, lines: list[bytes]) -> None:
        hashes = self._hashes(lines, self._shapes[0])
        keys = self._keys.state_keys([_cut(line, self._shapes[0]) for line in lines])[0]
        recorded = self._expected.by_keys(keys)
        for key, line, found in zip(keys, lines, hashes, strict=True):
            row = recorded.get(key)
            if row is None or self._seen(row.seq):
                self._differ("row.inserted", _name(key), key, None, None, found)
            elif row.row_hash is None:
                self.unresolved += 1
            elif row.row_hash != found and not self._newer(line, row.row_hash):
                self._differ("row.modified", _name(key), key, row.seq, row.row_hash, found)

    def end(self) -> None:
        for row in self._expected.rows_but(self._matched, self._granted):
            self._differ("row.deleted", _name(row.key), row.key, row.seq if row.seq > 0 else None, row.row_hash, None)

    def _seen(self, seq: int) -> bool:
        """Note the version; whether it was seen before, under the same key."""
        if seq < 0:
            before = seq in self._granted
            self._granted.add(seq)
            return before
        before = self._matched[seq] == 1
        self._matched[seq] = 1
        return before

    def _newer(self, line: bytes, recorded: bytes) -> bool:
        """Whether the row was recorded under columns that were there later."""
        return any(self._hashes([line], shape) == [recorded] for shape in self._shapes[1:])


class _Keyless(_Comparison):
    """All lines against all accepted rows.

    A line counts as a row recorded under later columns as long as there is such a row left, else as one under the first.
    ``gone``: hashes of rows that went under later columns, which the log could not take out of the accepted state.
    Raises RowsChanged where too many rows were recorded under later columns to tell them apart in memory.
    """

    def __init__(
        self, state: TableState, expected: ExpectedState, shapes: list[tuple[int, ...]], gone: list[bytes], db: Database
    ) -> None:
        super().__init__(state, expected, shapes)
        self._recorded = expected.hashes(db.path.parent)
        self._found = Partitions(db.path.parent)
        self._found.add_all(gone)
        self.unresolved = expected.unresolved
        self._newer: Counter[bytes] = Counter()
        if len(shapes) > 1:
            for block in expected.hashes_from(_first_change(expected)):
                self._newer.update(block)
                if len(self._newer) > MAX_NEWER:
                    raise RowsChanged([], len(self._newer), 0)

    def __enter__(self) -> _Keyless:
        return self

    def __exit__(self, *_: object) -> None:
        self._recorded.close()
        self._found.close()

    def take(self, lines: list[bytes]) -> None:
        chosen = self._hashes(lines, self._shapes[0])
        left = list(range(len(lines))) if self._newer else []
        for shape in reversed(self._shapes[1:]):  # of two rows that begin alike the longer record is the more particular one
            hashes = self._hashes([lines[at] for at in left], shape)
            for at, row_hash in zip(list(left), hashes, strict=True):
                if row_hash is not None and self._newer.get(row_hash, 0) > 0:
                    self._newer[row_hash] -= 1
                    chosen[at] = row_hash
                    left.remove(at)
        self._found.add_all(row_hash for row_hash in chosen if row_hash is not None)

    def end(self) -> None:
        for partition in range(PARTITIONS):
            recorded, found = self._recorded.sorted(partition), self._found.sorted(partition)
            if recorded == found:
                continue
            there, here = Counter(split_hashes(recorded)), Counter(split_hashes(found))
            for row_hash in (there - here).elements():
                self._differ("row.deleted", row_hash.hex(), row_hash, None, row_hash, None)
            for row_hash in (here - there).elements():
                self._differ("row.inserted", row_hash.hex(), row_hash, None, None, row_hash)


def _first_change(expected: ExpectedState) -> int:
    """The seq of the first ``schema`` entry after the one that a log begins with."""
    for seq, line in enumerate(entries.entries(expected.conn, expected.log, 2), 2):
        if line.split(b"\t", 3)[2] == b"schema":
            return seq
    return expected.size + 1


def _name(key: bytes) -> str | None:
    return key_text(key if key.startswith(b"\\H") else escape(key))


def _cut(line: bytes, positions: tuple[int, ...]) -> bytes:
    if positions == tuple(range(line.count(b"\t") + 1)):
        return line
    cells = line.split(b"\t")
    return b"\t".join([cells[i] for i in positions])
