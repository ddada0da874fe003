"""Where a row line comes from when a bundle is to show the row itself: a retained image, or the table as it is now.

Whatever the source says is hashed and compared with the entry, so a line that is handed out is the line that was recorded.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import sql

from witnz.core.entry import parse_entry
from witnz.core.names import parse_table_name
from witnz.core.rowline import parse_line, row_hash
from witnz.node.images import ImageBox
from witnz.node.log_notes import LogNotes
from witnz.postgres import catalog
from witnz.store import entries, images, logs
from witnz.store.logs import LogRow


class RowLines:
    """``(conn, log, seq) -> row line``; None where neither an image nor the table has the row any more."""

    def __init__(self, box: ImageBox, connect: Callable[[], psycopg.Connection[Any]]) -> None:
        self._box, self._connect = box, connect

    def __call__(self, conn: sqlite3.Connection, log: int, seq: int) -> bytes | None:
        row = logs.get_log(conn, log)
        entry = parse_entry(entries.entry_at(conn, log, seq))
        if entry.row is None:
            return None
        sealed = images.get(conn, log, seq)
        if sealed is not None:
            return self._box.open(row.origin, row.secret, entry.row, sealed)
        if entry.key is None:
            return None  # without a readable key there is nothing to look the row up by
        line = self._from_table(row, entry.key)
        return line if line is not None and row_hash(row.secret, line) == entry.row else None

    def _from_table(self, row: LogRow, key: bytes) -> bytes | None:
        with self._connect() as db:
            info = catalog.find_table(db, *parse_table_name(row.table))
            if info is None:
                return None
            excluded = LogNotes.of(row).excluded
            columns = [column.name for column in info.replicated_columns if column.name not in excluded]
            values = [(value or b"").decode() for value in parse_line(key)]
            query = sql.SQL("COPY (SELECT {} FROM ONLY {} WHERE {}) TO STDOUT").format(
                sql.SQL(", ").join(map(sql.Identifier, columns)),
                sql.Identifier(info.schema, info.name),
                sql.SQL(" AND ").join(
                    sql.SQL("{}::text = {}").format(sql.Identifier(name), sql.Literal(value))
                    for name, value in zip(row.key_columns, values, strict=True)
                ),
            )
            with db.cursor().copy(query) as copy:
                data = b"".join(bytes(block) for block in copy)
        return data[:-1] if data.count(b"\n") == 1 else None
