"""The compiled way against the strict one: on hostile rows, cut and altered messages, and lengths that lie."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.postgres.test_tuples import cells, tables
from tests.support.pgoutput import UNCHANGED_VALUE, Value, format_insert
from witnz.core.rowline import format_line
from witnz.errors import FormatError
from witnz.postgres.tuples import HEAD_BYTES, read_tuple

fast = pytest.importorskip("witnz.postgres._fast_tuples", reason="no C compiler was there at install")
START = HEAD_BYTES - 2


def strictly(message: bytes, columns: int) -> bytes | None:
    """The line of a message that holds one tuple and nothing else, None for any other."""
    try:
        found, _, end = read_tuple(message, START, columns)
    except FormatError:
        return None
    return b"\t".join(found) if end == len(message) else None


@settings(max_examples=500)
@given(tables())
def test_rows_give_the_lines_of_copy(rows: list[list[bytes | None]]) -> None:
    found = fast.read_lines([format_insert(row) for row in rows], len(rows[0]), START)
    assert found == [format_line(row) for row in rows]


@settings(max_examples=1000)
@given(st.lists(cells, min_size=1, max_size=5), st.data())
def test_an_altered_message_gives_the_strict_line_or_none(row: list[bytes | None], data: st.DataObject) -> None:
    message = bytearray(format_insert(row))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(START, len(message) - 1))
        message[at] = data.draw(st.integers(0, 255))
    cut = bytes(message[: data.draw(st.integers(0, len(message)))])
    for text in (bytes(message), cut, bytes(message) + b"\0"):
        for columns in {len(row), len(row) + 1}:
            assert fast.read_lines([text], columns, START) in ([strictly(text, columns)], [None])
        if strictly(text, len(row)) is not None and b"u" not in text:
            assert fast.read_lines([text], len(row), START) == [strictly(text, len(row))]


def test_every_shorter_message_is_left_to_the_strict_way() -> None:
    message = format_insert([b"one", None, b"t" * 300])
    for size in range(len(message)):
        assert fast.read_lines([message[:size]], 3, START) == [None]


def test_an_unchanged_value_is_left_to_the_strict_way() -> None:
    row: list[Value] = [b"1", UNCHANGED_VALUE]
    assert fast.read_lines([format_insert(row), format_insert([b"1", b"2"])], 2, START) == [None, b"1\t2"]


def test_a_length_of_four_gigabytes_is_not_followed() -> None:
    assert fast.read_lines([format_insert([b"x"])[: START + 2] + b"t\xff\xff\xff\xffx"], 1, START) == [None]


def test_what_is_no_message_is_left_alone_and_other_arguments_are_refused() -> None:
    assert fast.read_lines(["text", None, b""], 1, START) == [None, None, None]
    for columns in (0, -1, 65536):
        with pytest.raises(ValueError, match="1 to 65535 columns"):
            fast.read_lines([], columns, START)
