"""What a restore did to a table: how many rows it lost, brought back or set back, and the names of the first of them.

A restore may have lost every row of a big table, so names are kept of a few only; counts are exact.  Which ones are kept does
not depend on the order in which they were found: every node says the same, for an ``epoch`` record quotes it and others vote.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final, Generic, TypeVar

from witnz.core.keyplan import key_text
from witnz.core.rowline import escape
from witnz.verify.live import MAX_DIFFERENCES, Difference

MAX_NAMED: Final = 200  # rows of one kind and table that are named; all are counted

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rows:
    """So many rows, and the names (keys as findings have them, or row hashes) of the first MAX_NAMED, in order."""

    count: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        more = f" and {self.count - len(self.names)} more" if self.count > len(self.names) else ""
        return f"{self.count} ({', '.join(self.names)}{more})"


NONE: Final = Rows(0, ())


@dataclass(frozen=True, slots=True)
class Loss:
    """How what a table holds after a restore differs from what was recorded before it."""

    table: str
    lost: Rows = NONE
    regained: Rows = NONE
    earlier: Rows = NONE

    def __bool__(self) -> bool:
        return bool(self.lost.count or self.regained.count or self.earlier.count)

    def __str__(self) -> str:
        kinds = (("lost", self.lost), ("regained", self.regained), ("in an earlier version", self.earlier))
        return f"{self.table}: " + ", ".join(f"{name} {rows}" for name, rows in kinds if rows.count)


@dataclass(frozen=True, slots=True)
class Foreign:
    """So many rows that are no work of a restore, and the first MAX_DIFFERENCES of them, in the order of their keys."""

    count: int = 0
    rows: tuple[Difference, ...] = ()

    def __str__(self) -> str:
        named = "" if self.count == len(self.rows) else f" (of the first {len(self.rows)} there are findings)"
        return f"{self.count} row(s) that were never recorded{named}"


@dataclass(slots=True)
class Compared:
    """One table, as the database holds it that was put in place.

    ``foreign``: rows that are no work of the restore, each a finding with ``why`` as its detail; ``unjudged``: rows that nobody
    can judge, because no log says what the table was then; ``problem``: why it was not compared, or not in full.
    """

    loss: Loss
    foreign: Foreign = field(default_factory=Foreign)
    problem: str = ""
    unjudged: Rows = NONE
    why: str = ""

    def __bool__(self) -> bool:
        return bool(self.loss or self.foreign.count or self.problem or self.unjudged.count)

    def __str__(self) -> str:
        said = [str(self.loss)] if self.loss else []
        if self.foreign.count:
            said.append(f"{self.loss.table}: {self.foreign}")
        if self.unjudged.count:
            said.append(f"{self.loss.table}: not recorded what they were then {self.unjudged}")
        if self.problem:
            said.append(f"{self.loss.table}: {self.problem}")
        return "; ".join(said)


class First(Generic[T]):
    """Counts what it is given, and keeps the first ``most`` in the order that ``place`` says, however they come."""

    def __init__(self, most: int, place: Callable[[T], Any]) -> None:
        self._most, self._place = most, place
        self._kept: list[tuple[Any, T]] = []
        self._last: Any = None  # the place of the last one that is kept, once there are as many as may be
        self.count = 0

    def add(self, item: T, number: int = 1) -> None:
        """One item, so many times (nothing for less than once)."""
        if number < 1:
            return
        self.count += number
        place = self._place(item)
        if self._last is not None and place >= self._last:
            return
        self._kept += [(place, item)] * min(number, self._most)
        if len(self._kept) >= 2 * self._most:
            self._sort()

    def taken(self) -> tuple[T, ...]:
        self._sort()
        return tuple(item for _, item in self._kept)

    def _sort(self) -> None:
        self._kept.sort(key=itemgetter(0))
        del self._kept[self._most :]
        if len(self._kept) == self._most:
            self._last = self._kept[-1][0]


class Names(First[str]):
    """Rows by their names, numbers in the order of numbers."""

    def __init__(self) -> None:
        super().__init__(MAX_NAMED, lambda name: (len(name), name))

    def rows(self) -> Rows:
        return Rows(self.count, self.taken())


class Differences(First[Difference]):
    """Rows that are no work of a restore, in the order of their keys."""

    def __init__(self) -> None:
        super().__init__(MAX_DIFFERENCES, lambda row: (len(row.key or ""), row.key or "", row.found or b""))

    def foreign(self) -> Foreign:
        return Foreign(self.count, self.taken())


class Losses:
    """The loss of one table while it is being found."""

    def __init__(self) -> None:
        self.lost, self.regained, self.earlier = Names(), Names(), Names()

    def of(self, table: str) -> Loss:
        return Loss(table, self.lost.rows(), self.regained.rows(), self.earlier.rows())


def row_name(key: bytes) -> str:
    """What findings call the row under a state key."""
    return key_text(key if key.startswith(b"\\H") else escape(key)) or ""
