"""Waits between attempts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from witnz.postgres.backoff import Backoff


def test_waits_double_up_to_the_limit_and_start_over_after_a_reset() -> None:
    backoff = Backoff(0.5, 3.0, lambda: 1.0)
    assert [backoff.next() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    backoff.reset()
    assert backoff.next() == 0.5


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 70))
def test_jitter_takes_away_at_most_half(draw: float, attempts: int) -> None:
    backoff, longest = Backoff(0.1, 30.0, lambda: draw), Backoff(0.1, 30.0, lambda: 1.0)
    for _ in range(attempts):
        backoff.next(), longest.next()
    wait_s, limit_s = backoff.next(), longest.next()
    assert limit_s / 2 <= wait_s <= limit_s <= 30.0


def test_a_base_above_the_limit_is_cut_to_it() -> None:
    assert Backoff(10.0, 1.0, lambda: 1.0).next() == 1.0
