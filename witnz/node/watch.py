"""The catalog watch: the definitions that recording relies on, compared with what they were a moment ago.

Logical replication says nothing of DDL, so every few seconds, after every start and before every scan the watch looks at what
would change what is read or recorded: the tables' identity, columns, replica identity and row security, and the publication
with its rows in ``pg_publication`` and ``pg_publication_rel``, which are new ones after something was changed and put back.
Each look is one short read; nothing is locked.

A table that was not, or not wholly, published for a while has a gap: nobody knows what happened to it meanwhile.  That is a
finding and a ``gap`` record about this table, and about all of them where the publication as a whole was altered.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
import structlog

from witnz.core.lsn import format_lsn, parse_lsn
from witnz.core.names import parse_table_name
from witnz.node.definition_watch import DefinitionWatch
from witnz.node.findings import CLOSED, FindingBook
from witnz.node.gaps import journal_gap
from witnz.node.generations import Generations
from witnz.node.journal import Journal
from witnz.node.reopening import Reopening
from witnz.node.restores import is_foreign
from witnz.node.source import require_recorded_source
from witnz.node.table_state import ACTIVE, TableState
from witnz.postgres import catalog
from witnz.postgres.catalog import TableInfo
from witnz.postgres.publication import (
    Departure,
    PublicationState,
    departures,
    expected_publications,
    publication_names,
    publication_state,
)
from witnz.postgres.wal import insert_lsn
from witnz.store import findings, meta
from witnz.store.database import Database

log = structlog.get_logger(__name__)

WATCHED_EPOCH = "watched_epoch"  # the newest epoch record that the looks have taken note of
SAVE_S = 60.0  # how stale the stored position of the last look may be

States = Callable[[], list[TableState]]
Reasons = dict[str | None, list[str]]  # by table, None for all that are published


class CatalogWatch:
    """Looks; opens findings; journals gaps; asks for new generations.  May be called from several threads."""

    def __init__(
        self,
        db: Database,
        journal: Journal,
        book: FindingBook,
        generations: Generations,
        publication: str,
        states: States,
        reopening: Reopening,
    ) -> None:
        self._db, self._journal, self._book = db, journal, book
        self._generations, self._publication, self._states = generations, publication, states
        self._reopening = reopening
        self._lock = threading.Lock()
        self._known_to_be_source: Callable[[], psycopg.Connection[Any] | None] = lambda: None
        self._gone: dict[str, str] = {}
        self._seen: dict[str, _Seen] = {}
        self._known: dict[str, set[str]] = {}  # by publication: its findings that stood at the last look, whoever found them
        self._definitions = DefinitionWatch(db, journal, book)
        self.looks = 0

    def look(self, conn: psycopg.Connection[Any]) -> list[str]:
        """One look; the ids of the findings that it opened.

        Raises Inconclusive where the connection leads to another server than the recorded one.
        """
        with self._lock:
            if self._known_to_be_source() is not conn:  # a connection leads to one server, and a primary keeps its timeline
                require_recorded_source(conn, self._journal, self._db)
                self._known_to_be_source = weakref.ref(conn)
            journal = self._journal.state
            states = [state for state in self._states() if not is_foreign(journal, state.name, state.generation)]
            self._forget_other_system()
            self._reopening.look(conn, [state.oid for state in states if state.status == ACTIVE])
            infos = catalog.load_tables(conn, sorted({state.oid for state in states}))
            opened: list[str | None] = []
            opened += self._definitions.look(conn, [s for s in states if s.status == ACTIVE], insert_lsn(conn))
            for state in states:
                if state.status == ACTIVE:
                    opened += self._table(conn, state, infos.get(state.oid))
                    info = infos.get(state.oid)
                    if info is not None and info.relkind == "p" and info.witnz_name == state.name:
                        opened.append(self._generations.attached(conn, state, {each.oid for each in states}))
            opened += self._publications(conn, [state for state in states if state.oid in infos])
            self.looks += 1
        return [finding for finding in opened if finding is not None]

    def _forget_other_system(self) -> None:
        """What was seen of the publications of another system says nothing about those of this one."""
        epoch = self._journal.state.epoch
        if epoch is None or epoch.switch_lsn:
            return
        with self._db.read() as conn:
            if meta.load_number(conn, WATCHED_EPOCH) == epoch.seq:
                return
        self._seen.clear()
        with self._db.write() as conn:
            for name in publication_names(self._publication):
                meta.save_value(conn, f"publication/{name}", None)
            meta.save_value(conn, WATCHED_EPOCH, epoch.seq)

    # -- tables ---------------------------------------------------------------------------------------------------------------

    def _table(self, conn: psycopg.Connection[Any], state: TableState, info: TableInfo | None) -> list[str | None]:
        if info is None or info.witnz_name != state.name:
            return [self._identity_lost(conn, state, info)]
        self._gone.pop(state.name, None)
        opened: list[str | None] = []
        if info.relkind not in ("r", "p"):
            opened.append(self._find(state, "table.replaced", f"the table is now of kind {info.relkind}"))
        if info.persistence != "p":
            opened.append(self._find(state, "table.replaced", "the table is now unlogged: what happens to it leaves no trace"))
        if info.filters_role:
            opened.append(
                self._find(state, "visibility.changed", "row security now hides rows from witnz; grant BYPASSRLS to its role")
            )
        before = self._identity_before(state, info)
        if info.identity != before:
            detail = f"replica identity was changed from {before!r} to {info.identity!r}"
            opened.append(self._find(state, "identity.changed", detail))
        if self._shape(info, state) != [(c.name, c.typoid, c.typmod) for c in state.columns] or state.stale:
            self._generations.renew(state, info, state.stale or "columns changed")
        elif tuple(info.key_columns) != state.key_columns:
            self._generations.renew(state, info, "key columns changed")
        return opened

    def _identity_before(self, state: TableState, info: TableInfo) -> str:
        """The replica identity at the last look, which the store remembers over a restart."""
        key = f"identity/{state.name}/{state.oid}"
        with self._db.read() as conn:
            before = meta.load_value(conn, key)
        if before != info.identity:
            with self._db.write() as conn:
                meta.save_value(conn, key, info.identity)
        return before if before is not None else state.first_identity

    def _shape(self, info: TableInfo, state: TableState) -> list[tuple[str, int, int]]:
        return [(c.name, c.typoid, c.typmod) for c in info.replicated_columns if c.name not in state.excluded]

    def _identity_lost(self, conn: psycopg.Connection[Any], state: TableState, info: TableInfo | None) -> str | None:
        """The OID has gone or has another name now: dropped, replaced, or just renamed.  What was said once is not repeated."""
        other = catalog.find_table(conn, *parse_table_name(state.name))
        if other is not None:
            cls = "table.replaced"
            detail = f"another table (OID {other.oid}) stands under the name of the recorded one (OID {state.oid})"
        elif info is None:
            cls, detail = "table.dropped", f"the table with OID {state.oid} does not exist any more"
        else:
            cls, detail = "schema.changed", f"the table was renamed to {info.witnz_name}"
        if self._gone.get(state.name) == detail:
            return None
        self._gone[state.name] = detail
        return self._find(state, cls, detail)

    def _find(self, state: TableState, cls: str, detail: str) -> str | None:
        with self._db.write() as conn:
            opened = self._book.open(conn, cls=cls, table=state.name, generation=state.generation, detail=detail)
        if opened:
            log.warning("definition was changed", table=state.name, finding=cls, detail=detail)
        return opened

    # -- publication ----------------------------------------------------------------------------------------------------------

    def _publications(self, conn: psycopg.Connection[Any], states: list[TableState]) -> list[str | None]:
        published = {s.oid: parse_table_name(s.name) for s in states if not s.rules.inserts_only}
        inserts = {s.oid: parse_table_name(s.name) for s in states if s.rules.inserts_only}
        opened: list[str | None] = []
        for expected in expected_publications(self._publication, published, inserts):
            lsn = insert_lsn(conn)
            state = publication_state(conn, expected.name)
            before, now = self._before(expected.name), _Seen.of(state, lsn)
            departed: Reasons = {}
            altered: Reasons = {}
            for departure in departures(expected, state):
                # a surplus table is on its way to being protected, or no longer: its events are recorded nowhere
                if departure.kind != "surplus" and not _is_explained(conn, departure, state):
                    self._add(departed, conn, states, departure.oid, departure.text)
            for oid, text in before.altered(now):
                if oid is None or oid in expected.tables:
                    self._add(altered, conn, states, oid, text)
            names = sorted({s.name for s in states if s.oid in expected.tables})
            until = insert_lsn(conn) if departed or altered or before.departed else lsn
            opened += self._compare(expected.name, names, departed, altered, before, now, until)
        return opened

    def _add(
        self, reasons: Reasons, conn: psycopg.Connection[Any], states: Iterable[TableState], oid: int | None, text: str
    ) -> None:
        """Note a reason for a table and, where it is partitioned, for its leaves."""
        oids = {oid} if oid is None else {oid, *(leaf.oid for leaf in catalog.leaf_partitions(conn, oid))}
        names = [None] if oid is None else sorted({state.name for state in states if state.oid in oids})
        for name in names:
            reasons.setdefault(name, []).append(text)

    def _compare(
        self,
        publication: str,
        names: list[str],
        departed: Reasons,
        altered: Reasons,
        before: _Seen,
        now: _Seen,
        until: int,
    ) -> list[str | None]:
        """Journal each stretch in which a table was not wholly published, and open a finding where one begins.

        A departure is a gap from the look before it was seen to the look at which it is over, whatever was altered meanwhile.
        One that begins while an earlier finding is still to be decided is a finding of its own, named by where it was seen; but
        not where another member has found it since this node's last look: that is the same one, seen a moment before.
        """
        with self._db.read() as conn:
            listed = findings.list_findings(conn, classes=["publication.changed"])
        undecided = {finding.table for finding in listed if finding.state not in CLOSED}
        known = self._known.setdefault(publication, {finding.id for finding in listed})
        told = {finding.table for finding in listed if finding.state not in CLOSED and finding.id not in known}
        begun: list[tuple[str | None, str | None, str]] = []
        for table in {**departed, **altered, **before.departed}:
            texts = [*departed.get(table, []), *altered.get(table, [])]
            since = before.departed.get(table)
            if since is None and table not in told:
                begun.append((table, format_lsn(until) if table in undecided else None, "; ".join(texts)))
            elif since is None:
                log.info("publication was changed, as another member has found", publication=publication, table=table)
            elif table in departed and table in undecided:
                now.departed[table] = since
                continue
            else:
                texts = texts or ["it is as it was before"]
                if table not in undecided:  # what was accepted went on after that
                    begun.append((table, None, "; ".join(texts)))
            if table in departed:
                now.departed[table] = until
            reason = f"publication {publication}: {'; '.join(texts)}"
            journal_gap(self._journal, names if table is None else [table], since or before.lsn, until, reason)
        now.saved_at = before.saved_at
        opened: list[str | None] = []
        if begun or now.rows != before.rows or now.departed != before.departed or time.monotonic() - before.saved_at > SAVE_S:
            now.saved_at = time.monotonic()
            with self._db.write() as conn:
                meta.save_value(conn, f"publication/{publication}", now.to_json())
                opened = [self._publication_finding(conn, publication, *beginning) for beginning in begun]
        self._seen[publication] = now
        known.update(finding.id for finding in listed)
        known.update(name for name in opened if name is not None)
        return opened

    def _publication_finding(
        self, conn: sqlite3.Connection, publication: str, table: str | None, key: str | None, text: str
    ) -> str | None:
        detail = f"publication {publication}: {text}"
        log.warning("publication was changed", publication=publication, table=table, detail=detail)
        return self._book.open(conn, cls="publication.changed", table=table, key=key, lsn=key, detail=detail)

    def _before(self, publication: str) -> _Seen:
        seen = self._seen.get(publication)
        if seen is None:
            with self._db.read() as conn:
                seen = _Seen.from_json(meta.load_value(conn, f"publication/{publication}"))
        return seen


@dataclass(slots=True)
class _Seen:
    """What one look saw of a publication: its catalog rows (under "" its own, by OID those of its tables), and when.

    ``lsn``: where WAL was written to; ``saved_at``: monotonic seconds of when this or an equal one was stored; ``departed``:
    the tables (None: all) that were not as they must be, and up to where that is journalled already.
    """

    rows: Mapping[str, str]
    lsn: int
    departed: dict[str | None, int] = field(default_factory=dict)
    saved_at: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, state: PublicationState | None, lsn: int) -> _Seen:
        if state is None:
            return cls({}, lsn)
        tables = {str(oid): f"{table.row_oid}/{table.schema}.{table.name}" for oid, table in state.tables.items()}
        return cls({"": f"{state.oid}/{state.row_xmin}"} | tables, lsn)

    @classmethod
    def from_json(cls, text: str | None) -> _Seen:
        if text is None:
            return cls({}, 0)
        document = json.loads(text)
        departed = {table or None: parse_lsn(lsn) for table, lsn in document.get("departed", {}).items()}
        return cls(document["rows"], parse_lsn(document["lsn"]), departed)

    def to_json(self) -> str:
        departed = {table or "": format_lsn(lsn) for table, lsn in self.departed.items()}
        return json.dumps({"departed": departed, "lsn": format_lsn(self.lsn), "rows": dict(self.rows)}, sort_keys=True)

    def altered(self, now: _Seen) -> list[tuple[int | None, str]]:
        """(OID of the table, or None, what was done) where a catalog row is not the same one any more."""
        if not self.rows or not now.rows:
            return []
        if self.rows[""].split("/")[0] != now.rows[""].split("/")[0]:
            return [(None, "it was dropped and made anew")]
        found: list[tuple[int | None, str]] = []
        if self.rows[""] != now.rows[""]:
            found.append((None, "its options were altered"))
        for oid, row in now.rows.items():
            number, name = row.split("/", 1)
            if oid and oid in self.rows and self.rows[oid].split("/", 1)[0] != number:
                found.append((int(oid), f"{name} was taken out and put back"))
        return found


def _is_explained(conn: psycopg.Connection[Any], departure: Departure, state: PublicationState | None) -> bool:
    """A leaf is published through its root, and a table that was dropped during this look is for the next one to find."""
    if departure.kind != "missing" or departure.oid is None or state is None:
        return False
    info = catalog.table_by_oid(conn, departure.oid)
    return info is None or info.partition_root in state.tables
