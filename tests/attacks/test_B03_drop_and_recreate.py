"""B03: the table is dropped, made anew, and filled with an altered history."""

from __future__ import annotations

import pytest

from tests.support.node import wait


def recreate(table: str) -> tuple[str, ...]:
    return (
        f"CREATE TABLE {table} (LIKE {table}_kept INCLUDING ALL)",
        f"INSERT INTO {table} SELECT * FROM {table}_kept WHERE id <> 9",
        f"UPDATE {table} SET amount = 0 WHERE id IN (4, 14)",
        f"INSERT INTO {table} VALUES (99, 'invented', 1, NULL, '2026-01-01')",
        f"ALTER TABLE {table} OWNER TO app_owner",
        f"GRANT SELECT ON {table} TO witnz",
    )


def keep_and_drop(table: str) -> tuple[str, ...]:
    return (
        f"CREATE TABLE {table}_kept (LIKE {table} INCLUDING ALL)",
        f"INSERT INTO {table}_kept SELECT * FROM {table}",
        f"DROP TABLE {table}",
    )


@pytest.mark.parametrize("published", [True, False], ids=["published again", "not published"])
def test_a_replaced_table_is_found_and_the_scan_names_the_altered_rows(scene, published: bool) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    good = scene.verified_at(table)
    recorded = {key: scene.row_hash(table, key) for key in (4, 9, 14)}
    scene.dba_at_once(*keep_and_drop(table), *recreate(table))
    if published:
        scene.dba(f"ALTER PUBLICATION {scene.protected.config.publication} ADD TABLE {table}")

    replaced = scene.now("table.replaced", None, table)
    assert replaced.window.last_good == good
    assert scene.differences_of(table) == {
        "4": ("row.modified", False),
        "9": ("row.deleted", False),
        "14": ("row.modified", False),
        "99": ("row.inserted", False),
    }
    assert scene.now("row.modified", 4, table).recorded == recorded[4]
    assert scene.now("row.modified", 14, table).found == scene.row_hash(table, 14)
    assert scene.now("row.deleted", 9, table).recorded == recorded[9]
    assert scene.now("row.inserted", 99, table).found == scene.row_hash(table, 99)
    scene.assert_bystanders_verified()


def test_a_table_that_is_missing_for_a_while_is_found_dropped_and_then_replaced(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    scene.dba_at_once(*keep_and_drop(table))
    scene.now("table.dropped", None, table)
    scene.dba_at_once(*recreate(table))
    scene.now("table.replaced", None, table)
    assert set(scene.differences_of(table)) == {"4", "9", "14", "99"}
    scene.assert_bystanders_verified()


def test_the_same_rows_in_another_table_are_still_a_replaced_table(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    scene.dba_at_once(
        *keep_and_drop(table), f"ALTER TABLE {table}_kept RENAME TO {table.split('.')[1]}", f"GRANT SELECT ON {table} TO witnz"
    )
    scene.now("table.replaced", None, table)
    assert scene.differences_of(table) == {}
    scene.assert_bystanders_verified()


def test_a_scan_that_comes_before_the_watch_finds_it_itself(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    wait(lambda: scene.node.watch.look(scene.node.chores.watch_connection()) == [], "a look at the catalog that finds nothing")
    scene.dba_at_once(*keep_and_drop(table), *recreate(table))
    assert set(scene.differences_of(table)) == {"4", "9", "14", "99"}
    assert ("table.replaced", None) in scene.found(table)
