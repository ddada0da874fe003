"""The period of a report: which records belong to it, so that the next report begins exactly where this one ends.

A period is ``[from, to)`` in UTC.  Its *opening* checkpoint is the largest final one noted before ``from`` (none where the
cluster is younger), its *closing* one the largest noted before ``to``; the records of the period are those between the two.
Reports over [a, b) and [b, c) so share a checkpoint and leave no record out and count none twice.
"""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from witnz.core.timestamp import format_time
from witnz.errors import Inconclusive, UsageError
from witnz.store import checkpoints
from witnz.store.checkpoints import StoredCheckpoint

_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?Z)?")


@dataclass(frozen=True, slots=True)
class Period:
    """``begin`` and ``end``: µs since the Unix epoch, the end not included."""

    begin: int
    end: int

    @property
    def begin_text(self) -> str:
        return format_time(self.begin)

    @property
    def end_text(self) -> str:
        return format_time(self.end)


@dataclass(frozen=True, slots=True)
class Bounds:
    """The checkpoints at both ends; ``opening`` None: the period begins with the first record."""

    opening: StoredCheckpoint | None
    closing: StoredCheckpoint

    @property
    def first_seq(self) -> int:
        return (self.opening.size if self.opening is not None else 0) + 1


def parse_period(begin: str, end: str) -> Period:
    """A period of two dates or times of UTC: ``2026-10-01``, ``2026-10-01T09:00Z``.  Raises UsageError for an empty one."""
    period = Period(_parse(begin, "--from"), _parse(end, "--to"))
    if period.end <= period.begin:
        raise UsageError(
            f"the period from {begin} to {end} is empty", hint="--to is the first day that no longer belongs to the period"
        )
    return period


def _parse(text: str, name: str) -> int:
    try:
        when = datetime.fromisoformat(text) if _DATE.fullmatch(text) else None
    except ValueError:
        when = None
    if when is None:
        raise UsageError(
            f"{name}: expected a date YYYY-MM-DD or a time YYYY-MM-DDTHH:MM:SSZ, found {text[:40]!r}",
            hint="dates and times are UTC",
        )
    whole = when.replace(tzinfo=UTC)
    return int(whole.timestamp()) * 1_000_000 + whole.microsecond


def find_bounds(connection: sqlite3.Connection, period: Period, genesis_at: int) -> Bounds:
    """The checkpoints of a period.

    Raises UsageError for a period that ended before the journal began, Inconclusive for one in which nothing was recorded.
    """
    if period.end <= genesis_at:
        raise UsageError(
            f"the period ends at {period.end_text}; this cluster's journal begins at {format_time(genesis_at)}",
            hint="nothing was recorded then; choose a later period",
            code="report.before-genesis",
        )
    opening, closing = checkpoints.newest_before(connection, period.begin), checkpoints.newest_before(connection, period.end)
    if closing is None or (opening is not None and closing.size <= opening.size):
        raise Inconclusive(
            f"no checkpoint was made from {period.begin_text} to {period.end_text}, so there is nothing to report on",
            hint="`witnz checkpoint list` shows when there were some; was the node stopped?",
            code="report.nothing-recorded",
        )
    return Bounds(opening, closing)
