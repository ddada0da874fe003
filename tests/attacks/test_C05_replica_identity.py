"""C05: the replica identity is changed, so that the stream says less, or something else, of what is updated and deleted."""

from __future__ import annotations

import pytest

from tests.support.node import wait
from witnz.core.verdict import Verdict

COLUMNS = "id bigint PRIMARY KEY, code text NOT NULL UNIQUE, amount numeric(10,2)"
ROWS = "SELECT g, 'code' || g, g FROM generate_series({first}, {last}) g"


@pytest.mark.parametrize("identity", ["NOTHING", "FULL"])
def test_another_identity_is_a_finding_and_the_rows_stay_verified(scene, identity: str) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only", columns=COLUMNS, rows=ROWS)
    scene.dba(f"ALTER TABLE {table} REPLICA IDENTITY {identity}")
    finding = scene.now("identity.changed", None, table)
    assert identity[0].lower() in finding.detail
    assert scene.found(table) == [("identity.changed", None)]
    _, differences = scene.scan(table)
    assert differences == {}
    scene.assert_bystanders_verified()


def test_changes_under_a_full_identity_are_found_with_the_old_row_checked(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only", columns=COLUMNS, rows=ROWS)
    recorded = scene.row_hash(table, 5)
    scene.dba(f"ALTER TABLE {table} REPLICA IDENTITY FULL", f"UPDATE {table} SET amount = 0 WHERE id = 5")
    assert scene.now("violation.update", 5, table).recorded == recorded
    scene.now("identity.changed", None, table)
    assert scene.differences_of(table) == {"5": ("row.modified", True)}
    scene.assert_bystanders_verified()


def test_a_delete_under_another_index_is_found_although_the_stream_does_not_name_the_key(scene) -> None:  # type: ignore[no-untyped-def]
    """In one transaction the identity becomes the index over ``code``, rows go, and the identity is what it was."""
    table = scene.protect("append_only", columns=COLUMNS, rows=ROWS)
    recorded = {key: scene.row_hash(table, key) for key in (5, 13)}
    name = table.split(".")[1]
    scene.dba_at_once(
        f"ALTER TABLE {table} REPLICA IDENTITY USING INDEX {name}_code_key",
        f"DELETE FROM {table} WHERE id = 5",
        f"UPDATE {table} SET amount = 0 WHERE id = 13",
        f"ALTER TABLE {table} REPLICA IDENTITY DEFAULT",
    )
    scene.now("violation.update", 13, table)
    assert any(cls == "violation.delete" for cls, _ in scene.found(table))
    verified, differences = scene.scan(table)
    assert verified.verdict is Verdict.TAMPERED
    assert {key: d.cls for key, d in differences.items()} == {"5": "row.deleted", "13": "row.modified"}
    assert differences["5"].recorded.hex() == recorded[5] and differences["13"].recorded.hex() == recorded[13]
    assert scene.now("row.deleted", 5, table).found is None
    scene.assert_bystanders_verified()


def test_an_index_that_stays_the_identity_is_a_finding_and_a_new_generation(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only", columns=COLUMNS, rows=ROWS)
    scene.dba(f"ALTER TABLE {table} REPLICA IDENTITY USING INDEX {table.split('.')[1]}_code_key")
    scene.now("identity.changed", None, table)
    wait(lambda: scene.node.state(table).generation == 2, "generation 2")
    assert scene.node.state(table).key_columns == ("code",)
    scene.dba(f"DELETE FROM {table} WHERE id = 5")
    assert scene.now("violation.delete", "code5", table).generation == 2
    assert scene.differences_of(table) == {"code5": ("row.deleted", True)}
    scene.assert_bystanders_verified()
