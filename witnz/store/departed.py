"""Rows of a table without a key that went while their log's table had more columns than when they were recorded.

Such a row's deletion is an entry with the hash of the row as it went, which no accepted row has: nothing that the log says
takes the row out of the accepted state.  Which row it was, only the stream told, once.  So that is noted here, for the
comparison of the old rows with the next generation's baseline (:mod:`witnz.node.succession`), which is due from the moment on
in which the columns changed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator


def add(connection: sqlite3.Connection, log_id: int, seq: int, xid: int, row_hash: bytes) -> None:
    """Note that the entry ``seq``, of the transaction with this 64-bit id, took a row that was recorded as ``row_hash``."""
    connection.execute("INSERT INTO departed (log, seq, xid, row) VALUES (?, ?, ?, ?)", (log_id, seq, xid, row_hash))


def count(connection: sqlite3.Connection, log_id: int, row_hash: bytes) -> int:
    """How many rows with this hash have gone so."""
    query = "SELECT count(*) FROM departed WHERE log = ? AND row = ?"
    return int(connection.execute(query, (log_id, row_hash)).fetchone()[0])


def rows(connection: sqlite3.Connection, log_id: int) -> Iterator[tuple[int, bytes]]:
    """(64-bit transaction id, row hash) of every row that has gone so."""
    yield from connection.execute("SELECT xid, row FROM departed WHERE log = ? ORDER BY seq", (log_id,))
