"""A09: NULL becomes a text that looks like it, bytes become their own hex text, while the publication leaves the table out."""

from __future__ import annotations

from witnz.core.verdict import Verdict

TABLE = "public.documents"
COLUMNS = "id bigint PRIMARY KEY, note text, body text, digest bytea"
ROWS = (
    "SELECT g, NULL, 'body ' || g, decode('00ff', 'hex') || convert_to(g::text, 'UTF8') FROM generate_series({first}, {last}) g"
)
CHANGES = {
    1: r"note = '\N'",
    2: "note = '<nil>'",
    3: "note = ''",
    4: "note = 'NULL'",
    5: r"digest = convert_to('\x' || encode(digest, 'hex'), 'UTF8')",
    6: "digest = convert_to(encode(digest, 'hex'), 'UTF8')",
    7: r"body = body || '\t'",
    8: "body = body || chr(9)",
    9: "body = NULL",
    11: "note = ' '",
}


def test_each_look_alike_is_another_row_and_the_scan_names_it(own_scene) -> None:  # type: ignore[no-untyped-def]
    scene = own_scene({"name": TABLE, "mode": "append_only"}, columns=COLUMNS, rows=ROWS)
    good = scene.verified_at(TABLE)
    recorded = {key: scene.row_hash(TABLE, key) for key in CHANGES}
    publication = scene.protected.config.publication
    scene.dba(
        f"ALTER PUBLICATION {publication} DROP TABLE {TABLE}",
        *(f"UPDATE {TABLE} SET {change} WHERE id = {key}" for key, change in CHANGES.items()),
        f"ALTER PUBLICATION {publication} ADD TABLE {TABLE}",
    )
    found = {key: scene.row_hash(TABLE, key) for key in CHANGES}
    assert all(found[key] != recorded[key] for key in CHANGES)
    scene.protected.caught_up()
    assert not [f for f in scene.protected.findings(TABLE) if f.cls.startswith("violation.")], (
        "the stream must not have seen it"
    )

    assert scene.differences_of(TABLE) == {str(key): ("row.modified", False) for key in CHANGES}
    for key in CHANGES:
        finding = scene.now("row.modified", key, TABLE)
        assert (finding.recorded, finding.found) == (recorded[key], found[key])
        assert finding.explained_by is None
        assert finding.window.last_good == good < (finding.window.first_bad or "")
    scene.assert_bystanders_verified()


def test_text_to_a_column_of_the_same_text_is_no_change(own_scene) -> None:  # type: ignore[no-untyped-def]
    """No false alarm: rewritten in place with equal values while nobody looked, the rows are as recorded."""
    scene = own_scene({"name": TABLE, "mode": "append_only"}, columns=COLUMNS, rows=ROWS)
    publication = scene.protected.config.publication
    scene.dba(
        f"ALTER PUBLICATION {publication} DROP TABLE {TABLE}",
        f"UPDATE {TABLE} SET note = note, body = body || '', digest = decode(encode(digest, 'hex'), 'hex')",
        f"ALTER PUBLICATION {publication} ADD TABLE {TABLE}",
    )
    verified, differences = scene.scan(TABLE)
    assert differences == {} and verified.result.verdict is Verdict.VERIFIED
    scene.assert_bystanders_verified()
