"""E10: one node, the leader too, signs what only an operator may decide: no effect, a finding on the others."""

from __future__ import annotations

import os
from base64 import b64encode
from typing import Any

import pytest

from tests.support.cluster import LEDGER, Trio
from tests.support.intruder import Intruder
from tests.support.node import wait
from witnz.core.keys import Ed25519Signer
from witnz.core.record import operator_bytes

WEAKER = {"mode": "state_integrity", "on_change": "record"}


def signed_by_nobody(trio: Trio, record_type: str, body: dict[str, Any]) -> dict[str, Any]:
    """The body with the signature of a key that only claims to be the operator's."""
    decided = {**body, "nonce": os.urandom(16).hex()}
    forger = Ed25519Signer("operator/alice", os.urandom(32))
    signature = forger.sign(operator_bytes(decided, trio["node1"].cluster_id, record_type))
    return {**decided, "auth": {"operator": "alice", "sig": b64encode(signature).decode()}}


@pytest.mark.parametrize("place", ["leader", "follower"])
def test_a_node_decides_nothing_without_an_operator(trio: Trio, place: str) -> None:
    liar = trio.leader if place == "leader" else trio.followers()[0]
    others = [node for node in trio.nodes if node != liar]
    intruder = Intruder(trio[liar])
    trio.database.sql("DELETE FROM ledger WHERE id = 3", user="postgres")
    finding = trio.wait_for(liar, "violation.delete")
    for node in trio.nodes:
        trio.wait_for(node, "violation.delete", "3")
        known = trio[node].journal.state.finding_state
        wait(lambda known=known: known(finding.id), "the finding to be in the journal")
    before = trio[liar].journal.state.tables()[LEDGER]
    forged = {
        "accept": {"table": LEDGER, "generation": 1, "rows": [], "finding": finding.id, "reason": "it is fine"},
        "erase": {"table": LEDGER, "generation": 1, "keys": ["3"], "reason": "gone"},
        "key": {
            "action": "add",
            "kind": "operator",
            "name": f"mallory of {place}",
            "key": b64encode(os.urandom(32)).decode(),
            "from_lsn": "0/0",
        },
    }
    for record_type, body in forged.items():
        intruder.put(record_type, signed_by_nobody(trio, record_type, body))
        for node in others:
            seen = trio.wait_for(node, "node.misbehaved", f"{liar} {record_type}")
            assert "its auth is not by the operator key" in seen.detail
    table = {
        "table": LEDGER, "generation": 1, **WEAKER, "rules": {"inserts_only": False, "require_intent": False, "retain": False},
        "keys": {"columns": ["id"], "form": "plain"}, "oid": before.oid, "snapshot": before.snapshot, "lsn": "0/1",
        "secret_sha256": before.secret_sha256, "previous": None, "reason": "weaker",
    }  # fmt: skip
    intruder.put_alone("table", table)
    for node in others:
        trio.wait_for(node, "node.misbehaved", f"{liar} table")
        state = trio[node].journal.state
        assert state.tables()[LEDGER] == before
        assert state.finding_state(finding.id).status == "open"  # type: ignore[union-attr]
        assert list(state.keys_in_force("operator")) == ["alice"]
        assert next(f for f in trio.findings(node) if f.id == finding.id).state == "open"
    trio.assert_alike(expected=lambda finding: finding.cls in ("node.misbehaved", "violation.delete"))
