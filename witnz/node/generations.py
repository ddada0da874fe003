"""Which generations exist, are being opened, and are due: the protected set of this node, kept in step with the catalog.

The journal holds the protected set; the configuration is what the operator wishes.  Additions are applied when the node
starts or when it is told to; a table whose definition changed gets a new generation; a leaf partition that appears is
recorded at once and adopted at the next pause of the stream.
"""

from __future__ import annotations

import base64
import sqlite3
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import replace

import psycopg
import structlog

from witnz.core.classify import Rules
from witnz.core.rowline import secret_commitment
from witnz.core.tiles import root_at
from witnz.errors import DatabaseUnreachable, NoQuorum, ProofError, WitnzError
from witnz.node.findings import FindingBook
from witnz.node.leaves import ATTACHED, Leaves
from witnz.node.loading import Loading
from witnz.node.log_notes import LogNotes
from witnz.node.opening import Opening
from witnz.node.plan import Invitation, Plan, Surroundings
from witnz.node.recorder import Recorder
from witnz.node.restores import Restores
from witnz.node.spool import replay_spool
from witnz.node.succession import Predecessor, RowsChanged
from witnz.node.table_state import ACTIVE, ENDED, OPEN, PROVISIONAL, TableState
from witnz.node.voting import TooFewVotes
from witnz.postgres import catalog
from witnz.postgres.catalog import TableInfo
from witnz.store import entries, logs, spool

log = structlog.get_logger(__name__)

AGAIN_S, AGAIN_MAX_S = 1.0, 60.0
VOTE_AGAIN_S = 0.5
CHANGED_WITH_DEFINITION = "the row changed together with the definition of its table; no event in the stream explains it"
CHANGED_IN_A_RESTORE = "the row is neither as it was where the database was restored to, nor did an event since make it so"


class Generations:
    """Owns the openings; its ``between`` runs on the capture thread whenever the stream pauses between transactions.

    ``connection``: the recorder's write transaction.
    """

    def __init__(self, around: Surroundings, book: FindingBook, connection: Callable[[], sqlite3.Connection]) -> None:
        self._around, self._book = around, book
        self._lock = threading.Lock()
        self._openings: list[Opening] = []
        self._ending: set[str] = set()
        self._again: dict[str, tuple[int, float, Plan]] = {}  # failed first generations: tries, when the next is due
        self._meanwhile: dict[Hashable, Callable[[], None]] = {}
        self._made_here: set[int] = set()  # leaves without a log that will begin one with their first event
        self._blocked: set[str] = set()  # tables whose new generation needs an operator's decision
        self.accepted: Callable[[str], bool] = lambda table: False
        """Whether a generation is owed to a table, and not opened yet: after an accepted change of its definition, or a gap."""
        self._loading = Loading(around, self.opening)
        self._leaves = Leaves(around, book, connection)
        self.restores: Restores | None = None  # ends what a restore ended; set by whoever puts the node together
        self.load, self.cancel_orphans, self.discard = self._loading.load, self._loading.cancel_orphans, self._loading.discard
        self.unknown, self.leaves_to_be_fetched = self._leaves.unknown, self._leaves.to_be_fetched

    # -- opening --------------------------------------------------------------------------------------------------------------

    def open(self, plan: Plan, invitation: Invitation | None = None) -> Opening | None:
        """Queue a generation; None if one of that table is being opened already, it is there already, or another node leads the
        cluster."""
        if invitation is None and not self._around.leads():
            return None
        with self._lock:
            newest = self._around.journal.state.newest_generation(plan.name)
            if invitation is None and newest is not None and newest.generation >= plan.generation:
                return None  # what the plan was made of has been overtaken
            if any(o.plan.name == plan.name for o in self._openings if o.phase != "done"):
                return None
            opening = Opening(plan, self._around, invitation=invitation)
            if invitation is not None:
                opening.secret = invitation.secret
            self._openings.append(opening)
        log.info("generation was queued", table=plan.name, generation=plan.generation, reason=plan.reason)
        return opening

    def end(self, table: str) -> None:
        """Protection of a table was ended by an operator; its log stays, nothing more is recorded into it."""
        with self._lock:
            self._ending.add(table)

    def leaves(self) -> dict[str, str]:
        """Leaf tables that appeared or were found below a protected root, and that root."""
        return self._leaves.roots()

    def attached(self, conn: psycopg.Connection, root: TableState, known: set[int]) -> str | None:
        """Open the attached leaves of a root that are not among the ``known`` OIDs; a finding's id, where rows had to be
        approved before they came."""
        opened = None
        for oid in catalog.leaf_oids(conn, root.oid):
            if oid in known or oid in self._made_here or any(o.plan.info.oid == oid for o in self.opening()):
                continue
            plan = self._leaves.plan_of_attached(conn, root, oid)
            if plan is None:
                self._made_here.add(oid)
            elif plan.name not in self._again and self.open(plan) is not None and _asks_first(plan.rules):
                with self._around.db.write() as store:
                    detail = f"{ATTACHED}: no event and no intent says whose they are"
                    opened = self._book.open(store, cls="schema.changed", table=plan.name, generation=1, detail=detail)
        return opened

    def opening(self) -> list[Opening]:
        with self._lock:
            return [o for o in self._openings if o.phase not in ("done", "failed")]

    def interrupt(self, reason: str) -> None:
        """The stream goes on behind a stretch that it did not tell of: nothing that was begun before is adopted any more.

        Its companions are told at once.  What waits with them belongs to the log of before again, which may be fetched next.
        """
        with self._lock:
            begun = [opening for opening in self._openings if opening.state is not None]
        companions = self._around.companions
        for opening in begun:
            opening.interrupt(f"the stream did not tell of everything meanwhile: {reason}")
            if companions is not None and opening.invitation is None:
                companions.forget(opening)

    def begun(self) -> set[tuple[str, int]]:
        """Table and generation of the logs that openings have begun, and have not given up yet."""
        with self._lock:
            return {(each.plan.name, each.plan.generation) for each in self._openings if each.state is not None}

    def meanwhile(self, name: Hashable, work: Callable[[], None]) -> None:
        """Have the capture thread do something while nothing records; recording begins anew with what is there then."""
        with self._lock:
            self._meanwhile.setdefault(name, work)

    def _do_meanwhile(self) -> None:
        with self._lock:
            due = list(self._meanwhile.items())
        for name, work in due:
            try:
                work()
            except (WitnzError, psycopg.Error) as error:
                log.warning("work between transactions failed", work=str(name), reason=str(error).strip())
            with self._lock:
                self._meanwhile.pop(name, None)
        if due:
            raise DatabaseUnreachable("recording begins anew with what other members gave")

    def between(self, recorder: Recorder) -> None:
        """Step every opening.  The recorder is clean; after an adoption it may be dirty, and its owner commits it."""
        self._do_meanwhile()
        self._relink(recorder)
        for opening in self.opening():
            before = opening.state
            try:
                opening.step(time.monotonic())
            except (WitnzError, psycopg.Error) as error:
                opening.error = str(error).strip()
                opening.phase = "failed"
            if before is None and opening.state is not None:
                recorder.add_table(opening.state)
            if opening.phase == "ready" and not opening.lost and self._adopt(opening, recorder):
                return
        self._open_again()
        for opening in [o for o in self._openings if o.phase == "failed"]:
            if recorder.dirty:
                return  # its owner commits before the journal is written to again
            self._give_up(opening, recorder)
        for state in recorder.tables():
            if recorder.dirty:
                return
            if state.head.id in self._loading.returned:
                self._loading.returned.discard(state.head.id)
                self._replay(state, recorder)
            elif state.name in self._ending:
                self._end(state, recorder)
            elif state.status == PROVISIONAL and state.head.size:
                self._leaves.adopt(state)
            elif state.status == OPEN and not any(o.state is state for o in self._openings):
                self._activate(state, self._before(state, recorder), recorder)

    def _relink(self, recorder: Recorder) -> None:
        """Openings compare with, and end, the states that are being recorded into now; a plan may have been made of those of a
        recorder before, which a lost connection has ended, perhaps while the plan was being made."""
        with self._lock:
            old = [opening.plan.predecessor for opening in self._openings if opening.plan.predecessor is not None]
        states = {state.head.id: state for state in recorder.tables()} if old else {}
        for predecessor in old:
            predecessor.state = states.get(predecessor.state.head.id, predecessor.state)

    def _adopt(self, opening: Opening, recorder: Recorder) -> bool:
        """Whether the ``table`` record of a ready opening stands, and the generation is active now."""
        state, plan = opening.state, opening.plan
        if state is None:
            return False
        old = plan.predecessor
        if not self._stands(opening):
            try:
                if opening.invitation is not None or not self._propose_table(opening) or not self._stands(opening):
                    return False
            except (ProofError, NoQuorum) as refusal:  # a gap was journalled meanwhile: an operator has to decide first
                opening.error, opening.phase = refusal.message, "failed"
                return False
        self._around.errands.forget(("table", plan.name, opening.secret))
        self._activate(state, old.state if old is not None else None, recorder)
        opening.phase = "done"
        with self._lock:
            self._openings.remove(opening)
        return True

    def _stands(self, opening: Opening) -> bool:
        """Whether the journal has adopted just this: same secret, same snapshot."""
        state = opening.state
        record = self._around.journal.state.newest_generation(opening.plan.name)
        if record is None or state is None or record.generation < opening.plan.generation:
            return False
        same = record.secret_sha256 == secret_commitment(state.head.secret) and record.at == opening.at
        if not same or record.generation != opening.plan.generation or record.lsn != state.lsn:
            opening.error, opening.phase = "the cluster adopted another baseline", "failed"
            return False
        return True

    def _propose_table(self, opening: Opening) -> bool:
        body, at = opening.table_body(self.previous(opening.plan)), opening.at
        journal, errands = self._around.journal, self._around.errands

        def propose() -> int:
            while True:
                try:
                    return journal.propose("table", body, at=at)
                except TooFewVotes as failed:
                    if not failed.may_change or opening.phase != "ready" or not self._around.leads():
                        raise
                time.sleep(VOTE_AGAIN_S)

        return errands.run(("table", opening.plan.name, opening.secret), propose)

    def previous(self, plan: Plan) -> dict[str, object] | None:
        """How the generation before ends: what a ``table`` record links."""
        if plan.generation == 1:
            return None
        ended = self._around.journal.state.ended_at(plan.name, plan.generation - 1)
        if ended is not None:
            return {"size": ended.size, "root": base64.b64encode(ended.root).decode(), "chain": ended.chain}
        with self._around.db.read() as conn:
            row = logs.require_log(conn, plan.name, plan.generation - 1)
            root = root_at(entries.tile_reader(conn, row.id, row.size), row.size)
        return {"size": row.size, "root": base64.b64encode(root).decode(), "chain": row.chain}

    def _before(self, state: TableState, recorder: Recorder) -> TableState | None:
        """The generation before, if it is still there to be ended."""
        for other in recorder.tables():
            if other.name == state.name and other.generation == state.generation - 1:
                return other
        return None

    def _activate(self, state: TableState, old: TableState | None, recorder: Recorder) -> None:
        """The ``table`` record stands: end the old generation, replay what was spooled for the new one."""
        conn = recorder.connection()
        state.status = ACTIVE
        logs.set_status(conn, state.head.id, ACTIVE)
        if old is not None:
            spool.clear(conn, old.head.id)
            old.status = ENDED
            logs.set_status(conn, old.head.id, ENDED)
            recorder.remove_table(old)
            if self.restores is not None:
                self.restores.end(conn, old.head.id)
        self._replay(state, recorder)
        log.info("generation was adopted", table=state.name, generation=state.generation, entries=state.head.size)

    def _replay(self, state: TableState, recorder: Recorder) -> None:
        """Record what waited in the spool, in stream order, before anything newer."""
        for block in replay_spool(recorder.connection(), state, self._around.box):
            recorder.record(state, block)

    def _end(self, state: TableState, recorder: Recorder) -> None:
        logs.set_status(recorder.connection(), state.head.id, ENDED)
        state.status = ENDED
        recorder.remove_table(state)
        self._ending.discard(state.name)
        log.info("protection was ended", table=state.name)

    def _give_up(self, opening: Opening, recorder: Recorder) -> None:
        """Cancel: what was spooled for the old generation goes back into it."""
        opening.cancel()
        with self._lock:
            self._openings.remove(opening)
        plan, state = opening.plan, opening.state
        log.warning("generation was cancelled", table=plan.name, generation=plan.generation, reason=opening.error)
        self._loading.cancel(plan.name, plan.generation, opening.error)
        companions = self._around.companions
        if companions is not None and opening.invitation is None:
            self._around.errands.start(("forget", plan.name), lambda: companions.forget(opening))
        if state is None:
            if plan.predecessor is None and opening.invitation is None:
                self._try_again(plan)
            return
        recorder.remove_table(state)
        opening.drop()
        if plan.predecessor is not None:
            self._give_back(plan.predecessor, recorder)
        elif opening.invitation is None:
            self._try_again(plan)
        if opening.changed is not None and opening.invitation is None:
            self._rows_changed(plan, opening.changed, recorder)

    def _try_again(self, plan: Plan) -> None:
        """A table that is to be protected stays to be protected; a later generation is asked for again by the watch."""
        tries, _, _ = self._again.get(plan.name, (0, 0.0, plan))
        wait_s = min(AGAIN_S * 2**tries, AGAIN_MAX_S)
        self._again[plan.name] = (tries + 1, time.monotonic() + wait_s, plan)

    def _open_again(self) -> None:
        if not self._around.leads():
            self._again.clear()
        for name, (tries, due, plan) in list(self._again.items()):
            if due <= time.monotonic() and not any(o.plan.name == name for o in self.opening()):
                if self._around.journal.state.current_table(name) is not None:
                    del self._again[name]
                    continue
                self._again[name] = (tries, float("inf"), plan)  # until it fails once more
                with self._around.connect() as conn:
                    info = catalog.table_by_oid(conn, plan.info.oid)
                if info is not None:
                    self.open(replace(plan, info=info))

    def _give_back(self, old: Predecessor, recorder: Recorder) -> None:
        conn = recorder.connection()
        old.state.final_lsn = None
        logs.set_final_lsn(conn, old.state.head.id, None)
        self._replay(old.state, recorder)

    def _rows_changed(self, plan: Plan, changed: RowsChanged, recorder: Recorder) -> None:
        """The definition changed and the rows with it: name them, and leave the decision to an operator."""
        restored = self._restored(plan.name, plan.generation - 1)
        how = CHANGED_IN_A_RESTORE if restored else CHANGED_WITH_DEFINITION
        conn = recorder.connection()
        for difference in changed.differences:
            self._book.open(
                conn,
                cls=difference.cls,
                table=plan.name,
                generation=plan.generation - 1,
                key=difference.key,
                seq=difference.seq,
                recorded=difference.recorded.hex() if difference.recorded else None,
                found=difference.found.hex() if difference.found else None,
                detail=how,
            )
        if restored:
            return  # once the rows are decided about the generation is begun again
        self._blocked.add(plan.name)
        self.schema_finding(conn, plan.name, plan.generation - 1, f"{plan.reason}; {changed.message}")

    def schema_finding(self, conn: sqlite3.Connection, table: str, generation: int, detail: str) -> None:
        self._book.open(conn, cls="schema.changed", table=table, generation=generation, detail=detail)

    # -- what is due ----------------------------------------------------------------------------------------------------------

    def find(self, table: str, generation: int) -> Opening | None:
        """The opening of this generation, if it is under way here."""
        for opening in self.opening():
            if (opening.plan.name, opening.plan.generation) == (table, generation):
                return opening
        return None

    def renew(self, state: TableState, info: TableInfo, reason: str) -> None:
        """The definition of a table changed: open the generation that follows, or ask for a decision."""
        if state.name in self._blocked or state.status != ACTIVE or any(o.plan.name == state.name for o in self.opening()):
            return
        journal = self._around.journal.state
        newest = journal.newest_generation(state.name)
        if state.name in journal.opened or (newest is not None and newest.generation > state.generation):
            return  # the generation that follows is on its way here
        if journal.open_gap(state.name) is not None:
            return  # nobody can say that the rows are as recorded before an operator has accepted the gap
        if self.accepted(state.name):
            return  # what would be asked for is decided, or will be; whoever leads opens what follows
        projection = self.projection(state, info)
        if projection is None:
            self._blocked.add(state.name)
            with self._around.db.write() as conn:
                self.schema_finding(
                    conn, state.name, state.generation, f"{reason}: the recorded rows can not be recomputed from what is left"
                )
            return
        self.open(self.successor(state, info, projection, reason))

    def decided(self, state: TableState, info: TableInfo, reason: str) -> None:
        """An operator accepted a change of the definition, a gap or a restore: begin anew.

        Only after a restore it is known what the rows must be, so only then they are compared.
        """
        restored = self._restored(state.name, state.generation)
        self.open(self.successor(state, info, self.projection(state, info) if restored else None, reason))
        self._blocked.discard(state.name)  # last: a look of the watch in between would ask for the same decision again

    def _restored(self, table: str, generation: int) -> bool:
        """Whether a restore ended this generation, at a place where its log says what the rows were."""
        return self._around.journal.state.switched_at(table, generation) is not None

    def successor(self, state: TableState, info: TableInfo, projection: tuple[int, ...] | None, reason: str) -> Plan:
        return Plan(
            name=state.name,
            info=info,
            rules=state.rules,
            hidden_keys=state.hidden_keys,
            generation=state.generation + 1,
            reason=reason,
            excluded=state.excluded,
            predecessor=Predecessor(state, projection),
        )

    def projection(self, state: TableState, info: TableInfo) -> tuple[int, ...] | None:
        """Where the columns of the old baseline stand in a line of the new one; None if one of them is gone."""
        with self._around.db.read() as conn:
            attnums = LogNotes.of(logs.get_log(conn, state.head.id)).attnums
        now = [column.attnum for column in info.replicated_columns if column.name not in state.excluded]
        if not attnums or any(attnum not in now for attnum in attnums):
            return None
        return tuple(now.index(attnum) for attnum in attnums)


def _asks_first(rules: Rules) -> bool:
    """Whether somebody has to approve rows before they count."""
    return rules.require_intent or (rules.mode == "state_integrity" and rules.on_change == "alert")
