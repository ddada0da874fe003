"""Values as people read them."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from witnz.cli import text


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ("Zürich 東京", "Zürich 東京"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\nb\rc\td\0", "a\\nb\\rc\\td\\x00"),
        ("\x9b31m", "\\x9b31m"),
        ("abc\u202etxt.exe", "abc\\u202etxt.exe"),
        ("\ud800", "\\ud800"),
        (417, "417"),
    ],
)
def test_nothing_that_is_shown_is_obeyed_by_a_terminal(shown: object, expected: str) -> None:
    assert text.printable(shown) == expected


@given(st.text())
def test_what_is_shown_is_one_line_without_control_characters(shown: str) -> None:
    found = text.printable(shown)
    assert len(found.splitlines()) <= 1
    assert not any(unicodedata.category(char) in ("Cc", "Cs") for char in found)
    assert "\x1b" not in found


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.04, "0.0 s"), (3.14, "3.1 s"), (59, "59 s"), (119, "119 s"), (600, "10 min"), (7200, "2 h"), (864_000, "10 days")],
)
def test_durations_have_one_unit(seconds: float, expected: str) -> None:
    assert text.duration(seconds) == expected


def test_ages_sizes_and_counts() -> None:
    assert text.age(None) == "never"
    assert text.age(12) == "12 s ago"
    assert text.size(None) == "unknown"
    assert text.size(1) == "1 bytes"
    assert text.size(4200) == "4.1 kB"
    assert text.size(3 << 40) == "3.0 TB"
    assert text.size(5000 << 40) == "5000.0 TB"
    assert text.count(1, "row") == "1 row"
    assert text.count(1204498, "row") == "1,204,498 rows"
    assert text.count(2, "entry", "entries") == "2 entries"
    assert text.short("0123456789abcdef") == "0123456789ab…"
    assert text.short(None) == "none"


def test_columns_are_aligned_whatever_the_cells_hold() -> None:
    rows = [["a", "1"], ["\x1b[31m東京\x1b[0m", "23"]]
    assert text.columns(rows, right=(1,)) == ["a      1", "\x1b[31m東京\x1b[0m  23"]
    assert text.columns([]) == []
