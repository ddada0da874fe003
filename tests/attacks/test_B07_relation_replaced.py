"""B07: under the table's name stands a view, a foreign table or a partition root, and the honest copy behind it."""

from __future__ import annotations

import pytest


def test_a_view_over_the_renamed_table_is_a_replaced_table(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    good = scene.verified_at(table)
    scene.dba_at_once(
        f"ALTER TABLE {table} RENAME TO {table.split('.')[1]}_behind",
        f"CREATE VIEW {table} AS SELECT id, actor, CASE id WHEN 4 THEN 0 ELSE amount END AS amount, note, created_at"
        f" FROM {table}_behind",
    )
    finding = scene.now("table.replaced", None, table)
    assert finding.window.last_good == good
    assert scene.found(table) == [("table.replaced", None)]
    scene.scan(table)
    assert scene.protected.verify(table).verdict.value == "TAMPERED"
    scene.assert_bystanders_verified()


def test_a_partition_root_over_the_renamed_table_is_a_replaced_table(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    name = table.split(".")[1]
    scene.dba_at_once(
        f"ALTER TABLE {table} RENAME TO {name}_honest",
        f"CREATE TABLE {table} (LIKE {table}_honest) PARTITION BY RANGE (id)",
        f"ALTER TABLE {table} ATTACH PARTITION {table}_honest FOR VALUES FROM (MINVALUE) TO (1000)",
        f"CREATE TABLE {table}_forged PARTITION OF {table} FOR VALUES FROM (1000) TO (MAXVALUE)",
        f"INSERT INTO {table} VALUES (5000, 'invented', 1, NULL, '2026-01-01')",
    )
    finding = scene.now("table.replaced", None, table)
    assert "another table" in finding.detail
    assert scene.protected.verify(table).verdict.value == "TAMPERED"
    scene.assert_bystanders_verified()


def test_a_foreign_table_with_the_copy_behind_it_is_a_replaced_table(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    scene.dba(
        "CREATE FOREIGN DATA WRAPPER nowhere",
        "CREATE SERVER elsewhere FOREIGN DATA WRAPPER nowhere",
    )
    try:
        scene.dba_at_once(
            f"ALTER TABLE {table} RENAME TO {table.split('.')[1]}_behind",
            f"CREATE FOREIGN TABLE {table} (id bigint, actor text, amount numeric(10,2), note text, created_at timestamptz)"
            " SERVER elsewhere",
        )
        scene.now("table.replaced", None, table)
        assert scene.protected.verify(table).verdict.value == "TAMPERED"
    finally:
        scene.dba("DROP SERVER elsewhere CASCADE", "DROP FOREIGN DATA WRAPPER nowhere")
    scene.assert_bystanders_verified()


def test_a_catalog_row_edited_by_hand_is_a_replaced_table(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    scene.dba_at_once(
        "SET LOCAL allow_system_table_mods = on",
        f"UPDATE pg_class SET relkind = 'm' WHERE oid = '{table}'::regclass",
    )
    try:
        finding = scene.now("table.replaced", None, table)
        assert finding.detail == "the table is now of kind m"
        assert scene.protected.verify(table).verdict.value == "TAMPERED"
    finally:
        scene.dba_at_once(
            "SET LOCAL allow_system_table_mods = on",
            f"UPDATE pg_class SET relkind = 'r' WHERE oid = '{table}'::regclass",
        )
    scene.assert_bystanders_verified()


@pytest.mark.parametrize("word", ["VIEW", "MATERIALIZED VIEW"])
def test_a_view_under_the_name_of_a_dropped_table_is_a_replaced_table(scene, word: str) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    scene.dba_at_once(
        f"CREATE TABLE {table}_copy AS SELECT * FROM {table}",
        f"DROP TABLE {table}",
        f"CREATE {word} {table} AS SELECT * FROM {table}_copy WHERE id <> 9",
    )
    scene.now("table.replaced", None, table)
    assert scene.protected.verify(table).verdict.value == "TAMPERED"
    scene.assert_bystanders_verified()
