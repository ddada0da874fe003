from __future__ import annotations

import sqlite3

from witnz.store import outbox
from witnz.store.database import Database


def test_a_message_goes_in_once_per_sink(conn: sqlite3.Connection) -> None:
    assert outbox.enqueue(conn, "F-1/open", "slack", "{}", now=10.0)
    assert not outbox.enqueue(conn, "F-1/open", "slack", "{other}", now=11.0)
    assert outbox.enqueue(conn, "F-1/open", "pagerduty", "{}", now=11.0)
    assert outbox.enqueue(conn, "F-2/open", "slack", "{}", now=12.0)
    assert [(m.dedup, m.sink, m.payload) for m in outbox.due(conn, 20.0, 10)] == [
        ("F-1/open", "slack", "{}"), ("F-1/open", "pagerduty", "{}"), ("F-2/open", "slack", "{}"),
    ]  # fmt: skip
    assert [m.dedup for m in outbox.due(conn, 20.0, 10, sink="slack")] == ["F-1/open", "F-2/open"]
    assert [m.dedup for m in outbox.due(conn, 20.0, 1)] == ["F-1/open"]
    assert outbox.due(conn, 9.9, 10) == []


def test_what_was_delivered_never_comes_again(conn: sqlite3.Connection) -> None:
    outbox.enqueue(conn, "a", "slack", "{}", now=1.0)
    (message,) = outbox.due(conn, 1.0, 10)
    outbox.mark_delivered(conn, message.id)
    assert outbox.due(conn, 1e12, 10) == []
    assert not outbox.enqueue(conn, "a", "slack", "{}", now=2.0)
    assert outbox.counts(conn) == {"pending": 0, "delivered": 1, "dead": 0}
    assert outbox.next_due_at(conn) is None


def test_a_failure_waits_its_time_and_at_last_is_given_up(conn: sqlite3.Connection) -> None:
    outbox.enqueue(conn, "a", "slack", "{}", now=1.0)
    outbox.mark_failed(conn, 1, "HTTP 500", 31.0)
    assert outbox.due(conn, 30.0, 10) == []
    assert outbox.next_due_at(conn) == 31.0
    (message,) = outbox.due(conn, 31.0, 10)
    assert (message.attempts, message.last_error, message.created_at) == (1, "HTTP 500", 1.0)
    outbox.mark_failed(conn, 1, "x" * 5_000, None)
    assert outbox.due(conn, 1e12, 10) == []
    assert outbox.counts(conn) == {"pending": 0, "delivered": 0, "dead": 1}
    assert outbox.counts(conn, "pagerduty") == {"pending": 0, "delivered": 0, "dead": 0}
    assert conn.execute("SELECT attempts, length(last_error) FROM outbox").fetchone() == (2, 500)


def test_what_waits_survives_a_restart(database: Database) -> None:
    with database.write() as conn:
        outbox.enqueue(conn, "a", "slack", "{}")
    with Database.open(database.path) as again, again.read() as conn:
        (message,) = outbox.due(conn, 4e9, 10)
        assert message.dedup == "a"
        assert message.created_at > 1.7e9
