"""The running sidecar: one data directory, one capture, one journal, and the chores around them.

Threads: *capture* owns the stream and writes entries; *chores* seals, signs checkpoints, journals findings, watches the catalog
and delivers alerts; *verify* runs the schedule.  The HTTP interface calls the methods of :class:`Node` from threads of its own.
"""

from __future__ import annotations

import gc
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
import structlog

from witnz import __version__
from witnz.alert.service import AlertService
from witnz.cluster.engine import Engine, LocalEngine
from witnz.config import Config
from witnz.core.classify import Rules
from witnz.core.finding import Finding
from witnz.core.journal_rules import COVERAGE_CLASSES
from witnz.core.record import Record
from witnz.ending import end_threads
from witnz.errors import ConfigError, DatabaseError, Inconclusive, ReplicationImpossible, UsageError, WitnzError
from witnz.metrics import Metrics
from witnz.node.anchor_lane import Parts as AnchorParts
from witnz.node.anchoring import Anchoring
from witnz.node.approval import Approvals
from witnz.node.auto_repair import AutoRepair
from witnz.node.bridging import Bridging
from witnz.node.capture import Capture, Hooks
from witnz.node.chores import Chores
from witnz.node.cosigning import Cosigner
from witnz.node.erasing import Erasing
from witnz.node.errands import Errands
from witnz.node.events import Broadcaster
from witnz.node.findings import FindingBook
from witnz.node.following import Following
from witnz.node.forgetting import Forgetting
from witnz.node.generations import Generations
from witnz.node.images import ImageBox
from witnz.node.intents import IntentJudge
from witnz.node.journal import Journal
from witnz.node.keyring import Keyring, load_keyring
from witnz.node.leftovers import remove_leftovers
from witnz.node.membership import follow_keys
from witnz.node.plan import Surroundings
from witnz.node.protection import Protection
from witnz.node.recorder import Outcome, Recorder, stored_position
from witnz.node.rejudging import Rejudging
from witnz.node.reopening import Reopening
from witnz.node.repair import Parts, Repairs
from witnz.node.reporting import Reports
from witnz.node.restores import Restores
from witnz.node.rolling import Rolling
from witnz.node.rowlines import RowLines
from witnz.node.scanning import Scanning
from witnz.node.sealer import Sealer
from witnz.node.selfaudit import SelfAudit
from witnz.node.source import SourceGuard
from witnz.node.table_state import OPEN, TableState
from witnz.node.verification import Verification, Verified
from witnz.node.watch import CatalogWatch
from witnz.node.wishes import Wishes
from witnz.postgres.publication import publication_names
from witnz.postgres.session import FOREIGN, SILENCE_S, Conninfo, classify_error, connect
from witnz.store import meta
from witnz.store.database import Database
from witnz.store.datadir import DataDir, StoreLock
from witnz.verify.live import LiveVerifier, Progress, Target
from witnz.verify.stream import Patience

if TYPE_CHECKING:
    from witnz.node.peering import Fellows, Peering

log = structlog.get_logger(__name__)

COLLECT_AFTER: Final = (50_000, 20, 20)
"""Of the garbage collector, which else looks at each batch of rows a dozen times: a tenth of what capture costs."""

WATCH_S = 2.0
DECISIONS: Final = ("unprotect", "key", "config", "member", "erase", "prune")
"""The records that are made with :meth:`Node.decide`: what an operator's key signs and no finding is about."""


def now_us() -> int:
    """Microseconds since the Unix epoch."""
    return time.time_ns() // 1000


class Node:
    """One node.  ``open`` takes the data directory's lock; ``start`` begins to work; ``stop`` drains and lets go.

    ``watch_s``: between two looks of the catalog watch; ``silence_s``: after which a silent database server counts as gone.
    """

    def __init__(
        self,
        config: Config,
        *,
        clock: Callable[[], int] = now_us,
        fellows: Fellows | None = None,
        watch_s: float = WATCH_S,
        silence_s: float = SILENCE_S,
    ) -> None:
        self.config, self.clock, self._fellows = config, clock, fellows
        self.conninfo = replace(Conninfo.from_conninfo(config.database.conninfo()), silence_s=silence_s)
        self.chores, self.protection = Chores(self, watch_s), Protection(self)
        self.data = DataDir(config.data_dir)
        self.data.check()
        self._lock: StoreLock = self.data.lock()
        try:
            remove_leftovers(self.data)
            self._open()
        except BaseException:
            self._lock.release()
            raise

    def _open(self) -> None:
        config = self.config
        self.db = Database.open(self.data.database)
        with self.db.read() as conn:
            cluster, node_id = meta.load_value(conn, "cluster"), meta.load_value(conn, "node")
            self.cluster_id = meta.load_value(conn, "cluster_id") or ""
        if (cluster, node_id) != (config.cluster, config.node_id):
            raise ConfigError(
                f"{self.data.path} belongs to node {node_id} of {cluster}; "
                f"the configuration says {config.node_id} of {config.cluster}",
                hint="use the data directory that `witnz init` made for this configuration",
                code="store.foreign",
            )
        self.keys: Keyring = load_keyring(self.data.keys_dir, config.cluster, config.node_id)
        self.metrics = Metrics()
        self.engine: Engine = self._fellows.engine if self._fellows is not None else LocalEngine(config.node_id)
        self.errands = Errands(inline=self._fellows is None)
        self.journal = Journal(
            self.db,
            self.engine,
            config.node_id,
            self.keys.identity,
            self.clock,
            cluster=config.cluster,
            cluster_id=self.cluster_id,
        )
        follow_keys(self.keys, config.node_id, self.journal, None if self._fellows is None else self._fellows.peers)
        self.alerts = AlertService.from_config(config, self.db, self.clock, self.metrics)
        self.book = FindingBook(self.cluster_id, self.clock, self.alerts.enqueue)
        self.book.ended = self.journal.state.protection_ended
        self.sealer = Sealer(self.db, self.journal)
        self.cosigner = Cosigner(self.db, self.journal, self.keys, config.cluster, self.clock)
        self.approvals = Approvals(self.db, self.journal, self.book, self.sealer.seal)
        self.erasing = Erasing(self.db, self.journal, self.book, self.seal_now)
        self.bridging = Bridging(self.db, self.journal, self.approvals.in_doubt, self.protection.begin_anew)
        self.rejudging = Rejudging(self.db, self.journal, self.book)
        self.wishes = Wishes(self.db, self.journal, self.book, config)
        self.following = Following(
            self.db,
            {
                "accept": self._follow_accept,
                "ack": self.approvals.follow_state,
                "repair": self.approvals.follow_state,
                "gap": self.bridging.followed_gap,
                "epoch": self.bridging.followed_gap,
                "erase": self.erasing.carry_out,
                "key": self.rejudging.follow,
                "config": self.wishes.follow,
            },
        )
        self.approvals.follow = self.erasing.follow = self.following.follow
        self.events = Broadcaster()
        self.peering = self._join(self._fellows) if self._fellows is not None else None
        self.following.follow()
        self.following.save()
        self._make_parts()

    def _make_parts(self) -> None:
        """The parts that record and verify; what the journal knows stands already."""
        config = self.config
        self.box = ImageBox(self.keys.retain)
        self.scanning = Scanning(self.conninfo, self.journal, self.db)
        self.audit = SelfAudit(self.db, self.data.database, self.book, self.clock)
        anchor_parts = AnchorParts(
            self.db, self.journal, self.book, self.clock, self.metrics, config.cluster,
            leads=lambda: self.engine.leader() == config.node_id,
        )  # fmt: skip
        self.anchoring = Anchoring(config, anchor_parts, self.keys.cosigner)
        self.cosigner.conditions.append(self.anchoring.condition)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._progress: dict[str, int] = {}
        self.reopening = Reopening(
            lambda: connect(self.conninfo, application_name="witnz marker"),
            lambda: 0 if self.journal.state.epoch is None else self.journal.state.epoch.seq,
        )
        around = Surroundings(
            db=self.db, journal=self.journal, stream=_StreamOf(self), cluster=config.cluster, clock=self.clock, box=self.box,
            connect=lambda: connect(self.conninfo, scan=True, application_name="witnz baseline"),
            scan=self.scanning.at_once, progress=self._progress.__setitem__,
            reopening=self.reopening, errands=self.errands,
        )  # fmt: skip
        if self.peering is not None:
            around.companions, around.leads = self.peering.companions, self.peering.leads
        self.generations = Generations(around, self.book, self._recorder_connection)
        self.generations.accepted = self.bridging.owes
        self.rejudging.meanwhile, self.rejudging.newest_xid = self.generations.meanwhile, self._newest_xid
        self.rejudging.again = lambda: self.errands.start("follow", self.following.follow)
        self.forgetting = Forgetting(
            self.db, self.journal, self.approvals.in_doubt, self.protection.renew, around.leads, lambda: self.following.done
        )
        self.row_line = RowLines(self.box, lambda: connect(self.conninfo, scan=True, application_name="witnz prove"))
        self.restores = Restores(
            self.db, self.journal, self.book, self.data.evidence_dir, self.clock,
            seal=self.sealer.seal, journal_finding=self.approvals.journal_finding,
        )  # fmt: skip
        self.generations.restores = self.restores
        self.source = SourceGuard(
            self.db,
            self.journal,
            self.book,
            self.restores,
            self.conninfo,
            config.slot_name,
            publication_names(config.publication),
            self._table_names,
            config.max_retained_wal_bytes,
        )
        self.source.skips = self.generations.interrupt
        self.watch = CatalogWatch(
            self.db, self.journal, self.book, self.generations, config.publication, self.states, self.reopening
        )
        hooks = Hooks(
            between=self._between, recorded=self._recorded, connected=self._connected,
            unreachable=self._unreachable, retained=self.source.holds_back_too_much,
            opened=self.reopening.opened, reopens=self.reopening.is_due,
        )  # fmt: skip
        self.capture = Capture(
            self.db, self.conninfo, config.slot_name, publication_names(config.publication), self._make_recorder, hooks
        )
        self.data.spill_dir.mkdir(mode=0o700, exist_ok=True)
        self.verification = Verification(
            self.db, LiveVerifier(self.db, self.capture, self.data.spill_dir), self.journal, self.book, self.clock
        )
        self.rolling = Rolling(self.db, self.verification, self.scanning, self.target, self.clock)
        parts = Parts(
            db=self.db, journal=self.journal, book=self.book, box=self.box, approvals=self.approvals, state=self.state,
            connect=lambda: connect(self.conninfo, scan=True, application_name="witnz repair plan"),
            open_scan=self.scanning.recorded, await_mark=self.capture.await_mark, verify_table=self.verify_table,
        )  # fmt: skip
        self.repairs = Repairs(parts)
        self.repairs.resume()
        if self.peering is not None:
            self.peering.wire()
        self.reports = Reports(self.db, self.journal, config, self.data.path, self.data.keys_dir, self.clock, self.seal_now)
        self.auto_repair = AutoRepair(
            self.repairs, config, self.journal, self.data.keys_dir, self.clock,
            configured=lambda table: self.generations.leaves().get(table, table),
            done=lambda result: self.events.publish("finding", result.finding.to_json()),
        )  # fmt: skip

    def _join(self, fellows: Fellows) -> Peering:
        from witnz.node.peering import Peering

        return Peering(self, fellows)

    def _recorder_connection(self) -> sqlite3.Connection:
        """The write transaction of the recorder at work now; it is another one after a lost connection."""
        return self.capture.recorder.connection()

    def _make_recorder(self) -> Recorder:
        with self.db.read() as conn:
            position, last_final = stored_position(conn)
        return Recorder(
            self.db,
            self.generations.load(),
            book=self.book,
            intents=IntentJudge(self.journal.state),
            box=self.box,
            position=position,
            last_final_lsn=last_final,
            xid_near=0,
            unknown=self.generations.unknown(lambda: connect(self.conninfo, application_name="witnz catalog")),
        )

    # -- life -----------------------------------------------------------------------------------------------------------------

    def start(self, *, chores: bool = True, schedule: bool = True) -> None:
        """Check the source, queue what the configuration adds, and begin."""
        gc.set_threshold(*COLLECT_AFTER)
        if self.peering is not None:
            self.peering.start()
        with self.catalog() as conn:
            try:
                if self.source.check(conn):
                    self.capture.recorder = self._make_recorder()
            except ReplicationImpossible as refused:
                if refused.code != FOREIGN:
                    raise
                log.error("nothing is recorded", reason=refused.message, hint=refused.hint)  # until somebody decides
            else:
                self.wishes.compare(self.generations.leaves_to_be_fetched(conn) | self.generations.leaves())
                self.protection.open_configured(conn)
        self.capture.start()
        self.anchoring.start(self._spawn, self._stop, publish=chores)
        self.following.follow()  # what an end in between has left to be judged anew
        if chores:
            self._spawn("chores", lambda: self.chores.run(self._stop))
            self._spawn("alerts", lambda: self.alerts.run(self._stop))
            self._spawn("audit", lambda: self.audit.run(self._stop))
            if self.auto_repair.enabled:
                self.auto_repair.check()
                self._spawn("repair", lambda: self.auto_repair.work(self._stop))
        if schedule:
            self._spawn("verify", lambda: self.chores.verify_by_schedule(self._stop))
        log.info("node was started", node=self.config.node_id, cluster=self.config.cluster, version=__version__)

    def stop(self) -> None:
        """Drain: commit what was received, seal, sign, close."""
        self._stop.set()
        self.rolling.stopped.set()
        self.anchoring.stop()
        end_threads(*self._threads)
        self.capture.stop()
        for opening in self.generations.opening():
            opening.cancel()
        try:
            self.seal_now()
        except WitnzError as error:
            log.warning("last seal was not made", reason=error.message)
        if self.peering is not None:
            self.peering.stop()
        self.errands.close()
        self.following.save()
        self.close()
        log.info("node was stopped", node=self.config.node_id)

    def close(self) -> None:
        self.chores.close()
        self.db.close()
        self._lock.release()

    def wait_ready(self, timeout_s: float) -> None:
        """Until every table that is being opened is active.  Raises Inconclusive with the reason if that takes too long."""
        deadline = time.monotonic() + timeout_s
        while True:
            if self.capture.fatal is not None:
                raise self.capture.fatal
            openings = self.generations.opening()
            if self.capture.status.connected and not openings:
                return
            if time.monotonic() > deadline:
                reasons = [f"{o.plan.name}: {o.error or o.phase}" for o in openings] or [
                    self.capture.status.error or "not connected"
                ]
                raise Inconclusive("not ready: " + "; ".join(reasons))
            time.sleep(0.05)

    def _spawn(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def seal_now(self) -> None:
        """Seal what moved and sign the journal, now."""
        self.chores.seal()

    # -- hooks of the capture -------------------------------------------------------------------------------------------------

    def _between(self, recorder: Recorder) -> bool:
        self.generations.between(recorder)
        return bool(self.generations.opening())

    def _connected(self, conn: psycopg.Connection[Any]) -> bool:
        return self.source.check(conn, publication_missed=self.capture.lacks_publication)

    def _recorded(self, outcome: Outcome) -> None:
        for name in outcome.findings:
            log.warning("finding was opened", finding=name)
        if outcome.findings:
            self.alerts.wake()
            self.auto_repair.offer(outcome.findings)

    def _unreachable(self, reason: str) -> None:
        with self.db.write() as conn:
            self.book.open(conn, cls="source.unreachable", detail=reason)

    # -- tables ---------------------------------------------------------------------------------------------------------------

    def states(self) -> list[TableState]:
        return self.capture.recorder.tables()

    def state(self, table: str) -> TableState:
        """Raises UsageError for a table that is not protected."""
        found = [state for state in self.states() if state.name == table and state.status != OPEN]
        if not found:
            raise UsageError(f"{table} is not protected", hint="`witnz status` lists the protected tables")
        return found[-1]

    def _newest_xid(self) -> int:
        """Below this id every transaction has ended that was committed until now, once a snapshot's xmin reaches it."""
        with self.catalog() as conn:
            row = conn.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text").fetchone()
        return int(row[0]) if row else 0

    def _table_names(self) -> list[str]:
        return sorted(self.journal.state.tables())

    def protect_table(self, name: str, rules: Rules, *, hidden: bool = False, excluded: frozenset[str] = frozenset()) -> None:
        """Open the first generation of one more table, and of every leaf it has, while the node runs."""
        with self.catalog() as conn:
            self.protection.open(conn, name, rules, hidden=hidden, excluded=excluded)

    # -- verification ---------------------------------------------------------------------------------------------------------

    def verify_table(self, table: str, progress: Progress = lambda rows: None, share: str | None = None) -> Verified:
        """Verify one table now and record the result.

        ``share``: a token under which another session reads in the same snapshot (:mod:`witnz.postgres.handshake`).
        """

        def verify(state: TableState) -> Verified:
            if share is not None:
                shared = replace(self.target(state), open_first=lambda: self.scanning.shared(state, share))
                return self.verification.run(shared, progress)
            if self.peering is not None and self.config.verify == "all":
                return self.peering.together.verify(state, progress)
            return self.verification.run(self.target(state), progress)

        return self._with_look(table, verify)

    def _with_look(self, table: str, verify: Callable[[TableState], Verified]) -> Verified:
        """A verification between a look at the catalog and what follows from its result."""
        state = self.state(table)
        self._look()
        verified = verify(state)
        self.chores.journal_findings()
        self.metrics.verified(table, verified.verdict.value, verified.result.seconds, verified.result.rows)
        self.auto_repair.offer(finding.id for finding in verified.findings)
        return verified

    def roll(self, table: str, progress: Progress = lambda rows: None) -> Verified:
        """A round of rolling verification, or the rest of one that was interrupted, within the table's budget."""
        configured = self.config.table(self.generations.leaves().get(table, table))
        budget = None if configured is None else configured.verify_budget
        return self._with_look(table, lambda state: self.rolling.run(state, budget, self.chores.interval_of(table), progress))

    def verify_sample(self, table: str, wanted: int, parts: int, progress: Progress = lambda rows: None) -> Verified:
        """Verify some ranges of a table's keys, drawn now."""
        return self._with_look(table, lambda state: self.rolling.sample(state, wanted, parts, progress))

    def verifies_rolling(self, table: str) -> bool:
        """Whether the schedule reads this table in ranges."""
        configured = self.config.table(self.generations.leaves().get(table, table))
        return configured is not None and configured.verify_mode == "rolling"

    def _look(self) -> None:
        """What a scan relies on is looked at just before it; a table that is gone must not wait for the next round."""
        try:
            with self.catalog() as conn:
                self.watch.look(conn)
        except (DatabaseError, Inconclusive, psycopg.Error) as error:
            log.warning("catalog was not read", reason=str(error).strip())  # the scan meets the same, and says so

    def target(self, state: TableState) -> Target:
        return Target(
            log=state.head.id,
            table=state.name,
            generation=state.generation,
            oid=state.oid,
            plan=state.plan,
            open_scan=lambda: self.scanning.recorded(state),
            settled_xid=state.settled_xid,
        )

    # -- findings -------------------------------------------------------------------------------------------------------------

    def approve(self, body: dict[str, Any]) -> Finding:
        """Accept what a finding is about, as signed by an operator.

        An accepted change of a definition begins a new generation of its table; an accepted gap, of every table in which no row
        is still in doubt (where one is, the rows have to be decided first, and the old generation still names them).
        """
        if self.approvals.get(str(body.get("finding"))).cls in COVERAGE_CLASSES:
            with suppress(WitnzError):  # what cannot be looked at is found later
                self._look()  # a gap that is over is accepted as a whole
            self.chores.journal_findings(0.0)  # and none with another whose finding the journal does not know yet
            self.bridging.step()
        finding = self.approvals.approve(body)
        if self.peering is None:  # among several whoever leads does the rest when it carries out the record
            self.protection.begin_after_accept()
        return finding

    def _follow_accept(self, record: Record) -> None:
        """What an operator decided, whichever node was asked."""
        self.approvals.carry_out(record)
        self.bridging.followed_accept(record)

    def decide(self, record_type: str, body: dict[str, Any]) -> int:
        """Journal what an operator signed, a record of one of DECISIONS; its seq.

        Raises ProofError if the journal refuses it, UsageError for a decision that is not of these.
        """
        if record_type not in DECISIONS:
            raise UsageError(f"a {record_type} record is not made this way")
        if record_type == "erase":
            return self.erasing.order(body)
        seq = self.journal.propose(record_type, body)
        if record_type in ("prune", "key", "config"):
            self.following.follow(seq)
        if record_type == "unprotect":
            self.generations.end(body["table"])
        return seq

    def note_operator(self, action: str, detail: str) -> None:
        """Journal that somebody did something through this node (formats.md 4, ``operator``)."""
        self.journal.propose("operator", {"action": action[:4096], "detail": detail[:4096]})

    # -- connections ----------------------------------------------------------------------------------------------------------

    def catalog(self) -> psycopg.Connection[Any]:
        """A connection to look at the catalog with.  Raises what :func:`classify_error` makes of a failure."""
        try:
            return connect(self.conninfo, application_name="witnz catalog")
        except psycopg.Error as error:
            raise classify_error(error) from error

    @property
    def path(self) -> Path:
        return self.data.path


class _StreamOf:
    """The node's capture, looked up when it is asked: the openings are made before it."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def hold(self) -> Any:
        return self._node.capture.hold()

    def await_mark(self, nonce: bytes, patience: Patience) -> None:
        self._node.capture.await_mark(nonce, patience)
