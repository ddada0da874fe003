"""The state root: one hash for the accepted live rows of a table, whatever their order (formats.md 3).

    bucket b      the row hashes whose first two bytes are b (big-endian), sorted; equal hashes all stay (a multiset)
    bucket hash   SHA256(0x02 || number of row hashes as big-endian uint64 || the row hashes)
    state root    the RFC 6962 root over the 65,536 bucket hashes as leaf data: leaf = SHA256(0x00 || bucket hash)

A proof is the RFC 6962 2.1.1 audit path of a bucket, always 16 hashes from the leaf upwards.  Two nodes find the rows in which
they differ by comparing subtrees from the root down.  All hashes are 32 raw bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from struct import iter_unpack
from typing import Final

from witnz.core import hashing
from witnz.errors import FormatError

HASH: Final = 32
BUCKETS: Final = 65_536
DEPTH: Final = 16
SPARSE_SHARE: Final = 8  # a tree of which fewer than one bucket in so many has rows is built from those
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


def state_root(hashes: Iterable[bytes]) -> bytes:
    """The state root of any number of row hashes in any order, all in memory."""
    return build_state_tree(hashes).root()


def build_state_tree(hashes: Iterable[bytes]) -> StateTree:
    """The tree of any number of row hashes in any order, all in memory."""
    partitions = [bytearray() for _ in range(256)]
    hashing.pack_partitions(b"".join(hashes), partitions)
    return StateTree(b"".join([hashing.bucket_hashes(hashing.sort_packed(partition)) for partition in partitions]))


class StateTree:
    """The whole tree over 65,536 bucket hashes, 4 MiB; immutable once built.

    ``bucket_hashes``: 32 bytes each, one after another.  Raises :class:`FormatError` for another number of them.
    """

    __slots__ = ("_levels",)

    def __init__(self, bucket_hashes: bytes) -> None:
        if len(bucket_hashes) != HASH * BUCKETS:
            raise FormatError(f"state tree: expected {BUCKETS} bucket hashes, found {len(bucket_hashes) / HASH:g}")
        empty = bucket_hashes.count(EMPTY_BUCKET)
        self._levels = (self._sparse if (BUCKETS - empty) * SPARSE_SHARE < BUCKETS else self._dense)(bucket_hashes)

    @staticmethod
    def _dense(bucket_hashes: bytes) -> list[bytes]:
        """Every node is hashed."""
        levels = [hashing.hash_slices(b"\0", bucket_hashes, HASH)]
        for _ in range(DEPTH):
            levels.append(hashing.hash_slices(b"\1", levels[-1], 2 * HASH))
        return levels

    @staticmethod
    def _sparse(bucket_hashes: bytes) -> list[bytes]:
        """Only the nodes above the buckets that are not empty, by far the most tables' case, are hashed."""
        filled = [index for index, bucket in enumerate(split_hashes(bucket_hashes)) if bucket != EMPTY_BUCKET]
        levels: list[bytes] = []
        below, width, prefix = bucket_hashes, HASH, b"\0"
        for depth in range(DEPTH + 1):
            if depth:
                filled = sorted({index >> 1 for index in filled})
                below, width, prefix = levels[-1], 2 * HASH, b"\1"
            hashed = hashing.hash_slices(
                prefix, b"".join([below[width * index : width * (index + 1)] for index in filled]), width
            )
            level = bytearray(_EMPTY[depth] * (BUCKETS >> depth))
            for at, index in enumerate(filled):
                level[HASH * index : HASH * (index + 1)] = hashed[HASH * at : HASH * (at + 1)]
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
