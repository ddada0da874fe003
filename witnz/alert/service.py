"""The alert service: findings leave this node at least once, in the order they were made, and never in the way of recording.

    recorder's transaction ── enqueue ──> outbox ── deliver_due ──> one sink, many sinks side by side

Rules:
1. :meth:`AlertService.enqueue` writes only to the store, inside the transaction that records the finding, so there is neither
   without the other.  One notification per finding, state and sink.
2. Only after a receiver has said yes is a notification marked delivered.  A crash in between sends it again, with the same
   delivery id.  Where the mark cannot be written, this process remembers it, so that a full disk pages nobody twice.
3. To one sink notifications go in the order of the outbox.  When nothing gets through, all of that sink's wait together until
   the back-off is over; a message that the receiver refuses waits alone.
4. After :data:`GIVE_UP_AFTER_S` of failing a notification is dead, which is an error in the log.
5. How many messages, and when they are summarised, is :mod:`witnz.alert.pace`.
"""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from witnz.alert.message import (
    Message,
    dedup_key,
    finding_message,
    finding_payload,
    group_of,
    parse_payload,
    summary_message,
)
from witnz.alert.pace import Allowance, Flood, plan, retry_delay_s
from witnz.alert.sink import Outcome, Sink
from witnz.alert.sinks import sinks_from
from witnz.config import Config
from witnz.core.finding import Finding
from witnz.errors import FormatError, StoreError, WitnzError
from witnz.logging import get_logger
from witnz.metrics import Metrics
from witnz.store import outbox
from witnz.store.database import Database

GIVE_UP_AFTER_S: Final = 86_400.0
MAX_HOLD_S: Final = 300.0  # no node leaves an alert to others for as long
POLL_S: Final = 0.5
BATCH: Final = 5_000
#: A sink's share of one round; whatever takes longer continues in the next, so that a slow sink delays no other for long.
ROUND_S: Final = 10.0
REFUSED: Final = "refused: "

_log = get_logger(__name__)


def now_us() -> int:
    """Microseconds since the Unix epoch."""
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True)
class Notification:
    """A pending row of the outbox, parsed.  Notifications of one ``group`` that ``may_share`` can leave in one message."""

    row: outbox.Message
    document: dict[str, Any]
    group: tuple[str, str, str]
    may_share: bool

    @property
    def id(self) -> int:
        return self.row.id


@dataclass(slots=True)
class _Lane:
    """What is remembered about one sink between rounds."""

    sink: Sink
    allowance: Allowance
    flood: Flood | None = None
    failures: int = 0
    blocked_until_s: float = 0.0
    #: Delivered, but the store could not note it yet.
    unmarked: set[int] = field(default_factory=set)


class AlertService:
    """Notifications of one node.  ``clock``: µs since the Unix epoch; ``routes``: table name to the sinks its findings go to.

    A table without a route, and a finding of no table, goes to all sinks; the sink called "log" gets everything.  Used by any
    number of threads; :meth:`run` or :meth:`deliver_due` by one at a time.
    """

    def __init__(
        self,
        db: Database,
        sinks: Sequence[Sink],
        clock: Callable[[], int] = now_us,
        metrics: Metrics | None = None,
        *,
        cluster: str = "",
        node: str = "",
        routes: Mapping[str, Sequence[str]] | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self._db, self._clock, self._metrics = db, clock, metrics or Metrics()
        self._cluster, self._node = cluster, node
        self._routes = {table: frozenset(names) for table, names in (routes or {}).items() if names}
        self._lanes = {sink.name: _Lane(sink, Allowance(sink.max_per_minute)) for sink in sinks}
        self._chance = chance or random.Random()  # noqa: S311  jitter, no secret
        self.hold_s: Callable[[], float] = lambda: 0.0
        """How long this node leaves a new notification to others; what goes to the log goes there at once."""
        self.ready: Callable[[], bool] = lambda: True
        """Whether what has waited until now may go out; asked once for each new message, before it is sent."""
        self._asked: set[tuple[int, float]] = set()  # what was due when they were ready last
        self._woken = threading.Event()
        self._stop: threading.Event | None = None
        self._restored = False
        self._last_s: float | None = None  # the clock at the round before

    @classmethod
    def from_config(
        cls, config: Config, db: Database, clock: Callable[[], int] = now_us, metrics: Metrics | None = None
    ) -> Self:
        """The service that ``config`` describes.  Raises :class:`~witnz.errors.ConfigError` for an unreadable secret."""
        routes = {table.name: table.alert for table in config.protected_tables}
        return cls(db, sinks_from(config), clock, metrics, cluster=config.cluster, node=config.node_id, routes=routes)

    def enqueue(self, conn: sqlite3.Connection, finding: Finding) -> None:
        """Queue the notifications of ``finding`` in the state that it has, within the caller's ``db.write()``.

        Queuing the same finding in the same state again does nothing.  Call :meth:`wake` after the transaction.
        """
        payload, dedup = finding_payload(finding, self._cluster, self._node), dedup_key(finding)
        now_s, hold_s = self._clock() / 1e6, self.hold_s()
        for name in self._sinks_of(finding.table):
            outbox.enqueue(conn, dedup, name, payload, now=now_s + (0.0 if name == "log" else hold_s))

    def _sinks_of(self, table: str | None) -> list[str]:
        wanted = self._routes.get(table or "", frozenset())
        named = [name for name in self._lanes if name in wanted]
        if not named:  # no route, or to places that are not configured: rather too many told than nobody
            return list(self._lanes)
        return [name for name in self._lanes if name in wanted or name == "log"]

    def wake(self) -> None:
        """Look at the outbox now rather than at the next poll."""
        self._woken.set()

    def run(self, stop: threading.Event) -> None:
        """Deliver until ``stop`` is set; what is not delivered then waits in the outbox for the next start."""
        self._stop = stop
        while not stop.is_set():
            try:
                self.deliver_due()
            except WitnzError as error:
                # The store refuses (a full disk, say): findings are safe where they are, and there is nobody above to tell.
                _log.error("alert delivery was interrupted", code=error.code, error=str(error))
                stop.wait(5 * POLL_S)
            self._woken.wait(POLL_S)
            self._woken.clear()
        for lane in self._lanes.values():
            self._mark(lane)  # the next start remembers nothing

    def deliver_due(self, now_s: float | None = None) -> int:
        """One round: send what is due, to all sinks side by side.  The number of messages delivered.

        Raises :class:`~witnz.errors.StoreError` where the outbox cannot be read.
        """
        now_s = self._clock() / 1e6 if now_s is None else now_s
        self._follow_clock(now_s)
        if not self._restored:
            self._restore(now_s)
        with self._db.read() as conn:
            next_at = outbox.next_due_at(conn)
            self._metrics.set("witnz_alerts_pending", 0 if next_at is None else outbox.counts(conn)["pending"])
            waiting = outbox.names_due(conn, now_s)
        if next_at is None or next_at > now_s:
            return 0
        if not waiting <= self._asked:
            if not self.ready():
                return 0
            self._asked = waiting
        with ThreadPoolExecutor(max_workers=len(self._lanes), thread_name_prefix="alert") as pool:
            return sum(pool.map(lambda lane: self._serve(lane, now_s), self._lanes.values()))

    def _follow_clock(self, now_s: float) -> None:
        """A clock that was set back, also while this node was stopped, must not hold back what is due for as long."""
        before_s, least_s = self._last_s, 0.0
        if before_s is None:
            with self._db.read() as conn:
                before_s = outbox.newest_pending_at(conn)
            least_s = MAX_HOLD_S  # it may only have been left to another node
        back_s = 0.0 if before_s is None else before_s - now_s
        if back_s > least_s:
            with self._db.write() as conn:
                outbox.advance(conn, back_s)
            for lane in self._lanes.values():
                lane.blocked_until_s -= back_s
                if lane.flood is not None:
                    since_s, quiet_s = lane.flood.since_s - back_s, lane.flood.quiet_since_s - back_s
                    lane.flood = replace(lane.flood, since_s=since_s, quiet_since_s=quiet_s)
            _log.warning("clock was set back", seconds=round(back_s, 3))
        self._last_s = now_s

    def _restore(self, now_s: float) -> None:
        """Take up after a restart: a failing sink stays blocked; what has no sink any more is told, and dies in the end."""
        homeless: dict[str, list[outbox.Message]] = {}
        with self._db.write() as conn:
            for row in outbox.due(conn, float("inf"), BATCH):
                lane = self._lanes.get(row.sink)
                if lane is None:
                    homeless.setdefault(row.sink, []).append(row)
                elif row.attempts and row.next_at > now_s and not (row.last_error or "").startswith(REFUSED):
                    lane.failures = max(lane.failures, row.attempts)
                    lane.blocked_until_s = max(lane.blocked_until_s, row.next_at)
            for rows in homeless.values():
                for row in rows:
                    if now_s - row.created_at >= GIVE_UP_AFTER_S:
                        outbox.mark_failed(conn, row.id, "its sink is not configured", None)
        for sink, rows in homeless.items():
            _log.error("alerts have no sink", sink=sink, waiting=len(rows))
        self._restored = True

    def _serve(self, lane: _Lane, now_s: float) -> int:
        """One sink's share of a round."""
        self._mark(lane)
        if now_s < lane.blocked_until_s:
            return 0
        with self._db.read() as conn:
            rows = outbox.due(conn, now_s, BATCH, sink=lane.sink.name)
        waiting = self._parse(lane, rows)
        messages, lane.flood = plan(waiting, lane.allowance.available(now_s), lane.flood, now_s, more=len(rows) == BATCH)
        delivered, started = 0, time.monotonic()
        left = {notification.id: notification for notification in waiting}
        for notifications in messages:
            if self._stopping() or time.monotonic() - started > ROUND_S:
                break
            lane.allowance.take(now_s)
            outcome = self._send(lane.sink, notifications)
            if outcome.delivered:
                delivered += 1
                lane.failures = 0
                lane.unmarked.update(notification.id for notification in notifications)
                self._mark(lane)
                for notification in notifications:
                    del left[notification.id]
            else:
                self._fail(lane, notifications if outcome.refused else list(left.values()), outcome, now_s)
                if not outcome.refused:
                    break
        return delivered

    def _parse(self, lane: _Lane, rows: Sequence[outbox.Message]) -> list[Notification]:
        """``rows`` without what is delivered already; a payload that is none can only have been written by somebody else."""
        parsed: list[Notification] = []
        for row in rows:
            if row.id in lane.unmarked:
                continue
            try:
                document = parse_payload(row.payload)
            except FormatError as error:
                _log.error("alert was unreadable", sink=row.sink, notification=row.dedup, error=str(error))
                with self._db.write() as conn:
                    outbox.mark_failed(conn, row.id, str(error), None)
                self._metrics.count("witnz_alerts_total", sink=row.sink, outcome="dead")
                continue
            group = group_of(document)
            parsed.append(Notification(row, document, group, group[0] == "open" or lane.sink.summarises_closing))
        return parsed

    def _send(self, sink: Sink, notifications: Sequence[Notification]) -> Outcome:
        message = _message(notifications)
        try:
            outcome = sink.deliver(message, self._clock() / 1e6)
        except WitnzError as error:  # a secret that can no longer be had
            outcome = Outcome(f"{error.code}: {error}")
        self._metrics.count("witnz_alerts_total", sink=sink.name, outcome="delivered" if outcome.delivered else "failed")
        return outcome

    def _mark(self, lane: _Lane) -> None:
        """Note in the store what was delivered; where that fails, it is remembered here and tried again."""
        if not lane.unmarked:
            return
        try:
            with self._db.write() as conn:
                for row_id in lane.unmarked:
                    outbox.mark_delivered(conn, row_id)
        except StoreError as error:
            _log.error("alert delivery was not noted", sink=lane.sink.name, waiting=len(lane.unmarked), error=str(error))
        else:
            lane.unmarked.clear()

    def _fail(self, lane: _Lane, notifications: Sequence[Notification], outcome: Outcome, now_s: float) -> None:
        """Postpone ``notifications``, or give up those that have failed for too long."""
        attempts = max(notification.row.attempts for notification in notifications) + 1
        if not outcome.refused:
            attempts = lane.failures = lane.failures + 1
        delay_s = max(retry_delay_s(attempts, self._chance), outcome.retry_after_s)
        if not outcome.refused:
            lane.blocked_until_s = now_s + delay_s
        name, error = lane.sink.name, (REFUSED if outcome.refused else "") + outcome.error
        dead = {each.id for each in notifications if now_s - each.row.created_at >= GIVE_UP_AFTER_S}
        _log.warning(
            "alert delivery failed",
            sink=name,
            error=error,
            waiting=len(notifications) - len(dead),
            retry_in_s=round(delay_s, 1),
        )
        try:
            with self._db.write() as conn:
                for each in notifications:
                    outbox.mark_failed(conn, each.id, error, None if each.id in dead else now_s + delay_s)
        except StoreError as failure:
            _log.error("alert failure was not noted", sink=name, error=str(failure))
            return
        for each in notifications:
            if each.id in dead:
                _log.error("alert was given up", sink=name, notification=each.row.dedup, attempts=each.row.attempts + 1)
                self._metrics.count("witnz_alerts_total", sink=name, outcome="dead")

    def _stopping(self) -> bool:
        return self._stop is not None and self._stop.is_set()


def _message(notifications: Sequence[Notification]) -> Message:
    if len(notifications) == 1:
        return finding_message(notifications[0].document)
    return summary_message([notification.document for notification in notifications])
