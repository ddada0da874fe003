"""The outbox of alerts: what has to be sent, kept until it was, so that nothing is lost in a crash and nothing goes out twice.

    pending ── delivered     the sink has taken it
       │
       └────── dead          given up after too many attempts; kept for people to see

A message is named by ``dedup`` and its sink: what is enqueued a second time is there already.  Sending is at least once: a
crash between the sink's answer and ``mark_delivered`` sends again.  Times are seconds since the Unix epoch.
"""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass

from witnz.store.schema import open_utils

MAX_ERROR_CHARS = 500
BY = "sent by "


@dataclass(frozen=True, slots=True)
class Message:
    """One message to one sink.  ``attempts`` were made; the next is due at ``next_at``."""

    id: int
    dedup: str
    sink: str
    payload: str
    state: str
    attempts: int
    next_at: float
    last_error: str | None
    created_at: float


def enqueue(connection: sqlite3.Connection, dedup: str, sink: str, payload: str, *, now: float | None = None) -> bool:
    """Put a message in, due at once; False if it is there already, whatever became of it."""
    at = time.time() if now is None else now
    cursor = connection.execute(
        "INSERT OR IGNORE INTO outbox (dedup, sink, payload, state, attempts, next_at, created_at)"
        " VALUES (?, ?, ?, 'pending', 0, ?, ?)",
        (dedup, sink, payload, at, at),
    )
    return cursor.rowcount == 1


def due(connection: sqlite3.Connection, now: float, limit: int, *, sink: str | None = None) -> list[Message]:
    """Pending messages whose time has come, for all sinks or one, in the order in which they were put in."""
    where = "state = 'pending' AND next_at <= :now AND (:sink IS NULL OR sink = :sink)"
    outbox = open_utils(connection).table("outbox")
    return [Message(**row) for row in outbox.rows_where(where, {"now": now, "sink": sink}, order_by="id", limit=limit)]


def next_due_at(connection: sqlite3.Connection) -> float | None:
    """When the next pending message is due; None if none is pending."""
    at = connection.execute("SELECT min(next_at) FROM outbox WHERE state = 'pending'").fetchone()[0]
    return None if at is None else float(at)


def newest_pending_at(connection: sqlite3.Connection) -> float | None:
    """When the newest pending message was put in; None if none is pending."""
    at = connection.execute("SELECT max(created_at) FROM outbox WHERE state = 'pending'").fetchone()[0]
    return None if at is None else float(at)


def advance(connection: sqlite3.Connection, seconds: float) -> None:
    """Make every pending message due so much earlier: the clock by which it is due was set back."""
    connection.execute("UPDATE outbox SET next_at = next_at - ? WHERE state = 'pending'", (seconds,))


def mark_delivered(connection: sqlite3.Connection, message_id: int) -> None:
    """The sink has taken a message."""
    connection.execute(
        "UPDATE outbox SET state = 'delivered', attempts = attempts + 1, last_error = NULL WHERE id = ?", (message_id,)
    )


def mark_delivered_by(connection: sqlite3.Connection, dedup: str, sink: str, node: str) -> None:
    """Another node has sent this message; one that waits here need not go out any more."""
    connection.execute(
        "UPDATE outbox SET state = 'delivered', last_error = ? WHERE dedup = ? AND sink = ? AND state = 'pending'",
        (f"{BY}{node}", dedup, sink),
    )


def delivered_here(connection: sqlite3.Connection, after_id: int, limit: int) -> list[tuple[int, str, str]]:
    """(id, dedup, sink) of messages with a greater id that this node has sent itself, oldest first."""
    query = "SELECT id, dedup, sink FROM outbox WHERE id > ? AND state = 'delivered' AND last_error IS NULL ORDER BY id LIMIT ?"
    return [(int(row[0]), str(row[1]), str(row[2])) for row in connection.execute(query, (after_id, limit))]


def withdraw(connection: sqlite3.Connection, dedup: str) -> bool:
    """Send nothing more under this name; whether somebody may have been told under it."""
    told = connection.execute("SELECT 1 FROM outbox WHERE dedup = ? AND (state = 'delivered' OR attempts > 0)", (dedup,))
    known = told.fetchone() is not None
    connection.execute("DELETE FROM outbox WHERE dedup = ? AND state = 'pending'", (dedup,))
    return known


def names_due(connection: sqlite3.Connection, now: float) -> set[tuple[int, float]]:
    """(id, created_at) of the pending messages that are due: the id of one that was withdrawn is given again."""
    query = "SELECT id, created_at FROM outbox WHERE state = 'pending' AND next_at <= ?"
    return {(int(row[0]), float(row[1])) for row in connection.execute(query, (now,))}


def mark_failed(connection: sqlite3.Connection, message_id: int, error: str, next_at: float | None) -> None:
    """An attempt failed; the next is due at ``next_at``, None: there will be none."""
    connection.execute(
        "UPDATE outbox SET attempts = attempts + 1, last_error = ?1, next_at = coalesce(?2, next_at),"
        " state = CASE WHEN ?2 IS NULL THEN 'dead' ELSE 'pending' END WHERE id = ?3",
        (error[:MAX_ERROR_CHARS], next_at, message_id),
    )


def counts(connection: sqlite3.Connection, sink: str | None = None) -> dict[str, int]:
    """How many messages are ``pending``, ``delivered`` and ``dead``, for all sinks or one."""
    query = "SELECT state, count(*) FROM outbox WHERE ?1 IS NULL OR sink = ?1 GROUP BY state"
    return {"pending": 0, "delivered": 0, "dead": 0} | dict(connection.execute(query, (sink,)).fetchall())
