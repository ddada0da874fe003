"""The second half of the catalog watch: facts that no event tells of, compared with what they were at the last look.

Rules and triggers that redirect writes, labels of enums, attributes of composite types, output functions, partitions that
were away for a while, and the settings of witnz' own role.  What was seen is kept in the store, so that a change made while
the node was down is found at its start; a finding and what was seen are stored in one transaction.

    redirected writes, replaced output functions   ``visibility.changed``
    text of recorded rows changed                  ``schema.changed``; accepting it begins a new generation
    partition away for a while                     ``publication.changed`` and a gap of that partition
    role                                           ``role.changed``
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import Any

import psycopg
import structlog

from witnz.core.lsn import format_lsn, parse_lsn
from witnz.node.findings import FindingBook
from witnz.node.gaps import journal_gap
from witnz.node.journal import Journal
from witnz.node.table_state import TableState
from witnz.postgres.definition import Alteration, Definition, alterations, definitions
from witnz.postgres.role import role_changes, role_facts
from witnz.store import meta
from witnz.store.database import Database

log = structlog.get_logger(__name__)

CLASSES = {
    "writes": "visibility.changed",
    "reading": "visibility.changed",
    "text": "schema.changed",
    "published": "publication.changed",
}
ROLE = "role"


class DefinitionWatch:
    """Compares; opens findings; journals gaps.  Not thread-safe: :class:`witnz.node.watch.CatalogWatch` holds its lock."""

    def __init__(self, db: Database, journal: Journal, book: FindingBook) -> None:
        self._db, self._journal, self._book = db, journal, book
        self._seen: dict[str, str] = {}  # as stored, so that what is as before costs no write
        self._lsn = 0

    def look(self, conn: psycopg.Connection[Any], states: Iterable[TableState], lsn: int) -> list[str | None]:
        """The ids of the findings opened.  ``lsn``: where WAL was written to before the look began."""
        by_oid = {state.oid: state for state in states}
        opened: list[str | None] = []
        for oid, definition in definitions(conn, sorted(by_oid)).items():
            opened += self._table(by_oid[oid], definition, lsn)
        opened += self._role(conn)
        self._lsn = lsn
        return opened

    def _table(self, state: TableState, now: Definition, lsn: int) -> list[str | None]:
        name = f"definition/{state.name}/{state.oid}"
        text = json.dumps({"facts": dict(now.facts), "lsn": format_lsn(lsn)}, sort_keys=True)
        before = self._stored(name)
        if before is None:
            self._save(name, text)
            return []
        stored = json.loads(before)
        if stored["facts"] == now.facts or not now.facts:
            return []
        found = alterations(stored["facts"], now)
        if any(alteration.meaning == "published" for alteration in found):
            reasons = "; ".join(a.text for a in found if a.meaning == "published")
            since = max(self._lsn, parse_lsn(stored["lsn"]))
            journal_gap(self._journal, [state.name], min(since, lsn), lsn, f"{state.name}: {reasons}")
        with self._db.write() as conn:
            meta.save_value(conn, name, text)
            opened = [self._find(conn, state, meaning, found) for meaning in sorted({a.meaning for a in found})]
        self._seen[name] = text
        return opened

    def _find(self, conn: sqlite3.Connection, state: TableState, meaning: str, found: list[Alteration]) -> str | None:
        detail = "; ".join(alteration.text for alteration in found if alteration.meaning == meaning)[:4000]
        log.warning("definition was changed", table=state.name, finding=CLASSES[meaning], detail=detail)
        return self._book.open(conn, cls=CLASSES[meaning], table=state.name, generation=state.generation, detail=detail)

    def _role(self, conn: psycopg.Connection[Any]) -> list[str | None]:
        now = role_facts(conn)
        text = json.dumps(now, sort_keys=True)
        before = self._stored(ROLE)
        if before is None:
            self._save(ROLE, text)
        if before is None or before == text:
            return []
        detail = "; ".join(role_changes(json.loads(before), now))[:4000]
        with self._db.write() as store:
            meta.save_value(store, ROLE, text)
            opened = self._book.open(store, cls="role.changed", detail=f"the role witnz connects as: {detail}")
        self._seen[ROLE] = text
        log.warning("role was changed", detail=detail)
        return [opened]

    def _stored(self, name: str) -> str | None:
        if name not in self._seen:
            with self._db.read() as conn:
                value = meta.load_value(conn, name)
            if value is None:
                return None
            self._seen[name] = value
        return self._seen[name]

    def _save(self, name: str, text: str) -> None:
        with self._db.write() as conn:
            meta.save_value(conn, name, text)
        self._seen[name] = text
