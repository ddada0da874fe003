"""B04: the table is dropped."""

from __future__ import annotations

from witnz.core.verdict import Verdict


def test_a_dropped_table_is_found_and_never_green(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    good = scene.verified_at(table)
    scene.dba(f"DROP TABLE {table}")
    finding = scene.now("table.dropped", None, table)
    assert finding.window.last_good == good
    assert scene.found(table) == [("table.dropped", None)]
    verified, differences = scene.scan(table)
    assert verified.verdict is Verdict.TAMPERED and differences == {}
    assert any("does not exist" in reason for reason in verified.not_checked)
    scene.assert_bystanders_verified()


def test_a_scan_at_once_finds_it_without_waiting_for_the_watch(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    scene.dba(f"DROP TABLE {table}")
    assert scene.protected.verify(table).verdict is Verdict.TAMPERED
    assert scene.found(table) == [("table.dropped", None)]


def test_a_schema_dropped_with_everything_in_it_is_found(scene) -> None:  # type: ignore[no-untyped-def]
    scene.database.sql("CREATE SCHEMA doomed; GRANT USAGE ON SCHEMA doomed TO witnz")
    table = scene.protect("append_only", schema="doomed")
    scene.dba("DROP SCHEMA doomed CASCADE")
    scene.now("table.dropped", None, table)
    assert scene.protected.verify(table).verdict is Verdict.TAMPERED
    scene.assert_bystanders_verified()
