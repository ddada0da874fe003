"""The built-in engine on real sockets and files: leaders go, members change, logs are compacted, journals are lost."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.machine import until
from tests.support.raft_cluster import RaftCluster
from tests.support.tls_peers import make_members, start_peers
from witnz.cluster.engine import Membership
from witnz.cluster.raft.engine import RaftEngine
from witnz.errors import StoreCorrupt

FOUR = ("node1", "node2", "node3", "node4")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RaftCluster]:
    made = RaftCluster(tmp_path)
    made.start()
    yield made
    made.stop()


def test_another_leads_when_the_leader_goes_and_nothing_is_lost(cluster: RaftCluster) -> None:
    for turn in range(3):
        leader = cluster.leader()
        survivor = next(node for node in cluster.nodes if node != leader)
        cluster.engines[survivor].propose(b"before %d" % turn, f"before/{turn}", 60)
        cluster.stop(leader)
        cluster.engines[survivor].propose(b"after %d" % turn, f"after/{turn}", 60)
        assert cluster.engines[survivor].leader() != leader
        cluster.start(leader)
    until(lambda: all(len(machine.applied) == 6 for machine in cluster.machines.values()))
    assert len({tuple(machine.applied) for machine in cluster.machines.values()}) == 1


def test_members_change_while_commands_flow(tmp_path: Path) -> None:
    """node4 joins, node1 leaves; each member's machine decides alike from the commands alone."""
    cluster = RaftCluster(tmp_path, FOUR)
    cluster.membership = Membership(0, 0, FOUR[:3])
    memberships = dict.fromkeys(FOUR, cluster.membership)

    def follow(node: str, index: int, command: bytes) -> None:
        if command.startswith(b"members:"):
            members = tuple(command.decode().split(":")[1].split(","))
            memberships[node] = Membership(memberships[node].epoch + 1, index, members)
            if node in cluster.engines:
                cluster.engines[node].reconfigure(memberships[node])

    for node in FOUR:
        cluster.machines[node].on_command = lambda index, command, node=node: follow(node, index, command)
    cluster.start(*FOUR[:3])
    try:
        cluster.engines["node1"].propose(b"one", "one", 60)
        cluster.engines["node2"].propose(b"members:node1,node2,node3,node4", "add", 60)
        until(lambda: memberships["node1"].epoch == 1)
        machine = cluster.machines["node4"]
        index, snapshot = cluster.machines["node1"].snapshot()
        machine.restore(index, snapshot)
        memberships["node4"] = cluster.membership = memberships["node1"]
        cluster.start("node4")
        for node in FOUR:
            cluster.engines[node].propose(node.encode(), node, 60)
        cluster.engines["node4"].propose(b"members:node2,node3,node4", "remove", 60)
        for node in FOUR[1:]:
            cluster.engines[node].propose(b"without " + node.encode(), f"without/{node}", 60)
        until(lambda: all(len(cluster.machines[node].applied) == 10 for node in FOUR[1:]))
        assert len({tuple(cluster.machines[node].applied) for node in FOUR[1:]}) == 1
        assert {cluster.engines[node].status().epoch for node in FOUR[1:]} == {2}
        assert cluster.machines["node1"].applied == cluster.machines["node2"].applied[: len(cluster.machines["node1"].applied)]
    finally:
        cluster.stop()


def test_a_member_that_missed_the_change_fetches_what_it_missed(tmp_path: Path) -> None:
    cluster = RaftCluster(tmp_path)
    memberships = dict.fromkeys(cluster.nodes, cluster.membership)

    def follow(node: str, index: int, command: bytes) -> None:
        if command == b"anew":
            memberships[node] = Membership(1, index, cluster.nodes)
            cluster.engines[node].reconfigure(memberships[node])

    for node in cluster.nodes:
        cluster.machines[node].on_command = lambda index, command, node=node: follow(node, index, command)
    cluster.start()
    try:
        cluster.engines["node1"].propose(b"one", "one", 60)
        until(lambda: len(cluster.machines["node3"].applied) == 1)
        cluster.stop("node3")
        cluster.engines["node1"].propose(b"anew", "anew", 60)
        until(lambda: memberships["node1"].epoch == memberships["node2"].epoch == 1)
        cluster.start("node3")  # with the membership that it knows, which is over
        cluster.engines["node1"].propose(b"two", "two", 60)
        until(lambda: cluster.machines["node3"].commands == [b"one", b"anew", b"two"])
        assert cluster.machines["node3"].restored >= 1
        cluster.engines["node3"].propose(b"three", "three", 60)
    finally:
        cluster.stop()


def test_a_member_behind_the_compacted_log_restores_and_the_file_stays_bounded(tmp_path: Path) -> None:
    cluster = RaftCluster(tmp_path, compact_bytes=200_000)
    cluster.start()
    try:
        cluster.engines["node1"].propose(b"first", "first", 60)
        until(lambda: all(machine.applied for machine in cluster.machines.values()))
        cluster.stop("node3")
        for k in range(150):
            cluster.engines["node1"].propose(b"%d" % k * 2000, f"k{k}", 60)
        until(lambda: all((tmp_path / node / "raft.log").stat().st_size < 1_000_000 for node in ("node1", "node2")))
        cluster.start("node3")
        until(lambda: len(cluster.machines["node3"].applied) == 151)
        assert cluster.machines["node3"].restored == 1
        assert cluster.machines["node3"].applied == cluster.machines["node1"].applied
        cluster.stop()
        cluster.start()
        cluster.engines["node3"].propose(b"after", "after", 60)
        until(lambda: len({tuple(machine.applied) for machine in cluster.machines.values()}) == 1)
    finally:
        cluster.stop()


def test_a_member_that_lost_its_journal_follows_without_a_voice(cluster: RaftCluster, tmp_path: Path) -> None:
    cluster.engines["node1"].propose(b"one", "one", 60)
    until(lambda: all(machine.applied for machine in cluster.machines.values()))
    cluster.stop("node3")
    shutil.rmtree(tmp_path / "node3")
    cluster.machines["node3"].__init__(cluster.machines)  # type: ignore[misc]
    cluster.start("node3")
    until(lambda: "has lost its part" in (cluster.engines["node3"].status().error or ""))
    until(lambda: all(engine.status().voiceless == ("node3",) for engine in cluster.engines.values()))
    cluster.engines["node1"].propose(b"two", "two", 60)
    until(lambda: cluster.machines["node3"].commands == [b"one", b"two"])
    cluster.stop("node2")  # node1 and node3 are two of three, but node3 has no voice
    until(lambda: not cluster.engines["node1"].status().has_quorum)
    cluster.start("node2")
    cluster.engines["node1"].propose(b"three", "three", 60)


def test_a_damaged_journal_stops_the_node_before_it_starts(cluster: RaftCluster, tmp_path: Path) -> None:
    cluster.engines["node1"].propose(b"one", "one", 60)
    cluster.stop("node2")
    path = tmp_path / "node2" / "raft.log"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(bytes(data))
    made = make_members(("node2",))
    peers = start_peers("node2", made)
    try:
        with pytest.raises(StoreCorrupt):
            RaftEngine("node2", cluster.membership, tmp_path / "node2", peers)
    finally:
        peers.close()
    cluster.engines["node1"].propose(b"two", "two", 60)
