"""The replication stream of one slot: raw pgoutput messages in, acknowledgements out.

    server: "w" start(8) end(8) time(8) message | "k" end(8) time(8) reply(1)
    client: "r" written(8) flushed(8) applied(8) time(8) reply(1)

(PostgreSQL documentation 55.4 "Streaming Replication Protocol".)  psycopg has no replication API; this uses its libpq layer,
``psycopg.pq``.  Rules of this file:

1.  A status goes out every ``status_interval_s``, whatever is arriving: a server that hears nothing for wal_sender_timeout ends
    the stream, and its own request for a reply may be queued behind megabytes that we have not read.  The timer runs while
    :meth:`ReplicationStream.read` runs; who does not call it for long calls :meth:`ReplicationStream.beat`.  It asks how far
    the server has read: while that decodes what other tables wrote, it sends nothing of its own accord.  A server that then
    says nothing for ``silence_s`` is gone, although something on the way may still acknowledge TCP in its name.
2.  Nothing is acknowledged beyond what was received: the server would believe it and skip what lies between, without a word.
3.  ``wal_end`` of a batch is what an owner with nothing undurable may acknowledge, although no transaction of its tables ends
    there.  If nobody does, an idle slot retains WAL for ever and the server's fast shutdown never ends.
4.  Every end of the stream is an error: DatabaseUnreachable where connecting again is right, SlotLost where the slot can never
    be read again, ReplicationImpossible otherwise.
"""

from __future__ import annotations

import contextlib
import select
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import psycopg
from psycopg import pq, sql

from witnz.core.lsn import format_lsn
from witnz.core.timestamp import PG_EPOCH_US
from witnz.errors import DatabaseUnreachable, FormatError, ReplicationImpossible, SlotLost, WitnzError
from witnz.postgres.backoff import Backoff
from witnz.postgres.copydata import received
from witnz.postgres.session import Conninfo, connect
from witnz.postgres.slot import check_slot_name, slot_state
from witnz.postgres.sqlstate import classify_error, error_for

_LOST: Final = "what was written since the last acknowledgement cannot be streamed any more; witnz reports the gap"
_ACK_INTERVAL_S: Final = 0.1
_CLOSE_S: Final = 2.0
_KEEPALIVE: Final = ord("k")
_COMMIT: Final = ord("C")
_COMMIT_BYTES: Final = 26
_KEEPALIVE_FORM: Final = struct.Struct(">cQqB")
_commit_end = struct.Struct(">Q").unpack_from
_format_status = struct.Struct(">cQQQqB").pack


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive messages.  ``wal_end``: nothing is left to send up to there; None if a message came later than that word."""

    payloads: list[bytes]
    wal_end: int | None


class ReplicationStream:
    """One START_REPLICATION.  Not for use by several threads at once."""

    def __init__(
        self,
        conninfo: Conninfo,
        slot: str,
        publications: str | Sequence[str],
        *,
        start_lsn: int,
        server_version_num: int | None = None,
        application_name: str = "witnz stream",
        status_interval_s: float = 10.0,
        silence_factor: int = 1,
        busy_timeout_s: float = 5.0,
        max_batch_bytes: int = 16 << 20,
    ) -> None:
        """Connect and begin at ``start_lsn`` (the slot's own position, if that is later; 0 for exactly that).

        ``publications``: one name, or several; a table in any of them is streamed.
        ``server_version_num`` chooses the options, by default the server's word.  A slot whose last reader has not quite gone
        is waited for, at most ``busy_timeout_s``.  The limit of silence is that of ``conninfo``, or the server's own
        wal_sender_timeout where that is longer (within a transaction that it has nothing of to send, it answers twice in that
        time), times ``silence_factor``.  A batch ends with the message that makes it larger than ``max_batch_bytes``
        (one message may have up to 1 GB).

        Raises DatabaseUnreachable, SlotLost, KeyProblem or ReplicationImpossible.
        """
        self.slot = check_slot_name(slot)
        self.received_lsn = 0
        """The end of the last complete transaction, or the WAL end of the last keepalive, whichever is later."""
        self.acked_lsn = 0
        self._connection = connect(conninfo, replication=True, application_name=application_name)
        self.server_version_num = server_version_num or self._connection.info.server_version
        self.backend_pid = self._connection.info.backend_pid
        self._pgconn = self._connection.pgconn
        self.silence_s = self._silence_of(conninfo) * silence_factor
        self.silent = False
        """Whether the stream ended because the server did not answer any more."""
        self._asked_at: float | None = None  # when the server was first asked something that it has not answered
        self._status_interval_s = min(status_interval_s, self.silence_s / 2)
        self._max_batch_bytes = max_batch_bytes
        self._poll = select.poll()
        self._doing = f"reading replication slot {slot}"
        self._error: WitnzError | None = None
        self._unsent_ack = False
        self._unflushed = False
        self._status_at = time.monotonic()
        try:
            names = [publications] if isinstance(publications, str) else publications
            self._start(start_lsn, names, busy_timeout_s)
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- starting ----

    def _start(self, start_lsn: int, publications: Sequence[str], busy_timeout_s: float) -> None:
        options = {"proto_version": "1", "publication_names": ",".join(map(_quote, publications))}
        if self.server_version_num >= 140000:
            options["messages"] = "true"
        listed = sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(name), sql.Literal(value)) for name, value in options.items()
        )
        command = sql.SQL("START_REPLICATION SLOT {} LOGICAL {} ({})").format(
            sql.Identifier(self.slot), sql.SQL(format_lsn(start_lsn)), listed
        )
        deadline = time.monotonic() + busy_timeout_s
        backoff = Backoff(0.02, 0.5)
        while True:
            try:
                self._connection.execute(command)
            except psycopg.errors.ObjectInUse as error:
                if time.monotonic() > deadline:
                    raise classify_error(error, doing=f"starting to read replication slot {self.slot}") from error
                time.sleep(backoff.next())
            except psycopg.Error as error:
                raise self._start_error(error) from error
            else:
                break
        if self._pgconn.transaction_status != pq.TransactionStatus.ACTIVE:
            raise ReplicationImpossible(
                "the server did not begin to stream", hint="connect to PostgreSQL directly, not to a pooler"
            )

    def _silence_of(self, conninfo: Conninfo) -> float:
        query = "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'"  # in ms, 0: none
        try:
            row = self._connection.execute(query).fetchone()
        except psycopg.Error as error:
            self._connection.close()
            raise classify_error(error, doing="asking for wal_sender_timeout") from error
        return max(conninfo.silence_s, int(row[0]) / 1000 if row else 0.0)

    def _start_error(self, error: psycopg.Error) -> WitnzError:
        """Whether the slot is gone for good is the server's word about the slot, not a sentence that may be translated."""
        doing = f"starting to read replication slot {self.slot}"
        found = classify_error(error, doing=doing)
        if not isinstance(found, ReplicationImpossible) or self._connection.closed:
            return found
        state = slot_state(self._connection, self.slot)
        if state is None:
            return SlotLost(f"{doing}: it does not exist", hint=_LOST)
        if state.lost:
            return SlotLost(f"{doing}: the server has given it up ({state.invalidation})", hint=_LOST)
        return found

    # -- reading ----

    def read(self, max_messages: int, timeout_s: float) -> Batch:
        """What has arrived, at most ``max_messages`` (one or more); if nothing has, what arrives within ``timeout_s``, if any.

        Messages that came before the stream's end are delivered first; then every call raises the error of rule 4.
        """
        payloads: list[bytes] = []
        wal_end = None
        deadline = time.monotonic() + timeout_s
        while True:
            if self._error is not None:
                raise self._error
            try:
                wal_end = self._drain(payloads, max_messages)
                self._beat()
                left_s = deadline - time.monotonic()
                if self._error is None and not payloads and wal_end is None and left_s > 0:
                    self._wait(min(left_s, self._status_due() - time.monotonic()))
                    continue
            except psycopg.Error as error:
                self._error = classify_error(error, doing=self._doing)
            if payloads or self._error is None:
                return Batch(payloads, wal_end if self._error is None else None)

    def _drain(self, payloads: list[bytes], max_messages: int) -> int | None:
        """Append what libpq and the socket hold; the WAL end of a keepalive that came after all of it."""
        room = self._max_batch_bytes
        wal_end: int | None = None
        dry = False  # nothing came when the socket was last asked
        first = len(payloads)
        while len(payloads) < max_messages and room > 0:
            had = len(payloads)
            taken, told, other = received(self._pgconn, payloads, max_messages, room)
            room -= taken
            if len(payloads) > had:
                wal_end, dry = None, False
                self._asked_at = None
            if other is not None:
                dry = False
                self._asked_at = None
                if other[0] != _KEEPALIVE or len(other) != _KEEPALIVE_FORM.size:
                    found = f"{chr(other[0])!r} of {len(other)} bytes"
                    self._error = FormatError(f"{self._doing}: expected a message w or k, found {found}")
                    break
                wal_end = self._on_keepalive(other)
            elif told == 0 and not dry:
                self._pgconn.consume_input()
                dry = True
            elif told <= 0:
                if told < 0:
                    self._error = self._end_error()
                else:
                    self._check_silence()
                break
        self._note_commit(payloads, first)
        return wal_end

    def _check_silence(self) -> None:
        """Called when the socket has just been found empty; who was away from it for long finds the answer there."""
        if self._asked_at is not None and time.monotonic() - self._asked_at > self.silence_s:
            self.silent = True
            self._error = DatabaseUnreachable(
                f"{self._doing}: the server did not answer for {self.silence_s:g} s",
                hint="the connection still stands, but nothing comes through: look at what lies between, such as a proxy",
            )

    def _note_commit(self, payloads: list[bytes], first: int) -> None:
        """How far the last transaction that ended among these reaches."""
        for payload in reversed(payloads[first:]):
            if payload[0] == _COMMIT and len(payload) == _COMMIT_BYTES:
                self.received_lsn = max(self.received_lsn, _commit_end(payload, 10)[0])
                return

    def _on_keepalive(self, data: bytes) -> int:
        _, wal_end, _, reply = _KEEPALIVE_FORM.unpack(data)
        self.received_lsn = max(self.received_lsn, wal_end)
        if reply:
            self._send_status()
        return int(wal_end)

    def _wait(self, timeout_s: float) -> None:
        """Until the socket has something, or room for what could not be written, or the time has passed."""
        wanted = select.POLLIN | (select.POLLOUT if self._unflushed else 0)
        self._poll.register(self._pgconn.socket, wanted)
        self._poll.poll(max(timeout_s, 0.0) * 1000)
        if self._unflushed:
            self._unflushed = self._pgconn.flush() != 0

    def _end_error(self) -> WitnzError:
        result = None
        with contextlib.suppress(psycopg.OperationalError):
            result = self._result(time.monotonic() + _CLOSE_S)
        if result is None or result.status != pq.ExecStatus.FATAL_ERROR:
            return DatabaseUnreachable(f"{self._doing}: the server ended the stream, as it does when it shuts down")
        sqlstate = result.error_field(pq.DiagnosticField.SQLSTATE)
        message = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY)
        return error_for(
            sqlstate.decode() if sqlstate else None,
            message.decode(errors="replace") if message else "the server ended the stream",
            doing=self._doing,
            broken=True,
        )

    # -- acknowledging ----

    def ack(self, lsn: int, *, force: bool = False) -> None:
        """Everything up to ``lsn`` is durable here; the server may forget it.

        Never goes back, and never beyond ``received_lsn``, to which a later LSN is cut.  It is sent at most every 0.1 s, the
        rest by the timer; with ``force`` at once.  Raises DatabaseUnreachable when the connection is broken.
        """
        lsn = min(lsn, self.received_lsn)
        if lsn > self.acked_lsn:
            self.acked_lsn = lsn
            self._unsent_ack = True
        if self._unsent_ack and (force or time.monotonic() >= self._status_at + _ACK_INTERVAL_S):
            self._send_safely()

    def beat(self) -> None:
        """Send a status if one is due.  Raises like :meth:`ack`."""
        if time.monotonic() >= self._status_due():
            self._send_safely(ask=not self._unsent_ack)

    def _beat(self) -> None:
        if self._error is None and time.monotonic() >= self._status_due():
            self._send_status(ask=not self._unsent_ack)

    def _status_due(self) -> float:
        return self._status_at + (_ACK_INTERVAL_S if self._unsent_ack else self._status_interval_s)

    def _send_safely(self, *, ask: bool = False) -> None:
        if self._error is not None:
            return  # the next read says why
        try:
            self._send_status(ask=ask)
        except psycopg.Error as error:
            raise classify_error(error, doing=self._doing) from error

    def _send_status(self, *, ask: bool = False) -> None:
        """``ask``: the server shall answer with a keepalive, which says how far it has read."""
        now_us = time.time_ns() // 1000 - PG_EPOCH_US
        self._pgconn.put_copy_data(_format_status(b"r", self.acked_lsn, self.acked_lsn, self.acked_lsn, now_us, ask))
        self._unflushed = self._pgconn.flush() != 0
        self._unsent_ack = False
        self._status_at = time.monotonic()
        if ask and self._asked_at is None:
            self._asked_at = self._status_at

    # -- ending ----

    def close(self) -> None:
        """Send the last acknowledgement, end the stream properly if the server plays along within 2 s, and disconnect."""
        if self._connection.closed:
            return
        with contextlib.suppress(psycopg.Error):
            if self._error is None:
                self._send_status()
                self._pgconn.put_copy_end()
                self._unflushed = self._pgconn.flush() != 0
                self._finish(time.monotonic() + _CLOSE_S)
        self._connection.close()

    def _finish(self, deadline: float) -> None:
        """Throw away what was under way, until the server confirms the end; so the slot is free when this returns."""
        size = 0
        while size >= 0 and time.monotonic() < deadline:
            size, _ = self._pgconn.get_copy_data(1)
            if size == 0:
                self._wait(deadline - time.monotonic())
                self._pgconn.consume_input()
        while size < 0 and self._result(deadline) is not None:
            pass  # the end of the copy, and of the command

    def _result(self, deadline: float) -> pq.abc.PGresult | None:
        """The next result, None behind the last one.  Raises OperationalError where it does not come in time.

        PQgetResult itself would wait without an end, and with the interpreter's lock held: the whole process would stand.
        """
        while self._pgconn.is_busy():
            if time.monotonic() > deadline:
                raise psycopg.OperationalError("the server does not say how the stream ended")
            self._wait(deadline - time.monotonic())
            self._pgconn.consume_input()
        return self._pgconn.get_result()


def _quote(name: str) -> str:
    """An identifier in a list of names, as publication_names wants it."""
    return '"' + name.replace('"', '""') + '"'
