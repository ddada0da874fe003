"""A01: the DBA updates a row of an append-only table."""

from __future__ import annotations

from witnz.core.verdict import Verdict


def test_a_live_update_is_found_now_with_the_row_its_hashes_and_the_window(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    good = scene.verified_at(table)
    recorded = scene.row_hash(table, 4)
    scene.dba(f"UPDATE {table} SET amount = amount + 1 WHERE id = 4")

    finding = scene.now("violation.update", 4, table)
    assert (finding.recorded, finding.found) == (recorded, scene.row_hash(table, 4))
    assert finding.window.last_good == good < (finding.window.first_bad or "") <= finding.detected_at
    assert finding.explained_by == f"entry {finding.entry_seq}"
    assert finding.xid is not None and finding.lsn is not None
    assert scene.found(table) == [("violation.update", "4")]

    verified, _ = scene.scan(table)
    assert verified.verdict is Verdict.TAMPERED
    assert [(d.cls, d.key, d.explained) for d in verified.result.differences] == [("row.modified", "4", True)]
    assert scene.found(table) == [("violation.update", "4")], "what the stream explains is no second finding"
    scene.assert_bystanders_verified()


def test_updates_of_many_rows_name_each_of_them_and_no_other(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    scene.dba(f"UPDATE {table} SET note = 'forged' WHERE id IN (2, 9, 13)")
    scene.now("violation.update", 13, table)
    assert scene.found(table) == [("violation.update", key) for key in ("13", "2", "9")]
    verified, differences = scene.scan(table)
    assert verified.verdict is Verdict.TAMPERED and set(differences) == {"2", "9", "13"}
    scene.assert_bystanders_verified()
