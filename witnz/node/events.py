"""What happens on the node, for whoever listens now: findings, seals, verifications.

Listeners are a convenience, never a record: a slow one loses the oldest events, is told how many, and reads the lists again.
``publish`` is called by the threads that do the work; it never waits and never fails because of a listener.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal

Kind = Literal["finding", "seal", "verification"]
KINDS: Final[tuple[Kind, ...]] = ("finding", "seal", "verification")
QUEUE: Final = 256
MAX_LISTENERS: Final = 64


@dataclass(frozen=True, slots=True)
class Event:
    """One event; ``id`` counts from 1 while the process lives, ``document`` is plain JSON."""

    id: int
    kind: Kind
    document: Mapping[str, Any]


class Subscription:
    """One listener's queue.  ``wake`` is called, on the publishing thread, whenever there is something new or it was closed."""

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._queue: deque[Event] = deque(maxlen=QUEUE)
        self._lost = 0
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def take(self) -> tuple[list[Event], int]:
        """Everything that is waiting, and how many events before it were lost."""
        with self._lock:
            events, lost = list(self._queue), self._lost
            self._queue.clear()
            self._lost = 0
        return events, lost

    def _put(self, event: Event) -> None:
        with self._lock:
            if len(self._queue) == QUEUE:
                self._lost += 1
            self._queue.append(event)
        self._call()

    def _close(self) -> None:
        self._closed = True
        self._call()

    def _call(self) -> None:
        with suppress(RuntimeError):  # the listener's event loop has ended; its subscription is about to
            self._wake()


class Broadcaster:
    """Hands each event to all who listen."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: list[Subscription] = []
        self._last_id = 0
        self._closed = False

    def publish(self, kind: Kind, document: Mapping[str, Any]) -> None:
        """Tell everybody; ``document`` must not be changed afterwards."""
        with self._lock:
            self._last_id += 1
            event = Event(self._last_id, kind, document)
            for listener in self._listeners:
                listener._put(event)

    def subscribe(self, wake: Callable[[], object]) -> Subscription | None:
        """A new listener; None if there are too many already or the node is stopping."""
        with self._lock:
            if self._closed or len(self._listeners) >= MAX_LISTENERS:
                return None
            listener = Subscription(wake)
            self._listeners.append(listener)
            return listener

    def unsubscribe(self, listener: Subscription) -> None:
        with self._lock:
            if listener in self._listeners:
                self._listeners.remove(listener)

    def close(self) -> None:
        """End every listener, and let no new one in."""
        with self._lock:
            self._closed = True
            listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener._close()
