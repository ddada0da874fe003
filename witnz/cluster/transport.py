"""The members' channel over TLS 1.3: one connection a pair, dialled by the member with the smaller id, all on one I/O thread.

    accept or dial  →  handshake (tls.py: pinned keys, both sides)  →  hello  →  frames in both directions

A connection that has not got through the handshake in five seconds is dropped; at most ``MAX_PENDING`` of them exist, and the
oldest gives way to a new one, so that somebody who opens many cannot keep members out.  Of two connections of one member the
newer is kept: the older one is what is left of a connection that broke without a word.  Dialling is tried again for ever, with
pauses from 0.1 to 2 seconds.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from witnz.cluster.calls import Calls
from witnz.cluster.frames import (
    CANCEL,
    ENGINE,
    MAX_FRAME,
    MORE,
    PING,
    REQUEST,
    RESPONSE,
    format_frame,
    parse_cancel,
    parse_more,
    parse_request,
    parse_response,
)
from witnz.cluster.link import Link
from witnz.cluster.peers import MAX_REQUEST_BYTES, EngineListener, Handler, Member
from witnz.cluster.tls import make_context
from witnz.ending import ENDING_S, end_threads
from witnz.errors import ConfigError, FormatError, PeerRefused, PeerUnreachable, UsageError
from witnz.logging import get_logger

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

log = get_logger(__name__)

MAX_PENDING: Final = 32
DIAL_S: Final = 3.0
RETRY_FIRST_S: Final = 0.1
RETRY_LAST_S: Final = 2.0
REFUSAL_LOG_S: Final = 1.0
_STOP_S = 5.0


class TlsPeers:
    """The :class:`witnz.cluster.peers.Peers` and :class:`witnz.cluster.peers.EngineChannel` of a node."""

    def __init__(
        self, me: Member, members: Iterable[Member], key: Ed25519PrivateKey, cluster: str, bind: tuple[str, int]
    ) -> None:
        """``key`` is the node's identity key, ``bind`` the host and port to listen on."""
        self.me, self._cluster, self._bind = me, cluster, bind
        self._members: dict[str, Member] = {}
        self._links: dict[str, Link] = {}
        self._pending: list[Link] = []
        self._accepting: set[asyncio.Task[None]] = set()
        self._seen: dict[str, float] = {}
        self._listener: EngineListener | None = None
        self._calls = Calls(me.id)
        self._context = make_context(me.id, key, self._identity_of)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="peers-io", daemon=True)
        self._listening = threading.Event()
        self._problem: OSError | None = None
        self._stop: asyncio.Event | None = None
        self._changed: asyncio.Event | None = None
        self._logged_at = 0.0
        self.port = bind[1]
        self.refused = 0
        """Connections that were turned away because of who they were."""
        self._set_members(members)

    # -- asked by the node ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        if self._thread.ident is not None:
            return  # a node that has joined goes on with the channel that it joined over
        self._thread.start()
        if not self._listening.wait(ENDING_S):
            raise PeerUnreachable(
                f"did not begin to listen on {self._bind[0]}:{self._bind[1]} within {ENDING_S:g} s",
                hint="node.bind_addr must be an address: the name that it gives is perhaps not resolved",
            )
        if self._problem is not None:
            end_threads(self._thread)
            raise ConfigError(
                f"cannot listen on {self._bind[0]}:{self._bind[1]}: {self._problem.strerror or self._problem}",
                hint="node.bind_addr must be an address of this host that is free",
            )

    def close(self) -> None:
        self._calls.close()
        if self._stop is not None and self._thread.is_alive():
            self._soon(self._stop.set)
            self._thread.join(_STOP_S)
            if self._thread.is_alive():  # a look-up of a name, say, which nothing can interrupt; it holds nothing
                log.warning("connections to members were not closed in time", limit_s=_STOP_S)

    def call(self, node: str, method: str, body: bytes, timeout_s: float) -> bytes:
        if len(body) > MAX_REQUEST_BYTES:
            raise UsageError(f"{method}: expected a request of at most {MAX_REQUEST_BYTES} bytes, found {len(body)}")
        link = self._links.get(node)
        if link is None:
            raise PeerUnreachable(f"{node} is not connected", hint="see `witnz cluster status` for who answers")
        return self._calls.call(link, method, body, timeout_s)

    def serve(self, method: str, handler: Handler, max_request_bytes: int) -> None:
        self._calls.serve(method, handler, max_request_bytes)

    def members(self) -> tuple[Member, ...]:
        members = self._members
        return tuple(members[node] for node in sorted(members))

    def last_seen_s(self) -> Mapping[str, float | None]:
        now = time.monotonic()
        others = [node for node in self._members if node != self.me.id]
        return {node: now - self._seen[node] if node in self._seen else None for node in others}

    def update_members(self, members: Iterable[Member]) -> None:
        before = self._members
        self._set_members(members)
        for node, link in list(self._links.items()):
            if self._members.get(node) != before.get(node):
                self._soon(link.abort)
        if self._changed is not None:
            self._soon(self._changed.set)

    # -- asked by the engine --------------------------------------------------------------------------------------------------

    def on_engine_frames(self, listener: EngineListener) -> None:
        def begin() -> None:
            self._listener = listener
            for node in self._links:
                listener.connected(node)

        if not self._soon(begin):
            self._listener = listener

    def send_engine_frame(self, node: str, frame: bytes) -> bool:
        link = self._links.get(node)
        return link is not None and len(frame) < MAX_FRAME and link.post([format_frame(ENGINE, frame)], urgent=True)

    # -- the I/O thread -------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop, self._stop, self._changed = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        try:
            server = await asyncio.start_server(self._accepted, self._bind[0], self._bind[1])
        except OSError as error:
            self._problem = error
            return
        finally:
            self._listening.set()
        self.port = server.sockets[0].getsockname()[1]
        dialling = self._loop.create_task(self._dial_all())
        try:
            await self._stop.wait()
        finally:
            server.close()
            dialling.cancel()
            for link in [*self._pending, *self._links.values()]:
                link.abort()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(reader, writer, self._context, None)
        self._pending.append(link)
        if len(self._pending) > MAX_PENDING:
            self._pending.pop(0).abort()
        task = asyncio.get_running_loop().create_task(self._live(link))
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)

    async def _dial_all(self) -> None:
        """A dialling task for each member with a larger id, from the moment it is one until it is none."""
        assert self._changed is not None
        tasks: dict[str, tuple[Member, asyncio.Task[None]]] = {}
        while True:
            self._changed.clear()
            wanted = {node: member for node, member in self._members.items() if node > self.me.id}
            for node, (member, task) in list(tasks.items()):
                if wanted.get(node) != member:
                    task.cancel()
                    del tasks[node]
            for node, member in wanted.items():
                if node not in tasks:
                    tasks[node] = member, asyncio.get_running_loop().create_task(self._keep_dialled(member))
            await self._changed.wait()

    async def _keep_dialled(self, member: Member) -> None:
        pause_s = RETRY_FIRST_S
        while True:
            started = time.monotonic()
            try:
                host, port = split_address(member.addr)
                async with asyncio.timeout(DIAL_S):
                    reader, writer = await asyncio.open_connection(host, port, happy_eyeballs_delay=0.25)
            except (OSError, TimeoutError, UnicodeError) as error:
                log.debug("member could not be dialled", member=member.id, addr=member.addr, reason=str(error))
            else:
                link = Link(reader, writer, self._context, member.id)
                try:
                    await self._live(link)
                finally:
                    link.abort()
            if time.monotonic() - started > 2 * RETRY_LAST_S:
                pause_s = RETRY_FIRST_S
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  # spreads attempts, hides nothing
            pause_s = min(RETRY_LAST_S, 2 * pause_s)

    async def _live(self, link: Link) -> None:
        """One connection, from its handshake to its end."""
        try:
            try:
                await link.open(self._cluster)
            finally:
                if link in self._pending:
                    self._pending.remove(link)
            self._up(link)
            await self._exchange(link)
        except (OSError, TimeoutError, FormatError, PeerRefused) as error:
            self._log_end(link, error)
        finally:
            link.abort()
            self._down(link)

    async def _exchange(self, link: Link) -> None:
        """Write and read until one of them fails."""
        writing = asyncio.get_running_loop().create_task(link.write_out())
        writing.add_done_callback(lambda _: link.abort())
        try:
            async for kind, body in link.frames():
                self._seen[link.peer] = time.monotonic()
                self._take(link, kind, body)
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    def _take(self, link: Link, kind: int, body: bytes) -> None:
        if kind == ENGINE:
            if self._listener is not None:
                self._listener.received(link.peer, body)
        elif kind == REQUEST:
            self._calls.request(link, parse_request(body))
        elif kind == RESPONSE:
            self._calls.response(link, parse_response(body))
        elif kind == MORE:
            self._calls.more(link, parse_more(body))
        elif kind == CANCEL:
            self._calls.cancel(link, parse_cancel(body))
        elif kind != PING or body:
            raise FormatError(f"frame: unknown kind {kind}")

    def _up(self, link: Link) -> None:
        if self._identity_of(link.peer) is None:
            raise ConnectionError(f"{link.peer} is no member any more")
        older = self._links.get(link.peer)
        if older is not None:
            older.abort()
            self._down(older)
        self._links[link.peer] = link
        self._seen[link.peer] = time.monotonic()
        log.info("member was connected", member=link.peer, addr=link.address)
        if self._listener is not None:
            self._listener.connected(link.peer)

    def _down(self, link: Link) -> None:
        if link.meeting.peer is None or self._links.get(link.meeting.peer) is not link:
            return
        del self._links[link.peer]
        self._calls.lost(link)
        if self._listener is not None:
            self._listener.disconnected(link.peer)

    def _log_end(self, link: Link, error: Exception) -> None:
        reason = str(error) or "no word from it in time"
        if link.meeting.peer is not None and self._links.get(link.meeting.peer) is link:
            log.info("member was disconnected", member=link.peer, addr=link.address, reason=reason)
            return
        self.refused += link.meeting.refusal is not None
        if time.monotonic() - self._logged_at >= REFUSAL_LOG_S:
            self._logged_at = time.monotonic()
            log.warning("connection was turned away", addr=link.address, reason=reason, refused=self.refused)

    # -- both -----------------------------------------------------------------------------------------------------------------

    def _set_members(self, members: Iterable[Member]) -> None:
        self._members = {member.id: member for member in members}

    def _identity_of(self, node: str) -> bytes | None:
        member = self._members.get(node)
        return None if member is None or node == self.me.id else member.identity

    def _soon(self, work: Any) -> bool:
        if self._loop is None:
            return False
        try:
            self._loop.call_soon_threadsafe(work)
        except RuntimeError:  # the loop has ended
            return False
        return True


def split_address(addr: str) -> tuple[str, int]:
    """host:port or [v6]:port; raises OSError for anything else, as an address that cannot be reached."""
    host, colon, port = addr.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise OSError(f"expected host:port, found {addr[:80]!r}")
    return host, int(port)
