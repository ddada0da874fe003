"""C04: somebody advances, or reads from, the slot past a change while the node is down."""

from __future__ import annotations

import pytest

from witnz.core.lsn import parse_lsn
from witnz.core.verdict import Verdict

TABLE = "public.ledger"
WAYS = {
    "advanced": "SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())",
    "read out": "SELECT count(*) FROM pg_logical_slot_get_binary_changes('{slot}', NULL, NULL, 'proto_version', '1',"
    " 'publication_names', '{publication}')",
}


@pytest.mark.parametrize("way", WAYS)
def test_what_the_slot_was_moved_past_is_a_gap_and_the_scan_names_the_row(own_scene, way: str) -> None:  # type: ignore[no-untyped-def]
    scene = own_scene({"name": TABLE, "mode": "append_only"})
    good = scene.verified_at(TABLE)
    recorded = {key: scene.row_hash(TABLE, key) for key in (4, 14)}
    scene.stop()
    before = scene.insert_lsn()
    scene.dba(f"UPDATE {TABLE} SET amount = 0 WHERE id = 4", f"DELETE FROM {TABLE} WHERE id = 14")
    config = scene.protected.config
    scene.dba(WAYS[way].format(slot=config.slot_name, publication=config.publication))
    scene.dba(f"UPDATE {TABLE} SET note = 'later' WHERE id = 9")
    scene.resume()

    gap = scene.gap("coverage.gap")
    assert parse_lsn(gap.lsn) > before
    scene.now("violation.update", 9, TABLE)  # what came after it is streamed as ever
    assert scene.found(TABLE) == [("violation.update", "9")]
    assert scene.differences_of(TABLE) == {
        "4": ("row.modified", False),
        "9": ("row.modified", True),
        "14": ("row.deleted", False),
    }
    modified, deleted = scene.now("row.modified", 4, TABLE), scene.now("row.deleted", 14, TABLE)
    assert (modified.recorded, modified.found) == (recorded[4], scene.row_hash(TABLE, 4))
    assert (deleted.recorded, deleted.found) == (recorded[14], None)
    assert modified.window.last_good == deleted.window.last_good == good
    untouched = scene.protected.verify("public.untouched")
    assert (untouched.result.verdict, untouched.verdict) == (Verdict.VERIFIED, Verdict.INCONCLUSIVE)
    scene.protected.approve(gap)
    scene.assert_bystanders_verified()
