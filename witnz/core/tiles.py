"""C2SP tlog-tiles: the tree as tiles of 256 hashes, the growing right edge, and proofs computed from tiles.

Hash i of tile n at level l is the root of the 256^l leaves from leaf ``(n * 256 + i) * 256**l`` on; level 0 holds leaf hashes.
A tile is the concatenation of its 32-byte hashes: 8,192 bytes when full, and *partial* (1 to 255 hashes) at the right edge,
where the tile of level l of a tree of s leaves is ``floor(s / 256**l) mod 256`` wide.  A partial tile is never hashed upward,
an empty one never exists.  Source: c2sp.org/tlog-tiles; the tree itself is that of :mod:`witnz.core.merkle`.

:class:`Tree` keeps only the partial tiles and hands back every tile that it completes; a store writes those and, at the end of
its transaction, the partial ones.  Proofs and older roots need no :class:`Tree`, only a callable that reads tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from witnz.core.hashing import subtree_root
from witnz.core.merkle import EMPTY_ROOT, HASH_BYTES, MAX_SIZE, node_hash, split_point
from witnz.errors import FormatError, UsageError

TILE = 256
TILE_BYTES = TILE * HASH_BYTES
MAX_LEVEL = 63
MAX_ENTRY_BYTES = 65_535
MAX_BUNDLE_BYTES = TILE * (2 + MAX_ENTRY_BYTES)
_TILE_HEIGHT = 8
_CACHED_TILES = 32

ReadTile = Callable[[int, int, int], bytes]
"""``read(level, n, width)`` returns tile n of that level, in bytes.

It is asked for exactly the width that the tile has in a tree of the size in question, 1 to 256.  A store that keeps only the
newest version of a partial tile may return that wider one, whole or cut: the hashes beyond ``width`` are not looked at, because
a tile only ever grows at its end.
"""


@dataclass(frozen=True, slots=True)
class FullTile:
    """Tile ``n`` of ``level``, complete: ``hashes`` are 8,192 bytes that never change again."""

    level: int
    n: int
    hashes: bytes


class Tree:
    """A tree that only grows, of which the partial tiles are held: at most 255 hashes a level.

    ``edge[l]`` lists the hashes of the partial tile of level l for a tree of ``size`` leaves, empty where there is none.
    Raises FormatError if edge and size do not belong together.
    """

    __slots__ = ("_edge", "_size")

    def __init__(self, size: int = 0, edge: Iterable[Sequence[bytes]] = ()) -> None:
        if not 0 <= size <= MAX_SIZE:
            raise FormatError(f"tree size: expected 0 to 2^64 - 1, found {size}")
        self._size = size
        self._edge = [list(hashes) for hashes in edge]
        while size >> (_TILE_HEIGHT * len(self._edge)):
            self._edge.append([])
        for level, hashes in enumerate(self._edge):
            width = tile_widths(size, level)[1]
            if len(hashes) != width:
                raise FormatError(
                    f"partial tile of level {level}: expected {width} hashes for size {size}, found {len(hashes)}"
                )
            if any(len(value) != HASH_BYTES for value in hashes):
                raise FormatError(f"partial tile of level {level}: expected hashes of {HASH_BYTES} bytes, found another length")

    @property
    def size(self) -> int:
        """The number of leaves."""
        return self._size

    @property
    def edge(self) -> list[list[bytes]]:
        """A copy of the partial tiles, one list of hashes a level; ``Tree(size, edge)`` is this tree again."""
        return [list(hashes) for hashes in self._edge]

    def append(self, leaves: Sequence[bytes]) -> list[FullTile]:
        """Add leaf hashes at the end; return the tiles that they completed, lower levels first, in order within a level.

        Costs one hash per leaf (amortised) and is made for lists of thousands.  Raises FormatError, with nothing changed, if
        the leaves are not 32 bytes each.
        """
        # One join instead of a look at every leaf: a leaf of a wrong length can only be hidden by another wrong one.
        if len(b"".join(leaves)) != HASH_BYTES * len(leaves):
            raise FormatError(f"leaf hashes: expected {HASH_BYTES} bytes each, found another length")
        completed: list[FullTile] = []
        position = self._size  # the number of hashes of this level before the new ones
        self._size += len(leaves)
        added = list(leaves)
        level = 0
        while added:
            if level == len(self._edge):
                self._edge.append([])
            pending = self._edge[level]
            pending += added
            count = len(pending) // TILE
            if count == 0:
                break
            whole = pending[: count * TILE]
            self._edge[level] = pending[count * TILE :]
            position >>= _TILE_HEIGHT
            packed = b"".join(whole)
            completed += [FullTile(level, position + i, packed[i * TILE_BYTES : (i + 1) * TILE_BYTES]) for i in range(count)]
            added = [subtree_root(whole[i : i + TILE]) for i in range(0, len(whole), TILE)]
            level += 1
        return completed

    def partial(self, level: int) -> bytes:
        """The partial tile of ``level``, 0 to 8,160 bytes (empty: the level has no partial tile)."""
        return b"".join(self._edge[level]) if 0 <= level < len(self._edge) else b""

    def root(self) -> bytes:
        """The root of all leaves, from the partial tiles alone: at most 256 hashes a level."""
        root = b""
        for hashes in self._edge:
            # What lies to the right of this level's hashes is smaller than one of them, so it hangs there as a last leaf.
            below = [*hashes, root] if root else hashes
            root = _fold(below) if below else b""
        return root or EMPTY_ROOT

    def copy(self) -> Tree:
        """An independent tree of the same leaves, to be appended to and thrown away or kept."""
        twin = Tree.__new__(Tree)
        twin._size = self._size
        twin._edge = self.edge
        return twin


def _fold(hashes: Sequence[bytes]) -> bytes:
    """The RFC 6962 root of at least one hash, height by height; an odd last one moves up as it is."""
    level = list(hashes)
    while len(level) > 1:
        odd = level[-1:] if len(level) & 1 else []
        level = [node_hash(left, right) for left, right in zip(level[::2], level[1::2], strict=False)] + odd
    return level[0]


class _TileReader:
    """Subtree roots of the tree of ``size`` leaves, out of a bounded number of tiles read once each."""

    def __init__(self, read: ReadTile, size: int) -> None:
        self._read = read
        self._size = size
        self._tiles: dict[tuple[int, int], list[bytes]] = {}

    def range_root(self, start: int, end: int) -> bytes:
        """The root of leaves start..end-1, where ``start`` is a multiple of every complete subtree in the range.

        That holds for all ranges to which RFC 9162's recursions lead.
        """
        complete = []
        while start < end:
            height = (end - start).bit_length() - 1
            complete.append(self._node(height, start >> height))
            start += 1 << height
        root = complete.pop()
        while complete:
            root = node_hash(complete.pop(), root)
        return root

    def _node(self, height: int, index: int) -> bytes:
        """The root of the complete subtree of ``2**height`` leaves that is number ``index`` of its height."""
        level, inner = divmod(height, _TILE_HEIGHT)
        n, first = divmod(index << inner, TILE)
        return _fold(self._tile(level, n)[first : first + (1 << inner)])

    def _tile(self, level: int, n: int) -> list[bytes]:
        if (level, n) not in self._tiles:
            if len(self._tiles) >= _CACHED_TILES:
                del self._tiles[next(iter(self._tiles))]
            full, partial = tile_widths(self._size, level)
            width = TILE if n < full else partial
            data = self._read(level, n, width)
            if not width * HASH_BYTES <= len(data) <= TILE_BYTES or len(data) % HASH_BYTES:
                raise FormatError(
                    f"tile {n} of level {level}: expected {width} hashes of {HASH_BYTES} bytes, found {len(data)} bytes"
                )
            self._tiles[level, n] = [data[at : at + HASH_BYTES] for at in range(0, width * HASH_BYTES, HASH_BYTES)]
        return self._tiles[level, n]


def inclusion_proof(read: ReadTile, index: int, size: int) -> list[bytes]:
    """The inclusion proof of leaf ``index`` in the tree of ``size`` leaves, any size up to that of the tiles.

    Reads O(log size) tiles.  Raises UsageError for an index that the tree does not have, FormatError for a tile of a wrong
    length.  What the tiles say is not checked here: verify the proof against a trusted root.
    """
    if not 0 <= index < size:
        raise UsageError(f"no inclusion proof: expected a leaf index below the tree size {size}, found {index}")
    start, end = 0, size
    siblings: list[tuple[int, int]] = []
    while end - start > 1:
        middle = start + split_point(end - start)
        if index < middle:
            siblings.append((middle, end))
            end = middle
        else:
            siblings.append((start, middle))
            start = middle
    reader = _TileReader(read, size)
    return [reader.range_root(*sibling) for sibling in reversed(siblings)]


def consistency_proof(read: ReadTile, old: int, new: int) -> list[bytes]:
    """The consistency proof between the trees of ``old`` and ``new`` leaves, any sizes up to that of the tiles.

    Reads O(log new) tiles, all of them as the tree of ``new`` leaves has them.  Empty where the sizes are equal.  Raises
    UsageError unless 1 <= old <= new, FormatError for a tile of a wrong length.
    """
    if not 1 <= old <= new:
        raise UsageError(f"no consistency proof: expected 1 <= old <= new, found {old} and {new}")
    start, end = 0, new
    ranges: list[tuple[int, int]] = []
    while old != end:
        middle = start + split_point(end - start)
        if old <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    if start:  # else what is left is the old tree itself, whose root the verifier has
        ranges.append((start, end))
    reader = _TileReader(read, new)
    return [reader.range_root(*part) for part in reversed(ranges)]


def root_at(read: ReadTile, size: int) -> bytes:
    """The root of the first ``size`` leaves, from O(log size) tiles; raises FormatError for a tile of a wrong length."""
    if size < 0:
        raise UsageError(f"tree size: expected 0 or more, found {size}")
    return _TileReader(read, size).range_root(0, size) if size else EMPTY_ROOT


def tile_widths(size: int, level: int) -> tuple[int, int]:
    """How many full tiles the tree of ``size`` leaves has at ``level``, and the width of its partial tile (0: none)."""
    return divmod(size >> (_TILE_HEIGHT * level), TILE)


def tile_path(level: int | Literal["entries"], n: int, width: int = TILE) -> str:
    """The path of a tile or an entry bundle below a log's prefix: ``tile/0/x001/x234/067``, ``tile/entries/000.p/5``.

    Raises UsageError for a level above 63, a negative n, or a width that is not 1 to 256.
    """
    if level != "entries" and not 0 <= level <= MAX_LEVEL:
        raise UsageError(f"tile level: expected entries or 0 to {MAX_LEVEL}, found {level}")
    if n < 0 or not 1 <= width <= TILE:
        raise UsageError(f"tile: expected n >= 0 and a width of 1 to {TILE}, found n {n} and width {width}")
    digits = str(n)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    path = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
    return f"tile/{level}/{path}" + (f".p/{width}" if width < TILE else "")


def format_entry_bundle(entries: Sequence[bytes]) -> bytes:
    """1 to 256 entries of at most 65,535 bytes, each behind its length as big-endian uint16 (tlog-tiles, "Log entries")."""
    if not 1 <= len(entries) <= TILE:
        raise FormatError(f"entry bundle: expected 1 to {TILE} entries, found {len(entries)}")
    longest = max(map(len, entries))
    if longest > MAX_ENTRY_BYTES:
        raise FormatError(f"entry: expected at most {MAX_ENTRY_BYTES} bytes, found {longest}")
    return b"".join([len(entry).to_bytes(2, "big") + entry for entry in entries])


def parse_entry_bundle(data: bytes) -> list[bytes]:
    """The entries of a bundle; raises FormatError for none, more than 256, or a length that leaves the bundle."""
    if not 0 < len(data) <= MAX_BUNDLE_BYTES:
        raise FormatError(f"entry bundle: expected 1 to {MAX_BUNDLE_BYTES} bytes, found {len(data)}")
    entries: list[bytes] = []
    at, total = 0, len(data)
    while at < total:
        start = at + 2
        at = start + int.from_bytes(data[start - 2 : start], "big")
        if at > total:
            raise FormatError(f"entry bundle: expected entry {len(entries)} to end within {total} bytes, found it cut off")
        entries.append(data[start:at])
    if len(entries) > TILE:
        raise FormatError(f"entry bundle: expected at most {TILE} entries, found {len(entries)}")
    return entries
