"""The transaction trie of a block: making an inclusion proof, and checking one that a stranger sent.

A Merkle-Patricia trie (Ethereum Yellow Paper, appendix D) from ``rlp(index)`` to the transaction as it is hashed.  A node is
the RLP list of a branch (sixteen children and a value), or of a leaf or extension (nibbles in hex-prefix encoding, and value or
child).  A child is the Keccak-256 of its node's encoding, or the node itself where that is below 32 bytes; the root is always
the hash.

A proof is the encodings of the nodes on the way from the root to the value, those embedded in others left out.  The checker
walks once, takes each node exactly in its turn, and refuses nodes that nothing asked for: a proof has one spelling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Final

from witnz.core.evm.keccak import keccak256
from witnz.core.evm.rlp import Encodable, Item, as_bytes, decode_list, encode
from witnz.errors import FormatError, ProofError, UsageError

MAX_PROOF_NODES: Final = 64
EMPTY_ROOT: Final = keccak256(encode(b""))
"""The root of the trie of a block without transactions."""

Nibbles = tuple[int, ...]


def transaction_key(index: int) -> bytes:
    """The trie's key of the transaction at ``index``, from 0."""
    return encode(index)


def value_in(root: bytes, key: bytes, proof: Sequence[bytes]) -> bytes:
    """The value under ``key`` in the trie with this root.

    Raises :class:`ProofError` where the proof does not lead there, holds more than the way, or is of nodes that are no nodes.
    """
    try:
        return _Walk(proof).value(root, _nibbles(key))
    except FormatError as error:
        raise ProofError(f"trie proof: {error.message}") from None


def root_and_proof(values: Sequence[bytes], index: int) -> tuple[bytes, list[bytes]]:
    """The root of the trie over ``values`` under their indices, and the proof of the one at ``index``.

    Raises UsageError where there is no such value.
    """
    if not 0 <= index < len(values):
        raise UsageError(f"no trie proof: expected an index below {len(values)}, found {index}")
    wanted = _nibbles(transaction_key(index))
    way: list[tuple[int, bytes]] = []
    items = {_nibbles(transaction_key(place)): value for place, value in enumerate(values)}
    root_node = encode(_built(items, 0, wanted, way))
    shown = [node for _, node in sorted(way) if len(node) >= 32]
    return keccak256(root_node), [root_node, *shown]


class _Walk:
    """One walk down a claimed proof; ``value`` is called once."""

    def __init__(self, proof: Sequence[bytes]) -> None:
        self._proof = proof
        self._used = 0

    def value(self, root: bytes, path: Nibbles) -> bytes:
        node = self._node(root)
        while True:
            if len(node) == 17:
                child: Item = node[path[0]] if path else node[16]
                if not path:
                    return self._end(child)
                path = path[1:]
            else:
                nibbles, is_leaf = _from_hex_prefix(as_bytes(node[0], "a node's path"))
                if path[: len(nibbles)] != nibbles:
                    raise ProofError("trie proof: it leads to another key than this one")
                path = path[len(nibbles) :]
                if is_leaf:
                    if path:
                        raise ProofError("trie proof: a leaf stands before the end of the key")
                    return self._end(node[1])
                child = node[1]
            node = self._child(child)

    def _child(self, child: Item) -> list[Item]:
        if isinstance(child, list):
            if len(encode(child)) >= 32:
                raise ProofError("trie proof: a node of 32 bytes or more is embedded in another")
            return _checked(child)
        return self._node(as_bytes(child, "a child", 32))

    def _node(self, expected: bytes) -> list[Item]:
        if self._used == len(self._proof):
            raise ProofError("trie proof: a node is missing")
        data = self._proof[self._used]
        if keccak256(data) != expected:
            raise ProofError(f"trie proof: node {self._used} is not the one that the node above it names")
        self._used += 1
        return _checked(decode_list(data, f"trie node {self._used - 1}"))

    def _end(self, value: Item) -> bytes:
        if self._used != len(self._proof):
            raise ProofError(f"trie proof: {len(self._proof) - self._used} nodes are not on the way to the value")
        if not (data := as_bytes(value, "a value")):
            raise ProofError("trie proof: it ends where there is no value")
        return data


def _checked(node: list[Item]) -> list[Item]:
    if len(node) not in (2, 17):
        raise ProofError(f"trie proof: expected a node of 2 or 17 items, found {len(node)}")
    return node


def _nibbles(data: bytes) -> Nibbles:
    return tuple(half for byte in data for half in (byte >> 4, byte & 15))


def _hex_prefix(nibbles: Nibbles, *, is_leaf: bool) -> bytes:
    flag = (2 if is_leaf else 0) + len(nibbles) % 2
    head = (flag, *nibbles) if len(nibbles) % 2 else (flag, 0, *nibbles)
    return bytes(16 * head[place] + head[place + 1] for place in range(0, len(head), 2))


def _from_hex_prefix(data: bytes) -> tuple[Nibbles, bool]:
    nibbles = _nibbles(data)
    if not nibbles or nibbles[0] > 3 or (nibbles[0] % 2 == 0 and nibbles[1] != 0):
        raise ProofError("trie proof: a node's path is not in hex-prefix encoding")
    path = nibbles[1:] if nibbles[0] % 2 else nibbles[2:]
    if nibbles[0] < 2 and not path:
        raise ProofError("trie proof: an extension of no nibbles")
    return path, nibbles[0] >= 2


def _built(items: Mapping[Nibbles, bytes], depth: int, wanted: Nibbles, way: list[tuple[int, bytes]]) -> Encodable:
    """The node over ``items``, whose keys all agree below ``depth``; encodings on the way to ``wanted`` go to ``way``."""
    keys = list(items)
    if len(keys) == 1:
        return [_hex_prefix(keys[0][depth:], is_leaf=True), items[keys[0]]]
    end = depth + _common_length([key[depth:] for key in keys])
    if end > depth:
        child = _reference(items, end, wanted, way)
        return [_hex_prefix(keys[0][depth:end], is_leaf=False), child]
    children: list[Encodable] = []
    for nibble in range(16):
        below = {key: value for key, value in items.items() if len(key) > depth and key[depth] == nibble}
        children.append(_reference(below, depth + 1, wanted, way) if below else b"")
    return [*children, next((value for key, value in items.items() if len(key) == depth), b"")]


def _reference(items: Mapping[Nibbles, bytes], depth: int, wanted: Nibbles, way: list[tuple[int, bytes]]) -> Encodable:
    """How a parent names the node over ``items``: the node itself where its encoding is below 32 bytes, else its hash."""
    node = _built(items, depth, wanted, way)
    encoded = encode(node)
    if wanted in items:
        way.append((depth, encoded))
    return node if len(encoded) < 32 else keccak256(encoded)


def _common_length(keys: Sequence[Nibbles]) -> int:
    columns = zip(*keys, strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
