"""The trees' tiles in the store, for the table logs and, as log 0, for the journal.

Complete tiles of every level are rows; so is the newest partial tile of each level from 1 on, written over as it grows.  The
partial tile of level 0 is not kept: it is the leaf hashes of the newest fewer than 256 leaves, which are kept themselves.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import lru_cache

from witnz.core.merkle import HASH_BYTES
from witnz.core.tiles import MAX_LEVEL, TILE, FullTile, ReadTile, Tree, tile_widths
from witnz.errors import StoreCorrupt, StoreError

JOURNAL_LOG = 0
_CACHED_TILES = 64

TailLeaves = Callable[[int], Sequence[bytes]]
"""``tail_leaves(n)`` gives the leaf hashes of tile n of level 0 while it is not complete; otherwise none."""


def save_tiles(connection: sqlite3.Connection, log_id: int, tree: Tree, completed: Sequence[FullTile]) -> None:
    """Write what ``tree.append`` completed, and the partial tiles that changed with it."""
    if not completed:
        return
    rows = [(log_id, tile.level, tile.n, tile.hashes) for tile in completed]
    for level in range(1, completed[-1].level + 2):
        partial = tree.partial(level)
        if partial:
            rows.append((log_id, level, tile_widths(tree.size, level)[0], partial))
    connection.executemany("INSERT OR REPLACE INTO tiles (log, level, n, hashes) VALUES (?, ?, ?, ?)", rows)


def load_tree(connection: sqlite3.Connection, log_id: int, size: int, tail_leaves: Sequence[bytes]) -> Tree:
    """The right edge of the tree of ``size`` leaves, from one tile a level and the leaf hashes behind the last tile of level 0.

    Raises StoreCorrupt where a tile is missing or of another width.
    """
    edge = [list(tail_leaves)] if size else []
    level = 1
    while tile_widths(size, level) != (0, 0):
        n, width = tile_widths(size, level)
        data = _load(connection, log_id, level, n) if width else b""
        if len(data) != width * HASH_BYTES:
            raise _unlike(log_id, level, n, width, data)
        edge.append(_hashes(data))
        level += 1
    return Tree(size, edge)


def tile_reader(connection: sqlite3.Connection, log_id: int, size: int, tail_leaves: TailLeaves) -> ReadTile:
    """Reads tiles of the tree of ``size`` leaves, at most the log's: ``read(level, n, width)`` gives width * 32 bytes.

    A tile that has grown since is cut.  Good as long as the transaction of ``connection`` lasts.  ``read`` raises StoreError
    for a tile that the tree does not have, StoreCorrupt for one that is missing or too short.
    """

    @lru_cache(maxsize=_CACHED_TILES)
    def load(level: int, n: int) -> bytes:
        data = _load(connection, log_id, level, n)
        return b"".join(tail_leaves(n)) if level == 0 and not data else data

    def read(level: int, n: int, width: int) -> bytes:
        if not (0 <= level <= MAX_LEVEL and n >= 0 and 1 <= width <= TILE and n * TILE + width <= size >> (8 * level)):
            raise StoreError(f"log {log_id}: a tree of size {size} has no tile {n} of width {width} at level {level}")
        data = load(level, n)
        if len(data) < width * HASH_BYTES or len(data) % HASH_BYTES:
            raise _unlike(log_id, level, n, width, data)
        return data[: width * HASH_BYTES]

    return read


def _load(connection: sqlite3.Connection, log_id: int, level: int, n: int) -> bytes:
    row = connection.execute("SELECT hashes FROM tiles WHERE log = ? AND level = ? AND n = ?", (log_id, level, n)).fetchone()
    return row[0] if row and isinstance(row[0], bytes) else b""


def _hashes(data: bytes) -> list[bytes]:
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]


def _unlike(log_id: int, level: int, n: int, width: int, data: bytes) -> StoreCorrupt:
    return StoreCorrupt(
        f"log {log_id}: tile {n} of level {level}: expected {width} hashes of {HASH_BYTES} bytes, found {len(data)} bytes",
        hint="keep a copy of the store as it is, and run `witnz verify --store`",
    )
