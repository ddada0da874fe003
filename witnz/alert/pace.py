"""When to send, to one place: how many messages a minute, how long to wait after a failure, and what to do in a flood.

The rules of a flood.  Nothing is dropped: every notification is in exactly one message that is sent.

1. As long as as many messages may be sent as notifications are due, each finding gets a message of its own.
2. When more are due, half of the messages left go to the first findings, at once and in full; then it is quiet.
3. When nothing new has come for QUIET_S, or after FLOOD_S at the latest, what has gathered leaves in summaries, one for all
   that is alike (state, class, table), as many as may be sent; what is left waits for its turn.
4. When all is sent, rule 1 holds again.

Closings of incidents cannot be summarised where each has to arrive; they follow one by one, after the rest.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar

QUIET_S: Final = 5.0
FLOOD_S: Final = 60.0
FIRST_RETRY_S: Final = 2.0
MAX_RETRY_S: Final = 900.0


class Pending(Protocol):
    """What planning needs to know of a notification: its place in the outbox, its group, and whether it may share a message."""

    @property
    def id(self) -> int: ...

    @property
    def group(self) -> tuple[str, str, str]: ...

    @property
    def may_share(self) -> bool: ...


P = TypeVar("P", bound=Pending)


class Allowance:
    """At most ``per_minute`` messages in any 60 seconds; times are seconds."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._taken: deque[float] = deque()

    def available(self, now_s: float) -> int:
        """How many messages may be sent at ``now_s``.  A clock that was set back gives none too many, nor blocks for longer."""
        while self._taken and not now_s - 60 < self._taken[0] <= now_s:
            self._taken.popleft()
        return max(0, self._per_minute - len(self._taken))

    def take(self, now_s: float) -> None:
        """Note a message sent at ``now_s``."""
        self._taken.append(now_s)


@dataclass(frozen=True, slots=True)
class Flood:
    """A flood going on: since when, the newest notification seen and since when there was none after it."""

    since_s: float
    newest: int
    quiet_since_s: float
    draining: bool = False


def plan(
    due: Sequence[P], allowed: int, flood: Flood | None, now_s: float, *, more: bool = False
) -> tuple[list[list[P]], Flood | None]:
    """What to send now, each list one message, and the flood that then goes on, if any.

    ``due`` in the order of the outbox; ``allowed``: how many messages may be sent; ``more``: there is more than ``due`` shows.
    """
    if not due:
        return [], None
    if flood is None and len(due) <= allowed and not more:
        return [[item] for item in due], None
    newest = due[-1].id
    if flood is None:
        return [[item] for item in due[: allowed // 2]], Flood(now_s, newest, now_s)
    if newest > flood.newest:
        flood = replace(flood, newest=newest, quiet_since_s=now_s)
    waited = now_s - flood.quiet_since_s >= QUIET_S or now_s - flood.since_s >= FLOOD_S
    if not (waited or flood.draining) or allowed == 0:
        return [], flood
    messages = _grouped(due)
    sent = messages[:allowed]
    over = len(sent) == len(messages) and not more
    return sent, None if over else replace(flood, draining=True)


def _grouped(due: Sequence[P]) -> list[list[P]]:
    """One list per group, openings first, then what has to go alone; each in the order of the outbox."""
    groups: dict[tuple[str, str, str], list[P]] = {}
    alone: list[list[P]] = []
    for item in due:
        if item.may_share:
            groups.setdefault(item.group, []).append(item)
        else:
            alone.append([item])
    openings_first = sorted(groups.values(), key=lambda items: (items[0].group[0] != "open", items[0].id))
    return openings_first + alone


def retry_delay_s(failures: int, chance: random.Random) -> float:
    """How long to wait after ``failures`` (from 1) in a row: doubled each time, with jitter of a half, a quarter of an hour at
    most, so that many nodes do not come back to a receiver in step.
    """
    longest = min(MAX_RETRY_S, FIRST_RETRY_S * 2.0 ** min(failures - 1, 30))
    return longest * chance.uniform(0.5, 1.0)
