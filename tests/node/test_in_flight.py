"""A proposal in flight when its node dies: nothing is lost, nothing is doubled, and no two records have one place.

Three journals over one order.  A death is the node's store as it was at that very moment, copied by SQLite itself and opened
by a new journal, while the order has, or has not, got the command.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.node import wait
from tests.support.three_journals import Three
from witnz.errors import NoQuorum

SAID = {"action": "test", "detail": "said once"}


class Died(BaseException):
    """The process ends here; nobody catches it."""


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Three]:
    tmp_path.chmod(0o700)
    made = Three(tmp_path)
    yield made
    made.close()


def propose_and_die(three: Three, node: str, *, ordered: bool) -> Path:
    """A node that ends as soon as its command is on the way: ``ordered`` or not; what its disk holds."""
    engine = three.hub.engines[node]
    left: list[Path] = []

    def propose(command: bytes, key: str, deadline_s: float) -> int:
        left.append(three.die(node))
        if ordered:
            three.hub.order(key, command)
        raise Died

    engine.propose = propose  # type: ignore[method-assign]  # the process that ends is this thread
    with pytest.raises(Died):
        three.journals[node].propose("operator", SAID)
    engine.close()
    return left[0]


def test_a_node_that_dies_before_its_command_is_ordered_says_it_again_once(three: Three) -> None:
    copy = propose_and_die(three, "node2", ordered=False)
    three.revive("node2", copy)
    journal = three.journals["node2"]
    assert journal.in_doubt
    journal.settle()
    three.alike(2)
    assert [record.body_json for record in three.said("node1")] == [three.said("node2")[0].body_json]
    assert not journal.in_doubt
    journal.settle()
    assert journal.propose("operator", {**SAID, "detail": "another"}) == 3
    three.alike(3)
    assert [record.body["detail"] for record in three.said("node3")] == ["said once", "another"]


def test_a_node_that_dies_after_its_command_was_ordered_finds_it_and_does_not_say_it_twice(three: Three) -> None:
    copy = propose_and_die(three, "node2", ordered=True)
    for node in ("node1", "node3"):
        wait(lambda node=node: three.journals[node].size == 2, f"the record on {node}")
    three.revive("node2", copy)
    three.journals["node2"].settle()
    three.alike(2)
    assert three.journals["node2"].propose("operator", {**SAID, "detail": "another"}) == 3
    three.alike(3)
    assert [(record.n, record.body["detail"]) for record in three.said("node1")] == [(1, "said once"), (2, "another")]


def test_what_is_asked_next_waits_for_what_is_in_doubt_and_comes_after_it(three: Three) -> None:
    copy = propose_and_die(three, "node2", ordered=False)
    three.revive("node2", copy)
    assert three.journals["node2"].propose("operator", {**SAID, "detail": "asked next"}) == 3
    three.alike(3)
    assert [record.body["detail"] for record in three.said("node1")] == ["said once", "asked next"]


def test_a_command_that_arrives_twice_leaves_one_record(three: Three) -> None:
    three.hub.order_twice = True
    for number in range(5):
        three.journals["node1"].propose("operator", {**SAID, "detail": str(number)})
    three.alike(6)
    assert [record.body["detail"] for record in three.said("node2")] == ["0", "1", "2", "3", "4"]


def test_without_a_quorum_a_proposal_is_kept_and_stands_once_when_the_others_are_back(three: Three) -> None:
    three.hub.links.isolate("node2")
    with pytest.raises(NoQuorum):
        three.journals["node2"].propose("operator", SAID, deadline_s=0.2)
    assert three.journals["node2"].in_doubt
    copy = three.die("node2")
    three.hub.engines["node2"].close()
    three.hub.links.heal()
    three.revive("node2", copy)
    three.journals["node2"].settle()
    three.alike(2)
    assert len(three.said("node3")) == 1
