"""Networks that fail while an application writes: real TLS and Raft through sockets that are cut, slow, one-way or half open.

Whatever happened, in the end the logs are identical, there is one history of final checkpoints, every committed change is
recorded exactly once, and nothing was found that was not so.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.cutter import CutTrio
from tests.support.node import wait
from tests.support.postgres import create_database
from tests.support.writer import WRITTEN, Writer, make_written, written
from witnz.demo.server import PostgresServer

LONG_S = 120.0


@pytest.fixture(scope="module")
def trio(pg_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CutTrio]:
    database = create_database(pg_server)
    with ExitStack() as stack:
        stack.callback(database.drop)
        make_written(database)
        trio = CutTrio.begin(tmp_path_factory.mktemp("cut"), database, WRITTEN)
        stack.callback(trio.stop)
        yield trio


def goes_on(trio: CutTrio, *ids: str) -> None:
    """These nodes make checkpoints final that cover more than they have now."""
    before = {node: trio.final_size(node) for node in ids}
    wait(lambda: all(trio.final_size(node) > before[node] + 1 for node in ids), f"final checkpoints on {ids}", LONG_S)


def healed_and_whole(trio: CutTrio) -> None:
    """What has to hold after everything.  That a quorum was lost may be so, and says nothing about the data."""
    trio.cutter.heal()
    goes_on(trio, *trio.nodes)


def assert_one_history(trio: CutTrio) -> None:
    trio.assert_alike(expected=lambda finding: finding.cls == "quorum.lost")
    for table, size in written(trio.database).items():
        assert {node: len(trio.log(node, table)) for node in trio.nodes} == dict.fromkeys(trio.nodes, size)


def test_an_isolated_leader_is_followed_by_another_and_comes_back_as_a_member(trio: CutTrio) -> None:
    with Writer(trio.database):
        before = trio.leader
        rest = [node for node in trio.nodes if node != before]
        trio.cutter.isolate(before)
        following = wait(lambda: trio.leader_among(*rest), "another leader", LONG_S)
        assert following != before
        goes_on(trio, *rest)
        wait(lambda: not trio[before].engine.status().has_quorum, f"{before} to notice that it leads nobody")
        stood = trio.final_size(before)
        goes_on(trio, *rest)
        assert trio.final_size(before) == stood, "whoever is alone makes nothing final"
        healed_and_whole(trio)
    assert_one_history(trio)


def test_an_isolated_member_holds_up_nobody_says_so_once_and_catches_up(trio: CutTrio) -> None:
    with Writer(trio.database):
        alone = trio.followers()[0]
        trio.cutter.isolate(alone)
        goes_on(trio, *(node for node in trio.nodes if node != alone))
        finding = trio.wait_for(alone, "quorum.lost")
        assert finding.table is None
        recorded = len(trio.log(alone, "public.events"))
        wait(lambda: len(trio.log(alone, "public.events")) > recorded, "the isolated node to go on recording")
        healed_and_whole(trio)
    assert len([f for f in trio.findings(alone, state=None) if f.cls == "quorum.lost"]) == 1
    assert_one_history(trio)


@pytest.mark.parametrize("direction", ["from the leader", "to the leader"])
def test_loss_in_one_direction(trio: CutTrio, direction: str) -> None:
    with Writer(trio.database):
        leader, one = trio.leader, trio.followers()[0]
        sender, receiver = (leader, one) if direction == "from the leader" else (one, leader)
        trio.cutter.cut(sender, receiver, one_way=True)
        peers = trio[receiver].peering.peers  # type: ignore[union-attr]
        wait(lambda: (peers.last_seen_s()[sender] or 0.0) > 3.0, f"{receiver} to hear nothing of {sender}")
        wait(lambda: trio.leader_among(*trio.nodes), "a leader all the same", LONG_S)
        goes_on(trio, *sorted([node for node in trio.nodes if trio[node].engine.status().has_quorum])[:2])
        healed_and_whole(trio)
    assert_one_history(trio)


def test_nobody_reaches_anybody_and_all_go_on_recording(trio: CutTrio) -> None:
    with Writer(trio.database) as writer:
        for node in trio.nodes:
            trio.cutter.isolate(node)
        wait(lambda: not any(one.engine.status().has_quorum for one in trio.nodes.values()), "nobody to have a quorum")
        stood, at = {node: trio.final_size(node) for node in trio.nodes}, writer.inserted
        wait(lambda: all(len(trio.log(node, "public.events")) > at for node in trio.nodes), "all to go on recording")
        assert {node: trio.final_size(node) for node in trio.nodes} == stood
        healed_and_whole(trio)
    assert_one_history(trio)


def test_slow_links_slow_down_and_nothing_else(trio: CutTrio) -> None:
    with Writer(trio.database):
        one, two, three = trio.nodes
        for pair in ((one, two), (two, one), (two, three), (three, two)):
            trio.cutter.delay(*pair, 0.1)
        trio.cutter.trickle(one, three, 20_000)
        trio.cutter.trickle(three, one, 20_000)
        goes_on(trio, *trio.nodes)
        healed_and_whole(trio)
    assert_one_history(trio)


def test_connections_that_end_again_and_again(trio: CutTrio) -> None:
    with Writer(trio.database):
        until = time.monotonic() + 3.0
        one, two, three = trio.nodes
        while time.monotonic() < until:
            for pair in ((one, two), (two, three), (one, three)):
                trio.cutter.hang_up(*pair)
                time.sleep(0.2)
        healed_and_whole(trio)
    assert_one_history(trio)


def test_clocks_that_jump_by_hours_change_no_history_and_accuse_nobody(trio: CutTrio) -> None:
    with Writer(trio.database):
        leader, (one, other) = trio.leader, trio.followers()
        trio.jumps_s |= {leader: 7_200.0, one: -7_200.0}
        goes_on(trio, other)
        trio.jumps_s |= {leader: -86_400.0, one: 86_400.0, other: 300.0}
        goes_on(trio, other)
        trio.jumps_s.clear()
        healed_and_whole(trio)
    assert_one_history(trio)
