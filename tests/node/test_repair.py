"""Every class of finding about rows, undone on a real database: the rows are as recorded, and nothing new is found."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import psycopg
import pytest

from tests.support.postgres import create_database
from tests.support.repairs import Bench, running
from witnz.core.entry import parse_entry
from witnz.core.message import parse_intent
from witnz.core.verdict import Verdict
from witnz.demo.server import PostgresServer
from witnz.errors import FormatError, KeyProblem, UsageError
from witnz.node.findings import REPAIRED
from witnz.node.repair_plan import plan_from_json
from witnz.store import entries, logs
from witnz.verify.store import audit_store

pytestmark = pytest.mark.since(14, "logical messages in the stream, so intents and repairs,")

APPEND, MUTABLE = "append_only", "state_integrity"
TABLES = {
    "updated": APPEND, "deleted": APPEND, "reinserted": APPEND, "truncated": APPEND, "flood": APPEND, "twice": APPEND,
    "reverted": APPEND, "silent": APPEND, "again": APPEND, "whole": APPEND, "toasted": APPEND, "documents": APPEND,
    "planned": APPEND, "settled": APPEND, "prices": MUTABLE, "laundered": MUTABLE,
}  # fmt: skip


@pytest.fixture(scope="module")
def bench(pg_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One node for all tests of this file; each has a table of its own, with rows 1 to 5."""
    database = create_database(pg_server)
    for table in TABLES:
        database.sql(f"CREATE TABLE {table} (id bigint PRIMARY KEY, who text, amount numeric(10,2))")
        database.sql(f"INSERT INTO {table} SELECT g, 'user' || g, g FROM generate_series(1, 5) g")
    database.sql("ALTER TABLE whole REPLICA IDENTITY FULL")
    database.sql("ALTER TABLE laundered REPLICA IDENTITY FULL")
    database.sql("ALTER TABLE toasted ALTER who SET STORAGE EXTERNAL")
    database.sql("UPDATE toasted SET who = repeat('x', 9000) || id")
    tables = [{"name": name, "mode": mode, "retain": "rows", "verify_interval": "0s"} for name, mode in TABLES.items()]
    tables[-1]["on_change"] = "record"
    with running(Bench.start(tmp_path_factory.mktemp("repair"), database, tables)) as bench:
        bench.sql("INSERT INTO updated VALUES (6, 'user6', 6); INSERT INTO updated VALUES (7, 'user7', 7)")
        yield bench
        bench.node.seal_now()
        audit = audit_store(bench.node.db.path)
        assert audit.verdict is Verdict.VERIFIED, [check for check in audit.checks if check.detail]
    database.drop()


# -- what the stream showed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["2", "7"])
def test_an_update_of_a_row_of_the_baseline_or_of_the_stream_is_undone(bench: Bench, key: str) -> None:
    before = bench.texts("updated")
    bench.sql(f"UPDATE updated SET who = 'mallory', amount = 0 WHERE id = {key}")
    result = bench.repair_well(bench.found("violation.update", key, table="updated"))
    assert bench.texts("updated") == before
    assert result.restored == (key,)


def test_a_deleted_row_is_inserted_again(bench: Bench) -> None:
    before = bench.texts("deleted")
    bench.sql("DELETE FROM deleted WHERE id = 3")
    bench.repair_well(bench.found("violation.delete", "3", table="deleted"))
    assert bench.texts("deleted") == before


def test_what_was_put_in_place_of_a_deleted_row_is_undone_and_closes_both_findings(bench: Bench) -> None:
    before = bench.texts("reinserted")
    bench.sql("DELETE FROM reinserted WHERE id = 1")
    bench.sql("INSERT INTO reinserted VALUES (1, 'mallory', 1)")
    deleted = bench.found("violation.delete", "1", table="reinserted")
    inserted = bench.found("violation.reinsert", "1", table="reinserted")
    plan = bench.plan(deleted)
    assert plan.statements == () and "look for a newer finding" in plan.refused[0]
    result = bench.repair_well(inserted)
    assert bench.texts("reinserted") == before
    assert result.closed == (inserted.id, deleted.id)
    assert bench.node.approvals.get(deleted.id).state == "repaired"


def test_a_row_replaced_within_one_transaction_is_undone_by_either_finding(bench: Bench) -> None:
    before = bench.texts("reinserted")
    bench.sql("BEGIN; DELETE FROM reinserted WHERE id = 4; INSERT INTO reinserted VALUES (4, 'mallory', 4); COMMIT")
    result = bench.repair_well(bench.found("violation.delete", "4", table="reinserted"))
    assert bench.texts("reinserted") == before
    assert len(result.closed) == 2


def test_a_row_changed_by_two_transactions_is_undone_once(bench: Bench) -> None:
    before = bench.texts("twice")
    bench.sql("UPDATE twice SET amount = 8 WHERE id = 2")
    first = bench.found("violation.update", "2", table="twice")
    bench.sql("UPDATE twice SET amount = 9 WHERE id = 2")
    bench.protected.caught_up()
    second = next(f for f in bench.open("twice") if f.id != first.id)
    assert bench.plan(first).refused and not bench.plan(first).statements
    assert not bench.repair(first).repaired
    assert bench.journal_bodies("repair")[-1]["result"].startswith("1 row(s) left: key 2: ")
    assert bench.repair_well(second).closed == (second.id, first.id)
    assert bench.texts("twice") == before


def test_a_row_that_was_changed_and_changed_back_needs_no_write_but_a_signature(bench: Bench) -> None:
    bench.sql("UPDATE reverted SET amount = 8 WHERE id = 2")
    bench.sql("UPDATE reverted SET amount = 2 WHERE id = 2")
    bench.protected.caught_up()
    rows, found = bench.rows("reverted"), bench.open("reverted")
    assert len(found) == 2
    plan = bench.plan(found[0])
    assert plan.nothing_left and plan.unchanged == ("2",)
    result = bench.repair_well(found[0])
    assert (result.restored, len(result.closed)) == ((), 2)
    assert bench.rows("reverted") == rows


def test_a_truncated_table_gets_all_its_rows_back(bench: Bench) -> None:
    before = bench.texts("truncated")
    bench.sql("TRUNCATE truncated; INSERT INTO truncated VALUES (2, 'mallory', 2), (3, 'user3', 3)")
    bench.sql("INSERT INTO truncated VALUES (4, 'eve', 4)")
    truncated = bench.found("violation.truncate", None, table="truncated")
    plan = bench.plan(truncated)
    kinds = {statement.key: statement.kind for statement in plan.statements}
    assert kinds == {"1": "insert", "2": "update", "5": "insert"}  # 3 reads as recorded; 4 came with a later transaction
    assert plan.unchanged == ("3",)
    assert len(plan.refused) == 1 and plan.refused[0].startswith("key 4: ")
    result = bench.repair(truncated)
    assert not result.repaired and set(result.restored) == {"1", "2", "5"}
    assert bench.repair(bench.found("violation.reinsert", "4", table="truncated")).repaired
    bench.repair_well(truncated)
    assert bench.texts("truncated") == before


def test_a_flood_is_undone_row_by_row_and_as_a_whole(bench: Bench) -> None:
    before = bench.texts("flood")
    recorder = bench.node.capture.recorder
    usual, recorder.max_findings = recorder.max_findings, 2
    try:
        bench.sql("UPDATE flood SET amount = amount + 1")
        rest = bench.found("violation.update", None, table="flood")
    finally:
        recorder.max_findings = usual
    assert len(bench.plan(rest).statements) == 3
    assert bench.repair(rest).repaired
    assert bench.repair(bench.found("violation.update", "1", table="flood")).repaired
    bench.repair_well(bench.found("violation.update", "2", table="flood"))
    assert bench.texts("flood") == before


def test_unapproved_changes_of_a_mutable_table_are_undone(bench: Bench) -> None:
    before = bench.texts("prices")
    bench.sql(
        "UPDATE prices SET amount = 0 WHERE id = 1; DELETE FROM prices WHERE id = 2; INSERT INTO prices VALUES (9, 'new', 9)"
    )
    for key, kind in (("1", "update"), ("2", "insert"), ("9", "delete")):
        finding = bench.found("change.unapproved", key, table="prices")
        assert [statement.kind for statement in bench.plan(finding).statements] == [kind]
        assert bench.repair(finding).repaired
    assert bench.texts("prices") == before
    assert bench.verify("prices") == "VERIFIED" and bench.open("prices") == []


def test_a_change_of_the_key_is_undone_on_both_sides(bench: Bench) -> None:
    before = bench.texts("prices")
    bench.sql("UPDATE prices SET id = 50 WHERE id = 5")
    for key in ("5", "50"):
        assert bench.repair(bench.found("change.unapproved", key, table="prices")).repaired
    assert bench.texts("prices") == before
    assert bench.verify("prices") == "VERIFIED" and bench.open("prices") == []


# -- what only a scan saw -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["silent", "whole"])
def test_rows_changed_behind_the_stream_are_restored(bench: Bench, table: str) -> None:
    before = bench.texts(table)
    bench.silently(table, who="CASE id WHEN 2 THEN 'mallory' ELSE who END", id="CASE id WHEN 3 THEN 9 ELSE id END")
    bench.protected.caught_up()
    assert bench.open(table) == []
    assert bench.verify(table) == "TAMPERED"
    for cls, key in (("row.modified", "2"), ("row.deleted", "3"), ("row.inserted", "9")):
        assert bench.repair(bench.found(cls, key, table=table)).repaired
        assert not [f for f in bench.open(table) if f.key == key]
    assert bench.texts(table) == before
    assert bench.verify(table) == "VERIFIED" and bench.open(table) == []


def test_an_old_row_that_the_stream_showed_to_be_false_is_restored_where_its_update_was_a_violation(bench: Bench) -> None:
    before = bench.texts("whole")
    bench.silently("whole", who="CASE id WHEN 4 THEN 'mallory' ELSE who END")
    bench.sql("UPDATE whole SET amount = 44 WHERE id = 4")
    old = bench.found("row.modified", "4", table="whole")
    update = bench.found("violation.update", "4", table="whole")
    assert bench.repair_well(update).closed == (update.id, old.id)
    assert bench.texts("whole") == before


def test_a_row_that_an_accepted_update_laundered_is_refused(bench: Bench) -> None:
    bench.silently("laundered", who="CASE id WHEN 4 THEN 'mallory' ELSE who END")
    bench.sql("UPDATE laundered SET amount = 44 WHERE id = 4")
    plan = bench.plan(bench.found("row.modified", "4", table="laundered"))
    assert plan.statements == ()
    assert plan.refused == ("key 4: the row was written again since, and that was accepted; what it held before is not kept",)


def test_a_toasted_value_that_an_update_left_alone_is_written_again_so_that_the_row_has_a_hash(bench: Bench) -> None:
    before = bench.texts("toasted")
    bench.sql("UPDATE toasted SET amount = 0 WHERE id = 2")
    finding = bench.found("violation.update", "2", table="toasted")
    assert finding.found is None
    (statement,) = bench.plan(finding).statements
    assert '"who" = ' in statement.sql and '"amount" = ' in statement.sql
    bench.repair_well(finding)
    assert bench.texts("toasted") == before


# -- what a repair leaves behind ----------------------------------------------------------------------------------------------


def test_the_repair_is_an_entry_under_the_operators_intent_with_the_recorded_hash(bench: Bench) -> None:
    bench.sql("UPDATE documents SET amount = 0 WHERE id = 1")
    finding = bench.found("violation.update", "1", table="documents")
    result = bench.repair_well(finding)
    with bench.node.db.read() as conn:
        row = logs.find_log(conn, "public.documents")
        assert row is not None
        entry = parse_entry(entries.entry_at(conn, row.id, row.size))
    assert (entry.op, entry.key) == ("update", b"1")
    assert entry.row is not None and entry.row.hex() == finding.recorded
    assert entry.by == "alice" and entry.hint == f"repair {finding.id}: restored by the test"
    intent = parse_intent(entry.intent or "")
    assert (intent.key, intent.tables) == ("alice", ("public.documents",))
    assert bench.journal_bodies("repair")[-1] == {
        "finding": finding.id, "target": "public.documents", "sql_sha256": result.sql_sha256, "result": "repaired",
    }  # fmt: skip
    status = bench.node.journal.state.finding_state(finding.id)
    assert status is not None and status.status == "repaired"


def test_the_text_of_a_plan_is_the_same_each_time_and_its_digest_is_what_the_journal_holds(bench: Bench) -> None:
    bench.sql("UPDATE documents SET who = E'a\\n; DROP TABLE x --\\u202e' WHERE id = 2")
    finding = bench.found("violation.update", "2", table="documents")
    plan, again = bench.node.repairs.plan(finding.id), bench.node.repairs.plan(finding.id)
    assert plan.sql == again.sql and plan == again
    assert "-- 1: update key 2\n" in plan.sql
    assert '--    found "who" = a\\n; DROP TABLE x --\\u202e\n' in plan.sql  # one line, nothing that turns the text round
    assert "SET \"who\" = 'user2'::text,\n    \"amount\" = '2.00'::numeric(10,2)\nWHERE \"id\" = '2'::bigint;\n" in plan.sql
    assert "THIS TEXT HOLDS ROW VALUES" in plan.sql
    assert "user2" not in repr(plan)
    result = bench.repair_well(finding)
    assert result.sql_sha256 == hashlib.sha256(plan.sql.encode()).hexdigest()
    assert "user2" not in str(result.to_json()) + repr(result)


def test_the_text_for_review_is_sql_that_restores_the_rows(bench: Bench) -> None:
    before = bench.texts("documents")
    bench.sql("UPDATE documents SET who = 'mallory' WHERE id IN (3, 4)")
    third, fourth = (bench.found("violation.update", key, table="documents") for key in ("3", "4"))
    with psycopg.connect(bench.database.owner_dsn, autocommit=True) as conn:
        for finding in (third, fourth):
            conn.execute(bench.plan(finding).sql.encode())
    assert bench.texts("documents") == before
    bench.protected.caught_up()
    assert len(bench.open("documents")) == 4  # by hand it is a violation itself, as the text says
    for finding in bench.open("documents"):
        if bench.node.approvals.get(finding.id).state == "open":
            assert bench.repair(finding).repaired
    assert bench.open("documents") == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda plan: plan | {"extra": 1},
        lambda plan: plan | {"schema": "witnz.repair-plan/2"},
        lambda plan: plan | {"sql": plan["sql"].replace("user5", "mallory")},
        lambda plan: plan | {"statements": [plan["statements"][0] | {"kind": "drop"}]},
        lambda plan: plan | {"statements": [plan["statements"][0] | {"before": "?"}]},
        lambda plan: plan | {"statements": [plan["statements"][0] | {"sql": "DROP TABLE planned"}]},
        lambda plan: plan | {"signers": {"alice": 1}},
        lambda plan: plan | {"generation": "1"},
        lambda plan: [plan],
    ],
)
def test_a_plan_document_that_is_not_one_is_refused(bench: Bench, spoil: object) -> None:
    finding = next(iter(bench.open("planned")), None)
    if finding is None:
        bench.sql("UPDATE planned SET who = 'mallory' WHERE id = 5")
        finding = bench.found("violation.update", "5", table="planned")
    document = bench.node.repairs.plan(finding.id).to_json()
    assert plan_from_json(document).to_json() == document
    with pytest.raises(FormatError, match="repair plan"):
        plan_from_json(spoil(document))  # type: ignore[operator]


# -- settling -----------------------------------------------------------------------------------------------------------------


def test_a_finding_is_settled_only_by_an_intent_for_it(bench: Bench) -> None:
    bench.sql("UPDATE settled SET amount = 0 WHERE id IN (1, 2)")
    one, two = (bench.found("violation.update", key, table="settled") for key in ("1", "2"))
    plan = bench.plan(one)
    applied = bench.apply(plan)
    assert applied.restored == ("1",) and applied.xid > 0
    with pytest.raises(KeyProblem, match="not for the repair of"):
        bench.node.repairs.settle(two.id, applied, plan.sql_sha256)
    forged = type(applied)(applied.intent.replace("restored", "forgot"), applied.xid, (), (), ())
    with pytest.raises(KeyProblem, match="not signed by a key in force"):
        bench.node.repairs.settle(one.id, forged, plan.sql_sha256)
    assert {f.id for f in bench.open("settled")} == {one.id, two.id}
    assert bench.node.repairs.settle(one.id, applied, plan.sql_sha256).closed == (one.id,)
    with pytest.raises(UsageError, match="is repaired already"):
        bench.node.repairs.settle(one.id, applied, plan.sql_sha256)
    bench.repair_well(two)


def test_what_a_crash_left_between_journal_and_store_is_completed_at_the_next_start(bench: Bench) -> None:
    bench.sql("UPDATE settled SET amount = 0 WHERE id = 3")
    finding = bench.found("violation.update", "3", table="settled")
    result = bench.repair_well(finding)
    with bench.node.db.write() as conn:
        conn.execute(
            "UPDATE findings SET state = 'open', doc = replace(doc, '\"repaired\"', '\"open\"') WHERE id = ?", [finding.id]
        )
    assert [f.id for f in bench.open("settled")] == [finding.id]
    bench.node.repairs.resume()
    assert bench.open("settled") == []
    assert bench.node.approvals.get(finding.id).state == REPAIRED
    assert result.finding.id == finding.id


def test_the_same_thing_again_after_a_repair_is_a_new_finding(bench: Bench) -> None:
    bench.silently("again", amount="CASE id WHEN 4 THEN 0 ELSE amount END")
    assert bench.verify("again") == "TAMPERED"
    first = bench.found("row.modified", "4", table="again")
    bench.repair_well(first)
    bench.silently("again", amount="CASE id WHEN 4 THEN 0 ELSE amount END")
    assert bench.verify("again") == "TAMPERED"
    second = bench.found("row.modified", "4", table="again")
    assert second.id != first.id
    bench.repair_well(second)
