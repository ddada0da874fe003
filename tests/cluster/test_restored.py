"""Three nodes and a database that is restored: one epoch, voted, and a generation that all of them begin together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import LEDGER, ledger_trio
from tests.support.node import wait
from tests.support.postgres import create_database
from tests.support.restoring import dumped, load_in_place, put_in_place, recovered_until
from witnz.core.lsn import format_lsn
from witnz.core.verdict import Verdict


@pytest.mark.slow
def test_three_nodes_end_the_generations_alike_and_go_on_together(own_server: Any, tmp_path: Path) -> None:
    server = own_server()
    trio = ledger_trio(tmp_path, create_database(server))
    try:
        backup = server.data_dir.with_name("backup")
        server.run("pg_basebackup", "-D", backup, "-X", "stream", "-c", "fast", "-U", "postgres")
        trio.database.sql("INSERT INTO ledger VALUES (11, 'never shipped', 1)")
        trio.settled()
        before = trio.log("node1", LEDGER)
        for node in trio.nodes:
            trio.links.isolate(node)
        trio.database.sql("INSERT INTO ledger VALUES (12, 'never sealed', 1)")
        trio.caught_up()
        server.stop("immediate")
        (backup / "standby.signal").touch()
        put_in_place(server, backup, aside="old-primary")
        server.start()
        server.sql("SELECT pg_promote(true, 60)")
        for node in trio.nodes:
            wait(lambda node=node: trio[node].restores.pending, f"{node} to notice the restore")  # type: ignore[misc]
        trio.links.heal()
        for node in trio.nodes:
            wait(lambda node=node: trio[node].journal.state.epoch, f"the epoch on {node}")  # type: ignore[misc]
            wait(lambda node=node: trio[node].restores.pending is None, f"{node} to know that it stands")  # type: ignore[misc]
        (epoch,) = (record for record in trio.records("node1") if record.type == "epoch")
        assert epoch.body["timeline"] == 2 and len(epoch.body["votes"]) >= 2
        assert {end["table"]: end["size"] for end in epoch.body["final"]} == {LEDGER: 1 + 10 + 1, "public.untouched": 1 + 10}
        lost = f"{LEDGER}: lost 1 (11); 1 other table(s): nothing"
        assert epoch.body["reason"] == f"timeline 1 was left for 2: a restore or a failover; {lost}"
        missed = {"quorum.lost", "source.unreachable"}
        found = [[f for f in trio.findings(node) if f.cls not in missed] for node in trio.nodes]
        assert [[(f.cls, f.key) for f in each] for each in found] == 3 * [[("epoch.restored", epoch.body["switch_lsn"])]]
        assert all(f.found == lost for (f,) in found)
        assert all(f"never sealed: {LEDGER}: lost 1 (12)" in f.detail for (f,) in found)
        for node in trio.nodes:
            (kept,) = trio[node].data.evidence_dir.glob(f"*-{LEDGER}-1-beyond-12.tsv")
            assert [line.split(b"\t")[3] for line in kept.read_bytes().splitlines()] == [b"12"]
        trio.caught_up()
        looked = trio["node2"].verify_table(LEDGER)
        assert (looked.result.differences, looked.verdict) == ([], Verdict.INCONCLUSIVE), looked
        trio.approve(trio.leader, found[0][0])
        for node in trio.nodes:
            wait(lambda node=node: trio[node].state(LEDGER).generation == 2, f"generation 2 on {node}")  # type: ignore[misc]
        trio.database.sql("INSERT INTO ledger VALUES (13, 'after', 1)")
        trio.settled()
        assert trio.log("node1", LEDGER, 1) == before, "history stays"
        (adopted,) = (
            r for r in trio.records("node1") if r.type == "table" and r.body["generation"] == 2 and r.body["table"] == LEDGER
        )
        assert adopted.body["previous"]["size"] == len(before)
        assert trio["node3"].verify_table(LEDGER).verdict is Verdict.VERIFIED
        trio.assert_alike(expected=lambda finding: finding.cls in ("epoch.restored", "quorum.lost"))
        assert format_lsn(trio["node1"].journal.state.epoch.switch_lsn) == epoch.body["switch_lsn"]  # type: ignore[union-attr]
    finally:
        trio.stop()


@pytest.mark.slow
def test_three_nodes_judge_a_recovery_to_before_the_present_generation_alike(own_server: Any, tmp_path: Path) -> None:
    """Each reads the table and asks the generation that was recorded then; they say the same, and one generation follows."""
    server = own_server()
    trio = ledger_trio(tmp_path, create_database(server))
    try:
        backup = server.data_dir.with_name("backup")
        server.run("pg_basebackup", "-D", backup, "-X", "stream", "-c", "fast", "-U", "postgres")
        trio.database.sql("INSERT INTO ledger VALUES (11, 'kept', 1)")
        trio.caught_up()
        target = str(server.sql("SELECT pg_current_wal_insert_lsn()::text")[0][0])
        trio.database.sql("INSERT INTO ledger VALUES (12, 'lost', 1)")
        trio.database.sql("ALTER TABLE ledger ALTER owner TYPE varchar")
        for node in trio.nodes:
            wait(lambda node=node: trio[node].state(LEDGER).generation == 2, f"generation 2 on {node}", 120)  # type: ignore[misc]
        trio.database.sql("INSERT INTO ledger VALUES (13, 'lost', 1)")
        trio.settled()
        before = [trio.log("node1", LEDGER, generation) for generation in (1, 2)]
        recovered_until(server, backup, target)
        for node in trio.nodes:
            wait(lambda node=node: trio[node].journal.state.epoch, f"the epoch on {node}", 120)  # type: ignore[misc]
            wait(lambda node=node: trio[node].restores.pending is None, f"{node} to know that it stands", 120)  # type: ignore[misc]
        (epoch,) = (record for record in trio.records("node1") if record.type == "epoch")
        lost = f"{LEDGER}: lost 2 (12, 13); 1 other table(s): nothing"
        assert epoch.body["reason"].endswith(f"; {lost}") and len(epoch.body["votes"]) >= 2
        moved = [trio.wait_for(node, "epoch.restored") for node in trio.nodes]
        assert {finding.found for finding in moved} == {lost} and len({finding.id for finding in moved}) == 1
        trio.approve(trio.leader, moved[0])
        for node in trio.nodes:
            for table, generation in ((LEDGER, 3), ("public.untouched", 2)):
                wait(
                    lambda node=node, table=table, at=generation: trio[node].state(table).generation == at,  # type: ignore[misc]
                    f"generation {generation} of {table} on {node}",
                    120,
                )
        trio.database.sql("INSERT INTO ledger VALUES (12, 'again', 1)")
        trio.settled()
        assert [trio.log("node1", LEDGER, generation) for generation in (1, 2)] == before, "history stays"
        for node in trio.nodes:
            for table in (LEDGER, "public.untouched"):
                assert trio[node].verify_table(table).verdict is Verdict.VERIFIED
        trio.assert_alike(expected=lambda finding: finding.cls == "epoch.restored")
    finally:
        trio.stop()


@pytest.mark.slow
def test_three_nodes_move_to_a_dump_in_a_new_cluster_together(own_server: Any, tmp_path: Path) -> None:
    """Nobody reads there before an operator says so; then all three say the same of it, and go on when it is accepted."""
    server = own_server()
    trio = ledger_trio(tmp_path, create_database(server))
    try:
        dump = dumped(trio.database)
        trio.database.sql("INSERT INTO ledger VALUES (11, 'after the dump', 1)")
        trio.database.sql("DELETE FROM ledger WHERE id = 3", user="postgres")
        for node in trio.nodes:
            trio.wait_for(node, "violation.delete", "3")
        trio.settled()
        before = trio.log("node1", LEDGER)
        forged = "UPDATE ledger SET amount = 0 WHERE id = 7; INSERT INTO ledger VALUES (99, 'forged', 1)"
        load_in_place(trio.database, dump, own_server(), forged)
        strangers = [trio.wait_for(node, "epoch.restored") for node in trio.nodes]
        assert len({(f.id, f.key) for f in strangers}) == 1
        for node in trio.nodes:
            looked = trio[node].verify_table(LEDGER)
            assert looked.result.differences == [] and looked.verdict is not Verdict.VERIFIED
        trio.approve(trio.leader, strangers[0])
        for node in trio.nodes:
            wait(lambda node=node: trio[node].journal.state.epoch, f"the epoch on {node}", 120)  # type: ignore[misc]
            wait(lambda node=node: trio[node].restores.pending is None, f"{node} to know that it stands", 120)  # type: ignore[misc]
        (epoch,) = (record for record in trio.records("node1") if record.type == "epoch")
        assert epoch.body["system"] == strangers[0].key and len(epoch.body["votes"]) >= 2
        said = f"{LEDGER}: lost 1 (11), regained 1 (3); {LEDGER}: 2 row(s) that were never recorded; 1 other table(s): nothing"
        moved = []
        for node in trio.nodes:
            (finding,) = (f for f in trio.findings(node) if f.cls == "epoch.restored")
            moved.append(finding)
            assert finding.found == said
            rows = sorted((f.cls, f.key) for f in trio.findings(node) if f.cls.startswith("row."))
            assert rows == [("row.inserted", "99"), ("row.modified", "7")]
        assert len({finding.id for finding in moved}) == 1
        trio.approve(trio.leader, moved[0])
        trio.caught_up()
        for finding in trio.findings(trio.leader):
            if finding.table == LEDGER:
                trio.approve(trio.leader, finding)
        for node in trio.nodes:
            for table in (LEDGER, "public.untouched"):
                wait(lambda node=node, table=table: trio[node].state(table).generation == 2, f"{table} on {node}", 120)  # type: ignore[misc]
        trio.settled()
        assert trio.log("node1", LEDGER, 1) == before, "history stays"
        trio.database.sql("UPDATE ledger SET amount = 0 WHERE id = 8", user="postgres")
        for node in trio.nodes:
            trio.wait_for(node, "violation.update", "8")
            assert trio[node].verify_table("public.untouched").verdict is Verdict.VERIFIED
        known = ("epoch.restored", "quorum.lost", "violation.delete", "violation.update", "row.inserted", "row.modified")
        trio.assert_alike(expected=lambda finding: finding.cls in known)
    finally:
        trio.stop()
