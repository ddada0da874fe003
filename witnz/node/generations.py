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

from witnz.core.entry import Schema, parse_entry, parse_schema_hint
from witnz.core.lsn import format_lsn
from witnz.core.names import log_origin
from witnz.core.rowline import leaf_secret, secret_commitment
from witnz.core.tiles import root_at
from witnz.errors import DatabaseUnreachable, NoQuorum, ProofError, StoreCorrupt, WitnzError
from witnz.node.block import Transaction
from witnz.node.findings import FindingBook
from witnz.node.log_notes import LogNotes
from witnz.node.opening import Invitation, Opening, Plan, Surroundings, baseline_key
from witnz.node.recorder import Recorder, has_overlay
from witnz.node.spool import replay_spool
from witnz.node.succession import Predecessor, RowsChanged
from witnz.node.table_state import ACTIVE, ENDED, OPEN, PROVISIONAL, TableState
from witnz.node.voting import TooFewVotes
from witnz.postgres import catalog
from witnz.postgres.catalog import TableInfo, schema_columns
from witnz.postgres.pgoutput import Relation
from witnz.postgres.xid import format_snapshot, parse_snapshot
from witnz.store import entries, logs, meta, spool, tablelog
from witnz.store.logs import LogRow

log = structlog.get_logger(__name__)

AGAIN_S, AGAIN_MAX_S = 1.0, 60.0
VOTE_AGAIN_S = 0.5


class Generations:
    """Owns the openings; its ``between`` runs on the capture thread whenever the stream pauses between transactions."""

    def __init__(self, around: Surroundings, book: FindingBook) -> None:
        self._around, self._book = around, book
        self._lock = threading.Lock()
        self._openings: list[Opening] = []
        self._ending: set[str] = set()
        self._returned: set[int] = set()
        self._again: dict[str, tuple[int, float, Plan]] = {}  # failed first generations: tries, when the next is due
        self._meanwhile: dict[Hashable, Callable[[], None]] = {}
        self._blocked: set[str] = set()  # tables whose new generation needs an operator's decision

    # -- loading --------------------------------------------------------------------------------------------------------------

    def load(self) -> list[TableState]:
        """The states to record into, from the store; what an interrupted opening left is taken back or completed."""
        states = []
        running = {o.state.head.id: o for o in self.opening() if o.state is not None}
        rows = self._rows()
        if self._around.companions is None:
            self.cancel_orphans()
        for row in rows:
            if row.status == OPEN and row.id not in running and not self._adopted(row):
                self._take_back(row)
        for row in self._rows():  # once more: the old generations go on where the new ones were taken back
            if row.id in running:
                states.append(_as_stored(running[row.id], row))
            elif row.status == ACTIVE and self._around.journal.state.current_table(row.table) is None:
                self._set_ended(row)
            else:
                states.append(self._state(row))
        self._relink(states)
        return states

    def _rows(self) -> list[LogRow]:
        with self._around.db.read() as conn:
            return [row for row in logs.list_logs(conn) if row.status in (OPEN, ACTIVE, PROVISIONAL)]

    def cancel_orphans(self) -> None:
        """An ``open`` record whose log was never made, or is not this node's to lead: a crash, or a change of leader."""
        there = {(o.plan.name, o.plan.generation) for o in self.opening() if o.invitation is None}
        if self._around.companions is None:
            there |= {(row.table, row.generation) for row in self._rows() if row.status == OPEN}
        for table, (generation, _) in list(self._around.journal.state.opened.items()):
            if (table, generation) not in there:
                self._cancel(table, generation, "the node stopped meanwhile")

    def _cancel(self, table: str, generation: int, reason: str) -> None:
        """Journal that an opening ended, if the journal still waits for it; among several nodes the leader does."""
        journal = self._around.journal
        if self._around.leads() and journal.state.opened.get(table, (0, ""))[0] == generation:
            body = {"table": table, "generation": generation, "reason": reason[:1000]}
            self._around.errands.start(("cancel", table), lambda: journal.propose("cancel", body))

    def _set_ended(self, row: LogRow) -> None:
        """A crash came between the ``unprotect`` record and the end of the log."""
        with self._around.db.write() as conn:
            logs.set_status(conn, row.id, ENDED)

    def _relink(self, states: list[TableState]) -> None:
        """Openings compare with, and end, the states that are being recorded into now."""
        by_log = {state.head.id: state for state in states}
        for opening in self.opening():
            old = opening.plan.predecessor
            if old is not None and old.state.head.id in by_log:
                old.state = by_log[old.state.head.id]

    def _adopted(self, row: LogRow) -> bool:
        """Whether the ``table`` record of an opening stands, so that only the replay of its spool is still due."""
        newest = self._around.journal.state.newest_generation(row.table)
        if newest is None or newest.generation < row.generation:
            return False
        if self._around.companions is None:
            return True
        with self._around.db.read() as conn:  # others may have adopted it while this node was still reading
            return meta.load_value(conn, baseline_key(row.id)) is not None

    def _take_back(self, row: LogRow) -> None:
        """A crash interrupted an opening that no ``table`` record adopted: as if it had never begun."""
        self._cancel(row.table, row.generation, "the node stopped meanwhile")
        self.discard(row)

    def discard(self, row: LogRow) -> None:
        """Forget a log that was being opened, and let the generation before go on."""
        with self._around.db.write() as conn:
            spool.clear(conn, row.id)
            logs.drop_log(conn, row.id)
            if row.generation > 1:
                old = logs_of(conn, row.table, row.generation - 1).id
                logs.set_final_lsn(conn, old, None)
                self._returned.add(old)  # what was spooled for it comes back before anything new
        log.info("interrupted opening was taken back", table=row.table, generation=row.generation)

    def _state(self, row: LogRow) -> TableState:
        notes = LogNotes.of(row)
        record = self._around.journal.state.newest_generation(row.table) or (
            self._around.journal.state.newest_generation(notes.root) if notes.root else None
        )
        if record is None:
            raise ProofError(f"the store holds a log of {row.table}, but no table record of the journal names it")
        with self._around.db.read() as conn:
            head = tablelog.load_head(conn, row.id)
            hint = row.columns
            overlay = has_overlay(conn, row.id)
            first = _first_schema(conn, row) if head.size else None
        schema = parse_schema_hint(hint) if hint else None
        state = TableState(
            head=head,
            oid=row.oid,
            rules=record.rules,
            key_columns=row.key_columns,
            hidden_keys=record.hidden_keys,
            columns=schema.columns if schema is not None else (),
            identity=schema.identity if schema is not None else "d",
            status=row.status,
            snapshot=parse_snapshot(row.snapshot) if row.snapshot else None,
            lsn=row.lsn,
            final_lsn=row.final_lsn,
            has_overlay=overlay,
            excluded=frozenset(notes.excluded),
            skip_until=notes.skip_until,
            settled_xid=notes.settled_xid,
            first_columns=first.columns if first is not None else None,
            first_identity=first.identity if first is not None else "",
        )
        state.logged_schema = hint
        return state

    # -- opening --------------------------------------------------------------------------------------------------------------

    def open(self, plan: Plan, invitation: Invitation | None = None) -> Opening | None:
        """Queue a generation; None if one of that table is being opened already, or another node leads the cluster."""
        if invitation is None and not self._around.leads():
            return None
        with self._lock:
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
        with self._around.db.read() as conn:
            found = {row.table: LogNotes.of(row).root for row in logs.list_logs(conn)}
        return {table: root for table, root in found.items() if root is not None}

    def opening(self) -> list[Opening]:
        with self._lock:
            return [o for o in self._openings if o.phase not in ("done", "failed")]

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
        for opening in self.opening():
            before = opening.state
            try:
                opening.step(time.monotonic())
            except (WitnzError, psycopg.Error) as error:
                opening.error = str(error).strip()
                opening.phase = "failed"
            if before is None and opening.state is not None:
                recorder.add_table(opening.state)
            if opening.phase == "ready" and self._adopt(opening, recorder):
                return
        self._open_again()
        for opening in [o for o in self._openings if o.phase == "failed"]:
            if recorder.dirty:
                return  # its owner commits before the journal is written to again
            self._give_up(opening, recorder)
        for state in recorder.tables():
            if recorder.dirty:
                return
            if state.head.id in self._returned:
                self._returned.discard(state.head.id)
                self._replay(state, recorder)
            elif state.name in self._ending:
                self._end(state, recorder)
            elif state.status == PROVISIONAL and state.head.size:
                self._adopt_leaf(state)
            elif state.status == OPEN and not any(o.state is state for o in self._openings):
                self._activate(state, self._before(state, recorder), recorder)

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
        with self._around.db.read() as conn:
            row = logs_of(conn, plan.name, plan.generation - 1)
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
        self._cancel(plan.name, plan.generation, opening.error)
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
        self._blocked.add(plan.name)
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
                detail="the row changed together with the definition of its table; no event in the stream explains it",
            )
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
        if self._around.journal.state.open_gap(state.name) is not None:
            return  # nobody can say that the rows are as recorded before an operator has accepted the gap
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
        """An operator accepted a change of the definition, or a gap: begin anew, without comparing."""
        self.open(self.successor(state, info, None, reason))
        self._blocked.discard(state.name)  # last: a look of the watch in between would ask for the same decision again

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

    # -- leaf partitions ------------------------------------------------------------------------------------------------------

    def unknown(self, connect: Callable[[], psycopg.Connection]) -> Callable[[Relation, Transaction], TableState | None]:
        """What the recorder asks about a relation that no log is about: a leaf of a protected root begins one."""

        def look(relation: Relation, tx: Transaction) -> TableState | None:
            with connect() as conn:
                info = catalog.table_by_oid(conn, relation.oid)
                root = catalog.table_by_oid(conn, info.partition_root) if info is not None and info.partition_root else None
            if info is None or root is None:
                return None
            record = self._around.journal.state.current_table(root.witnz_name)
            return self._begin_leaf(info, root.witnz_name, tx) if record is not None else None

        return look

    def _begin_leaf(self, info: TableInfo, root: str, tx: Transaction) -> TableState | None:
        around = self._around
        record = around.journal.state.current_table(root)
        if record is None:
            raise ProofError(f"{root} is not protected")
        snapshot = f"{tx.xid64}:{tx.xid64}:"
        with around.db.read() as reader:
            root_secret = logs_of(reader, root, record.generation).secret
        secret = leaf_secret(root_secret, info.oid)
        conn = self.recorder_connection()
        if logs.find_log(conn, info.witnz_name) is not None:
            # A leaf of this name was recorded before: another table stands there now, and an operator has to say so.
            detail = f"another partition (OID {info.oid}) stands under the name of a recorded one"
            self._book.open(conn, cls="table.replaced", table=info.witnz_name, generation=1, detail=detail)
            return None
        head = tablelog.create_log(
            conn,
            table=info.witnz_name,
            generation=1,
            origin=log_origin(around.cluster, info.witnz_name, 1),
            oid=info.oid,
            secret=secret,
            status=PROVISIONAL,
            key_columns=info.key_columns,
            mode=LogNotes(attnums=tuple(c.attnum for c in info.replicated_columns), root=root).to_json(),
            snapshot=snapshot,
            lsn=tx.final_lsn,
        )
        log.info("leaf partition appeared", table=info.witnz_name, root=root)
        return TableState(
            head=head,
            oid=info.oid,
            rules=record.rules,
            key_columns=info.key_columns,
            hidden_keys=record.hidden_keys,
            columns=schema_columns(info),
            identity=info.identity,
            status=PROVISIONAL,
            snapshot=parse_snapshot(snapshot),
            lsn=tx.final_lsn,
        )

    def _adopt_leaf(self, state: TableState) -> None:
        """The ``table`` record of a leaf that appeared: empty in its snapshot, recorded since."""
        journal = self._around.journal
        if journal.state.newest_generation(state.name) is not None:
            self._set_active(state)  # another node, or this one before a crash, proposed the record
            return
        if self._around.leads():
            body = leaf_body(state)
            if self._around.errands.run(("table", state.name, state.head.secret), lambda: journal.propose("table", body)):
                self._set_active(state)

    def _set_active(self, state: TableState) -> None:
        with self._around.db.write() as conn:
            logs.set_status(conn, state.head.id, ACTIVE)
        state.status = ACTIVE

    recorder_connection: Callable[[], sqlite3.Connection]


def leaf_body(state: TableState) -> dict[str, object]:
    """The body of the ``table`` record that adopts a leaf partition, as every node derives it alike."""
    rules = state.rules
    return {
        "table": state.name,
        "generation": 1,
        "mode": rules.mode,
        "on_change": rules.on_change,
        "rules": {"inserts_only": rules.inserts_only, "require_intent": rules.require_intent, "retain": rules.retain},
        "keys": {"columns": list(state.key_columns), "form": "hidden" if state.hidden_keys else "plain"},
        "oid": state.oid,
        "snapshot": format_snapshot(state.snapshot) if state.snapshot is not None else "",
        "lsn": format_lsn(state.lsn),
        "secret_sha256": secret_commitment(state.head.secret),
        "previous": None,
        "reason": "a leaf partition appeared",
    }


def _as_stored(opening: Opening, row: LogRow) -> TableState:
    """The state of an opening that outlives a lost connection: what was not committed is forgotten, it comes again."""
    state = opening.state
    if state is None:
        raise ProofError(f"the opening of {opening.plan.name} has no state")
    state.take_block()
    state.logged_schema, state.pending_schema = row.columns, None
    return state


def _first_schema(conn: sqlite3.Connection, row: LogRow) -> Schema:
    """The description that a log begins with."""
    entry = parse_entry(entries.entry_at(conn, row.id, 1))
    if entry.op != "schema" or entry.hint is None:
        raise StoreCorrupt(f"the log of {row.table}, generation {row.generation}, does not begin with a schema entry")
    return parse_schema_hint(entry.hint)


def logs_of(conn: sqlite3.Connection, table: str, generation: int) -> LogRow:
    """The register's row of a log that the journal says is there."""
    row = logs.find_log(conn, table, generation)
    if row is None:
        raise StoreCorrupt(f"the journal names {table}, generation {generation}, and the store has no such log")
    return row
