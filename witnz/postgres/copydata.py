"""What libpq holds of a COPY, many messages at a time (PostgreSQL documentation 34.10, ``PQgetCopyData`` in its async mode).

Nothing but ``drained`` waits or reads a socket.  To ask psycopg for each message costs about a microsecond, a good part of
what a row costs at all; where the package was installed with a C compiler the same loop runs in C (``_fast_copy.pyx``), over
the very libpq that psycopg is linked with.  The functions in Python are the reference.

``told`` is what libpq said last: positive: it was not asked any further, there may be more; 0: no more for now; -1: the COPY
has ended.  Its -2, an error, is raised as psycopg's OperationalError.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Final

import psycopg

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

try:
    from witnz.postgres import _fast_copy
except ImportError:
    _fast_copy = None  # type: ignore[assignment]

__all__ = ["HEADER_BYTES", "XLOGDATA", "copied", "copied_plainly", "drained", "drained_plainly", "received", "received_plainly"]

HEADER_BYTES: Final = 25
"""Of an XLogData message: its type, start and end of WAL, the server's clock; what it carries follows."""

XLOGDATA: Final = ord("w")


def copied_plainly(pgconn: PGconn, max_bytes: int) -> tuple[bytes, int]:
    """(data, told): the messages that are there, concatenated, until they hold ``max_bytes`` or more."""
    get = pgconn.get_copy_data
    found: list[bytes] = []
    volume, told = 0, 1
    while volume < max_bytes:
        told, data = get(1)
        if told <= 0:
            break
        found.append(data.tobytes())
        volume += told
    return b"".join(found), told


def drained_plainly(pgconn: PGconn, max_bytes: int, wait_ms: int) -> tuple[bytes, int]:
    """:func:`copied`, and then what the socket has, as long as more comes within ``wait_ms`` (0: what is there now)."""
    poller = select.poll()
    poller.register(pgconn.socket, select.POLLIN)
    found: list[bytes] = []
    volume = 0
    while True:
        data, told = copied_plainly(pgconn, max_bytes - volume)
        found.append(data)
        volume += len(data)
        if told < 0 or volume >= max_bytes or not poller.poll(wait_ms):
            return b"".join(found), told
        pgconn.consume_input()


def received_plainly(pgconn: PGconn, payloads: list[bytes], max_messages: int, max_bytes: int) -> tuple[int, int, bytes | None]:
    """(bytes, told, other): append what the XLogData messages that are there carry to ``payloads``.

    Until that has ``max_messages``, or these messages have ``max_bytes`` or more: ``bytes`` is how many they had.  ``other`` is
    the first message that is no XLogData, or an empty one, whole: nothing behind it was taken.
    """
    get, add = pgconn.get_copy_data, payloads.append
    taken, told = 0, 1
    while len(payloads) < max_messages and taken < max_bytes:
        told, data = get(1)
        if told <= 0:
            break
        if told <= HEADER_BYTES or data[0] != XLOGDATA:
            return taken, told, data.tobytes()
        add(data[HEADER_BYTES:].tobytes())
        taken += told
    return taken, told, None


def _copied_quickly(pgconn: PGconn, max_bytes: int) -> tuple[bytes, int]:
    data, told = _fast_copy.copied(_address(pgconn), max_bytes)
    return data, _checked(pgconn, told)


def _drained_quickly(pgconn: PGconn, max_bytes: int, wait_ms: int) -> tuple[bytes, int]:
    data, told = _fast_copy.drained(_address(pgconn), pgconn.socket, max_bytes, wait_ms)
    return data, _checked(pgconn, told)


def _received_quickly(
    pgconn: PGconn, payloads: list[bytes], max_messages: int, max_bytes: int
) -> tuple[int, int, bytes | None]:
    taken, told, other = _fast_copy.received(_address(pgconn), payloads, max_messages, max_bytes)
    return taken, _checked(pgconn, told), other


def _address(pgconn: PGconn) -> int:
    """Where libpq's own structure is; psycopg's protocol class does not tell of it, its implementations do."""
    address: int | None = pgconn.pgconn_ptr  # type: ignore[attr-defined]
    if not address:
        raise psycopg.OperationalError("the connection is closed")
    return address


def _checked(pgconn: PGconn, told: int) -> int:
    if told == -2:
        raise psycopg.OperationalError(f"reading a COPY failed: {pgconn.get_error_message()}")
    return told


def lines_in_plainly(data: bytes) -> int:
    """How many newlines there are."""
    return data.count(b"\n")


_COMPILED = hasattr(_fast_copy, "lines_in")  # one that was built from an older source is no twin
copied = _copied_quickly if _COMPILED else copied_plainly
drained = _drained_quickly if _COMPILED else drained_plainly
lines_in = _fast_copy.lines_in if _COMPILED else lines_in_plainly  # a third of what bytes.count takes
received = _received_quickly if _COMPILED else received_plainly
