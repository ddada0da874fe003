"""Entries that come from a peer instead of the stream, and the end of a log that is taken back.

Whoever calls has checked the lines against a root that was signed or voted on; here they only have to be what this program
would have written, so that block, chain and tree come out alike on every node.  Nothing here touches accepted or applied state.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from witnz.core.entry import first_parent
from witnz.core.hashing import entry_lines
from witnz.core.merkle import HASH_BYTES
from witnz.core.tiles import TILE, tile_widths
from witnz.errors import FormatError, StoreError
from witnz.store.entries import block_chain
from witnz.store.logs import get_log, log_size
from witnz.store.packing import split_entry
from witnz.store.tablelog import LogHead, append, load_head
from witnz.store.treestore import JOURNAL_LOG


def append_lines(connection: sqlite3.Connection, head: LogHead, lines: Sequence[bytes]) -> None:
    """Add entry lines as they are.  Raises FormatError, with nothing changed, for one that is not spelled as we spell it."""
    if not lines:
        return
    ops, keys, hashes, suffixes = (list(column) for column in zip(*map(split_entry, lines), strict=True))
    if entry_lines(head.size + 1, ops, keys, hashes, suffixes) != list(lines):
        raise FormatError(f"log of {head.table}: expected entries from {head.size + 1} on, found other spellings or numbers")
    append(connection, head, ops, keys, hashes, suffixes)


def truncate_log(connection: sqlite3.Connection, log_id: int, blocks: int) -> LogHead:
    """Take a log back to its first ``blocks`` complete blocks; the head that it has then.

    Raises StoreError for more blocks than the log has.
    """
    row = get_log(connection, log_id)
    size = blocks * TILE
    if not 0 <= size <= row.size:
        raise StoreError(f"log {log_id}: expected at most {row.size // TILE} blocks, found {blocks}")
    chain = block_chain(connection, log_id, blocks - 1).hex() if blocks else first_parent(row.origin)
    connection.execute("DELETE FROM tail WHERE log = ?", (log_id,))
    connection.execute("DELETE FROM bundles WHERE log = ? AND n >= ?", (log_id, blocks))
    connection.execute("DELETE FROM images WHERE log = ? AND seq > ?", (log_id, size))
    _cut_tiles(connection, log_id, size)
    connection.execute("UPDATE logs SET size = ?, chain = ? WHERE id = ?", (size, chain, log_id))
    return load_head(connection, log_id)


def clear_state(connection: sqlite3.Connection, log_id: int) -> None:
    """Forget what follows from a log's entries; it is about to be derived anew."""
    log_size(connection, log_id)
    derived = ("live", "runs", "live_edge", "overlay", "undo", "granted", "departed", "spool", "verified_states", "erasures")
    for table in derived:
        connection.execute(f"DELETE FROM {table} WHERE log = ?", (log_id,))  # noqa: S608  names from the line above


def truncate_journal(connection: sqlite3.Connection, size: int) -> None:
    """Take the journal back to its first ``size`` records; whoever holds its head loads it again."""
    full = size // TILE * TILE
    connection.execute("DELETE FROM journal WHERE seq > ?", (size,))
    connection.execute("DELETE FROM checkpoints WHERE size > ?", (size,))
    _cut_tiles(connection, JOURNAL_LOG, full)


def _cut_tiles(connection: sqlite3.Connection, log_id: int, size: int) -> None:
    """Leave of the tiles what the tree of ``size`` leaves, a multiple of 256, has."""
    levels = connection.execute("SELECT DISTINCT level FROM tiles WHERE log = ?", (log_id,)).fetchall()
    for (level,) in levels:
        full, width = tile_widths(size, level)
        connection.execute(
            "DELETE FROM tiles WHERE log = ? AND level = ? AND n > ?", (log_id, level, full if width else full - 1)
        )
        connection.execute(
            "UPDATE tiles SET hashes = substr(hashes, 1, ?) WHERE log = ? AND level = ? AND n = ?",
            (width * HASH_BYTES, log_id, level, full),
        )
