"""The first entries of a generation: its schema, and the rows of its snapshot S in physical order (formats.md 2)."""

from __future__ import annotations

from dataclasses import dataclass

from witnz.core import hashing
from witnz.core.classify import BASELINE
from witnz.core.entry import entry_suffix
from witnz.core.keyplan import NO_KEY, KeyPlan, keyless_state_key
from witnz.node.images import ImageBox
from witnz.node.table_state import TableState
from witnz.store import images, live, logs, tablelog
from witnz.store.database import Database


@dataclass(frozen=True, slots=True)
class Baseline:
    """Writes the baseline of ``state``.  ``at``: the time of the ``table`` record, µs since the Unix epoch."""

    db: Database
    state: TableState
    keys: KeyPlan
    box: ImageBox | None
    at: int

    def write_schema(self, hint: str) -> None:
        """The entry that the log begins with; ``hint`` describes the relation."""
        state = self.state
        suffix = entry_suffix(state.lsn, 0, self.at, None, hint, None)
        with self.db.write() as conn:
            seq = tablelog.append(conn, state.head, [b"schema"], [NO_KEY], [None], [suffix])
            logs.set_schema(conn, state.head.id, hint, seq)

    def write_rows(self, lines: list[bytes]) -> None:
        """Some row lines, as entries and as live rows."""
        state, plan, count = self.state, self.keys, len(lines)
        hashes = hashing.row_hashes(plan.secret, lines)
        suffix = entry_suffix(state.lsn, 0, self.at, None, None, None)
        keys, fields = plan.state_keys(lines) if plan.keyed else ([], [NO_KEY] * count)
        with self.db.write() as conn:
            first = tablelog.append(conn, state.head, [BASELINE] * count, fields, hashes, [suffix] * count)
            if not plan.keyed:
                keys = [keyless_state_key(row, seq) for seq, row in enumerate(hashes, first) if row is not None]
            items = [(key, seq) for seq, key in enumerate(keys, first)]
            if not live.insert_fresh(conn, state.head.id, items):
                # Two rows with one primary key: the database's own constraint is broken, and a scan will say so.
                live.set_accepted(conn, state.head.id, items)
            if state.rules.retain and self.box is not None:
                for seq, (line, row) in enumerate(zip(lines, hashes, strict=True), first):
                    if row is not None:
                        images.put(conn, state.head.id, seq, self.box.seal(state.head.origin, row, line))


def baseline_key(log_id: int) -> str:
    """Where the store notes that a log's baseline is complete: other nodes may have adopted the generation before."""
    return f"baseline/{log_id}"
