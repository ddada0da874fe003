"""A cluster of the built-in engine in virtual time: real members (core, guard, journal), simulated disks, links and clocks.

    World(seed).run()      raises Violation, or returns what happened

A world goes through a *storm*, in which members are killed, lose power, are cut off from each other, lag, take snapshots, are
wiped, join and leave, and clocks stop and jump; then everything heals.  Throughout, what any member applies must be the next
of one order that all share; at the end everybody must have applied all of it, and proposals must get through again.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from dataclasses import dataclass, field

from witnz.cluster.engine import Membership
from witnz.cluster.raft import core as raft_core
from witnz.cluster.raft.codec import decode, encode
from witnz.cluster.raft.core import Timing
from witnz.cluster.raft.log import FORGOTTEN
from witnz.cluster.raft.member import Agreed, RaftMember
from witnz.cluster.raft.messages import COMMAND, format_command

STEP_S = 0.02


class Violation(AssertionError):
    """A promise of the engine was broken."""


class Disk:
    """A file whose end is in the cache until it is synced."""

    def __init__(self, rnd: random.Random) -> None:
        self._rnd = rnd
        self.durable: bytes | None = None
        self.cached = b""

    def read(self) -> bytes | None:
        return None if self.durable is None else self.durable + self.cached

    def append(self, data: bytes) -> None:
        assert self.durable is not None
        self.cached += data

    def sync(self) -> None:
        assert self.durable is not None
        self.durable, self.cached = self.durable + self.cached, b""

    def replace(self, data: bytes) -> None:
        self.durable, self.cached = data, b""

    def truncate(self, size: int) -> None:
        self.durable, self.cached = (self.read() or b"")[:size], b""

    def close(self) -> None:
        pass

    def lose_power(self) -> None:
        """Of what was not synced, some of the beginning is there, and some pages in it may not be."""
        kept = bytearray(self.cached[: self._rnd.randint(0, len(self.cached))])
        if kept and self._rnd.random() < 0.3:
            start = self._rnd.randrange(len(kept))
            hole = self._rnd.randint(1, 512)
            kept[start : start + hole] = bytes(len(kept[start : start + hole]))
        self.cached = bytes(kept)


@dataclass
class Store:
    """What a member's application has durably: every command with its index, and the membership that follows from them."""

    history: list[tuple[int, bytes]] = field(default_factory=list)
    index: int = 0
    membership: Membership | None = None
    chain: bytes = b""

    def append(self, index: int, body: bytes) -> None:
        self.history.append((index, body))
        self.index = index
        self.chain = hashlib.sha256(self.chain + encode((index, body))).digest()


@dataclass
class Host:
    """A machine: its disk and store survive the process, which is ``member`` while it runs."""

    name: str
    disk: Disk
    store: Store
    member: RaftMember | None = None
    wakes_at: float = 0.0
    frozen_until: float = 0.0
    restoring: Agreed | None = None


class World:
    """One run.  ``rates`` are chances per step of 20 ms."""

    def __init__(
        self,
        seed: int,
        members: int = 3,
        *,
        storm_s: float = 24.0,
        calm_s: float = 30.0,
        kill: float = 0.0015,
        cut: float = 0.004,
        freeze: float = 0.001,
        change: float = 0.0,
        wipe: float = 0.0,
        delay_s: float = 0.15,
        payload: int = 30_000,
        compact_bytes: int = 60_000,
    ) -> None:
        self.rnd = random.Random(seed)
        random.seed(seed)
        self.now = 1000.0
        self.storm_s, self.calm_s = storm_s, calm_s
        self.kill, self.cut, self.freeze, self.change, self.wipe = kill, cut, freeze, change, wipe
        self.delay_s, self.payload, self.compact_bytes = delay_s, payload, compact_bytes
        names = [f"n{k}" for k in range(members + (1 if change else 0))]
        self.first = Membership(0, 0, tuple(names[:members]))
        self.hosts = {name: Host(name, Disk(self.rnd), Store(membership=self.first)) for name in names}
        for name in names[members:]:
            self.hosts[name].store = Store()
        self.up: set[frozenset[str]] = set()
        self.cuts: set[frozenset[str]] = set()
        self.links: dict[tuple[str, str], deque[tuple[float, bytes]]] = {}
        self.order: list[tuple[int, bytes]] = []
        self.proposed = 0
        self.asked: dict[str, set[str]] = {name: set() for name in names}
        self.acked: set[bytes] = set()
        self.wanted: tuple[str, str] | None = None
        self.counts = {"kills": 0, "power losses": 0, "cuts": 0, "restores": 0, "changes": 0, "wipes": 0, "compactions": 0}

    # -- one run --------------------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, int]:
        """Storm, calm, and the final judgement."""
        original = raft_core.syncobj.monotonicTime
        raft_core.syncobj.monotonicTime = self.clock
        try:
            for name in self.first.members:
                self.boot(name)
            while self.now < 1000.0 + self.storm_s:
                self.advance(storm=True)
            self.cuts.clear()
            self.reconnect()
            for host in self.hosts.values():
                host.frozen_until = 0.0
            while self.now < 1000.0 + self.storm_s + self.calm_s:
                self.advance(storm=False)
                if self.now > 1000.0 + self.storm_s + self.calm_s / 2 and self.settled():
                    break
            self.judge()
        finally:
            raft_core.syncobj.monotonicTime = original
        return {**self.counts, "commands": len(self.order), "acked": len(self.acked)}

    def clock(self) -> float:
        self.now += 1e-6  # pysyncobj loops until the clock moves
        return self.now

    def advance(self, *, storm: bool) -> None:
        self.now += STEP_S
        if storm:
            self.misfortunes()
        self.reconnect()
        for host in self.hosts.values():
            if host.member is None and host.wakes_at <= self.now:
                self.boot(host.name)
        for host in self.hosts.values():
            if host.member is not None and host.frozen_until <= self.now and self.rnd.random() < 0.9:
                host.member.step()
                self.apply(host)
                self.catch_up(host)
        calm_for = self.now - 1000.0 - self.storm_s
        if calm_for < 1.0 or (calm_for < self.calm_s / 2 and self.rnd.random() < 0.1):
            self.propose()
        self.deliver()

    # -- misfortunes ----------------------------------------------------------------------------------------------------------

    def misfortunes(self) -> None:
        rnd = self.rnd
        for host in self.hosts.values():
            if host.member is None:
                continue
            if rnd.random() < self.kill:
                self.stop(host, power=rnd.random() < 0.6)
                host.wakes_at = self.now + rnd.uniform(0.1, 4)
            elif rnd.random() < self.freeze:  # a stopped process, a jump of its clock
                host.frozen_until = self.now + rnd.uniform(0.2, 5)
        names = sorted(self.hosts)
        for place, one in enumerate(names):
            for other in names[place + 1 :]:
                pair = frozenset((one, other))
                if pair in self.cuts:
                    if rnd.random() < 0.02:
                        self.cuts.discard(pair)
                elif rnd.random() < self.cut:
                    self.cuts.add(pair)
                    self.counts["cuts"] += 1
                    self.disconnect(pair)
                elif pair in self.up and rnd.random() < self.cut / 2:
                    self.disconnect(pair)  # a connection that breaks and is made again
        if self.wipe and rnd.random() < self.wipe and self.wanted is None:
            self.wipe_one()

    def stop(self, host: Host, *, power: bool) -> None:
        self.counts["power losses" if power else "kills"] += 1
        for pair in sorted((pair for pair in self.up if host.name in pair), key=sorted):
            self.last_words(host.name, *(pair - {host.name}))
            self.disconnect(pair)
        host.member = None
        host.restoring = None
        self.asked[host.name].clear()
        if power:
            host.disk.lose_power()

    def last_words(self, one: str, other: str) -> None:
        """Some of what a dying member had sent still arrives."""
        link, hearer = self.links[one, other], self.hosts[other]
        for _ in range(self.rnd.randint(0, len(link))):
            frame = link.popleft()[1]
            if hearer.member is not None and hearer.frozen_until <= self.now:
                hearer.member.received(one, frame)

    def wipe_one(self) -> None:
        """A member loses everything; people remove it from the cluster and add it again."""
        members = self.current().members
        alive = [name for name in members if self.hosts[name].member is not None]
        if len(alive) < len(members) or len(members) < 3 or not all(self.hosts[name].store.index for name in members):
            return
        host = self.hosts[self.rnd.choice(members)]
        self.stop(host, power=False)
        host.disk, host.store = Disk(self.rnd), Store()
        host.wakes_at = self.now + self.rnd.uniform(0.1, 2)
        self.counts["wipes"] += 1
        self.wanted = ("remove", host.name)

    def current(self) -> Membership:
        """The membership of whoever is furthest."""
        return max((host.store.membership for host in self.hosts.values() if host.store.membership), key=lambda m: m.epoch)

    # -- hosts ----------------------------------------------------------------------------------------------------------------

    def boot(self, name: str) -> None:
        host = self.hosts[name]
        listed = host.store.membership is not None and name in host.store.membership.members
        if not listed and (name not in self.current().members or not self.copy_from_a_peer(host, 0)):
            host.wakes_at = self.now + 0.5
            return
        assert host.store.membership is not None
        host.member = RaftMember(
            name, host.store.membership, host.disk, lambda peer, frame: self.send(name, peer, frame),
            timing=Timing(), clock=self.clock, compact_bytes=self.compact_bytes,
        )  # fmt: skip
        self.reconnect()

    def copy_from_a_peer(self, host: Host, at_least: int) -> bool:
        """What the join and catch-up of a node do: take the history of somebody it reaches who has ``at_least`` so much."""
        for other in self.rnd.sample(sorted(self.hosts), len(self.hosts)):
            theirs = self.hosts[other]
            pair = frozenset((other, host.name))
            if other == host.name or pair in self.cuts or theirs.member is None or theirs.store.index < max(at_least, 1):
                continue
            if theirs.store.index <= host.store.index:
                continue
            store = Store(list(theirs.store.history), theirs.store.index, theirs.store.membership, theirs.store.chain)
            if store.history[: len(host.store.history)] != host.store.history:
                raise Violation(f"{host.name} and {other} have different histories")
            if host.store.membership is not None and host.name not in store.membership.members:
                return False
            host.store = store
            return True
        return False

    def apply(self, host: Host) -> None:
        """The application takes some of what is agreed, at its own pace."""
        member = host.member
        assert member is not None
        while member.agreed and self.rnd.random() < 0.8:
            agreed = host.restoring or member.take()
            assert agreed is not None
            host.restoring = None
            if agreed.snapshot:
                if agreed.index > host.store.index:
                    length, chain = decode(agreed.body, what="snapshot")
                    epoch = host.store.membership.epoch
                    if not self.copy_from_a_peer(host, agreed.index):
                        host.restoring = agreed
                        member.agreed.appendleft(agreed)
                        member.agreed_bytes += len(agreed.body)
                        host.restoring = None
                        return
                    self.counts["restores"] += 1
                    copied = Store()
                    for item in host.store.history[:length]:
                        copied.append(*item)
                    if copied.chain != chain or copied.index > agreed.index:
                        raise Violation(f"{host.name}: the snapshot at {agreed.index} is not of this history")
                    if host.store.membership.epoch != epoch:
                        member.reconfigure(host.store.membership)
                        return
                continue
            if agreed.kind != COMMAND or agreed.index <= host.store.index:
                continue
            if self.take(host, agreed):
                member.reconfigure(host.store.membership)
                return
            if agreed.key in self.asked[host.name]:
                self.asked[host.name].discard(agreed.key)
                member.withdraw(agreed.key)
                self.acked.add(agreed.body)
        if member.wants_snapshot and host.store.index:
            self.counts["compactions"] += 1
            data = encode((len(host.store.history), host.store.chain))
            member.compact(host.store.index, data)

    def take(self, host: Host, agreed: Agreed) -> bool:
        """One command, checked against the one order; whether it changed the members."""
        item = (agreed.index, agreed.body)
        place = len(host.store.history)
        if place < len(self.order):
            if self.order[place] != item:
                raise Violation(f"{host.name} applied {agreed.index} {agreed.key}, others {self.order[place][0]} in its place")
        else:
            if self.order and agreed.index <= self.order[-1][0]:
                raise Violation(f"{host.name} applied index {agreed.index} after {self.order[-1][0]}")
            self.order.append(item)
        host.store.append(*item)
        if not agreed.body.startswith(b"change:"):
            return False
        _, action, name, epoch = agreed.body.split(b":")[:4]
        now = host.store.membership
        if int(epoch) != now.epoch or ((name.decode() in now.members) == (action == b"add")):
            return False
        changed = set(now.members) ^ {name.decode()}
        host.store.membership = Membership(now.epoch + 1, agreed.index, tuple(sorted(changed)))
        if place == len(self.order) - 1:
            self.counts["changes"] += 1
        if self.wanted == (action.decode(), name.decode()):
            self.wanted = ("add", name.decode()) if action == b"remove" and self.wipe else None
        return True

    def catch_up(self, host: Host) -> None:
        """Somebody speaks of a later membership: fetch the history that leads there."""
        member = host.member
        if member is None or member.behind is None:
            return
        epoch = host.store.membership.epoch
        member.behind = None
        if self.rnd.random() < 0.2 and self.copy_from_a_peer(host, 0) and host.store.membership.epoch != epoch:
            member.reconfigure(host.store.membership)

    # -- network --------------------------------------------------------------------------------------------------------------

    def reconnect(self) -> None:
        running = sorted(name for name, host in self.hosts.items() if host.member is not None)
        for place, one in enumerate(running):
            for other in running[place + 1 :]:
                pair = frozenset((one, other))
                if pair not in self.up and pair not in self.cuts and self.rnd.random() < 0.5:
                    self.up.add(pair)
                    self.links[one, other], self.links[other, one] = deque(), deque()
                    self.hosts[one].member.connected(other)
                    self.hosts[other].member.connected(one)

    def disconnect(self, pair: frozenset[str]) -> None:
        if pair in self.up:
            self.up.discard(pair)
            for one in sorted(pair):
                (other,) = pair - {one}
                self.links[one, other] = deque()
                if self.hosts[one].member is not None:
                    self.hosts[one].member.disconnected(other)

    def send(self, one: str, other: str, frame: bytes) -> bool:
        if frozenset((one, other)) not in self.up:
            return False
        link = self.links[one, other]
        arrives = max(link[-1][0] if link else 0.0, self.now + self.rnd.uniform(0, self.delay_s))
        link.append((arrives, frame))
        return True

    def deliver(self) -> None:
        for (one, other), link in sorted(self.links.items()):
            while link and link[0][0] <= self.now:
                host = self.hosts[other]
                if host.member is None or host.frozen_until > self.now:
                    break
                host.member.received(one, link.popleft()[1])

    # -- proposals and judgement ----------------------------------------------------------------------------------------------

    def propose(self) -> None:
        for host in self.hosts.values():
            if host.member is None or host.frozen_until > self.now:
                continue
            if self.rnd.random() < 0.1 and len(self.asked[host.name]) < 40:
                self.proposed += 1
                key = f"{host.name}/{self.proposed}"
                body = key.encode() + b" " + b"x" * self.rnd.choice([10, 1000, self.payload])
                self.ask(host, key, body)
        if self.change and self.wanted is None and self.rnd.random() < self.change:
            members = self.current().members
            outside = sorted(set(self.hosts) - set(members))
            if outside and (len(members) < 3 or self.rnd.random() < 0.7):
                self.wanted = ("add", outside[0])
            elif len(members) > 2:
                self.wanted = ("remove", self.rnd.choice(members))
        if self.wanted is not None and self.rnd.random() < 0.05:
            action, name = self.wanted
            now = self.current()
            running = [host for host in self.hosts.values() if host.member is not None and host.name in now.members]
            if running:
                host = self.rnd.choice(running)
                body = f"change:{action}:{name}:{now.epoch}:{self.proposed}".encode()
                self.proposed += 1
                self.ask(host, f"change/{self.proposed}", body)

    def ask(self, host: Host, key: str, body: bytes) -> None:
        self.asked[host.name].add(key)
        host.member.propose(key, format_command(COMMAND, key, body))

    def members_running(self) -> list[Host]:
        return [self.hosts[name] for name in self.current().members if self.hosts[name].member is not None]

    def settled(self) -> bool:
        hosts = self.members_running()
        waiting = any(self.asked[host.name] for host in hosts)
        return (
            not waiting
            and self.wanted is None
            and len(hosts) == len(self.current().members)
            and all(host.store.history == self.order for host in hosts)
        )

    def judge(self) -> None:
        bodies = {body for _, body in self.order}
        if self.acked - bodies:
            raise Violation(f"{len(self.acked - bodies)} acknowledged commands are gone")
        members = self.current().members
        for name in members:
            host = self.hosts[name]
            if host.member is None:
                raise Violation(f"{name} does not run at the end")
            if host.store.history != self.order:
                raise Violation(f"{name} has {len(host.store.history)} of {len(self.order)} commands at the end")
            if self.asked[name]:
                raise Violation(f"{name}: {len(self.asked[name])} proposals did not get through at the end")
            if host.member.log.standing == FORGOTTEN and not self.wipe:
                raise Violation(f"{name} was taken for forgetful")


SCENARIOS: dict[str, dict[str, float]] = {
    "three": {},
    "five": {"members": 5},
    "small commands": {"payload": 200, "compact_bytes": 20_000},
    "slow links": {"delay_s": 0.3, "cut": 0.002},
    "much cutting": {"cut": 0.02, "kill": 0.0005},
    "much killing": {"kill": 0.006, "cut": 0.001},
    "clocks": {"freeze": 0.01},
    "membership": {"change": 0.003},
    "five and membership": {"members": 4, "change": 0.004},
    "wiped": {"wipe": 0.002},
}


def run_scenario(name: str, seed: int) -> dict[str, int]:
    """One world of a scenario; raises Violation."""
    return World(seed, **SCENARIOS[name]).run()  # type: ignore[arg-type]
