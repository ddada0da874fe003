"""A10: a table of the same name in another schema is changed; neither is taken for the other."""

from __future__ import annotations

from witnz.core.verdict import Verdict

HERE, THERE, UNPROTECTED = "public.audit_logs", "accounting.audit_logs", "archive.audit_logs"


def test_only_the_table_that_was_changed_is_found(own_scene) -> None:  # type: ignore[no-untyped-def]
    scene = own_scene({"name": HERE, "mode": "append_only"}, {"name": THERE, "mode": "append_only"})
    scene.dba(
        "CREATE SCHEMA archive",
        f"CREATE TABLE {UNPROTECTED} AS SELECT * FROM {HERE}",
        f"UPDATE {UNPROTECTED} SET amount = 0",
        f"DELETE FROM {UNPROTECTED}",
    )
    recorded = scene.row_hash(THERE, 5)
    scene.dba(f"UPDATE {THERE} SET amount = 0 WHERE id = 5")
    finding = scene.now("violation.update", 5, THERE)
    assert (finding.recorded, finding.found) == (recorded, scene.row_hash(THERE, 5))
    assert scene.found(THERE) == [("violation.update", "5")]
    assert scene.found(HERE) == scene.found(UNPROTECTED) == scene.found(None) == []

    verified, differences = scene.scan(THERE)
    assert verified.verdict is Verdict.TAMPERED and set(differences) == {"5"}
    scene.assert_bystanders_verified(HERE)  # billing.audit_logs, a third table of that name, is a bystander


def test_a_search_path_that_finds_another_table_first_changes_nothing(own_scene) -> None:  # type: ignore[no-untyped-def]
    scene = own_scene({"name": HERE, "mode": "append_only"}, {"name": THERE, "mode": "append_only"})
    scene.dba_at_once("SET LOCAL search_path = accounting, public", "DELETE FROM audit_logs WHERE id = 2")
    scene.now("violation.delete", 2, THERE)
    scene.assert_bystanders_verified(HERE)
