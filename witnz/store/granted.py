"""Rows that an operator accepted although no entry of the log has their hash (formats.md 3, ``accept`` with a null seq).

Such a row gets a negative seq of its own, which stands in the live state where the seq of an entry would.  They count down from
-2^62, so that their magnitude, which stands in the state key of a row without a key, is no entry's seq either.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from witnz.errors import StoreCorrupt

_ABOVE_FIRST = -(1 << 62)


def grant(conn: sqlite3.Connection, log: int, key: bytes, row_hash: bytes) -> int:
    """Remember an accepted row; its negative seq."""
    row = conn.execute("SELECT coalesce(min(seq), ?) - 1 FROM granted WHERE log = ?", (_ABOVE_FIRST, log)).fetchone()
    seq = int(row[0])
    conn.execute("INSERT INTO granted (log, seq, k, hash) VALUES (?, ?, ?, ?)", (log, seq, key, row_hash))
    return seq


def get(conn: sqlite3.Connection, log: int, seq: int) -> tuple[bytes, bytes]:
    """(state key, row hash) of a granted row.  Raises StoreCorrupt if there is none under this seq."""
    row = conn.execute("SELECT k, hash FROM granted WHERE log = ? AND seq = ?", (log, seq)).fetchone()
    if row is None:
        raise StoreCorrupt(f"the live state of log {log} names a granted row {seq} that is not there")
    return bytes(row[0]), bytes(row[1])


def every(conn: sqlite3.Connection, log: int) -> Iterator[tuple[bytes, bytes]]:
    """(state key, row hash) of every row that was ever granted in a log; the key is empty for a table without one."""
    yield from conn.execute("SELECT k, hash FROM granted WHERE log = ? ORDER BY seq", (log,))
