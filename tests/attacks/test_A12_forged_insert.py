"""A12: a forged row of valid shape is inserted, by somebody who may insert."""

from __future__ import annotations

from witnz.core.classify import Rules
from witnz.core.entry import parse_entry
from witnz.core.verdict import Verdict
from witnz.store import entries

FORGED = "(4711, 'accounting', 1000000.00, NULL, '2026-01-03 12:00:00+00')"


def test_without_require_intent_it_is_recorded_with_its_transaction_and_time(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    clock = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    ((before,),) = scene.database.sql(clock)
    scene.dba(f"INSERT INTO {table} VALUES {FORGED}")
    ((after,),) = scene.database.sql(clock)
    assert scene.found(table) == [], "nothing tells it from a genuine row; the log can only say who and when"
    state = scene.node.state(table)
    with scene.node.db.read() as conn:
        entry = parse_entry(entries.entry_at(conn, state.head.id, state.head.size))
    ((xid,),) = scene.database.sql(f"SELECT xmin::text FROM {table} WHERE id = 4711")
    assert (entry.op, entry.key, str(entry.xid)) == ("insert", b"4711", xid)
    assert entry.row is not None and entry.row.hex() == scene.row_hash(table, 4711)
    assert before <= entry.at <= after
    scene.protected.assert_verified(table)
    scene.assert_bystanders_verified()


def test_with_require_intent_it_is_a_finding_now_and_the_scan_names_it(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect(Rules("append_only", require_intent=True))
    good = scene.verified_at(table)
    scene.dba(f"INSERT INTO {table} VALUES {FORGED}")
    finding = scene.now("change.unapproved", 4711, table)
    assert (finding.recorded, finding.found) == (None, scene.row_hash(table, 4711))
    assert finding.window.last_good == good < (finding.window.first_bad or "")
    assert scene.found(table) == [("change.unapproved", "4711")]
    verified, differences = scene.scan(table)
    assert verified.verdict is Verdict.TAMPERED
    assert {key: (d.cls, d.explained) for key, d in differences.items()} == {"4711": ("row.inserted", True)}
    scene.assert_bystanders_verified()
