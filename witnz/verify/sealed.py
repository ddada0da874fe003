"""The seals of one log in the order of their sizes, met one after the other as its entries go by: there may be millions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Sealed = tuple[int, bytes, str]
"""(size, root, chain head) of a log as the journal fixes it."""


class Seals:
    """``met`` counts those that were taken.  ``seals``: by size, none smaller than the one before."""

    def __init__(self, seals: Iterable[Sealed]) -> None:
        self._left = iter(seals)
        self._next = next(self._left, None)
        self.met = 0

    def up_to(self, size: int) -> Iterator[Sealed]:
        """Take those of at most ``size`` entries."""
        while (sealed := self._next) is not None and sealed[0] <= size:
            self._next = next(self._left, None)
            self.met += 1
            yield sealed

    def beyond(self) -> int | None:
        """Take all that are left; the largest size, None if there were none."""
        largest = None
        while (sealed := self._next) is not None:
            largest, self._next = sealed[0], next(self._left, None)
        return largest
