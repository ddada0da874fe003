"""Attacks C03, C06, C07, C08, E01 and E03 of the threat model on three real processes, which the tests share.

Each runs alone and after any others: it starts the nodes that it needs (`present`), counts what it finds before it attacks, and
puts a store back that it took away.  What it leaves behind are open findings about rows of its own, and after the last one the
gap that makes every verdict inconclusive; `untouched` stays as it is to the end.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.support.cli import Cli
from tests.support.node import wait
from tests.support.processes import Processes
from witnz.core.finding import Finding
from witnz.core.record import Record
from witnz.core.verdict import Verdict
from witnz.errors import KeyProblem, NotInitialised, StoreCorrupt
from witnz.verify.store import audit_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NAMES = ("unpublished", "restarted", "unseen", "edited", "deleted", "untouched")
# no checkpoint but those that a test asks for: whichever comes takes WAL from every slot that is not past it at that moment
CHECKPOINTS = {"checkpoint_timeout": "1h", "max_wal_size": "4GB"}
SETTINGS = {"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "wal_keep_size": "0", **CHECKPOINTS}


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with Processes.of_accounts(tmp_path_factory.mktemp("nodes"), NAMES, settings=SETTINGS) as found:
        yield found


def dba(processes: Processes, *statements: str) -> None:
    for statement in statements:
        processes.database.sql(statement, user="postgres")


def present(processes: Processes, *nodes: str) -> None:
    """These nodes, or all, run and take part; who has been stopped by another test is started."""
    wanted = nodes or tuple(processes.configs)
    if missing := [node for node in wanted if node not in processes.running]:
        processes.start(*missing)
    processes.ready(*wanted)


def absent(processes: Processes, *nodes: str) -> None:
    """These nodes, or all, do not run; who still does is stopped."""
    for node in nodes or tuple(processes.configs):
        if node in processes.running:
            assert processes.end(node) == 0


def entries_of(processes: Processes, table: str, node: str = "node1") -> int:
    return len(processes.log(node, f"public.{table}"))


def assert_sound(processes: Processes, node: str, table: str) -> None:
    """Nothing speaks against this table: it is verified, unless nobody has seen everything, which no verdict may pass over."""
    assert processes.verify(node, table)["verdict"] == ("INCONCLUSIVE" if gaps(processes) else "VERIFIED")


def lost_slots(processes: Processes, node: str, known: set[str]) -> list[Finding]:
    """What this node has found to be lost with its slot, besides what was ``known``."""
    return [f for f in processes.every_finding(node) if f.cls == "slot.lost" and f.id not in known]


def test_c07_restarts_of_the_database_raise_nothing_and_lose_nothing(processes: Processes) -> None:
    present(processes)
    before, known = entries_of(processes, "restarted"), processes.known()
    for mode in ("fast", "immediate"):
        processes.database.sql("INSERT INTO restarted SELECT max(id) + 1, 'before', 1 FROM restarted")
        processes.database.server.restart(mode)
        processes.database.sql("INSERT INTO restarted SELECT max(id) + 1, 'after', 1 FROM restarted")
    processes.settled({"public.restarted": before + 4})
    # true of a server that is away, and of members that a busy machine starts one long after the other
    passing = frozenset({"source.unreachable", "quorum.lost"})
    processes.assert_alike([f"public.{name}" for name in NAMES], allowed=passing, known=known)
    assert_sound(processes, "node2", "restarted")


def test_c06_a_table_out_of_the_publication_while_no_node_runs_is_found_by_all(processes: Processes) -> None:
    publication, before = processes.configs["node1"].publication, entries_of(processes, "unpublished")
    absent(processes)
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
    assert entries_of(processes, "unpublished") == before, "the stream can not have seen it"
    assert processes.verify("node3", "unpublished")["verdict"] == "TAMPERED"
    for node in processes.running:
        assert processes.wait_for(node, "row.modified", table="public.unpublished", key="4")["recorded"]
    assert_sound(processes, "node1", "untouched")


def test_c03_what_one_node_lost_with_its_slot_comes_from_the_others(processes: Processes) -> None:
    present(processes)
    before, known = entries_of(processes, "unseen"), processes.known()
    absent(processes, "node3")
    dba(processes, "UPDATE unseen SET amount = 0 WHERE id = 3")
    processes.wait_for("node1", "violation.update", table="public.unseen", key="3")
    dba(processes, f"SELECT pg_drop_replication_slot('{processes.configs['node3'].slot_name}')")
    processes.start("node3")
    processes.ready("node3")
    processes.settled({"public.unseen": before + 1})
    processes.wait_for("node3", "violation.update", table="public.unseen", key="3")
    assert [f.explained_by for f in lost_slots(processes, "node3", known)] == ["other members"]
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
    present(processes)
    before, known, unseen = entries_of(processes, "unseen"), processes.known(), gaps(processes)
    absent(processes, "node3")
    dba(processes, "UPDATE unseen SET amount = 0 WHERE id = 4")
    processes.wait_for("node1", "violation.update", table="public.unseen", key="4")
    discard(processes, "node3")
    processes.start("node3")
    processes.ready("node3")
    processes.settled({"public.unseen": before + 1})
    processes.wait_for("node3", "violation.update", table="public.unseen", key="4")
    lost = lost_slots(processes, "node3", known)
    assert any("discarded WAL" in f.detail for f in lost), [f.detail for f in lost]
    assert {f.explained_by for f in lost} == {"other members"} and gaps(processes) == unseen
    assert len({tuple(processes.log(node, "public.unseen")) for node in processes.running}) == 1
    assert_sound(processes, "node3", "untouched")


def reverse_an_entry(processes: Processes, node: str) -> None:
    """One recorded row hash becomes another, in a store whose node does not run; what was reversed twice is as it was."""
    with closing(sqlite3.connect(processes.configs[node].data_dir / "witnz.db")) as conn, conn:
        query = "SELECT t.log, t.seq, t.entry FROM tail t JOIN logs l ON l.id = t.log WHERE l.table_name = ? AND t.seq = 8"
        log, seq, entry = conn.execute(query, ("public.edited",)).fetchone()
        cells = entry.split(b"\t")
        cells[4] = bytes(reversed(cells[4]))
        assert conn.execute("UPDATE tail SET entry = ? WHERE log = ? AND seq = ?", (b"\t".join(cells), log, seq)).rowcount == 1


def test_e01_a_node_refuses_its_edited_store_and_the_others_do_not_need_it(processes: Processes) -> None:
    present(processes, "node1", "node3")
    absent(processes, "node2")
    reverse_an_entry(processes, "node2")
    try:
        assert audit_store(processes.configs["node2"].data_dir / "witnz.db").verdict is Verdict.TAMPERED
        processes.start("node2")
        assert processes.running.pop("node2").wait(240) == StoreCorrupt.exit_code
        assert "store.corrupt" in processes.tail("node2")
    finally:
        reverse_an_entry(processes, "node2")
    before = entries_of(processes, "edited")
    processes.database.sql("INSERT INTO edited SELECT max(id) + 1, 'late', 110 FROM edited")
    processes.settled({"public.edited": before + 1})
    for node in processes.running:
        assert_sound(processes, node, "edited")  # each believes what it saw itself
    assert processes.log("node1", "public.edited") == processes.log("node3", "public.edited")


@contextmanager
def taken_away(directory: Path) -> Iterator[None]:
    """This directory is not there, until whoever needs it next."""
    aside = directory.rename(directory.with_name("aside"))
    try:
        yield
    finally:
        aside.rename(directory)


def test_e03_without_its_data_a_node_does_not_start_and_the_others_go_on(processes: Processes) -> None:
    present(processes, "node1", "node3")
    absent(processes, "node2")
    gone = processes.configs["node2"].data_dir
    with taken_away(gone):
        processes.start("node2")
        assert processes.running.pop("node2").wait(240) == NotInitialised.exit_code
        assert "put one with a new id in its place" in processes.tail("node2"), "it forgot what it had acknowledged"
        refused = Cli(processes.directory / "node2").run("init").expect(KeyProblem.exit_code)
        assert "with a new id" in refused.err and not gone.exists(), "no second set of keys under one id"
    before = entries_of(processes, "deleted")
    ((row,),) = processes.database.sql("SELECT max(id) FROM deleted")
    dba(processes, f"DELETE FROM deleted WHERE id = {row}")  # the reason to delete what knows of it
    for node in processes.running:
        processes.wait_for(node, "violation.delete", table="public.deleted", key=str(row))
    processes.settled({"public.deleted": before + 1})
    assert processes.log("node1", "public.deleted") == processes.log("node3", "public.deleted")
    assert_sound(processes, "node1", "untouched")
    for node in processes.running:
        assert not [f for f in processes.every_finding(node) if f.table == "public.untouched"]


def test_c08_what_every_slot_has_lost_is_a_gap_and_the_scan_names_the_row(processes: Processes) -> None:
    before, known = entries_of(processes, "unseen"), gaps(processes)
    absent(processes)
    dba(processes, "UPDATE unseen SET amount = 0 WHERE id = 5")
    discard(processes, *processes.configs)
    present(processes)
    wait(lambda: len(gaps(processes)) > len(known), "the gap", 120.0)
    assert entries_of(processes, "unseen") == before, "the stream can not have seen the last change"
    assert processes.verify("node3", "unseen")["verdict"] == "TAMPERED"
    for node in processes.running:
        processes.wait_for(node, "row.modified", table="public.unseen", key="5")
    assert processes.verify("node1", "untouched")["verdict"] == "INCONCLUSIVE", "what was undone meanwhile nobody can know"
