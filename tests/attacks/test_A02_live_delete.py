"""A02: the DBA deletes rows of an append-only table."""

from __future__ import annotations

from witnz.core.verdict import Verdict


def test_a_live_delete_is_found_now_with_what_was_recorded_and_nothing_found(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    good = scene.verified_at(table)
    recorded = {key: scene.row_hash(table, key) for key in (7, 12)}
    scene.dba(f"DELETE FROM {table} WHERE id IN (7, 12)")

    for key in (7, 12):
        finding = scene.now("violation.delete", key, table)
        assert (finding.recorded, finding.found) == (recorded[key], None)
        assert finding.window.last_good == good < (finding.window.first_bad or "")
        assert finding.explained_by == f"entry {finding.entry_seq}"
    assert scene.found(table) == [("violation.delete", "12"), ("violation.delete", "7")]

    verified, differences = scene.scan(table)
    assert verified.verdict is Verdict.TAMPERED
    assert {key: (d.cls, d.explained) for key, d in differences.items()} == {
        "7": ("row.deleted", True),
        "12": ("row.deleted", True),
    }
    assert verified.result.rows == 13
    scene.assert_bystanders_verified()
