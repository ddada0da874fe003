"""What transactions replaced that a snapshot may still not see (architecture.md 7: the undo ring).

A transaction stands here from its commit in the stream until it is *settled*: its id is below the xmin of a snapshot taken
later, so every snapshot from then on sees it.  Ids are the 64-bit ones of PostgreSQL's snapshots.  Each row says what was
accepted and what was applied for a key just before an entry (None: nothing).

The state that a snapshot must show is the present one, but for every key that an invisible transaction touched: there it is
what the *first* entry of an invisible transaction replaced.  For transactions that touch one key PostgreSQL releases the locks
after it has made the commit visible, so per key the visible ones come before the invisible ones (research: CDC, 5.4).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator

UndoRow = tuple[int, int, int, bytes, int | None, int | None]
"""(xid, log, seq of the entry, key, accepted before, applied before)"""


def add_many(connection: sqlite3.Connection, rows: Iterable[UndoRow]) -> None:
    """Keep what these entries replaced."""
    connection.executemany("INSERT INTO undo (xid, log, seq, k, prev_accepted, prev_applied) VALUES (?, ?, ?, ?, ?, ?)", rows)


def settle(connection: sqlite3.Connection, xmin: int) -> int:
    """Forget every transaction below ``xmin``, the lowest id that was running at a snapshot; how many rows that were."""
    return connection.execute("DELETE FROM undo WHERE xid < ?", (xmin,)).rowcount


def unsettled(connection: sqlite3.Connection) -> list[int]:
    """The ids of the transactions kept, ascending; costs one look-up an id, not a row."""
    query = (
        "WITH RECURSIVE ids (xid) AS (SELECT min(xid) FROM undo"
        " UNION ALL SELECT (SELECT min(xid) FROM undo WHERE undo.xid > ids.xid) FROM ids WHERE ids.xid IS NOT NULL)"
        " SELECT xid FROM ids WHERE xid IS NOT NULL"
    )
    return [xid for (xid,) in connection.execute(query)]


def iter_invisible(
    connection: sqlite3.Connection, log_id: int, snapshot_visible: Callable[[int], bool]
) -> Iterator[tuple[bytes, int | None, int | None]]:
    """(key, accepted before, applied before) of each key of a log that an invisible transaction touched, by key.

    ``snapshot_visible(xid)`` says whether the snapshot sees a transaction.  Keys beyond memory are sorted on disk.
    """
    hidden = [xid for xid in unsettled(connection) if not snapshot_visible(xid)]
    # SQLite takes the other columns from the row that has the minimum (sqlite.org/lang_select.html, "bare columns").
    query = (
        "SELECT k, prev_accepted, prev_applied, min(seq) FROM undo"
        " WHERE log = ? AND xid IN (SELECT value FROM json_each(?)) GROUP BY k"
    )
    for key, accepted, applied, _ in connection.execute(query, (log_id, json.dumps(hidden))):
        yield key, accepted, applied


def invisible(
    connection: sqlite3.Connection, log_id: int, snapshot_visible: Callable[[int], bool]
) -> dict[bytes, tuple[int | None, int | None]]:
    """:func:`iter_invisible` as a dictionary: key -> (accepted before, applied before)."""
    return {key: (accepted, applied) for key, accepted, applied in iter_invisible(connection, log_id, snapshot_visible)}


def count(connection: sqlite3.Connection) -> int:
    """How many rows are kept; grows while a synchronous standby is away, which is worth an alarm."""
    return int(connection.execute("SELECT count(*) FROM undo").fetchone()[0])
