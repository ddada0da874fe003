"""B02: the table is renamed, a row is deleted under the other name, and inserted again, altered, after renaming back."""

from __future__ import annotations


def test_the_delete_and_the_insert_are_both_found(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    name = table.split(".")[1]
    recorded = scene.row_hash(table, 13)
    scene.dba(
        f"ALTER TABLE {table} RENAME TO {name}_hidden",
        f"DELETE FROM {table}_hidden WHERE id = 13",
        f"ALTER TABLE {table}_hidden RENAME TO {name}",
        f"INSERT INTO {table} VALUES (13, 'user13', 1.00, NULL, '2026-01-01 13:00:00+00')",
    )
    deleted, again = scene.now("violation.delete", 13, table), scene.now("violation.reinsert", 13, table)
    assert (deleted.recorded, deleted.found) == (recorded, None)
    assert (again.recorded, again.found) == (recorded, scene.row_hash(table, 13))
    assert scene.differences_of(table) == {"13": ("row.modified", True)}
    scene.assert_bystanders_verified()


def test_a_renamed_original_with_an_altered_copy_in_its_place_is_found(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    name = table.split(".")[1]
    scene.dba_at_once(
        f"ALTER TABLE {table} RENAME TO {name}_original",
        f"CREATE TABLE {table} (LIKE {table}_original INCLUDING ALL)",
        f"INSERT INTO {table} SELECT * FROM {table}_original WHERE id <> 2",
        f"UPDATE {table} SET amount = 0 WHERE id = 11",
        f"GRANT SELECT ON {table} TO witnz",
    )
    finding = scene.now("table.replaced", None, table)
    assert "OID" in finding.detail
    assert scene.differences_of(table) == {"2": ("row.deleted", False), "11": ("row.modified", False)}
    scene.assert_bystanders_verified()
