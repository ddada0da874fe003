"""Three nodes agree: one snapshot, byte-identical logs, votes, cosigned checkpoints (simulated engine and channel)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.support.cluster import Trio
from tests.support.links import Links
from tests.support.node import wait
from tests.support.postgres import Database, create_database
from tests.support.simulated_peers import PeerHub, SimulatedPeers
from witnz.core.finding import Finding
from witnz.demo.server import PostgresServer
from witnz.errors import NoQuorum
from witnz.node.agreement import Agreement
from witnz.store import importing, logs
from witnz.store.database import Database as Store

TABLES = [
    {"name": "events", "mode": "append_only", "verify_interval": "0s"},
    {"name": "prices", "mode": "state_integrity", "on_change": "record", "verify_interval": "0s"},
]


@pytest.fixture(scope="module")
def module_database(pg_server: PostgresServer) -> Iterator[Database]:
    database = create_database(pg_server)
    yield database
    database.drop()


@pytest.fixture(scope="module")
def trio(module_database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    module_database.sql("CREATE TABLE events (id int PRIMARY KEY, what text)")
    module_database.sql("CREATE TABLE prices (sku text PRIMARY KEY, cents int)")
    module_database.sql("INSERT INTO events SELECT g, 'event ' || g FROM generate_series(1, 300) g")
    module_database.sql("INSERT INTO prices SELECT 'sku' || g, g FROM generate_series(1, 50) g")
    trio = Trio.start(tmp_path_factory.mktemp("trio"), module_database, TABLES)
    yield trio
    trio.stop()


def altered_publication(finding: Finding) -> bool:
    """What one of these tests leaves behind."""
    return finding.cls == "publication.changed"


def test_all_nodes_record_the_same_bytes_and_cosign_one_history(trio: Trio) -> None:
    base = trio.settled()
    before = len(trio.log("node1", "public.events"))
    for n in range(20):
        trio.database.sql("INSERT INTO events SELECT (SELECT max(id) FROM events) + g, 'more' FROM generate_series(1, 10) g")
        trio.database.sql(f"UPDATE prices SET cents = cents + {n} WHERE sku IN ('sku{n + 1}', 'sku{n + 2}')")
    assert trio.settled() > base
    trio.assert_alike(expected=altered_publication)
    assert len(trio.log("node1", "public.events")) == before + 200
    seals = [record for record in trio.records("node2") if record.type == "seal"]
    assert seals
    assert all(len(record.body["votes"]) >= 2 for record in seals)


def test_a_log_of_which_only_a_part_is_fetched_is_held_against_no_seal(trio: Trio, tmp_path: Path) -> None:
    trio.settled()
    node = trio[trio.followers()[0]]
    copy = tmp_path / "witnz.db"
    with closing(sqlite3.connect(node.db.path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    with Store.open(copy) as db:
        with db.write() as conn:
            row = logs.find_log(conn, "public.events")
            assert row is not None and importing.truncate_log(conn, row.id, 1).size < row.size
            logs.set_status(conn, row.id, "fetching")
        before = len(trio.records(trio.leader))
        nobody = SimulatedPeers(PeerHub(Links()), node.peering.peers.me, [])
        agreement = Agreement(db, node.journal, node.book, nobody, node.config.node_id)
        agreement.look()
        assert agreement.diverged == {}
        assert "dissent" not in {record.type for record in trio.records(trio.leader)[before - 1 :]}


def test_a_definition_changes_under_load_and_all_begin_the_same_generation(trio: Trio) -> None:
    trio.database.sql("ALTER TABLE prices ADD COLUMN note text DEFAULT 'none'")
    for n in range(30):
        trio.database.sql(f"UPDATE prices SET cents = {n} WHERE sku = 'sku{n % 7 + 1}'")
    for node in trio.nodes:
        wait(
            lambda node=node: any(
                s.name == "public.prices" and s.generation == 2 for s in trio[node].states() if s.status == "active"
            ),
            f"generation 2 on {node}: {[(o.phase, o.error) for o in trio[node].generations.opening()]}",
        )
    trio.assert_alike(expected=altered_publication)
    assert trio.log("node1", "public.prices", 2) == trio.log("node3", "public.prices", 2)
    assert len(trio.log("node1", "public.prices", 2)) >= 51


def test_members_that_seal_at_the_same_moment_do_not_fail_each_other(trio: Trio) -> None:
    with ThreadPoolExecutor(len(trio.nodes)) as pool:
        for _ in range(5):
            trio.database.sql("INSERT INTO events SELECT max(id) + 1, 'at once' FROM events")
            trio.caught_up()
            for sealed in [pool.submit(trio[node].sealer.seal) for node in trio.nodes]:
                with suppress(NoQuorum):  # a vote for another seal at this place was given already
                    sealed.result()


def test_one_change_of_the_publication_is_one_finding_whoever_sees_it(trio: Trio) -> None:
    name = trio.configs["node1"].publication
    trio.database.sql(f"ALTER PUBLICATION {name} DROP TABLE events; ALTER PUBLICATION {name} ADD TABLE ONLY events")
    for node in trio.nodes:
        finding = trio.wait_for(node, "publication.changed")
        for _ in range(2):  # the look that was under way, and one after it
            before = trio[node].chores._watched_at
            wait(lambda node=node, before=before: trio[node].chores._watched_at > before, f"{node} to look again")
    for node in trio.nodes:
        assert [f.id for f in trio.findings(node, state=None) if f.cls == "publication.changed"] == [finding.id]
