"""The skeleton of a sealed log: a hash of every complete block, proved under the seal's root before any entry is believed.

Block b holds entries 256 b + 1 to 256 b + 256; its hash is hash b of level 1 of the tree (c2sp.org/tlog-tiles).  Whoever has
all of them, and the leaf hashes of the last, incomplete block, can compute the root; where that is the root of the seal each
block can be checked alone, as it arrives, and a wrong one is refused at once.  It costs 32 bytes for 256 entries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from witnz.core.hashing import leaf_hashes, subtree_root
from witnz.core.journal_facts import LogHead
from witnz.core.merkle import HASH_BYTES
from witnz.core.tiles import TILE, Tree, tile_widths
from witnz.errors import ProofError

AskTile = Callable[[int, int], bytes]
"""``ask(level, n)``: that tile of the log at the size in question."""


@dataclass(frozen=True, slots=True)
class SealedTree:
    """``blocks``: the hash of each complete block; ``last``: the leaf hashes behind them, fewer than 256."""

    size: int
    blocks: tuple[bytes, ...]
    last: tuple[bytes, ...]

    @classmethod
    def fetch(cls, head: LogHead, ask: AskTile) -> SealedTree:
        """The skeleton of the log of ``head``.  Raises ProofError where the tiles do not lead to its root."""
        blocks: list[bytes] = []
        full, partial = tile_widths(head.size, 1)
        for n in range(full + bool(partial)):
            blocks += _hashes(ask(1, n), TILE if n < full else partial, f"tile {n} of level 1")
        count, rest = divmod(head.size, TILE)
        last = _hashes(ask(0, count), rest, f"tile {count} of level 0") if rest else []
        if _root(head.size, blocks, last) != head.root:
            raise ProofError(f"tiles of a log of {head.size} entries: expected the sealed root, found another")
        return cls(head.size, tuple(blocks), tuple(last))

    def check_block(self, n: int, lines: Sequence[bytes]) -> None:
        """Raise ProofError unless these are the entry lines of block n, all that the tree has of it."""
        leaves = leaf_hashes(lines)
        if n < len(self.blocks):
            right = len(lines) == TILE and subtree_root(leaves) == self.blocks[n]
        else:
            right = n == len(self.blocks) and tuple(leaves) == self.last
        if not right:
            raise ProofError(f"block {n} (entries from {n * TILE + 1}): expected the sealed entries, found others")

    def first_difference(self, own: Sequence[bytes], own_last: Sequence[bytes]) -> int | None:
        """The first block in which another log, cut to ``size`` if it is longer, is not a beginning of this one; None if it is.

        ``own``: the hashes of its complete blocks; ``own_last``: the leaf hashes behind them.  A last block that is complete
        here and not there is not looked at: its entries are.
        """
        for n, (mine, sealed) in enumerate(zip(own, self.blocks, strict=False)):
            if mine != sealed:
                return n
        if len(own) == len(self.blocks) and tuple(own_last) != self.last[: len(own_last)]:
            return len(own)
        return None


def _root(size: int, blocks: Sequence[bytes], last: Sequence[bytes]) -> bytes:
    edge: list[Sequence[bytes]] = [last]
    level = list(blocks)
    while level:
        full = len(level) // TILE * TILE
        edge.append(level[full:])
        level = [subtree_root(level[at : at + TILE]) for at in range(0, full, TILE)]
    return Tree(size, edge).root()


def _hashes(data: bytes, count: int, what: str) -> list[bytes]:
    if len(data) != count * HASH_BYTES:
        raise ProofError(f"{what}: expected {count} hashes of {HASH_BYTES} bytes, found {len(data)} bytes")
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]
