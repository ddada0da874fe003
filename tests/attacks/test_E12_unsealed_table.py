"""E12: a leader that never seals one table: the others do not vote for that, seal it themselves, and name it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.support.cluster import LEDGER, Trio
from tests.support.node import wait


def test_a_table_that_is_left_out_is_sealed_by_the_others(trio: Trio) -> None:
    leader = trio.leader
    collect = trio[leader].journal.collect

    def leave_out(record_type: str, body: Mapping[str, Any], at: int) -> Mapping[str, str]:
        kept = [head for head in body.get("tables", ()) if record_type != "seal" or head["table"] != LEDGER]
        return collect(record_type, {**body, "tables": kept} if record_type == "seal" and kept else body, at)

    trio[leader].journal.collect = leave_out  # the intruder's own node, patched by its root
    size = len(trio.log(leader, LEDGER))
    trio.database.sql("INSERT INTO ledger VALUES (31, 'user31', 310); INSERT INTO untouched VALUES (31, 'user31', 310)")

    def sealed() -> bool:
        head = trio[leader].journal.state.last_sealed(LEDGER, 1)
        return head is not None and head.size > size

    wait(sealed, "the table to be sealed all the same")
    sealers = {r.node for r in trio.records(leader) if r.type == "seal" for h in r.body["tables"] if h["size"] > size}
    assert sealers and leader not in sealers
    trio[leader].journal.collect = collect
    for node in trio.followers():
        assert "leaves out public.ledger" in trio.wait_for(node, "node.misbehaved", f"{leader} seal").detail
    trio.assert_alike(expected=lambda finding: finding.cls == "node.misbehaved")
