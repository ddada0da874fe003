"""A04: an append-only table is truncated."""

from __future__ import annotations

from witnz.core.verdict import Verdict


def test_a_truncate_is_found_now_and_the_scan_names_every_row_that_went(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    good = scene.verified_at(table)
    scene.dba(f"TRUNCATE {table}")

    finding = scene.now("violation.truncate", None, table)
    assert finding.key is None and finding.explained_by == f"entry {finding.entry_seq}"
    assert finding.window.last_good == good < (finding.window.first_bad or "")
    assert scene.found(table) == [("violation.truncate", None)], "one statement is one finding"

    verified, differences = scene.scan(table)
    assert verified.verdict is Verdict.TAMPERED
    assert {key: (d.cls, d.explained) for key, d in differences.items()} == {
        str(key): ("row.deleted", True) for key in range(1, 16)
    }
    scene.assert_bystanders_verified()


def test_a_truncate_of_several_tables_at_once_is_found_on_each(scene) -> None:  # type: ignore[no-untyped-def]
    one, two, spared = (scene.protect("append_only") for _ in range(3))
    scene.dba(f"TRUNCATE {one}, {two} RESTART IDENTITY CASCADE")
    assert scene.now("violation.truncate", None, one).xid == scene.now("violation.truncate", None, two).xid
    scene.assert_bystanders_verified(spared)
