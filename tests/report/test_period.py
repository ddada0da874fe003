"""Periods: half-open, in UTC, and no record lost or counted twice between two of them."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.support.evidence import PaperStore, day_text
from tests.support.journal_maker import START_US
from witnz.errors import Inconclusive, UsageError
from witnz.report.period import find_bounds, parse_period


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("2026-10-01", "2026-10-01T00:00:00.000000Z"),
        ("2026-10-01T09:30Z", "2026-10-01T09:30:00.000000Z"),
        ("2026-10-01T09:30:15Z", "2026-10-01T09:30:15.000000Z"),
        ("2026-10-01T09:30:15.25Z", "2026-10-01T09:30:15.250000Z"),
    ],
)
def test_dates_and_times_are_utc(text: str, means: str) -> None:
    assert parse_period(text, "2027-01-01").begin_text == means


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-13-01", "2026-02-30", "20261001", "2026-10-01T09:30", "2026-10-01 09:30Z"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected a date"):
        parse_period(text, "2027-01-01")


@pytest.mark.parametrize(("begin", "end"), [("2026-10-01", "2026-10-01"), ("2026-10-02", "2026-10-01")])
def test_an_empty_period_is_refused(begin: str, end: str) -> None:
    with pytest.raises(UsageError, match="is empty"):
        parse_period(begin, end)


def test_neighbouring_periods_share_a_checkpoint_and_leave_nothing_out(store: PaperStore, package: object) -> None:
    with store.db.read() as conn:
        bounds = [find_bounds(conn, parse_period(day_text(day), day_text(day + 1)), START_US) for day in range(12)]
    assert bounds[0].opening is None and bounds[0].first_seq == 1
    for before, after in pairwise(bounds):
        assert after.opening == before.closing
        assert after.first_seq == before.closing.size + 1


def test_periods_before_the_journal_and_without_a_checkpoint_say_so(store: PaperStore) -> None:
    with store.db.read() as conn:
        with pytest.raises(UsageError, match="journal begins at") as early:
            find_bounds(conn, parse_period("2020-01-01", "2020-02-01"), START_US)
        with pytest.raises(Inconclusive, match="nothing to report on") as silent:
            find_bounds(conn, parse_period(day_text(400), day_text(401)), START_US)
    assert (early.value.code, silent.value.code) == ("report.before-genesis", "report.nothing-recorded")
