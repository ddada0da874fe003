"""What is checked on every new connection before the stream starts: is this the database, the slot, the position we left?

An LSN means something only together with system identifier and timeline; and a slot that confirms more than this node ever
acknowledged was moved, or dropped and made anew, by somebody else.  What was not seen is a gap: recorded in the journal, opened
as a finding, and bridged by the next full scan.  A server that went back, or that left the timeline, is a restored one
(:mod:`witnz.node.restores`).  Nothing is healed in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
import structlog

from witnz.core.journal_view import JournalView
from witnz.core.lsn import format_lsn
from witnz.errors import Inconclusive, ReplicationImpossible
from witnz.node.findings import FindingBook
from witnz.node.gaps import journal_gap
from witnz.node.journal import Journal
from witnz.node.losses import Compared
from witnz.node.restores import Restores
from witnz.postgres import slot as slots
from witnz.postgres.publication import publication_state
from witnz.postgres.session import FOREIGN, WAITING_SILENCE_S, Conninfo, Identity, connect, server_identity
from witnz.postgres.slot import SlotState
from witnz.postgres.sqlstate import IN_RECOVERY, PUBLICATION_MISSING
from witnz.postgres.wal import checkpoint_lsn, insert_lsn, switch_lsn
from witnz.store import meta
from witnz.store.database import Database

log = structlog.get_logger(__name__)

FILLED = "other members"  # what explains a stretch that this node did not see itself
KEPT_SLOT = "the replication slot"  # what explains a failover in which nothing was missed


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Why a server is not the primary, system and timeline that the stream was read from."""

    kind: Literal["standby", "system", "timeline"]
    message: str


@dataclass(frozen=True, slots=True)
class Left:
    """The system and timeline that this node left off at, as its store says; None: as the journal has it."""

    system: str | None
    timeline: int | None

    @classmethod
    def of(cls, db: Database) -> Left:
        with db.read() as conn:
            return cls(meta.load_value(conn, "system"), meta.load_number(conn, "timeline"))


def elsewhere(identity: Identity, state: JournalView, left: Left) -> Elsewhere | None:
    """None where ``identity`` is the recorded source."""
    if identity.in_recovery:
        return Elsewhere("standby", "the server is a standby: what it shows can not be verified exactly")
    if identity.system != state.system or identity.system != (left.system or state.system):
        recorded = f"system identifier {identity.system}, the journal says {state.system}"
        return Elsewhere("system", f"this is another database cluster: {recorded}")
    timeline = left.timeline or state.timeline
    if identity.timeline != timeline:
        return Elsewhere("timeline", f"the server is on timeline {identity.timeline}, the stream was read from {timeline}")
    return None


def require_recorded_source(conn: psycopg.Connection[Any], journal: Journal, db: Database) -> None:
    """Raise Inconclusive unless ``conn`` leads to the primary, system and timeline that the stream comes from.

    What another server's catalog and tables show says nothing about the recorded ones (architecture.md 7).
    """
    other = elsewhere(server_identity(conn), journal.state, Left.of(db))
    if other is not None:
        raise Inconclusive(other.message)


class SourceGuard:
    """Checks a source against what the journal and the store say of it."""

    def __init__(
        self,
        db: Database,
        journal: Journal,
        book: FindingBook,
        restores: Restores,
        conninfo: Conninfo,
        slot: str,
        publications: Sequence[str],
        tables: Callable[[], list[str]],
        max_retained_wal_bytes: int | None = None,
    ) -> None:
        self._db, self._journal, self._book, self._restores = db, journal, book, restores
        self._max_retained_wal_bytes = max_retained_wal_bytes
        self._conninfo, self._slot, self._publications, self._tables = conninfo, slot, publications, tables
        self.skips: Callable[[str], None] = lambda reason: None
        """Told why, before the stream goes on behind a stretch that was not read here."""
        self.refill: Callable[[int], bool] | None = None
        """Takes what this node has missed below a position from other members, where there are some."""

    def check(self, conn: psycopg.Connection[Any], *, publication_missed: bool = False) -> bool:
        """Whether the stored position had to be set anew, because the server went back behind it.

        Raises ReplicationImpossible for another database; otherwise leaves a slot that can be read from.

        ``publication_missed``: the stream ended because a publication was missing when something happened.  The slot can never
        be read past that place, so, as soon as the publications are there again, it is given up for a new one.
        """
        if self._went_elsewhere(conn):
            return True
        filled = self._check_slot(conn, publication_missed=publication_missed)
        self._require_decided()
        return filled

    def _went_elsewhere(self, conn: psycopg.Connection[Any]) -> bool:
        """Whether the server is not where it was left, so that a new epoch began."""
        identity, left = server_identity(conn), Left.of(self._db)
        other = elsewhere(identity, self._journal.state, left)
        if other is not None and other.kind != "timeline":
            self._move(identity, other)
            return True
        if left.system is None:
            with self._db.write() as store:
                meta.save_value(store, "system", identity.system)
        now, reached = insert_lsn(conn), max(self._number("acked"), self._number("position"))
        slot = slots.slot_state(conn, self._slot)
        if other is not None:
            return not self._follow(conn, identity, left.timeline or self._journal.state.timeline, slot, reached)
        if self._number("position") and now < reached:
            # Restored without recovery: the checkpoint of its start lies behind everything that was restored.
            back_at = min(now, checkpoint_lsn(conn))
            self._begin_epoch(identity, slot, back_at, "the server's WAL went back to before what was recorded")
            return True
        return False

    def _check_slot(self, conn: psycopg.Connection[Any], *, publication_missed: bool) -> bool:
        """Leave a slot that can be read from; whether the stored position had to be set anew."""
        acked, now = self._number("acked"), insert_lsn(conn)
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

    # -- another course of history --------------------------------------------------------------------------------------------

    def _move(self, identity: Identity, other: Elsewhere) -> None:
        """Raises ReplicationImpossible; another system is a finding, unless an operator has said that it is the database."""
        if other.kind == "standby":
            raise ReplicationImpossible(other.message, hint="connect witnz to the primary", code=IN_RECOVERY)
        if identity.system != self._journal.state.system and not self._restores.is_welcome(identity.system):
            detail = f"system identifier {identity.system}, recorded {self._journal.state.system}: nothing is read there"
            with self._db.write() as store:
                self._book.open(store, cls="epoch.restored", key=identity.system, detail=detail)
            raise ReplicationImpossible(
                other.message,
                hint="point database.host at the recorded server; or approve the finding, if a dump was loaded there",
                code=FOREIGN,
            )
        if self._restores.pending is None:
            self.skips(other.message)
            self._restores.prepare()
            with connect(self._conninfo, scan=True, application_name="witnz compare") as scanning:
                compared = self._restores.compare(scanning, 0)
                slot = slots.slot_state(scanning, self._slot)
                if slot is not None:
                    slots.drop_slot(scanning, self._slot)
            reason = f"system {self._journal.state.system} was left for {identity.system}: a dump that was loaded elsewhere"
            self._restores.begin(identity, 0, reason, self._create(), compared)
        self._require_decided()

    def _require_decided(self) -> None:
        """Raises ReplicationImpossible while nobody has accepted what a table holds that no log describes; the slot keeps the
        stream."""
        if self._restores.undecided:
            raise ReplicationImpossible(
                "the database is another system than before, or was restored to before a table's present generation began, "
                "and nobody has accepted yet what it holds",
                hint="`witnz findings list` shows what was lost; approve it with an operator's key",
                code=FOREIGN,
            )

    def _follow(
        self, conn: psycopg.Connection[Any], identity: Identity, known: int, slot: SlotState | None, reached: int
    ) -> bool:
        """The timeline was left: whether the slot came along, so that the stream goes on where it was, without a hole."""
        left_at = switch_lsn(self._conninfo, known, identity.timeline)
        where = f"timeline {known} was left for {identity.timeline}"
        confirmed = None if slot is None or slot.lost else slot.confirmed_flush_lsn
        if left_at is not None and confirmed is not None and confirmed <= self._number("acked") and reached <= left_at:
            at = format_lsn(left_at)
            detail = f"{where} at {at}: a failover; the slot was taken along, nothing was missed and no recorded row was lost"
            with self._db.write() as store:
                self._book.open(store, cls="epoch.restored", key=at, lsn=at, explained_by=KEPT_SLOT, detail=detail)
                meta.save_value(store, "timeline", str(identity.timeline))
            return True
        reason = f"{where}: a restore or a failover"
        self._begin_epoch(identity, slot, checkpoint_lsn(conn) if left_at is None else left_at, reason)
        return False

    def _begin_epoch(self, identity: Identity, slot: SlotState | None, switched_at: int, reason: str) -> None:
        """The server is not where it was left: LSNs beyond ``switched_at`` mean nothing now, and the stream begins anew."""
        self.skips(reason)
        self._restores.prepare()
        if slot is not None:
            with connect(self._conninfo, application_name="witnz slot") as conn:
                slots.drop_slot(conn, self._slot)
        compared: list[Compared] = []
        if self._restores.reaches_behind(switched_at):
            with connect(self._conninfo, scan=True, application_name="witnz compare") as scanning:
                compared = self._restores.compare(scanning, switched_at)
        self._restores.begin(identity, switched_at, reason, self._create(), compared)

    # -- publications, slots and gaps -----------------------------------------------------------------------------------------

    def _check_publications(self, conn: psycopg.Connection[Any]) -> None:
        """Raises ReplicationImpossible while one of them is missing."""
        for name in self._publications:
            if publication_state(conn, name) is None:
                raise ReplicationImpossible(
                    f"publication {name} does not exist, so nothing can be recorded",
                    hint="`witnz init` makes it again; what happens until then is a gap",
                    code=PUBLICATION_MISSING,
                )

    def _gap(self, cls: str, from_lsn: int, to_lsn: int, reason: str) -> bool:
        """A stretch that this node has not seen: whether the other members filled it.  What nobody saw is journalled."""
        self.skips(reason)
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
        # it waits for every transaction that is writing
        with connect(self._conninfo, replication=True, application_name="witnz slot", silence_s=WAITING_SILENCE_S) as conn:
            confirmed = slots.create_slot(conn, self._slot)
        log.info("replication slot was created", slot=self._slot, lsn=format_lsn(confirmed))
        return confirmed

    def _adopt(self, confirmed: int) -> None:
        """From here on: what the slot confirms is what this node stands for."""
        with self._db.write() as store:
            meta.save_value(store, "acked", str(confirmed))

    def _number(self, name: str) -> int:
        with self._db.read() as reader:
            return meta.load_number(reader, name) or 0
