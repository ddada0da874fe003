"""The catalog watch: the definitions that recording relies on, compared with what they were a moment ago.

Logical replication says nothing of DDL, so every few seconds (and on every connection) the watch looks at what would change
what is read or recorded: the tables' identity, columns, replica identity and row security, and the publication with its row
in ``pg_publication_rel``, which is new after a table was taken out and put back.  Each look is one short read; nothing is
locked.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from typing import Any

import psycopg
import structlog

from witnz.core.names import parse_table_name
from witnz.node.findings import FindingBook
from witnz.node.generations import Generations
from witnz.node.table_state import ACTIVE, TableState
from witnz.postgres import catalog
from witnz.postgres.catalog import TableInfo
from witnz.postgres.publication import Departure, PublicationState, departures, expected_publications, publication_state
from witnz.store import meta
from witnz.store.database import Database

log = structlog.get_logger(__name__)

States = Callable[[], list[TableState]]


class CatalogWatch:
    """Looks; opens findings; asks for new generations."""

    def __init__(self, db: Database, book: FindingBook, generations: Generations, publication: str, states: States) -> None:
        self._db, self._book, self._generations, self._publication, self._states = db, book, generations, publication, states
        self._gone: set[str] = set()
        self._identities: dict[str, str] = {}

    def look(self, conn: psycopg.Connection[Any]) -> list[str]:
        """One look; the ids of the findings that it opened."""
        opened: list[str | None] = []
        states = [state for state in self._states() if state.status == ACTIVE]
        for state in states:
            opened += self._table(conn, state)
        opened += self._publications(conn, self._states())
        return [finding for finding in opened if finding is not None]

    # -- tables ---------------------------------------------------------------------------------------------------------------

    def _table(self, conn: psycopg.Connection[Any], state: TableState) -> list[str | None]:
        info = catalog.table_by_oid(conn, state.oid)
        if info is None or info.witnz_name != state.name:
            return [self._identity_lost(conn, state, info)]
        self._gone.discard(state.name)
        opened: list[str | None] = []
        if info.relkind not in ("r", "p") or info.persistence != "p":
            opened.append(self._find(state, "table.replaced", f"the table is now of kind {info.relkind}{info.persistence}"))
        if info.filters_role:
            opened.append(
                self._find(state, "visibility.changed", "row security now hides rows from witnz; grant BYPASSRLS to its role")
            )
        before = self._identities.setdefault(state.name, state.identity)
        if info.identity != before:
            self._identities[state.name] = info.identity
            detail = f"replica identity was changed from {before!r} to {info.identity!r}"
            opened.append(self._find(state, "identity.changed", detail))
        if self._shape(info, state) != [(c.name, c.typoid, c.typmod) for c in state.columns] or state.stale:
            self._generations.renew(state, info, state.stale or "columns changed")
        elif tuple(info.key_columns) != state.key_columns:
            self._generations.renew(state, info, "key columns changed")
        return opened

    def _shape(self, info: TableInfo, state: TableState) -> list[tuple[str, int, int]]:
        return [(c.name, c.typoid, c.typmod) for c in info.replicated_columns if c.name not in state.excluded]

    def _identity_lost(self, conn: psycopg.Connection[Any], state: TableState, info: TableInfo | None) -> str | None:
        """The OID has gone or has another name now: dropped, replaced, or just renamed."""
        if state.name in self._gone:
            return None
        self._gone.add(state.name)
        other = self.by_name(conn, state.name)
        if other is not None:
            return self._find(
                state,
                "table.replaced",
                f"another table (OID {other.oid}) stands under the name of the recorded one (OID {state.oid})",
            )
        if info is None:
            return self._find(state, "table.dropped", f"the table with OID {state.oid} does not exist any more")
        return self._find(state, "schema.changed", f"the table was renamed to {info.witnz_name}")

    def by_name(self, conn: psycopg.Connection[Any], name: str) -> TableInfo | None:
        return catalog.find_table(conn, *parse_table_name(name))

    # -- publication ----------------------------------------------------------------------------------------------------------

    def _publications(self, conn: psycopg.Connection[Any], states: list[TableState]) -> list[str | None]:
        published = {s.oid: parse_table_name(s.name) for s in states if not s.rules.inserts_only}
        inserts = {s.oid: parse_table_name(s.name) for s in states if s.rules.inserts_only}
        opened = []
        for expected in expected_publications(self._publication, published, inserts):
            state = publication_state(conn, expected.name)
            wrong = [
                departure.text
                for departure in departures(expected, state)
                # a surplus table is on its way to being protected, or no longer: its events are recorded nowhere
                if departure.kind != "surplus" and not self._is_leaf(conn, departure, state)
            ]
            moved = self._moved(expected.name, state)
            if wrong or moved:
                opened.append(self._publication_finding(expected.name, "; ".join([*wrong, *moved])))
        return opened

    def _is_leaf(self, conn: psycopg.Connection[Any], departure: Departure, state: PublicationState | None) -> bool:
        """A leaf is published through its root, so that it is not listed itself is no departure."""
        if departure.kind != "missing" or departure.oid is None or state is None:
            return False
        info = catalog.table_by_oid(conn, departure.oid)
        return info is not None and info.partition_root in state.tables

    def _moved(self, name: str, state: PublicationState | None) -> list[str]:
        """What was taken out and put back since the last look, by the catalog rows that are not the same ones any more."""
        with self._db.read() as conn:
            before = _load(conn, name)
        if state is None:
            return []
        now = {"": f"{state.oid}/{state.row_xmin}"} | {str(oid): str(table.row_oid) for oid, table in state.tables.items()}
        if now != before:
            with self._db.write() as conn:
                meta.save_value(conn, f"publication/{name}", json.dumps(now))
        moved = [
            f"{state.tables[int(oid)].schema}.{state.tables[int(oid)].name} was taken out and put back"
            for oid, row in now.items()
            if oid and oid in before and before[oid] != row
        ]
        if before and before.get("", "").split("/")[0] != str(state.oid):
            moved.append("it was dropped and made anew")
        return moved

    def _publication_finding(self, name: str, detail: str) -> str | None:
        with self._db.write() as conn:
            opened = self._book.open(conn, cls="publication.changed", detail=f"publication {name}: {detail}")
        if opened:
            log.warning("publication was changed", publication=name, detail=detail)
        return opened

    def _find(self, state: TableState, cls: str, detail: str) -> str | None:
        with self._db.write() as conn:
            opened = self._book.open(conn, cls=cls, table=state.name, generation=state.generation, detail=detail)
        if opened:
            log.warning("definition was changed", table=state.name, finding=cls, detail=detail)
        return opened


def _load(conn: sqlite3.Connection, name: str) -> dict[str, str]:
    text = meta.load_value(conn, f"publication/{name}")
    return dict(json.loads(text)) if text else {}
