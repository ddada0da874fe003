"""Whether a member has carried out all that was agreed: only then does it tell others what it found (threats.md 3).

A node's stream can be ahead of its journal: after a partition, or for the moment that a record takes from the member that was
asked to the others.  It then sees a delete before the order to erase the row, or an intent before the key that signed it.  What
it makes of that is a finding, and is taken back when the record comes (:mod:`witnz.node.erasing`); but not once the journal has
it, nor from whoever was paged.  So a finding is journalled, and an alert sent, once everything that was agreed *after* it was
found has been carried out here: an order is agreed before it is answered, so before the delete that it covers.

Nobody is silent for ever: without a quorum alerts go out at once (nothing can be asked then), and what does not advance for
PATIENCE_S is waited for no longer.
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
        self._behind: tuple[int, float] | None = None  # how far it was when it last advanced, and when that was seen first

    def caught_up(self) -> bool:
        """Carry out everything that was agreed before this call; False where it may still come, and the caller asks later."""
        if not self._engine.status().has_quorum:
            return True
        reached, why = self._reach()
        with self._lock:
            if reached:
                self._behind = None
                return True
            done = self._following.done
            if self._behind is None or self._behind[0] != done:
                self._behind = (done, self._clock())
                return False
            waited = self._clock() - self._behind[1]
        if waited < PATIENCE_S:
            return False
        log.warning("findings are told though the journal is not carried out to its end", done=done, reason=why)
        return True

    def _reach(self) -> tuple[bool, str]:
        try:
            self._engine.barrier(BARRIER_S)
        except NoQuorum as error:
            return False, error.message
        size = self._size()
        self._following.follow(size)
        return self._following.done >= size, self._following.waits_for
