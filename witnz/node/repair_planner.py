"""Looking at the rows of a finding, one after another: as recorded, to be restored, or refused with a reason.

as recorded    the row that is there now has the accepted hash, or neither is there
to restore     what is there is exactly what was found; the recorded line comes from its image and has the recorded hash
refused        anything else: the row changed again, no image, no hash, a key twice, a column that cannot be written
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import psycopg

from witnz.core.finding import Finding
from witnz.core.rowline import parse_line, row_hash
from witnz.errors import Inconclusive, UsageError
from witnz.node.repair_plan import Kind, Statement
from witnz.node.repair_rows import FindingRows, Recorded, Wanted
from witnz.node.repair_sql import AT_ONCE, Shape, delete_sql, insert_sql, key_condition, load_shape, read_rows, update_sql
from witnz.node.table_state import TableState
from witnz.postgres import catalog

MAX_PLAN_BYTES: Final = 64 << 20
_BEGIN: Final = (
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL lock_timeout = '2s';"
    " SET LOCAL enable_indexscan = {on}; SET LOCAL enable_indexonlyscan = {on}; SET LOCAL enable_bitmapscan = {on}"
)

ScanFor = Callable[[TableState, bytes], Iterable[bytes]]


class Planner:
    """Looks at the rows of one finding through ``pg``, in one snapshot.

    ``heap_only``: without indexes, as the scan read that saw the difference.  ``scan_for``: the lines with a hidden key.
    """

    def __init__(
        self,
        finding: Finding,
        state: TableState,
        rows: FindingRows,
        pg: psycopg.Connection[Any],
        scan_for: ScanFor,
        *,
        heap_only: bool,
        max_bytes: int = MAX_PLAN_BYTES,
    ) -> None:
        self._finding, self._state, self._rows, self._pg, self._scan_for = finding, state, rows, pg, scan_for
        self._max_bytes = max_bytes
        pg.execute(_BEGIN.format(on="off" if heap_only else "on").encode())
        self.shape = _shape_of(pg, state)
        self._bytes = 0
        self.statements: list[Statement] = []
        self.refused: list[str] = []
        self.unchanged: list[str] = []

    def run(self, wanted: Sequence[Wanted], recorded: Mapping[bytes, Recorded]) -> None:
        """Look at all rows; the keys of ``recorded`` are state keys."""
        for start in range(0, len(wanted), AT_ONCE):
            batch = [(row, recorded.get(row.key)) for row in wanted[start : start + AT_ONCE]]
            images = [self._rows.line(found.seq, found.row) if found is not None else None for _, found in batch]
            for (row, found), after, lines in zip(batch, images, self._lines_now(batch, images), strict=True):
                self._take(row, found, after, lines)

    def _take(self, wanted: Wanted, recorded: Recorded | None, after: bytes | None, lines: Sequence[bytes]) -> None:
        """One row: as recorded, to be restored, or refused."""
        before = lines[0] if lines else None
        now = row_hash(self._state.head.secret, before) if before is not None else None
        if self._rows.is_written_over(self._finding, recorded):
            self._refuse(wanted, "the row was written again since, and that was accepted; what it held before is not kept")
        elif recorded is not None and recorded.row is None:
            self._refuse(wanted, "the accepted row has no hash (an unchanged TOAST value), so nothing says what it was")
        elif len(lines) > 1:
            self._refuse(wanted, f"{len(lines)} rows have this key; the table's unique index is damaged")
        elif now == (recorded.row if recorded is not None else None):
            self.unchanged.append(wanted.name)
        elif now != wanted.found and not (wanted.unresolved and now is not None):
            self._refuse(wanted, "the row is not what the finding says was found; look for a newer finding about it")
        elif recorded is not None and after is None:
            self._refuse(wanted, "no image of the recorded row is kept")
        else:
            self._restore(wanted, recorded, before, after)

    def _restore(self, wanted: Wanted, recorded: Recorded | None, before: bytes | None, after: bytes | None) -> None:
        try:
            kind, text = self._statement(before, after)
        except UsageError as reason:
            self._refuse(wanted, reason.message)
            return
        self._bytes += len(text) + len(before or b"") + len(after or b"")
        if self._bytes > self._max_bytes:
            raise UsageError(
                f"the rows of finding {self._finding.id} are more than one repair takes ({self._max_bytes >> 20} MiB)",
                hint="restore the table from a backup in a transaction with a signed intent, then verify it",
            )
        self.statements.append(
            Statement(
                kind=kind,
                key=wanted.name,
                recorded=recorded.row.hex() if recorded is not None and recorded.row is not None else None,
                found=row_hash(self._state.head.secret, before).hex() if before is not None else None,
                sql=text,
                where=key_condition(self.shape, parse_line(before if before is not None else after or b"")),
                before=before,
                after=after,
            )
        )

    def _statement(self, before: bytes | None, after: bytes | None) -> tuple[Kind, str]:
        if after is None:
            return "delete", delete_sql(self.shape, before or b"")
        if before is None:
            return "insert", insert_sql(self.shape, after)
        return "update", update_sql(self.shape, before, after)

    def _lines_now(self, batch: Iterable[tuple[Wanted, object]], images: Iterable[bytes | None]) -> list[list[bytes]]:
        """The rows that are there under each key."""
        values = [self._key_values(row, image) for (row, _), image in zip(batch, images, strict=True)]
        conditions = [key_condition(self.shape, found) for found in values if found is not None]
        there = iter(read_rows(self._pg, self.shape.name, self.shape.columns, conditions, lock=False))
        return [
            [line for _, line in next(there)] if found is not None else list(self._scan_for(self._state, row.key))
            for (row, _), found in zip(batch, values, strict=True)
        ]

    def _key_values(self, wanted: Wanted, recorded: bytes | None) -> list[bytes | None] | None:
        """The values of the key by column position; None for a hidden key of which nothing but the digest is known."""
        line = recorded if recorded is not None else self._rows.found_line(wanted.key)
        if line is not None:
            return parse_line(line)
        if wanted.key.startswith(b"\\H"):
            return None
        values: list[bytes | None] = [None] * len(self.shape.names)
        for at, value in zip(self._state.plan.positions, parse_line(wanted.key), strict=True):
            values[at] = value
        return values

    def _refuse(self, wanted: Wanted, reason: str) -> None:
        self.refused.append(f"key {wanted.name}: {reason}")


def _shape_of(pg: psycopg.Connection[Any], state: TableState) -> Shape:
    info = catalog.table_by_oid(pg, state.oid)
    if info is None or info.witnz_name != state.name:
        raise Inconclusive(f"{state.name} is not the recorded relation any more")
    names = [column.name for column in state.columns]
    found = [(c.name, c.typoid, c.typmod) for c in info.replicated_columns if c.name in names]
    if found != [(c.name, c.typoid, c.typmod) for c in state.columns]:
        raise Inconclusive(f"the columns of {state.name} changed; a new generation is due")
    return load_shape(pg, info, names, state.plan.positions)
