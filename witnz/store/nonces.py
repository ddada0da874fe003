"""The nonces of intents that were counted: each authorises one transaction, once (formats.md 2)."""

from __future__ import annotations

import sqlite3


def count(conn: sqlite3.Connection, nonce: str, final_lsn: int) -> bool:
    """Count a nonce for the transaction with this final LSN; False if another transaction used it before."""
    conn.execute("INSERT OR IGNORE INTO nonces (nonce, lsn) VALUES (?, ?)", (nonce, final_lsn))
    row = conn.execute("SELECT lsn FROM nonces WHERE nonce = ?", (nonce,)).fetchone()
    return bool(row[0] == final_lsn)


def counted(conn: sqlite3.Connection, nonce: str) -> int | None:
    """The final LSN of the transaction for which a nonce was counted; None if for none."""
    row = conn.execute("SELECT lsn FROM nonces WHERE nonce = ?", (nonce,)).fetchone()
    return None if row is None else int(row[0])


def all_counted(conn: sqlite3.Connection) -> dict[str, int]:
    """Every nonce that was counted, with the final LSN of its transaction."""
    return dict(conn.execute("SELECT nonce, lsn FROM nonces").fetchall())


def settle(conn: sqlite3.Connection, nonce: str, final_lsn: int, *, counts: bool) -> None:
    """Count a nonce for this transaction and no other, or for this one no more."""
    conn.execute("DELETE FROM nonces WHERE nonce = ? AND (? OR lsn = ?)", (nonce, counts, final_lsn))
    if counts:
        conn.execute("INSERT INTO nonces (nonce, lsn) VALUES (?, ?)", (nonce, final_lsn))
