"""An intruder on a member: authenticated, and saying whatever it likes to the others' engines (threats.md, E07).

Raft does not tolerate lies about the order, and what is ordered is checked elsewhere; but no message may stop an engine,
take back what is agreed, or reach anything but the order.
"""

from __future__ import annotations

import logging
import pickle
import random
from collections.abc import Iterator

import pytest

from tests.support.raft_world import Disk, Host, World
from witnz.cluster.raft import core
from witnz.cluster.raft.guard import MAX_TERM_STEP
from witnz.cluster.raft.messages import NO_OP, format_command, format_frame


@pytest.fixture
def world() -> Iterator[World]:
    """Three members that agree, without any misfortune."""
    logging.disable(logging.CRITICAL)
    made = World(1, kill=0, cut=0, freeze=0, payload=100)
    original, core.syncobj.monotonicTime = core.syncobj.monotonicTime, made.clock
    for name in made.first.members:
        made.boot(name)
    settle(made, 60)
    assert len(made.order) > 10
    yield made
    core.syncobj.monotonicTime = original
    logging.disable(logging.NOTSET)


def settle(world: World, commands: int) -> None:
    """Go on until so many more commands are applied by all."""
    wanted = len(world.order) + commands
    for _ in range(20_000):
        world.advance(storm=False)
        if min(len(host.store.history) for host in world.hosts.values()) >= wanted:
            return
    raise AssertionError("the members do not get on")


def members(world: World) -> tuple[Host, Host]:
    """(leader, a follower)"""
    leader = next(host for host in world.hosts.values() if host.member is not None and host.member.core.leads)
    return leader, next(host for host in world.hosts.values() if host is not leader)


def say(target: Host, claimed: str, message: dict[str, object], epoch: int = 0) -> None:
    assert target.member is not None
    target.member.received(claimed, format_frame(epoch, message))


def third(world: World, *others: Host) -> str:
    return next(name for name in world.hosts if name not in {host.name for host in others})


def test_a_term_that_no_election_leads_to_is_not_believed(world: World) -> None:
    leader, follower = members(world)
    liar, term = third(world, leader, follower), follower.member.core.term
    for far in (term + MAX_TERM_STEP + 1, (1 << 62) - 1):
        for kind in ("request_vote", "pre_vote"):
            say(follower, liar, {"type": kind, "term": far, "last_log_index": 1 << 40, "last_log_term": 1 << 40})
        say(follower, liar, {"type": "stale", "term": far})
        heartbeat = {"type": "append_entries", "term": far, "commit_index": 0, "prevLogIdx": 1, "prevLogTerm": 0, "entries": ()}
        say(follower, liar, heartbeat)
        say(follower, liar, {"type": "snapshot", "term": far, "before_term": 0, "last": (NO_OP, 9999, far), "data": b""})
    assert follower.member.core.term == term
    settle(world, 20)


def test_what_is_agreed_is_not_taken_back_by_a_leader_of_its_own_making(world: World) -> None:
    leader, follower = members(world)
    liar, term = third(world, leader, follower), follower.member.core.term + 1
    before = follower.member.log[:]
    commit = follower.member.core.commit
    forged = (format_command(0, "forged", b"forged"), 3, term)
    for previous, previous_term in ((2, follower.member.log[1][2]), (1, 0)):
        entries = ((forged[0], previous + 1, term),)
        message = {"type": "append_entries", "term": term, "commit_index": 1 << 40, "prevLogIdx": previous}
        say(follower, liar, {**message, "prevLogTerm": previous_term, "entries": entries})
    assert follower.member.log[: commit - 1] == before[: commit - 1]
    settle(world, 20)


def test_a_second_leader_of_a_term_is_not_followed(world: World) -> None:
    leader, follower = members(world)
    liar = third(world, leader, follower)
    last = follower.member.log[-1]
    entry = (format_command(0, "forged", b"forged"), last[1] + 1, last[2])
    message = {"type": "append_entries", "term": leader.member.core.term, "commit_index": last[1] + 1}
    for target in (leader, follower):
        say(target, liar, {**message, "prevLogIdx": last[1], "prevLogTerm": last[2], "entries": (entry,)})
    assert all(entry[0] not in [kept[0] for kept in target.member.log[:]] for target in (leader, follower))
    settle(world, 20)


def test_acknowledgements_of_what_was_never_sent_commit_nothing(world: World) -> None:
    leader, follower = members(world)
    liar, term = third(world, leader, follower), leader.member.core.term
    last = leader.member.log.last
    for index in (last + 2, 1 << 61, 0):
        answer = {
            "type": "next_node_idx",
            "next_node_idx": index,
            "try_from": index,
            "reset": False,
            "term": term,
            "voter": True,
        }
        say(leader, liar, {**answer, "success": True})
        say(leader, liar, {**answer, "success": False})
    settle(world, 20)


def test_one_member_counts_once_in_an_election(world: World) -> None:
    """With five members, the votes of one liar said three times are not three votes."""
    five = World(2, 5, kill=0, cut=0, freeze=0)
    core.syncobj.monotonicTime = five.clock
    for name in five.first.members:
        five.boot(name)
    settle(five, 10)
    leader, follower = members(five)
    liar = third(five, leader, follower)
    term = follower.member.core.term
    follower.member.guard._ballot = None
    for other in five.first.members:
        if other != follower.name:
            five.cuts.add(frozenset((other, follower.name)))
            five.disconnect(frozenset((other, follower.name)))
    five.cuts.discard(frozenset((liar, follower.name)))
    five.reconnect()
    for _ in range(300):
        five.now += 0.02
        follower.member.step()
        say(follower, liar, {"type": "pre_vote_granted", "term": follower.member.core.term + 1})
        for _ in range(3):
            say(follower, liar, {"type": "response_vote", "term": follower.member.core.term})
    assert not follower.member.core.leads
    assert follower.member.core.term == term


def test_frames_of_another_epoch_or_a_stranger_change_nothing(world: World) -> None:
    leader, follower = members(world)
    liar, term = third(world, leader, follower), follower.member.core.term
    vote = {"type": "request_vote", "term": term + 5, "last_log_index": 1 << 40, "last_log_term": 1 << 40}
    say(follower, liar, vote, epoch=7)
    assert follower.member.behind == (liar, 7)
    say(follower, "n9", vote)
    say(follower, follower.name, vote)
    assert follower.member.core.term == term
    follower.member.behind = None
    settle(world, 20)


def test_garbage_stops_nobody(world: World) -> None:
    leader, follower = members(world)
    liar = third(world, leader, follower)
    rnd = random.Random(5)
    good = format_frame(0, {"type": "apply_command", "command": format_command(0, "k", b"x")})
    for target in (leader, follower):
        for _ in range(3000):
            data = bytearray(good if rnd.random() < 0.5 else rnd.randbytes(rnd.randint(0, 200)))
            if data and rnd.random() < 0.9:
                data[rnd.randrange(len(data))] ^= rnd.randint(1, 255)
            target.member.received(liar, bytes(data))
        for command in (b"\2" + pickle.dumps(["add", "evil:1"]), b"\3" + pickle.dumps(7), pickle.dumps(print)):
            say(target, liar, {"type": "apply_command", "command": command})
    assert not any(b"evil" in entry[0] for entry in leader.member.log[:])
    settle(world, 20)


def test_every_frame_replayed_in_any_order_moves_nothing(world: World) -> None:
    """TLS makes replays of others impossible; a member can say its own frames again."""
    recorded: list[tuple[str, str, bytes]] = []
    send = world.send

    def recording(one: str, other: str, frame: bytes) -> bool:
        recorded.append((one, other, frame))
        return send(one, other, frame)

    world.send = recording  # type: ignore[method-assign]  # the world's own network, listened to
    for host in world.hosts.values():
        host.member._send = lambda peer, frame, name=host.name: recording(name, peer, frame)
    settle(world, 30)
    rnd = random.Random(3)
    for one, other, frame in rnd.sample(recorded, min(len(recorded), 2000)):
        world.hosts[other].member.received(one, frame)
    settle(world, 30)


def test_many_proposals_that_are_never_agreed_are_bounded(world: World) -> None:
    leader, follower = members(world)
    liar = third(world, leader, follower)
    for host in world.hosts.values():
        host.frozen_until = float("inf")
    for k in range(200):
        say(leader, liar, {"type": "apply_command", "command": format_command(0, f"k{k}", bytes(200_000))})
    waiting = leader.member.log.bytes_after(leader.member.core.commit)
    assert waiting <= 8 << 20
    assert isinstance(leader.disk, Disk)
