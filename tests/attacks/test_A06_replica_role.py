"""A06: an UPDATE that triggers and rules do not see, under session_replication_role = replica."""

from __future__ import annotations

from witnz.core.verdict import Verdict


def test_what_triggers_cannot_see_the_stream_sees(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    scene.dba_at_once(
        f"CREATE FUNCTION {table}_refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'append only'; END$$",
        f"CREATE TRIGGER refuse BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION {table}_refuse()",
    )
    recorded = scene.row_hash(table, 8)
    scene.dba_at_once("SET LOCAL session_replication_role = replica", f"UPDATE {table} SET actor = 'mallory' WHERE id = 8")
    finding = scene.now("violation.update", 8, table)
    assert (finding.recorded, finding.found) == (recorded, scene.row_hash(table, 8))
    assert scene.found(table) == [("violation.update", "8")]
    verified, differences = scene.scan(table)
    assert verified.verdict is Verdict.TAMPERED and set(differences) == {"8"}
    scene.assert_bystanders_verified()


def test_a_foreign_replication_origin_hides_nothing_either(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    origin = table.replace(".", "_")
    scene.dba(f"SELECT pg_replication_origin_create('{origin}')")
    try:
        scene.dba_at_once(
            f"SELECT pg_replication_origin_session_setup('{origin}')",
            "SELECT pg_replication_origin_xact_setup('0/1', now())",
            f"DELETE FROM {table} WHERE id = 2",
        )
        scene.now("violation.delete", 2, table)
    finally:
        scene.dba(f"SELECT pg_replication_origin_drop('{origin}')")
    scene.assert_bystanders_verified()
