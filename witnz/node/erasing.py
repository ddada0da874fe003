"""Erasing rows by order of an operator: what is to be signed, and what an order in effect does on this node (formats.md 2).

    ordered    the ``erase`` record stands: the first delete of each row that it names is accepted when it comes
    removed    the row is gone from the table, and from the accepted state
    erased     the generation that recorded it has ended and its secret is forgotten (:mod:`witnz.node.forgetting`)

The row itself is removed by whoever owns the data, in SQL; witnz never writes to a protected table.  An order that reaches this
node after the delete does the same to the state as if it had come before, and takes the finding back that was opened meanwhile.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import structlog

from witnz.core.entry import parse_entry, parse_schema_hint
from witnz.core.keyplan import state_key_of_entry, state_key_of_text, text_of_state_key
from witnz.core.orders import Erasure
from witnz.core.record import Record
from witnz.core.rowline import escape
from witnz.errors import Inconclusive, UsageError
from witnz.node.findings import FindingBook
from witnz.node.following import FOLLOWED, NotYet
from witnz.node.journal import Journal
from witnz.node.keytext import recorded_key
from witnz.node.log_notes import LogNotes
from witnz.store import entries, erasures, findings, live, logs, meta
from witnz.store.database import Database
from witnz.store.logs import LogRow

log = structlog.get_logger(__name__)

MAX_KEYS: Final = 300  # what surely fits into one record
SEAL_WAIT_S: Final = 20.0
SEAL_POLL_S: Final = 0.1
CLASSES: Final = ("violation.delete", "change.unapproved")
_FORMS: Final = {
    16: ("boolean", re.compile("[tf]")),
    20: ("bigint", re.compile("-?(0|[1-9][0-9]*)")),
    21: ("smallint", re.compile("-?(0|[1-9][0-9]*)")),
    23: ("integer", re.compile("-?(0|[1-9][0-9]*)")),
    1082: ("date", re.compile(r"[0-9]{4,}-[0-9]{2}-[0-9]{2}( BC)?|-?infinity")),
    2950: ("uuid", re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")),
}
"""How PostgreSQL prints values of common key types, by type OID (pg_type.dat): their names, and what matches their text."""


class Erasing:
    """Erasures of one node.  ``seal``: so that an order says up to which entries it was made."""

    def __init__(self, db: Database, journal: Journal, book: FindingBook, seal: Callable[[], object]) -> None:
        self._db, self._journal, self._book, self._seal = db, journal, book, seal
        self.follow: Callable[[int], None] = lambda seq: None
        """Carries out the journal up to a record; set by whoever puts the node together."""

    # -- asking ---------------------------------------------------------------------------------------------------------------

    def body(self, table: str, keys: Sequence[str], reason: str) -> dict[str, Any]:
        """What an operator is asked to sign, without nonce and auth.

        Raises UsageError for a table that is not protected or has no key, for a key that names no row of it, and for a row that
        was ordered to be erased already; Inconclusive while a new generation of the table begins.
        """
        if not keys:
            raise UsageError("no row is named", hint="name each row with --key")
        if len(keys) > MAX_KEYS:
            raise UsageError(f"{len(keys)} rows are more than one order can name ({MAX_KEYS})", hint="order them in parts")
        with self._db.read() as conn:
            row = self._log(conn, table)
            hidden = self._journal.state.tables()[table].hidden_keys
            named = list(dict.fromkeys(recorded_key(row, text, hidden=hidden) for text in keys))
            self._check_keys(conn, row, named)
        shown = [text_of_state_key(key) for key in named]
        return {"table": row.table, "generation": row.generation, "keys": shown, "reason": reason}

    def order(self, body: Mapping[str, Any]) -> int:
        """Journal a signed order and carry it out here; the record's seq.  Raises what :meth:`body` raises, and ProofError."""
        keys = [str(key) for key in body.get("keys", ())]
        expected = self.body(str(body.get("table")), keys, str(body.get("reason")))
        if any(body.get(name) != value for name, value in expected.items()):
            raise UsageError("the order does not say what this node would carry out now", hint="ask for it, and sign it, anew")
        self._await_seal(expected["table"], expected["generation"], [state_key_of_text(key) for key in keys])
        seq = self._journal.propose("erase", dict(body))
        self.follow(seq)
        return seq

    def _await_seal(self, table: str, generation: int, keys: Sequence[bytes]) -> None:
        """Until the rows are sealed: an order covers what was there at the sealed size.  Raises Inconclusive."""
        deadline = time.monotonic() + SEAL_WAIT_S
        while True:
            self._seal()
            sealed = self._journal.state.last_sealed(table, generation)
            with self._db.read() as conn:
                there = live.applied_many(conn, self._log(conn, table).id, keys)
            if max(there.values(), default=0) <= (0 if sealed is None else sealed.size):
                return
            if time.monotonic() > deadline:
                raise Inconclusive("the row was written a moment ago and is not sealed yet", hint="try again after a seal")
            time.sleep(SEAL_POLL_S)

    def _log(self, conn: sqlite3.Connection, table: str) -> LogRow:
        state = self._journal.state
        record = state.current_table(table)
        row = None if record is None else logs.find_log(conn, table, record.generation)
        if row is None:
            raise UsageError(f"{table} is not protected", hint="`witnz status` lists the protected tables")
        if row.status != "active" or table in state.opened:
            raise Inconclusive(f"a new generation of {table} is just beginning", hint="try again when it has begun")
        if not row.keyed:
            raise UsageError(
                f"{table} has no key, so no row of it can be named",
                hint="`witnz prune` forgets everything that was recorded of it until now",
            )
        leaves = sorted({one.table for one in logs.list_logs(conn) if LogNotes.of(one).root == table})
        if leaves:
            raise UsageError(
                f"the rows of {table} are recorded with the partitions that hold them",
                hint=f"name the partition: {', '.join(leaves[:5])}",
            )
        return row

    def _check_keys(self, conn: sqlite3.Connection, row: LogRow, keys: Sequence[bytes]) -> None:
        ordered = {one.key: one for one in erasures.of_log(conn, row.id)}
        there = live.applied_many(conn, row.id, keys)
        for key in keys:
            name, before = text_of_state_key(key), ordered.get(key)
            if before is not None and before.entry is None:
                raise UsageError(
                    f"row {name} of {row.table} was ordered to be erased already, by record {before.record}",
                    hint="it is accepted when the row is deleted; delete it now",
                )
            if key in there:
                continue
            if before is not None:
                raise UsageError(f"row {name} of {row.table} was erased already, by order of record {before.record}")
            if next(iter(entries.entries_with_key(conn, row.id, _field(key))), None) is None:
                raise UsageError(f"nothing is recorded under key {name!r} of {row.table}", hint=_hint(row, name))

    # -- carrying out ---------------------------------------------------------------------------------------------------------

    def carry_out(self, record: Record) -> None:
        """Let an ``erase`` record take effect.  Raises NotYet while this node has not recorded what the order is about."""
        erasure = self._journal.state.orders.erasure(record.seq or 0)
        if erasure is None:
            return  # another operator has yet to sign it
        with self._db.write() as conn:
            row = logs.find_log(conn, erasure.table, erasure.generation)
            if row is None or row.status in ("open", "fetching") or row.size < erasure.base:
                raise NotYet(f"{erasure.table} is not recorded up to there yet")
            items = self._items(conn, row, erasure)
            erasures.add(conn, row.id, erasure.seq, erasure.base, items.items())
            if (meta.load_number(conn, FOLLOWED) or 0) < erasure.seq:
                meta.save_value(conn, FOLLOWED, erasure.seq)  # an audit beside this node must count the order, too
        log.info("rows were ordered to be erased", table=erasure.table, rows=len(items), record=erasure.seq)

    def _items(self, conn: sqlite3.Connection, row: LogRow, erasure: Erasure) -> dict[bytes, int | None]:
        """Each key, and the entry that the order covers already: NOTHING where the row was not there at its base."""
        keys = [state_key_of_text(text) for text in erasure.keys]
        if row.status == "pruned":
            return dict.fromkeys(keys, erasures.NOTHING)
        applied = live.applied_many(conn, row.id, keys)
        items: dict[bytes, int | None] = {key: None if key in applied else erasures.NOTHING for key in keys}
        for key, (first, gone) in _since(conn, row, erasure.base, keys).items():
            if first == "insert":
                items[key] = erasures.NOTHING
            elif gone is None:
                items[key] = None
            else:
                items[key] = gone
                self._accept(conn, row, key, gone, erasure.seq)
        return items

    def _accept(self, conn: sqlite3.Connection, row: LogRow, key: bytes, gone: int, record: int) -> None:
        """The delete was recorded before the order came to this node: the same as if it had come after."""
        before = live.accepted_many(conn, row.id, [key]).get(key)
        if before is None or before < gone:
            applied = live.applied_many(conn, row.id, [key]).get(key)
            live.set_accepted(conn, row.id, [(key, None)])
            live.clear_overlay(conn, row.id, [key])
            if applied is not None:
                live.set_overlay(conn, row.id, [(key, applied)])
        for finding in findings.list_findings(conn, table=row.table, classes=CLASSES):
            early = (finding.generation, finding.entry_seq) == (row.generation, gone)
            if early and self._journal.state.finding_state(finding.id) is None:
                self._book.take_back(conn, finding, f"the row was erased by order of record {record}")
                log.info("finding was taken back: the row was erased by order", finding=finding.id, record=record)


def _since(conn: sqlite3.Connection, row: LogRow, base: int, keys: Collection[bytes]) -> dict[bytes, tuple[str, int | None]]:
    """What happened to these keys behind ``base``: the first operation, and the first entry that took the row away."""
    found: dict[bytes, tuple[str, int | None]] = {}
    for line in entries.entries(conn, row.id, base + 1):
        entry = parse_entry(line)
        if entry.op == "truncate":
            found |= {key: (first, entry.seq) for key, (first, gone) in found.items() if gone is None}
            found |= {key: ("truncate", entry.seq) for key in keys if key not in found}
            continue
        if entry.op == "schema":
            continue
        key = state_key_of_entry(line, entry.seq, entry.row, keyed=row.keyed)
        if key in keys:
            first, gone = found.get(key, (entry.op, None))
            found[key] = first, gone if gone is not None or entry.op != "delete" else entry.seq
    return found


def _field(key: bytes) -> bytes:
    return key if key.startswith(b"\\H") else escape(key)


def _hint(row: LogRow, name: str) -> str:
    """How a key of this table is written, where the text does not look like one."""
    columns = {column.name: column for column in parse_schema_hint(row.columns).columns}
    for column, value in zip(row.key_columns, name.split("\\t"), strict=False):
        kind = _FORMS.get(columns[column].typoid) if column in columns else None
        if kind is not None and not name.startswith("\\H") and not kind[1].fullmatch(value):
            return f"column {column} is of type {kind[0]}, and PostgreSQL prints no {kind[0]} as {value!r}"
    return "give the key as PostgreSQL prints it; for several columns col=value,col=value"
