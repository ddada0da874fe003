"""E11: records of another node, another cluster or another month are replayed, held back and reordered."""

from __future__ import annotations

from tests.support.cluster import Trio
from tests.support.intruder import Intruder
from witnz.core.record import format_proposal


def test_replayed_and_reordered_records_change_nothing(trio: Trio) -> None:
    trio.database.sql("INSERT INTO ledger VALUES (21, 'user21', 210)")
    trio.settled()
    leader, other = trio.leader, trio.followers()[0]
    intruder = Intruder(trio[other])
    records = trio.records(leader)
    for record in records:  # each as it was, from a node that may have no business with it
        intruder.propose(format_proposal(record))
    state = trio[other].journal.state
    ahead = intruder.signed("operator", {"action": "first", "detail": ""}, n=state.next_n(other) + 1)
    again = intruder.signed("operator", {"action": "first", "detail": ""}, prev="1" * 64)
    for command in (ahead, again):
        intruder.propose(command)
    foreign = intruder.signed("operator", {"action": "elsewhere", "detail": ""})
    intruder.propose(foreign.replace(trio[other].cluster_id.encode(), b"f" * 32))
    for node in trio.nodes:
        assert "expected cluster" in trio.wait_for(node, "node.misbehaved", "a member operator").detail
        assert not any(r.type == "operator" and r.body["action"] in ("first", "elsewhere") for r in trio.records(node))
        seen = [(record.node, record.n) for record in trio.records(node)]
        assert len(seen) == len(set(seen))
    trio.assert_alike(expected=lambda finding: finding.cls == "node.misbehaved")
