"""B12: rules and triggers that send an honest write elsewhere, or drop it."""

from __future__ import annotations

import pytest

from witnz.core.verdict import Verdict

SWALLOW = "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"


REDIRECTIONS = {
    "rule to another table": (
        "CREATE TABLE {table}_else (LIKE {table})",
        "ALTER TABLE {table}_else OWNER TO app_owner",
        "CREATE RULE away AS ON INSERT TO {table} DO INSTEAD INSERT INTO {table}_else VALUES (NEW.*)",
    ),
    "rule that drops": ("CREATE RULE away AS ON INSERT TO {table} DO INSTEAD NOTHING",),
    "trigger that drops": (
        SWALLOW.format(name="{table}_away"),
        "CREATE TRIGGER away BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {table}_away()",
    ),
}


@pytest.mark.parametrize("statements", REDIRECTIONS.values(), ids=REDIRECTIONS)
def test_what_redirects_writes_is_a_finding_at_once(scene, statements: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    good = scene.verified_at(table)
    scene.now_watched()
    scene.dba_at_once(*(statement.format(table=table) for statement in statements))
    finding = scene.now("visibility.changed", None, table)
    assert "away was added" in finding.detail and finding.window.last_good == good
    scene.database.sql(f"INSERT INTO {table} VALUES (100, 'lost', 1, NULL, '2026-01-01')", user="postgres")
    scene.protected.caught_up()
    verified, differences = scene.scan(table)
    assert verified.verdict is Verdict.INCONCLUSIVE and differences == {}, "whether writes arrive is not known"
    assert any("away was added" in reason for reason in verified.not_checked)
    scene.protected.approve(finding)
    scene.protected.assert_verified(table)
    scene.assert_bystanders_verified()


def test_a_trigger_function_replaced_behind_an_old_trigger_is_a_finding(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    name = f"{table}_stamp"
    scene.now_watched()
    scene.dba_at_once(
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        f"CREATE TRIGGER stamp BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()",
    )
    scene.protected.approve(scene.now("visibility.changed", None, table))
    scene.now_watched()
    assert scene.found(table) == []
    scene.dba(f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    assert "trigger stamp was altered" in scene.now("visibility.changed", None, table).detail
    scene.assert_bystanders_verified()


def test_an_output_function_that_prints_something_else_is_a_finding(scene) -> None:  # type: ignore[no-untyped-def]
    """A superuser gives a type of the table another output function: what a scan reads is what it prints."""
    kind = f"mood_{scene.node.journal.size}"
    scene.dba(f"CREATE TYPE {kind} AS ENUM ('calm', 'angry')")
    rows = "SELECT g, 'calm'::" + kind + " FROM generate_series({first}, {last}) g"
    table = scene.protect("append_only", columns=f"id bigint PRIMARY KEY, mood {kind}", rows=rows)
    scene.now_watched()
    scene.dba_at_once(
        "SET LOCAL allow_system_table_mods = on",
        f"UPDATE pg_type SET typoutput = 'oidout'::regproc WHERE oid = '{kind}'::regtype",
    )
    try:
        finding = scene.now("visibility.changed", None, table)
        assert "output function" in finding.detail and kind in finding.detail
    finally:
        scene.dba_at_once(
            "SET LOCAL allow_system_table_mods = on",
            f"UPDATE pg_type SET typoutput = 'enum_out'::regproc WHERE oid = '{kind}'::regtype",
        )
    scene.assert_bystanders_verified()


def test_after_triggers_and_rules_that_go_away_raise_nothing(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    scene.now_watched()
    scene.dba_at_once(
        SWALLOW.format(name=f"{table}_after"),
        f"CREATE TRIGGER audit AFTER INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION {table}_after()",
    )
    scene.now_watched()
    scene.dba(f"DROP TRIGGER audit ON {table}")
    scene.now_watched()
    assert scene.found(table) == []
    scene.protected.assert_verified(table)
