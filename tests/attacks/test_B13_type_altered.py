"""B13: an enum value is renamed or a composite type altered: recorded rows read otherwise, and no row event says so."""

from __future__ import annotations

from itertools import count

import pytest

from tests.support.node import wait
from witnz.core.verdict import Verdict

NAMES = count(1)


def protect_enum(scene) -> tuple[str, str]:  # type: ignore[no-untyped-def]
    kind = f"verdict_{next(NAMES)}"
    scene.dba(f"CREATE TYPE {kind} AS ENUM ('refused', 'granted')", f"ALTER TYPE {kind} OWNER TO app_owner")
    rows = (
        "SELECT g, CASE WHEN g % 5 = 0 THEN 'granted' ELSE 'refused' END::" + kind + " FROM generate_series({first}, {last}) g"
    )
    return scene.protect("append_only", columns=f"id bigint PRIMARY KEY, outcome {kind}", rows=rows), kind


def test_swapped_enum_labels_are_found_at_once_and_the_scan_names_the_rows(scene) -> None:  # type: ignore[no-untyped-def]
    table, kind = protect_enum(scene)
    good = scene.verified_at(table)
    recorded = scene.row_hash(table, 5)
    scene.now_watched()
    scene.dba_at_once(f"ALTER TYPE {kind} RENAME VALUE 'granted' TO 'approved by nobody'")
    finding = scene.now("schema.changed", None, table)
    assert "'granted'" in finding.detail and kind in finding.detail and finding.window.last_good == good
    assert scene.differences_of(table) == dict.fromkeys(("5", "10", "15"), ("row.modified", False))
    row = scene.now("row.modified", 5, table)
    assert (row.recorded, row.found) == (recorded, scene.row_hash(table, 5))
    scene.assert_bystanders_verified()


def test_an_accepted_rename_begins_a_new_generation_that_verifies(scene) -> None:  # type: ignore[no-untyped-def]
    table, kind = protect_enum(scene)
    scene.now_watched()
    scene.dba(f"ALTER TYPE {kind} RENAME VALUE 'granted' TO 'allowed'")
    scene.protected.approve(scene.now("schema.changed", None, table))
    wait(lambda: scene.node.state(table).generation == 2, f"generation 2 of {table}")
    assert scene.protected.verify_soon(table).verdict is Verdict.VERIFIED
    assert scene.found(table) == []


def test_a_new_label_raises_nothing(scene) -> None:  # type: ignore[no-untyped-def]
    table, kind = protect_enum(scene)
    scene.now_watched()
    scene.dba(f"ALTER TYPE {kind} ADD VALUE 'pending' BEFORE 'refused'")
    scene.database.sql(f"INSERT INTO {table} VALUES (100, 'pending')")
    scene.now_watched()
    assert scene.found(table) == []
    scene.protected.assert_verified(table)


@pytest.mark.parametrize("change", ["ADD ATTRIBUTE more text", "DROP ATTRIBUTE cents"])
def test_an_altered_composite_type_is_found_at_once_and_by_the_scan(scene, change: str) -> None:  # type: ignore[no-untyped-def]
    kind = f"price_{next(NAMES)}"
    scene.dba(f"CREATE TYPE {kind} AS (whole bigint, cents int)", f"ALTER TYPE {kind} OWNER TO app_owner")
    rows = "SELECT g, ROW(g, 50)::" + kind + " FROM generate_series({first}, {last}) g"
    table = scene.protect("append_only", columns=f"id bigint PRIMARY KEY, price {kind}", rows=rows)
    scene.now_watched()
    scene.dba(f"ALTER TYPE {kind} {change}")
    assert kind in scene.now("schema.changed", None, table).detail
    assert set(scene.differences_of(table).values()) == {("row.modified", False)}
    scene.assert_bystanders_verified()


def test_an_edited_catalog_row_is_found_after_the_node_was_down(own_scene) -> None:  # type: ignore[no-untyped-def]
    table = "public.ledger"
    scene = own_scene({"name": table, "mode": "append_only"})
    scene.dba("CREATE TYPE colour AS ENUM ('red', 'green')")
    rows = "SELECT g, 'red'::colour FROM generate_series({first}, {last}) g"
    painted = scene.protect("append_only", columns="id bigint PRIMARY KEY, c colour", rows=rows)
    scene.now_watched()
    scene.stop()
    scene.dba("UPDATE pg_enum SET enumlabel = 'blue' WHERE enumlabel = 'red'")
    scene.resume()
    assert "'red'" in scene.now("schema.changed", None, painted).detail
    scene.protected.assert_verified(table)
