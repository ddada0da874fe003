"""Rows that operators ordered to be erased: which delete of which key an order covers, and whether it has come.

One row an order and key.  ``base``: the log's sealed size when the order took effect; ``entry``: the seq of the delete that it
covered, None while that is awaited, NOTHING where the row was not there any more (nothing will be covered then).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

NOTHING: Final = 0


@dataclass(frozen=True, slots=True)
class Ordered:
    """One key of one order; ``key`` is a state key, ``record`` the seq of the ``erase`` record in the journal."""

    log: int
    key: bytes
    record: int
    base: int
    entry: int | None


def add(conn: sqlite3.Connection, log: int, record: int, base: int, items: Iterable[tuple[bytes, int | None]]) -> None:
    """Note an order; ``items``: key, and the entry that it covers already.  What is noted already stays as it is."""
    rows = [(log, key, record, base, entry) for key, entry in items]
    conn.executemany("INSERT OR IGNORE INTO erasures (log, k, record, base, entry) VALUES (?, ?, ?, ?, ?)", rows)


def awaited(conn: sqlite3.Connection, log: int) -> dict[bytes, int]:
    """The keys whose delete is awaited: key -> base, the lowest where several orders name a key."""
    query = "SELECT k, min(base) FROM erasures WHERE log = ? AND entry IS NULL GROUP BY k"
    return {bytes(key): int(base) for key, base in conn.execute(query, (log,))}


def cover(conn: sqlite3.Connection, log: int, key: bytes, seq: int) -> None:
    """The delete with this seq is what every order that awaits one of this key has covered."""
    conn.execute("UPDATE erasures SET entry = ? WHERE log = ? AND k = ? AND entry IS NULL AND base < ?", (seq, log, key, seq))


def cover_all(conn: sqlite3.Connection, log: int, seq: int) -> None:
    """A truncate with this seq took every row that is still awaited; nothing that comes after it is covered."""
    conn.execute("UPDATE erasures SET entry = ? WHERE log = ? AND entry IS NULL AND base < ?", (seq, log, seq))


def of_log(conn: sqlite3.Connection, log: int) -> list[Ordered]:
    """Everything that was ordered about one log, by record and key."""
    rows = conn.execute("SELECT log, k, record, base, entry FROM erasures WHERE log = ? ORDER BY record, k", (log,))
    return [Ordered(*row) for row in rows]


def logs_named(conn: sqlite3.Connection) -> list[int]:
    """The logs that some order is about."""
    return [int(row[0]) for row in conn.execute("SELECT DISTINCT log FROM erasures ORDER BY log")]


def erased_rows(conn: sqlite3.Connection, table: str) -> int:
    """How many rows of a table have gone by order, over all of its generations."""
    query = (
        "SELECT count(*) FROM (SELECT DISTINCT e.log, e.k, e.entry FROM erasures e JOIN logs l ON l.id = e.log"
        " WHERE l.table_name = ? AND e.entry IS NOT NULL)"
    )
    return int(conn.execute(query, (table,)).fetchone()[0])
