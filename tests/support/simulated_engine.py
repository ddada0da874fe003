"""An ordering engine of several members inside one process, with every switch that a test of its users needs.

    hub = EngineHub(["node1", "node2", "node3"])
    engine = hub.engine("node1")                  # a witnz.cluster.engine.Engine
    hub.links.isolate("node1")                    # its proposals wait and fail; it is given nothing
    hub.elect("node2")                            # instead of the first member that reaches a quorum
    hub.order_twice = True                        # every command arrives twice, as when its proposer was in doubt
    hub.compact()                                 # members that are behind are asked to restore()

The order is one list that all members share, so it cannot lose or diverge; that is what the real engines are tested for.
A node that was restarted makes its engine anew, which is then given what its durable state does not reflect.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from tests.support.links import Links
from witnz.cluster.engine import Apply, EngineStatus, Membership, Resume, check_command
from witnz.errors import NoQuorum, WitnzError

RETRY_S = 0.05


@dataclass(frozen=True, slots=True)
class _Ordered:
    epoch: int
    key: str
    command: bytes


class EngineHub:
    """The order, and who can take part in it."""

    def __init__(self, members: Iterable[str], links: Links | None = None, *, since_index: int = 0) -> None:
        self.links = links or Links()
        self.changed = self.links.changed
        self.order_twice = False
        self.term = 1
        self.membership = Membership(0, since_index, tuple(sorted(members)))
        self._ended: dict[int, int] = {}  # epoch -> index of the command that ended it
        self._first = since_index + 1  # index of _log[0]
        self._log: list[_Ordered] = []
        self._snapshot: tuple[int, bytes] | None = None
        self._wanted: str | None = None
        self._last_leader: str | None = None
        self.engines: dict[str, SimulatedEngine] = {}

    def engine(self, node: str) -> SimulatedEngine:
        """The engine of one member; made anew, it replaces the one before, as after a restart of the node."""
        old = self.engines.get(node)
        if old is not None:
            old.close()
        self.engines[node] = SimulatedEngine(self, node)
        return self.engines[node]

    def elect(self, node: str) -> None:
        """Prefer this member as the leader, while it reaches a quorum."""
        with self.changed:
            self._wanted = node
            self.leader()
            self.changed.notify_all()

    def compact(self) -> None:
        """Forget the order up to what the most advanced member has applied."""
        with self.changed:
            ahead = max(self.engines.values(), key=lambda engine: engine.index)
            if ahead.resume is None:
                raise AssertionError("compact() needs engines that were given a Resume")
            self._snapshot = ahead.resume.snapshot()
            keep = self._snapshot[0] + 1
            self._log = self._log[keep - self._first :]
            self._first = keep

    @property
    def last_index(self) -> int:
        with self.changed:
            return self._first + len(self._log) - 1

    def leader(self) -> str | None:
        """The member that leads: the elected one, else the present one, else the first, of those that reach a quorum."""
        with self.changed:
            for node in (self._wanted, self._last_leader, *self.membership.members):
                if node is not None and self.reaches_quorum(node):
                    if node != self._last_leader:
                        self.term += 1
                        self._last_leader = node
                    return node
            return None

    def reaches_quorum(self, node: str) -> bool:
        members = self.membership.members
        alive = [other for other in members if other in self.engines and self.engines[other].running]
        reached = [other for other in alive if self.links.both_ways(node, other)]
        return node in alive and 2 * len(reached) > len(members)

    def sees_leader(self, node: str) -> str | None:
        """The leader, where ``node`` can exchange messages with it."""
        leader = self.leader()
        return leader if leader is not None and self.links.both_ways(node, leader) else None

    def order(self, key: str, command: bytes) -> None:
        with self.changed:
            self._log += [_Ordered(self.membership.epoch, key, command)] * (2 if self.order_twice else 1)
            self.changed.notify_all()

    def after(self, index: int) -> tuple[int, _Ordered] | tuple[int, bytes] | None:
        """What follows ``index``: (index, command), or (index, snapshot) where that is forgotten, or None."""
        with self.changed:
            if index + 1 < self._first:
                assert self._snapshot is not None
                return self._snapshot
            place = index + 1 - self._first
            return (index + 1, self._log[place]) if place < len(self._log) else None

    def change(self, membership: Membership) -> None:
        with self.changed:
            if membership.epoch > self.membership.epoch:
                self._ended[self.membership.epoch] = membership.since_index
                self.membership = membership
                self.changed.notify_all()

    def is_void(self, index: int, ordered: _Ordered) -> bool:
        """Ordered by members of before, behind the command that changed them."""
        return index > self._ended.get(ordered.epoch, index)


class SimulatedEngine:
    """A :class:`witnz.cluster.engine.Engine` over an :class:`EngineHub`, with a thread of its own that applies."""

    def __init__(self, hub: EngineHub, node: str) -> None:
        self._hub, self._node = hub, node
        self.index = hub.membership.since_index if hub.membership.epoch == 0 else 0
        self.running = False
        self.resume: Resume | None = None
        self._apply: Apply | None = None
        self._error: str | None = None
        self._applied: dict[str, int] = {}
        self._thread = threading.Thread(target=self._work, name=f"apply-{node}", daemon=True)

    def on_apply(self, apply: Apply, resume: Resume | None = None) -> None:
        self._apply, self.resume = apply, resume

    def take_part(self) -> None:
        """Nothing is ordered before the start."""

    def start(self) -> None:
        if self._apply is None:
            raise RuntimeError("start() before on_apply()")
        if self.resume is not None:
            self.index = max(self.index, self.resume.applied_index())
        with self._hub.changed:
            self.running = True
            self._hub.changed.notify_all()
        self._thread.start()

    def close(self) -> None:
        with self._hub.changed:
            self.running = False
            self._hub.changed.notify_all()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def propose(self, command: bytes, key: str, deadline_s: float) -> int:
        check_command(command)
        deadline = time.monotonic() + deadline_s
        asked: int | None = None  # the epoch in which it was ordered; a later one voids it
        with self._hub.changed:
            while self.running:
                if key in self._applied:
                    return self._applied[key]
                if asked != self._hub.membership.epoch and self._hub.sees_leader(self._node) is not None:
                    asked = self._hub.membership.epoch
                    self._hub.order(key, command)
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._hub.changed.wait(left)
        raise NoQuorum(f"{key} was not ordered within {deadline_s:g} s", hint="see `witnz cluster status` for who answers")

    def barrier(self, deadline_s: float) -> None:
        deadline = time.monotonic() + deadline_s
        with self._hub.changed:
            while self.running and self._hub.sees_leader(self._node) is None and time.monotonic() < deadline:
                self._hub.changed.wait(deadline - time.monotonic())
            target = self._hub.last_index
            while self.running and self._hub.sees_leader(self._node) is not None and time.monotonic() < deadline:
                if self.index >= target:
                    return
                self._hub.changed.wait(deadline - time.monotonic())
        raise NoQuorum(f"no agreement within {deadline_s:g} s", hint="see `witnz cluster status` for who answers")

    def reconfigure(self, membership: Membership) -> None:
        self._hub.change(membership)

    def leader(self) -> str | None:
        return self._hub.sees_leader(self._node)

    def status(self) -> EngineStatus:
        with self._hub.changed:
            leader = self.leader()
            return EngineStatus(
                leader,
                self._hub.term,
                self.index,
                has_quorum=leader is not None,
                committed=self._hub.last_index if leader is not None else self.index,
                epoch=self._hub.membership.epoch,
                error=self._error,
            )

    def _work(self) -> None:
        while True:
            with self._hub.changed:
                while self.running and (self._hub.sees_leader(self._node) is None or self._hub.after(self.index) is None):
                    self._hub.changed.wait()
                if not self.running:
                    return
                following = self._hub.after(self.index)
            assert following is not None
            try:
                self._take(*following)
            except WitnzError as error:
                self._error = error.message
                time.sleep(RETRY_S)
            else:
                self._error = None

    def _take(self, index: int, what: _Ordered | bytes) -> None:
        assert self._apply is not None
        if isinstance(what, bytes):
            assert self.resume is not None
            self.resume.restore(index, what)
        elif not self._hub.is_void(index, what):
            self._apply(index, what.command)
        with self._hub.changed:
            self.index = index
            if not isinstance(what, bytes) and not self._hub.is_void(index, what):
                self._applied.setdefault(what.key, index)
            self._hub.changed.notify_all()
