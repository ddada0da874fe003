"""Reading a table log: entries, row hashes, chain heads and tiles, from its bundles and its tail.

Seqs start at 1; block n holds 256 n + 1 to 256 n + 256.  Every reader raises StoreCorrupt, naming log and block and what did
not parse, for a block that is missing or not as it was written; whether the hashes *fit* is for the audit of the store to find.
Of a pruned log only tiles, roots and the last chain head can be read; the rest raises EntriesPruned.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any, TypeVar

from witnz.core.entry import first_parent
from witnz.core.hashing import chain_hashes, leaf_hashes
from witnz.core.tiles import TILE, ReadTile
from witnz.core.tiles import root_at as root_from_tiles
from witnz.errors import FormatError, StoreCorrupt, StoreError
from witnz.store.logs import get_log, log_size, readable_size
from witnz.store.packing import HASH_BYTES, NO_ROW, pack_hashes, split_entry, unpack_entries, unpack_rest
from witnz.store.treestore import tile_reader as read_tiles

_T = TypeVar("_T")


def entries(connection: sqlite3.Connection, log_id: int, from_seq: int = 1, to_seq: int | None = None) -> Iterator[bytes]:
    """The entry lines from one seq to another, both included; to the end where ``to_seq`` is None or beyond it."""
    if from_seq < 1:
        raise StoreError(f"log {log_id}: expected a seq from 1 on, found {from_seq}")
    size = readable_size(connection, log_id)
    last = size if to_seq is None else min(to_seq, size)
    if from_seq > last:
        return
    for first, lines in _blocks(connection, log_id, size, (from_seq - 1) // TILE, (last - 1) // TILE):
        yield from lines[max(0, from_seq - first) : last - first + 1]


def entry_at(connection: sqlite3.Connection, log_id: int, seq: int) -> bytes:
    """One entry line; raises StoreError for a seq that the log does not have."""
    for line in entries(connection, log_id, seq, seq):
        return line
    raise StoreError(f"log {log_id} has no entry {seq}")


def entries_with_key(connection: sqlite3.Connection, log_id: int, key_field: bytes) -> Iterator[bytes]:
    """The entry lines whose fourth column is ``key_field``, oldest first; reads the whole log, at the speed of zlib."""
    size = readable_size(connection, log_id)
    query = "SELECT n, count, hashes, rest FROM bundles WHERE log = ? ORDER BY n"
    expected = 0
    for n, count, hashes, rest in connection.execute(query, (log_id,)):
        if n != expected:
            raise _corrupt(log_id, expected, "it is missing")
        expected += 1
        if key_field in _parsed(log_id, n, unpack_rest, rest):
            yield from _with_key(_parsed(log_id, n, unpack_entries, n * TILE + 1, count, hashes, rest), key_field)
    if expected != size // TILE:
        raise _corrupt(log_id, expected, "it is missing")
    yield from _with_key(tail_entries(connection, log_id, size // TILE), key_field)


def row_hash_at(connection: sqlite3.Connection, log_id: int, seq: int) -> bytes | None:
    """The row hash of an entry, None if it has none; raises StoreError for a seq that the log does not have."""
    return row_hashes_at(connection, log_id, [seq])[seq]


def row_hashes_at(connection: sqlite3.Connection, log_id: int, seqs: Iterable[int]) -> dict[int, bytes | None]:
    """The row hashes of any entries by seq, each block read once; raises StoreError for a seq that the log does not have."""
    size = readable_size(connection, log_id)
    found: dict[int, bytes | None] = {}
    for n, group in groupby(sorted(set(seqs)), key=lambda seq: (seq - 1) // TILE):
        wanted = list(group)
        if wanted[0] < 1 or wanted[-1] > size:
            raise StoreError(f"log {log_id} has no entry {wanted[0] if wanted[0] < 1 else wanted[-1]}")
        packed = _hash_block(connection, log_id, n, size)
        for seq in wanted:
            at = (seq - 1 - n * TILE) * HASH_BYTES
            row = packed[at : at + HASH_BYTES]
            found[seq] = None if row == NO_ROW else row
    return found


def iter_hash_blocks(connection: sqlite3.Connection, log_id: int) -> Iterator[tuple[int, int, bytes]]:
    """All row hashes of a log, block after block: (seq of the first, how many, 32 bytes each; 32 zero bytes for none)."""
    size = readable_size(connection, log_id)
    expected = 0
    for n, hashes in connection.execute("SELECT n, hashes FROM bundles WHERE log = ? ORDER BY n", (log_id,)):
        if n != expected or len(hashes) != TILE * HASH_BYTES:
            raise _corrupt(log_id, expected, f"expected {TILE} row hashes")
        yield n * TILE + 1, TILE, hashes
        expected += 1
    if expected != size // TILE:
        raise _corrupt(log_id, expected, "it is missing")
    if size % TILE:
        yield expected * TILE + 1, size % TILE, _hash_block(connection, log_id, expected, size)


def hash_block(connection: sqlite3.Connection, log_id: int, n: int) -> bytes:
    """The row hashes of block n, from its entry ``n * 256 + 1`` on: 32 bytes each, 32 zero bytes for none."""
    return _hash_block(connection, log_id, n, log_size(connection, log_id))


def chain_at(connection: sqlite3.Connection, log_id: int, size: int) -> str:
    """The chain head after ``size`` entries, 64 hex digits, from at most 256 entries; 0 gives the first parent."""
    log = get_log(connection, log_id)
    if not 0 <= size <= log.size:
        raise StoreError(f"log {log_id}: expected a size of at most {log.size}, found {size}")
    if log.status == "pruned" and size == log.size:
        return log.chain
    full = size // TILE
    readable_size(connection, log_id)
    start = block_chain(connection, log_id, full - 1).hex() if full else first_parent(log.origin)
    return chain_hashes(start.encode(), leaf_hashes(list(entries(connection, log_id, full * TILE + 1, size)))).decode()


def root_at(connection: sqlite3.Connection, log_id: int, size: int) -> bytes:
    """The RFC 6962 root of the first ``size`` entries, from O(log size) tiles."""
    return root_from_tiles(tile_reader(connection, log_id, size), size)


def tile_reader(connection: sqlite3.Connection, log_id: int, size: int | None = None) -> ReadTile:
    """Reads the tiles of a log's tree of ``size`` leaves (:func:`witnz.store.treestore.tile_reader`); None: of all of it."""
    have = log_size(connection, log_id)
    if size is not None and not 0 <= size <= have:
        raise StoreError(f"log {log_id}: expected a size of at most {have}, found {size}")

    def tail_leaves(n: int) -> list[bytes]:
        return leaf_hashes(tail_entries(connection, log_id, n))

    return read_tiles(connection, log_id, have if size is None else size, tail_leaves)


def block_chain(connection: sqlite3.Connection, log_id: int, n: int) -> bytes:
    """The chain head after complete block n, 32 raw bytes."""
    row = connection.execute("SELECT chain FROM bundles WHERE log = ? AND n = ?", (log_id, n)).fetchone()
    if row is None or not isinstance(row[0], bytes) or len(row[0]) != HASH_BYTES:
        raise _corrupt(log_id, n, "expected a chain head of 32 bytes")
    return row[0]


def tail_entries(connection: sqlite3.Connection, log_id: int, n: int) -> list[bytes]:
    """The entry lines of block n as far as they are in the tail, oldest first; empty for a block that is complete."""
    query = "SELECT seq, entry FROM tail WHERE log = ? AND seq BETWEEN ? AND ? ORDER BY seq"
    rows = connection.execute(query, (log_id, n * TILE + 1, (n + 1) * TILE)).fetchall()
    if [seq for seq, _ in rows] != list(range(n * TILE + 1, n * TILE + 1 + len(rows))):
        raise _corrupt(log_id, n, "an entry of the tail is missing")
    if not all(isinstance(line, bytes) for _, line in rows):
        raise _corrupt(log_id, n, "an entry of the tail is not bytes")
    return [line for _, line in rows]


def _blocks(connection: sqlite3.Connection, log_id: int, size: int, first: int, last: int) -> Iterator[tuple[int, list[bytes]]]:
    """(seq of the first entry, entry lines) of blocks first..last of a log of ``size`` entries."""
    query = "SELECT n, count, hashes, rest FROM bundles WHERE log = ? AND n BETWEEN ? AND ? ORDER BY n"
    expected = first
    for n, count, hashes, rest in connection.execute(query, (log_id, first, last)):
        if n != expected or count != TILE:
            raise _corrupt(log_id, expected, f"it is missing or does not hold {TILE} entries")
        expected += 1
        yield n * TILE + 1, _parsed(log_id, n, unpack_entries, n * TILE + 1, count, hashes, rest)
    if expected <= last:
        lines = tail_entries(connection, log_id, expected)
        if expected != last or len(lines) != size - last * TILE:
            raise _corrupt(log_id, expected, "it is missing, whole or in part")
        yield expected * TILE + 1, lines


def _hash_block(connection: sqlite3.Connection, log_id: int, n: int, size: int) -> bytes:
    if n < size // TILE:
        row = connection.execute("SELECT hashes FROM bundles WHERE log = ? AND n = ?", (log_id, n)).fetchone()
        if row is None or not isinstance(row[0], bytes) or len(row[0]) != TILE * HASH_BYTES:
            raise _corrupt(log_id, n, f"expected {TILE} row hashes")
        return row[0]
    rows = [split[2] for split in (_parsed(log_id, n, split_entry, line) for line in tail_entries(connection, log_id, n))]
    if len(rows) != size % TILE:
        raise _corrupt(log_id, n, f"expected {size % TILE} entries in the tail, found {len(rows)}")
    return pack_hashes(rows)


def _with_key(lines: list[bytes], key_field: bytes) -> Iterator[bytes]:
    return (line for line in lines if line.split(b"\t", 4)[3] == key_field)


def _parsed(log_id: int, n: int, parse: Callable[..., _T], *arguments: Any) -> _T:
    """What ``parse`` makes of a part of block n; StoreCorrupt, naming the block, where it refuses."""
    try:
        return parse(*arguments)
    except (FormatError, TypeError) as error:
        raise _corrupt(log_id, n, str(error)) from error


def _corrupt(log_id: int, n: int, reason: str) -> StoreCorrupt:
    return StoreCorrupt(
        f"log {log_id}, block {n} (entries from {n * TILE + 1}): {reason}",
        hint="keep a copy of the store as it is, and run `witnz verify --store`",
    )
