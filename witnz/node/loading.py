"""Which logs the store holds, as states to record into: what a start, a lost connection or a crash begins with.

An opening that a crash interrupted is taken back, as if it had never begun, unless its ``table`` record stands; then only the
replay of its spool is still due.  A log whose protection ended meanwhile is ended.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import structlog

from witnz.core.entry import Schema, parse_entry, parse_schema_hint
from witnz.errors import ProofError, StoreCorrupt
from witnz.node.baseline import baseline_key
from witnz.node.log_notes import LogNotes
from witnz.node.opening import Opening
from witnz.node.plan import Surroundings
from witnz.node.recorder import has_overlay
from witnz.node.table_state import ACTIVE, ENDED, OPEN, PROVISIONAL, TableState
from witnz.postgres.xid import parse_snapshot
from witnz.store import entries, logs, meta, spool, tablelog
from witnz.store.logs import LogRow

log = structlog.get_logger(__name__)


class Loading:
    """Loads the states; ``opening``: what is being opened now.  ``returned``: logs that get back what was spooled for them."""

    def __init__(self, around: Surroundings, opening: Callable[[], list[Opening]]) -> None:
        self._around, self._opening = around, opening
        self.returned: set[int] = set()

    def load(self) -> list[TableState]:
        """The states to record into, from the store; what an interrupted opening left is taken back or completed."""
        states = []
        running = {o.state.head.id: o for o in self._opening() if o.state is not None}
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
        return states

    def _rows(self) -> list[LogRow]:
        with self._around.db.read() as conn:
            return [row for row in logs.list_logs(conn) if row.status in (OPEN, ACTIVE, PROVISIONAL)]

    def cancel_orphans(self) -> None:
        """An ``open`` record whose log was never made, or is not this node's to lead: a crash, or a change of leader."""
        there = {(o.plan.name, o.plan.generation) for o in self._opening() if o.invitation is None}
        if self._around.companions is None:
            there |= {(row.table, row.generation) for row in self._rows() if row.status == OPEN}
        for table, (generation, _) in list(self._around.journal.state.opened.items()):
            if (table, generation) not in there:
                self.cancel(table, generation, "the node stopped meanwhile")

    def cancel(self, table: str, generation: int, reason: str) -> None:
        """Journal that an opening ended, if the journal still waits for it; among several nodes the leader does."""
        journal = self._around.journal
        if self._around.leads() and journal.state.opened.get(table, (0, ""))[0] == generation:
            body = {"table": table, "generation": generation, "reason": reason[:1000]}
            self._around.errands.start(("cancel", table), lambda: journal.propose("cancel", body))

    def _set_ended(self, row: LogRow) -> None:
        """A crash came between the ``unprotect`` record and the end of the log."""
        with self._around.db.write() as conn:
            logs.set_status(conn, row.id, ENDED)

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
        self.cancel(row.table, row.generation, "the node stopped meanwhile")
        self.discard(row)

    def discard(self, row: LogRow) -> None:
        """Forget a log that was being opened, and let the generation before go on."""
        with self._around.db.write() as conn:
            spool.clear(conn, row.id)
            logs.drop_log(conn, row.id)
            if row.generation > 1:
                old = logs.require_log(conn, row.table, row.generation - 1).id
                logs.set_final_lsn(conn, old, None)
                self.returned.add(old)  # what was spooled for it comes back before anything new
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
