"""A05: the history is truncated and inserted again, with some rows altered, one left out and one invented."""

from __future__ import annotations

from witnz.core.verdict import Verdict


def test_a_rewritten_history_is_found_row_by_row(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    recorded = {key: scene.row_hash(table, key) for key in range(1, 16)}
    scene.dba_at_once(
        f"CREATE TEMP TABLE kept ON COMMIT DROP AS SELECT * FROM {table} WHERE id <> 14",
        "UPDATE kept SET actor = 'nobody' WHERE id IN (3, 11)",
        f"TRUNCATE {table}",
        f"INSERT INTO {table} SELECT * FROM kept",
        f"INSERT INTO {table} VALUES (99, 'invented', 1, NULL, '2026-01-01')",
    )
    scene.now("violation.truncate", None, table)
    scene.now("violation.reinsert", 15, table)
    again = [key for key in range(1, 16) if key != 14]
    assert scene.found(table) == sorted(
        [("violation.truncate", None), *(("violation.reinsert", str(k)) for k in again)], key=str
    )
    for key in again:
        finding = scene.now("violation.reinsert", key, table)
        assert finding.recorded == recorded[key]
        assert (finding.found != recorded[key]) == (key in (3, 11))

    verified, differences = scene.scan(table)
    assert verified.verdict is Verdict.TAMPERED
    assert {key: (d.cls, d.explained) for key, d in differences.items()} == {
        "3": ("row.modified", True),
        "11": ("row.modified", True),
        "14": ("row.deleted", True),
    }, "the invented row was inserted under a new key, which the mode allows and the log shows"
    scene.assert_bystanders_verified()
