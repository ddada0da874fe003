"""The spool: changes of a table whose generation is being opened (formats.md 2, "Generations").

While a baseline is read, nobody knows yet which transactions it contains.  Their entries wait here, hashed and keyed under
the generation's own secret, with seq 1 as a placeholder; row images wait encrypted.  When the generation is adopted they
are replayed in stream order, without those that the snapshot saw; when it is cancelled they are dropped.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from witnz.core import hashing
from witnz.core.entry import parse_entry, schema_hint
from witnz.core.message import Message
from witnz.core.state import split_hashes
from witnz.node.block import Block, Said, Transaction
from witnz.node.images import ImageBox
from witnz.node.table_state import TableState
from witnz.store import logs, spool

REPLAY_ROWS = 8192
_PLACEHOLDER = 1


def spool_block(conn: sqlite3.Connection, table: TableState, block: Block, box: ImageBox | None) -> None:
    """Keep a block until its generation is adopted or cancelled."""
    suffixes = [said.suffix for said in block.said]
    rows = []
    for i in range(len(block)):
        (line,) = hashing.entry_lines(
            _PLACEHOLDER, block.ops[i : i + 1], block.fields[i : i + 1], block.hashes[i : i + 1], suffixes[i : i + 1]
        )
        row_line, row_hash = block.lines[i], block.hashes[i]
        image = None
        if row_line is not None and row_hash is not None and box is not None:
            image = box.seal(table.head.origin, row_hash, row_line)
        rows.append((block.said[i].tx.xid64, line, block.keys[i], b"".join(block.old_hashes[i]), image))
    spool.add_many(conn, table.head.id, rows)


def replay_spool(conn: sqlite3.Connection, table: TableState, box: ImageBox | None) -> Iterator[Block]:
    """The spooled entries again, in order, in blocks; consumed as they are read.

    Left out is what the baseline's snapshot saw, and a schema entry that says what the log's newest one says.
    """
    table.logged_schema = logs.get_log(conn, table.head.id).columns
    block = Block()
    said: Said | None = None
    for xid64, line, key, old_hash, image in spool.take(conn, table.head.id):
        entry = parse_entry(line)
        suffix = line.split(b"\t", 5)[5]
        suffix = b"\t" + suffix
        if said is None or said.suffix != suffix or said.tx.xid64 != xid64:
            message = Message(entry.by, entry.hint if entry.op != "schema" else None, entry.intent)
            tx = Transaction(entry.lsn, entry.xid, xid64, entry.at)
            said = Said(tx, message, suffix)
        if not table.wants(said.tx):
            continue
        if entry.op == "schema":
            if entry.hint == table.logged_schema:
                continue
            table.logged_schema = entry.hint or ""
        row_line = None
        if image is not None and entry.row is not None and box is not None:
            row_line = box.open(table.head.origin, table.head.secret, entry.row, image)
        olds = tuple(split_hashes(old_hash or b""))
        block.add(entry.op.encode(), key, line.split(b"\t", 4)[3], entry.row, said, old_hashes=olds, line=row_line)
        if len(block) >= REPLAY_ROWS:
            yield block
            block = Block()
    if len(block):
        yield block
    now = schema_hint(table.columns, table.identity, table.oid)
    table.pending_schema = now if now != table.logged_schema else None
