"""Points in time: integers of microseconds since 1970-01-01 00:00 UTC, written ``2026-11-21T18:09:40.123456Z``.

Always UTC, always six digits, always the letter ``Z`` (formats.md, opening; a profile of RFC 3339).  PostgreSQL's replication
protocol counts microseconds from 2000-01-01 instead (Begin message, "Commit timestamp"): add :data:`PG_EPOCH_US`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from witnz.errors import FormatError

PG_EPOCH_US: Final = 946_684_800_000_000
"""Microseconds from the Unix epoch to PostgreSQL's, 2000-01-01 00:00 UTC."""

_EPOCH = datetime(1970, 1, 1)
_EPOCH_UTC = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")


def format_time(us: int) -> str:
    """The text of a time in microseconds since the Unix epoch.

    Raises :class:`FormatError` outside the years 0001 to 9999, which four digits cannot write.
    """
    try:
        return (_EPOCH + timedelta(microseconds=us)).isoformat(timespec="microseconds") + "Z"
    except OverflowError:
        raise FormatError(f"time: expected a year from 0001 to 9999, found {us} µs since 1970") from None


def parse_time(text: str) -> int:
    """Microseconds since the Unix epoch of a time in the one spelling that :func:`format_time` gives.

    Raises :class:`FormatError` for any other: other zones, fewer digits, second 60, 30 February.
    """
    if _TIME.fullmatch(text) is None:
        raise FormatError(f"time: expected YYYY-MM-DDTHH:MM:SS.ffffffZ, found {text[:40]!r}")
    try:
        us = (datetime.fromisoformat(text) - _EPOCH_UTC) // _MICROSECOND
    except ValueError:
        raise FormatError(f"time: expected a date and time that exist, found {text!r}") from None
    if format_time(us) != text:  # newer Pythons read 24:00 as the next day
        raise FormatError(f"time: expected the canonical spelling {format_time(us)}, found {text!r}")
    return us


def recall_time(text: str) -> int:
    """:func:`parse_time` of a text that :func:`format_time` gave, not checked.  ValueError for what is no time."""
    return (datetime.fromisoformat(text) - _EPOCH_UTC) // _MICROSECOND
