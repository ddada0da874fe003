"""The members' channel on real sockets: who is let in, what is answered, what happens when a member goes and comes back."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.tls_peers import connected, identity, make_members, start_peers, until
from witnz.cluster.peers import MAX_RESPONSE_BYTES, Member, Peers
from witnz.cluster.transport import TlsPeers
from witnz.ending import end_threads
from witnz.errors import ConfigError, PeerRefused, PeerUnreachable, ProofError, UsageError

TRIO = ("node1", "node2", "node3")


@contextmanager
def running(nodes=TRIO, host: str = "127.0.0.1") -> Iterator[dict[str, TlsPeers]]:
    made = make_members(nodes, host)
    peers = {node: start_peers(node, made) for node in nodes}
    try:
        until(lambda: all(connected(peers[a], b) for a in nodes for b in nodes if a != b))
        yield peers
    finally:
        for each in peers.values():
            each.close()


@pytest.fixture(scope="module")
def trio() -> Iterator[dict[str, TlsPeers]]:
    with running() as peers:
        yield peers


def test_calls_go_both_ways_over_one_connection_and_say_who_asks(trio) -> None:
    for peers in trio.values():
        peers.serve("echo", lambda caller, body: caller.encode() + b":" + body, 1 << 20)
    for one in TRIO:
        checked: Peers = trio[one]
        for other in TRIO:
            if one != other:
                assert checked.call(other, "echo", b"hello", 10) == f"{one}:hello".encode()


@pytest.mark.parametrize("size", [0, 1, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, 1 << 20, MAX_RESPONSE_BYTES])
def test_requests_and_answers_of_every_length_arrive_whole(trio, size: int) -> None:
    trio["node2"].serve("mirror", lambda caller, body: body[::-1], MAX_RESPONSE_BYTES)
    body = os.urandom(size)
    assert trio["node1"].call("node2", "mirror", body, 60) == body[::-1]


def test_many_calls_at_once_get_their_own_answers(trio) -> None:
    trio["node3"].serve("twice", lambda caller, body: body + body, 1 << 20)
    wrong: list[bytes] = []

    def ask(body: bytes) -> None:
        if trio["node1"].call("node3", "twice", body, 60) != body + body:
            wrong.append(body)

    threads = [threading.Thread(target=ask, args=(b"%d " % k * 20_000,)) for k in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        end_threads(thread)
    assert wrong == []


def test_a_handlers_error_is_the_callers_refusal_with_its_code(trio) -> None:
    def refuse(caller: str, body: bytes) -> bytes:
        raise ProofError("the tree does not fit \x1b[31m")

    trio["node2"].serve("refuse", refuse, 10)
    with pytest.raises(PeerRefused, match="the tree does not fit") as caught:
        trio["node1"].call("node2", "refuse", b"", 10)
    assert caught.value.refusal == "proof"
    assert "\x1b" not in caught.value.message


def test_a_handlers_fault_is_refused_without_telling_its_inside(trio, caplog) -> None:
    trio["node2"].serve("fault", lambda caller, body: {}["secret-detail"], 10)
    with pytest.raises(PeerRefused) as caught:
        trio["node1"].call("node2", "fault", b"", 10)
    assert caught.value.refusal == "unexpected"
    assert "secret-detail" not in caught.value.message


def test_what_is_too_long_or_unknown_is_refused_unread(trio) -> None:
    seen: list[bytes] = []
    trio["node2"].serve("short", lambda caller, body: seen.append(body) or b"", 100)
    for method, body in (("short", b"x" * 101), ("short", b"x" * 1_000_000), ("unknown", b"")):
        with pytest.raises(PeerRefused) as caught:
            trio["node1"].call("node2", method, body, 10)
        assert caught.value.refusal == "usage"
    with pytest.raises(UsageError):
        trio["node1"].call("node2", "short", bytes((16 << 20) + 1), 10)
    assert seen == []
    assert trio["node1"].call("node2", "short", b"x" * 100, 10) == b""


def test_an_answer_that_is_too_long_is_refused_by_who_made_it(trio) -> None:
    trio["node2"].serve("long", lambda caller, body: bytes(MAX_RESPONSE_BYTES + 1), 10)
    with pytest.raises(PeerRefused) as caught:
        trio["node1"].call("node2", "long", b"", 30)
    assert caught.value.refusal == "too-large"


def test_a_slow_handler_costs_its_caller_the_deadline_and_nobody_else_anything(trio) -> None:
    let_go = threading.Event()

    def wait(caller: str, body: bytes) -> bytes:
        let_go.wait(30)
        return b""

    trio["node2"].serve("wait", wait, 10)
    trio["node2"].serve("quick", lambda caller, body: b"ok", 10)
    threads = []
    for _ in range(12):

        def ask() -> None:
            with pytest.raises(PeerUnreachable):
                trio["node1"].call("node2", "wait", b"", 0.5)

        threads.append(threading.Thread(target=ask))
        threads[-1].start()
    assert trio["node3"].call("node2", "quick", b"", 20) == b"ok"
    for thread in threads:
        end_threads(thread)
    let_go.set()
    until(lambda: trio["node1"].call("node2", "quick", b"", 20) == b"ok")


def test_engine_frames_arrive_in_order_beside_a_long_answer(trio) -> None:
    class Listener:
        def __init__(self) -> None:
            self.events: list[tuple[str, bytes]] = []
            self.up: set[str] = set()

        def connected(self, node: str) -> None:
            self.up.add(node)

        def disconnected(self, node: str) -> None:
            self.up.discard(node)

        def received(self, node: str, frame: bytes) -> None:
            self.events.append((node, frame))

    listener = Listener()
    trio["node2"].on_engine_frames(listener)
    until(lambda: listener.up == {"node1", "node3"})
    trio["node2"].serve("big", lambda caller, body: bytes(8 << 20), 10)
    asking = threading.Thread(target=lambda: trio["node1"].call("node2", "big", b"", 60))
    asking.start()
    for k in range(500):
        assert trio["node1"].send_engine_frame("node2", b"%d" % k)
    until(lambda: len(listener.events) == 500)
    end_threads(asking)
    assert listener.events == [("node1", b"%d" % k) for k in range(500)]
    assert not trio["node1"].send_engine_frame("node9", b"")


def test_a_member_that_comes_back_is_connected_again() -> None:
    made = make_members(("node1", "node2"))
    one, two = start_peers("node1", made), start_peers("node2", made)
    try:
        until(lambda: connected(one, "node2") and connected(two, "node1"))
        two.close()
        until(lambda: not connected(one, "node2"))
        with pytest.raises(PeerUnreachable):
            one.call("node2", "any", b"", 5)
        two = start_peers("node2", made)
        two.serve("here", lambda caller, body: b"again", 10)
        until(lambda: connected(one, "node2"))
        assert one.call("node2", "here", b"", 10) == b"again"
        seen = one.last_seen_s()["node2"]
        assert seen is not None
    finally:
        one.close()
        two.close()


def test_a_call_that_waits_when_the_member_goes_fails_at_once() -> None:
    made = make_members(("node1", "node2"))
    one, two = start_peers("node1", made), start_peers("node2", made)
    begun, let_go = threading.Event(), threading.Event()

    def hang(caller: str, body: bytes) -> bytes:
        begun.set()
        let_go.wait(30)
        return b""

    two.serve("hang", hang, 10)
    try:
        until(lambda: connected(one, "node2"))
        failed: list[BaseException] = []

        def ask() -> None:
            try:
                one.call("node2", "hang", b"", 600)
            except PeerUnreachable as error:
                failed.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        assert begun.wait(20)
        two.close()
        asking.join(30)
        assert len(failed) == 1
    finally:
        let_go.set()
        one.close()


def test_a_removed_member_is_dropped_at_once_and_kept_out() -> None:
    with running() as peers:
        rest = [member for member in peers["node1"].members() if member.id != "node3"]
        peers["node1"].update_members(rest)
        until(lambda: not connected(peers["node1"], "node3") and not connected(peers["node3"], "node1"))
        time.sleep(0.5)
        assert not connected(peers["node1"], "node3")
        assert connected(peers["node1"], "node2")
        with pytest.raises(PeerUnreachable):
            peers["node3"].call("node1", "any", b"", 1)


def test_a_member_whose_key_changes_needs_the_new_key() -> None:
    made = make_members(("node1", "node2"))
    one, two = start_peers("node1", made), start_peers("node2", made)
    try:
        until(lambda: connected(one, "node2"))
        new = identity(77)
        changed = {**made, "node2": (Member("node2", made["node2"][0].addr, new.public_key().public_bytes_raw()), new)}
        one.update_members([member for member, _ in changed.values()])
        until(lambda: not connected(one, "node2") and one.refused > 0)
        two.close()
        two = start_peers("node2", changed)
        until(lambda: connected(one, "node2"))
    finally:
        one.close()
        two.close()


def test_members_may_be_reached_by_ipv6_and_by_name() -> None:
    for host in ("::1", "localhost"):
        try:
            made = make_members(("node1", "node2"), "::1" if host == "::1" else "127.0.0.1")
        except OSError:
            pytest.skip("no IPv6 on this host")
        if host == "localhost":
            made = {
                node: (Member(node, f"localhost:{member.addr.rpartition(':')[2]}", member.identity), key)
                for node, (member, key) in made.items()
            }
        one, two = start_peers("node1", made), start_peers("node2", made)
        try:
            until(lambda: connected(one, "node2") and connected(two, "node1"))  # noqa: B023
        finally:
            one.close()
            two.close()


def test_an_address_that_is_taken_is_refused_with_its_name() -> None:
    made = make_members(("node1",))
    one = start_peers("node1", made)
    try:
        with pytest.raises(ConfigError, match="cannot listen on"):
            start_peers("node1", made)
    finally:
        one.close()
