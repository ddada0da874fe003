"""What was ordered to be erased and to be pruned of a table, and how far it has come in one store: ``witnz.orders/1``.

ordered          the rows may be deleted
removed          they are gone; the next generation is about to begin
ending           the generation has ended, its secret is still there
erased           the secret is forgotten; ``erased in part``: some of the rows were not deleted before the generation ended
lapsed           no row was deleted before the generation ended, so nothing was done
"""

from __future__ import annotations

import sqlite3
from typing import Any

from witnz.core.journal import JournalState
from witnz.core.orders import Erasure, Pruning
from witnz.core.timestamp import format_time
from witnz.store import erasures, logs
from witnz.store.logs import LogRow


def orders_document(conn: sqlite3.Connection, state: JournalState, table: str) -> dict[str, Any]:
    """The orders of a table, oldest first; a table that nothing was ordered about has none."""
    orders = state.orders
    return {
        "schema": "witnz.orders/1",
        "table": table,
        "approvers": orders.approvers,
        "erased_rows": erasures.erased_rows(conn, table),
        "erasures": [_erasure(conn, one) for one in orders.all_erasures() if one.table == table],
        "prunings": [_pruning(conn, one) for one in orders.prunings() if one.table == table],
        "waiting": [waiting.to_json() for waiting in orders.all_waiting() if waiting.table == table],
    }


def _common(order: Erasure | Pruning) -> dict[str, Any]:
    return {
        "record": order.seq,
        "at": format_time(order.at),
        "generation": order.generation,
        "operators": list(order.operators),
        "reason": order.reason,
    }


def _erasure(conn: sqlite3.Connection, order: Erasure) -> dict[str, Any]:
    row = logs.find_log(conn, order.table, order.generation)
    made = [] if row is None else [one for one in erasures.of_log(conn, row.id) if one.record == order.seq]
    removed = sum(one.entry is not None for one in made)
    found = {"keys": list(order.keys), "rows": len(order.keys), "removed": removed}
    return {**_common(order), **found, "state": _state(row, removed, len(order.keys))}


def _pruning(conn: sqlite3.Connection, order: Pruning) -> dict[str, Any]:
    row = logs.find_log(conn, order.table, order.generation)
    return {**_common(order), "state": "pruned" if row is not None and row.status == "pruned" else "ordered"}


def _state(row: LogRow | None, removed: int, rows: int) -> str:
    if row is None:
        return "ordered"
    if removed and not row.secret:
        return "erased" if removed == rows else "erased in part"
    if row.status in ("ended", "pruned"):
        return "ending" if removed else "lapsed"
    return "removed" if removed == rows else "ordered"
