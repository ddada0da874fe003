"""E11: records of another node, another cluster or another month are replayed, held back and reordered."""

from __future__ import annotations

import re

from tests.support.cluster import Trio
from tests.support.intruder import Intruder
from tests.support.node import wait
from witnz.core.record import format_proposal
from witnz.core.verdict import Verdict
from witnz.verify.store import audit_store


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


def test_a_member_that_goes_on_is_counted_on_each_node_and_no_audit_minds(trio: Trio) -> None:
    other = trio.followers()[0]
    intruder = Intruder(trio[other])

    def times(node: str) -> int:
        found = [f for f in trio.findings(node) if f.key == "a member operator"]
        said = re.search(r"; ([0-9]+) times, the last at .*Z: .*expected cluster", found[0].detail) if found else None
        return int(said[1]) if said else len(found)

    before = {node: times(node) for node in trio.nodes}
    for number in range(12):
        foreign = intruder.signed("operator", {"action": f"elsewhere {number}", "detail": ""})
        intruder.propose(foreign.replace(trio[other].cluster_id.encode(), b"f" * 32))
    for node in trio.nodes:
        wait(lambda node=node: times(node) >= before[node] + 12, f"{node} to have counted")  # type: ignore[misc]
        assert len([f for f in trio.findings(node) if f.key == "a member operator"]) == 1
    (name,) = {f.id for node in trio.nodes for f in trio.findings(node) if f.key == "a member operator"}
    wait(lambda: trio[other].journal.state.finding_state(name), "the finding to be in the journal")
    trio.assert_alike(expected=lambda finding: finding.cls == "node.misbehaved")
    for node in trio.nodes:
        audit = audit_store(trio.configs[node].data_dir / "witnz.db")
        assert audit.verdict is Verdict.VERIFIED, audit.checks
