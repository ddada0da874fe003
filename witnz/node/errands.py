"""Errands: work that waits for other nodes, kept away from the thread that records.

In a cluster of one nothing waits, and an errand is run where it is asked for.  Among several nodes it runs on a thread of a
small pool, and whoever asked looks again later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor

import psycopg
import structlog

from witnz.ending import end_futures
from witnz.errors import WitnzError

log = structlog.get_logger(__name__)

WORKERS = 8


class Errands:
    """Named errands, each at most once at a time.  ``inline``: run at once, by whoever asks."""

    def __init__(self, *, inline: bool) -> None:
        self._inline = inline
        self._lock = threading.Lock()
        self._running: dict[Hashable, Future[object]] = {}
        self._submitted: set[Future[object]] = set()
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False

    def run(self, name: Hashable, work: Callable[[], object]) -> bool:
        """Begin an errand, or look how it goes: True once it ended well, False while it is under way; raises what it raised."""
        if self._inline:
            work()
            return True
        with self._lock:
            future = self._running.get(name)
            if future is None:
                self._begin(name, work)
                return False
            if not future.done():
                return False
            del self._running[name]
        future.result()
        return True

    def start(self, name: Hashable, work: Callable[[], object]) -> None:
        """Begin an errand that nobody asks about again; one of this name that is under way is enough."""
        if self._inline:
            work()
            return
        with self._lock:
            if name not in self._running or self._running[name].done():
                self._begin(name, lambda: _logged(name, work))

    def forget(self, name: Hashable) -> None:
        """Nobody will ask about this errand any more."""
        with self._lock:
            self._running.pop(name, None)

    def under_way(self, name: Hashable) -> bool:
        """Whether an errand of this name was begun and has not ended."""
        with self._lock:
            future = self._running.get(name)
            return future is not None and not future.done()

    def close(self) -> None:
        """Begin nothing more and wait for what is under way; its waiting has to be ended by its own means."""
        with self._lock:
            self._closed = True
            pool, self._pool = self._pool, None
            submitted = list(self._submitted)
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
            end_futures(submitted, "an errand")

    def _begin(self, name: Hashable, work: Callable[[], object]) -> None:
        if self._closed:
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="errand")
        future = self._running[name] = self._pool.submit(work)
        self._submitted.add(future)
        future.add_done_callback(self._submitted.discard)


def _logged(name: Hashable, work: Callable[[], object]) -> None:
    try:
        work()
    except (WitnzError, psycopg.Error) as error:
        log.warning("errand failed", errand=str(name), reason=str(error).strip())
