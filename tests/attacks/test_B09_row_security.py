"""B09: row security hides rows from the role that witnz reads with."""

from __future__ import annotations

import pytest

from witnz.core.verdict import Verdict


@pytest.mark.parametrize("policy", ["USING (id NOT IN (3, 12))", None], ids=["two rows hidden", "all rows hidden"])
def test_hidden_rows_are_a_finding_and_never_a_difference(scene, policy: str | None) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    good = scene.verified_at(table)
    scene.dba(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    if policy is not None:
        scene.dba(f"CREATE POLICY hide ON {table} FOR SELECT TO PUBLIC {policy}")
    finding = scene.now("visibility.changed", None, table)
    assert finding.window.last_good == good
    assert scene.found(table) == [("visibility.changed", None)]

    verified, differences = scene.scan(table)
    assert verified.verdict is Verdict.INCONCLUSIVE
    assert differences == {}, "a row that may not be read is not a row that is gone"
    assert any("row-level security" in reason or "row security" in reason for reason in verified.not_checked)

    scene.dba(f"UPDATE {table} SET amount = 0 WHERE id = 3")  # the stream knows no policies
    scene.now("violation.update", 3, table)
    assert scene.protected.verify(table).verdict is Verdict.TAMPERED
    scene.dba(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
    assert scene.differences_of(table) == {"3": ("row.modified", True)}
    scene.assert_bystanders_verified()


def test_a_scan_before_the_watch_is_inconclusive_all_the_same(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    scene.dba_at_once(
        f"CREATE POLICY hide ON {table} FOR SELECT TO PUBLIC USING (id <> 3)",
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
    )
    verified, differences = scene.scan(table)
    assert verified.verdict is Verdict.INCONCLUSIVE and differences == {} and verified.not_checked


def test_a_revoked_select_is_inconclusive_with_the_reason(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    scene.dba(f"REVOKE SELECT ON {table} FROM witnz")
    verified, differences = scene.scan(table)
    assert verified.verdict is Verdict.INCONCLUSIVE and differences == {}
    assert any("permission denied" in reason for reason in verified.not_checked)
    scene.assert_bystanders_verified()
