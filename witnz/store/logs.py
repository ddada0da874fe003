"""The register of table logs: one row a generation of a protected table, found by id or by name."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from witnz.errors import EntriesPruned, StoreCorrupt, StoreError
from witnz.store.schema import open_utils

Status = Literal["open", "active", "ended", "provisional", "fetching", "pruned"]
"""``open``: its generation is announced but not decided; ``active``: it records; ``ended``: its generation is over;
``provisional``: a new leaf's log that no ``table`` record has adopted yet; ``fetching``: others give its entries;
``pruned``: it has ended, and of its entries only their hashes are left."""

_STATES: frozenset[str] = frozenset(get_args(Status))
_OF_ONE_LOG = (
    "tail",
    "bundles",
    "tiles",
    "live",
    "runs",
    "live_edge",
    "overlay",
    "undo",
    "spool",
    "images",
    "granted",
    "departed",
    "verified_states",
    "erasures",
)


@dataclass(frozen=True, slots=True)
class LogRow:
    """One row of the register.

    ``table``: ``schema.table``; ``mode``: JSON that the caller keeps with the log; ``columns``: the hint of the newest
    ``schema`` entry and ``schema_seq`` that entry's seq; ``snapshot`` and ``lsn``: the baseline's S and L (formats.md 2);
    ``final_lsn``: where its generation ends, None while that is open.  ``size`` entries, whose chain head is ``chain``, 64 hex
    digits.  ``secret`` is empty where an order has it forgotten.
    """

    id: int
    table: str
    generation: int
    origin: str
    oid: int
    mode: str | None
    secret: bytes
    status: Status
    keyed: bool
    key_columns: tuple[str, ...]
    columns: str
    schema_seq: int
    snapshot: str | None
    lsn: int
    final_lsn: int | None
    size: int
    chain: str


def find_log(connection: sqlite3.Connection, table: str, generation: int | None = None) -> LogRow | None:
    """The log of a table: of this generation, or of its newest; None if there is none."""
    if generation is None:
        return _first(connection, "table_name = ?", [table])
    return _first(connection, "table_name = ? AND generation = ?", [table, generation])


def require_log(connection: sqlite3.Connection, table: str, generation: int) -> LogRow:
    """The log that the journal says is there; raises StoreCorrupt if it is not."""
    row = find_log(connection, table, generation)
    if row is None:
        raise StoreCorrupt(f"the journal names {table}, generation {generation}, and the store has no such log")
    return row


def get_log(connection: sqlite3.Connection, log_id: int) -> LogRow:
    """The log with this id; raises StoreError if there is none."""
    row = _first(connection, "id = ?", [log_id])
    if row is None:
        raise StoreError(f"there is no log {log_id} in the store")
    return row


def log_size(connection: sqlite3.Connection, log_id: int) -> int:
    """How many entries a log has; raises StoreError if there is no such log."""
    row = connection.execute("SELECT size FROM logs WHERE id = ?", (log_id,)).fetchone()
    if row is None:
        raise StoreError(f"there is no log {log_id} in the store")
    return int(row[0])


def readable_size(connection: sqlite3.Connection, log_id: int) -> int:
    """How many entries can be read of a log.  Raises StoreError if there is no such log, EntriesPruned for a pruned one."""
    row = connection.execute("SELECT size, status, table_name, generation FROM logs WHERE id = ?", (log_id,)).fetchone()
    if row is None:
        raise StoreError(f"there is no log {log_id} in the store")
    if row[1] == "pruned":
        raise EntriesPruned(
            f"the entries of {row[2]}, generation {row[3]}, were removed by order; their hashes are kept",
            hint="who kept an entry, or a bundle made before, can still have it verified",
        )
    return int(row[0])


def list_logs(connection: sqlite3.Connection, status: Status | None = None) -> list[LogRow]:
    """All logs, or those of one status, by table and generation."""
    where, values = ("1", []) if status is None else ("status = ?", [status])
    rows = open_utils(connection).table("logs").rows_where(where, values, order_by="table_name, generation")
    return [_row(row) for row in rows]


def insert_log(
    connection: sqlite3.Connection,
    *,
    table: str,
    generation: int,
    origin: str,
    oid: int,
    secret: bytes,
    keyed: bool,
    key_columns: Sequence[str],
    chain: str,
    columns: str = "",
    mode: str | None = None,
    status: Status = "active",
    snapshot: str | None = None,
    lsn: int = 0,
) -> int:
    """Register an empty log; its id.  Raises StoreError if this generation of the table is there already."""
    if find_log(connection, table, generation) is not None:
        raise StoreError(f"log of {table}, generation {generation}, is in the store already")
    cursor = connection.execute(
        "INSERT INTO logs (table_name, generation, origin, oid, mode, secret, status, keyed, key_columns, columns, schema_seq,"
        " snapshot, lsn, size, chain) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, 0, ?)",
        (
            table,
            generation,
            origin,
            oid,
            mode,
            secret,
            status,
            keyed,
            json.dumps(list(key_columns)),
            columns,
            snapshot,
            lsn,
            chain,
        ),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def set_status(connection: sqlite3.Connection, log_id: int, status: Status) -> None:
    """Move a log on."""
    connection.execute("UPDATE logs SET status = ? WHERE id = ?", (status, log_id))


def set_final_lsn(connection: sqlite3.Connection, log_id: int, final_lsn: int | None) -> None:
    """Note the LSN from which on transactions belong to the next generation; None: there is none any more."""
    connection.execute("UPDATE logs SET final_lsn = ? WHERE id = ?", (final_lsn, log_id))


def set_schema(connection: sqlite3.Connection, log_id: int, columns: str, schema_seq: int) -> None:
    """Note the newest ``schema`` entry: its hint and its seq."""
    connection.execute("UPDATE logs SET columns = ?, schema_seq = ? WHERE id = ?", (columns, schema_seq, log_id))


def set_mode(connection: sqlite3.Connection, log_id: int, mode: str) -> None:
    """Replace the JSON that the caller keeps with the log."""
    connection.execute("UPDATE logs SET mode = ? WHERE id = ?", (mode, log_id))


def set_snapshot(connection: sqlite3.Connection, log_id: int, snapshot: str, lsn: int) -> None:
    """Note the baseline's snapshot (text of ``pg_current_snapshot()``) and its LSN."""
    connection.execute("UPDATE logs SET snapshot = ?, lsn = ? WHERE id = ?", (snapshot, lsn, log_id))


def forget_secret(connection: sqlite3.Connection, log_id: int) -> None:
    """Empty the secret of a log: its row hashes can be recomputed by nobody from then on."""
    connection.execute("UPDATE logs SET secret = x'' WHERE id = ?", (log_id,))


def drop_log(connection: sqlite3.Connection, log_id: int) -> None:
    """Remove a log and all that belongs to it: for a generation that was cancelled before it was recorded in the journal."""
    for table in _OF_ONE_LOG:
        connection.execute(f"DELETE FROM {table} WHERE log = ?", (log_id,))  # noqa: S608  names from the list above
    connection.execute("DELETE FROM logs WHERE id = ?", (log_id,))


def _first(connection: sqlite3.Connection, where: str, values: list[Any]) -> LogRow | None:
    cursor = connection.execute(f"SELECT * FROM logs WHERE {where} ORDER BY generation DESC LIMIT 1", values)  # noqa: S608
    names = [column[0] for column in cursor.description]
    return next((_row(dict(zip(names, row, strict=True))) for row in cursor), None)


def _row(row: dict[str, Any]) -> LogRow:
    try:
        key_columns = tuple(json.loads(row["key_columns"]))
        chain = bytes.fromhex(row["chain"])
    except (TypeError, ValueError) as error:
        raise _corrupt(row, str(error)) from None
    if len(chain) != 32 or row["status"] not in _STATES or not isinstance(row["secret"], bytes):
        raise _corrupt(row, "a column is not what belongs there")
    if not all(
        isinstance(row[name], int) and row[name] >= 0 for name in ("id", "generation", "size", "lsn", "schema_seq", "oid")
    ):
        raise _corrupt(row, "a number is not one")
    return LogRow(
        id=row["id"],
        table=row["table_name"],
        generation=row["generation"],
        origin=row["origin"],
        oid=row["oid"],
        mode=row["mode"],
        secret=row["secret"],
        status=row["status"],
        keyed=bool(row["keyed"]),
        key_columns=key_columns,
        columns=row["columns"],
        schema_seq=row["schema_seq"],
        snapshot=row["snapshot"],
        lsn=row["lsn"],
        final_lsn=row["final_lsn"],
        size=row["size"],
        chain=row["chain"],
    )


def _corrupt(row: dict[str, Any], reason: str) -> StoreCorrupt:
    return StoreCorrupt(
        f"log {row['id']} ({row['table_name']}): its row in the register is damaged: {reason}",
        hint="keep a copy of the store as it is, and run `witnz verify --store`",
    )
