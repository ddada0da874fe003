"""Ranges of keys: what lies in one, and where a store finds it."""

from __future__ import annotations

from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from witnz.core.entry import SchemaColumn
from witnz.core.keyrange import KeyRange, key_kind, order, parse_sample
from witnz.errors import FormatError, UsageError

INT8 = st.integers(-(1 << 63), (1 << 63) - 1)
NEAR = st.integers(-1200, 1200)


def in_spans(key_range: KeyRange, key: bytes) -> int:
    """In how many spans a key lies, compared as the store does."""
    return sum(len(key) == len(low) and low <= key <= high for low, high in key_range.spans())


@given(st.one_of(NEAR, INT8), st.one_of(NEAR, INT8), st.one_of(NEAR, INT8))
def test_a_number_lies_in_a_range_as_numbers_do_and_then_in_exactly_one_span(low: int, high: int, key: int) -> None:
    if low >= high:
        with pytest.raises(FormatError):
            KeyRange("integer", str(low), str(high))
        return
    key_range = KeyRange("integer", str(low), str(high))
    text = str(key).encode()
    assert key_range.holds(text) == (low < key <= high)
    assert in_spans(key_range, text) == (low < key <= high)


@given(st.uuids(), st.uuids(), st.uuids())
def test_a_uuid_lies_in_a_range_as_its_bytes_do(one: UUID, other: UUID, key: UUID) -> None:
    low, high = sorted((one, other))
    if low == high:
        return
    key_range = KeyRange("uuid", str(low), str(high))
    assert key_range.holds(str(key).encode()) == (low.bytes < key.bytes <= high.bytes)
    assert in_spans(key_range, str(key).encode()) == (low.bytes <= key.bytes <= high.bytes)


@given(st.lists(st.one_of(NEAR, INT8), unique=True, max_size=8), st.one_of(NEAR, INT8))
def test_consecutive_ranges_leave_nothing_out_and_take_nothing_twice(bounds: list[int], key: int) -> None:
    cuts = [None, *map(str, sorted(bounds)), None]
    ranges = [KeyRange("integer", low, high) for low, high in pairwise(cuts)]
    assert sum(one.holds(str(key).encode()) for one in ranges) == 1


@pytest.mark.parametrize("key", [b"", b"01", b"+1", b"1 ", b"1\t2", b"x", b"\xff", b"\\H" + b"0" * 64])
def test_what_is_no_key_of_the_type_lies_in_no_range(key: bytes) -> None:
    assert not KeyRange("integer", None, None).holds(key)
    assert not KeyRange("uuid", None, None).holds(key)


@pytest.mark.parametrize("bound", ["01", "-0", "1.0", "", "1'; DROP TABLE t; --", "12345678901234567890"])
def test_a_bound_that_is_no_number_is_refused(bound: str) -> None:
    with pytest.raises(FormatError):
        KeyRange("integer", bound, None)
    with pytest.raises(FormatError):
        order("uuid", bound)


def test_only_keys_whose_order_follows_from_their_text_can_be_cut_into_ranges() -> None:
    number, text = SchemaColumn("id", 20, -1, True), SchemaColumn("name", 25, -1, True)
    assert key_kind(["id"], [number, text], hidden=False) == "integer"
    assert key_kind(["u"], [SchemaColumn("u", 2950, -1, True)], hidden=False) == "uuid"
    for keys, hidden in ((["name"], False), (["id", "name"], False), ([], False), (["id"], True)):
        with pytest.raises(UsageError):
            key_kind(keys, [number, text], hidden=hidden)


def test_a_sample_is_some_of_many() -> None:
    assert parse_sample("1/20") == (1, 20)
    assert parse_sample("20/20") == (20, 20)
    for wrong in ("", "1", "0/3", "4/3", "1/0", "-1/3", "1/3/5", "1/10001", "a/b", " 1/2"):
        with pytest.raises(UsageError):
            parse_sample(wrong)
