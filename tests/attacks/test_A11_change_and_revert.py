"""A11: a row is changed and changed back between two scans."""

from __future__ import annotations

import pytest

from witnz.core.verdict import Verdict


@pytest.mark.parametrize("rules", ["append_only", "state_integrity"])
def test_a_change_that_was_taken_back_before_the_scan_is_found_now_and_stays(scene, rules: str) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect(rules)
    good = scene.verified_at(table)
    recorded = scene.row_hash(table, 9)
    scene.dba(f"UPDATE {table} SET amount = amount + 500 WHERE id = 9")
    changed = scene.row_hash(table, 9)
    scene.dba(f"UPDATE {table} SET amount = amount - 500 WHERE id = 9")
    assert scene.row_hash(table, 9) == recorded, "the attack must leave no trace in the table"

    cls = "violation.update" if rules == "append_only" else "change.unapproved"
    assert scene.now(cls, 9, table).window.last_good == good
    assert scene.found(table) == [(cls, "9"), (cls, "9")]
    there, back = sorted((f for f in scene.protected.findings(table)), key=lambda f: f.entry_seq or 0)
    assert (there.recorded, there.found) == (recorded, changed)
    assert (back.recorded, back.found) == (recorded, recorded)

    verified, differences = scene.scan(table)
    assert differences == {} and verified.result.expected_root == verified.result.found_root
    assert verified.verdict is Verdict.TAMPERED
    scene.assert_bystanders_verified()
