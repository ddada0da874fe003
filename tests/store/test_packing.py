from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.stores import make_columns
from witnz.core.hashing import entry_lines
from witnz.core.rowline import escape
from witnz.errors import FormatError
from witnz.store.packing import (
    MAX_REST_BYTES,
    pack_hashes,
    pack_rest,
    split_entry,
    unpack_entries,
    unpack_hashes,
    unpack_rest,
)

OPS = [b"schema", b"baseline", b"insert", b"update", b"delete", b"truncate"]
cells = st.one_of(st.just(b"\\N"), st.binary(max_size=20).map(lambda raw: escape(raw.replace(b"\0", b""))))
suffixes = st.builds(lambda columns: b"\t" + b"\t".join(columns), st.lists(cells, min_size=6, max_size=6))
entry = st.tuples(
    st.sampled_from(OPS), cells, st.one_of(st.none(), st.binary(min_size=32, max_size=32).filter(any)), st.integers(0, 2)
)


@given(st.lists(entry, min_size=1, max_size=256), st.lists(suffixes, min_size=3, max_size=3), st.integers(1, 1 << 50))
def test_a_block_gives_back_the_exact_entry_lines(
    block: list[tuple[bytes, bytes, bytes | None, int]], few: list[bytes], first_seq: int
) -> None:
    ops, keys, hashes = [e[0] for e in block], [e[1] for e in block], [e[2] for e in block]
    ends = [few[e[3]] for e in block]
    lines = entry_lines(first_seq, ops, keys, hashes, ends)
    assert unpack_entries(first_seq, len(block), pack_hashes(hashes), pack_rest(ops, keys, ends)) == lines
    assert [split_entry(line) for line in lines] == list(zip(ops, keys, hashes, ends, strict=True))


@pytest.mark.parametrize("key", [b"", b"i", b"b", b"\\N", b"\\n", b"\\t"])
def test_a_bulk_load_is_packed_like_anything_else(key: bytes) -> None:
    lines = entry_lines(1, [b"insert"] * 3, [key] * 3, [b"h" * 32] * 3, [b"\ta\tb\tc\td\te\tf"] * 3)
    packed = pack_rest([b"insert"] * 3, [key] * 3, [b"\ta\tb\tc\td\te\tf"] * 3)
    assert unpack_entries(1, 3, pack_hashes([b"h" * 32] * 3), packed) == lines


def test_columns_that_repeat_take_next_to_nothing() -> None:
    made = make_columns(256, first=0, rows_per_transaction=256)
    assert len(pack_rest(made.ops, made.keys, made.suffixes)) < 4 * 256


def test_hashes_are_kept_raw_and_a_missing_one_is_zeros() -> None:
    packed = pack_hashes([b"a" * 32, None, b"b" * 32])
    assert packed == b"a" * 32 + bytes(32) + b"b" * 32
    assert unpack_hashes(packed) == [b"a" * 32, None, b"b" * 32]
    with pytest.raises(FormatError):
        unpack_hashes(packed[:-1])


def rest_of(text: bytes) -> bytes:
    return zlib.compress(text)


SUFFIX = b"\t0/1\t1\t2026-01-01T00:00:00.000000Z\t\\N\t\\N\t\\N"


@pytest.mark.parametrize(
    "rest",
    [
        b"",
        b"\x78\x01garbage",
        rest_of(b"i1" + SUFFIX)[:-1],
        rest_of(b"i1" + SUFFIX) + b"x",
        rest_of(b"i1"),
        rest_of(b"i1" + SUFFIX + b"\ni2"),
        rest_of(b"x1" + SUFFIX),
        rest_of(SUFFIX),
        rest_of(b""),
        rest_of(bytes(MAX_REST_BYTES + 1)),
    ],
)
def test_one_entry_that_is_not_as_it_was_packed_is_refused(rest: bytes) -> None:
    with pytest.raises(FormatError):
        unpack_entries(1, 1, b"h" * 32, rest)


def test_columns_that_say_nothing_new_are_refused() -> None:
    unpack_entries(1, 2, b"h" * 64, rest_of(b"i1" + SUFFIX + b"\ni2"))
    with pytest.raises(FormatError, match="only where they differ"):
        unpack_entries(1, 2, b"h" * 64, rest_of(b"i1" + SUFFIX + b"\ni2" + SUFFIX))


@pytest.mark.parametrize("count", [0, 2, 257])
def test_a_count_other_than_that_of_the_hashes_is_refused(count: int) -> None:
    with pytest.raises(FormatError):
        unpack_entries(1, count, b"h" * 32, rest_of(b"i1" + SUFFIX))


def test_a_bomb_is_not_unpacked() -> None:
    with pytest.raises(FormatError, match="at most"):
        unpack_rest(zlib.compress(bytes(4 * MAX_REST_BYTES)))


@pytest.mark.parametrize("line", [b"", b"1\t2\tinsert\tk\tzz\tx", b"1\t2\tinsert"])
def test_a_line_that_is_no_entry_is_not_split(line: bytes) -> None:
    with pytest.raises(FormatError):
        split_entry(line)
