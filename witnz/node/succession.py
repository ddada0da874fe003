"""From one generation to the next without a hole: the old rows are verified in the new baseline's snapshot.

The old generation ends with exactly the transactions below L, and the baseline is read under S while the table is locked;
so the old generation's accepted state under S is what the baseline must show, seen through the old columns (formats.md 2).
Where a column was added, renamed or widened, each line is cut to the old columns; a row written after the change was
recorded with all of them.  Where a column was dropped the old hashes can not be recomputed: then nobody but an operator can
let a new generation begin.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field

from witnz.core import hashing
from witnz.core.keyplan import key_text
from witnz.core.rowline import escape
from witnz.errors import WitnzError
from witnz.node.rootscan import RootScan
from witnz.node.table_state import TableState
from witnz.postgres.scan import SnapshotScan
from witnz.store import logs
from witnz.store.database import Database
from witnz.verify.expected import ExpectedState
from witnz.verify.live import MAX_DIFFERENCES, Difference


class RowsChanged(WitnzError):
    """The rows that the old generation recorded are not the rows that the new baseline shows."""

    code = "rows-changed"
    exit_code = 3

    def __init__(self, differences: list[Difference]) -> None:
        super().__init__(f"{len(differences)} row(s) differ from what was recorded before the definition changed")
        self.differences = differences


@dataclass(slots=True)
class Predecessor:
    """The generation before.  ``projection``: where the old columns stand in a line of the new baseline; None where an
    operator has decided to begin anew without comparing."""

    state: TableState
    projection: tuple[int, ...] | None
    _stack: ExitStack = field(default_factory=ExitStack)
    _expected: ExpectedState | None = None
    _matched: int = 0
    _seen: set[bytes] = field(default_factory=set)
    _differences: list[Difference] = field(default_factory=list)

    def begin(self, db: Database, scan: SnapshotScan | RootScan) -> None:
        """The stream has passed L: take the old generation's accepted state under the snapshot."""
        if self.projection is None:
            return
        conn = self._stack.enter_context(db.read())
        log = self.state.head.id
        size = logs.log_size(conn, log)
        self._expected = ExpectedState(conn, log, size, scan.snapshot, keyed=self.state.plan.keyed)

    def compare(self, lines: list[bytes]) -> None:
        """Judge a batch of the baseline's lines."""
        if self._expected is None or self.projection is None:
            return
        old = [_cut(line, self.projection) for line in lines]
        secret = self.state.plan.secret
        cut_hashes, whole_hashes = hashing.row_hashes(secret, old), hashing.row_hashes(secret, lines)
        keys = self.state.plan.state_keys(old)[0]
        recorded = self._expected.by_keys(keys)
        for key, cut, whole in zip(keys, cut_hashes, whole_hashes, strict=True):
            row = recorded.get(key)
            if row is None:
                self._differ("row.inserted", key, None, None, cut)
                continue
            self._matched += 1
            if row.row_hash not in (cut, whole, None):
                self._differ("row.modified", key, row.seq, row.row_hash, cut)

    def finish(self) -> None:
        """Raises RowsChanged if a row differs, is missing or is too many."""
        try:
            if self._expected is None:
                return
            missing = self._expected.count - self._matched
            if self._differences or missing:
                raise RowsChanged(self._differences)
        finally:
            self._stack.close()

    def _differ(self, cls: str, key: bytes, seq: int | None, recorded: bytes | None, found: bytes | None) -> None:
        if len(self._differences) < MAX_DIFFERENCES:
            name = key_text(key if key.startswith(b"\\H") else escape(key))
            self._differences.append(Difference(cls, name, key, seq, recorded, found, explained=False))


def _cut(line: bytes, positions: tuple[int, ...]) -> bytes:
    cells = line.split(b"\t")
    return b"\t".join([cells[i] for i in positions])
