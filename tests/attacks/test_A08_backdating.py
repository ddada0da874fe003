"""A08: only the time stamps of a row are moved back."""

from __future__ import annotations

import pytest

from witnz.core.verdict import Verdict

COLUMNS = "id bigint PRIMARY KEY, actor text, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL"
ROWS = (
    "SELECT g, 'user' || g, '2026-01-01 00:00:00.123456+00'::timestamptz + g * interval '1 hour',"
    " '2026-01-01 00:00:00.123456+00'::timestamptz + g * interval '1 hour' FROM generate_series({first}, {last}) g"
)


@pytest.mark.parametrize("column", ["created_at", "updated_at"])
def test_moving_one_time_stamp_by_a_microsecond_is_found_now_and_by_the_scan(scene, column: str) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only", columns=COLUMNS, rows=ROWS)
    recorded = scene.row_hash(table, 12)
    scene.dba(f"UPDATE {table} SET {column} = {column} - interval '1 microsecond' WHERE id = 12")
    finding = scene.now("violation.update", 12, table)
    assert (finding.recorded, finding.found) == (recorded, scene.row_hash(table, 12))
    assert finding.recorded != finding.found
    assert scene.found(table) == [("violation.update", "12")]
    verified, differences = scene.scan(table)
    assert verified.verdict is Verdict.TAMPERED
    assert {key: (d.cls, d.explained) for key, d in differences.items()} == {"12": ("row.modified", True)}
    scene.assert_bystanders_verified()


def test_the_same_instant_written_in_another_zone_is_the_same_row(scene) -> None:  # type: ignore[no-untyped-def]
    """No false alarm: what a session's time zone prints differently is stored alike, so the rewritten row equals its record."""
    table = scene.protect("append_only", columns=COLUMNS, rows=ROWS)
    recorded = scene.row_hash(table, 3)
    scene.dba_at_once(
        "SET LOCAL timezone = 'Asia/Kathmandu'", f"UPDATE {table} SET created_at = created_at::text::timestamptz WHERE id = 3"
    )
    finding = scene.now("violation.update", 3, table)
    assert finding.recorded == finding.found == recorded
    _, differences = scene.scan(table)
    assert differences == {}
