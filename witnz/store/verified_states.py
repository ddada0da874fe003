"""The newest state of each table log that a verification found to be exactly as recorded: which entries were alive in it.

With the log's hash blocks this is the whole state, so that a row's place in the verified state root can be proved later.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VerifiedState:
    """``alive``: zlib of one byte per entry, index = seq; ``granted``: the negative seqs of rows that an operator granted."""

    journal_seq: int
    alive: bytes
    granted: tuple[int, ...]


def save(conn: sqlite3.Connection, log: int, state: VerifiedState) -> None:
    """Replace the log's newest verified state."""
    conn.execute(
        "INSERT OR REPLACE INTO verified_states (log, journal_seq, alive, granted) VALUES (?, ?, ?, ?)",
        (log, state.journal_seq, state.alive, json.dumps(state.granted)),
    )


def get(conn: sqlite3.Connection, log: int) -> VerifiedState | None:
    row = conn.execute("SELECT journal_seq, alive, granted FROM verified_states WHERE log = ?", (log,)).fetchone()
    return None if row is None else VerifiedState(row[0], row[1], tuple(json.loads(row[2])))
