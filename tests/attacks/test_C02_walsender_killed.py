"""C02: the walsender is killed and a change is made while nothing streams."""

from __future__ import annotations

from witnz.core.verdict import Verdict

KILL = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{slot}' AND active_pid IS NOT NULL"


def test_a_change_after_the_kill_arrives_when_the_stream_is_back(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    recorded = scene.row_hash(table, 5)
    scene.dba(KILL.format(slot=scene.protected.config.slot_name), f"UPDATE {table} SET amount = 0 WHERE id = 5")
    finding = scene.now("violation.update", 5, table)
    assert (finding.recorded, finding.found) == (recorded, scene.row_hash(table, 5))
    assert scene.found(table) == [("violation.update", "5")]
    assert scene.found(None) == [], "a broken connection is no gap"
    assert scene.differences_of(table) == {"5": ("row.modified", True)}
    scene.assert_bystanders_verified()


def test_every_change_between_many_kills_is_found_once(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    for key in range(1, 8):
        scene.dba(KILL.format(slot=scene.protected.config.slot_name), f"DELETE FROM {table} WHERE id = {key}")
    scene.now("violation.delete", 7, table)
    assert scene.found(table) == [("violation.delete", str(key)) for key in range(1, 8)]
    assert scene.protected.verify(table).verdict is Verdict.TAMPERED
    assert scene.found(None) == []
    scene.assert_bystanders_verified()
