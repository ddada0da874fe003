"""Attacks C03, C06, C07 and E01 of the threat model on three real processes, which the tests share, in this order.

What each leaves behind (open findings about its own table, a member that is outvoted) the next one finds there; every test
attacks a table of its own, and `untouched` stays as it is, and verified, to the end.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from tests.support.node import wait
from tests.support.postgres import create_database, prepare_server
from tests.support.processes import Processes
from witnz.core.verdict import Verdict
from witnz.demo.server import PostgresServer
from witnz.errors import StoreCorrupt
from witnz.verify.store import audit_store
from witnz.web.client import NodeClient

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NAMES = ("unpublished", "restarted", "unseen", "edited", "deleted", "untouched")
TABLES = [{"name": name, "mode": "append_only", "verify_interval": "0s"} for name in NAMES]
SETTINGS = {"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB", "wal_keep_size": "0"}


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with ExitStack() as stack:
        server = stack.enter_context(PostgresServer(version=16, settings=SETTINGS))
        prepare_server(server)
        database = create_database(server)
        for name in NAMES:
            database.sql(f"CREATE TABLE {name} (id int PRIMARY KEY, owner text NOT NULL, amount int NOT NULL)")
            database.sql(f"INSERT INTO {name} SELECT g, 'user' || g, g * 10 FROM generate_series(1, 10) g")
        found = Processes.found(tmp_path_factory.mktemp("nodes"), database, TABLES)
        stack.callback(found.close)
        found.start()
        found.ready()
        yield found


def dba(processes: Processes, *statements: str) -> None:
    for statement in statements:
        processes.database.sql(statement, user="postgres")


def verify(processes: Processes, node: str, table: str) -> dict[str, Any]:
    """What a verification on this node says, as soon as nothing that passes stands in its way."""

    def look() -> dict[str, Any] | None:
        with NodeClient(processes.configs[node].socket_path) as client:
            said = client.verify(f"public.{table}")
        return None if any("is being opened" in reason or "still open" in reason for reason in said["not_checked"]) else said

    return wait(look, f"a verification of {table} on {node}", 120.0)


def all_end(processes: Processes) -> None:
    for node in list(processes.running):
        assert processes.end(node) == 0


def entries_of(processes: Processes, table: str, node: str = "node1") -> int:
    return len(processes.log(node, f"public.{table}"))


def test_c07_restarts_of_the_database_raise_nothing_and_lose_nothing(processes: Processes) -> None:
    for place, mode in enumerate(("fast", "immediate")):
        processes.database.sql(f"INSERT INTO restarted VALUES ({50 + 2 * place}, 'before', 1)")
        processes.database.server.restart(mode)
        processes.database.sql(f"INSERT INTO restarted VALUES ({51 + 2 * place}, 'after', 1)")
    processes.settled({"public.restarted": 1 + 10 + 4})
    # true of a server that is away, and of members that a busy machine starts one long after the other
    passing = frozenset({"source.unreachable", "quorum.lost"})
    processes.assert_alike([f"public.{name}" for name in NAMES], allowed=passing)
    assert verify(processes, "node2", "restarted")["verdict"] == "VERIFIED"


def test_c06_a_table_out_of_the_publication_while_no_node_runs_is_found_by_all(processes: Processes) -> None:
    publication = processes.configs["node1"].publication
    all_end(processes)
    dba(
        processes,
        f"ALTER PUBLICATION {publication} DROP TABLE unpublished",
        "UPDATE unpublished SET amount = 0 WHERE id = 4",
        f"ALTER PUBLICATION {publication} ADD TABLE unpublished",
    )
    processes.start()
    processes.ready()
    told = [processes.wait_for(node, "publication.changed", table="public.unpublished") for node in processes.running]
    assert any(publication in each["detail"] for each in told), "by whoever saw it first"
    assert entries_of(processes, "unpublished") == 1 + 10, "the stream can not have seen it"
    assert verify(processes, "node3", "unpublished")["verdict"] == "TAMPERED"
    for node in processes.running:
        assert processes.wait_for(node, "row.modified", table="public.unpublished", key="4")["recorded"]
    assert verify(processes, "node1", "untouched")["verdict"] == "VERIFIED"


def test_c03_what_one_node_lost_with_its_slot_comes_from_the_others(processes: Processes) -> None:
    assert processes.end("node3") == 0
    dba(processes, "UPDATE unseen SET amount = 0 WHERE id = 3")
    processes.wait_for("node1", "violation.update", table="public.unseen", key="3")
    dba(processes, f"SELECT pg_drop_replication_slot('{processes.configs['node3'].slot_name}')")
    processes.start("node3")
    processes.ready("node3")
    processes.settled({"public.unseen": 1 + 10 + 1})
    processes.wait_for("node3", "violation.update", table="public.unseen", key="3")
    assert [f.explained_by for f in processes.findings("node3") if f.cls == "slot.lost"] == ["other members"]
    assert len({tuple(processes.log(node, "public.unseen")) for node in processes.running}) == 1
    assert not [r for r in processes.records("node1") if r.type == "gap" and "does not exist" in r.body["reason"]]


def change_an_entry(processes: Processes, node: str) -> None:
    """One recorded row hash becomes another, in a store whose node does not run."""
    with closing(sqlite3.connect(processes.configs[node].data_dir / "witnz.db")) as conn, conn:
        query = "SELECT t.log, t.seq, t.entry FROM tail t JOIN logs l ON l.id = t.log WHERE l.table_name = ? AND t.seq = 8"
        log, seq, entry = conn.execute(query, ("public.edited",)).fetchone()
        cells = entry.split(b"\t")
        cells[4] = bytes(reversed(cells[4]))
        assert conn.execute("UPDATE tail SET entry = ? WHERE log = ? AND seq = ?", (b"\t".join(cells), log, seq)).rowcount == 1


def test_e01_a_node_refuses_its_edited_store_and_the_others_do_not_need_it(processes: Processes) -> None:
    assert processes.end("node2") == 0
    change_an_entry(processes, "node2")
    assert audit_store(processes.configs["node2"].data_dir / "witnz.db").verdict is Verdict.TAMPERED
    processes.start("node2")
    assert processes.running.pop("node2").wait(240) == StoreCorrupt.exit_code
    assert "store.corrupt" in processes.tail("node2")
    before = entries_of(processes, "edited")
    processes.database.sql("INSERT INTO edited VALUES (11, 'late', 110)")
    processes.settled({"public.edited": before + 1})
    for node in processes.running:
        assert verify(processes, node, "edited")["verdict"] == "VERIFIED", f"{node} believes what it saw itself"
    assert processes.log("node1", "public.edited") == processes.log("node3", "public.edited")
