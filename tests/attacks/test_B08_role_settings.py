"""B08: settings of the role that witnz connects as, or of the database, that change what is read or printed."""

from __future__ import annotations

import pytest

from witnz.core.verdict import Verdict

PRINTING = (
    "SET search_path = evil, public",
    "SET datestyle = 'German'",
    "SET extra_float_digits = -15",
    "SET bytea_output = 'escape'",
    "SET timezone = 'Asia/Tokyo'",
    "SET intervalstyle = 'iso_8601'",
    "SET row_security = on",
)
COLUMNS = "id bigint PRIMARY KEY, at timestamptz, f float8, b bytea, i interval"
ROWS = (
    "SELECT g, '2026-01-01 00:00:00+00'::timestamptz + g * interval '1 hour', g / 3.0, decode('00ff', 'hex'),"
    " g * interval '1 day' FROM generate_series({first}, {last}) g"
)


def test_settings_of_the_role_are_one_finding_and_every_row_still_reads_as_recorded(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only", columns=COLUMNS, rows=ROWS)
    scene.now_watched()
    scene.dba_at_once(*(f"ALTER ROLE witnz {setting}" for setting in PRINTING))
    try:
        finding = scene.now("role.changed", None, None)
        assert "search_path" in finding.detail and "datestyle" in finding.detail.lower()
        assert [cls for cls, _ in scene.open_without_table()] == ["role.changed"]
        scene.node.chores.drop_watch_connection()  # every connection from here on is made under the new settings
        scene.database.server.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'witnz' AND datname = current_database()"
        )
        scene.caught_up_again()
        scene.database.sql(f"INSERT INTO {table} {ROWS.format(first=16, last=20)}")
        scene.protected.caught_up()
        verified, differences = scene.scan(table)
        assert verified.verdict is Verdict.VERIFIED and differences == {} and verified.result.rows == 20
        scene.assert_bystanders_verified()
    finally:
        scene.protected.approve(finding)  # first: as long as it is open, the undoing is told in it
        scene.dba("ALTER ROLE witnz RESET ALL")
    undone = scene.now("role.changed", None, None)
    assert "is gone" in undone.detail
    scene.protected.approve(undone)


@pytest.mark.parametrize(
    ("done", "undone", "word"),
    [
        ("ALTER ROLE witnz BYPASSRLS", "ALTER ROLE witnz NOBYPASSRLS", "bypassrls"),
        pytest.param(
            *("GRANT pg_read_all_data TO witnz", "REVOKE pg_read_all_data FROM witnz", "pg_read_all_data"),
            marks=pytest.mark.since(14, "the role pg_read_all_data"),
        ),
        (
            "ALTER DATABASE {database} SET session_preload_libraries = 'plpgsql'",
            "ALTER DATABASE {database} RESET session_preload_libraries",
            "session_preload_libraries",
        ),
    ],
)
def test_what_the_role_may_do_and_what_code_is_loaded_are_watched(scene, done: str, undone: str, word: str) -> None:  # type: ignore[no-untyped-def]
    database = scene.database.name
    scene.now_watched()
    scene.dba(done.format(database=database))
    finding = scene.now("role.changed", None, None)
    assert word in finding.detail
    scene.protected.approve(finding)
    scene.dba(undone.format(database=database))
    again = scene.now("role.changed", None, None)
    assert word in again.detail
    scene.protected.approve(again)
    scene.assert_bystanders_verified()


def test_settings_of_the_database_that_are_the_applications_matter_raise_nothing(scene) -> None:  # type: ignore[no-untyped-def]
    database = scene.database.name
    scene.now_watched()
    scene.dba(f"ALTER DATABASE {database} SET timezone = 'Asia/Tokyo'", f"ALTER DATABASE {database} SET work_mem = '8MB'")
    try:
        scene.now_watched()
        assert scene.open_without_table() == []
        scene.assert_bystanders_verified()
    finally:
        scene.dba(f"ALTER DATABASE {database} RESET ALL")
