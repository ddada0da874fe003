"""Carrying out the journal: what its records decide takes effect on every node, in their order (architecture.md 3).

The journal is stored as it is applied, on the engine's thread, which must not wait.  What a record *does* (an acceptance moves
the accepted state, a finding becomes known) is carried out behind it, once, by whoever gets there first.  A record that is
about something this node has not recorded yet is waited for, and with it all that follow.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import structlog

from witnz.core.record import Record, parse_record
from witnz.errors import Inconclusive
from witnz.store import journal, meta
from witnz.store.database import Database

log = structlog.get_logger(__name__)

FOLLOWED = "followed"
SAVE_EVERY = 256
STRETCH = 256  # records read at once

Handler = Callable[[Record], None]


class NotYet(Inconclusive):
    """This node has to record more before it can carry out a record."""

    code = "node.behind"


class Following:
    """Runs the handlers, by record type; each must be harmless when a crash makes it run again."""

    def __init__(self, db: Database, handlers: Mapping[str, Handler]) -> None:
        self._db, self.handlers = db, dict(handlers)
        self._lock = threading.Lock()
        with db.read() as conn:
            self._done = self._saved = meta.load_number(conn, FOLLOWED) or meta.load_number(conn, "carried_out") or 0
        self.waits_for = ""
        """What keeps the next record waiting; empty if nothing does."""

    @property
    def done(self) -> int:
        """The seq of the newest record that was carried out."""
        return self._done

    def follow(self, to_seq: int | None = None) -> None:
        """Carry out what stands in the journal, up to a record or to its end; returns early where one has to wait."""
        with self._lock:
            while self._follow_on(to_seq):
                pass

    def _follow_on(self, to_seq: int | None) -> bool:
        """Carry out the next few; whether there may be more.  Where one waits, those behind it are not even parsed."""
        last = self._done + STRETCH if to_seq is None else min(to_seq, self._done + STRETCH)
        with self._db.read() as conn:
            left = list(journal.records(conn, self._done + 1, last))
        more = len(left) == STRETCH
        for leaf in left:
            record = parse_record(leaf)
            handler = self.handlers.get(record.type)
            try:
                if handler is not None:
                    handler(record)
            except NotYet as reason:
                if reason.message != self.waits_for:
                    log.info("record has to wait", seq=record.seq, type=record.type, reason=reason.message)
                self.waits_for = reason.message
                more = False
                break
            self.waits_for = ""
            self._done = record.seq or 0
        if self._done - self._saved >= SAVE_EVERY:
            self._save()
        return more

    def save(self) -> None:
        """Note durably how far it is, so that the next start looks at less."""
        with self._lock:
            self._save()

    def _save(self) -> None:
        if self._done > self._saved:
            with self._db.write() as conn:
                meta.save_value(conn, FOLLOWED, self._done)
            self._saved = self._done
