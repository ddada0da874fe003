"""Whether a member has carried out all that was agreed: only then does it tell others what it found (threats.md 3).

A node's stream can be ahead of its journal: after a partition, or for the moment that a record takes from the member that was
asked to the others.  It then sees a delete before the order to erase the row, or an intent before the key that signed it.  What
it makes of that is a finding, and is taken back when the record comes (:mod:`witnz.node.erasing`); but not once the journal has
it, nor from whoever was paged.  So a finding is journalled, and an alert sent, once everything that was agreed *after* it was
found has been carried out here: an order is agreed before it is answered, so before the delete that it covers.

Nobody is silent for ever: without a quorum nothing can be asked, so alerts go out at once; and what does not advance for
PATIENCE_S is waited for no longer.  But what was found without a quorum is not proposed before there is one: the proposal would
be kept, and made again before what was agreed meanwhile is known.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from witnz.cluster.engine import Engine
from witnz.errors import NoQuorum
from witnz.node.following import Following

log = structlog.get_logger(__name__)

BARRIER_S: Final = 3.0
PATIENCE_S: Final = 60.0


class Abreast:
    """Catches up, and says whether that worked.  ``size``: how many records the journal has here."""

    def __init__(
        self, engine: Engine, following: Following, size: Callable[[], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine, self._following, self._size, self._clock = engine, following, size, clock
        self._lock = threading.Lock()
        self._behind: tuple[int, float, float] | None = None  # records carried out, since when it is that many, when asked last

    def caught_up(self) -> bool:
        """Carry out everything that was agreed before this call; False where it may still come, and the caller asks later."""
        try:
            self._engine.barrier(BARRIER_S)
        except NoQuorum:
            return False
        size = self._size()
        self._following.follow(size)
        if self._following.done >= size:
            with self._lock:
                self._behind = None
            return True
        return self._patience_ends(self._following.waits_for)

    def may_alert(self) -> bool:
        """The same for alerts, which nobody holds back without a quorum, or where the engine stands still."""
        if not self._engine.status().has_quorum or self.caught_up():
            return True
        return self._patience_ends("the engine does not go on")

    def _patience_ends(self, reason: str) -> bool:
        now, done = self._clock(), self._following.done
        with self._lock:
            before = self._behind
            same = before is not None and before[0] == done and now - before[2] <= PATIENCE_S / 2
            since = before[1] if before is not None and same else now
            self._behind = (done, since, now)
        if now - since < PATIENCE_S:
            return False
        log.warning("findings are told though the journal is not carried out to its end", done=done, reason=reason)
        return True
