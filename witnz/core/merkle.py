"""The Merkle tree of RFC 6962 and RFC 9162 over SHA-256, written down as the RFC states it.

    leaf = SHA256(0x00 || entry)        node = SHA256(0x01 || left || right)        empty tree = SHA256("")

A tree of n > 1 leaves is split at the largest power of two *strictly below* n; nothing is duplicated, nothing is sorted.
Sizes are numbers of leaves, indices count from 0, every hash is 32 raw bytes.

:func:`root_of`, :func:`inclusion_path` and :func:`consistency_path` follow the recursive definitions of RFC 9162 2.1 word for
word: they are the slow reference beside which :mod:`witnz.core.tiles` is tested, and good enough for a few thousand leaves.
:func:`verify_inclusion` and :func:`verify_consistency` are what a verifier runs on hashes that strangers sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from witnz.errors import UsageError

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
LEAF_PREFIX = b"\x00"
NODE_PREFIX = b"\x01"
MAX_SIZE = 2**64 - 1
MAX_PROOF_HASHES = 63


def leaf_hash(entry: bytes) -> bytes:
    """The hash of one entry as a leaf (RFC 9162 2.1.1)."""
    return hashlib.sha256(LEAF_PREFIX + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node over its two children (RFC 9162 2.1.1)."""
    return hashlib.sha256(NODE_PREFIX + left + right).digest()


def split_point(size: int) -> int:
    """The largest power of two strictly below ``size``, which is at least 2."""
    return 1 << ((size - 1).bit_length() - 1)


def root_of(leaf_hashes: Sequence[bytes]) -> bytes:
    """The tree head MTH of these leaf hashes (RFC 9162 2.1.1)."""
    size = len(leaf_hashes)
    if size == 0:
        return EMPTY_ROOT
    if size == 1:
        return leaf_hashes[0]
    split = split_point(size)
    return node_hash(root_of(leaf_hashes[:split]), root_of(leaf_hashes[split:]))


def inclusion_path(leaf_hashes: Sequence[bytes], index: int) -> list[bytes]:
    """PATH(index, leaves) of RFC 9162 2.1.3.1: the leaf's sibling first, the root's child last.

    Raises UsageError where the tree has no such leaf.
    """
    size = len(leaf_hashes)
    if not 0 <= index < size:
        raise UsageError(f"no inclusion proof: expected a leaf index below the tree size {size}, found {index}")
    if size == 1:
        return []
    split = split_point(size)
    left, right = leaf_hashes[:split], leaf_hashes[split:]
    if index < split:
        return [*inclusion_path(left, index), root_of(right)]
    return [*inclusion_path(right, index - split), root_of(left)]


def consistency_path(leaf_hashes: Sequence[bytes], old: int, new: int) -> list[bytes]:
    """PROOF(old, the first ``new`` leaves) of RFC 9162 2.1.4.1; empty where the sizes are equal.

    Raises UsageError unless 1 <= old <= new <= the number of leaves.
    """
    if not 1 <= old <= new <= len(leaf_hashes):
        raise UsageError(f"no consistency proof: expected 1 <= old <= new <= {len(leaf_hashes)}, found {old} and {new}")
    return _subproof(leaf_hashes[:new], old, True)


def _subproof(leaf_hashes: Sequence[bytes], old: int, old_root_is_known: bool) -> list[bytes]:
    size = len(leaf_hashes)
    if old == size:
        return [] if old_root_is_known else [root_of(leaf_hashes)]
    split = split_point(size)
    left, right = leaf_hashes[:split], leaf_hashes[split:]
    if old <= split:
        return [*_subproof(left, old, old_root_is_known), root_of(right)]
    return [*_subproof(right, old - split, False), root_of(left)]


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether ``proof`` shows that ``leaf`` (a leaf *hash*) is at ``index`` in the tree of ``size`` leaves with ``root``.

    RFC 9162 2.1.3.2.  Never raises: False for an index or size out of range (above 2^64 - 1), a hash that is not 32 bytes, a
    proof that is too long (above 63 hashes), too short, or leads to another root.
    """
    if not (_is_size(index) and _is_size(size) and index < size and _are_hashes(proof, leaf, root)):
        return False
    position, last, computed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if position & 1 or position == last:
            computed = node_hash(sibling, computed)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            computed = node_hash(computed, sibling)
        position >>= 1
        last >>= 1
    return last == 0 and computed == root


def verify_consistency(size1: int, size2: int, root1: bytes, root2: bytes, proof: Sequence[bytes]) -> bool:
    """Whether ``proof`` shows that the tree (size1, root1) is a prefix of the tree (size2, root2).

    RFC 9162 2.1.4.2.  Never raises: False for everything that does not fit, like :func:`verify_inclusion`, and for
    ``size1 == 0``: from the empty tree nothing follows, and a protocol that allows "old 0" says so itself.
    """
    if not (_is_size(size1) and _is_size(size2) and 1 <= size1 <= size2 and _are_hashes(proof, root1, root2)):
        return False
    if size1 == size2:
        return not proof and root1 == root2
    path = list(proof)
    if size1 & (size1 - 1) == 0:  # a complete subtree: its root is the first hash, and the proof leaves it out
        path.insert(0, root1)
    if not path:
        return False
    position, last = size1 - 1, size2 - 1
    while position & 1:
        position >>= 1
        last >>= 1
    computed1 = computed2 = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            computed1 = node_hash(sibling, computed1)
            computed2 = node_hash(sibling, computed2)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            computed2 = node_hash(computed2, sibling)
        position >>= 1
        last >>= 1
    return last == 0 and computed1 == root1 and computed2 == root2


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SIZE


def _are_hashes(proof: object, *others: object) -> bool:
    if not isinstance(proof, (list, tuple)) or len(proof) > MAX_PROOF_HASHES:
        return False
    return all(isinstance(value, bytes) and len(value) == HASH_BYTES for value in (*others, *proof))
