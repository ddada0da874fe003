"""Keccak-256 against published digests, and its permutation against the standard library's SHA3-256."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from witnz.core.evm.keccak import keccak256, sponge


@pytest.mark.parametrize(
    ("data", "digest"),
    [
        (b"", "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"),  # of the Keccak team; EVM's empty code
        (b"abc", "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"),
        (b"\x80", "56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421"),  # Ethereum's empty trie
        (b"\xc0", "1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347"),  # Ethereum's list of no uncles
        (b"transfer(address,uint256)", "a9059cbb2ab09eb219583f4a59a5d0623ade346d962bcd4e46b11da047c9049b"),
    ],
)
def test_published_digests(data: bytes, digest: str) -> None:
    assert keccak256(data).hex() == digest


@given(st.binary(max_size=700))
@settings(max_examples=40, deadline=None)
def test_with_the_other_padding_byte_it_is_sha3(data: bytes) -> None:
    assert sponge(data, 0x06) == hashlib.sha3_256(data).digest()


@pytest.mark.parametrize("size", [135, 136, 137, 271, 272, 273])
def test_lengths_round_the_rate(size: int) -> None:
    assert sponge(bytes(size), 0x06) == hashlib.sha3_256(bytes(size)).digest()
