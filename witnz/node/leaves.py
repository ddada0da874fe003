"""Leaf partitions of protected tables: one that appears is recorded at once and adopted at the next pause (formats.md 3).

    made as a partition   it was empty: its log begins with its first event
    attached              it may bring rows that no event tells of: the next look at the catalog opens it like any table that is
                          to be protected, its rows are the baseline, and what happens to it meanwhile is part of that

The log of one that was made begins with generation 1 under a secret that follows from its root's, so that every node begins the
same log without asking; the ``table`` record that adopts it says what each of them has derived alone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import psycopg
import structlog

from witnz.core.lsn import format_lsn
from witnz.core.names import log_origin
from witnz.core.rowline import leaf_secret, secret_commitment
from witnz.errors import ProofError
from witnz.node.block import Transaction
from witnz.node.findings import FindingBook
from witnz.node.log_notes import LogNotes
from witnz.node.plan import Plan, Surroundings
from witnz.node.table_state import ACTIVE, PROVISIONAL, TableState
from witnz.postgres import catalog
from witnz.postgres.catalog import TableInfo, schema_columns
from witnz.postgres.partitions import was_attached
from witnz.postgres.pgoutput import Relation
from witnz.postgres.xid import format_snapshot, parse_snapshot
from witnz.store import logs, tablelog

log = structlog.get_logger(__name__)

ATTACHED = "a partition was attached with the rows that it had"


class Leaves:
    """Begins and adopts the logs of leaves.  ``connection``: the recorder's write transaction."""

    def __init__(self, around: Surroundings, book: FindingBook, connection: Callable[[], sqlite3.Connection]) -> None:
        self._around, self._book, self._connection = around, book, connection

    def roots(self) -> dict[str, str]:
        """Leaf tables that appeared or were found below a protected root, and that root."""
        with self._around.db.read() as conn:
            found = {row.table: LogNotes.of(row).root for row in logs.list_logs(conn)}
        return {table: root for table, root in found.items() if root is not None}

    def to_be_fetched(self, conn: psycopg.Connection) -> dict[str, str]:
        """Leaf tables that other members recorded while this one was away, as the catalog has them, and their roots."""
        with self._around.db.read() as reader:
            here = {row.table for row in logs.list_logs(reader)}
        found = {}
        for table, record in self._around.journal.state.tables().items():
            info = catalog.table_by_oid(conn, record.oid) if table not in here else None
            root = catalog.table_by_oid(conn, info.partition_root) if info is not None and info.partition_root else None
            if root is not None and self._around.journal.state.current_table(root.witnz_name) is not None:
                found[table] = root.witnz_name
        return found

    def unknown(self, connect: Callable[[], psycopg.Connection]) -> Callable[[Relation, Transaction], TableState | None]:
        """What the recorder asks about a relation that no log is about: a leaf of a protected root begins one."""

        def look(relation: Relation, tx: Transaction) -> TableState | None:
            with connect() as conn:
                info = catalog.table_by_oid(conn, relation.oid)
                root = catalog.table_by_oid(conn, info.partition_root) if info is not None and info.partition_root else None
                if info is None or root is None or self._around.journal.state.current_table(root.witnz_name) is None:
                    return None
                if was_attached(conn, info.oid, info.schema, info.name):
                    return (
                        None  # it may have rows that no event tells of: the next look at the catalog opens it with a baseline
                    )
            return self._begin(info, root.witnz_name, tx)

        return look

    def plan_of_attached(self, conn: psycopg.Connection, root: TableState, oid: int) -> Plan | None:
        """How to open an attached leaf that no log is about, with the rows that it has; None for any other leaf."""
        info = catalog.table_by_oid(conn, oid)
        if info is None or info.relkind != "r" or not was_attached(conn, oid, info.schema, info.name):
            return None
        name = info.witnz_name
        with self._around.db.read() as reader:
            if logs.find_log(reader, name) is not None or self._around.journal.state.newest_generation(name) is not None:
                return None  # a partition that comes back, or that stands under the name of another
        return Plan(name, info, root.rules, root.hidden_keys, 1, ATTACHED, root.excluded, root=root.name)

    def _begin(self, info: TableInfo, root: str, tx: Transaction) -> TableState | None:
        around = self._around
        record = around.journal.state.current_table(root)
        if record is None:
            raise ProofError(f"{root} is not protected")
        snapshot = f"{tx.xid64}:{tx.xid64}:"
        with around.db.read() as reader:
            root_secret = logs.require_log(reader, root, record.generation).secret
        secret = leaf_secret(root_secret, info.oid)
        conn = self._connection()
        known, journal = logs.find_log(conn, info.witnz_name), around.journal.state
        if known is not None and known.oid == info.oid and journal.current_table(info.witnz_name) is None:
            return None  # an operator has ended its protection, to detach or drop it
        if known is not None:
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

    def adopt(self, state: TableState) -> None:
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
