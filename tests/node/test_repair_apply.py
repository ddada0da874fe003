"""A repair that cannot be made exactly as planned changes nothing: whoever else writes, whatever the database does with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from tests.support.node import wait
from tests.support.postgres import create_database
from tests.support.repairs import Bench, new_signer, running
from witnz.core.finding import Finding
from witnz.demo.server import PostgresServer
from witnz.ending import end_threads
from witnz.errors import DatabaseUnreachable, FormatError, Inconclusive, KeyProblem, UsageError, WitnzError
from witnz.node.repair import Repairs
from witnz.node.repair_apply import applied_from_json, apply_plan
from witnz.node.repair_rows import REPAIRABLE
from witnz.postgres.session import Conninfo

pytestmark = pytest.mark.since(14, "logical messages in the stream, so intents and repairs,")

NAMES = [
    "changed", "keys", "rights", "corrected", "audited", "parent", "busy", "replaced", "checked", "constrained", "filtered",
    "lost", "unanswered", "hijacked", "huge", "doubled", "early",
]  # fmt: skip


@pytest.fixture(scope="module")
def bench(pg_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    database = create_database(pg_server)
    for name in NAMES:
        database.sql(f"CREATE TABLE {name} (id int PRIMARY KEY, who text, amount int)")
        database.sql(f"INSERT INTO {name} SELECT g, 'user' || g, g FROM generate_series(1, 4) g")
    database.sql("ALTER TABLE hijacked DROP CONSTRAINT hijacked_pkey, ALTER id TYPE varchar(5), ADD PRIMARY KEY (id)")
    tables = [{"name": name, "mode": "append_only", "retain": "rows", "verify_interval": "0s"} for name in NAMES]
    with running(Bench.start(tmp_path_factory.mktemp("apply"), database, tables)) as bench:
        yield bench
    database.drop()


def tampered(bench: Bench, table: str, key: int = 2) -> Finding:
    """A finding about one row that somebody updated."""
    bench.sql(f"UPDATE {table} SET who = 'mallory' WHERE id::text = '{key}'")
    return bench.found("violation.update", str(key), table=table)


def assert_untouched(
    bench: Bench, table: str, finding: Finding, attempt: Callable[[], object], error: type[WitnzError]
) -> WitnzError:
    """The attempt raises, every row version stands where it stood, the finding is open, and nothing new was found of rows."""

    def about_rows() -> list[str]:
        bench.protected.caught_up()
        return [f.id for f in bench.open(table) if f.cls in REPAIRABLE]

    rows, found = bench.rows(table), about_rows()
    with pytest.raises(error) as raised:
        attempt()
    assert bench.rows(table) == rows
    assert about_rows() == found and finding.id in found
    return raised.value


# -- the row changed meanwhile ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "meanwhile"),
    [
        (1, "UPDATE changed SET amount = 99 WHERE id = 1"),
        (2, "DELETE FROM changed WHERE id = 2"),
        (3, "UPDATE changed SET id = 103 WHERE id = 3"),
    ],
)
def test_a_row_that_changed_after_the_plan_is_left_alone_and_said(bench: Bench, key: int, meanwhile: str) -> None:
    finding = tampered(bench, "changed", key)
    plan = bench.plan(finding)
    bench.sql(meanwhile)
    rows = bench.rows("changed")
    applied = bench.apply(plan)
    assert (applied.restored, applied.xid) == ((), 0)
    assert applied.skipped == (f"key {key}: the row changed after the plan was made",)
    assert bench.rows("changed") == rows
    result = bench.node.repairs.settle(finding.id, applied, plan.sql_sha256)
    assert not result.repaired and result.left[0] == applied.skipped[0]
    assert result.finding.state == "open"


def test_a_row_that_was_put_in_an_absent_ones_place_after_the_plan_is_left_alone(bench: Bench) -> None:
    bench.sql("DELETE FROM changed WHERE id = 4")
    plan = bench.plan(bench.found("violation.delete", "4", table="changed"))
    bench.sql("INSERT INTO changed VALUES (4, 'mallory', 0)")
    assert bench.apply(plan).skipped == ("key 4: the row changed after the plan was made",)
    assert "(4,mallory,0)" in bench.texts("changed")


def test_a_row_that_somebody_is_writing_is_waited_for_and_then_left_alone(bench: Bench) -> None:
    finding = tampered(bench, "busy", 1)
    plan = bench.plan(finding)
    applied: list[Any] = []
    with psycopg.connect(bench.database.owner_dsn) as other:
        other.execute("UPDATE busy SET amount = 77 WHERE id = 1")
        thread = threading.Thread(target=lambda: applied.append(bench.apply(plan)))
        thread.start()
        waiting = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'witnz repair' AND wait_event_type = 'Lock'"
        wait(lambda: bench.sql(waiting), "the repair to wait for the row")
        other.commit()
        end_threads(thread)
    assert applied[0].skipped == ("key 1: the row changed after the plan was made",)
    assert "(1,mallory,77)" in bench.texts("busy")


def test_a_row_that_stays_locked_is_given_up(bench: Bench) -> None:
    finding = tampered(bench, "busy", 2)
    with psycopg.connect(bench.database.owner_dsn) as other:
        other.execute("SELECT 1 FROM busy WHERE id = 2 FOR UPDATE")
        error = assert_untouched(bench, "busy", finding, lambda: bench.repair(finding), Inconclusive)
    assert "nothing was written" in error.message
    bench.repair(finding)
    assert "(2,user2,2)" in bench.texts("busy")


# -- who may ------------------------------------------------------------------------------------------------------------------


def test_a_key_that_is_not_in_force_writes_nothing(bench: Bench) -> None:
    finding = tampered(bench, "keys")
    repairs, stranger = bench.node.repairs, new_signer("operator/alice")
    for name, signer in (("alice", stranger), ("mallory", stranger), ("mallory", bench.signer), ("", bench.signer)):
        error = assert_untouched(
            bench, "keys", finding, lambda n=name, s=signer: repairs.apply(finding.id, bench.admin, n, s, "because"), KeyProblem
        )
        assert "may not sign repairs" in error.message and error.exit_code == 12
    bench.repair_well(finding)


def test_an_intent_key_in_force_may_repair_and_one_that_was_removed_may_not(bench: Bench) -> None:
    finding, signer = tampered(bench, "keys", 3), new_signer("intent/clerk")
    bench.add_key("intent", "clerk", signer.public)
    plan = bench.node.repairs.plan(finding.id)
    assert plan.signers["clerk"] == signer.public
    bench.remove_key("intent", "clerk", signer.public)
    attempt = lambda: bench.node.repairs.apply(finding.id, bench.admin, "clerk", signer, "because")  # noqa: E731
    assert_untouched(bench, "keys", finding, attempt, KeyProblem)
    bench.add_key("intent", "clerk2", signer.public)
    assert bench.node.repairs.apply(finding.id, bench.admin, "clerk2", signer, "because").repaired
    assert bench.open("keys") == []


def test_a_key_that_was_removed_after_the_plan_is_found_out_when_the_node_settles(bench: Bench) -> None:
    finding, signer = tampered(bench, "keys", 4), new_signer("intent/late")
    bench.add_key("intent", "late", signer.public)
    plan = bench.plan(finding)
    bench.remove_key("intent", "late", signer.public)
    applied = apply_plan(plan, bench.admin, operator="late", signer=signer, reason="because")
    with pytest.raises(KeyProblem, match="not signed by a key in force"):
        bench.node.repairs.settle(finding.id, applied, plan.sql_sha256)
    bench.protected.caught_up()
    found = {f.id: f for f in bench.open("keys")}
    assert finding.id in found and len(found) == 2  # the write itself is a violation, and an operator has to look at it
    settled = bench.repair(finding)
    assert settled.repaired and settled.verified is not None and settled.verified.verdict.value == "VERIFIED"
    assert len(settled.closed) == 2


def test_a_repair_whose_intent_does_not_count_closes_nothing(bench: Bench) -> None:
    """The key is in the journal, but from a position on that the stream has not reached."""
    finding, signer = tampered(bench, "early"), new_signer("intent/early")
    bench.add_key("intent", "early", signer.public, from_lsn="FFFF/0")
    result = bench.node.repairs.apply(finding.id, bench.admin, "early", signer, "because")
    assert not result.repaired and result.closed == () and result.restored == ("2",)
    (own,) = (f for f in bench.open("early") if f.id != finding.id)
    assert result.left == (f"finding {own.id} is about the repair itself: its intent did not count",)
    assert result.verified is not None and result.verified.verdict.value == "TAMPERED"
    assert set(bench.repair_well(finding).closed) == {finding.id, own.id}


@pytest.mark.parametrize("reason", ["", "  ", "x" * 5000])
def test_a_reason_is_asked_for(bench: Bench, reason: str) -> None:
    finding = next((f for f in bench.open("checked") if f.key == "1"), None) or tampered(bench, "checked", 1)
    plan = bench.plan(finding)
    attempt = lambda: apply_plan(plan, bench.admin, operator=bench.name, signer=bench.signer, reason=reason)  # noqa: E731
    assert_untouched(bench, "checked", finding, attempt, UsageError)


def test_a_role_that_may_not_write_is_told_what_it_needs(bench: Bench) -> None:
    finding = tampered(bench, "rights")
    reader = Conninfo.from_conninfo(bench.database.witnz_dsn)
    attempt = lambda: bench.node.repairs.apply(finding.id, reader, bench.name, bench.signer, "because")  # noqa: E731
    error = assert_untouched(bench, "rights", finding, attempt, KeyProblem)
    assert "SELECT, INSERT, UPDATE and DELETE" in error.hint


def test_a_role_whose_rows_are_filtered_gets_an_error_instead_of_a_wrong_picture(bench: Bench) -> None:
    finding = tampered(bench, "filtered")
    plan = bench.plan(finding)
    bench.sql("ALTER TABLE filtered ENABLE ROW LEVEL SECURITY; ALTER TABLE filtered FORCE ROW LEVEL SECURITY")
    try:
        error = assert_untouched(bench, "filtered", finding, lambda: bench.apply(plan), KeyProblem)
    finally:
        bench.sql("ALTER TABLE filtered NO FORCE ROW LEVEL SECURITY; ALTER TABLE filtered DISABLE ROW LEVEL SECURITY")
    assert "row-level security" in error.message


def test_a_server_that_sends_no_messages_is_not_written_to(bench: Bench) -> None:
    """PostgreSQL 13 sends none; no such server runs here, so this one is taken for too old."""
    finding = tampered(bench, "rights", 4)
    plan = bench.plan(finding)
    attempt = lambda: bench.apply(plan, messages_since=990000)  # noqa: E731
    error = assert_untouched(bench, "rights", finding, attempt, UsageError)
    assert "sends no logical messages" in error.message and "approve" in error.hint


@pytest.mark.parametrize("limit", ["max_rows", "max_plan_bytes"])
def test_more_rows_than_one_repair_takes_are_refused_beforehand(bench: Bench, limit: str) -> None:
    found = [f for f in bench.open("huge") if f.cls == "violation.truncate"]
    if not found:
        bench.sql("TRUNCATE huge")
        found = [bench.found("violation.truncate", None, table="huge")]
    assert len(bench.plan(found[0]).statements) == 4
    repairs = Repairs(bench.node.repairs.parts, **{limit: 3})
    attempt = lambda: repairs.apply(found[0].id, bench.admin, bench.name, bench.signer, "because")  # noqa: E731
    error = assert_untouched(bench, "huge", found[0], attempt, UsageError)
    assert "than one repair takes" in error.message and "backup" in error.hint


def test_a_server_that_cannot_be_reached(bench: Bench) -> None:
    finding = tampered(bench, "rights", 3)
    nowhere = replace(bench.admin, port=1)
    attempt = lambda: bench.node.repairs.apply(finding.id, nowhere, bench.name, bench.signer, "because")  # noqa: E731
    assert_untouched(bench, "rights", finding, attempt, DatabaseUnreachable)


# -- what the database does with it -------------------------------------------------------------------------------------------


def test_a_trigger_that_corrects_what_is_written_undoes_the_repair(bench: Bench) -> None:
    finding = tampered(bench, "corrected")
    bench.sql(
        "CREATE FUNCTION correct() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.amount = NEW.amount + 1; RETURN NEW; END $$;"
        "CREATE TRIGGER correct BEFORE UPDATE ON corrected FOR EACH ROW EXECUTE FUNCTION correct()"
    )
    error = assert_untouched(bench, "corrected", finding, lambda: bench.repair(finding), WitnzError)
    assert error.code == "repair.failed" and "does not read as recorded" in error.message and "trigger" in error.hint
    bench.sql("ALTER TABLE corrected DISABLE TRIGGER correct")
    bench.repair_well(finding)


def test_a_trigger_that_changes_the_row_at_the_end_is_noticed_too(bench: Bench) -> None:
    finding = tampered(bench, "corrected", 3)
    bench.sql(
        "CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN UPDATE public.corrected SET amount = 5 WHERE id = NEW.id AND amount <> 5; RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER later AFTER UPDATE ON corrected DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION later()"
    )
    error = assert_untouched(bench, "corrected", finding, lambda: bench.repair(finding), WitnzError)
    assert "does not read as recorded" in error.message
    bench.sql("DROP TRIGGER later ON corrected")
    bench.repair_well(finding)


def test_a_trigger_that_swallows_the_write_undoes_the_repair(bench: Bench) -> None:
    finding = tampered(bench, "corrected", 4)
    bench.sql(
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
        "CREATE TRIGGER swallow BEFORE UPDATE ON corrected FOR EACH ROW EXECUTE FUNCTION swallow()"
    )
    error = assert_untouched(bench, "corrected", finding, lambda: bench.repair(finding), WitnzError)
    assert "wrote 0 rows instead of one" in error.message
    bench.sql("DROP TRIGGER swallow ON corrected")
    bench.repair_well(finding)


def test_a_trigger_that_writes_another_row_of_the_table_undoes_the_repair(bench: Bench) -> None:
    finding = tampered(bench, "doubled")
    bench.sql(
        "CREATE FUNCTION double() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO doubled VALUES (NEW.id + 100, 'copy', 0); RETURN NULL; END $$;"
        "CREATE TRIGGER double AFTER UPDATE ON doubled FOR EACH ROW EXECUTE FUNCTION double()"
    )
    error = assert_untouched(bench, "doubled", finding, lambda: bench.repair(finding), WitnzError)
    assert "does not count exactly the repaired rows" in error.message


def test_a_trigger_that_keeps_an_audit_trail_is_no_obstacle_and_said(bench: Bench) -> None:
    finding = tampered(bench, "audited")
    bench.sql(
        "CREATE TABLE trail (what text); CREATE FUNCTION trail() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO trail VALUES (TG_OP); RETURN NULL; END $$;"
        "CREATE TRIGGER trail AFTER UPDATE ON audited FOR EACH ROW EXECUTE FUNCTION trail()"
    )
    assert bench.repair_well(finding).notes == ("a trigger inserted 1 row(s) into public.trail",)
    assert bench.texts("trail") == ["(UPDATE)"]


def test_no_operator_of_another_schema_takes_the_place_of_a_system_one(bench: Bench) -> None:
    bench.sql(
        "CREATE FUNCTION evil(varchar, varchar) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'hijacked'; END $$;"
        "CREATE OPERATOR = (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = evil)"
    )
    finding = tampered(bench, "hijacked")
    (statement,) = bench.plan(finding).statements
    assert 'WHERE "id" OPERATOR(pg_catalog.=) ' in statement.sql
    try:
        bench.repair_well(finding)
    finally:
        bench.sql("DROP OPERATOR = (varchar, varchar)")


def test_a_cascade_into_another_table_undoes_the_repair(bench: Bench) -> None:
    bench.sql("CREATE TABLE child (parent int REFERENCES parent ON DELETE CASCADE, note text)")
    bench.silently("parent", id="CASE id WHEN 4 THEN 9 ELSE id END")
    bench.sql("INSERT INTO child VALUES (9, 'belongs to the ghost')")
    assert bench.verify("parent") == "TAMPERED"
    finding = bench.found("row.inserted", "9", table="parent")
    error = assert_untouched(bench, "parent", finding, lambda: bench.repair(finding), WitnzError)
    assert "would also have changed 1 row(s) of public.child" in error.message
    assert bench.texts("child") == ['(9,"belongs to the ghost")']


def test_a_constraint_that_refuses_the_row_undoes_the_repair_and_no_value_shows(bench: Bench) -> None:
    finding = tampered(bench, "constrained")
    bench.sql("ALTER TABLE constrained ADD CHECK (who <> 'user2')")
    error = assert_untouched(bench, "constrained", finding, lambda: bench.repair(finding), WitnzError)
    assert error.code == "repair.failed" and "constrained_who_check" in error.message
    assert "user2" not in error.message + error.hint + repr(error.__cause__)


def test_one_refused_row_undoes_the_others(bench: Bench) -> None:
    bench.sql("TRUNCATE lost; ALTER TABLE lost ADD CHECK (id < 4)")
    finding = bench.found("violation.truncate", None, table="lost")
    assert len(bench.plan(finding).statements) == 4
    assert_untouched(bench, "lost", finding, lambda: bench.repair(finding), WitnzError)
    assert bench.rows("lost") == []


def test_another_relation_under_the_name_is_not_written_to(bench: Bench) -> None:
    finding = tampered(bench, "replaced")
    plan = bench.plan(finding)
    bench.sql("ALTER TABLE replaced RENAME TO original; CREATE TABLE replaced (LIKE original INCLUDING ALL)")
    bench.sql("INSERT INTO replaced SELECT * FROM original")
    try:
        with pytest.raises(Inconclusive, match="not the relation that the plan was made for"):
            bench.apply(plan)
        assert "(2,mallory,2)" in bench.texts("replaced")
        with pytest.raises(Inconclusive, match="not the recorded relation any more"):
            bench.plan(finding)
    finally:
        bench.sql("DROP TABLE replaced; ALTER TABLE original RENAME TO replaced")


# -- what became of it --------------------------------------------------------------------------------------------------------


def test_what_was_applied_travels_as_a_document(bench: Bench) -> None:
    finding = tampered(bench, "checked", 2)
    plan = bench.plan(finding)
    applied = bench.apply(plan)
    document = applied.to_json()
    assert applied_from_json(document) == applied
    for spoilt in ({**document, "xid": 7}, {**document, "more": 1}, {**document, "restored": [1]}, {"intent": ""}, None):
        with pytest.raises(FormatError, match="applied repair"):
            applied_from_json(spoilt)
    assert bench.node.repairs.settle(finding.id, applied_from_json(document), plan.sql_sha256).repaired


def test_a_connection_that_breaks_before_commit_leaves_nothing(bench: Bench) -> None:
    finding = tampered(bench, "unanswered")
    bench.sql(
        "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$;"
        "CREATE TRIGGER die BEFORE UPDATE ON unanswered FOR EACH ROW EXECUTE FUNCTION die()"
    )
    assert_untouched(bench, "unanswered", finding, lambda: bench.repair(finding), DatabaseUnreachable)
    bench.sql("DROP TRIGGER die ON unanswered")
    bench.repair_well(finding)


def test_a_commit_whose_answer_was_lost_is_asked_about(own_server: Callable[..., PostgresServer], tmp_path: Any) -> None:
    """The backend is ended while it waits for a standby: the transaction is committed, and the client is not told."""
    server = own_server()
    database = create_database(server)
    database.sql("CREATE TABLE t (id int PRIMARY KEY, who text); INSERT INTO t VALUES (1, 'a')")
    with running(Bench.start(tmp_path, database, [{"name": "t", "mode": "append_only", "retain": "rows"}])) as bench:
        finding = tampered(bench, "t", 1)
        plan = bench.plan(finding)
        for statement in (
            "ALTER ROLE witnz SET synchronous_commit = local",
            "ALTER SYSTEM SET synchronous_standby_names = 'nobody'",
        ):
            server.sql(statement)
        server.sql("SELECT pg_reload_conf()")
        applied: list[Any] = []
        thread = threading.Thread(target=lambda: applied.append(bench.apply(plan)))
        thread.start()
        query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'witnz repair' AND wait_event = 'SyncRep'"
        ((pid,),) = wait(lambda: server.sql(query), "the commit to wait for a standby")
        server.sql(f"SELECT pg_terminate_backend({pid})")
        end_threads(thread)
        assert applied and applied[0].restored == ("1",)
        server.sql("ALTER SYSTEM RESET synchronous_standby_names")
        server.sql("SELECT pg_reload_conf()")
        assert bench.node.repairs.settle(finding.id, applied[0], plan.sql_sha256).repaired
