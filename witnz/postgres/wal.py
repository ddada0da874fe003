"""Where the server writes its WAL now, and where it left another course of history (PostgreSQL 9.27, 53.4)."""

from __future__ import annotations

from typing import Any

import psycopg

from witnz.core.lsn import parse_lsn
from witnz.postgres.session import Conninfo, connect

MAX_HISTORY_BYTES = 1 << 20


def insert_lsn(conn: psycopg.Connection[Any]) -> int:
    """Where WAL is written to now; everything committed before lies below."""
    return _lsn(conn, "SELECT pg_current_wal_insert_lsn()::text")


def checkpoint_lsn(conn: psycopg.Connection[Any]) -> int:
    """Where the newest checkpoint lies.  A server that was just started has written one behind all that it found."""
    return _lsn(conn, "SELECT checkpoint_lsn::text FROM pg_control_checkpoint()")


def switch_lsn(conninfo: Conninfo, left: int, timeline: int) -> int | None:
    """Where the history of ``timeline`` left the timeline ``left``; None if the server has no history of it.

    Where ``left`` is no ancestor of ``timeline``: where their common ancestor was left at the latest.
    """
    with connect(conninfo, replication=True, application_name="witnz history") as conn:
        try:
            row = conn.execute(f"TIMELINE_HISTORY {int(timeline)}".encode()).fetchone()
        except psycopg.Error:
            return None
    if row is None or len(row[1]) > MAX_HISTORY_BYTES:
        return None
    text = bytes(row[1]).decode("utf-8", "replace") if isinstance(row[1], bytes | memoryview) else str(row[1])
    return history_switch(text, left)


def history_switch(text: str, left: int) -> int | None:
    """What a timeline history file (lines of timeline, LSN and reason) says of where ``left`` was left."""
    before: int | None = None
    for line in text.splitlines():
        fields = line.split(None, 2)
        if len(fields) < 2 or not fields[0].isdigit():
            continue  # empty lines and comments
        if int(fields[0]) > left:
            break
        before = parse_lsn(fields[1])
    return before


def _lsn(conn: psycopg.Connection[Any], query: str) -> int:
    row = conn.execute(query.encode()).fetchone()
    if row is None:
        raise psycopg.OperationalError("a query for one row gave none")
    return parse_lsn(row[0])
