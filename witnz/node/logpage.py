"""Entries of a table log as JSON, page by page: what ``witnz log show`` prints."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from witnz.core.entry import Entry, audit_id, chain_hash, content_hash, key_cell, parse_entry
from witnz.core.keyplan import key_text
from witnz.core.lsn import format_lsn
from witnz.core.rowline import escape
from witnz.core.timestamp import format_time
from witnz.store import entries
from witnz.store.logs import LogRow

Document = dict[str, Any]


def log_page(
    conn: sqlite3.Connection, row: LogRow, first: int, last: int, state_key: bytes | None, limit: int
) -> tuple[list[Document], int | None]:
    """At most ``limit`` entries from seq ``first`` to ``last``, and the seq at which the next page begins (None: none follows).

    ``state_key``: only those of one row.  Without it each entry comes with its chain hash and audit id.
    """
    found = _in_order(conn, row, first, last) if state_key is None else _of_key(conn, row, first, last, state_key)
    shown: list[Document] = []
    for document in found:
        if len(shown) == limit:
            return shown, document["seq"]
        shown.append(document)
    return shown, None


def entry_document(entry: Entry) -> Document:
    """An entry as JSON: hashes in hex, LSN and time as text, the key as findings show it."""
    return {
        "seq": entry.seq,
        "op": entry.op,
        "key": key_text(key_cell(entry)),
        "row": None if entry.row is None else entry.row.hex(),
        "lsn": format_lsn(entry.lsn),
        "xid": entry.xid,
        "at": format_time(entry.at),
        "by": entry.by,
        "hint": entry.hint,
        "intent": entry.intent,
    }


def _in_order(conn: sqlite3.Connection, row: LogRow, first: int, last: int) -> Iterator[Document]:
    if first > last:
        return
    chain = entries.chain_at(conn, row.id, first - 1)
    for line in entries.entries(conn, row.id, first, last):
        chain = chain_hash(chain, content_hash(line))
        yield entry_document(parse_entry(line)) | {"chain_hash": chain, "audit_id": audit_id(chain)}


def _of_key(conn: sqlite3.Connection, row: LogRow, first: int, last: int, state_key: bytes) -> Iterator[Document]:
    field = state_key if state_key.startswith(b"\\H") else escape(state_key)
    for line in entries.entries_with_key(conn, row.id, field):
        entry = parse_entry(line)
        if first <= entry.seq <= last:
            yield entry_document(entry)
