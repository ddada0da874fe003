"""What is checked on every new connection before the stream starts: is this the database, the slot, the position we left?

An LSN means something only together with system identifier and timeline; and a slot that confirms more than this node ever
acknowledged was moved, or dropped and made anew, by somebody else.  Both are gaps: recorded in the journal, opened as findings,
and bridged by the next full scan; never healed in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import psycopg
import structlog

from witnz.core.lsn import format_lsn
from witnz.errors import ReplicationImpossible
from witnz.node.findings import FindingBook
from witnz.node.gaps import journal_gap
from witnz.node.journal import Journal
from witnz.postgres import slot as slots
from witnz.postgres.publication import publication_state
from witnz.postgres.session import Conninfo, connect, server_identity
from witnz.postgres.sqlstate import PUBLICATION_MISSING
from witnz.store import meta
from witnz.store.database import Database

log = structlog.get_logger(__name__)


class SourceGuard:
    """Checks a source against what the journal and the store say of it."""

    def __init__(
        self,
        db: Database,
        journal: Journal,
        book: FindingBook,
        conninfo: Conninfo,
        slot: str,
        publications: Sequence[str],
        tables: Callable[[], list[str]],
    ) -> None:
        self._db, self._journal, self._book = db, journal, book
        self._conninfo, self._slot, self._publications, self._tables = conninfo, slot, publications, tables

    def check(self, conn: psycopg.Connection[Any], *, publication_missed: bool = False) -> None:
        """Raises ReplicationImpossible for another database; otherwise leaves a slot that can be read from.

        ``publication_missed``: the stream ended because a publication was missing when something happened.  The slot can never
        be read past that place, so, as soon as the publications are there again, it is given up for a new one.
        """
        self._check_identity(conn)
        acked = self._acked()
        state = slots.slot_state(conn, self._slot)
        lost = None
        if state is None:
            lost = f"replication slot {self._slot} does not exist any more"
        elif state.lost:
            lost = "the server discarded WAL that the slot still needed"
        elif publication_missed:
            self._check_publications(conn)
            lost = "the publication was dropped for a while, and the slot can not be read past that"
        if lost is not None:
            if state is not None:
                slots.drop_slot(conn, self._slot)
            # A crash from here on leaves a slot that confirms more than was acknowledged, which is a gap as well.
            confirmed = self._create()
            if acked:
                self._gap("slot.lost", acked, confirmed, lost)
            self._adopt(confirmed)
            return
        confirmed = (state.confirmed_flush_lsn if state is not None else None) or 0
        if acked and confirmed > acked:
            self._gap("coverage.gap", acked, confirmed, f"replication slot {self._slot} was moved past what this node recorded")
        if confirmed > acked:
            self._adopt(confirmed)

    def _check_publications(self, conn: psycopg.Connection[Any]) -> None:
        """Raises ReplicationImpossible while one of them is missing."""
        for name in self._publications:
            if publication_state(conn, name) is None:
                raise ReplicationImpossible(
                    f"publication {name} does not exist, so nothing can be recorded",
                    hint="`witnz init` makes it again; what happens until then is a gap",
                    code=PUBLICATION_MISSING,
                )

    def _check_identity(self, conn: psycopg.Connection[Any]) -> None:
        identity = server_identity(conn)
        if identity.in_recovery:
            raise ReplicationImpossible(
                "the server is a standby: what it shows can not be verified exactly", hint="connect witnz to the primary"
            )
        state = self._journal.state
        if identity.system != state.system:
            with self._db.write() as store:
                self._book.open(
                    store, cls="epoch.restored", detail=f"system identifier {identity.system}, recorded {state.system}"
                )
            raise ReplicationImpossible(
                f"this is another database cluster: system identifier {identity.system}, the journal says {state.system}",
                hint="point database.host at the recorded server; a restored copy needs a new epoch",
            )
        with self._db.read() as reader:
            known = meta.load_number(reader, "timeline") or state.timeline
        if identity.timeline != known:
            with self._db.write() as store:
                self._book.open(
                    store,
                    cls="epoch.restored",
                    detail=f"timeline {known} was left for {identity.timeline}: a restore or a failover",
                )
                meta.save_value(store, "timeline", str(identity.timeline))

    def _gap(self, cls: str, from_lsn: int, to_lsn: int, reason: str) -> None:
        tables = self._tables()
        with self._db.write() as store:
            self._book.open(
                store,
                cls=cls,
                lsn=format_lsn(to_lsn),
                detail=f"{reason}; changes between {format_lsn(from_lsn)} and {format_lsn(to_lsn)} were not seen",
            )
        journal_gap(self._journal, tables, from_lsn, to_lsn, reason)

    def _create(self) -> int:
        """A new slot; the position from which on it keeps everything."""
        with connect(self._conninfo, replication=True, application_name="witnz slot") as conn:
            confirmed = slots.create_slot(conn, self._slot)
        log.info("replication slot was created", slot=self._slot, lsn=format_lsn(confirmed))
        return confirmed

    def _adopt(self, confirmed: int) -> None:
        """From here on: what the slot confirms is what this node stands for."""
        with self._db.write() as store:
            meta.save_value(store, "acked", str(confirmed))

    def _acked(self) -> int:
        with self._db.read() as reader:
            return meta.load_number(reader, "acked") or 0
