"""Attacks C03, C06, C07, C08, E01 and E03 of the threat model on three real processes, which the tests share, in this order.

What each leaves behind (open findings about its own table, a member that is outvoted) the next one finds there; every test
attacks a table of its own, and `untouched` stays as it is, and verified, to the end.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.support.cli import Cli
from tests.support.node import wait
from tests.support.processes import Processes
from witnz.core.record import Record
from witnz.core.verdict import Verdict
from witnz.errors import KeyProblem, NotInitialised, StoreCorrupt
from witnz.verify.store import audit_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NAMES = ("unpublished", "restarted", "unseen", "edited", "deleted", "untouched")
SETTINGS = {"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB", "wal_keep_size": "0"}


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with Processes.of_accounts(tmp_path_factory.mktemp("nodes"), NAMES, settings=SETTINGS) as found:
        yield found


def dba(processes: Processes, *statements: str) -> None:
    for statement in statements:
        processes.database.sql(statement, user="postgres")


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
    assert processes.verify("node2", "restarted")["verdict"] == "VERIFIED"


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
    assert processes.verify("node3", "unpublished")["verdict"] == "TAMPERED"
    for node in processes.running:
        assert processes.wait_for(node, "row.modified", table="public.unpublished", key="4")["recorded"]
    assert processes.verify("node1", "untouched")["verdict"] == "VERIFIED"


def test_c03_what_one_node_lost_with_its_slot_comes_from_the_others(processes: Processes) -> None:
    assert processes.end("node3") == 0
    dba(processes, "UPDATE unseen SET amount = 0 WHERE id = 3")
    processes.wait_for("node1", "violation.update", table="public.unseen", key="3")
    dba(processes, f"SELECT pg_drop_replication_slot('{processes.configs['node3'].slot_name}')")
    processes.start("node3")
    processes.ready("node3")
    processes.settled({"public.unseen": 1 + 10 + 1})
    processes.wait_for("node3", "violation.update", table="public.unseen", key="3")
    assert [f.explained_by for f in processes.every_finding("node3") if f.cls == "slot.lost"] == ["other members"]
    assert len({tuple(processes.log(node, "public.unseen")) for node in processes.running}) == 1
    assert not [r for r in processes.records("node1") if r.type == "gap" and "does not exist" in r.body["reason"]]


def discard(processes: Processes, *nodes: str) -> None:
    """Write WAL until the slots of these nodes, which do not run, have lost what they need, and those of the others nothing."""
    slots = {processes.configs[node].slot_name for node in nodes}
    others = [processes.configs[node].slot_name for node in processes.running]
    for _ in range(60):
        dba(processes, "SELECT pg_switch_wal()", "CREATE TABLE filler AS SELECT 1", "DROP TABLE filler")
        ((now,),) = processes.database.sql("SELECT pg_current_wal_lsn()::text", user="postgres")

        def followed(now: str = now) -> bool:
            """A slot lets go of WAL as soon as its reader has passed a record of what runs."""
            look = f"SELECT slot_name, restart_lsn >= '{now}' FROM pg_replication_slots"
            dba(processes, "SELECT pg_log_standby_snapshot()")
            passed = dict(processes.database.sql(look, user="postgres"))
            return all(passed[slot] for slot in others)

        wait(followed, f"{others} to be past {now}", 120.0)
        dba(processes, "CHECKPOINT")
        rows = processes.database.sql("SELECT slot_name, wal_status FROM pg_replication_slots", user="postgres")
        states = {name: state for name, state in rows if name in slots}
        if set(states.values()) == {"lost"}:
            return
    raise AssertionError(f"the slots are {states}")


def gaps(processes: Processes) -> list[Record]:
    """What the journal says that nobody has seen because the server threw it away."""
    return [r for r in processes.records("node1") if r.type == "gap" and "discarded WAL" in r.body["reason"]]


def test_c08_what_one_slot_has_lost_comes_from_the_others(processes: Processes) -> None:
    assert processes.end("node3") == 0
    dba(processes, "UPDATE unseen SET amount = 0 WHERE id = 4")
    processes.wait_for("node1", "violation.update", table="public.unseen", key="4")
    discard(processes, "node3")
    processes.start("node3")
    processes.ready("node3")
    processes.settled({"public.unseen": 1 + 10 + 2})
    processes.wait_for("node3", "violation.update", table="public.unseen", key="4")
    lost = [f for f in processes.every_finding("node3") if f.cls == "slot.lost"]
    assert any("discarded WAL" in f.detail for f in lost), [f.detail for f in lost]
    assert {f.explained_by for f in lost} == {"other members"} and not gaps(processes)
    assert len({tuple(processes.log(node, "public.unseen")) for node in processes.running}) == 1
    assert processes.verify("node3", "untouched")["verdict"] == "VERIFIED"


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
        assert processes.verify(node, "edited")["verdict"] == "VERIFIED", f"{node} believes what it saw itself"
    assert processes.log("node1", "public.edited") == processes.log("node3", "public.edited")


def test_e03_without_its_data_a_node_does_not_start_and_the_others_go_on(processes: Processes) -> None:
    gone = processes.configs["node2"].data_dir
    shutil.rmtree(gone)
    processes.start("node2")
    assert processes.running.pop("node2").wait(240) == NotInitialised.exit_code
    assert "put one with a new id in its place" in processes.tail("node2"), "it forgot what it had acknowledged"
    refused = Cli(processes.directory / "node2").run("init").expect(KeyProblem.exit_code)
    assert "with a new id" in refused.err and not gone.exists(), "no second set of keys under one id"
    dba(processes, "DELETE FROM deleted WHERE id = 5")  # the reason to delete what knows of it
    for node in processes.running:
        processes.wait_for(node, "violation.delete", table="public.deleted", key="5")
    processes.settled({"public.deleted": 1 + 10 + 1})
    assert processes.log("node1", "public.deleted") == processes.log("node3", "public.deleted")
    assert processes.verify("node1", "untouched")["verdict"] == "VERIFIED"
    for node in processes.running:
        assert not [f for f in processes.every_finding(node) if f.table == "public.untouched"]


def test_c08_what_every_slot_has_lost_is_a_gap_and_the_scan_names_the_row(processes: Processes) -> None:
    left = list(processes.running)
    all_end(processes)
    dba(processes, "UPDATE unseen SET amount = 0 WHERE id = 5")
    discard(processes, *left)
    processes.start(*left)
    processes.ready()
    wait(lambda: gaps(processes), "the gap", 120.0)
    assert entries_of(processes, "unseen") == 1 + 10 + 2, "the stream can not have seen the last change"
    assert processes.verify("node3", "unseen")["verdict"] == "TAMPERED"
    for node in processes.running:
        processes.wait_for(node, "row.modified", table="public.unseen", key="5")
    assert processes.verify("node1", "untouched")["verdict"] == "INCONCLUSIVE", "what was undone meanwhile nobody can know"
