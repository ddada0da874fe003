"""Keys of rows: where they are in a line, how they stand in an entry, under what name the state knows them."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from witnz.core.entry import Entry, format_entry, parse_entry
from witnz.core.keyplan import NO_KEY, KeyPlan, key_text, keyless_state_key, state_key_of_entry
from witnz.core.rowline import escape, format_line, parse_line
from witnz.errors import FormatError

SECRET = bytes(range(32))
NAMES = ("a", "b", "c", "d")
VALUES = st.one_of(
    st.binary(max_size=12).filter(lambda value: b"\0" not in value),
    st.sampled_from([b"", b"\\N", b"\\H" + b"a" * 64, b"\t", b"\\", b"\n", "Zürich 東京".encode()]),
)
# Keys are text of the database: UTF-8. NULL is no part of a key.
TEXTS = st.one_of(
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12).map(str.encode),
    st.sampled_from([b"", b"\\N", b"\\H" + b"a" * 64, b"\t", b"\\", b"\n", b"k" * 1023, b"k" * 1024, b"k" * 1025, b"\t" * 513]),
)


def hidden(key_line: bytes) -> bytes:
    """formats.md 2: \\H and the hex digits of SHA256(secret || 0x00 || key line)."""
    return b"\\H" + hashlib.sha256(SECRET + b"\0" + key_line).hexdigest().encode()


@given(st.lists(st.tuples(TEXTS, TEXTS, VALUES, TEXTS), max_size=20), st.sampled_from([("b",), ("a",), ("a", "d"), ("b", "d")]))
def test_a_key_is_the_key_columns_own_line(rows: list[tuple[bytes, ...]], key_columns: tuple[str, ...]) -> None:
    plan = KeyPlan.of(key_columns, NAMES, SECRET, hidden=False)
    lines = [format_line(row) for row in rows]
    wanted = [format_line([row[NAMES.index(name)] for name in key_columns]) for row in rows]
    assert plan.key_lines(lines) == wanted
    states, fields = plan.state_keys(lines)
    long = [len(key) > 1024 for key in wanted]
    assert fields == [hidden(key) if over else escape(key) for key, over in zip(wanted, long, strict=True)]
    assert states == [hidden(key) if over else key for key, over in zip(wanted, long, strict=True)]


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=20))
def test_hidden_keys_are_hidden_whatever_they_are(rows: list[tuple[bytes, ...]]) -> None:
    plan = KeyPlan.of(("a", "b"), ("a", "b"), SECRET, hidden=True)
    lines = [format_line(row) for row in rows]
    assert plan.state_keys(lines) == ([hidden(line) for line in lines], [hidden(line) for line in lines])


@given(TEXTS, TEXTS, st.booleans())
def test_the_state_key_follows_from_the_entry_alone(first: bytes, second: bytes, hide: bool) -> None:
    plan = KeyPlan.of(("a", "b"), ("a", "b"), SECRET, hidden=hide)
    (state,), (field,) = plan.state_keys([format_line([first, second])])
    key, digest = (None, field[2:].decode()) if field.startswith(b"\\H") else (format_line([first, second]), None)
    line = format_entry(Entry(7, "insert", key, bytes(32), 1, 1, 0, hidden_key=digest))
    assert line.split(b"\t")[3] == field
    assert state_key_of_entry(line, 7, bytes(32), keyed=True) == state
    assert parse_entry(line).key == key


def test_the_boundary_of_long_keys_counts_the_escaped_line() -> None:
    plan = KeyPlan.of(("a",), ("a",), SECRET, hidden=False)
    whole, longer, escaped = b"k" * 1024, b"k" * 1025, b"k" * 1023 + b"\\t"
    states, fields = plan.state_keys([whole, longer, escaped])
    assert fields == [whole, hidden(longer), hidden(escaped)]
    assert states == fields


def test_different_keys_never_share_a_state_key() -> None:
    """A value that looks like NULL or like a hidden key stays what it is."""
    plan = KeyPlan.of(("a",), ("a",), SECRET, hidden=False)
    digest = hidden(b"k" * 1025)
    lines = [format_line([value]) for value in (b"\\N", digest, b"", b"k" * 1025, b"N", b"\\\\N")]
    states, fields = plan.state_keys(lines)
    assert len(set(states)) == len(set(fields)) == len(lines)
    assert NO_KEY not in fields


def test_a_table_without_a_key_has_a_plan_without_positions() -> None:
    plan = KeyPlan.of((), NAMES, SECRET, hidden=False)
    assert not plan.keyed
    assert plan.positions == ()


def test_a_key_column_that_is_gone_is_refused_by_name() -> None:
    with pytest.raises(FormatError, match="'e'"):
        KeyPlan.of(("a", "e"), NAMES, SECRET, hidden=False)


@given(st.binary(min_size=32, max_size=32), st.integers(1, 2**53))
def test_equal_rows_without_a_key_are_told_apart_by_their_entry(row: bytes, seq: int) -> None:
    assert keyless_state_key(row, seq) == row + seq.to_bytes(8, "big")
    line = format_entry(Entry(seq, "insert", None, row, 1, 1, 0)) if seq <= 2**53 - 1 else b""
    if line:
        assert state_key_of_entry(line, seq, row, keyed=False) == keyless_state_key(row, seq)


def test_an_entry_without_a_key_in_a_log_with_keys_is_told_apart_by_its_hash() -> None:
    """From the moment its key column is dropped until its next generation a table's rows come without one."""
    row = hashlib.sha256(b"row").digest()
    line = format_entry(Entry(9, "insert", None, row, 1, 1, 0))
    assert state_key_of_entry(line, 9, row, keyed=True) == keyless_state_key(row, 9)


@given(TEXTS, TEXTS)
def test_people_see_a_key_as_it_stands_in_the_entry(first: bytes, second: bytes) -> None:
    line = format_line([first, second])
    shown = key_text(escape(line))
    assert shown is not None
    assert parse_line(parse_line(shown.encode())[0] or b"") == [first, second]
    assert key_text(NO_KEY) is None
