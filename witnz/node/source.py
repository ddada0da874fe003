"""What is checked on every new connection before the stream starts: is this the database, the slot, the position we left?

An LSN means something only together with system identifier and timeline; and a slot that confirms more than this node ever
acknowledged was moved, or dropped and made anew, by somebody else.  Both are gaps: recorded in the journal, opened as findings,
and bridged by the next full scan; never healed in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import structlog

from witnz.core.lsn import format_lsn
from witnz.errors import ReplicationImpossible
from witnz.node.findings import FindingBook
from witnz.node.gaps import journal_gap
from witnz.node.journal import Journal
from witnz.postgres import slot as slots
from witnz.postgres.session import Conninfo, connect, server_identity
from witnz.store import meta
from witnz.store.database import Database

log = structlog.get_logger(__name__)


class SourceGuard:
    """Checks a source against what the journal and the store say of it."""

    def __init__(
        self, db: Database, journal: Journal, book: FindingBook, conninfo: Conninfo, slot: str, tables: Callable[[], list[str]]
    ) -> None:
        self._db, self._journal, self._book = db, journal, book
        self._conninfo, self._slot, self._tables = conninfo, slot, tables

    def check(self, conn: psycopg.Connection[Any]) -> None:
        """Raises ReplicationImpossible for another database; otherwise leaves a slot that can be read from."""
        self._check_identity(conn)
        acked = self._acked()
        state = slots.slot_state(conn, self._slot)
        if state is not None and state.wal_status == "lost":
            self._gap("slot.lost", acked, self._insert_lsn(conn), "the server discarded WAL that the slot still needed")
            slots.drop_slot(conn, self._slot)
            state = None
        elif state is None and acked:
            self._gap("slot.lost", acked, self._insert_lsn(conn), f"replication slot {self._slot} does not exist any more")
        if state is None:
            self._create()
            state = slots.slot_state(conn, self._slot)
            self._adopt(state.confirmed_flush_lsn if state is not None else None)
            return
        confirmed = state.confirmed_flush_lsn or 0
        if acked and confirmed > acked:
            self._gap("coverage.gap", acked, confirmed, f"replication slot {self._slot} was moved past what this node recorded")
        if confirmed > acked:
            self._adopt(confirmed)

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

    def _create(self) -> None:
        with connect(self._conninfo, replication=True, application_name="witnz slot") as conn:
            slots.create_slot(conn, self._slot)
        log.info("replication slot was created", slot=self._slot)

    def _adopt(self, confirmed: int | None) -> None:
        """From here on: what the slot confirms is what this node stands for."""
        with self._db.write() as store:
            meta.save_value(store, "acked", str(confirmed or 0))

    def _acked(self) -> int:
        with self._db.read() as reader:
            return meta.load_number(reader, "acked") or 0

    @staticmethod
    def _insert_lsn(conn: psycopg.Connection[Any]) -> int:
        row = conn.execute("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint").fetchone()
        return int(row[0]) if row else 0
