"""A03: a row of an append-only table is deleted and inserted again under its key, altered or not."""

from __future__ import annotations

from witnz.core.verdict import Verdict


def test_delete_then_insert_of_one_key_gives_both_findings(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    recorded = scene.row_hash(table, 5)
    scene.dba(
        f"DELETE FROM {table} WHERE id = 5",
        f"INSERT INTO {table} VALUES (5, 'user5', 9999.00, 'note 5', '2026-01-01 05:00:00+00')",
    )
    deleted, again = scene.now("violation.delete", 5, table), scene.now("violation.reinsert", 5, table)
    assert (deleted.recorded, deleted.found) == (recorded, None)
    assert (again.recorded, again.found) == (recorded, scene.row_hash(table, 5))
    assert (deleted.entry_seq or 0) < (again.entry_seq or 0) and deleted.xid != again.xid
    assert scene.found(table) == [("violation.delete", "5"), ("violation.reinsert", "5")]

    verified, differences = scene.scan(table)
    assert verified.verdict is Verdict.TAMPERED
    assert {key: (d.cls, d.explained) for key, d in differences.items()} == {"5": ("row.modified", True)}
    scene.assert_bystanders_verified()


def test_in_one_transaction_and_with_the_very_same_row_it_is_found_as_well(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    recorded = scene.row_hash(table, 6)
    scene.dba_at_once(
        f"CREATE TEMP TABLE kept ON COMMIT DROP AS SELECT * FROM {table} WHERE id = 6",
        f"DELETE FROM {table} WHERE id = 6",
        f"INSERT INTO {table} SELECT * FROM kept",
    )
    deleted, again = scene.now("violation.delete", 6, table), scene.now("violation.reinsert", 6, table)
    assert deleted.xid == again.xid
    assert recorded == deleted.recorded == again.recorded == again.found
    verified, differences = scene.scan(table)
    assert verified.verdict is Verdict.TAMPERED, "the row reads as recorded, but what happened to it stands"
    assert differences == {}
    scene.assert_bystanders_verified()
