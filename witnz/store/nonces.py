"""The nonces of intents that were counted: each authorises one transaction, once (formats.md 2)."""

from __future__ import annotations

import sqlite3


def count(conn: sqlite3.Connection, nonce: str, final_lsn: int) -> bool:
    """Count a nonce for the transaction with this final LSN; False if another transaction used it before."""
    conn.execute("INSERT OR IGNORE INTO nonces (nonce, lsn) VALUES (?, ?)", (nonce, final_lsn))
    row = conn.execute("SELECT lsn FROM nonces WHERE nonce = ?", (nonce,)).fetchone()
    return bool(row[0] == final_lsn)
