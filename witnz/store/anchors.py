"""The outbox of anchors: for each what is under way, what it must remember, how its last attempt went; and what looks found.

    idle ── begin ──> under way ── hold ──> receipt in hand ── settle ──> idle       (the receipt stands in the journal)
              ^           │ mark_failed: error, next_at
              └── kept ───┘       drop: it cannot be published any more

A crash at any moment loses nothing: what is under way is gone on with, a receipt in hand is journalled.  ``memory`` is the
anchor's own and outlasts publications.  Times are µs since the Unix epoch.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from witnz.core.receipt import Receipt, parse_receipt
from witnz.store.schema import open_utils

MAX_ERROR_CHARS = 1000


@dataclass(frozen=True, slots=True)
class StoredAnchor:
    """One configured anchor.

    ``note``: the checkpoint under way; ``receipt``: in hand and not in the journal yet, ``complete``: nothing better will come;
    ``attempts`` failed in a row, the last with ``error`` (``refused``: time alone does not help), the next not before
    ``next_at``; ``reason``: why what is under way is not done; ``since``: when it was configured.
    """

    name: str
    type: str
    place: str
    since: int
    note: str | None
    receipt: Receipt | None
    complete: bool
    attempts: int
    next_at: int
    error: str | None
    hint: str | None
    refused: bool
    reason: str | None
    tried_at: int | None


@dataclass(frozen=True, slots=True)
class StoredLook:
    """What the last look at the receipt in journal record ``seq`` found: ``status`` ok, fail or skip, and every check."""

    seq: int
    at: int
    status: str
    checks: Sequence[Mapping[str, Any]]


def configure(connection: sqlite3.Connection, name: str, kind: str, place: str, now: int) -> None:
    """Note that an anchor of this name is configured; one of another type under the name before starts anew."""
    row = connection.execute("SELECT type FROM anchors WHERE name = ?", (name,)).fetchone()
    if row is not None and row[0] == kind:
        connection.execute("UPDATE anchors SET place = ?, next_at = 0 WHERE name = ?", (place, name))
        return
    connection.execute(
        "INSERT OR REPLACE INTO anchors (name, type, place, since, memory, complete, attempts, next_at, refused)"
        " VALUES (?, ?, ?, ?, '{}', 0, 0, 0, 0)",
        (name, kind, place, now),
    )


def get(connection: sqlite3.Connection, name: str) -> StoredAnchor | None:
    rows = open_utils(connection).table("anchors").rows_where("name = ?", [name])
    return next((_anchor(row) for row in rows), None)


def list_anchors(connection: sqlite3.Connection) -> list[StoredAnchor]:
    """Every anchor that was ever configured, by name."""
    return [_anchor(row) for row in open_utils(connection).table("anchors").rows_where(order_by="name")]


def begin(connection: sqlite3.Connection, name: str, note: str, now: int) -> None:
    """Put a checkpoint under way."""
    connection.execute(
        "UPDATE anchors SET note = ?, receipt = NULL, complete = 0, reason = NULL, next_at = 0, tried_at = ? WHERE name = ?",
        (note, now, name),
    )


def drop(connection: sqlite3.Connection, name: str) -> None:
    """What was under way cannot be published any more."""
    connection.execute("UPDATE anchors SET note = NULL, receipt = NULL, reason = NULL WHERE name = ?", (name,))


def hold(connection: sqlite3.Connection, name: str, receipt: Receipt, *, complete: bool) -> None:
    """Keep a receipt until it stands in the journal."""
    text = json.dumps(dict(receipt.members), ensure_ascii=False)
    connection.execute("UPDATE anchors SET receipt = ?, complete = ? WHERE name = ?", (text, int(complete), name))


def settle(connection: sqlite3.Connection, name: str) -> None:
    """The receipt in hand stands in the journal; what was under way is done, unless a better receipt will come."""
    connection.execute(
        "UPDATE anchors SET receipt = NULL, note = CASE WHEN complete THEN NULL ELSE note END, attempts = 0, error = NULL,"
        " hint = NULL, refused = 0, reason = CASE WHEN complete THEN NULL ELSE reason END WHERE name = ?",
        (name,),
    )


def mark_pending(connection: sqlite3.Connection, name: str, reason: str, next_at: int) -> None:
    """The anchor has it under way and asks for patience."""
    connection.execute(
        "UPDATE anchors SET reason = ?, next_at = ?, attempts = 0, error = NULL, hint = NULL, refused = 0 WHERE name = ?",
        (reason[:MAX_ERROR_CHARS], next_at, name),
    )


def mark_failed(connection: sqlite3.Connection, name: str, error: str, hint: str, *, refused: bool, next_at: int) -> None:
    """An attempt failed; the next is due at ``next_at``."""
    connection.execute(
        "UPDATE anchors SET attempts = attempts + 1, error = ?, hint = ?, refused = ?, next_at = ? WHERE name = ?",
        (error[:MAX_ERROR_CHARS], hint[:MAX_ERROR_CHARS], int(refused), next_at, name),
    )


def load_memory(connection: sqlite3.Connection, name: str) -> dict[str, Any]:
    """What an anchor remembers; empty for one that is not configured."""
    row = connection.execute("SELECT memory FROM anchors WHERE name = ?", (name,)).fetchone()
    document: dict[str, Any] = {} if row is None else json.loads(row[0])
    return document


def save_memory(connection: sqlite3.Connection, name: str, document: Mapping[str, Any]) -> None:
    text = json.dumps(dict(document), ensure_ascii=False)
    connection.execute("UPDATE anchors SET memory = ? WHERE name = ?", (text, name))


def save_look(connection: sqlite3.Connection, look: StoredLook) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO anchor_looks (seq, at, status, checks) VALUES (?, ?, ?, ?)",
        (look.seq, look.at, look.status, json.dumps(list(look.checks), ensure_ascii=False)),
    )


def load_look(connection: sqlite3.Connection, seq: int) -> StoredLook | None:
    row = connection.execute("SELECT seq, at, status, checks FROM anchor_looks WHERE seq = ?", (seq,)).fetchone()
    return None if row is None else StoredLook(row[0], row[1], row[2], json.loads(row[3]))


def _anchor(row: Mapping[str, Any]) -> StoredAnchor:
    members = {name: row[name] for name in StoredAnchor.__dataclass_fields__ if name not in ("receipt", "complete", "refused")}
    receipt = None if row["receipt"] is None else parse_receipt(json.loads(row["receipt"]))
    return StoredAnchor(**members, receipt=receipt, complete=bool(row["complete"]), refused=bool(row["refused"]))
