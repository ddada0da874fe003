"""A gap in coverage: recorded, never green, bridged by a scan, and left behind by a new generation once it is accepted."""

from __future__ import annotations

from pathlib import Path

from tests.support.node import Protected, wait
from tests.support.postgres import Database
from witnz.core.verdict import CheckStatus, Verdict
from witnz.verify.store import audit_store


def lose_the_slot(node: Protected) -> None:
    """Stop the node, and drop its slot behind its back."""
    node.stop()
    slot = node.config.slot_name
    node.database.sql(f"SELECT pg_drop_replication_slot('{slot}')", user="postgres")


def generation(node: Protected, table: str) -> int:
    record = node.node.journal.state.current_table(table)
    assert record is not None
    return record.generation


def test_an_accepted_gap_begins_a_new_generation_that_is_green(database: Database, tmp_path: Path) -> None:
    database.sql(
        "CREATE TABLE audit (id int PRIMARY KEY, what text); INSERT INTO audit SELECT g, 'x' FROM generate_series(1, 9) g"
    )
    node = Protected.start(tmp_path, database, [{"name": "audit", "mode": "append_only"}])
    lose_the_slot(node)
    node.resume()
    try:
        gap = node.wait_for("slot.lost")
        verified = node.verify("public.audit")
        assert verified.verdict is Verdict.INCONCLUSIVE
        assert any(gap.id in text for text in verified.not_checked)
        assert verified.result.expected_root == verified.result.found_root  # the scan bridges it

        node.approve(gap)
        wait(lambda: generation(node, "public.audit") == 2, "generation 2")
        node.caught_up()
        database.sql("INSERT INTO audit VALUES (10, 'after')")
        node.caught_up()
        assert node.verify("public.audit").verdict is Verdict.VERIFIED
        record = node.node.journal.state.current_table("public.audit")
        assert record is not None and record.previous is not None
        assert record.previous.size == 10  # schema and nine rows: all that the first generation holds
        node.node.protection.begin_anew("public.audit", "gap accepted", 1)  # what was found to be due before it was there
        assert (node.node.generations.opening(), node.node.state("public.audit").generation) == ([], 2), "one is enough"
    finally:
        node.stop()
    assert [c for c in audit_store(tmp_path / "data" / "witnz.db").checks if c.status is not CheckStatus.OK] == []


def test_rows_changed_within_a_gap_keep_the_old_generation_until_they_are_decided(database: Database, tmp_path: Path) -> None:
    database.sql(
        "CREATE TABLE audit (id int PRIMARY KEY, what text); INSERT INTO audit SELECT g, 'x' FROM generate_series(1, 9) g"
    )
    node = Protected.start(tmp_path, database, [{"name": "audit", "mode": "append_only"}])
    lose_the_slot(node)
    database.sql("UPDATE audit SET what = 'forged' WHERE id = 4")
    node.resume()
    try:
        gap = node.wait_for("slot.lost")
        verified = node.verify("public.audit")
        assert verified.verdict is Verdict.TAMPERED
        assert [(f.cls, f.key) for f in verified.findings if f.cls.startswith("row.")] == [("row.modified", "4")]
        node.approve(gap)
        assert generation(node, "public.audit") == 1
        assert node.verify("public.audit").verdict is Verdict.TAMPERED
        node.approve(node.wait_for("row.modified", "4"))
        wait(lambda: generation(node, "public.audit") == 2, "generation 2")
        node.caught_up()
        assert node.verify("public.audit").verdict is Verdict.VERIFIED
    finally:
        node.stop()
