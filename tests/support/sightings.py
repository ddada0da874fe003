"""When an attack was done and when it was seen: what ``make attacks`` tells beside caught or not.

A deed is a statement that a test runs as somebody who may do everything; a sighting is the moment a test sees the finding it
waits for.  The time between them is an upper bound: it contains the test's own polling, every 20 ms.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Sightings:
    """Of one process; tests of one process follow each other."""

    _deed_at: float | None = None
    seen: list[tuple[str, float]] = field(default_factory=list)
    """(finding class, seconds after the last deed)."""

    def deed(self) -> None:
        self._deed_at = time.monotonic()

    def saw(self, cls: str) -> None:
        """A finding of this class is there; nothing is noted where no deed went before it."""
        if self._deed_at is not None:
            self.seen.append((cls, time.monotonic() - self._deed_at))

    def take(self) -> list[tuple[str, float]]:
        """What was seen since the last call; the next test begins anew."""
        taken, self.seen, self._deed_at = self.seen, [], None
        return taken


SIGHTINGS = Sightings()
