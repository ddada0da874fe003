"""E08: a node is cut off: without a quorum it keeps recording, detecting and alerting, and says so; then it catches up."""

from __future__ import annotations

from tests.support.cluster import LEDGER, Trio
from tests.support.node import wait
from witnz.node import peering


def test_a_minority_detects_by_itself_and_catches_up(trio: Trio) -> None:
    alone = trio.leader
    sealed = trio[alone].journal.size
    trio.links.isolate(alone)
    trio.database.sql("UPDATE ledger SET amount = 666 WHERE id = 4", user="postgres")
    seen = trio.wait_for(alone, "violation.update", "4")
    trio.wait_for(alone, "quorum.lost")
    assert peering.QUORUM_LOST_S > 3
    others = [node for node in trio.nodes if node != alone]
    wait(lambda: trio.engines.leader() in others, "a leader of the majority")
    for node in others:
        assert trio.wait_for(node, "violation.update", "4").id == seen.id
    trio.database.sql("INSERT INTO ledger VALUES (12, 'user12', 120)")
    trio.settled(*others)
    assert trio[others[0]].journal.size > sealed
    assert trio[alone].journal.size == sealed, "nothing enters the journal of a minority"
    trio.links.heal()
    trio.settled()
    assert len(trio.log(alone, LEDGER)) == len(trio.log(others[0], LEDGER)) == 1 + 10 + 2
    journalled = [record.body["id"] for record in trio.records(alone) if record.type == "finding"]
    assert seen.id in journalled  # twice, where the lone leader had signed it already: nothing signed is unsaid
    assert sum(f.id == seen.id for f in trio.findings(alone, state=None)) == 1
    assert sum(f.cls == "quorum.lost" for f in trio.findings(alone, state=None)) == 1
    trio.assert_alike(expected=lambda finding: finding.cls in ("violation.update", "quorum.lost"))
