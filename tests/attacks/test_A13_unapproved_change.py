"""A13: a row of a state_integrity table is changed and nobody approved it."""

from __future__ import annotations

from witnz.core.classify import Rules
from witnz.core.verdict import Verdict


def test_every_kind_of_unapproved_change_is_found_now_on_its_row(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("state_integrity")
    recorded = {key: scene.row_hash(table, key) for key in (1, 12, 13)}
    scene.dba(
        f"UPDATE {table} SET amount = 0.01 WHERE id = 1",
        f"DELETE FROM {table} WHERE id = 12",
        f"INSERT INTO {table} VALUES (50, 'mallory', 1, NULL, '2026-01-01')",
        f"UPDATE {table} SET id = 113 WHERE id = 13",
    )
    expected = {
        "1": (recorded[1], scene.row_hash(table, 1)),
        "12": (recorded[12], None),
        "50": (None, scene.row_hash(table, 50)),
        "13": (recorded[13], None),
        "113": (None, scene.row_hash(table, 113)),
    }
    for key, hashes in expected.items():
        finding = scene.now("change.unapproved", key, table)
        assert (finding.recorded, finding.found) == hashes, f"row {key}"
        assert finding.explained_by == f"entry {finding.entry_seq}"
    assert scene.found(table) == sorted(("change.unapproved", key) for key in expected)

    verified, differences = scene.scan(table)
    assert verified.verdict is Verdict.TAMPERED
    assert {key: (d.cls, d.explained) for key, d in differences.items()} == {
        "1": ("row.modified", True),
        "12": ("row.deleted", True),
        "13": ("row.deleted", True),
        "50": ("row.inserted", True),
        "113": ("row.inserted", True),
    }
    scene.assert_bystanders_verified()


def test_a_truncate_is_unapproved_as_well(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("state_integrity")
    scene.dba(f"TRUNCATE {table}")
    finding = scene.now("change.unapproved", None, table)
    assert finding.key is None and "truncate" in finding.detail
    verified, differences = scene.scan(table)
    assert verified.verdict is Verdict.TAMPERED and len(differences) == 15
    scene.assert_bystanders_verified()


def test_where_changes_are_only_recorded_nothing_is_found_and_the_scan_agrees(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect(Rules("state_integrity", on_change="record"))
    scene.dba(f"UPDATE {table} SET amount = 0.01 WHERE id = 1", f"DELETE FROM {table} WHERE id = 12")
    assert scene.found(table) == []
    scene.protected.assert_verified(table)
