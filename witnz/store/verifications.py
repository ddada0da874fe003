"""Results of verification runs, each with the document that ``witnz verify --json`` prints."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from witnz.core.timestamp import format_time
from witnz.errors import StoreCorrupt
from witnz.store.schema import open_utils


@dataclass(frozen=True, slots=True)
class StoredVerification:
    """One run over a generation of a table; ``at``: µs since the Unix epoch; ``journal_seq``: its ``verify`` record, if any."""

    id: int
    table: str
    generation: int
    at: int
    verdict: str
    journal_seq: int | None
    doc: dict[str, Any]


def save(
    connection: sqlite3.Connection,
    *,
    table: str,
    generation: int,
    at: int,
    verdict: str,
    journal_seq: int | None,
    doc: Mapping[str, Any],
) -> int:
    """Keep a result; its id."""
    cursor = connection.execute(
        "INSERT INTO verifications (table_name, generation, at, verdict, journal_seq, doc) VALUES (?, ?, ?, ?, ?, ?)",
        (table, generation, at, verdict, journal_seq, json.dumps(dict(doc), ensure_ascii=False)),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def latest(connection: sqlite3.Connection, table: str) -> StoredVerification | None:
    """The newest result of a table."""
    return next(iter(list_verifications(connection, table=table, limit=1)), None)


def list_verifications(
    connection: sqlite3.Connection, *, table: str | None = None, limit: int | None = 100
) -> list[StoredVerification]:
    """Results, the newest first."""
    where, values = ("1", []) if table is None else ("table_name = ?", [table])
    rows = open_utils(connection).table("verifications").rows_where(where, values, order_by="id DESC", limit=limit)
    return [_row(row) for row in rows]


def last_verified_at(connection: sqlite3.Connection, table: str) -> str | None:
    """When a table was last VERIFIED, as a time of formats.md; None if it never was."""
    query = "SELECT max(at) FROM verifications WHERE table_name = ? AND verdict = 'VERIFIED'"
    at = connection.execute(query, (table,)).fetchone()[0]
    return None if at is None else format_time(at)


def _row(row: dict[str, Any]) -> StoredVerification:
    try:
        doc = json.loads(row["doc"])
    except (TypeError, ValueError) as error:
        raise StoreCorrupt(f"verification {row['id']} in the store cannot be read: {error}") from None
    return StoredVerification(
        row["id"], row["table_name"], row["generation"], row["at"], row["verdict"], row["journal_seq"], doc
    )
