"""RLP: the same as the library, and one spelling of everything."""

from __future__ import annotations

from typing import Any

import pytest
import rlp
from hypothesis import given
from hypothesis import strategies as st

from witnz.core.evm.rlp import MAX_DEPTH, as_bytes, as_integer, decode, decode_list, encode
from witnz.errors import FormatError

ITEMS = st.recursive(st.binary(max_size=80), lambda inner: st.lists(inner, max_size=6), max_leaves=30)


@given(ITEMS)
def test_it_is_what_the_library_writes_and_reads(item: Any) -> None:
    encoded = encode(item)
    assert encoded == rlp.encode(item)
    assert decode(encoded) == item


@given(st.binary(max_size=60))
def test_whatever_is_read_is_written_the_same(data: bytes) -> None:
    try:
        item = decode(data)
    except FormatError:
        return
    assert encode(item) == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x81\x05",  # a byte that is its own encoding
        b"\xb8\x05hello",  # the long form without need
        b"\xb9\x00\x38" + bytes(56),  # a length with a leading zero
        b"\x85hell",  # beyond its end
        b"\xc2\x83a",  # a member beyond its list
        b"\xf8\x02\x01\x02",
        b"\x01\x02",  # two items
        b"\xbf" + b"\xff" * 8,
        b"\xc1" * (MAX_DEPTH + 5) + b"\xc0",
    ],
)
def test_every_other_spelling_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match="RLP"):
        decode(data)


def test_integers_and_strings_are_of_their_size() -> None:
    assert as_integer(b"", "x") == 0
    assert as_integer(b"\x01\x00", "x") == 256
    for wrong in (b"\0", b"\0\x01", bytes([1]) * 33, [b"\x01"]):
        with pytest.raises(FormatError, match="nonce"):
            as_integer(wrong, "nonce")
    with pytest.raises(FormatError, match="expected 20 bytes, found 19"):
        as_bytes(bytes(19), "to", 20)
    with pytest.raises(FormatError, match="expected an RLP list"):
        decode_list(b"\x83abc", "header")
