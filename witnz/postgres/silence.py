"""How long a stream may be silent: longer each time that its end brought it no further.

A server before version 16 says nothing at all while it decodes a transaction that rewrites a table, be it for an hour, and
a new stream begins before that transaction again.  With one and the same limit, none would ever come past it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_FACTOR: Final = 64


@dataclass(slots=True)
class Silence:
    """``factor``: what the limit of the next stream is multiplied by, 1, and more while streams end in silence."""

    factor: int = 1
    _ended_at: int | None = None

    def ended(self, received_lsn: int) -> None:
        """A stream that had received everything up to there ended because the server was silent."""
        moved = self._ended_at is None or received_lsn > self._ended_at
        self.factor = 2 if moved else min(2 * self.factor, MAX_FACTOR)
        self._ended_at = received_lsn

    def passed(self) -> None:
        """Something was received and became durable: the next silence is a new one."""
        self.factor, self._ended_at = 1, None
