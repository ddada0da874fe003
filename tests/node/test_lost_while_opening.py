"""A slot that is lost while a later generation is being opened: what waited for it belongs to the log of before again."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.attacks.test_C03_slot_recreated import STEAL
from tests.support.cluster import LEDGER, ledger_trio
from tests.support.node import TIMEOUT_S, wait
from tests.support.postgres import Database
from witnz.core.entry import parse_entry, parse_schema_hint
from witnz.node.node import Node
from witnz.node.opening import Opening
from witnz.node.source import FILLED


def test_a_leader_that_lost_its_slot_gets_what_the_others_had_set_aside_for_the_generation_it_gave_up(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trio = ledger_trio(tmp_path, database)
    try:
        leader, begun, go_on, copy = trio.leader, threading.Event(), threading.Event(), Opening._copy

        def gated(opening: Opening) -> None:
            if opening.plan.name == LEDGER and opening.around.journal is trio[leader].journal:
                begun.set()
                assert go_on.wait(TIMEOUT_S)
            copy(opening)

        monkeypatch.setattr(Opening, "_copy", gated)
        database.sql("ALTER TABLE ledger ADD COLUMN more text")
        assert begun.wait(TIMEOUT_S)
        database.sql("INSERT INTO ledger VALUES (77, 'set aside', 1)")
        trio.caught_up()
        steal = STEAL.format(slot=trio.configs[leader].slot_name)
        database.sql(f"INSERT INTO ledger VALUES (78, 'not read', 1); {steal}", user="postgres")
        lost = trio.wait_for(leader, "slot.lost")
        assert lost.explained_by == FILLED, lost
        go_on.set()

        def renewed(node: Node) -> bool:
            return any((s.name, s.generation, s.status) == (LEDGER, 2, "active") for s in node.states())

        for name, node in trio.nodes.items():
            wait(lambda node=node: renewed(node), f"generation 2 on {name}", 2 * TIMEOUT_S)  # type: ignore[misc]
        trio.assert_alike(expected=lambda finding: finding.id == lost.id)
        entries = [parse_entry(line) for line in trio.log(leader, LEDGER, 1)]
        assert [entry.key for entry in entries if entry.op == "insert"] == [b"77", b"78"]
        schema = parse_schema_hint(parse_entry(trio.log(leader, LEDGER, 2)[0]).hint or "")
        assert [column.name for column in schema.columns] == ["id", "owner", "amount", "more"]
    finally:
        go_on.set()
        trio.stop()
