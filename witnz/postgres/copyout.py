"""The rows of a ``COPY … TO STDOUT`` as raw lines, taken from libpq without a Python object more than each line needs.

The server sends each row as one CopyData message, the line with its newline (PostgreSQL protocol, "COPY Operations"); a client
is told not to rely on that, so lines are found by their newlines, which COPY's text format never writes inside a row.  Memory
is bounded by one batch: as long as nobody asks for the next one nothing is read, and the server waits.

What is waited for is the socket, never libpq: its blocking calls would hold all other threads of the process.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg import pq
from psycopg.errors import error_from_result

from witnz.postgres.copydata import drained, lines_in

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

MAX_BATCH_BYTES: Final = 4 << 20
BLOCK_BYTES: Final = 128 << 10  # while that is dealt with, the server fills the socket's buffers
_ABANDON_S: Final = 5.0
_POLL_S: Final = 1.0
_POLL_TLS_S: Final = 0.05  # decrypted bytes may wait inside the TLS library while the socket is quiet


class CopyOut:
    """One running ``statement`` on ``connection``, which does nothing else meanwhile.

    ``silence_timeout_s``: how long the server may send nothing before it counts as gone (it sends nothing while it passes over
    dead rows).  Errors come as psycopg's: the server's own by SQLSTATE, OperationalError for a connection that broke.
    """

    def __init__(self, connection: psycopg.Connection, statement: bytes, *, silence_timeout_s: float = 600.0) -> None:
        self._connection = connection
        self._pgconn: PGconn = connection.pgconn
        self._silence_timeout_s = silence_timeout_s
        self._poller = select.poll()
        self._poller.register(self._pgconn.socket, select.POLLIN)
        self._poll_ms = int(1000 * (_POLL_TLS_S if self._pgconn.ssl_in_use else _POLL_S))
        self._quiet_since = time.monotonic()
        self.rows = 0
        """Rows read so far."""
        self.running = True
        """Whether the server may still send; False after the last row, an error or :meth:`abandon`."""
        self._pgconn.send_query(statement)
        self._expect(self._result(), pq.ExecStatus.COPY_OUT)

    def blocks(self, least_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
        """The remaining rows, a newline behind each, in blocks of at least so many bytes and whole rows."""
        rest = b""
        while True:
            data, told = self._gathered(least_bytes)
            end = data.rfind(b"\n") + 1
            block, rest = (rest + data[:end], data[end:]) if end else (b"", rest + data)
            if block:
                self.rows += lines_in(block)
                yield block
                self._quiet_since = time.monotonic()  # the reader's time is not the server's silence
            if told < 0:
                break
        self._finish(rest)

    def lines(self, batch: int = 4096) -> Iterator[list[bytes]]:
        """The remaining rows without newlines, in lists of ``batch`` lines, fewer where they hold more than some 4 MiB."""
        ready: list[bytes] = []
        volume = 0
        for block in self.blocks():
            ready += block[:-1].split(b"\n")
            volume += len(block)
            while len(ready) >= batch or (ready and volume >= MAX_BATCH_BYTES):
                yield ready[:batch]
                ready = ready[batch:]
            if not ready or volume >= MAX_BATCH_BYTES:
                volume = 0
        if ready:
            yield ready

    def abandon(self) -> None:
        """Stop the server's sending and leave the connection usable; close it where that fails."""
        if not self.running:
            return
        self.running = False
        self._quiet_since = time.monotonic()
        self._silence_timeout_s = min(self._silence_timeout_s, _ABANDON_S)
        try:
            self._connection.cancel_safe(timeout=_ABANDON_S)
            while (taken := self._pgconn.get_copy_data(1)[0]) >= 0:
                if taken == 0:
                    self._wait()
            while self._result() is not None:
                pass
        except psycopg.Error:
            self._connection.close()

    def _gathered(self, least_bytes: int) -> tuple[bytes, int]:
        """(data, told): what comes next, at least so many bytes but at the end; told is negative there."""
        parts: list[bytes] = []
        volume = 0
        while True:
            data, told = drained(self._pgconn, least_bytes - volume, self._poll_ms)
            if data:
                parts.append(data)
                volume += len(data)
                self._quiet_since = time.monotonic()
            if told < 0 or volume >= least_bytes:
                return b"".join(parts), told
            if not data:
                self._wait()

    def _finish(self, rest: bytes) -> None:
        result = self._result()
        self._expect(result, pq.ExecStatus.COMMAND_OK)
        told = result.command_tuples if result is not None else None
        while self._result() is not None:
            pass
        self.running = False
        if rest or told != self.rows:
            raise psycopg.DataError(
                f"COPY: the server counts {told} rows, {self.rows} arrived, {len(rest)} bytes are left over"
            )

    def _result(self) -> PGresult | None:
        while self._pgconn.is_busy():
            self._wait()
        return self._pgconn.get_result()

    def _expect(self, result: PGresult | None, status: pq.ExecStatus) -> None:
        if result is not None and result.status == status:
            return
        self.running = False
        if result is None:
            raise psycopg.OperationalError("COPY: the connection ended without a result")
        error = error_from_result(result, encoding="utf-8")
        while self._result() is not None:
            pass
        raise error

    def _wait(self) -> None:
        """Return when the server may have sent something.  Raises OperationalError for a silence that is too long."""
        if self._poller.poll(self._poll_ms):
            self._quiet_since = time.monotonic()
        elif time.monotonic() - self._quiet_since > self._silence_timeout_s:
            self.running = False
            self._connection.close()
            raise psycopg.OperationalError(f"COPY: the server sent nothing for {self._silence_timeout_s:g} s")
        self._pgconn.consume_input()
