"""A07: UPDATE, DELETE and INSERT while no node runs; the slot kept what happened."""

from __future__ import annotations

from witnz.core.verdict import Verdict

LEDGER, PRICES = "public.ledger", "public.prices"


def test_what_happened_while_the_node_was_down_is_replayed_at_the_start(own_scene) -> None:  # type: ignore[no-untyped-def]
    scene = own_scene({"name": LEDGER, "mode": "append_only"}, {"name": PRICES, "mode": "state_integrity"})
    good = scene.verified_at(LEDGER)
    recorded = {key: scene.row_hash(LEDGER, key) for key in (1, 2, 3)}
    scene.stop()
    scene.dba(
        f"UPDATE {LEDGER} SET amount = 0 WHERE id = 1",
        f"DELETE FROM {LEDGER} WHERE id = 2",
        f"DELETE FROM {LEDGER} WHERE id = 3",
        f"INSERT INTO {LEDGER} VALUES (3, 'user3', 0, NULL, '2026-01-01')",
        f"INSERT INTO {LEDGER} VALUES (16, 'user16', 1, NULL, '2026-01-02')",
        f"INSERT INTO {PRICES} VALUES (77, 'mallory', 0.01, NULL, '2026-01-01')",
    )
    scene.resume()

    update = scene.now("violation.update", 1, LEDGER)
    assert (update.recorded, update.found) == (recorded[1], scene.row_hash(LEDGER, 1))
    assert update.window.last_good == good < (update.window.first_bad or "") < update.detected_at
    assert scene.now("violation.delete", 2, LEDGER).recorded == recorded[2]
    assert scene.now("violation.reinsert", 3, LEDGER).recorded == recorded[3]
    inserted = scene.now("change.unapproved", 77, PRICES)
    assert (inserted.recorded, inserted.found) == (None, scene.row_hash(PRICES, 77))
    assert scene.found(LEDGER) == [
        ("violation.delete", "2"),
        ("violation.delete", "3"),
        ("violation.reinsert", "3"),
        ("violation.update", "1"),
    ], "the insert under a new key is what the mode allows"
    assert scene.found(PRICES) == [("change.unapproved", "77")]
    assert scene.found(None) == [], "the slot kept everything: there is no gap"

    verified, differences = scene.scan(LEDGER)
    assert verified.verdict is Verdict.TAMPERED
    assert {key: (d.cls, d.explained) for key, d in differences.items()} == {
        "1": ("row.modified", True),
        "2": ("row.deleted", True),
        "3": ("row.modified", True),
    }
    verified, differences = scene.scan(PRICES)
    assert verified.verdict is Verdict.TAMPERED
    assert {key: (d.cls, d.explained) for key, d in differences.items()} == {"77": ("row.inserted", True)}
    scene.assert_bystanders_verified()
