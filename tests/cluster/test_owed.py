"""What is owed outlives whoever owes it: a gap that waits for votes, and the generation after an accepted gap or definition."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.cluster import LEDGER, Trio, ledger_trio
from tests.support.node import wait
from tests.support.postgres import create_database
from witnz.core.finding import Finding
from witnz.core.verdict import Verdict
from witnz.demo.server import PostgresServer
from witnz.node import refilling

pytestmark = pytest.mark.slow


@pytest.fixture
def trio(pg_server: PostgresServer, tmp_path: Path) -> Iterator[Trio]:
    database = create_database(pg_server)
    with ExitStack() as stack:
        stack.callback(database.drop)
        trio = ledger_trio(tmp_path, database)
        stack.callback(trio.stop)
        yield trio


def approve_while_the_leader_dies(trio: Trio, finding: Finding) -> None:
    """The leader ends after the ``accept`` record stands and before it has opened what follows; another takes over."""
    leader = trio.leader
    asked: list[str] = []
    trio[leader].bridging._begin = lambda table, reason, generation: asked.append(table)  # where it dies
    follower = trio.followers()[0]
    wait(lambda: any(known.id == finding.id for known in trio.findings(follower)), f"{finding.id} to be known on {follower}")
    trio.approve(follower, finding)
    wait(lambda: asked, "the leader to come to what it owes")
    trio.halt(leader)
    wait(lambda: trio.engines.leader() not in (None, leader), "another leader")


def wait_for_generation(trio: Trio, table: str, generation: int) -> None:
    for node in trio.nodes:
        wait(
            lambda node=node: any(
                (s.name, s.generation, s.status) == (table, generation, "active") for s in trio[node].states()
            ),
            f"generation {generation} of {table} on {node}",
            120,
        )


def test_a_gap_that_only_one_node_saw_is_journalled_after_its_restart_and_bridged_by_the_next_leader(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refilling, "PATIENCE_S", 1.0)  # nobody will ever answer
    victim = trio.followers()[0]
    trio.halt(victim)
    trio.database.sql(f"SELECT pg_drop_replication_slot('{trio.configs[victim].slot_name}')", user="postgres")
    trio.links.isolate(victim)
    trio.run(victim)
    found = trio.wait_for(victim, "slot.lost")
    assert found.explained_by is None, "nobody could be asked"
    assert wait(lambda: trio[victim].peering.gaps.owed, "the gap to be owed")[0]["tables"] == [LEDGER, "public.untouched"]
    trio.halt(victim)
    assert not [record for record in trio.records(trio.leader) if record.type == "gap"]

    trio.links.heal()
    trio.run(victim)
    wait(lambda: trio[victim].journal.state.open_gap(LEDGER), "the gap in the journal", 120)
    wait(lambda: not trio[victim].peering.gaps.owed, "nothing to be owed any more")
    assert sum(record.type == "gap" for record in trio.records(victim)) == 1
    leader = trio.leader
    gap = trio.wait_for(leader, "slot.lost", found.key)
    assert trio[leader].verify_table(LEDGER).verdict is Verdict.INCONCLUSIVE

    approve_while_the_leader_dies(trio, gap)
    for table in (LEDGER, "public.untouched"):
        wait_for_generation(trio, table, 2)
    trio.run(leader)
    trio.ready(leader)
    for table in (LEDGER, "public.untouched"):
        wait_for_generation(trio, table, 2)
    assert trio[trio.leader].verify_table(LEDGER).verdict is Verdict.VERIFIED
    trio.assert_alike(expected=lambda finding: finding.cls == "slot.lost")
    assert [r.body["generation"] for r in trio.records(leader) if r.type == "table" and r.body["table"] == LEDGER] == [1, 2]


def test_the_next_leader_opens_what_an_accepted_definition_asks_for(trio: Trio) -> None:
    before = trio[trio.leader].journal.state.current_table(LEDGER).generation
    trio.database.sql("ALTER TABLE ledger DROP COLUMN amount")
    leader = trio.leader
    changed = trio.wait_for(leader, "schema.changed")
    approve_while_the_leader_dies(trio, changed)
    wait_for_generation(trio, LEDGER, before + 1)
    trio.run(leader)
    wait_for_generation(trio, LEDGER, before + 1)
    assert trio[trio.leader].verify_table(LEDGER).verdict is Verdict.VERIFIED
    trio.assert_alike(expected=lambda finding: finding.cls in ("slot.lost", "schema.changed"))
