"""Alerts of three nodes: the leader sends at once, another after ten seconds without a journalled delivery, nobody never.

Real stores, journals and alert services; the clock is the test's, and a sink is a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.alerts import CLUSTER, finding
from tests.support.node import wait
from tests.support.three_journals import IDS, Three
from witnz.alert.message import Message
from witnz.alert.service import AlertService
from witnz.alert.sink import DELIVERED, Outcome
from witnz.node.delivery import HOLD_S, Deliveries
from witnz.node.following import Following

FOUND = finding(7)


@dataclass(slots=True)
class Pager:
    """A sink that notes what it is given, or refuses everything."""

    name: str = "pager"
    max_per_minute: int = 60
    summarises_closing: bool = False
    broken: bool = False
    got: list[str] = field(default_factory=list)

    def deliver(self, message: Message, now_s: float) -> Outcome:
        if self.broken:
            return Outcome("the receiver is out of reach")
        self.got.append(message.subject)
        return DELIVERED


class Alerting:
    """Three nodes that have each found the same; ``node1`` leads."""

    def __init__(self, directory: Path) -> None:
        self.three = Three(directory)
        self.now_s = 1_800_000_000.0
        self.pagers, self.services, self.deliveries, self.following = {}, {}, {}, {}
        for node in IDS:
            self.begin(node)

    def begin(self, node: str) -> None:
        """The parts of a node that alert, on its store as it is."""
        db, journal = self.three.stores[node], self.three.journals[node]
        pager = self.pagers.setdefault(node, Pager())
        service = AlertService(db, [pager], lambda: round(self.now_s * 1e6), cluster=CLUSTER, node=node)
        deliveries = Deliveries(db, journal, lambda: self.three.hub.leader() == node)
        service.hold_s = deliveries.hold_s
        self.services[node], self.deliveries[node] = service, deliveries
        self.following[node] = Following(db, {"operator": deliveries.followed})

    def all_find(self) -> None:
        for node in IDS:
            with self.three.stores[node].write() as conn:
                self.services[node].enqueue(conn, FOUND)

    def round(self, *nodes: str) -> None:
        """What each of these nodes does now and then."""
        for node in nodes or IDS:
            self.following[node].follow()
            self.services[node].deliver_due()

    def say(self, node: str) -> None:
        """The node journals what it has sent, and the others hear of it."""
        size = self.three.journals[node].size
        self.deliveries[node].journal_sent()
        for other in IDS:
            if self.three.hub.links.up(node, other):
                wait(lambda other=other: self.three.journals[other].size > size, f"the delivery on {other}")

    @property
    def sent(self) -> list[str]:
        return [each for pager in self.pagers.values() for each in pager.got]


@pytest.fixture
def alerting(tmp_path: Path) -> Iterator[Alerting]:
    tmp_path.chmod(0o700)
    made = Alerting(tmp_path)
    yield made
    made.three.close()


def test_the_leader_sends_at_once_and_the_others_drop_what_the_journal_says_was_sent(alerting: Alerting) -> None:
    alerting.all_find()
    alerting.round()
    assert alerting.pagers["node1"].got == [FOUND.id]
    assert alerting.sent == [FOUND.id]
    alerting.say("node1")
    alerting.now_s += HOLD_S - 0.1
    alerting.round()
    alerting.now_s += 3600
    alerting.round()
    assert alerting.sent == [FOUND.id], "nobody sends it a second time"


def test_another_node_sends_after_ten_seconds_without_a_journalled_delivery_under_the_same_id(alerting: Alerting) -> None:
    alerting.all_find()
    alerting.pagers["node1"].broken = True
    alerting.round()
    alerting.now_s += HOLD_S - 0.1
    alerting.round("node2", "node3")
    assert alerting.sent == []
    alerting.now_s += 0.2
    alerting.round("node2")
    assert alerting.pagers["node2"].got == [FOUND.id]
    alerting.say("node2")
    alerting.pagers["node1"].broken = False
    alerting.now_s += 3600
    alerting.round()
    assert alerting.sent == [FOUND.id], "node3 and the leader heard of it in time"


def test_what_the_leader_sent_before_it_died_unheard_is_rather_sent_twice_than_never(alerting: Alerting) -> None:
    alerting.all_find()
    alerting.round("node1")
    alerting.three.hub.links.isolate("node1")  # it has sent, and nobody learns of it
    assert alerting.three.hub.leader() == "node2"
    alerting.now_s += HOLD_S + 0.1
    alerting.round("node2")
    alerting.say("node2")
    alerting.round("node3")
    assert alerting.sent == [FOUND.id, FOUND.id], "one deduplication id, so that the receiver opens one incident"
    assert alerting.pagers["node3"].got == []


def test_a_member_without_anybody_sends_by_itself_and_says_so_when_the_others_are_back(alerting: Alerting) -> None:
    links = alerting.three.hub.links
    links.isolate("node1")
    links.isolate("node2")
    with alerting.three.stores["node3"].write() as conn:
        alerting.services["node3"].enqueue(conn, FOUND)
    alerting.now_s += HOLD_S + 0.1
    alerting.round("node3")
    assert alerting.pagers["node3"].got == [FOUND.id]
    copy = alerting.three.die("node3")
    alerting.three.hub.engines["node3"].close()
    links.heal()
    alerting.three.revive("node3", copy)
    alerting.begin("node3")
    alerting.round("node3")
    assert alerting.pagers["node3"].got == [FOUND.id], "its restart sends nothing again"
    alerting.say("node3")
    for node in ("node1", "node2"):
        with alerting.three.stores[node].write() as conn:
            alerting.services[node].enqueue(conn, FOUND)
        alerting.round(node)
    assert "alert.delivered" in {record.body["action"] for record in alerting.three.said("node1")}
