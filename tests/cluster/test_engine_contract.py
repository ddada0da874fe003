"""What every ordering engine promises (witnz/cluster/engine.py), asked of each in the same words."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.support.etcd import EtcdCluster
from tests.support.machine import Machine, until
from tests.support.raft_cluster import RaftCluster
from tests.support.simulated_engine import EngineHub
from witnz.cluster.engine import MAX_COMMAND_BYTES, Engine
from witnz.ending import end_threads
from witnz.errors import NoQuorum, UsageError

NODES = ("node1", "node2", "node3")


class Cluster(Protocol):
    engines: dict[str, Engine]
    machines: dict[str, Machine]

    def start(self, *nodes: str) -> None: ...

    def stop(self, *nodes: str) -> None: ...

    def lose_quorum(self) -> None:
        """node1 runs, and can agree with nobody."""

    def regain_quorum(self) -> None: ...

    def end(self) -> None: ...


class Simulated:
    """The simulator, in the shape of the others."""

    def __init__(self) -> None:
        self.hub = EngineHub(NODES)
        self.machines: dict[str, Machine] = {}
        for node in NODES:
            self.machines[node] = Machine(self.machines)
        self.engines: dict[str, Engine] = {}

    def start(self, *nodes: str) -> None:
        for node in nodes or NODES:
            engine = self.hub.engine(node)
            engine.on_apply(self.machines[node].apply, self.machines[node])
            engine.start()
            self.engines[node] = engine

    def stop(self, *nodes: str) -> None:
        for node in nodes or tuple(self.engines):
            self.engines.pop(node).close()

    def lose_quorum(self) -> None:
        self.stop("node2", "node3")

    def regain_quorum(self) -> None:
        self.start("node2", "node3")

    def end(self) -> None:
        self.stop()


MAKERS = {"simulated": lambda directory: Simulated(), "raft": RaftCluster, "etcd": EtcdCluster}


@pytest.fixture(params=list(MAKERS))
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    made: Cluster = MAKERS[request.param](tmp_path)
    made.start()
    yield made
    made.end()


def alike(cluster: Cluster, commands: int) -> bool:
    machines = list(cluster.machines.values())
    return all(len(machine.applied) == commands and machine.applied == machines[0].applied for machine in machines)


def test_all_members_apply_the_same_commands_under_the_same_indexes(cluster: Cluster) -> None:
    indexes = []
    for k in range(60):
        node = NODES[k % 3]
        index = cluster.engines[node].propose(b"command %d" % k, f"{node}/{k}", 60)
        assert (index, b"command %d" % k) in cluster.machines[node].applied, "applied here before propose() returned"
        indexes.append(index)
    assert indexes == sorted(set(indexes))
    until(lambda: alike(cluster, 60))
    until(lambda: cluster.engines["node2"].status().has_quorum)  # on a busy machine an election may be going on
    status = cluster.engines["node2"].status()
    assert status.error is None
    assert status.leader in NODES
    assert status.index == indexes[-1] or status.index > indexes[-1]


def test_proposals_of_many_threads_all_get_through(cluster: Cluster) -> None:
    def propose(node: str, first: int) -> None:
        for k in range(first, first + 10):
            cluster.engines[node].propose(b"%d" % k * 1000, f"k{k}", 60)

    threads = [threading.Thread(target=propose, args=(NODES[t % 3], 10 * t)) for t in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        end_threads(thread)
    until(lambda: alike(cluster, 90))


def test_a_stopped_minority_holds_up_nobody_and_is_given_what_it_missed(cluster: Cluster) -> None:
    cluster.engines["node1"].propose(b"all", "all", 60)
    until(lambda: alike(cluster, 1))
    cluster.stop("node3")
    for k in range(5):
        cluster.engines["node1"].propose(b"%d" % k, f"k{k}", 60)
    assert len(cluster.machines["node3"].applied) == 1
    cluster.start("node3")
    until(lambda: alike(cluster, 6))
    cluster.engines["node3"].propose(b"back", "back", 60)
    until(lambda: alike(cluster, 7))


def test_without_a_quorum_a_proposal_fails_in_time_and_may_be_made_again(cluster: Cluster) -> None:
    cluster.engines["node1"].propose(b"all", "all", 60)
    cluster.lose_quorum()
    with pytest.raises(NoQuorum) as caught:
        cluster.engines["node1"].propose(b"alone", "alone", 0.5)
    assert caught.value.exit_code == 13
    with pytest.raises(NoQuorum):
        cluster.engines["node1"].barrier(0.3)
    until(lambda: not cluster.engines["node1"].status().has_quorum)
    cluster.regain_quorum()
    cluster.engines["node1"].propose(b"alone", "alone", 60)
    until(lambda: len({tuple(machine.commands) for machine in cluster.machines.values()}) == 1)
    assert b"alone" in cluster.machines["node3"].commands


def test_everything_agreed_before_a_barrier_is_applied_after_it(cluster: Cluster) -> None:
    for k in range(10):
        cluster.engines["node1"].propose(b"%d" % k, f"k{k}", 60)
        cluster.engines["node3"].barrier(60)
        assert b"%d" % k in cluster.machines["node3"].commands


def test_a_full_disk_skips_nothing(cluster: Cluster) -> None:
    cluster.engines["node1"].propose(b"before", "before", 60)
    until(lambda: alike(cluster, 1))
    cluster.machines["node2"].full.set()
    cluster.engines["node1"].propose(b"first", "first", 60)
    cluster.engines["node1"].propose(b"second", "second", 60)
    until(lambda: cluster.engines["node2"].status().error is not None)
    assert cluster.machines["node2"].commands == [b"before"]
    with pytest.raises(NoQuorum):
        cluster.engines["node2"].propose(b"mine", "mine", 0.3)
    cluster.machines["node2"].full.clear()
    until(
        lambda: (
            cluster.engines["node2"].status().error is None
            and cluster.machines["node2"].commands[:3] == [b"before", b"first", b"second"]
        )
    )


def test_a_restart_of_all_gives_nothing_twice(cluster: Cluster) -> None:
    for k in range(5):
        cluster.engines["node2"].propose(b"%d" % k, f"k{k}", 60)
    until(lambda: alike(cluster, 5))
    cluster.stop()
    cluster.start()
    cluster.engines["node1"].propose(b"after", "after", 60)
    until(lambda: alike(cluster, 6))


def test_commands_have_a_largest_size(cluster: Cluster) -> None:
    with pytest.raises(UsageError):
        cluster.engines["node1"].propose(bytes(MAX_COMMAND_BYTES + 1), "big", 10)
    cluster.engines["node1"].propose(bytes(MAX_COMMAND_BYTES), "largest", 60)
    until(lambda: alike(cluster, 1))


def test_a_closed_engine_fails_those_who_wait(cluster: Cluster) -> None:
    cluster.lose_quorum()
    engine = cluster.engines["node1"]
    failed: list[BaseException] = []

    def propose() -> None:
        try:
            engine.propose(b"never", "never", 600)
        except NoQuorum as error:
            failed.append(error)

    waiting = threading.Thread(target=propose)
    waiting.start()
    until(waiting.is_alive)
    cluster.stop("node1")
    waiting.join(60)
    assert len(failed) == 1
