"""The capture thread: one replication stream, one recorder, one position that is acknowledged only when it is durable.

Rules of this file:

1.  An LSN is acknowledged to PostgreSQL only after everything up to it is durable here, and after the acknowledgement itself is
    (``acked``); so a slot that confirms more than ``acked`` was moved by somebody else, and that is a gap.
2.  Between transactions, with everything received durable, the end of WAL that a keepalive names is acknowledged too: an idle
    table must not retain WAL, nor block the server's shutdown.
3.  What is received is committed as soon as the stream is drained, and at least every COMMIT_S while it is not.
4.  Errors are retried with back-off and jitter, the slower the more they look like something that somebody has to put right
    (a full disk, a password, a missing grant, another database); only what no trying mends stops the capture: a damaged store,
    a mistake in this program.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import structlog

from witnz.ending import end_threads
from witnz.errors import (
    DatabaseError,
    DatabaseUnreachable,
    Inconclusive,
    KeyProblem,
    NoQuorum,
    PeerError,
    SlotLost,
    StoreError,
    StoreFull,
    StoreLocked,
    WitnzError,
)
from witnz.node.marks import Marks, Progress
from witnz.node.recorder import Outcome, Recorder
from witnz.postgres import slot as slots
from witnz.postgres.backoff import Backoff
from witnz.postgres.pgoutput import Commit, Decoder, Event
from witnz.postgres.session import FOREIGN, Conninfo, classify_error, connect
from witnz.postgres.silence import Silence
from witnz.postgres.sqlstate import IN_RECOVERY, PUBLICATION_MISSING
from witnz.postgres.stream import Batch, ReplicationStream
from witnz.postgres.xid import parse_snapshot
from witnz.store import meta, undo
from witnz.store.database import Database, raise_store_error
from witnz.verify.stream import Patience

log = structlog.get_logger(__name__)

MAX_MESSAGES = 4096
COMMIT_S = 0.05
IDLE_READ_S = 0.2
STEP_S = 0.02  # between two steps of what is being opened, while nothing arrives
POLL_S = 1.0
ACK_IDLE_S = 1.0
UNREACHABLE_AFTER_S = 10.0
PASSING = frozenset({PUBLICATION_MISSING, IN_RECOVERY, FOREIGN})
"""It may be made again; a restored server ends its recovery; an operator decides."""

# Gone in a moment, most likely; of a lost slot the next connection finds the state and records the gap.
SOON = (DatabaseUnreachable, SlotLost, StoreLocked)
# Gone once somebody has put it right.
LATER = (DatabaseError, KeyProblem, StoreFull, Inconclusive, NoQuorum, PeerError)


@dataclass(slots=True)
class SourceStatus:
    """What ``status`` says of the source; times are monotonic seconds."""

    connected: bool = False
    lag_bytes: int | None = None
    retained_bytes: int | None = None
    last_event: float | None = None
    since: float = field(default_factory=time.monotonic)
    error: str = ""
    code: str = ""  # of that error
    hint: str = ""


@dataclass(slots=True)
class Hooks:
    """What the node does at the capture's turning points; all called on the capture thread.

    ``reopens`` is given a function that tells up to where everything is durable and acknowledged.
    """

    between: Callable[[Recorder], bool]  # nothing is uncommitted: openings may step; True: they want to again soon
    recorded: Callable[[Outcome], None]  # a commit became durable
    connected: Callable[[psycopg.Connection], bool]  # before the stream starts; True: the stored position was set anew
    unreachable: Callable[[str], None]
    retained: Callable[[int], str | None] = lambda retained_bytes: None  # why a slot that holds back so much must go
    opened: Callable[[int], None] = lambda start_lsn: None  # the stream begins there
    reopens: Callable[[Callable[[], int]], bool] = lambda acked: False  # whether the stream is to begin anew there, now


class _OpenAnew(Exception):
    """The stream is to be opened anew.  Nothing is uncommitted; what was received beyond that comes again."""


class Capture:
    """Runs until stopped.  Also what verification calls the stream: ``hold`` and ``await_mark``."""

    def __init__(
        self,
        db: Database,
        conninfo: Conninfo,
        slot: str,
        publications: tuple[str, ...],
        make: Callable[[], Recorder],
        hooks: Hooks,
    ):
        self._db, self._conninfo, self._slot, self._publications = db, conninfo, slot, publications
        self._make, self._hooks = make, hooks
        self.recorder = make()
        self.status = SourceStatus()
        self.fatal: WitnzError | None = None
        self.last_error: WitnzError | None = None  # why there is no connection; None while there is one
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._holds: dict[int, int] = {}
        self._hold_lock = threading.Lock()
        self._received = 0  # messages
        self._stepping = False
        self._marks = Marks(conninfo, self._progress, self._ended)
        self._backoff, self._slow_backoff = Backoff(0.1, 10.0), Backoff(1.0, 15.0)
        self._silence = Silence()
        self._void = False  # the recorder was abandoned, and the store could not be read for a new one
        self._reached = 0  # everything up to this LSN was received and is durable
        self._told = 0  # the WAL end of a keepalive of this connection that was not acknowledged yet, 0 for none
        self._polled = 0.0
        self._acked_at = 0.0
        self._committed_at = 0.0

    # -- life -----------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    @property
    def server_answers(self) -> bool:
        """Whether the server was there when it was asked last, be it to say that there is nothing to read from."""
        return self.status.connected or not isinstance(self.last_error, DatabaseUnreachable | None)

    @property
    def lacks_publication(self) -> bool:
        """Whether the stream ended because of a publication that is not there, or was not when something happened."""
        return self.last_error is not None and self.last_error.code == PUBLICATION_MISSING

    def stop(self) -> None:
        """Commit what was received and end the stream."""
        self._stop.set()
        if self._thread is not None:
            end_threads(self._thread)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._stream()
            except psycopg.Error as error:
                self._failed(classify_error(error))
            except WitnzError as error:
                self._failed(error)
            except sqlite3.Error as error:
                self._failed(_store_error(error, self._db.path))
            except BaseException as error:  # the thread ends with it; the node must not look as if it still recorded
                self._failed(WitnzError(f"capture failed: {type(error).__name__}: {error}"))
                raise

    def _failed(self, error: WitnzError) -> None:
        with suppress(WitnzError, sqlite3.Error):  # rolling back may fail for the same reason
            self.recorder.abandon(error)
        self.last_error = error
        now = time.monotonic()
        if self.status.connected:
            self.status.connected, self.status.since = False, now
        self.status.error, self.status.code, self.status.hint = error.message, error.code, error.hint
        if not isinstance(error, SOON + LATER):
            self._end(error)
            return
        log.warning("recording was interrupted", code=error.code, reason=error.message, hint=error.hint)
        self._void = True
        try:
            self._renew()
            if now - self.status.since > UNREACHABLE_AFTER_S and not isinstance(error, StoreError):
                self._hooks.unreachable(error.message)
        except (StoreFull, StoreLocked):
            pass  # the next attempt begins with it
        except WitnzError as broken:  # the store itself can not be read or written any more
            self._end(broken)
            return
        soon = isinstance(error, SOON) or error.code in PASSING
        self._stop.wait((self._backoff if soon else self._slow_backoff).next())

    def _renew(self) -> None:
        """A recorder made of what the store holds, in place of one whose memory is void."""
        if self._void:
            self.recorder = self._make()
            self._void = False

    def _end(self, error: WitnzError) -> None:
        """What will not pass by itself: stop, with the reason, and look stopped."""
        self.fatal = error
        log.error("capture stopped", code=error.code, reason=error.message, hint=error.hint)
        self._stop.set()

    # -- one connection -------------------------------------------------------------------------------------------------------

    def _stream(self) -> None:
        self._renew()
        with connect(self._conninfo, application_name="witnz capture") as sql:
            if self._hooks.connected(sql):
                self.recorder, self._reached = self._make(), 0  # the position is another one now
            self._poll(sql)
            acked = self._acked()
            stream = ReplicationStream(
                self._conninfo, self._slot, self._publications, start_lsn=acked,
                server_version_num=sql.info.server_version, silence_factor=self._silence.factor,
            )  # fmt: skip
            try:
                self._check_owned(sql, acked)
                self._hooks.opened(acked)
                self._backoff.reset()
                self.status.connected, self.status.since, self.status.error = True, time.monotonic(), ""
                self.status.code = self.status.hint = ""
                self.last_error = None
                log.info("source was connected", slot=self._slot)
                self._loop(stream, sql)
            except _OpenAnew:
                pass
            finally:
                stream.close()
                if stream.silent:
                    self._silence.ended(stream.received_lsn)

    def _check_owned(self, sql: psycopg.Connection, acked: int) -> None:
        """Now that the slot is ours nobody else can move it: it must not confirm more than was acknowledged."""
        state = slots.slot_state(sql, self._slot)
        if state is None:
            raise SlotLost(f"replication slot {self._slot} disappeared while it was being used")
        if state.confirmed_flush_lsn is not None and state.confirmed_flush_lsn > max(acked, self._acked()):
            raise SlotLost(f"replication slot {self._slot} was moved while this node connected")

    def _loop(self, stream: ReplicationStream, sql: psycopg.Connection) -> None:
        decoder = Decoder()
        self._told = 0  # what came before it over another connection may have been given up
        self.recorder.reconnected()
        self._between(sql)
        while not self._stop.is_set():
            recorder = self.recorder
            until_commit_s = max(0.0, self._committed_at + COMMIT_S / 2 - time.monotonic())
            commits_soon = recorder.dirty and not recorder.in_transaction
            idle_s = STEP_S if self._stepping else IDLE_READ_S
            batch = stream.read(MAX_MESSAGES, min(until_commit_s, idle_s) if commits_soon else idle_s)
            if batch.payloads:
                self.status.last_event = time.monotonic()
                self._received += len(batch.payloads)
                self._take(stream, sql, decoder.decode(batch.payloads))
            self._settle_down(stream, batch)
            self._between(sql)
        if self.recorder.dirty and not self.recorder.in_transaction:
            self._commit(stream)
        elif self.recorder.dirty:
            self.recorder.abandon(DatabaseUnreachable("stopped within a transaction"))

    def _take(self, stream: ReplicationStream, sql: psycopg.Connection, events: Sequence[Event]) -> None:
        """Apply what came.  It seldom ends with a transaction while the stream lags: then what does is committed on the way."""
        if not events:
            return  # only of what the decoder keeps to itself: the names of types
        if time.monotonic() - self._committed_at >= COMMIT_S and not isinstance(events[-1], Commit):
            whole = next((at for at in range(len(events) - 1, 0, -1) if isinstance(events[at - 1], Commit)), 0)
            if whole:
                self.recorder.apply(events[:whole])
                if self.recorder.dirty:
                    self._commit(stream)
                self._between(sql)
                events = events[whole:]
        self.recorder.apply(events)

    def _between(self, sql: psycopg.Connection) -> None:
        """What is due once nothing is uncommitted and no transaction is half received."""
        if self.recorder.dirty or self.recorder.in_transaction:
            return
        self._stepping = self._hooks.between(self.recorder)
        if time.monotonic() - self._polled >= POLL_S and not self.recorder.dirty:
            self._poll(sql)
        if not self.recorder.dirty and self._hooks.reopens(self._acked):
            raise _OpenAnew

    def _settle_down(self, stream: ReplicationStream, batch: Batch) -> None:
        """Commit when it is time, and acknowledge."""
        recorder, now = self.recorder, time.monotonic()
        if recorder.in_transaction:
            return
        if batch.wal_end is not None:
            self._told = max(self._told, batch.wal_end)
        if recorder.dirty:
            drained = len(batch.payloads) < MAX_MESSAGES
            if now - self._committed_at >= COMMIT_S or (drained and now - self._committed_at >= COMMIT_S / 2):
                self._commit(stream)
            return
        self._reached = max(self._reached, self._told)
        if self._told and now - self._acked_at >= ACK_IDLE_S:
            self._acknowledge_idle(stream)

    def _acknowledge_idle(self, stream: ReplicationStream) -> None:
        """Stand for what the last keepalive named.  A quiet server may not send another one for long, and members that lost
        their slots wait until this one has passed where theirs begin."""
        told, self._told = self._told, 0
        if told <= self._acked():
            return
        with self._db.write() as conn:
            meta.save_value(conn, "acked", str(told))
        self._slow_backoff.reset()  # not sooner: a store that can be read may still refuse what comes
        self._silence.passed()
        stream.ack(told, force=True)
        self._acked_at = time.monotonic()

    def _commit(self, stream: ReplicationStream) -> None:
        recorder = self.recorder
        meta.save_value(recorder.connection(), "acked", str(max(recorder.position, self._acked(recorder.connection()))))
        outcome = recorder.commit()
        self._committed_at = time.monotonic()
        self._slow_backoff.reset()
        self._silence.passed()
        self._reached = max(self._reached, recorder.position)
        for nonce in outcome.marks:
            self._marks.recorded(nonce)
        self._hooks.recorded(outcome)
        stream.ack(recorder.position)  # last: a connection that is lost here takes nothing with it

    def _acked(self, conn: sqlite3.Connection | None = None) -> int:
        if conn is not None:
            return meta.load_number(conn, "acked") or 0
        with self._db.read() as reader:
            return meta.load_number(reader, "acked") or 0

    # -- the horizon ----------------------------------------------------------------------------------------------------------

    def _poll(self, sql: psycopg.Connection) -> None:
        """Learn which transactions every new snapshot sees, and forget the undo of those nobody asks about any more."""
        self._polled = time.monotonic()
        row = sql.execute(
            "SELECT pg_current_snapshot()::text, pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint,"
            " pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint"
            " FROM (SELECT 1) one LEFT JOIN pg_replication_slots ON slot_name = %s",
            [self._slot],
        ).fetchone()
        if row is None:
            return
        snapshot = parse_snapshot(row[0])
        self.status.lag_bytes, self.status.retained_bytes = row[1], row[2]
        if row[2] is not None and (reason := self._hooks.retained(row[2])) is not None:
            raise SlotLost(reason)  # the next connection gives the slot up and records the gap
        recorder = self.recorder
        recorder.xid_near = max(recorder.xid_near, snapshot.xmax)
        with self._hold_lock:
            horizon = min([snapshot.xmin, *self._holds.values()])
            if horizon <= recorder.horizon:
                return
            recorder.horizon = horizon
        with self._db.write() as conn:
            undo.settle(conn, horizon)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """While held, the horizon does not move (see :class:`witnz.verify.stream.Stream`)."""
        token = object()
        with self._hold_lock:
            self._holds[id(token)] = self.recorder.horizon
        try:
            yield
        finally:
            with self._hold_lock:
                self._holds.pop(id(token), None)

    def await_mark(self, nonce: bytes, patience: Patience) -> None:
        """Emit a transactional marker and wait for it (see :class:`witnz.verify.stream.Stream`)."""
        self._marks.await_mark(nonce, patience)

    def _progress(self) -> Progress:
        recorder = self.recorder
        return Progress(max(self._reached, recorder.position), self._received, recorder.recorded)

    def _ended(self) -> str:
        if self.fatal is not None:
            return f"the replication stream has ended: {self.fatal.message}"
        if isinstance(error := self.last_error, StoreFull):  # it moves, but what comes is thrown away and comes again
            return f"recording waits until the store can be written: {error.message}"
        return "the node is stopping" if self._stop.is_set() else ""


def _store_error(error: sqlite3.Error, path: Path) -> WitnzError:
    """The store's error behind one of SQLite that came up outside its transactions' own translation."""
    try:
        raise_store_error(error, path)
    except WitnzError as known:
        return known
    except sqlite3.Error:
        return WitnzError(f"store {path}: {error}")
