"""LSNs: one spelling each, 64 bits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from witnz.core.lsn import format_lsn, parse_lsn
from witnz.errors import FormatError


@pytest.mark.parametrize(
    ("text", "lsn"),
    [
        ("0/0", 0),
        ("0/1949850", 0x1949850),
        ("1/0", 1 << 32),
        ("16/B374D848", 0x16B374D848),
        ("FFFFFFFF/FFFFFFFF", (1 << 64) - 1),
    ],
)
def test_text_and_number_name_the_same_position(text: str, lsn: int) -> None:
    assert parse_lsn(text) == lsn
    assert format_lsn(lsn) == text


@given(st.integers(0, (1 << 64) - 1))
def test_every_position_survives_writing_and_reading(lsn: int) -> None:
    assert parse_lsn(format_lsn(lsn)) == lsn


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "0/",
        "/0",
        "0",
        "00/1",
        "0/01",
        "0/1a",
        "a/1",
        "0/1 ",
        " 0/1",
        "0/1\n",
        "+0/1",
        "0x1/1",
        "0/123456789",
        "1/2/3",
        "０/1",
    ],
)
def test_every_other_spelling_is_refused(text: str) -> None:
    with pytest.raises(FormatError, match="LSN"):
        parse_lsn(text)


@pytest.mark.parametrize("lsn", [-1, 1 << 64])
def test_what_64_bits_cannot_hold_is_not_written(lsn: int) -> None:
    with pytest.raises(FormatError):
        format_lsn(lsn)
