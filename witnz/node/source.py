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

from witnz.core.lsn import format_lsn, parse_lsn
from witnz.errors import Inconclusive, ReplicationImpossible
from witnz.node.findings import FindingBook
from witnz.node.gaps import journal_gap
from witnz.node.journal import Journal
from witnz.postgres import slot as slots
from witnz.postgres.publication import publication_state
from witnz.postgres.session import Conninfo, connect, server_identity
from witnz.postgres.sqlstate import PUBLICATION_MISSING
from witnz.store import meta, undo
from witnz.store.database import Database

log = structlog.get_logger(__name__)

FILLED = "other members"  # what explains a stretch that this node did not see itself


def require_recorded_source(conn: psycopg.Connection[Any], journal: Journal, db: Database) -> None:
    """Raise Inconclusive unless ``conn`` leads to the primary, system and timeline that the stream comes from.

    What another server's catalog and tables show says nothing about the recorded ones (architecture.md 7).
    """
    identity, state = server_identity(conn), journal.state
    with db.read() as reader:
        timeline = meta.load_number(reader, "timeline") or state.timeline
    if identity.in_recovery:
        raise Inconclusive("the server is a standby: what it shows can not be verified exactly")
    if identity.system != state.system:
        raise Inconclusive(f"this is another database: system identifier {identity.system}, the journal says {state.system}")
    if identity.timeline != timeline:
        raise Inconclusive(f"the server is on timeline {identity.timeline}, the stream was read from timeline {timeline}")


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
        max_retained_wal_bytes: int | None = None,
    ) -> None:
        self._db, self._journal, self._book = db, journal, book
        self._max_retained_wal_bytes = max_retained_wal_bytes
        self._conninfo, self._slot, self._publications, self._tables = conninfo, slot, publications, tables
        self.refill: Callable[[int], bool] | None = None
        """Takes what this node has missed below a position from other members, where there are some."""

    def check(self, conn: psycopg.Connection[Any], *, publication_missed: bool = False) -> bool:
        """Whether the stored position had to be set anew, because the server went back behind it.

        Raises ReplicationImpossible for another database; otherwise leaves a slot that can be read from.

        ``publication_missed``: the stream ended because a publication was missing when something happened.  The slot can never
        be read past that place, so, as soon as the publications are there again, it is given up for a new one.
        """
        restored = self._check_identity(conn)
        acked = self._acked()
        position = self._position()
        now = self._insert_lsn(conn)
        if position and (restored or now < max(acked, position)):
            self._begin_epoch(
                conn, min(now, acked), restored or f"the server's WAL ends at {format_lsn(now)}, before what was recorded"
            )
            return True
        state = slots.slot_state(conn, self._slot)
        lost = None
        if state is None:
            lost = f"replication slot {self._slot} does not exist any more"
        elif state.lost:
            lost = "the server discarded WAL that the slot still needed"
        elif (held_back := self.holds_back_too_much(now - (state.restart_lsn or now))) is not None:
            lost = held_back
        elif publication_missed:
            self._check_publications(conn)
            lost = "the publication was dropped for a while, and the slot can not be read past that"
        if lost is not None:
            if state is not None:
                slots.drop_slot(conn, self._slot)
            # A crash from here on leaves a slot that confirms more than was acknowledged, which is a gap as well.
            confirmed = self._create()
            filled = bool(acked) and self._gap("slot.lost", acked, confirmed, lost)
            self._adopt(confirmed)
            return filled
        confirmed = (state.confirmed_flush_lsn if state is not None else None) or 0
        filled = False
        if acked and confirmed > acked:
            moved = f"replication slot {self._slot} was moved past what this node recorded"
            filled = self._gap("coverage.gap", acked, confirmed, moved)
        if confirmed > acked:
            self._adopt(confirmed)
        return filled

    def holds_back_too_much(self, retained_bytes: int) -> str | None:
        """Why a slot that retains so much WAL is to be given up, None where it may stay: the database's disk comes first."""
        limit = self._max_retained_wal_bytes
        if limit is None or retained_bytes <= limit:
            return None
        return f"the slot held back {retained_bytes} bytes of WAL, more than max_retained_wal ({limit}), and was given up"

    def _begin_epoch(self, conn: psycopg.Connection[Any], from_lsn: int, reason: str) -> None:
        """The server is not where it was left: LSNs of before mean nothing now, the stream begins anew, and that is a gap."""
        with self._db.write() as store:
            at = format_lsn(from_lsn)
            self._book.open(store, cls="epoch.restored", key=at, lsn=at, detail=reason)
        if slots.slot_state(conn, self._slot) is not None:
            slots.drop_slot(conn, self._slot)
        confirmed = self._create()
        journal_gap(self._journal, self._tables(), min(from_lsn, confirmed), confirmed, reason)
        with self._db.write() as store:
            meta.save_value(store, "acked", str(confirmed))
            meta.save_value(store, "position", str(confirmed))
            undo.settle(store, (1 << 63) - 1)  # whatever was unsettled there is settled, one way or the other
        log.error("server was restored", reason=reason, lsn=format_lsn(confirmed))

    def _position(self) -> int:
        with self._db.read() as reader:
            return meta.load_number(reader, "position") or 0

    @staticmethod
    def _insert_lsn(conn: psycopg.Connection[Any]) -> int:
        row = conn.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        if row is None:
            raise psycopg.OperationalError("a query for one row gave none")
        return parse_lsn(row[0])

    def _check_publications(self, conn: psycopg.Connection[Any]) -> None:
        """Raises ReplicationImpossible while one of them is missing."""
        for name in self._publications:
            if publication_state(conn, name) is None:
                raise ReplicationImpossible(
                    f"publication {name} does not exist, so nothing can be recorded",
                    hint="`witnz init` makes it again; what happens until then is a gap",
                    code=PUBLICATION_MISSING,
                )

    def _check_identity(self, conn: psycopg.Connection[Any]) -> str | None:
        """What changed about the server's history, in words; None if nothing did."""
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
                meta.save_value(store, "timeline", str(identity.timeline))
            return f"timeline {known} was left for {identity.timeline}: a restore or a failover"
        return None

    def _gap(self, cls: str, from_lsn: int, to_lsn: int, reason: str) -> bool:
        """A stretch that this node has not seen: whether the other members filled it.  What nobody saw is journalled."""
        tables = self._tables()
        filled = self.refill is not None and self.refill(to_lsn)
        span = f"changes between {format_lsn(from_lsn)} and {format_lsn(to_lsn)}"
        with self._db.write() as store:
            self._book.open(
                store,
                cls=cls,
                key=format_lsn(to_lsn),  # each gap is a finding of its own
                lsn=format_lsn(to_lsn),
                explained_by=FILLED if filled else None,
                detail=f"{reason}; {span} {'came from the other members' if filled else 'were not seen'}",
            )
        if not filled:
            journal_gap(self._journal, tables, from_lsn, to_lsn, reason)
        return filled

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
