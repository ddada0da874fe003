"""The state root: one hash for the accepted live rows of a table, whatever their order (formats.md 3).

    bucket b      the row hashes whose first two bytes are b (big-endian), sorted; equal hashes all stay (a multiset)
    bucket hash   SHA256(0x02 || number of row hashes as big-endian uint64 || the row hashes)
    state root    the RFC 6962 root over the 65,536 bucket hashes as leaf data: leaf = SHA256(0x00 || bucket hash)

A proof is the RFC 6962 2.1.1 audit path of a bucket, always 16 hashes from the leaf upwards.  Two nodes find the rows in which
they differ by comparing subtrees from the root down.  All hashes are 32 raw bytes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import pairwise
from struct import iter_unpack
from typing import Final

from witnz.errors import FormatError

BUCKETS: Final = 65_536
DEPTH: Final = 16
SPARSE_SHARE: Final = 32  # a tree of which fewer than one bucket in so many has rows is built from those
EMPTY_BUCKET: Final = sha256(b"\2" + bytes(8)).digest()


def _empty_subtrees() -> list[bytes]:
    """By level, the root over 2^level empty buckets; most of a small table's tree is that."""
    roots = [sha256(b"\0" + EMPTY_BUCKET).digest()]
    for _ in range(DEPTH):
        roots.append(sha256(b"\1" + roots[-1] * 2).digest())
    return roots


_EMPTY = _empty_subtrees()
EMPTY_STATE_ROOT: Final = _EMPTY[DEPTH]


def bucket_of(row_hash: bytes) -> int:
    """The number, 0 to 65,535, of the bucket that a row hash belongs to."""
    return row_hash[0] << 8 | row_hash[1]


def bucket_hash(hashes_sorted: Sequence[bytes]) -> bytes:
    """The hash of one bucket from its row hashes in ascending order."""
    return sha256(b"\2" + len(hashes_sorted).to_bytes(8, "big") + b"".join(hashes_sorted)).digest()


def split_hashes(packed: bytes | bytearray) -> list[bytes]:
    """The 32-byte hashes that stand one after another in ``packed`` (a partition of :func:`.hashing.pack_partitions`)."""
    if len(packed) % 32:
        raise FormatError(f"packed hashes: expected a multiple of 32 bytes, found {len(packed)}")
    return [row_hash for (row_hash,) in iter_unpack("32s", packed)]


def bucket_hashes_of_sorted(first_byte: int, hashes: Sequence[bytes]) -> list[bytes]:
    """The 256 bucket hashes of one partition: of ascending row hashes that all begin with ``first_byte``.

    The concatenation over the first bytes 0 to 255 is what :class:`StateTree` takes.
    """
    packed = b"".join(hashes)
    buckets = [EMPTY_BUCKET] * 256
    start = 0
    while start < len(hashes):
        second_byte = hashes[start][1]
        # The bytes after the prefix are left out, so the prefix sorts before every hash that begins with it.
        end = len(hashes) if second_byte == 255 else bisect_left(hashes, bytes((first_byte, second_byte + 1)), start)
        buckets[second_byte] = sha256(b"\2" + (end - start).to_bytes(8, "big") + packed[32 * start : 32 * end]).digest()
        start = end
    return buckets


def state_root(hashes: Iterable[bytes]) -> bytes:
    """The state root of any number of row hashes in any order, all in memory."""
    return build_state_tree(hashes).root()


def build_state_tree(hashes: Iterable[bytes]) -> StateTree:
    """The tree of any number of row hashes in any order, all in memory."""
    partitions: list[list[bytes]] = [[] for _ in range(256)]
    for row_hash in hashes:
        partitions[row_hash[0]].append(row_hash)
    buckets: list[bytes] = []
    for first_byte, partition in enumerate(partitions):
        partition.sort()
        buckets += bucket_hashes_of_sorted(first_byte, partition)
    return StateTree(buckets)


class StateTree:
    """The whole tree over 65,536 bucket hashes, 4 MiB; immutable once built.

    Raises :class:`FormatError` for another number of bucket hashes.
    """

    __slots__ = ("_levels",)

    def __init__(self, bucket_hashes: Sequence[bytes]) -> None:
        if len(bucket_hashes) != BUCKETS:
            raise FormatError(f"state tree: expected {BUCKETS} bucket hashes, found {len(bucket_hashes)}")
        filled = [index for index, bucket in enumerate(bucket_hashes) if bucket != EMPTY_BUCKET]
        build = self._sparse if len(filled) * SPARSE_SHARE < BUCKETS else self._dense
        self._levels = build(bucket_hashes, filled)

    @staticmethod
    def _dense(bucket_hashes: Sequence[bytes], filled: Sequence[int]) -> list[bytes]:
        """Every node is looked at."""
        empty = _EMPTY[0]
        level = b"".join([empty if b == EMPTY_BUCKET else sha256(b"\0" + b).digest() for b in bucket_hashes])
        levels = [level]
        for below, above in pairwise(_EMPTY):
            pair_of_empty = below * 2
            pairs = iter_unpack("64s", level)
            level = b"".join([above if pair == pair_of_empty else sha256(b"\1" + pair).digest() for (pair,) in pairs])
            levels.append(level)
        return levels

    @staticmethod
    def _sparse(bucket_hashes: Sequence[bytes], filled: Sequence[int]) -> list[bytes]:
        """Only the nodes above the buckets that are not empty, by far the most tables' case, are hashed."""
        level = bytearray(_EMPTY[0] * BUCKETS)
        for index in filled:
            level[32 * index : 32 * index + 32] = sha256(b"\0" + bucket_hashes[index]).digest()
        levels = [bytes(level)]
        for depth in range(1, DEPTH + 1):
            filled = sorted({index >> 1 for index in filled})
            below, level = levels[-1], bytearray(_EMPTY[depth] * (BUCKETS >> depth))
            for index in filled:
                level[32 * index : 32 * index + 32] = sha256(b"\1" + below[64 * index : 64 * index + 64]).digest()
            levels.append(bytes(level))
        return levels

    def root(self) -> bytes:
        """The state root."""
        return self._levels[DEPTH]

    def node(self, level: int, index: int) -> bytes:
        """The root over the buckets ``index * 2^level`` to ``(index + 1) * 2^level - 1``; level 0 is a bucket's leaf."""
        return self._levels[level][32 * index : 32 * index + 32]

    def proof(self, bucket: int) -> list[bytes]:
        """The 16 hashes that lead from a bucket to the root, leaf side first."""
        if not 0 <= bucket < BUCKETS:
            raise FormatError(f"bucket: expected 0 to {BUCKETS - 1}, found {bucket}")
        return [self.node(level, (bucket >> level) ^ 1) for level in range(DEPTH)]


def verify_bucket(bucket: int, members: Sequence[bytes], proof: Sequence[bytes], root: bytes) -> bool:
    """Whether exactly ``members`` are the row hashes of a bucket under a state root.

    False, never an exception, for members of another bucket, out of order or of another length, and for a proof that is not 16
    hashes.
    """
    if not 0 <= bucket < BUCKETS or len(proof) != DEPTH or any(len(sibling) != 32 for sibling in proof):
        return False
    if any(len(member) != 32 or bucket_of(member) != bucket for member in members) or list(members) != sorted(members):
        return False
    node = sha256(b"\0" + bucket_hash(members)).digest()
    for level, sibling in enumerate(proof):
        pair = sibling + node if bucket >> level & 1 else node + sibling
        node = sha256(b"\1" + pair).digest()
    return node == root


def differing_buckets(a: StateTree, b: StateTree) -> list[int]:
    """The buckets in which two trees differ, ascending: only below differing nodes is anything compared (the prefix walk)."""
    differing = [0] if a.root() != b.root() else []
    for level in range(DEPTH - 1, -1, -1):
        children = [child for parent in differing for child in (2 * parent, 2 * parent + 1)]
        differing = [child for child in children if a.node(level, child) != b.node(level, child)]
    return differing
