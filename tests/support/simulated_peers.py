"""Members' channels inside one process: the real protocol's promises without sockets, and switches to cut and delay.

hub = PeerHub()
one, two = hub.join(Member("node1", …)), hub.join(Member("node2", …))
hub.links.cut("node1", "node2")
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime

from tests.support.links import Links
from witnz.cluster.peers import MAX_RESPONSE_BYTES, Handler, Member
from witnz.errors import PeerRefused, PeerUnreachable, UsageError, WitnzError


class PeerHub:
    """Connects :class:`SimulatedPeers` that know each other."""

    def __init__(self, links: Links | None = None) -> None:
        self.links = links or Links()
        self.joined: dict[str, SimulatedPeers] = {}

    def join(self, me: Member, members: Iterable[Member] | None = None) -> SimulatedPeers:
        """The channel of one node; without ``members`` everybody who has joined so far learns of it, and it of them."""
        known = [peers.me for peers in self.joined.values()] if members is None else list(members)
        peers = SimulatedPeers(self, me, [*known, me])
        self.joined[me.id] = peers
        if members is None:
            for other in self.joined.values():
                other.update_members({member.id: member for member in [*other.members(), me]}.values())
        return peers


class SimulatedPeers:
    """A :class:`witnz.cluster.peers.Peers` whose handlers run in threads of their own, as the real one's do."""

    def __init__(self, hub: PeerHub, me: Member, members: Iterable[Member]) -> None:
        self.me = me
        self._hub = hub
        self._lock = threading.Lock()
        self._handlers: dict[str, tuple[Handler, int]] = {}
        self._seen: dict[str, float] = {}
        self._running = False
        self._workers = ThreadPoolExecutor(4, thread_name_prefix=f"peers-{me.id}")
        self.update_members(members)

    def start(self) -> None:
        self._running = True

    def close(self) -> None:
        self._running = False
        self._workers.shutdown(wait=False, cancel_futures=True)

    def serve(self, method: str, handler: Handler, max_request_bytes: int) -> None:
        self._handlers[method] = handler, max_request_bytes

    def members(self) -> tuple[Member, ...]:
        return tuple(self._members[node] for node in sorted(self._members))

    def update_members(self, members: Iterable[Member]) -> None:
        self._members = {member.id: member for member in members}

    def last_seen_s(self) -> Mapping[str, float | None]:
        now = time.monotonic()
        with self._lock:
            for node in self._members:
                if self._connected(node) is not None:
                    self._seen[node] = now
            return {
                node: now - self._seen[node] if node in self._seen else None for node in self._members if node != self.me.id
            }

    def call(self, node: str, method: str, body: bytes, timeout_s: float) -> bytes:
        started = time.monotonic()
        peer = self._connected(node)
        if peer is None or not self._running:
            raise PeerUnreachable(f"{node} is not connected")
        links = self._hub.links
        time.sleep(min(timeout_s, links.delay_s(self.me.id, node)))
        if not links.up(self.me.id, node):
            raise PeerUnreachable(f"{node} did not answer within {timeout_s:g} s")
        try:
            answer = peer._workers.submit(peer._answer, self.me.id, method, body)
        except RuntimeError:  # it was closed this very moment
            raise PeerUnreachable(f"{node} is not connected") from None
        try:
            response = answer.result(max(0.0, timeout_s - (time.monotonic() - started)))
        except NotInTime:
            raise PeerUnreachable(f"{node} did not answer within {timeout_s:g} s") from None
        except WitnzError:
            raise
        except Exception:
            if peer._running:
                raise
            raise PeerUnreachable(f"{node} is not connected any more") from None  # it closed before, or while, it was at this
        finally:
            time.sleep(max(0.0, min(links.delay_s(node, self.me.id), timeout_s - (time.monotonic() - started))))
        if not links.up(node, self.me.id) or time.monotonic() - started > timeout_s:
            raise PeerUnreachable(f"{node} did not answer within {timeout_s:g} s")
        return response

    def _connected(self, node: str) -> SimulatedPeers | None:
        """The peer, where both sides run, pin each other and the connection stands."""
        peer = self._hub.joined.get(node)
        known = self._members.get(node)
        if peer is None or known is None or node == self.me.id or not peer._running:
            return None
        pinned = known.identity == peer.me.identity and peer._members.get(self.me.id) == self.me
        return peer if pinned and self._hub.links.both_ways(self.me.id, node) else None

    def _answer(self, caller: str, method: str, body: bytes) -> bytes:
        try:
            if method not in self._handlers:
                raise UsageError(f"no method {method}")
            handler, max_bytes = self._handlers[method]
            if len(body) > max_bytes:
                raise UsageError(f"{method}: expected at most {max_bytes} bytes, found {len(body)}")
            response = handler(caller, body)
            if len(response) > MAX_RESPONSE_BYTES:
                raise UsageError(f"{method}: the answer of {len(response)} bytes is too long")
        except WitnzError as error:
            raise PeerRefused(f"{self.me.id} refused {method}: {error.message}", refusal=error.code) from None
        return response
