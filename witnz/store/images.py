"""Row images of tables with ``retain: rows``, by log and seq of the entry; encrypted before they come here."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable


def put(connection: sqlite3.Connection, log_id: int, seq: int, sealed: bytes) -> None:
    """Keep the image of the row that an entry brought."""
    put_many(connection, log_id, [(seq, sealed)])


def put_many(connection: sqlite3.Connection, log_id: int, images: Iterable[tuple[int, bytes]]) -> None:
    """Keep (seq, image) pairs."""
    rows = [(log_id, seq, sealed) for seq, sealed in images]
    connection.executemany("INSERT OR REPLACE INTO images (log, seq, sealed) VALUES (?, ?, ?)", rows)


def get(connection: sqlite3.Connection, log_id: int, seq: int) -> bytes | None:
    """The image of the row that an entry brought, None if none is kept."""
    row = connection.execute("SELECT sealed FROM images WHERE log = ? AND seq = ?", (log_id, seq)).fetchone()
    return None if row is None else bytes(row[0])


def drop(connection: sqlite3.Connection, log_id: int, seqs: Iterable[int]) -> None:
    """Forget the images of these entries: nothing will be restored from them any more."""
    connection.executemany("DELETE FROM images WHERE log = ? AND seq = ?", [(log_id, seq) for seq in seqs])
