"""E02: a page of the database and one node's store are edited together, so that the two agree: the other nodes do not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import LEDGER, Trio, ledger_trio
from tests.support.intruder import rewrite_baseline
from tests.support.node import wait
from tests.support.pages import heap_file, replace_value
from tests.support.postgres import create_database
from witnz.core.lsn import format_lsn
from witnz.core.verdict import Verdict
from witnz.node.heads import to_items


@pytest.fixture
def own_trio(own_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    database = create_database(own_server(checksums=False))
    with ExitStack() as stack:
        trio = ledger_trio(tmp_path_factory.mktemp("trio"), database)
        stack.callback(trio.stop)
        yield trio


def test_the_edited_node_is_outvoted_and_restored(own_trio: Trio) -> None:
    trio = own_trio
    victim = trio.followers()[0]
    others = [node for node in trio.nodes if node != victim]
    store = trio[victim].data.database
    trio.halt(victim)
    server, path = trio.database.server, heap_file(trio.database, LEDGER)
    server.stop()
    replace_value(path, b"user7", b"thief")
    server.start()
    rewrite_baseline(store, LEDGER, b"7\tuser7\t70", b"7\tthief\t70")
    trio.run(victim)
    trio.ready()
    trio.caught_up()
    trio.database.sql("INSERT INTO ledger VALUES (40, 'user40', 400)")

    for node in others:
        assert "entry 8" in trio.wait_for(node, "node.diverged", victim).detail, "the first entry that differs is named"
    trio.wait_for(victim, "node.diverged", victim)
    assert trio[others[0]].verify_table(LEDGER).verdict is Verdict.TAMPERED
    assert trio.wait_for(others[0], "row.modified", "7").recorded
    edited = trio[victim].verify_table(LEDGER)
    assert edited.verdict is not Verdict.VERIFIED, "it equals the edited store, and yet it is not green"
    assert trio[others[0]].verify_table("public.untouched").verdict is Verdict.VERIFIED

    # An honest member asks it for a seal: whose own log is not the sealed one names nobody but itself.
    agreement, state = trio[victim].peering.agreement, trio[victim].journal.state
    sealed = state.last_sealed(LEDGER, 1)
    assert sealed is not None
    honest = {"lsn": format_lsn(state.last_seal_lsn), "tables": to_items({(LEDGER, 1): sealed})}
    agreement.accuse(others[0], honest)
    agreement.look()
    for node in trio.nodes:
        assert {f.key for f in trio.findings(node, state=None) if f.cls == "node.diverged"} == {victim}

    finding = trio.wait_for(victim, "node.diverged", victim)
    restored = trio[victim].peering.refilling.repair(finding.id)
    assert Path(restored["evidence"]).exists(), "what was there is kept as evidence"
    trio.ready(victim)
    wait(lambda: trio.log(victim, LEDGER) == trio.log(others[0], LEDGER), "the majority's log")
    for node in trio.nodes:
        name = f"{finding.id} to be repaired on {node}"
        wait(lambda node=node: any(f.id == finding.id and f.state == "repaired" for f in trio.findings(node, state=None)), name)
    trio.assert_alike(expected=lambda finding: finding.cls in ("node.diverged", "row.modified", "node.store-tampered"))
