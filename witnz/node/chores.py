"""What a running node does again and again: journal findings, seal, look at the catalog, verify by schedule.

*chores* has one thread and *verify* another; a chore that fails is told about, stops no other, and comes round again.  What the
schedule asks of a member among several (who seals, whose turn a verification is) is for :mod:`witnz.node.peering` to say.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import psycopg
import structlog

from witnz.errors import Inconclusive, NoQuorum, WitnzError
from witnz.node.table_state import ACTIVE
from witnz.postgres.session import connect
from witnz.verify.stream import Patience

if TYPE_CHECKING:
    from witnz.node.node import Node

log = structlog.get_logger(__name__)

CHORE_S: Final = 0.2
SCHEDULE_S: Final = 0.5
FIRST_VERIFICATION_S: Final = 1.0
AGAIN_S: Final = 60.0
"""A chore that fails again and again says so at first, and then this often."""
SEAL_PATIENCE: Final = Patience(standstill_s=1.0, total_s=1.0)


class Complaints:
    """What is said of chores that fail: the first time, then once in ``AGAIN_S`` with how often it was, by chore and error."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[tuple[str, str], tuple[float, int]] = {}  # when it was said last, failures since

    def tell(self, chore: str, error: WitnzError | psycopg.Error) -> None:
        """``chore`` has failed with ``error``."""
        kind = (chore, error.code if isinstance(error, WitnzError) else type(error).__name__)
        now = self._clock()
        told_at, since = self._told.get(kind, (-math.inf, 0))
        if now - told_at < AGAIN_S:
            self._told[kind] = (told_at, since + 1)
            return
        self._told[kind] = (now, 0)
        log.warning("chore failed", chore=chore, reason=str(error).strip(), times=since + 1)


class Chores:
    """The chores of one node.  ``watch_s``: between two looks of the catalog watch."""

    def __init__(self, node: Node, watch_s: float) -> None:
        self._node, self._watch_s = node, watch_s
        self._sealed_at = time.monotonic()
        self._watched_at = 0.0
        self._watch_conn: psycopg.Connection[Any] | None = None

    def run(self, stop: threading.Event) -> None:
        """Findings into the journal, a seal when due, a look at the catalog when due; that one fails stops no other."""
        node, complaints = self._node, Complaints()
        chores = (
            self.journal_findings, self._seal_when_due, self._look_when_due, node.anchoring.check_late, node.restores.step,
            node.bridging.step, node.forgetting.step, node.protection.end_what_is_over,
        )  # fmt: skip
        while not stop.wait(min(CHORE_S, self._watch_s)):
            for chore in chores:
                try:
                    chore()
                except (WitnzError, psycopg.Error) as error:
                    complaints.tell(chore.__qualname__, error)

    def close(self) -> None:
        """Let go of the watch's connection."""
        self.drop_watch_connection()

    # -- findings and seals ---------------------------------------------------------------------------------------------------

    def journal_findings(self, min_age_s: float | None = None) -> None:
        """Among several nodes: the leader at once, the others what the leader has left out for a while."""
        node = self._node
        if node.peering is not None:
            if not node.peering.has_quorum:
                return
            min_age_s = node.peering.journal_after_s() if min_age_s is None else min_age_s
        for finding in node.approvals.journal_all(min_age_s or 0.0):
            node.events.publish("finding", finding.to_json())

    def _seal_when_due(self) -> None:
        now = time.monotonic()
        if now - self._sealed_at >= self._node.config.seal_interval_s:
            self._sealed_at = now
            self.seal()

    def seal(self) -> None:
        """Seal what moved and sign the journal."""
        node = self._node
        self.journal_findings()
        if node.peering is not None and not node.peering.seals():
            return
        try:
            if node.sealer.seal():
                node.events.publish("seal", {"journal_size": node.journal.size})
            elif node.sealer.waits:
                self._move_stream()
        except NoQuorum:
            if node.sealer.waits:
                self._move_stream()
            raise
        node.cosigner.checkpoint()

    def _move_stream(self) -> None:
        """A marker gives the next seal an LSN of its own."""
        with suppress(Inconclusive):  # what has not come yet is for the next seal
            self._node.capture.await_mark(f"seal-{time.monotonic_ns()}".encode(), SEAL_PATIENCE)

    # -- the catalog ----------------------------------------------------------------------------------------------------------

    def _look_when_due(self) -> None:
        now = time.monotonic()
        if now - self._watched_at >= self._watch_s and self._node.capture.server_answers:
            self._watched_at = now
            try:
                self._node.watch.look(self.watch_connection())
            except (WitnzError, psycopg.Error):
                self.drop_watch_connection()
                raise

    def watch_connection(self) -> psycopg.Connection[Any]:
        """The connection of the catalog watch, made when it is first needed and after each failure."""
        if self._watch_conn is None or self._watch_conn.closed:
            self._watch_conn = connect(self._node.conninfo, application_name="witnz watch")
        return self._watch_conn

    def drop_watch_connection(self) -> None:
        """The next look is made through a new one."""
        if self._watch_conn is not None:
            self._watch_conn.close()
            self._watch_conn = None

    # -- the schedule ---------------------------------------------------------------------------------------------------------

    def verify_by_schedule(self, stop: threading.Event) -> None:
        """Verify each table when its interval has passed; the first time soon after the start."""
        node = self._node
        due: dict[str, float] = {}
        while not stop.wait(SCHEDULE_S):
            for state in node.states():
                if state.status != ACTIVE or not node.capture.status.connected:
                    continue
                interval = self.interval_of(state.name)
                if interval <= 0:
                    continue
                now = time.monotonic()
                if now >= due.setdefault(state.name, now + FIRST_VERIFICATION_S):
                    if node.peering is not None and not node.peering.is_my_turn(state.name, interval):
                        continue
                    self._verify(state.name)
                    if node.peering is None:  # turns have slots of their own
                        due[state.name] = time.monotonic() + interval

    def _verify(self, table: str) -> None:
        try:
            node = self._node
            verified = node.roll(table) if node.verifies_rolling(table) else node.verify_table(table)
            node.events.publish("verification", verified.to_json())
        except (WitnzError, psycopg.Error) as error:
            log.warning("scheduled verification failed", table=table, reason=str(error).strip())

    def interval_of(self, table: str) -> float:
        """Seconds between two scheduled verifications of a table; 0 where there are none."""
        node = self._node
        configured = node.config.table(node.generations.leaves().get(table, table))
        return node.wishes.interval(table, configured.verify_interval_s if configured is not None else 300.0)
