"""Keys as people type them."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.served import SECRET
from witnz.core.rowline import escape, format_line
from witnz.errors import UsageError
from witnz.node.keytext import parse_key, recorded_key
from witnz.store.logs import LogRow

TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20)


def log_row(*key_columns: str) -> LogRow:
    return LogRow(
        1, "public.t", 1, "c/public.t/1", 16384, None, SECRET, "active", bool(key_columns), key_columns, "", 1, None, 0, None,
        1, "0" * 64,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "columns", "line"),
    [
        ("42", ["id"], b"42"),
        ("id=42", ["id"], b"42"),
        ("Zürich", ["city"], "Zürich".encode()),
        ("a\tb", ["id"], b"a\\tb"),
        ("C:\\dir", ["path"], b"C:\\\\dir"),
        ("flight=11,carrier=UA", ["carrier", "flight"], b"UA\t11"),
        ("carrier=UA,flight=11", ["carrier", "flight"], b"UA\t11"),
        ("a=1,2,b=x=y,z", ["a", "b"], b"1,2\tx=y,z"),
        ("a=,b=", ["a", "b"], b"\t"),
        ("time=2013-01-01 05:00:00+00,time_hour=7", ["time", "time_hour"], b"2013-01-01 05:00:00+00\t7"),
        ("UA\\t11", ["carrier", "flight"], b"UA\t11"),
        ("a.b=1,(c)=2", ["a.b", "(c)"], b"1\t2"),
        ("\\H" + "a" * 64, ["id"], b"\\H" + b"a" * 64),
        ("\\H" + "a" * 64, ["a", "b"], b"\\H" + b"a" * 64),
    ],
)
def test_a_key_is_read_as_its_row_line(text: str, columns: list[str], line: bytes) -> None:
    assert parse_key(text, columns) == line


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("11", ["carrier", "flight"]),
        ("carrier=UA", ["carrier", "flight"]),
        ("a=1,a=2,b=3", ["a", "b"]),
        ("x", []),
        ("\ud800", ["a"]),
    ],
)
def test_what_names_no_key_is_refused(text: str, columns: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        parse_key(text, columns)
    assert caught.value.exit_code == 2


@given(TEXT.filter(lambda text: not text.startswith(("id=", "\\H"))))
def test_any_value_of_a_single_column_is_found_under_its_own_text(text: str) -> None:
    assert parse_key(text, ["id"]) == format_line([text.encode()])


@given(TEXT.filter(lambda text: "=" not in text), TEXT.filter(lambda text: "=" not in text))
def test_values_of_two_columns_are_told_apart_in_either_order(first: str, second: str) -> None:
    line = format_line([first.encode(), second.encode()])
    assert parse_key(f"a={first},b={second}", ["a", "b"]) == line
    assert parse_key(f"b={second},a={first}", ["a", "b"]) == line
    assert parse_key(escape(line).decode(), ["a", "b"]) == line


def test_a_hidden_or_long_key_is_looked_for_by_its_hash() -> None:
    digest = hashlib.sha256(SECRET + b"\0" + b"42").hexdigest().encode()
    assert recorded_key(log_row("id"), "42", hidden=True) == b"\\H" + digest
    assert recorded_key(log_row("id"), "42", hidden=False) == b"42"
    assert recorded_key(log_row("id"), "x" * 1024, hidden=False) == b"x" * 1024
    assert recorded_key(log_row("id"), "x" * 1025, hidden=False).startswith(b"\\H")
