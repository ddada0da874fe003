"""The fast way against the strict one, on rows made to confuse it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.pgoutput import UNCHANGED_VALUE, Value, format_delete, format_insert, format_update, open_decoder
from witnz.core.rowline import format_line
from witnz.errors import FormatError
from witnz.postgres.pgoutput import Rows
from witnz.postgres.tuples import HEAD_BYTES, UNCHANGED, PairReader, TupleReader, _Shape, read_tuple

# What headers, markers, separators, escapes and NULLs are made of, but for the NUL byte, which no value has.
HOSTILE = [
    b"t",
    b"n",
    b"u",
    b"N",
    b"K",
    b"O",
    b"\\",
    b"\\N",
    b"\t",
    b"\n",
    b"\r",
    b"\b",
    b"\v",
    b"\f",
    b"\x01",
    b"\xff",
    b"I",
    b"x",
]
values = st.one_of(
    st.lists(st.sampled_from(HOSTILE), max_size=6).map(b"".join),
    st.binary(max_size=12).map(lambda value: value.replace(b"\0", b"t")),
    st.sampled_from([b"t" * 0x74, b"n" * 0x6E, b"x" * 0x09, b"\\" * 0x5C, b"n" * 0x100, b"y" * 0x174, b"\t" * 0xFF]),
)
cells: st.SearchStrategy[bytes | None] = st.one_of(st.none(), values, values)


@st.composite
def tables(draw: st.DrawFn) -> list[list[bytes | None]]:
    columns = draw(st.integers(1, 5))
    return draw(st.lists(st.lists(cells, min_size=columns, max_size=columns), min_size=1, max_size=8))


@st.composite
def rows_and_nulls(draw: st.DrawFn) -> tuple[list[bytes | None], tuple[int, ...]]:
    columns = draw(st.integers(1, 6))
    row = draw(st.lists(cells, min_size=columns, max_size=columns))
    nulls = draw(st.sets(st.integers(0, columns - 1), max_size=columns - 1))
    return row, tuple(sorted(nulls))


@settings(max_examples=600)
@given(rows_and_nulls())
@example(([b"xn", b"y", None], (1,)))
@example(([b"x", None, b"yn"], (1,)))
@example(([b"xn", None, b"y"], (1,)))
@example(([b"t", None, None, b"n"], (1, 2)))
@example(([b"a", None, b"xn", b"y", None], (1, 3)))  # the first NULL is where it is expected, the second is not
@example(([b"a", b"xn", None, b"y", None], (1, 4)))
def test_a_fast_pattern_gives_the_strict_line_or_none(given_: tuple[list[bytes | None], tuple[int, ...]]) -> None:
    row, nulls = given_
    message = format_insert(row)
    (line,) = _Shape(len(row), 1, nulls).read([message])
    actual = tuple(i for i, value in enumerate(row) if value is None)
    assert line == (format_line(row) if actual == nulls else None)
    assert b"\t".join(read_tuple(message, HEAD_BYTES - 2, len(row))[0]) == format_line(row)


@settings(max_examples=400)
@given(rows_and_nulls(), st.data())
def test_a_fast_pattern_for_two_tuples_gives_the_strict_lines_or_none(
    given_: tuple[list[bytes | None], tuple[int, ...]], data: st.DataObject
) -> None:
    old, nulls = given_
    new = data.draw(st.lists(cells, min_size=len(old), max_size=len(old)))
    nulls += tuple(sorted(data.draw(st.sets(st.integers(len(old), 2 * len(old) - 1), max_size=len(old)))))
    (lines,) = _Shape(len(old), 2, nulls).read([format_update(new, old)])
    actual = tuple(i for i, value in enumerate(old + new) if value is None)
    assert lines == (format_line(old) + b"\n" + format_line(new) if actual == nulls else None)


@given(tables())
def test_runs_of_inserts_give_the_lines_of_copy(rows: list[list[bytes | None]]) -> None:
    (event,) = open_decoder(len(rows[0])).decode([format_insert(row) for row in rows])
    assert event == Rows(16403, b"insert", [format_line(row) for row in rows], [], False, ())


@given(tables(), st.sampled_from([b"K", b"O"]))
def test_runs_of_deletes_give_the_lines_of_copy(rows: list[list[bytes | None]], kind: bytes) -> None:
    (event,) = open_decoder(len(rows[0])).decode([format_delete(row, kind) for row in rows])
    assert event == Rows(16403, b"delete", [], [format_line(row) for row in rows], kind == b"O", ())


@given(tables(), st.sampled_from([b"K", b"O"]))
def test_runs_of_updates_give_the_lines_of_copy(rows: list[list[bytes | None]], kind: bytes) -> None:
    pairs = list(zip(rows, reversed(rows), strict=True))
    (event,) = open_decoder(len(rows[0])).decode([format_update(new, old, kind) for new, old in pairs])
    expected = [format_line(new) for new, _ in pairs], [format_line(old) for _, old in pairs]
    assert event == Rows(16403, b"update", *expected, kind == b"O", ())


@pytest.mark.parametrize("nulls", [(), (0,), (1,), (2,), (0, 2), (1, 2)])
def test_the_combination_of_nulls_that_a_table_usually_has_is_learned(nulls: tuple[int, ...]) -> None:
    rows = [[None if c in nulls else b"%d\t%s" % (i, b"n" * (i % 3)) for c in range(3)] for i in range(200)]
    reader = TupleReader(3)
    for _ in range(3):
        assert reader.lines([format_insert(row) for row in rows]) == ([format_line(row) for row in rows], ())
    assert reader._shapes[0].nulls == nulls


def test_the_usual_nulls_of_updates_are_learned_for_both_tuples() -> None:
    pairs = [([b"%d" % i, None, b"n"], [b"%d" % i, b"n", None]) for i in range(200)]
    reader = PairReader([True] * 3)
    for _ in range(3):
        new, old, unresolved = reader.lines([format_update(*pair) for pair in pairs])
        assert new == [format_line(pair[0]) for pair in pairs]
        assert old == [format_line(pair[1]) for pair in pairs]
        assert unresolved == ()
    assert reader._shapes[0].nulls == (2, 4)


def test_two_combinations_of_nulls_in_turn_are_both_learned() -> None:
    usual = [[b"1", None, b"n"], [None, b"2", b"n"]]
    rare = [[b"1", b"n", None], [b"1", b"2", b"3"], [None, None, b"n"], [None, None, None]]
    rows = [row for turn in range(300) for row in ([*usual, rare[turn // 5 % 4]] if turn % 5 == 0 else usual)]
    reader = TupleReader(3)
    for _ in range(4):
        assert reader.lines([format_insert(row) for row in rows])[0] == [format_line(row) for row in rows]
    assert {shape.nulls for shape in reader._shapes} == {(1,), (0,)}


def test_a_table_with_nulls_anywhere_is_read_all_the_same() -> None:
    rows = [[None if bits >> c & 1 else b"n%d" % c for c in range(9)] for bits in range(512)]
    rows += [[b"n"] * 9] * 300 + rows
    reader = TupleReader(9)
    for _ in range(3):
        assert reader.lines([format_insert(row) for row in rows])[0] == [format_line(row) for row in rows]


@pytest.mark.parametrize("length", [0x0174, 0x7400, 0x740000, 0xFFFFFF, 0x1000000, 0x1740005])
def test_lengths_whose_bytes_look_like_a_header_change_nothing(length: int) -> None:
    # "t" 00 within a length, and, from 2^24 on, no 00 where the fast way looks for it
    rows: list[list[bytes | None]] = [[b"a", b"b"], [b"v" * length, b"w"], [b"a", b"v" * length], [b"n", None]]
    (event,) = open_decoder(2).decode([format_insert(row) for row in rows])
    assert isinstance(event, Rows)
    assert [len(line) for line in event.new] == [3, length + 2, length + 2, 4]
    assert event.new == [format_line(row) for row in rows]


@pytest.mark.parametrize("columns", [1, 2, 116, 255, 256, 300, 512, 1600])
def test_any_number_of_columns_is_read(columns: int) -> None:
    row: list[bytes | None] = [b"%dt" % i if i % 2 else b"" for i in range(columns)]
    holed = [None if i % 7 == 3 else value for i, value in enumerate(row)]
    for rows in ([row] * 3, [holed] * 70, [row, holed, row]):
        decoder = open_decoder(columns)
        for _ in range(2):
            (event,) = decoder.decode([format_insert(each) for each in rows])
            assert isinstance(event, Rows)
            assert event.new == [format_line(each) for each in rows]
            (event,) = decoder.decode([format_update(each, row) for each in rows])
            assert isinstance(event, Rows)
            assert event.new == [format_line(each) for each in rows]
            assert event.old == [format_line(row)] * len(rows)


def test_a_table_without_columns_has_empty_lines() -> None:
    decoder = open_decoder(0)
    (event,) = decoder.decode([format_insert([])] * 3)
    assert event == Rows(16403, b"insert", [b""] * 3, [], False, ())
    (event,) = decoder.decode([format_update([], [])] * 3)
    assert event == Rows(16403, b"update", [b""] * 3, [b""] * 3, True, ())


# -- unchanged TOAST values --


def test_a_value_that_nothing_tells_is_marked_and_its_row_unresolved() -> None:
    rows: list[Sequence[Value]] = [[b"1", b"\\U"], [b"2", UNCHANGED_VALUE], [b"3", b"\\"], [b"4", UNCHANGED_VALUE]]
    (event,) = open_decoder(2).decode([format_update(row) for row in rows])
    assert event == Rows(16403, b"update", [b"1\t\\\\U", b"2\t\\U", b"3\t\\\\", b"4\t\\U"], [None] * 4, False, (1, 3))


def test_the_old_tuple_tells_an_unchanged_value() -> None:
    full = [b"1", b"long\tvalue", None], [UNCHANGED_VALUE, UNCHANGED_VALUE, UNCHANGED_VALUE]
    (event,) = open_decoder(3).decode([format_update(full[1], full[0], b"O")] * 2)
    assert event == Rows(16403, b"update", [b"1\tlong\\tvalue\t\\N"] * 2, [b"1\tlong\\tvalue\t\\N"] * 2, True, ())


def test_an_old_key_tells_only_key_columns() -> None:
    message = format_update([UNCHANGED_VALUE, UNCHANGED_VALUE, b"new"], [b"key", None, None], b"K")
    (event,) = open_decoder(3, keys=(0,)).decode([message])
    assert event == Rows(16403, b"update", [b"key\t\\U\tnew"], [b"key\t\\N\t\\N"], False, (0,))


@given(st.integers(0, 40))
def test_unchanged_values_are_seen_wherever_the_row_is_in_its_run(position: int) -> None:
    rows: list[Sequence[Value]] = [[b"%d" % i, b"v"] for i in range(41)]
    rows[position] = [b"%d" % position, UNCHANGED_VALUE]
    for make in (format_update, format_insert):
        (event,) = open_decoder(2).decode([make(row) for row in rows])
        assert isinstance(event, Rows)
        assert event.unresolved == (position,)
        assert event.new[position] == b"%d\t" % position + UNCHANGED


@pytest.mark.parametrize(
    "message", [format_delete([b"1", UNCHANGED_VALUE], b"O"), format_update([b"1", b"2"], [b"1", UNCHANGED_VALUE])]
)
def test_an_old_tuple_that_leaves_values_out_is_refused(message: bytes) -> None:
    with pytest.raises(FormatError, match="expected an old tuple with all its values"):
        open_decoder(2).decode([message])


# -- what is refused --

GOOD = [
    format_insert([b"abc", None, b""]),
    format_update([b"abc", UNCHANGED_VALUE, b"x"]),
    format_update([b"abc", b"", b"x"], [b"k", None, None], b"K"),
    format_delete([b"k", None, None]),
]


@pytest.mark.parametrize("message", GOOD, ids=lambda message: message[:1].decode())
def test_every_truncation_and_every_trailing_byte_is_refused(message: bytes) -> None:
    open_decoder(3).decode([message])
    broken = [message[:size] for size in range(1, len(message))] + [message + extra for extra in (b"\0", b"n", b"t\0\0\0\0")]
    for each in broken:
        with pytest.raises(FormatError, match=f"pgoutput message {message[:1].decode()}"):
            open_decoder(3).decode([each])


@pytest.mark.parametrize("message", GOOD, ids=lambda message: message[:1].decode())
def test_trailing_nul_bytes_and_truncations_are_refused_within_a_run_too(message: bytes) -> None:
    for each in [message[:size] for size in range(HEAD_BYTES, len(message))] + [message + b"\0"]:
        with pytest.raises(FormatError):
            open_decoder(3).decode([message, message, each])


@pytest.mark.parametrize(
    ("column", "found"),
    [
        (b"b\0\0\0\1x", "'b'"),  # binary values are never asked for
        (b"T\0\0\0\1x", "'T'"),
        (b"\0", "x00"),
        (b"t\xff\xff\xff\xffx", "end"),
        (b"t\0\0\0\2x", "end"),
        (b"t\0\0\0\1\0", "NUL"),
    ],
)
def test_columns_of_another_kind_or_length_are_refused(column: bytes, found: str) -> None:
    good = format_insert([b"1", b"x"])
    bad = good[:HEAD_BYTES] + column + b"n"
    for run in ([bad], [good, bad], [good, good, bad, good]):
        with pytest.raises(FormatError, match=found):
            open_decoder(2).decode(run)


def test_a_tuple_with_another_number_of_columns_than_its_relation_is_refused() -> None:
    for columns, message in itertools.product((1, 3), (format_insert, format_delete, format_update)):
        with pytest.raises(FormatError, match=f"expected a tuple of {columns} columns, found 2"):
            open_decoder(columns).decode([message([b"1", b"2"])])
    with pytest.raises(FormatError, match="expected a tuple of 2 columns, found 3"):
        open_decoder(2).decode([format_update([b"1", b"2", b"3"], [b"1", b"2"])])
    with pytest.raises(FormatError, match="expected a tuple of 2 columns, found 1"):
        open_decoder(2).decode([format_update([b"1", b"2"], [b"1", b"2"])] * 2 + [format_update([b"1"], [b"1", b"2"])])


@given(st.data())
def test_no_damage_to_a_message_does_worse_than_a_refusal(data: st.DataObject) -> None:
    message = bytearray(data.draw(st.sampled_from(GOOD)))
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(1, len(message) - 1))] = data.draw(st.integers(0, 255))
    run = [GOOD[0]] * data.draw(st.integers(0, 2)) + [bytes(message)]
    try:
        events = open_decoder(3).decode(run)
    except FormatError:
        return
    for event in events:
        assert isinstance(event, Rows)
        assert all(line.count(b"\t") == 2 and b"\n" not in line and b"\0" not in line for line in event.new)
