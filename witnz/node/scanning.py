"""Opening a scan of what is recorded: of what stands under the recorded OID now, if it is still what was recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from witnz.core.keyrange import KeyKind, KeyRange
from witnz.core.names import parse_table_name
from witnz.errors import Inconclusive, WitnzError
from witnz.node.journal import Journal
from witnz.node.restores import is_foreign
from witnz.node.rootscan import RootScan
from witnz.node.source import require_recorded_source
from witnz.node.table_state import TableState
from witnz.postgres import catalog
from witnz.postgres.catalog import TableInfo
from witnz.postgres.copysql import range_condition
from witnz.postgres.handshake import offer
from witnz.postgres.scan import SnapshotScan
from witnz.postgres.session import Conninfo, connect
from witnz.store.database import Database


class Scanning:
    """Scans of one node."""

    def __init__(self, conninfo: Conninfo, journal: Journal, db: Database) -> None:
        self._conninfo, self._journal, self._db = conninfo, journal, db

    @contextmanager
    def recorded(self, state: TableState, **reading: Any) -> Iterator[SnapshotScan | RootScan]:
        """A scan of what stands under the recorded OID, or, if that has gone, of what stands under its name now.

        ``reading``: further arguments of the scan (:class:`SnapshotScan`), an imported snapshot for one.

        Raises Inconclusive where that is not what was recorded, or cannot be read.
        """
        try:
            conn = connect(self._conninfo, scan=True, application_name="witnz verify")
        except WitnzError as error:
            raise Inconclusive(f"the database cannot be read: {error.message}") from None
        with conn:
            require_recorded_source(conn, self._journal, self._db)
            if is_foreign(self._journal.state, state.name, state.generation):
                why = "the database is another system now, or was restored to before this one began"
                raise Inconclusive(f"a new generation of {state.name} is being opened once that is accepted: {why}")
            info = catalog.table_by_oid(conn, state.oid)
            if info is None or info.witnz_name != state.name:
                info = catalog.find_table(conn, *parse_table_name(state.name))
            if info is None:
                raise Inconclusive(f"{state.name} does not exist any more")
            shape = [(c.name, c.typoid, c.typmod) for c in info.replicated_columns if c.name not in state.excluded]
            # In this order: the capture thread notes that the columns changed before it takes the new ones.
            if shape != [(c.name, c.typoid, c.typmod) for c in state.columns] or state.stale is not None:
                raise Inconclusive(f"the columns of {state.name} changed; a new generation is due")
            if info.oid == state.oid and tuple(info.key_columns) != state.key_columns:
                raise Inconclusive(f"the key of {state.name} changed; a new generation is due")
            with self.of(conn, info, state.excluded, **reading) as scan:
                yield scan

    def range_end(self, state: TableState, kind: KeyKind, low: str | None, rows: int) -> str | None:
        """The key at which a range of about so many rows above ``low`` ends now; None where there are no more.

        Raises Inconclusive where that cannot be asked.
        """
        # ORDER BY takes the name of an output column first, and as text 9 comes after 10
        query = sql.SQL(
            "SELECT t.{key}::text AS range_end FROM ONLY {table} t WHERE {above} ORDER BY t.{key} OFFSET {rows} LIMIT 1"
        ).format(
            key=sql.Identifier(state.key_columns[0]),
            table=sql.Identifier(*parse_table_name(state.name)),
            above=range_condition(state.key_columns[0], KeyRange(kind, low, None)),
            rows=sql.Literal(max(rows, 1) - 1),
        )
        try:
            with connect(self._conninfo, scan=True, application_name="witnz verify") as conn, conn.transaction():
                conn.execute("SET LOCAL lock_timeout = 2000")
                row = conn.execute(query).fetchone()
        except (WitnzError, psycopg.Error) as error:
            raise Inconclusive(f"{state.name} could not be read: {str(error).strip()}") from None
        return None if row is None else str(row[0])

    @contextmanager
    def shared(self, state: TableState, token: str) -> Iterator[SnapshotScan | RootScan]:
        """The same, once another session reads in its snapshot (:mod:`witnz.postgres.handshake`)."""
        with self.recorded(state) as scan:
            if isinstance(scan, SnapshotScan):  # a partitioned root has no rows of its own
                offer(scan, token)
            yield scan

    def of(
        self, conn: psycopg.Connection[Any], info: TableInfo, excluded: frozenset[str], **patience: Any
    ) -> SnapshotScan | RootScan:
        """A scan of a relation, without the columns that are left out by name."""
        if info.relkind == "p":
            return RootScan(conn)
        columns = [c.name for c in info.replicated_columns if c.name not in excluded]
        return SnapshotScan(conn, info, columns=columns, **patience)

    def at_once(self, conn: psycopg.Connection[Any], info: TableInfo, excluded: frozenset[str]) -> SnapshotScan | RootScan:
        """On the capture thread nobody waits for a lock: the other tables go on being recorded, and it is tried again."""
        return self.of(conn, info, excluded, lock_timeout_s=0.1, attempts=1)
