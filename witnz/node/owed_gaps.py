"""Gaps that this node has seen and the journal does not hold yet: kept until it does (formats.md 4, ``gap``).

Among several nodes a ``gap`` record needs votes, and the thread that found the gap must not wait for them.  So what is owed is
stored first, and proposed until it stands: by the leader at once, by the others when it has not.  Neither a lost quorum nor a
crash forgets it; otherwise its finding would stay open with nothing that an operator's acceptance could close.

    owed ──> journalled            the journal has an open gap of every table named, or the table is not protected any more
      └────> nothing to say        no finding about it is open here (any more): somebody has decided already
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from witnz.errors import NoQuorum, ProofError
from witnz.node.gaps import undecided_tables
from witnz.node.journal import Journal
from witnz.store import meta
from witnz.store.database import Database

log = structlog.get_logger(__name__)

KEY: Final = "gaps_owed"
AGAIN_S: Final = 0.5
OTHERS_AFTER_S: Final = 5.0
UNFOUNDED_AFTER_S: Final = 30.0  # a gap is often noted before its finding is opened
MAX_PAUSE_S: Final = 10.0

Body = Mapping[str, Any]


class OwedGaps:
    """The gaps that one node owes the journal.  ``leads``: whether this node leads; ``clock``: monotonic seconds."""

    def __init__(
        self, db: Database, journal: Journal, leads: Callable[[], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._db, self._journal, self._leads, self._clock = db, journal, leads, clock
        self._lock = threading.Lock()
        self._next_s, self._pause_s = 0.0, AGAIN_S
        with db.read() as conn:
            stored: list[dict[str, Any]] = json.loads(meta.load_value(conn, KEY) or "[]")
        self._owed = [(body, clock()) for body in stored]

    @property
    def owed(self) -> list[dict[str, Any]]:
        """The bodies of the records that are still to be made."""
        with self._lock:
            return [body for body, _ in self._owed]

    def owe(self, record_type: str, body: Body) -> None:
        """Durable when this returns; it is proposed later."""
        if record_type != "gap":
            raise ValueError(f"a {record_type} record is not owed")
        with self._lock:
            if all(dict(body) != known for known, _ in self._owed):
                self._owed.append((dict(body), self._clock()))
                self._save()

    def due(self) -> bool:
        """Whether :meth:`step` has something to do now."""
        with self._lock:
            return bool(self._owed) and self._clock() >= self._next_s

    def step(self) -> None:
        """Propose what is owed, as far as it is for this node to do now; waits for votes."""
        for body in self.owed:
            state, now = self._journal.state, self._clock()
            since = next((at for known, at in self._owed if known == body), now)
            missing = [name for name in body["tables"] if name in state.tables() and state.open_gap(name) is None]
            if not missing or (now - since > UNFOUNDED_AFTER_S and not self._has_finding(missing)):
                self._settle(body)
            elif self._leads() or now - since > OTHERS_AFTER_S:
                self._propose({**body, "tables": missing})
        with self._lock:
            self._next_s = self._clock() + self._pause_s

    def _propose(self, body: Body) -> None:
        try:
            self._journal.propose("gap", body)
        except (NoQuorum, ProofError) as error:
            log.info("gap is not journalled yet", tables=len(body["tables"]), reason=error.message)
            self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)
        else:
            self._pause_s = AGAIN_S

    def _has_finding(self, tables: list[str]) -> bool:
        with self._db.read() as conn:
            concerned = undecided_tables(conn)
        return None in concerned or any(table in concerned for table in tables)

    def _settle(self, body: Body) -> None:
        with self._lock:
            self._owed = [(known, since) for known, since in self._owed if known != body]
            self._save()

    def _save(self) -> None:
        with self._db.write() as conn:
            meta.save_value(conn, KEY, json.dumps([body for body, _ in self._owed]) if self._owed else None)
