"""What waits for a generation that is not decided yet: prepared entries in stream order (formats.md 2, "Generations")."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator

SpoolRow = tuple[int, bytes, bytes | None, bytes | None, bytes | None]
"""(64-bit xid, entry line with a placeholder for seq, state key, hashes of the old tuple together, encrypted image)"""

_TAKEN_AT_ONCE = 1_024


def add_many(connection: sqlite3.Connection, log_id: int, rows: Iterable[SpoolRow]) -> None:
    """Add entries behind those that wait for a log."""
    connection.executemany(
        "INSERT INTO spool (log, xid, line, key, old_hash, image) VALUES (?, ?, ?, ?, ?, ?)", [(log_id, *row) for row in rows]
    )


def take(connection: sqlite3.Connection, log_id: int) -> Iterator[SpoolRow]:
    """What waits for a log, oldest first; it is removed as it is handed out, in the caller's transaction."""
    query = "SELECT id, xid, line, key, old_hash, image FROM spool WHERE log = ? ORDER BY id LIMIT ?"
    while rows := connection.execute(query, (log_id, _TAKEN_AT_ONCE)).fetchall():
        connection.execute("DELETE FROM spool WHERE log = ? AND id <= ?", (log_id, rows[-1][0]))
        for row in rows:
            yield row[1:]


def clear(connection: sqlite3.Connection, log_id: int) -> None:
    """Drop what waits for a log."""
    connection.execute("DELETE FROM spool WHERE log = ?", (log_id,))


def count(connection: sqlite3.Connection, log_id: int) -> int:
    """How many entries wait for a log."""
    return int(connection.execute("SELECT count(*) FROM spool WHERE log = ?", (log_id,)).fetchone()[0])
