"""Whose turn it is to write: one at a time, who records before all others, and nobody for ever.

Rules:
1. A turn that ends is handed to one who waits, if anybody does; whoever comes later cannot get in between.
2. It goes to an urgent one first, but not twice in a row while others wait, so that a long backlog does not hold back the
   journal.  Among equals it goes in the order in which they came.
3. Who stops waiting (a signal that ends the process, say) leaves the queue; a turn handed over meanwhile is passed on.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Turn:
    """One turn for any number of threads.  Not re-entrant: who holds it and asks again waits for itself.

    ``gate``: makes the lock behind which one thread waits, and which is released to hand the turn over.
    """

    def __init__(self, gate: Callable[[], threading.Lock] = threading.Lock) -> None:
        self._gate = gate
        self._guard = threading.Lock()
        self._taken = False
        self._urgently = False  # whether the present turn, or the last one, is of an urgent one
        self._urgent: deque[threading.Lock] = deque()
        self._others: deque[threading.Lock] = deque()

    @contextmanager
    def taken(self, *, urgent: bool = False) -> Iterator[None]:
        """Wait for a turn, and hold it until the ``with`` ends."""
        self._take(urgent=urgent)
        try:
            yield
        finally:
            self._give()

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return len(self._urgent) + len(self._others)

    def _take(self, *, urgent: bool) -> None:
        queue = self._urgent if urgent else self._others
        with self._guard:
            if not self._taken:
                self._taken, self._urgently = True, urgent
                return
            gate = self._gate()
            gate.acquire()
            queue.append(gate)
        try:
            gate.acquire()
        except BaseException:
            with self._guard:
                handed_over = gate not in queue
                if not handed_over:
                    queue.remove(gate)
            if handed_over:
                self._give()
            raise

    def _give(self) -> None:
        with self._guard:
            queue = (self._others or self._urgent) if self._urgently else (self._urgent or self._others)
            if queue:
                self._urgently = queue is self._urgent
                queue.popleft().release()
            else:
                self._taken = False
