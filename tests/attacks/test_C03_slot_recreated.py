"""C03: the slot is dropped and made anew around a change, so that the stream goes on behind it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.node import wait
from witnz.core.lsn import parse_lsn
from witnz.core.verdict import Verdict

TABLE = "public.ledger"
CREATE = "SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"
STEAL = """DO $$ DECLARE stolen boolean := false; BEGIN
    WHILE NOT stolen LOOP
        PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots
            WHERE slot_name = '{slot}' AND active_pid IS NOT NULL;
        BEGIN
            PERFORM pg_drop_replication_slot('{slot}'); stolen := true;
        EXCEPTION WHEN object_in_use THEN PERFORM pg_sleep(0.001);
        END;
    END LOOP; END $$"""


def assert_gap_is_bridged_and_decided(scene: Any, cls: str, acked: int) -> None:
    """The gap is one finding without a table; it keeps every table from being green until an operator accepts it."""
    gap = scene.gap(cls)
    start, end = (parse_lsn(text) for text in gap.detail.split("between ")[1].split(" were")[0].split(" and "))
    assert start <= acked <= end and parse_lsn(gap.lsn) == end
    assert set(scene.node.journal.state.open_gaps()) == {TABLE, "public.untouched", "billing.audit_logs"}
    untouched = scene.protected.verify("public.untouched")
    assert (untouched.result.verdict, untouched.verdict) == (Verdict.VERIFIED, Verdict.INCONCLUSIVE)
    assert any(gap.id in reason for reason in untouched.not_checked)
    scene.protected.approve(gap)
    assert scene.node.journal.state.open_gaps() == {}
    scene.assert_bystanders_verified()


@pytest.mark.parametrize("again", [True, False], ids=["made anew", "left away"])
def test_while_the_node_is_down(own_scene, again: bool) -> None:  # type: ignore[no-untyped-def]
    scene = own_scene({"name": TABLE, "mode": "append_only"})
    slot = scene.protected.config.slot_name
    good = scene.verified_at(TABLE)
    recorded = scene.row_hash(TABLE, 12)
    scene.stop()
    before = scene.insert_lsn()
    scene.dba(f"SELECT pg_drop_replication_slot('{slot}')", f"UPDATE {TABLE} SET amount = 0 WHERE id = 12")
    if again:
        scene.dba(CREATE.format(slot=slot))
    scene.resume()

    cls = "coverage.gap" if again else "slot.lost"
    scene.gap(cls)
    assert scene.found(TABLE) == [], "the stream can not have seen it"
    assert scene.differences_of(TABLE) == {"12": ("row.modified", False)}
    row = scene.now("row.modified", 12, TABLE)
    assert (row.recorded, row.found) == (recorded, scene.row_hash(TABLE, 12))
    assert row.window.last_good == good and row.explained_by is None
    assert_gap_is_bridged_and_decided(scene, cls, before)
    scene.dba(f"DELETE FROM {TABLE} WHERE id = 3")
    scene.now("violation.delete", 3, TABLE)


def test_while_the_node_runs(own_scene) -> None:  # type: ignore[no-untyped-def]
    scene = own_scene({"name": TABLE, "mode": "append_only"})
    slot = scene.protected.config.slot_name
    recorded = scene.row_hash(TABLE, 12)
    before = scene.insert_lsn()
    scene.dba(STEAL.format(slot=slot), f"UPDATE {TABLE} SET amount = 0 WHERE id = 12")
    scene.dba(
        f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"
        f" WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{slot}')"
    )
    found = scene.gap()
    scene.protected.caught_up()
    # whoever was first to make the slot again decides which of the two detectors sees the change; one of them does
    (difference,) = scene.scan(TABLE)[0].result.differences
    assert (difference.cls, difference.key, difference.recorded.hex()) == ("row.modified", "12", recorded)
    assert ("violation.update" if difference.explained else "row.modified", "12") in scene.found(TABLE)
    assert scene.protected.verify(TABLE).verdict is Verdict.TAMPERED
    assert_gap_is_bridged_and_decided(scene, found.cls, before)


def test_a_column_added_behind_an_open_gap_waits_for_the_operator_and_the_capture_goes_on(own_scene) -> None:  # type: ignore[no-untyped-def]
    scene = own_scene({"name": TABLE, "mode": "append_only"})
    scene.stop()
    scene.dba(f"SELECT pg_drop_replication_slot('{scene.protected.config.slot_name}')")
    scene.resume()
    gap = scene.gap("slot.lost")
    scene.dba(f"ALTER TABLE {TABLE} ADD COLUMN remark text", f"UPDATE {TABLE} SET amount = 0 WHERE id = 12")
    scene.now("violation.update", 12, TABLE)
    scene.now_watched()
    assert scene.protected.verify(TABLE).verdict is Verdict.TAMPERED
    assert scene.node.capture.fatal is None and scene.node.state(TABLE).generation == 1
    scene.protected.approve(scene.now("violation.update", 12, TABLE))
    scene.protected.approve(gap)
    wait(lambda: scene.node.state(TABLE).generation == 2 and scene.node.state(TABLE).status == "active", "generation 2")
    scene.protected.assert_verified(TABLE)
    scene.assert_bystanders_verified()
