"""B01: the table is renamed, updated under the other name, and renamed back."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("at_once", [True, False], ids=["in one transaction", "in three"])
def test_an_update_under_another_name_is_found_on_the_recorded_table(scene, at_once: bool) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    name = table.split(".")[1]
    recorded = scene.row_hash(table, 6)
    run = scene.dba_at_once if at_once else scene.dba
    run(
        f"ALTER TABLE {table} RENAME TO {name}_hidden",
        f"UPDATE {table}_hidden SET amount = 0 WHERE id = 6",
        f"ALTER TABLE {table}_hidden RENAME TO {name}",
    )
    finding = scene.now("violation.update", 6, table)
    assert (finding.recorded, finding.found) == (recorded, scene.row_hash(table, 6))
    assert ("violation.update", "6") in scene.found(table)
    assert scene.differences_of(table) == {"6": ("row.modified", True)}
    scene.assert_bystanders_verified()


def test_a_table_that_stays_renamed_is_found_and_its_changes_go_on_being_found(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    name = table.split(".")[1]
    scene.dba(f"ALTER TABLE {table} RENAME TO {name}_hidden")
    assert f"{name}_hidden" in scene.now("schema.changed", None, table).detail
    scene.dba(f"UPDATE {table}_hidden SET amount = 0 WHERE id = 6")
    scene.now("violation.update", 6, table)
    assert scene.differences_of(table) in ({}, {"6": ("row.modified", True)}), (
        "what stands under no name cannot be scanned by name"
    )
    scene.dba(f"ALTER TABLE {table}_hidden RENAME TO {name}")
    assert scene.differences_of(table) == {"6": ("row.modified", True)}
    scene.assert_bystanders_verified()


def test_a_schema_renamed_around_the_update_hides_nothing(scene) -> None:  # type: ignore[no-untyped-def]
    scene.database.sql("CREATE SCHEMA moving; GRANT USAGE ON SCHEMA moving TO witnz")
    table = scene.protect("append_only", schema="moving")
    name = table.split(".")[1]
    scene.dba(
        "ALTER SCHEMA moving RENAME TO moved",
        f"DELETE FROM moved.{name} WHERE id = 2",
        "ALTER SCHEMA moved RENAME TO moving",
    )
    scene.now("violation.delete", 2, table)
    assert scene.differences_of(table) == {"2": ("row.deleted", True)}
    scene.assert_bystanders_verified()
