"""One TLS connection to a peer: OpenSSL over memory, its bytes carried by an asyncio stream, frames in and out.

Everything here runs on the channel's I/O thread, but :meth:`Link.post`.  Two queues go out: *urgent* (the engines' frames)
before *bulk* (requests and responses in chunks), so that a long answer does not hold up a heartbeat.  Both are bounded.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final

from OpenSSL import SSL

from witnz.cluster.frames import HELLO, MAX_FRAME, PING, FrameReader, check_hello, format_frame, format_hello
from witnz.cluster.tls import PROTOCOL, Meeting

HANDSHAKE_S: Final = 5.0
PING_S: Final = 1.0
IDLE_S: Final = 5.0
STALL_S: Final = 10.0
MAX_URGENT_BYTES: Final = 32 << 20
MAX_BULK_BYTES: Final = 64 << 20
_READ_BYTES = 256 << 10
_BATCH_BYTES = 256 << 10
_MAX_HANDSHAKE_BYTES = 64 << 10
_PING = format_frame(PING, b"")


class Link:
    """A connection, from its TCP handshake to its end.  ``peer`` is the member's id once :meth:`open` has returned."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: SSL.Context, expected: str | None
    ) -> None:
        self._reader, self._writer = reader, writer
        self._loop = asyncio.get_running_loop()
        self.meeting = Meeting(expected)
        self._tls = SSL.Connection(context, None)
        self._tls.set_app_data(self.meeting)
        if expected is None:
            self._tls.set_accept_state()
        else:
            self._tls.set_connect_state()
        self._lock = threading.Lock()
        self._urgent: deque[bytes] = deque()
        self._bulk: deque[bytes] = deque()
        self._waiting_bytes = {True: 0, False: 0}
        self._wake = asyncio.Event()
        self._frames = FrameReader()
        self.closed = False

    @property
    def peer(self) -> str:
        assert self.meeting.peer is not None
        return self.meeting.peer

    @property
    def address(self) -> str:
        """Where the other end is, for the log."""
        found = self._writer.get_extra_info("peername") or ("?", 0)
        return f"{found[0]}:{found[1]}"

    async def open(self, cluster: str) -> None:
        """Handshake and hello.  Raises ConnectionError, FormatError or TimeoutError, and nothing that was sent is believed."""
        async with asyncio.timeout(HANDSHAKE_S):
            await self._handshake()
            self._send(format_frame(HELLO, format_hello(cluster)))
            kind, body = await self._next_frame()
        if kind != HELLO:
            raise ConnectionError("expected a hello")
        check_hello(body, cluster)
        self._frames.limit = MAX_FRAME

    async def frames(self) -> AsyncIterator[tuple[int, bytes]]:
        """Every frame until the connection ends, by one of the errors of :meth:`open`."""
        while True:
            async with asyncio.timeout(IDLE_S):
                frame = await self._next_frame()
            yield frame

    async def write_out(self) -> None:
        """Send what was posted, and a ping where nothing was; until the connection ends."""
        while True:
            batch = self._take()
            if not batch:
                try:
                    async with asyncio.timeout(PING_S):
                        await self._wake.wait()
                except TimeoutError:
                    batch = _PING
                else:
                    continue
            self._send(batch)
            async with asyncio.timeout(STALL_S):
                await self._writer.drain()

    def post(self, frames: Iterable[bytes], *, urgent: bool) -> bool:
        """Queue frames, all or none; False where that would be too much.  May be called by any thread."""
        frames = list(frames)
        size = sum(map(len, frames))
        with self._lock:
            if self.closed or self._waiting_bytes[urgent] + size > (MAX_URGENT_BYTES if urgent else MAX_BULK_BYTES):
                return False
            self._waiting_bytes[urgent] += size
            (self._urgent if urgent else self._bulk).extend(frames)
        return self.on_loop(self._wake.set)

    def on_loop(self, work: Callable[[], object]) -> bool:
        """Have the I/O thread do something; False where it has ended, and with it every connection."""
        try:
            self._loop.call_soon_threadsafe(work)
        except RuntimeError:
            return False
        return True

    def abort(self) -> None:
        """End the connection now; whoever reads or writes it finds out."""
        with self._lock:
            self.closed = True
        self._writer.transport.abort()

    async def _handshake(self) -> None:
        received = 0
        while True:
            try:
                self._tls.do_handshake()
            except SSL.WantReadError:
                self._flush()
                received += await self._receive()
                if received > _MAX_HANDSHAKE_BYTES:
                    raise ConnectionError("the handshake is too long") from None
            except SSL.Error as error:
                self._flush()  # the alert that says so
                raise ConnectionError(self.meeting.refusal or _reason(error)) from None
            else:
                break
        self._flush()
        if self.meeting.peer is None or self._tls.get_alpn_proto_negotiated() != PROTOCOL:
            raise ConnectionError(self.meeting.refusal or "no member's certificate, or another protocol")

    async def _next_frame(self) -> tuple[int, bytes]:
        while (frame := self._frames.next()) is None:
            try:
                self._frames.feed(self._tls.recv(_READ_BYTES))
            except SSL.WantReadError:
                self._flush()
                await self._receive()
            except SSL.ZeroReturnError:
                raise ConnectionError("closed by the peer") from None
            except SSL.Error as error:
                raise ConnectionError(_reason(error)) from None
        return frame

    async def _receive(self) -> int:
        data = await self._reader.read(_READ_BYTES)
        if not data:
            raise ConnectionError("closed by the peer")
        self._tls.bio_write(data)
        return len(data)

    def _send(self, data: bytes) -> None:
        try:
            self._tls.sendall(data)
        except SSL.Error as error:
            raise ConnectionError(_reason(error)) from None
        self._flush()

    def _flush(self) -> None:
        while True:
            try:
                self._writer.write(self._tls.bio_read(_READ_BYTES))
            except SSL.WantReadError:
                return

    def _take(self) -> bytes:
        """Some of what waits, urgent first."""
        self._wake.clear()
        batch, size = [], 0
        with self._lock:
            for urgent, queue in ((True, self._urgent), (False, self._bulk)):
                while queue and size < _BATCH_BYTES:
                    frame = queue.popleft()
                    self._waiting_bytes[urgent] -= len(frame)
                    size += len(frame)
                    batch.append(frame)
        return b"".join(batch)


def _reason(error: SSL.Error) -> str:
    """OpenSSL's own words, without its file names."""
    if error.args and isinstance(error.args[0], list):
        return "TLS: " + "; ".join(str(entry[-1]) for entry in error.args[0])
    return f"TLS: {error}" if str(error) else "TLS: the connection broke"
