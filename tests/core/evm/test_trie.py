"""The transaction trie: every value of every size of block can be proven, and nothing but it."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from witnz.core.evm.rlp import encode
from witnz.core.evm.trie import EMPTY_ROOT, root_and_proof, transaction_key, value_in
from witnz.errors import ProofError, UsageError


def values_of(count: int) -> list[bytes]:
    return [sha256(b"%d" % number).digest() * (1 + number % 5) for number in range(count)]


def test_the_empty_trie_and_a_block_of_one() -> None:
    assert EMPTY_ROOT.hex() == "56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421"
    root, proof = root_and_proof([b"only"], 0)
    assert len(proof) == 1
    assert value_in(root, transaction_key(0), proof) == b"only"


@pytest.mark.parametrize("count", [1, 2, 3, 16, 17, 127, 128, 129, 130, 300])
def test_a_value_is_proven_in_a_block_of_any_size(count: int) -> None:
    values = values_of(count)
    for index in sorted({0, 1 % count, count // 2, 127 % count, 128 % count, count - 1}):
        root, proof = root_and_proof(values, index)
        assert value_in(root, transaction_key(index), proof) == values[index]
        for other in (index + 1, index + 16, index ^ 1):
            with pytest.raises(ProofError):
                value_in(root, transaction_key(other), proof)


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=20), st.data())
@settings(max_examples=40, deadline=None)
def test_short_values_are_embedded_in_their_parents(values: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(values) - 1))
    root, proof = root_and_proof(values, index)
    assert value_in(root, transaction_key(index), proof) == values[index]


def test_no_proof_of_a_value_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="below 3, found 3"):
        root_and_proof(values_of(3), 3)


@pytest.mark.parametrize(
    "node",
    [
        b"\x80",
        encode([]),
        encode([b"\x20"]),
        encode([b"", b"value"]),  # no path at all
        encode([b"\x40", b"value"]),  # an unknown flag
        encode([b"\x21\x00", b"value"]),  # another key
        encode([b"\x20\x80", b""]),  # no value
        encode([b"\x00", bytes(32)]),  # an extension of nothing
        encode([b"\x20", b"value"]),  # before the end of the key
        encode([bytes(32)] * 17),
        encode([b"\x20\x80", [b"a", b"list"]]),
    ],
)
def test_a_node_that_is_none_is_refused(node: bytes) -> None:
    from witnz.core.evm.keccak import keccak256

    with pytest.raises(ProofError, match="trie"):
        value_in(keccak256(node), transaction_key(0), [node])
