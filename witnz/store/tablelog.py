"""Appending to a table log: entries, chain, tree and the blocks they fill, without ever reading the log again.

Rules:
1. Entry ``seq`` is leaf ``seq - 1``; block n holds entries ``256 n + 1`` to ``256 n + 256`` and is tile n of level 0.
2. A complete block is one row of ``bundles`` (:mod:`witnz.store.packing`; ``chain`` is the chain head after it), its leaf
   hashes are one row of ``tiles``.  The newest entries, fewer than 256, are rows of ``tail``, as they are.
3. The register's ``size`` and ``chain`` say how far the log is; a :class:`LogHead` is that in memory, with the right edge of
   the tree.  To load one costs the register's row, the tail, the last bundle's chain and one tile a level.
4. A head belongs to the transaction in which it was loaded or appended to: if that does not commit, load it again.

Reading is in :mod:`witnz.store.entries`, the register in :mod:`witnz.store.logs`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace

from witnz.core.entry import MAX_ENTRY, first_parent
from witnz.core.hashing import chain_hashes, entry_lines, leaf_hashes
from witnz.core.tiles import TILE, Tree
from witnz.errors import FormatError, StoreCorrupt
from witnz.store.entries import block_chain, tail_entries
from witnz.store.logs import Status, get_log, insert_log
from witnz.store.packing import pack_hashes, pack_rest, split_entry
from witnz.store.treestore import load_tree, save_tiles

_Columns = tuple[Sequence[bytes], Sequence[bytes], Sequence[bytes | None], Sequence[bytes]]


@dataclass(slots=True)
class LogHead:
    """Where a table log is: what the next ``append`` goes on from.

    ``chain``: the chain head as 64 ASCII hex digits (:func:`witnz.core.entry.first_parent` of the origin for an empty log);
    ``tail``: the entry lines behind the last complete block, oldest first.
    """

    id: int
    table: str
    generation: int
    origin: str
    secret: bytes
    keyed: bool
    size: int
    chain: bytes
    tree: Tree
    tail: list[bytes]

    def root(self) -> bytes:
        """The RFC 6962 root of all entries."""
        return self.tree.root()

    def copy(self) -> LogHead:
        """An independent head, to go back to where a transaction does not commit."""
        return replace(self, tree=self.tree.copy(), tail=list(self.tail))


def create_log(
    connection: sqlite3.Connection,
    *,
    table: str,
    generation: int,
    origin: str,
    oid: int,
    secret: bytes,
    key_columns: Sequence[str],
    columns: str = "",
    mode: str | None = None,
    status: Status = "active",
    snapshot: str | None = None,
    lsn: int = 0,
) -> LogHead:
    """An empty log of this generation of a table (fields: :class:`witnz.store.logs.LogRow`).

    Raises StoreError if this generation is there already.
    """
    chain = first_parent(origin)
    keyed = bool(key_columns)
    log_id = insert_log(
        connection, table=table, generation=generation, origin=origin, oid=oid, secret=secret, keyed=keyed,
        key_columns=key_columns, columns=columns, mode=mode, status=status, snapshot=snapshot, lsn=lsn, chain=chain,
    )  # fmt: skip
    return LogHead(log_id, table, generation, origin, secret, keyed, 0, chain.encode(), Tree(), [])


def load_head(connection: sqlite3.Connection, log_id: int) -> LogHead:
    """The head of a log, from its tail and the right edge of its tree.

    Raises StoreError if there is no such log, StoreCorrupt where tail, last block, right edge and register do not fit together.
    """
    row = get_log(connection, log_id)
    full, rest = divmod(row.size, TILE)
    tail = tail_entries(connection, log_id, full)
    if len(tail) != rest:
        raise _corrupt(log_id, f"expected {rest} entries behind block {full}, found {len(tail)}")
    leaves = leaf_hashes(tail)
    before = block_chain(connection, log_id, full - 1).hex() if full else first_parent(row.origin)
    if chain_hashes(before.encode(), leaves) != row.chain.encode():
        raise _corrupt(log_id, f"the entries behind block {full} do not lead to its chain head")
    tree = load_tree(connection, log_id, row.size, leaves)
    return LogHead(
        log_id, row.table, row.generation, row.origin, row.secret, row.keyed, row.size, row.chain.encode(), tree, tail
    )


def append(
    connection: sqlite3.Connection,
    head: LogHead,
    ops: Sequence[bytes],
    keys: Sequence[bytes],
    hashes: Sequence[bytes | None],
    suffixes: Sequence[bytes],
) -> int:
    """Add entries, one item of each sequence an entry (:func:`witnz.core.hashing.entry_lines`); the seq of the first.

    Made for thousands at a time.  Raises FormatError, with nothing changed, for an entry over 65,535 bytes.  After any other
    error ``head`` is void.
    """
    first_seq = head.size + 1
    if not ops:
        return first_seq
    lines = entry_lines(first_seq, ops, keys, hashes, suffixes)
    if max(map(len, lines)) > MAX_ENTRY:
        raise FormatError(f"log of {head.table}: expected entries of at most {MAX_ENTRY} bytes, found a longer one")
    leaves = leaf_hashes(lines)
    save_tiles(connection, head.id, head.tree, head.tree.append(leaves))
    start = _save_bundles(connection, head, (ops, keys, hashes, suffixes), leaves)
    if start < len(lines):
        head.chain = chain_hashes(head.chain, leaves[start:])
        seqs = range(first_seq + start, first_seq + len(lines))
        rows = [(head.id, seq, line) for seq, line in zip(seqs, lines[start:], strict=True)]
        connection.executemany("INSERT INTO tail (log, seq, entry) VALUES (?, ?, ?)", rows)
        head.tail += lines[start:]
    head.size += len(lines)
    connection.execute("UPDATE logs SET size = ?, chain = ? WHERE id = ?", (head.size, head.chain.decode(), head.id))
    return first_seq


def _save_bundles(connection: sqlite3.Connection, head: LogHead, columns: _Columns, leaves: Sequence[bytes]) -> int:
    """Write the blocks that the new entries complete, moving ``head.chain`` along; how many of the new entries are in them."""
    rows = []
    if len(head.tail) + len(leaves) < TILE:  # no block is complete yet: nothing to take apart
        return 0
    held = [split_entry(line) for line in head.tail]
    start, n = 0, head.size // TILE
    while (end := start + TILE - len(held)) <= len(leaves):
        ops, keys, hashes, suffixes = columns[0][start:end], columns[1][start:end], columns[2][start:end], columns[3][start:end]
        if held:
            (old_ops, old_keys, old_hashes, old_suffixes), held = zip(*held, strict=True), []
            ops, keys, hashes, suffixes = (
                [*old_ops, *ops],
                [*old_keys, *keys],
                [*old_hashes, *hashes],
                [*old_suffixes, *suffixes],
            )
        head.chain = chain_hashes(head.chain, leaves[start:end])
        chain = bytes.fromhex(head.chain.decode())
        rows.append((head.id, n, TILE, pack_hashes(hashes), chain, pack_rest(ops, keys, suffixes)))
        start, n = end, n + 1
    if rows:
        connection.executemany("INSERT INTO bundles (log, n, count, hashes, chain, rest) VALUES (?, ?, ?, ?, ?, ?)", rows)
        if head.tail:
            connection.execute("DELETE FROM tail WHERE log = ?", (head.id,))
            head.tail = []
    return start


def _corrupt(log_id: int, reason: str) -> StoreCorrupt:
    return StoreCorrupt(f"log {log_id}: {reason}", hint="keep a copy of the store as it is, and run `witnz verify --store`")
