"""Times: microseconds since the Unix epoch, one spelling each."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from witnz.core.timestamp import PG_EPOCH_US, format_time, parse_time
from witnz.errors import FormatError

FIRST_US = -62_135_596_800_000_000
LAST_US = 253_402_300_799_999_999


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("1970-01-01T00:00:00.000000Z", 0),
        ("2000-01-01T00:00:00.000000Z", PG_EPOCH_US),
        ("2026-11-21T18:09:40.123456Z", 1_795_284_580_123_456),
        ("1969-12-31T23:59:59.999999Z", -1),
        ("2024-02-29T12:00:00.000001Z", 1_709_208_000_000_001),
        ("0001-01-01T00:00:00.000000Z", FIRST_US),
        ("9999-12-31T23:59:59.999999Z", LAST_US),
    ],
)
def test_text_and_number_name_the_same_time(text: str, us: int) -> None:
    assert parse_time(text) == us
    assert format_time(us) == text


def test_the_number_is_what_the_standard_library_says() -> None:
    moment = datetime(2026, 11, 21, 18, 9, 40, tzinfo=UTC)
    assert parse_time("2026-11-21T18:09:40.000000Z") == int(moment.timestamp()) * 1_000_000


@given(st.integers(FIRST_US, LAST_US))
def test_every_time_survives_writing_and_reading(us: int) -> None:
    text = format_time(us)
    assert len(text) == 27
    assert parse_time(text) == us


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-21T18:09:40Z",
        "2026-11-21T18:09:40.123Z",
        "2026-11-21T18:09:40.1234567Z",
        "2026-11-21T18:09:40.123456",
        "2026-11-21T18:09:40.123456+00:00",
        "2026-11-21t18:09:40.123456Z",
        "2026-11-21T18:09:40.123456z",
        "2026-11-21 18:09:40.123456Z",
        "2026-11-21T18:09:40,123456Z",
        "2026-11-21T18:09:40.123456Z\n",
        "2026-02-29T00:00:00.000000Z",
        "2026-13-01T00:00:00.000000Z",
        "2026-11-21T24:00:00.000000Z",
        "2016-12-31T23:59:60.000000Z",
        "0000-01-01T00:00:00.000000Z",
        "-001-01-01T00:00:00.000000Z",
        "２026-11-21T18:09:40.123456Z",
    ],
)
def test_every_other_spelling_is_refused(text: str) -> None:
    with pytest.raises(FormatError, match="time"):
        parse_time(text)


@pytest.mark.parametrize("us", [FIRST_US - 1, LAST_US + 1, 10**30, -(10**30)])
def test_what_four_digits_of_a_year_cannot_write_is_refused(us: int) -> None:
    with pytest.raises(FormatError):
        format_time(us)
