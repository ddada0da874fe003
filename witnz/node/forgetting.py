"""What orders to erase and to prune lead to once a generation has ended: secrets, images and entries go, on every node.

Everything here follows from the journal and this node's store, and is looked for again and again: a crash between two steps
leaves the rest to the next look, and a node that was away does it when it has caught up.

    a row was removed by order       the leader begins the next generation of its table, with every other row compared
    the generation has ended         its secret and its images are forgotten, and those of all generations before it
    a generation is to be pruned     the leader begins the next one if it is the current one; then its entries go
    a partition whose secret was     its root begins a new generation as well, and both secrets go at once
    derived from its root's
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import psycopg
import structlog

from witnz.core.rowline import leaf_secret
from witnz.errors import WitnzError
from witnz.node.journal import Journal
from witnz.node.log_notes import LogNotes
from witnz.store import erasures, forgetting, logs
from witnz.store.database import Database
from witnz.store.logs import LogRow

log = structlog.get_logger(__name__)

AGAIN_S: Final = 2.0  # between two attempts to begin the generation that a table is owed
LOOK_S: Final = 0.5
GRACE_S: Final = 600.0  # how long a generation with rows removed by order waits for the other rows that were ordered with them

PRUNED, ENDED, ACTIVE = "pruned", "ended", "active"


@dataclass(slots=True)
class _Owed:
    """What one look found: generations to begin (table -> why), and logs to forget something of."""

    begin: dict[str, str] = field(default_factory=dict)
    secrets: dict[int, LogRow] = field(default_factory=dict)
    prune: list[LogRow] = field(default_factory=list)
    bundles: list[LogRow] = field(default_factory=list)


class Forgetting:
    """Looks for what is due.

    ``begin(table, reason)`` opens the generation that follows; ``in_doubt``: whether a row is still to be decided about;
    ``followed``: the seq of the newest record that was carried out here.
    """

    def __init__(
        self,
        db: Database,
        journal: Journal,
        in_doubt: Callable[[str], bool],
        begin: Callable[[str, str], None],
        leads: Callable[[], bool],
        followed: Callable[[], int],
    ) -> None:
        self._followed = followed
        self._db, self._journal, self._in_doubt, self._begin, self._leads = db, journal, in_doubt, begin, leads
        self._lock = threading.Lock()
        self._tried: dict[str, float] = {}
        self._since: dict[int, float] = {}
        self._looked = 0.0

    def step(self) -> None:
        """Look, unless that was just done."""
        now = time.monotonic()
        if now - self._looked >= LOOK_S and self._lock.acquire(blocking=False):
            try:
                self._looked = now
                self.look()
            finally:
                self._lock.release()

    def look(self) -> None:
        """Do what is due.  Raises what beginning a generation raises, the rest done."""
        orders = self._journal.state.orders
        if not orders.all_erasures() and not orders.prunings():
            return
        with self._db.read() as conn:
            owed = self._find(conn)
        for row in owed.secrets.values():
            log.info("secret is forgotten by order", table=row.table, generation=row.generation)
        if owed.secrets:
            with self._db.write() as conn:
                for row in owed.secrets.values():
                    forgetting.forget_secret(conn, row)
        for row in owed.prune:
            with self._db.write() as conn:
                forgetting.begin_pruning(conn, row)
            log.info("generation is pruned by order", table=row.table, generation=row.generation, entries=row.size)
        for row in (*owed.prune, *owed.bundles):
            more = True
            while more:
                with self._db.write() as conn:
                    more = forgetting.prune_more(conn, row.id)
        forgetting.overwrite_freed(self._db)
        self._begin_owed(owed.begin)

    # -- what is due ----------------------------------------------------------------------------------------------------------

    def _find(self, conn: sqlite3.Connection) -> _Owed:
        owed = _Owed()
        rows = logs.list_logs(conn)
        named = set(erasures.logs_named(conn))
        orders = self._journal.state.orders
        newest: dict[str, int] = {}  # the newest ended generation from which a row was removed by order
        for row in rows:
            removed, waiting = _counts(conn, row) if row.id in named else (0, 0)
            if row.status == ACTIVE and removed and self._is_time(row, waiting):
                owed.begin[row.table] = f"{removed} row{'' if removed == 1 else 's'} erased by order"
            elif row.status in (ENDED, PRUNED) and removed:
                newest[row.table] = max(row.generation, newest.get(row.table, 0))
            pruning = orders.pruning(row.table, row.generation)
            if pruning is not None and pruning.seq <= self._followed():
                if row.status == ACTIVE:
                    owed.begin.setdefault(row.table, "pruning ordered")
                elif row.status == ENDED:
                    owed.prune.append(row)
                elif row.status == PRUNED and forgetting.has_bundles(conn, row.id):
                    owed.bundles.append(row)
        for row in rows:
            if row.status == ENDED and row.secret and row.generation <= newest.get(row.table, 0):
                self._secret(row, rows, owed)
        for row in owed.prune:
            if row.secret:
                self._secret(row, rows, owed)
        owed.prune = [row for row in owed.prune if not row.secret or row.id in owed.secrets]
        return owed

    def _secret(self, row: LogRow, rows: list[LogRow], owed: _Owed) -> None:
        """A secret that is to be forgotten, with the one that it was derived from; it waits while that one is still in use."""
        root = LogNotes.of(row).root
        parents = [one for one in rows if one.table == root and one.secret and leaf_secret(one.secret, row.oid) == row.secret]
        in_use = [one for one in parents if one.status not in (ENDED, PRUNED)]
        if in_use:
            owed.begin.setdefault(in_use[0].table, f"a row of partition {row.table} was erased by order")
            return
        owed.secrets |= {one.id: one for one in (row, *parents)}

    def _is_time(self, row: LogRow, waiting: int) -> bool:
        """Whether nothing more is to come into this generation that was ordered to go with it."""
        since = self._since.setdefault(row.id, time.monotonic())
        return not waiting or time.monotonic() - since > GRACE_S

    # -- new generations ------------------------------------------------------------------------------------------------------

    def _begin_owed(self, tables: dict[str, str]) -> None:
        """As the leader: begin what is owed, not in a table of which somebody has yet to decide about a row or a gap."""
        state = self._journal.state
        failed: Exception | None = None
        for table, reason in sorted(tables.items()):
            now = time.monotonic()
            if not self._leads() or table in state.opened or state.open_gap(table) is not None or self._in_doubt(table):
                continue
            if now >= self._tried.get(table, now):
                self._tried[table] = now + AGAIN_S
                try:
                    self._begin(table, reason)
                except (WitnzError, psycopg.Error) as error:
                    failed = error
        if failed is not None:
            raise failed


def _counts(conn: sqlite3.Connection, row: LogRow) -> tuple[int, int]:
    """(rows removed by order, rows ordered and still there) of a log."""
    made = erasures.of_log(conn, row.id)
    gone = {one.key for one in made if one.entry is not None}
    return len(gone), len({one.key for one in made if one.entry is None})
