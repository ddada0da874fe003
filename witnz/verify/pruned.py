"""What the audit of a store asks of logs of which an order has something forgotten: nothing is gone without an order.

secret forgotten     an order to prune the generation is in effect, or one to erase rows of it or of a later one (or of a
                     partition whose secret was derived from this one's), and it is not the current generation
entries pruned       an order to prune it is in effect; the tiles that are left hash together, to every seal's root and
                     to the end that the next ``table`` record links
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from witnz.core.journal import JournalState
from witnz.core.merkle import HASH_BYTES
from witnz.core.tiles import TILE, Tree, tile_widths
from witnz.errors import ProofError
from witnz.store.logs import LogRow
from witnz.verify.sealed import Sealed, Seals


def check_forgotten(state: JournalState, row: LogRow) -> str:
    """Why the secret of a log is gone, in words.  Raises ProofError where no order explains it."""
    current = state.current_table(row.table)
    if row.status in ("ended", "pruned") and (current is None or current.generation > row.generation):
        pruning = state.orders.pruning(row.table, row.generation)
        if pruning is not None:
            return f"its secret was forgotten by order of record {pruning.seq}"
        erasures = state.orders.all_erasures()
        own = [one for one in erasures if one.table == row.table and one.generation >= row.generation]
        for one in own or erasures:  # a partition's secret may have been derived from its root's, which went with it
            return f"its secret was forgotten by order of record {one.seq}"
    raise ProofError("its secret is gone, and no order of an operator in the journal says so")


def check_pruned(conn: sqlite3.Connection, state: JournalState, row: LogRow, sealed: Iterable[Sealed]) -> str:
    """Hold what is left of a pruned log against the journal.  Raises ProofError for the first thing that does not fit."""
    pruning = state.orders.pruning(row.table, row.generation)
    if pruning is None:
        raise ProofError("its entries are gone, and no order of an operator in the journal says so")
    if row.secret:
        raise ProofError(f"record {pruning.seq} orders it to be pruned, and its secret is still there")
    if conn.execute("SELECT 1 FROM images WHERE log = ? LIMIT 1", (row.id,)).fetchone():
        raise ProofError(f"record {pruning.seq} orders it to be pruned, and row images are still there")
    seals, tree, last = Seals(sealed), Tree(), None
    for n in range((row.size + TILE - 1) // TILE):
        leaves = _tile(conn, row, 0, n)
        for last in seals.up_to(min((n + 1) * TILE, row.size)):
            now = tree.copy()
            now.append(leaves[: last[0] - n * TILE])
            if now.root() != last[1]:
                raise ProofError(f"the hashes up to entry {last[0]} are not the ones that were sealed at that size")
        for tile in tree.append(leaves):
            if b"".join(_tile(conn, row, tile.level, tile.n)) != tile.hashes:
                raise ProofError(f"tile {tile.level}/{tile.n} is not that of the hashes below it")
    if (beyond := seals.beyond()) is not None:
        raise ProofError(f"a seal covers {beyond} entries, and the register says {row.size}")
    if last is not None and last[0] == row.size and last[2] != row.chain:
        raise ProofError("its chain head is not the one that was sealed")
    return f"{row.size} entries were pruned by order of record {pruning.seq}; their hashes lead to {seals.met} sealed roots"


def _tile(conn: sqlite3.Connection, row: LogRow, level: int, n: int) -> list[bytes]:
    found = conn.execute("SELECT hashes FROM tiles WHERE log = ? AND level = ? AND n = ?", (row.id, level, n)).fetchone()
    full, partial = tile_widths(row.size, level)
    width = TILE if n < full else partial
    data = found[0] if found is not None else b""
    if len(data) != width * HASH_BYTES:
        raise ProofError(f"tile {level}/{n}: expected {width} hashes, found {len(data)} bytes")
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]
