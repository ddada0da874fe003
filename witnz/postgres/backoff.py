"""Waiting between attempts to reach a database that has gone away: doubling, with jitter, without hammering it."""

from __future__ import annotations

from collections.abc import Callable
from random import random


class Backoff:
    """The waits of one series of attempts.

    The n-th wait lies between half of and the whole of ``base_s * 2**n``, never above ``max_s``; ``random`` returns numbers in
    [0, 1) and spreads nodes that lost the same server at the same moment.
    """

    def __init__(self, base_s: float, max_s: float, random: Callable[[], float] = random) -> None:
        self._base_s = base_s
        self._max_s = max_s
        self._random = random
        self._limit_s = min(base_s, max_s)

    def next(self) -> float:
        """Seconds to wait before the next attempt; each call makes the wait after it longer."""
        limit_s = self._limit_s
        self._limit_s = min(limit_s * 2, self._max_s)
        return limit_s * (1 + self._random()) / 2

    def reset(self) -> None:
        """Start over: an attempt has succeeded."""
        self._limit_s = min(self._base_s, self._max_s)
