"""Opening a generation: how the stream and one snapshot of a table become one log (formats.md 2, "Generations").

    queued     the stream may have to be opened anew before it tells of the table (:mod:`witnz.node.reopening`)
    waiting    the log exists, its secret is drawn, its changes are spooled; X0 is taken, and snapshots are tried until one has
               xmin >= X0, so that no transaction older than the slot straddles it
    reading    S and L are fixed, the table is locked ACCESS SHARE, the stream has passed L, the baseline is copied
    ready      the baseline is stored; the ``table`` record is due, then the spool is replayed and the generation is active
    failed     cancelled: the new log goes, what was spooled for the old generation is given back to it

The definition is read when the opening begins and must be the same under S: keys, columns and the first schema entry come
from it, whatever the stream, which may be far behind, describes meanwhile.

Among several nodes the leader opens, and its companions open with it: they get the secret, spool from before X0 on, hold their
streams still for the moment in which S and L are taken (nobody may have recorded beyond L for the old generation), read the
baseline in the very same S, and vote for the ``table`` record when they have (:mod:`witnz.node.companions`).

Everything that must not race with the stream (taking S and L, adopting) happens in :meth:`Opening.step`, which the capture
thread calls between transactions; only the copying runs on a thread of its own.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import psycopg
import structlog

from witnz.core.entry import SchemaColumn, schema_hint
from witnz.core.keyplan import KeyPlan
from witnz.core.lsn import format_lsn
from witnz.core.names import log_origin
from witnz.core.rowline import secret_commitment
from witnz.ending import end_threads
from witnz.errors import Inconclusive, WitnzError
from witnz.node.baseline import Baseline, baseline_key
from witnz.node.log_notes import LogNotes
from witnz.node.plan import Invitation, Plan, Surroundings
from witnz.node.reopening import Ticket
from witnz.node.rootscan import RootScan
from witnz.node.succession import RowsChanged
from witnz.node.table_state import OPEN, TableState
from witnz.postgres.catalog import TableInfo, schema_columns, table_by_oid
from witnz.postgres.scan import SnapshotScan
from witnz.postgres.scan_errors import TableLocked
from witnz.postgres.xid import parse_snapshot
from witnz.store import logs, meta, spool, tablelog
from witnz.verify.stream import PATIENCE

log = structlog.get_logger(__name__)

Phase = Literal["queued", "waiting", "reading", "ready", "done", "failed"]
RETRY_S = 0.2
BASELINE_ROWS = 8192
OLD_TRANSACTION = "a transaction older than the replication slot is still running"
STILL_S = 5.0  # how long a companion holds its stream still for the leader
REMIND_S = 5.0
FORGET_S = 60.0  # a companion that has heard nothing of an opening for so long gives it up


@dataclass(slots=True)
class Opening:
    """One generation being opened.  ``state`` is what the recorder spools into until it is adopted."""

    plan: Plan
    around: Surroundings
    phase: Phase = "queued"
    state: TableState | None = None
    error: str = ""
    rows: int = 0
    changed: RowsChanged | None = None
    lost: str = ""  # why the stream did not tell of everything that happened to the table since the log was begun
    invitation: Invitation | None = None
    secret: bytes = field(default_factory=lambda: os.urandom(32))
    heard: float = field(default_factory=time.monotonic)
    still: threading.Event = field(default_factory=threading.Event)
    _keys: KeyPlan | None = None
    _hint: str = ""
    _x0: int = 0
    _at: int = 0
    _next_try: float = 0.0
    _snapshot_text: str = ""
    _scan: SnapshotScan | RootScan | None = None
    _conn: psycopg.Connection | None = None
    _ticket: Ticket | None = None
    _thread: threading.Thread | None = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _held: ExitStack = field(default_factory=ExitStack)
    _asked: threading.Event = field(default_factory=threading.Event)
    _news: threading.Event = field(default_factory=threading.Event)
    _given: tuple[psycopg.Connection, SnapshotScan | RootScan, str, int, int] | None = None
    _taken: threading.Event = field(default_factory=threading.Event)
    _handing: threading.Lock = field(default_factory=threading.Lock)
    _reminded: float = field(default_factory=time.monotonic)

    def step(self, now_s: float) -> None:
        """Move on if something is due.  Called by the capture thread between transactions, with nothing uncommitted."""
        if self.lost and self.phase != "reading":
            raise Inconclusive(self.lost)
        if self.invitation is not None:
            self._step_along(now_s)
        elif not self.around.leads():
            raise Inconclusive("another node leads the cluster now")
        elif self.phase == "queued" and self._is_streamed() and self._announced():
            self._start()
        elif self.phase == "waiting" and now_s >= self._next_try and self._gathered():
            self._next_try = now_s + RETRY_S
            self._try_snapshot()
        self._remind(now_s)

    def _remind(self, now_s: float) -> None:
        companions = self.around.companions
        if companions is not None and self.invitation is None and now_s - self._reminded >= REMIND_S:
            self._reminded = now_s
            self.around.errands.start(("remind", self.plan.name), lambda: companions.remind(self))

    def interrupt(self, reason: str) -> None:
        """The stream goes on behind a stretch that it did not tell of, which a log that was begun would lack.  Called by the
        capture thread."""
        if self.state is not None:
            self.lost = reason
            self._stop.set()

    def cancel(self) -> None:
        """Stop the copying; the log is dropped by whoever collects the failed opening."""
        self._stop.set()
        if self._thread is not None:
            end_threads(self._thread)
        self._close()

    # -- queued -> waiting ----------------------------------------------------------------------------------------------------

    def _connected(self) -> psycopg.Connection:
        """The opening's own connection; with it the definition is read."""
        if self._conn is None:
            self._conn = self.around.connect()
            self._read_definition(self._conn)
        return self._conn

    def _is_streamed(self) -> bool:
        """Whether this node's stream tells of the table from here on; else it is about to be opened anew."""
        if self._ticket is None:
            self._ticket = self.around.reopening.ticket(self._connected(), self.plan.info)
        return self._ticket.good

    def _announced(self) -> bool:
        """Whether the ``open`` record stands; a first generation needs none."""
        plan, journal = self.plan, self.around.journal
        if plan.generation == 1:
            return True
        body = {"table": plan.name, "generation": plan.generation, "secret_sha256": secret_commitment(self.secret)}
        return self.around.errands.run(("open", plan.name, self.secret), lambda: journal.propose("open", body))

    def _gathered(self) -> bool:
        """Whether X0 is taken: once this node, and among several enough of them, spool what happens to the table."""
        if self._x0:
            return True
        companions, conn = self.around.companions, self._conn
        if conn is None:
            return False
        if companions is not None:
            prepare = companions.prepare
            if not self.around.errands.run(("prepare", self.plan.name, self.secret), lambda: prepare(self)):
                return False
        self._x0 = _newest_xid(conn)
        return True

    def _start(self) -> None:
        plan, around, secret = self.plan, self.around, self.secret
        source = self._connected()
        columns = _columns(plan)
        with around.db.write() as conn:
            head = tablelog.create_log(
                conn,
                table=plan.name,
                generation=plan.generation,
                origin=log_origin(around.cluster, plan.name, plan.generation),
                oid=plan.info.oid,
                secret=secret,
                status=OPEN,
                key_columns=plan.info.key_columns,
                mode=LogNotes(
                    attnums=tuple(c.attnum for c in plan.info.replicated_columns if c.name not in plan.excluded),
                    excluded=tuple(sorted(plan.excluded)),
                    root=plan.root,
                ).to_json(),
            )
        self.state = TableState(
            head=head,
            oid=plan.info.oid,
            rules=plan.rules,
            key_columns=plan.info.key_columns,
            hidden_keys=plan.hidden_keys,
            columns=columns,
            identity=plan.info.identity,
            status=OPEN,
            excluded=plan.excluded,
        )
        self._keys = self.state.plan
        self._hint = self.state.logged_schema = schema_hint(columns, plan.info.identity, plan.info.oid)
        if around.companions is None:
            self._x0 = _newest_xid(source)
        self.phase = "waiting"

    def _read_definition(self, conn: psycopg.Connection) -> None:
        """The table as it is now.  Raises Inconclusive if it has gone, or changed once more since a successor was planned."""
        plan = self.plan
        now = table_by_oid(conn, plan.info.oid)
        if now is None or now.witnz_name != plan.name:
            raise Inconclusive(f"{plan.name} is not the table any more that was to be read")
        if plan.predecessor is not None and _definition(now) != _definition(plan.info):
            raise Inconclusive(f"the definition of {plan.name} changed once more")
        plan.info = now

    # -- waiting -> reading ---------------------------------------------------------------------------------------------------

    def _try_snapshot(self) -> None:
        if self._conn is None or self.state is None:
            return
        companions = self.around.companions if self.plan.predecessor is not None else None
        if companions is not None:
            if _oldest_xid(self._conn) < self._x0:
                self.error = OLD_TRANSACTION
                return
            companions.hold_still(self)
        scan = self._open_scan(self._conn)
        if scan is None:
            if companions is not None:
                companions.move_on(self)
            return
        if isinstance(scan, SnapshotScan) and _definition(scan.info) != _definition(self.plan.info):
            scan.__exit__(None, None, None)
            raise Inconclusive(f"the definition of {self.plan.name} changed before its rows could be read")
        if self._ticket is None or self.around.reopening.ticket(self._conn, self.plan.info).tie != self._ticket.tie:
            scan.__exit__(None, None, None)
            raise Inconclusive(f"{self.plan.name} was attached anew before its rows could be read")
        self._take(scan, scan.snapshot_text, scan.lsn, self.around.clock())

    def _open_scan(self, conn: psycopg.Connection) -> SnapshotScan | RootScan | None:
        """A snapshot that may be S, with the table locked; None, and ``error`` says why, where there is none yet."""
        scan = self.around.scan(conn, self.plan.info, self.plan.excluded)
        self._held.enter_context(self.around.stream.hold())  # the old generation is compared as of this very snapshot
        try:
            scan.__enter__()
        except TableLocked as busy:
            self._held.close()
            self.error = busy.message  # DDL holds the table; never queue behind it
            return None
        if scan.snapshot.xmin < self._x0:
            scan.__exit__(None, None, None)
            self._held.close()
            self.error = OLD_TRANSACTION
            return None
        return scan

    def _take(self, scan: SnapshotScan | RootScan, snapshot: str, lsn: int, at: int) -> None:
        """S and L stand: note them, and begin to read."""
        state = self.state
        if state is None:
            raise Inconclusive("nothing was opened")
        self.error = ""
        state.snapshot, state.lsn = parse_snapshot(snapshot), lsn
        self._scan, self._at, self._snapshot_text = scan, at, snapshot
        with self.around.db.write() as conn:
            logs.set_snapshot(conn, state.head.id, snapshot, lsn)
            if self.plan.predecessor is not None:
                logs.set_final_lsn(conn, self.plan.predecessor.state.head.id, lsn)
        if self.plan.predecessor is not None:
            self.plan.predecessor.state.final_lsn = lsn
        self.phase = "reading"
        self._thread = threading.Thread(target=self._read, name=f"baseline {self.plan.name}", daemon=True)
        self._thread.start()

    # -- along with a leader --------------------------------------------------------------------------------------------------

    def _step_along(self, now_s: float) -> None:
        if self.phase in ("queued", "waiting", "ready") and now_s - self.heard > FORGET_S:
            raise Inconclusive("the node that leads the opening was not heard of any more")
        if self.phase in ("queued", "waiting") and self._is_late():
            raise Inconclusive("the others read the baseline before this node could; it takes theirs")
        if self.phase == "queued":
            if self._is_streamed():
                self._start()
        elif self.phase == "waiting":
            if self._asked.is_set():
                self._hold_still()
            if self._given is not None:
                conn, scan, snapshot, lsn, at = self._given
                before, self._conn = self._conn, conn
                if before is not None:
                    before.close()
                self._take(scan, snapshot, lsn, at)
                self._taken.set()

    def _is_late(self) -> bool:
        """Whether the journal has adopted this generation, read by a quorum without this node."""
        newest = self.around.journal.state.newest_generation(self.plan.name)
        return newest is not None and newest.generation >= self.plan.generation

    def _hold_still(self) -> None:
        """On the capture thread: nothing is recorded until the leader has taken S and L, or takes too long."""
        self._asked.clear()
        self._held.enter_context(self.around.stream.hold())
        self.still.set()
        self._news.wait(STILL_S)
        with self._handing:
            self._news.clear()
            self.still.clear()
            if self._given is None:
                self._held.close()

    def ask_still(self, timeout_s: float) -> bool:
        """Whether the stream stands still now; called by whoever answers the leader."""
        self.heard = time.monotonic()
        self._asked.set()
        return self.still.wait(timeout_s)

    def move_on(self) -> None:
        """The leader has no S yet."""
        self.heard = time.monotonic()
        self._news.set()

    def give(self, conn: psycopg.Connection, scan: SnapshotScan | RootScan, snapshot: str, lsn: int, at: int) -> bool:
        """Hand over the open scan that imported S, on its connection; whether the capture thread took it."""
        self.heard = time.monotonic()
        with self._handing:
            if self.plan.predecessor is not None and not self.still.is_set():
                return False  # it may have recorded beyond L by now
            self._given = (conn, scan, snapshot, lsn, at)
            self._news.set()
        return self._taken.wait(STILL_S)

    # -- reading -> ready -----------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            self._pass_on()
            self.around.stream.await_mark(os.urandom(16).hex().encode(), PATIENCE)
            self._copy()
        except RowsChanged as changed:
            self.changed, self.error, self.phase = changed, changed.message, "failed"
        except WitnzError as error:
            self.error, self.phase = error.message, "failed"
        except (psycopg.Error, sqlite3.Error, OSError) as error:
            self.error, self.phase = str(error).strip(), "failed"
        except BaseException as error:  # the thread ends with it; the opening must not look as if it still read
            self.error, self.phase = f"{type(error).__name__}: {error}", "failed"
            raise
        else:
            self.phase = "ready"
        finally:
            self._close()

    def _pass_on(self) -> None:
        """The companions read the same S; this transaction holds it, and the lock, until they have taken over."""
        companions, scan = self.around.companions, self._scan
        if companions is not None and self.invitation is None and scan is not None:
            exported = scan.export() if isinstance(scan, SnapshotScan) else ""
            companions.read(self, exported, self._snapshot_text, scan.lsn, self._at)

    def _copy(self) -> None:
        scan, state, plan, keys = self._scan, self.state, self.plan, self._keys
        if scan is None or state is None or keys is None:
            raise Inconclusive("the baseline has no snapshot")
        started = time.monotonic()
        baseline = Baseline(self.around.db, state, keys, self.around.box, self._at)
        baseline.write_schema(self._hint)
        if plan.predecessor is not None:
            plan.predecessor.begin(self.around.db, scan)
        self._held.close()
        for lines in scan.lines(BASELINE_ROWS):
            if self._stop.is_set():
                raise Inconclusive(self.lost or "the node stopped while the baseline was being read")
            baseline.write_rows(lines)
            if plan.predecessor is not None:
                plan.predecessor.compare(lines)
            self.rows += len(lines)
            self.around.progress(plan.name, self.rows)
        self._scan = None
        scan.__exit__(None, None, None)
        if changed := scan.changed_during():
            raise Inconclusive(f"the definition of {plan.name} changed while the baseline was read ({', '.join(changed)})")
        if plan.predecessor is not None:
            plan.predecessor.finish()
        if self.around.companions is not None:
            with self.around.db.write() as conn:
                meta.save_value(conn, baseline_key(state.head.id), "read")
        log.info("baseline was read", table=plan.name, rows=self.rows, seconds=round(time.monotonic() - started, 3))

    def _close(self) -> None:
        self._held.close()
        if self.plan.predecessor is not None:
            self.plan.predecessor.close()
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    # -- ready -> done --------------------------------------------------------------------------------------------------------

    def table_body(self, previous: dict[str, object] | None) -> dict[str, object]:
        """The body of the ``table`` record that adopts this generation."""
        plan, state = self.plan, self.state
        if state is None:
            raise Inconclusive("nothing was opened")
        return {
            "table": plan.name,
            "generation": plan.generation,
            "mode": plan.rules.mode,
            "on_change": plan.rules.on_change,
            "rules": {
                "inserts_only": plan.rules.inserts_only,
                "require_intent": plan.rules.require_intent,
                "retain": plan.rules.retain,
            },
            "keys": {"columns": list(plan.info.key_columns), "form": "hidden" if plan.hidden_keys else "plain"},
            "oid": plan.info.oid,
            "snapshot": self._snapshot_text,
            "lsn": format_lsn(state.lsn),
            "secret_sha256": secret_commitment(state.head.secret),
            "previous": previous,
            "reason": plan.reason,
        }

    @property
    def at(self) -> int:
        """The time of the ``table`` record, which the baseline entries carry, µs since the Unix epoch."""
        return self._at

    def drop(self) -> None:
        """Forget a failed opening's log."""
        if self.state is not None:
            with self.around.db.write() as conn:
                spool.clear(conn, self.state.head.id)
                logs.drop_log(conn, self.state.head.id)


def _oldest_xid(conn: psycopg.Connection) -> int:
    row: Any = conn.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text").fetchone()
    return int(row[0])


def _newest_xid(conn: psycopg.Connection) -> int:
    """X0: the xmax of a snapshot that lies beyond every transaction id given out so far.

    A snapshot's xmax only counts ids of transactions that have ended; so one is taken, and ended, first.  Otherwise the newest
    transaction could still be running, and have written before the publication knew the table.
    """
    conn.execute("SELECT pg_current_xact_id()")
    row = conn.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text").fetchone()
    if row is None:
        raise psycopg.OperationalError("a query for one row gave none")
    return int(row[0])


def _columns(plan: Plan) -> tuple[SchemaColumn, ...]:
    """The columns of the baseline, as its first schema entry describes them."""
    return tuple(column for column in schema_columns(plan.info) if column.name not in plan.excluded)


def _definition(info: TableInfo) -> tuple[object, ...]:
    """What a generation takes from a table's definition."""
    return info.relkind, schema_columns(info), info.identity, info.key_columns
