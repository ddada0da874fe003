"""Waiting until the stream has recorded a marker: patient with a stream that moves, short with one that stands still.

A stream moves when the position that is durable here moves (also by the server's word that up to there is nothing to send: it
is asked every ten seconds), and when messages are received or recorded: a transaction of a gigabyte moves no position for long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg

from witnz.core.lsn import format_lsn
from witnz.core.message import MARK_PREFIX
from witnz.errors import Inconclusive, WitnzError
from witnz.postgres.session import Conninfo, connect
from witnz.postgres.slot import emit_marker
from witnz.verify.stream import Patience

MESSAGES_SINCE = 140000
LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the stream is.  ``reached``: everything up to this LSN is durable here; the counts are of this process."""

    reached: int
    received_messages: int = 0
    recorded_entries: int = 0


@dataclass(slots=True)
class Vigil:
    """Judges one wait by what it is shown.  ``target``: the LSN that is waited for; times are monotonic seconds."""

    target: int
    patience: Patience
    began: float
    _last: Progress | None = None
    _moved: float = 0.0

    def complaint(self, now: float, progress: Progress) -> str | None:
        """Why to wait no longer; None while there is hope."""
        if progress != self._last:
            self._last, self._moved = progress, now
        left = f"{max(0, self.target - progress.reached)} bytes before position {format_lsn(self.target)}"
        if now - self._moved >= self.patience.standstill_s:
            return f"the replication stream stood still for {self.patience.standstill_s:g} s, {left}"
        if now - self.began >= self.patience.total_s:
            return f"the replication stream lags: it moves, but after {self.patience.total_s:g} s it was {left}"
        return None


@dataclass(slots=True)
class Marks:
    """The markers of one stream that are waited for, each by one thread.

    ``progress``: of the stream, as far as this process knows.  ``ended``: why nothing more will come, empty while it may.
    """

    conninfo: Conninfo
    progress: Callable[[], Progress]
    ended: Callable[[], str]
    _waiting: dict[bytes, threading.Event] = field(default_factory=dict)

    def recorded(self, nonce: bytes) -> None:
        """The transaction that carries this marker is durable."""
        event = self._waiting.get(nonce)
        if event is not None:
            event.set()

    def await_mark(self, nonce: bytes, patience: Patience) -> None:
        """See :class:`witnz.verify.stream.Stream`."""
        event = self._waiting[nonce] = threading.Event()
        try:
            target, has_messages = self._emit(nonce)
            self._wait(event, target, patience, has_messages=has_messages)
        finally:
            self._waiting.pop(nonce, None)

    def _emit(self, nonce: bytes) -> tuple[int, bool]:
        """The LSN of a new marker, and whether this server sends markers at all."""
        try:
            with connect(self.conninfo, application_name="witnz marker") as conn:
                return emit_marker(conn, MARK_PREFIX, nonce.decode()), conn.info.server_version >= MESSAGES_SINCE
        except (WitnzError, psycopg.Error) as error:
            raise Inconclusive(f"no marker could be written into the stream: {str(error).strip()}") from error

    def _wait(self, event: threading.Event, target: int, patience: Patience, *, has_messages: bool) -> None:
        vigil = Vigil(target, patience, time.monotonic())
        while not event.wait(LOOK_S):
            progress = self.progress()
            if not has_messages and progress.reached >= target:
                return  # PostgreSQL 13 sends no messages: that the stream is past the marker has to do
            why = self.ended() or vigil.complaint(time.monotonic(), progress)
            if why:
                raise Inconclusive(why, hint="`witnz status` shows the state of the stream")
