"""Where each table log stood at one LSN: what a seal lists, as every node derives it alone (formats.md 4, ``seal``).

Entries come in stream order, so those up to an LSN are a prefix of the log.  (Only what follows a baseline can have a smaller
LSN than it; a seal lies beyond all of that, because a generation is adopted after the stream has passed its baseline.)
"""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from witnz.core.entry import parse_entry
from witnz.core.journal import JournalState
from witnz.core.journal_facts import LogHead
from witnz.store import entries, logs, meta
from witnz.store.logs import LogRow

Log = tuple[str, int]
"""Table and generation."""

PENDING = "epoch"
"""Where the store keeps the restore that this node has noticed and no ``epoch`` record says yet."""


@dataclass(frozen=True, slots=True)
class Moved:
    """The logs that moved between their last seal and an LSN, and those of which this node cannot say yet."""

    heads: dict[Log, LogHead]
    unsettled: tuple[str, ...]


def moved_until(conn: sqlite3.Connection, state: JournalState, lsn: int) -> Moved:
    """What a seal at ``lsn`` has to list; the store must have recorded the stream up to there."""
    heads: dict[Log, LogHead] = {}
    unsettled: list[str] = []
    if meta.load_value(conn, PENDING) is not None:
        return Moved({}, tuple(state.tables()))  # LSNs are of two courses of history until the epoch record parts them
    rows = {(row.table, row.generation): row for row in logs.list_logs(conn)}
    for table, record in state.tables().items():
        log = (table, record.generation)
        if table in state.opened or state.ended_at(*log) is not None:
            continue  # a newer generation is being opened, or there will be one: nothing more of this one is sealed
        row = rows.get(log)
        if row is None or row.status != "active":
            unsettled.append(table)  # adopted by the journal, not yet by this node's recorder
            continue
        sealed = state.last_sealed(*log)
        size = size_at(conn, row, lsn)
        if size > (sealed.size if sealed is not None else 0):
            heads[log] = head_at(conn, row, size)
    return Moved(heads, tuple(unsettled))


def size_at(conn: sqlite3.Connection, row: LogRow, lsn: int) -> int:
    """How many entries of a log have an LSN of at most ``lsn``."""
    if not row.size or _lsn_of(conn, row, row.size) <= lsn:
        return row.size
    low, high = 0, row.size  # the entry at low is at or before the LSN (0: there is none), the one at high beyond
    while high - low > 1:
        middle = (low + high) // 2
        if _lsn_of(conn, row, middle) <= lsn:
            low = middle
        else:
            high = middle
    return low


def head_at(conn: sqlite3.Connection, row: LogRow, size: int) -> LogHead:
    """Size, root and chain head of the first ``size`` entries."""
    return LogHead(size, entries.root_at(conn, row.id, size), entries.chain_at(conn, row.id, size))


def _lsn_of(conn: sqlite3.Connection, row: LogRow, seq: int) -> int:
    return parse_entry(entries.entry_at(conn, row.id, seq)).lsn


def to_items(heads: Mapping[Log, LogHead]) -> list[dict[str, Any]]:
    """The ``tables`` of a seal or dissent, by table."""
    return [
        {
            "table": table,
            "generation": generation,
            "size": head.size,
            "root": base64.b64encode(head.root).decode(),
            "chain": head.chain,
        }
        for (table, generation), head in sorted(heads.items())
    ]


def from_items(items: Iterable[Mapping[str, Any]]) -> dict[Log, LogHead]:
    return {(item["table"], item["generation"]): LogHead.from_body(item) for item in items}
