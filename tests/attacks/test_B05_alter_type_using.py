"""B05: ALTER COLUMN … TYPE … USING rewrites the table with other values, and no row event tells."""

from __future__ import annotations

from tests.support.node import wait
from witnz.core.verdict import Verdict
from witnz.node.table_state import ACTIVE

CHANGE = "CASE WHEN id IN (2, 12) THEN 0 ELSE amount END"


def test_values_changed_under_the_same_type_are_named_by_the_scan(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    good = scene.verified_at(table)
    recorded = {key: scene.row_hash(table, key) for key in (2, 12)}
    scene.dba(f"ALTER TABLE {table} ALTER COLUMN amount TYPE numeric(10,2) USING {CHANGE}")
    scene.protected.caught_up()
    assert scene.differences_of(table) == {"2": ("row.modified", False), "12": ("row.modified", False)}
    for key in (2, 12):
        finding = scene.now("row.modified", key, table)
        assert (finding.recorded, finding.found) == (recorded[key], scene.row_hash(table, key))
        assert finding.window.last_good == good and finding.explained_by is None
    scene.assert_bystanders_verified()


def test_values_changed_together_with_the_type_are_named_before_a_new_generation(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    recorded = {key: scene.row_hash(table, key) for key in (2, 12)}
    scene.dba(f"ALTER TABLE {table} ALTER COLUMN amount TYPE numeric(12,2) USING {CHANGE}")
    for key in (2, 12):
        finding = scene.now("row.modified", key, table)
        assert (finding.recorded, finding.found) == (recorded[key], scene.row_hash(table, key))
    scene.now("schema.changed", None, table)
    assert scene.found(table) == [("row.modified", "12"), ("row.modified", "2"), ("schema.changed", None)]
    assert scene.node.state(table).generation == 1, "rows that differ do not become a baseline by themselves"
    assert scene.protected.verify(table).verdict is Verdict.TAMPERED
    scene.assert_bystanders_verified()


def test_a_type_changed_with_every_value_kept_begins_a_generation_without_a_finding(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    scene.dba(f"ALTER TABLE {table} ALTER COLUMN amount TYPE numeric(12,2)")
    wait(lambda: (s := scene.node.state(table)).generation == 2 and s.status == ACTIVE, "generation 2")
    assert scene.found(table) == []
    scene.protected.assert_verified(table)
    # and what happens from then on is found in the new generation
    scene.dba(f"UPDATE {table} SET amount = 0 WHERE id = 2")
    assert scene.now("violation.update", 2, table).generation == 2
    scene.assert_bystanders_verified()
