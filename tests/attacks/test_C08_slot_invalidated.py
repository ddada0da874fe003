"""C08: the server throws away WAL that the slot still needs, so that changes are never streamed."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.support.cluster import Trio
from tests.support.node import wait
from witnz.core.verdict import Verdict
from witnz.node import refilling as refills
from witnz.node.sources import NotFetched
from witnz.store import logs

TABLE = "public.ledger"
SETTINGS = {"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB", "wal_keep_size": "0"}


def exhaust(scene: Any) -> None:
    """Write WAL until the slot, which nobody reads, has lost what it needs."""
    slot = scene.protected.config.slot_name
    for _ in range(40):
        scene.dba("SELECT pg_switch_wal()", "CREATE TABLE filler AS SELECT 1", "DROP TABLE filler", "CHECKPOINT")
        state = scene.database.server.sql(f"SELECT wal_status FROM pg_replication_slots WHERE slot_name = '{slot}'")
        if state == [("lost",)]:
            return
    raise AssertionError(f"the slot is still {state}")


def test_a_slot_that_holds_back_more_than_is_allowed_is_given_up_before_the_disk_is_full(own_server, own_scene) -> None:  # type: ignore[no-untyped-def]
    """The bound of the configuration; a long transaction of anybody holds WAL back while the node runs."""
    scene = own_scene({"name": TABLE, "mode": "append_only"}, server=own_server(), max_retained_wal="40MB")
    slot, database = scene.protected.config.slot_name, scene.database
    with psycopg.connect(database.admin_dsn) as long:
        long.execute("CREATE TABLE never_seen (a int)")
        for _ in range(4):
            scene.dba("SELECT pg_switch_wal()", "CREATE TABLE filler AS SELECT 1", "DROP TABLE filler")
        scene.dba("CHECKPOINT")
        look = (
            "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) > 40000000 FROM pg_replication_slots"
            f" WHERE slot_name = '{slot}'"
        )
        wait(lambda: database.server.sql(look) != [(True,)], "the slot to let go")
        long.rollback()
    gap = scene.gap("slot.lost")
    assert "max_retained_wal" in gap.detail or "does not exist" in gap.detail
    scene.caught_up_again()
    scene.dba(f"UPDATE {TABLE} SET amount = 0 WHERE id = 12")
    scene.now("violation.update", 12, TABLE)
    assert set(scene.node.journal.state.open_gaps()) == {TABLE, "public.untouched", "billing.audit_logs"}


def test_a_slot_that_lost_its_wal_is_a_gap_and_the_scan_names_the_rows(own_server, own_scene) -> None:  # type: ignore[no-untyped-def]
    scene = own_scene({"name": TABLE, "mode": "append_only"}, server=own_server(settings=SETTINGS))
    good = scene.verified_at(TABLE)
    recorded = scene.row_hash(TABLE, 12)
    scene.stop()
    scene.dba(f"UPDATE {TABLE} SET amount = 0 WHERE id = 12")
    exhaust(scene)
    scene.resume()
    gap = scene.gap("slot.lost")
    assert "discarded WAL" in gap.detail
    assert scene.found(TABLE) == [], "the stream can not have seen it"
    assert scene.differences_of(TABLE) == {"12": ("row.modified", False)}
    row = scene.now("row.modified", 12, TABLE)
    assert (row.recorded, row.found, row.window.last_good) == (recorded, scene.row_hash(TABLE, 12), good)
    assert scene.protected.verify("public.untouched").verdict is Verdict.INCONCLUSIVE
    scene.protected.approve(gap)
    scene.assert_bystanders_verified()
    scene.dba(f"DELETE FROM {TABLE} WHERE id = 3")
    scene.now("violation.delete", 3, TABLE)


def test_a_member_whom_nobody_can_fill_up_goes_on_with_the_logs_that_it_has(trio: Trio) -> None:
    """Two that lost their slots at once ask each other; whoever still fetches gives nothing, so both would for ever."""
    node = trio.followers()[0]
    trio.settled()
    fetching = trio[node].peering.refilling._catch_up()
    fetching._unsealed_wait_s = 0.1
    with pytest.raises(NotFetched, match="nobody has sealed"):
        fetching.all_logs(1 << 62)
    with trio[node].db.read() as conn:
        assert not logs.list_logs(conn, "fetching")
    trio.database.sql("INSERT INTO ledger VALUES (51, 'user51', 510)")
    trio.settled()
    trio.assert_alike()


def test_members_that_have_not_read_so_far_yet_are_waited_for(trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is called a gap is one for ever; all are connected, but they follow a quiet or a busy server in their own time."""

    class Following:
        asked = 0

        def all_logs(self, position: int, *, besides: object) -> int:
            Following.asked += 1
            if Following.asked < 3:
                raise NotFetched(f"too few members have passed {position}")
            return 7

    refilling = trio[trio.followers()[0]].peering.refilling
    monkeypatch.setattr(refilling, "_catch_up", Following)
    assert refilling.refill(4711) and Following.asked == 3
    monkeypatch.setattr(Following, "asked", -(10**9))
    monkeypatch.setattr(refills, "PATIENCE_S", 1.0)
    assert not refilling.refill(4711), "not for ever"
