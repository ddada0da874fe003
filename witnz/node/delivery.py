"""Alerts of several nodes: at least once, and hardly ever twice (architecture.md 5).

Every node detects, and has its own outbox.  The leader sends at once and journals what it has sent (an ``operator`` record,
action ``alert.delivered``); the others hold theirs back for a while and drop what the journal says was sent.  Where the leader
cannot send, or there is no journal to say so, they send too: under the same deduplication id.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from witnz.core.record import Record
from witnz.node.journal import Journal
from witnz.store import meta, outbox
from witnz.store.database import Database

HOLD_S: Final = 10.0
DELIVERED: Final = "alert.delivered"
JOURNALLED = "alerts_journalled"
BATCH: Final = 40  # pairs that surely fit into one free text


class Deliveries:
    """Journals what this node has sent, and drops what others have."""

    def __init__(self, db: Database, journal: Journal, leads: Callable[[], bool]) -> None:
        self._db, self._journal, self._leads = db, journal, leads

    def hold_s(self) -> float:
        """How long a notification that is made now waits on this node."""
        return 0.0 if self._leads() else HOLD_S

    def journal_sent(self) -> None:
        """Say what this node has sent since it last said so; nothing that only went to its own log."""
        with self._db.read() as conn:
            after = meta.load_number(conn, JOURNALLED) or 0
            rows = outbox.delivered_here(conn, after, BATCH)
        if not rows:
            return
        said = [f"{dedup}@{sink}" for _, dedup, sink in rows if sink != "log"]
        if said:
            self._journal.propose("operator", {"action": DELIVERED, "detail": " ".join(said)})
        with self._db.write() as conn:
            meta.save_value(conn, JOURNALLED, rows[-1][0])

    def followed(self, record: Record) -> None:
        """An ``operator`` record: what another node has sent."""
        if record.body["action"] != DELIVERED:
            return
        with self._db.write() as conn:
            for pair in record.body["detail"].split(" "):
                dedup, _, sink = pair.rpartition("@")
                outbox.mark_delivered_by(conn, dedup, sink, record.node)
