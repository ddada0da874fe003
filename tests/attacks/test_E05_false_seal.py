"""E05: a malicious leader asks for votes on a seal of what nobody recorded, and proposes one with its own vote alone."""

from __future__ import annotations

import os
from base64 import b64encode

import pytest

from tests.support.cluster import LEDGER, Trio
from tests.support.intruder import Intruder
from witnz.core.lsn import format_lsn
from witnz.node.voting import TooFewVotes
from witnz.store import meta


def test_a_false_seal_gets_no_votes_has_no_effect_and_names_the_leader(trio: Trio) -> None:
    leader = trio.leader
    liar = Intruder(trio[leader])
    trio.database.sql("INSERT INTO ledger VALUES (11, 'user11', 110)")
    trio.caught_up()
    with trio[leader].db.read() as conn:
        lsn = meta.load_number(conn, "last_final_lsn") or 0
    size = len(trio.log(leader, LEDGER))
    false = {
        "table": LEDGER,
        "generation": 1,
        "size": size,
        "root": b64encode(os.urandom(32)).decode(),
        "chain": os.urandom(32).hex(),
    }
    body = {"lsn": format_lsn(lsn), "tables": [false]}
    with pytest.raises(TooFewVotes) as refused:
        trio[leader].peering.ballots.collect("seal", body, trio[leader].clock())
    assert {refusal.kind for refusal in refused.value.ballot.refused.values()} == {"differs"}

    liar.put_alone("seal", {**body, "lsn": format_lsn(lsn + 8)})
    for node in trio.followers():
        finding = trio.wait_for(node, "node.misbehaved", f"{leader} seal")
        assert "expected votes of 2 members, found 1" in finding.detail
        assert leader in trio.wait_for(node, "node.diverged", leader).detail
    roots = {head["root"] for record in trio.records(leader) if record.type == "seal" for head in record.body["tables"]}
    assert false["root"] not in roots
    trio.assert_alike(expected=lambda finding: finding.cls in ("node.misbehaved", "node.diverged"))
