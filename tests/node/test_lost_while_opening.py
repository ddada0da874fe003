"""A slot that is lost while a later generation is being opened: what waited for it belongs to the log of before again."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.attacks.test_C03_slot_recreated import STEAL
from tests.support.cluster import LEDGER, ledger_trio
from tests.support.node import TIMEOUT_S, wait
from tests.support.postgres import Database
from witnz.core.entry import parse_entry
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
        trio[leader].protection.begin_anew(LEDGER, "as after a gap", 1)
        assert begun.wait(TIMEOUT_S)
        database.sql("INSERT INTO ledger VALUES (77, 'set aside', 1)")
        trio.caught_up()
        steal = STEAL.format(slot=trio.configs[leader].slot_name)
        database.sql(f"INSERT INTO ledger VALUES (78, 'not read', 1); {steal}", user="postgres")
        lost = trio.wait_for(leader, "slot.lost")
        assert lost.explained_by == FILLED, lost
        go_on.set()
        for name, node in trio.nodes.items():
            wait(lambda node=node: not node.generations.begun(), f"{name} to give generation 2 up")  # type: ignore[misc]
        database.sql("INSERT INTO ledger VALUES (79, 'read again', 1)")
        trio.assert_alike(expected=lambda finding: finding.id == lost.id)
        keys = [parse_entry(line).key for line in trio.log(leader, LEDGER)]
        assert keys[-3:] == [b"77", b"78", b"79"]
    finally:
        go_on.set()
        trio.stop()
