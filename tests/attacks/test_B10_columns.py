"""B10: columns come and go, which is legitimate: recorded as schema, the old rows still verified, no flood of findings."""

from __future__ import annotations

import pytest

from tests.support.node import wait
from witnz.core.entry import parse_schema_hint
from witnz.core.verdict import Verdict
from witnz.node.table_state import ACTIVE
from witnz.store import logs


def wait_for_generation(scene, table: str, number: int) -> None:  # type: ignore[no-untyped-def]
    def adopted() -> bool:
        state = scene.node.state(table)
        return bool(state.generation == number and state.status == ACTIVE)

    wait(adopted, f"generation {number} of {table}")


def recorded_columns(scene, table: str) -> list[str]:  # type: ignore[no-untyped-def]
    with scene.node.db.read() as conn:
        row = logs.find_log(conn, table, scene.node.state(table).generation)
    assert row is not None
    return [column.name for column in parse_schema_hint(row.columns).columns]


@pytest.mark.parametrize("default", ["", " DEFAULT 'none' NOT NULL", " DEFAULT clock_timestamp()::text"])
def test_an_added_column_begins_a_generation_that_verified_the_old_rows(scene, default: str) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    scene.dba(f"ALTER TABLE {table} ADD COLUMN remark text{default}")
    wait_for_generation(scene, table, 2)
    assert recorded_columns(scene, table) == ["id", "actor", "amount", "note", "created_at", "remark"]
    scene.database.sql(f"INSERT INTO {table} VALUES (16, 'user16', 1, NULL, '2026-01-01', 'new')")
    assert scene.found(table) == []
    verified = scene.protected.verify(table)
    assert verified.verdict is Verdict.VERIFIED and verified.result.rows == 16

    recorded = scene.row_hash(table, 5)
    scene.dba(f"UPDATE {table} SET remark = 'forged' WHERE id = 5")
    finding = scene.now("violation.update", 5, table)
    assert (finding.generation, finding.recorded) == (2, recorded)
    assert scene.differences_of(table) == {"5": ("row.modified", True)}
    scene.assert_bystanders_verified()


def test_rows_that_arrive_between_the_change_and_the_new_generation_are_in_it(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    scene.dba_at_once(
        f"ALTER TABLE {table} ADD COLUMN remark text DEFAULT 'none'",
        f"INSERT INTO {table} VALUES (16, 'user16', 1, NULL, '2026-01-01', 'new')",
    )
    scene.database.sql(f"INSERT INTO {table} VALUES (17, 'user17', 1, NULL, '2026-01-01', 'newer')")
    wait_for_generation(scene, table, 2)
    assert scene.found(table) == []
    verified = scene.protected.verify(table)
    assert verified.verdict is Verdict.VERIFIED and verified.result.rows == 17
    scene.assert_bystanders_verified()


def test_a_row_changed_in_the_shadow_of_an_added_column_is_found(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    scene.dba_at_once(f"ALTER TABLE {table} ADD COLUMN remark text", f"UPDATE {table} SET amount = 0 WHERE id = 5")
    scene.now("violation.update", 5, table)
    assert scene.protected.verify(table).verdict is Verdict.TAMPERED
    scene.assert_bystanders_verified()


def test_a_dropped_column_is_one_finding_and_after_approval_a_generation(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    scene.dba(f"ALTER TABLE {table} DROP COLUMN note")
    finding = scene.now("schema.changed", None, table)
    assert scene.found(table) == [("schema.changed", None)]
    verified, differences = scene.scan(table)
    assert verified.verdict is Verdict.INCONCLUSIVE and differences == {}
    assert scene.found(table) == [("schema.changed", None)]

    scene.protected.approve(finding)
    wait_for_generation(scene, table, 2)
    assert recorded_columns(scene, table) == ["id", "actor", "amount", "created_at"]
    assert scene.found(table) == []
    verified = scene.protected.verify(table)
    assert verified.verdict is Verdict.VERIFIED and verified.result.rows == 15
    scene.database.sql(f"INSERT INTO {table} VALUES (16, 'user16', 1, '2026-01-01')")
    scene.dba(f"DELETE FROM {table} WHERE id = 16")
    assert scene.now("violation.delete", 16, table).generation == 2
    assert scene.differences_of(table) == {"16": ("row.deleted", True)}
    scene.assert_bystanders_verified()


def test_rows_that_arrive_after_a_column_was_dropped_wait_without_a_flood(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    scene.dba(f"ALTER TABLE {table} DROP COLUMN note")
    scene.database.sql(f"INSERT INTO {table} SELECT g, 'user' || g, 1, '2026-01-01' FROM generate_series(16, 40) g")
    finding = scene.now("schema.changed", None, table)
    assert scene.found(table) == [("schema.changed", None)]
    scene.protected.approve(finding)
    wait_for_generation(scene, table, 2)
    assert scene.found(table) == []
    verified = scene.protected.verify(table)
    assert verified.verdict is Verdict.VERIFIED and verified.result.rows == 40
    scene.assert_bystanders_verified()


def test_a_renamed_column_begins_a_generation_without_a_finding(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    scene.dba(f"ALTER TABLE {table} RENAME COLUMN note TO remark")
    wait_for_generation(scene, table, 2)
    assert scene.found(table) == []
    scene.protected.assert_verified(table)
    scene.assert_bystanders_verified()


def test_a_scan_between_the_change_and_the_new_generation_names_nobody(scene) -> None:  # type: ignore[no-untyped-def]
    """The first row of the new shape has come, the new generation has not: the old rows can not be compared yet."""
    table = scene.protect("append_only")
    scene.dba(f"ALTER TABLE {table} ADD COLUMN remark text DEFAULT 'none'")
    scene.database.sql(f"INSERT INTO {table} VALUES (16, 'user16', 1, NULL, '2026-01-01', 'new')")
    scene.protected.caught_up()
    with scene.no_new_generation():
        verified, differences = scene.scan(table)
    assert verified.verdict is Verdict.INCONCLUSIVE and differences == {}
    wait_for_generation(scene, table, 2)
    assert scene.found(table) == []
    scene.protected.assert_verified(table)


def test_sealing_goes_on_although_the_old_generation_ended_with_rows_no_seal_covers(scene) -> None:  # type: ignore[no-untyped-def]
    table, other = scene.protect("append_only"), scene.protect("append_only")
    with scene.no_new_generation():
        scene.dba(f"ALTER TABLE {table} ADD COLUMN remark text")
        wait(
            lambda: any(o.plan.name == table and o.phase == "waiting" for o in scene.node.generations.opening()), "the opening"
        )
        scene.database.sql(f"INSERT INTO {table} VALUES (16, 'user16', 1, NULL, '2026-01-01', 'new')")
        scene.protected.caught_up()
    wait_for_generation(scene, table, 2)
    scene.database.sql(f"INSERT INTO {other} VALUES (16, 'user16', 1, NULL, '2026-01-01')")
    scene.protected.caught_up()

    def sealed() -> bool:
        last = scene.node.journal.state.last_sealed(other, 1)
        return last is not None and last.size == scene.node.state(other).head.size

    wait(sealed, f"a seal of {other}")
    scene.protected.assert_verified(table)
    scene.protected.assert_verified(other)
