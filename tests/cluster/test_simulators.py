"""The simulators keep the promises of the protocols they stand for; what rests on them would otherwise rest on nothing."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.node import wait
from tests.support.simulated_engine import EngineHub, SimulatedEngine
from tests.support.simulated_peers import PeerHub
from witnz.cluster.engine import Engine, Membership
from witnz.cluster.peers import Member, Peers
from witnz.errors import NoQuorum, PeerRefused, PeerUnreachable, UsageError

MEMBERS = ("node1", "node2", "node3")


class Machine:
    """Applies into a list, which stands for a durable store."""

    def __init__(self) -> None:
        self.applied: list[tuple[int, bytes]] = []
        self.restored: list[tuple[int, bytes]] = []
        self.index = 0

    def apply(self, index: int, command: bytes) -> None:
        self.applied.append((index, command))
        self.index = index

    def applied_index(self) -> int:
        return self.index

    def snapshot(self) -> tuple[int, bytes]:
        return self.index, b"at %d" % self.index

    def restore(self, index: int, snapshot: bytes) -> None:
        self.restored.append((index, snapshot))
        self.index = index


def until(condition, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def start(hub: EngineHub, node: str, machine: Machine) -> SimulatedEngine:
    engine = hub.engine(node)
    engine.on_apply(machine.apply, machine)
    engine.start()
    return engine


@pytest.fixture
def cluster():
    hub = EngineHub(MEMBERS)
    machines = {node: Machine() for node in MEMBERS}
    engines = {node: start(hub, node, machines[node]) for node in MEMBERS}
    yield hub, machines, engines
    for engine in hub.engines.values():
        engine.close()


def test_every_member_is_given_the_same_commands_in_the_same_order(cluster) -> None:
    _, machines, engines = cluster
    checked: Engine = engines["node1"]
    indexes = [engines[MEMBERS[k % 3]].propose(b"%d" % k, f"k{k}", 10) for k in range(30)]
    assert indexes == sorted(indexes)
    until(lambda: all(len(machine.applied) == 30 for machine in machines.values()))
    assert machines["node1"].applied == machines["node2"].applied == machines["node3"].applied
    checked.barrier(5)


def test_an_isolated_member_proposes_in_vain_and_is_given_everything_later(cluster) -> None:
    hub, machines, engines = cluster
    hub.links.isolate("node1")
    with pytest.raises(NoQuorum):
        engines["node1"].propose(b"alone", "alone", 0.2)
    assert not engines["node1"].status().has_quorum
    engines["node2"].propose(b"two", "two", 10)
    assert machines["node1"].applied == []
    hub.links.heal()
    until(lambda: [command for _, command in machines["node1"].applied] == [b"two"])


def test_a_restarted_member_is_given_only_what_its_state_does_not_reflect(cluster) -> None:
    hub, machines, engines = cluster
    for k in range(5):
        engines["node1"].propose(b"%d" % k, f"k{k}", 10)
    until(lambda: machines["node2"].index == 5)
    machines["node2"].index = 3
    start(hub, "node2", machines["node2"])
    until(lambda: machines["node2"].index == 5)
    assert [index for index, _ in machines["node2"].applied] == [1, 2, 3, 4, 5, 4, 5]


def test_a_member_behind_what_is_kept_is_asked_to_restore(cluster) -> None:
    hub, machines, engines = cluster
    hub.links.isolate("node3")
    for k in range(5):
        engines["node1"].propose(b"%d" % k, f"k{k}", 10)
    until(lambda: machines["node2"].index == 5)
    hub.compact()
    engines["node1"].propose(b"after", "after", 10)
    hub.links.heal()
    until(lambda: machines["node3"].index == 6)
    assert machines["node3"].restored == [(5, b"at 5")]
    assert machines["node3"].applied == [(6, b"after")]


def test_what_old_members_ordered_behind_a_change_is_void_and_ordered_again() -> None:
    hub = EngineHub(MEMBERS)
    seen: dict[str, list[bytes]] = {node: [] for node in MEMBERS}

    def applier(node: str):
        def apply(index: int, command: bytes) -> None:
            seen[node].append(command)
            if command == b"change":
                hub.engines[node].reconfigure(Membership(1, index, MEMBERS))

        return apply

    engines = [hub.engine(node) for node in MEMBERS]
    for node, engine in zip(MEMBERS, engines, strict=True):
        engine.on_apply(applier(node))
        engine.start()
    with hub.changed:
        hub.order("change", b"change")
        hub.order("late", b"late")  # by the old members, behind the change
    engines[0].propose(b"after", "after", 10)
    until(lambda: all(len(commands) == 2 for commands in seen.values()))
    assert set(map(tuple, seen.values())) == {(b"change", b"after")}
    for engine in engines:
        engine.close()


def member(node: str) -> Member:
    return Member(node, f"{node}.example:7000", node.encode().ljust(32, b"."))


def test_peers_answer_refuse_and_can_be_cut() -> None:
    hub = PeerHub()
    one, two = hub.join(member("node1")), hub.join(member("node2"))
    checked: Peers = one
    checked.start()
    two.start()

    def echo(caller: str, body: bytes) -> bytes:
        if body == b"bad":
            raise UsageError("bad body")
        return caller.encode() + b":" + body

    two.serve("echo", echo, 8)
    assert checked.call("node2", "echo", b"hi", 5) == b"node1:hi"
    assert [m.id for m in checked.members()] == ["node1", "node2"]
    for body, method, refusal in ((b"bad", "echo", "usage"), (b"123456789", "echo", "usage"), (b"", "none", "usage")):
        with pytest.raises(PeerRefused) as caught:
            checked.call("node2", method, body, 5)
        assert caught.value.refusal == refusal
    seen = checked.last_seen_s()["node2"]
    assert seen is not None
    hub.links.cut("node1", "node2")
    with pytest.raises(PeerUnreachable):
        checked.call("node2", "echo", b"hi", 5)
    hub.links.heal()
    one.update_members([member("node1")])
    with pytest.raises(PeerUnreachable):
        checked.call("node2", "echo", b"hi", 5)
    one.close()
    two.close()


def test_a_slow_handler_does_not_outlast_the_callers_deadline() -> None:
    hub = PeerHub()
    one, two = hub.join(member("node1")), hub.join(member("node2"))
    one.start()
    two.start()
    let_go = threading.Event()
    two.serve("wait", lambda caller, body: b"done" if let_go.wait(20) else b"", 8)
    with pytest.raises(PeerUnreachable):
        one.call("node2", "wait", b"", 0.2)
    let_go.set()
    one.close()
    two.close()


def test_who_waits_for_a_member_that_closes_is_told_that_it_is_gone() -> None:
    hub = PeerHub()
    one, two = hub.join(member("node1")), hub.join(member("node2"))
    one.start()
    two.start()
    let_go = threading.Event()
    two.serve("wait", lambda caller, body: b"done" if let_go.wait(60) else b"", 8)
    with ThreadPoolExecutor(5) as pool:
        calls = [pool.submit(one.call, "node2", "wait", b"", 60.0) for _ in range(5)]
        wait(lambda: two._workers._work_queue.qsize() == 1, "one more than it has hands for")
        two.close()
        let_go.set()
        failed = [error for call in calls if (error := call.exception()) is not None]
    assert [type(error) for error in failed] == [PeerUnreachable]
    one.close()
