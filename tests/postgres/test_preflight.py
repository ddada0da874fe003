"""witnz.postgres.preflight: each obstacle on a real server, as the unprivileged role meets it, and its remedy tried out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from tests.support.postgres import Database, create_database
from witnz.demo.server import PostgresServer
from witnz.ending import end_threads
from witnz.errors import ConfigError, DatabaseUnreachable, KeyProblem, ReplicationImpossible, UsageError
from witnz.postgres import publication, server_checks
from witnz.postgres.eligibility import Problem, raise_fatal, require_table, table_problems
from witnz.postgres.exercise import exercise_stream
from witnz.postgres.preflight import DoctorCheck, WatchedTable, doctor
from witnz.postgres.publication import publication_names
from witnz.postgres.session import Conninfo, connect


def watcher(database: Database) -> psycopg.Connection[Any]:
    connection = connect(Conninfo.from_conninfo(database.witnz_dsn))
    database._open.append(connection)
    return connection


def problems(database: Database, name: str = "t", schema: str = "public", **keywords: Any) -> list[Problem]:
    connection = watcher(database)
    keywords.setdefault("mode", "state_integrity")
    return table_problems(connection, require_table(connection, schema, name), **keywords)


def codes(found: list[Problem]) -> list[tuple[str, bool]]:
    return [(problem.code, problem.fatal) for problem in found]


@pytest.fixture
def own_database(own_server: Callable[..., PostgresServer]) -> Iterator[Callable[..., Database]]:
    """``own_database(settings=…)``: a database on a server for this test alone; the server is thrown away with it."""
    made: list[Database] = []

    def make(**keywords: Any) -> Database:
        made.append(create_database(own_server(**keywords)))
        return made[-1]

    yield make
    for database in made:
        for connection in database._open:
            connection.close()


# -- one table ----


def test_a_plain_table_has_no_problem_and_other_modes_neither(every_database: Database) -> None:
    every_database.sql("CREATE TABLE t (id int PRIMARY KEY, note varchar(20), g int GENERATED ALWAYS AS (id + 1) STORED)")
    assert problems(every_database) == []
    assert problems(every_database, mode="append_only") == []
    assert problems(every_database, inserts_only=True) == []


REFUSED = {
    "CREATE VIEW t AS SELECT 1 AS id": ("table.kind", "public.t is a view, not a table"),
    "CREATE MATERIALIZED VIEW t AS SELECT 1 AS id": ("table.kind", "public.t is a materialized view, not a table"),
    "CREATE SEQUENCE t": ("table.kind", "public.t is a sequence, not a table"),
    "CREATE TYPE t AS (id int)": ("table.kind", "public.t is a composite type, not a table"),
    "CREATE UNLOGGED TABLE t (id int PRIMARY KEY)": (
        "table.unlogged",
        "public.t is unlogged: its changes are not in the write-ahead log",
    ),
    "CREATE TABLE t ()": ("table.empty", "public.t has no column that replication carries"),
    "CREATE TABLE t (id int PRIMARY KEY, c regclass)": (
        "column.unstable",
        "public.t: the text of column c (regclass) names other objects and changes with them",
    ),
    "CREATE TABLE t (id int PRIMARY KEY, c aclitem[])": (
        "column.unstable",
        "public.t: the text of column c (aclitem[]) names other objects and changes with them",
    ),
}


@pytest.mark.parametrize("ddl", REFUSED)
def test_what_is_no_table_for_witnz_is_refused_with_its_own_words(database: Database, ddl: str) -> None:
    database.sql(ddl)
    first, *_ = problems(database, inserts_only=True)
    assert (first.code, first.message, first.fatal) == (*REFUSED[ddl], True)
    with pytest.raises(ConfigError) as refusal:
        raise_fatal([first])
    assert (refusal.value.exit_code, refusal.value.code, str(refusal.value)) == (2, first.code, first.message)
    assert refusal.value.hint


def test_foreign_temporary_and_system_tables_are_refused(database: Database) -> None:
    admin = database.connect_admin()
    admin.execute(
        "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE f (id int) SERVER s"
    )
    admin.execute("CREATE TEMPORARY TABLE temp_ (id int PRIMARY KEY)")
    ((schema,),) = admin.execute("SELECT nspname FROM pg_namespace WHERE oid = pg_my_temp_schema()").fetchall()
    assert codes(problems(database, "f")) == [("table.kind", True)]
    assert codes(problems(database, "temp_", schema)) == [("table.temporary", True)]
    assert codes(problems(database, "pg_class", "pg_catalog")) == [("table.system", True)]
    assert codes(problems(database, "sql_features", "information_schema")) == [("table.system", True)]


def test_a_table_that_does_not_exist_is_a_config_error_with_the_nearest_name(database: Database) -> None:
    database.sql('CREATE TABLE audit_logs (id int); CREATE TABLE "Audit_Logs" (id int)')
    connection = watcher(database)
    with pytest.raises(ConfigError, match=r"public\.audit_log does not exist") as refusal:
        require_table(connection, "public", "audit_log")
    assert "public.audit_logs" in refusal.value.hint
    assert (refusal.value.exit_code, refusal.value.code) == (2, "table.missing")
    with pytest.raises(ConfigError) as refusal:
        require_table(connection, "nowhere", "zzz")
    assert "case-sensitive" in refusal.value.hint
    assert require_table(connection, "public", "Audit_Logs").name == "Audit_Logs"


IDENTITY = {
    "no key": ("CREATE TABLE t (id int, n int)", "FULL"),
    "deferrable key": ("CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, n int)", "FULL"),
    "nothing": ("CREATE TABLE t (id int PRIMARY KEY, n int); ALTER TABLE t REPLICA IDENTITY NOTHING", "DEFAULT"),
    "index gone": (
        "CREATE TABLE t (id int NOT NULL, n int); CREATE UNIQUE INDEX i ON t (id);"
        "ALTER TABLE t REPLICA IDENTITY USING INDEX i; DROP INDEX i",
        "FULL",
    ),
}


@pytest.mark.parametrize("what", IDENTITY)
def test_a_table_whose_rows_nothing_identifies_is_refused_with_the_one_alter_that_helps(
    every_database: Database, what: str
) -> None:
    ddl, identity = IDENTITY[what]
    every_database.sql(ddl)
    (problem,) = problems(every_database)
    assert (problem.code, problem.fatal) == ("table.identity", True)
    assert problem.hint.startswith(f'ALTER TABLE "public"."t" REPLICA IDENTITY {identity} ')
    with pytest.raises(ReplicationImpossible) as refusal:
        raise_fatal([problem])
    assert refusal.value.exit_code == 14
    assert problems(every_database, inserts_only=True) == [], "its inserts alone can be published"
    # The message is true: published like this, the application's updates fail, and after the ALTER they do not.
    every_database.sql("INSERT INTO t VALUES (1, 1)")
    with every_database.connect_owner() as owner:
        publication.apply(owner, "p", {every_database.sql("SELECT 't'::regclass::oid")[0][0]: ("public", "t")})
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        every_database.sql("UPDATE t SET n = 2")
    every_database.sql(problem.hint.partition("   (")[0])
    every_database.sql("UPDATE t SET n = 2; DELETE FROM t")
    assert problems(every_database) == []


def test_a_virtual_column_under_full_is_refused_because_updates_would_fail(own_database: Callable[..., Database]) -> None:
    database = own_database(version=18)
    database.sql("CREATE TABLE t (id int PRIMARY KEY, v int GENERATED ALWAYS AS (id * 2) VIRTUAL); INSERT INTO t VALUES (1)")
    assert problems(database) == []
    database.sql("ALTER TABLE t REPLICA IDENTITY FULL")
    (problem,) = problems(database)
    assert (problem.code, problem.fatal, problem.kind) == ("table.identity", True, ReplicationImpossible)
    with database.connect_owner() as owner:
        publication.apply(owner, "p", {database.sql("SELECT 't'::regclass::oid")[0][0]: ("public", "t")})
    with pytest.raises(psycopg.errors.InvalidColumnReference):
        database.sql("UPDATE t SET id = 2")
    database.sql(problem.hint)
    database.sql("UPDATE t SET id = 2")
    assert problems(database) == []


def test_a_generated_key_is_refused_where_replication_does_not_carry_it(every_database: Database) -> None:
    every_database.sql("CREATE TABLE t (id int, g int GENERATED ALWAYS AS (id * 2) STORED PRIMARY KEY)")
    carried = every_database.server.version >= 18
    assert codes(problems(every_database)) == ([] if carried else [("key.generated", True)])


def test_rights_are_checked_and_the_grants_that_are_printed_suffice(database: Database) -> None:
    database.sql('CREATE SCHEMA "closed shop"; CREATE TABLE "closed shop"."T" (id int PRIMARY KEY, note varchar(9))')
    database.sql('REVOKE ALL ON SCHEMA "closed shop" FROM witnz; REVOKE ALL ON "closed shop"."T" FROM witnz')
    database.sql('GRANT SELECT (id) ON "closed shop"."T" TO witnz')
    found = problems(database, "T", "closed shop")
    assert codes(found) == [("role.usage", True), ("role.select", True)]
    assert found[1].message == "the role witnz may read only some columns of closed shop.T"
    with pytest.raises(KeyProblem) as refusal:
        raise_fatal(found)
    assert refusal.value.exit_code == 12
    assert refusal.value.hint == "\n".join(problem.hint for problem in found), "all remedies, not one at a time"
    for problem in found:
        database.sql(problem.hint)
    assert problems(database, "T", "closed shop") == []


def test_row_security_that_would_filter_is_refused_and_bypassrls_helps(own_database: Callable[..., Database]) -> None:
    database = own_database()  # its own server: the role is changed
    database.sql("CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    (problem,) = problems(database, mode="append_only")
    assert (problem.code, problem.fatal, problem.hint) == ("table.row-security", True, 'ALTER ROLE "witnz" BYPASSRLS')
    database.sql(problem.hint, user="postgres")
    assert problems(database, mode="append_only") == []


def test_columns_can_be_left_out_by_name_and_nothing_else(database: Database) -> None:
    database.sql("CREATE TABLE t (id int PRIMARY KEY, c regtype, n int)")
    assert codes(problems(database)) == [("column.unstable", True)]
    assert problems(database, excluded_columns=["c"]) == []
    assert codes(problems(database, excluded_columns=["c", "id", "nope"])) == [("column.missing", True), ("key.excluded", True)]


def test_large_values_of_mutable_rows_children_and_rules_are_told_but_not_refused(database: Database) -> None:
    database.sql(
        """
        CREATE TABLE t (id int PRIMARY KEY, body text); CREATE TABLE child () INHERITS (t);
        CREATE RULE away AS ON INSERT TO t DO INSTEAD NOTHING;
        """
    )
    found = problems(database)
    assert codes(found) == [("table.toast", False), ("table.children", False), ("table.rules", False)]
    raise_fatal(found)
    assert "away" in found[2].message
    assert codes(problems(database, mode="append_only")) == [("table.children", False), ("table.rules", False)]
    database.sql(found[0].hint)
    assert codes(problems(database)) == [("table.children", False), ("table.rules", False)]


def test_a_partitioned_table_is_judged_by_its_leaves_and_its_future(database: Database) -> None:
    database.sql(
        """
        CREATE TABLE t (k int PRIMARY KEY, v varchar(9)) PARTITION BY LIST (k);
        CREATE TABLE a PARTITION OF t FOR VALUES IN (1); CREATE TABLE b PARTITION OF t FOR VALUES IN (2);
        CREATE TABLE bare (k int, v varchar(9)) PARTITION BY LIST (k);
        CREATE TABLE bare1 PARTITION OF bare FOR VALUES IN (1); ALTER TABLE bare1 REPLICA IDENTITY FULL;
        """
    )
    assert problems(database) == []
    database.sql("ALTER TABLE b REPLICA IDENTITY NOTHING; REVOKE ALL ON a FROM witnz")
    found = problems(database)
    assert [(problem.code, problem.hint.split('"')[3]) for problem in found] == [("role.select", "a"), ("table.identity", "b")]
    (future,) = problems(database, "bare")
    assert (future.code, future.fatal) == ("table.identity", True)
    assert "partition made later" in future.message
    assert problems(database, "bare", inserts_only=True) == []


# -- the doctor ----


def prepared(database: Database, *tables: str) -> list[WatchedTable]:
    """Tables of the application, published as witnz does it."""
    names = {}
    for name in tables:
        database.sql(f"CREATE TABLE {name} (id int PRIMARY KEY, note varchar(20))")
        names[database.sql(f"SELECT '{name}'::regclass::oid")[0][0]] = ("public", name)
    with database.connect_owner() as owner:
        publication.apply(owner, "witnz", names)
    return [WatchedTable("public", name) for name in tables]


def examine(database: Database, tables: list[WatchedTable], **keywords: Any) -> dict[str, DoctorCheck]:
    checks = doctor(Conninfo.from_conninfo(database.witnz_dsn), publication="witnz", tables=tables, **keywords)
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}


def not_ok(checks: dict[str, DoctorCheck]) -> dict[str, str]:
    return {name: check.status for name, check in checks.items() if check.status != "ok"}


def test_a_healthy_server_passes_and_a_message_went_through_it(every_database: Database) -> None:
    tables = prepared(every_database, "a", "b")
    checks = examine(every_database, tables)
    assert not_ok(checks) == {"server.slot_bound": "warn"}
    assert list(checks) == [
        "server.connect",
        "server.version",
        "server.primary",
        "server.encoding",
        "server.wal_level",
        "server.slots",
        "server.wal_senders",
        "server.slot_bound",
        "server.slot_idle",
        "server.clock",
        "role.replication",
        "connection.tls",
        "table public.a",
        "table public.b",
        "publication",
        "stream",
    ]
    assert "a message was written and decoded back in" in checks["stream"].message
    assert all(check.hint for check in checks.values() if check.status != "ok")
    left = "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'witnz_check%'"
    assert every_database.sql(left) == [(0,)], "the slot that was tried is gone"


def test_a_clock_that_is_an_hour_off_is_named(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_checks, "time", SimpleNamespace(time=lambda: time.time() + 3600))
    check = examine(database, prepared(database, "a"))["server.clock"]
    assert check.status == "warn" and check.message.endswith("s ahead of the server's") and check.hint
    monkeypatch.setattr(server_checks, "time", SimpleNamespace(time=lambda: time.time() - 3600))
    assert examine(database, [])["server.clock"].message.endswith("s behind the server's")


def test_a_database_that_cannot_be_entered_skips_everything_else(database: Database) -> None:
    conninfo = replace(Conninfo.from_conninfo(database.witnz_dsn), dbname="no_such_database")
    first, *others = doctor(conninfo, publication="witnz", tables=[WatchedTable("public", "t")])
    assert (first.name, first.status) == ("server.connect", "fail")
    assert "no_such_database" in first.message
    assert {check.status for check in others} == {"skip"}
    assert {"server.wal_level", "table public.t", "publication", "stream"} <= {check.name for check in others}
    with pytest.raises(UsageError, match="publication name"):
        doctor(conninfo, publication="x" * 70, tables=[])


@pytest.mark.since(14, "a server of which doctor has nothing to say")
def test_tables_and_publication_are_judged_one_by_one(database: Database) -> None:
    tables = prepared(database, "a", "b")
    database.sql(
        "CREATE TABLE keyless (id int); CREATE TABLE other (id int PRIMARY KEY); CREATE UNLOGGED TABLE u (id int PRIMARY KEY)"
    )
    database.sql("ALTER PUBLICATION witnz DROP TABLE b")
    database.sql("ALTER PUBLICATION witnz ADD TABLE other")
    database.sql("ALTER PUBLICATION witnz_ins SET (publish = 'insert')")
    more = [WatchedTable("public", "keyless"), WatchedTable("public", "u"), WatchedTable("no", "where")]
    checks = examine(database, [*tables, *more, WatchedTable("public", "keyless2", inserts_only=True)])
    assert not_ok(checks) == {
        "server.slot_bound": "warn",
        "table public.keyless": "fail",
        "table public.u": "fail",
        "table no.where": "fail",
        "table public.keyless2": "fail",
        "publication": "fail",
    }
    assert checks["publication"].message == (
        "witnz: public.b is not in it; witnz: public.keyless is not in it; witnz: public.u is not in it; "
        "witnz: public.other is in it and is not protected; witnz_ins: it does not publish truncate"
    )
    assert "REPLICA IDENTITY FULL" in checks["table public.keyless"].hint
    assert checks["stream"].status == "ok"


@pytest.mark.since(14, "a server of which doctor has nothing to say")
def test_without_a_publication_the_stream_is_not_tried(database: Database) -> None:
    checks = examine(database, [])
    assert not_ok(checks) == {"server.slot_bound": "warn", "publication": "fail", "stream": "skip"}
    assert checks["publication"].message == "publication witnz does not exist; publication witnz_ins does not exist"


@pytest.mark.since(14, "a server of which doctor has nothing to say")
def test_wal_level_full_slots_and_roles_are_told_with_their_remedies(own_database: Callable[..., Database]) -> None:
    settings = {"max_replication_slots": "1", "max_wal_senders": "1", "max_slot_wal_keep_size": "64MB", "wal_level": "replica"}
    database = own_database(settings=settings)
    tables = prepared(database, "a")
    checks = examine(database, tables)
    assert not_ok(checks) == {"server.wal_level": "fail", "stream": "skip"}
    assert checks["server.slot_bound"].message == "a slot retains at most 64MB of WAL"
    assert checks["stream"].message == "not tried before server.wal_level is put right"
    database.sql(checks["server.wal_level"].hint.partition(",")[0], user="postgres")
    database.server.restart()
    assert not_ok(examine(database, tables)) == {}
    database.create_slot("taken")
    assert not_ok(examine(database, tables)) == {"server.slots": "fail", "stream": "skip"}
    assert not_ok(examine(database, tables, slot="taken"))["server.slots"] == "warn"
    database.sql("SELECT pg_drop_replication_slot('taken')", user="witnz")
    replication = connect(Conninfo.from_conninfo(database.witnz_dsn), replication=True)
    assert not_ok(examine(database, tables)) == {"server.wal_senders": "fail", "stream": "skip"}
    replication.close()
    database.sql("ALTER ROLE witnz NOREPLICATION", user="postgres")
    assert not_ok(examine(database, tables)) == {"role.replication": "fail", "stream": "skip"}
    as_superuser = doctor(Conninfo.from_conninfo(database.admin_dsn), publication="witnz", tables=tables)
    assert {check.name: check.status for check in as_superuser if check.status != "ok"} == {"role.replication": "warn"}


def test_a_standby_is_refused(own_database: Callable[..., Database]) -> None:
    database = own_database()
    tables = prepared(database, "a")
    database.server.stop()
    (database.server.data_dir / "standby.signal").touch()
    database.server.start()
    checks = examine(database, tables)
    assert checks["server.primary"].status == "fail"
    assert checks["stream"].status == "skip"


@pytest.mark.parametrize(
    ("host", "sslmode", "status"),
    [
        ("127.0.0.1", "disable", "ok"),
        ("/var/run/postgresql", "prefer", "ok"),
        ("localhost", "prefer", "ok"),
        ("::1", "prefer", "ok"),
        ("db.example.com", "prefer", "warn"),
        ("db.example.com", "require", "warn"),
        ("db.example.com", "verify-ca", "warn"),
        ("10.0.0.5", "verify-full", "ok"),
    ],
)
def test_only_verify_full_is_enough_once_the_connection_leaves_the_machine(host: str, sslmode: str, status: str) -> None:
    from witnz.postgres.preflight import _tls

    check = _tls(Conninfo(host, 5432, "d", "u", sslmode=sslmode), encrypted=sslmode != "prefer")
    assert check.status == status
    assert (check.hint != "") == (status == "warn")


# -- the real path ----


def test_an_old_transaction_that_keeps_a_slot_from_starting_is_named(database: Database) -> None:
    prepared(database, "a")
    busy = database.connect_owner(autocommit=False)
    busy.execute("INSERT INTO a VALUES (1, 'x')")
    started = time.monotonic()
    with pytest.raises(DatabaseUnreachable, match="transactions run that began before it") as refusal:
        exercise_stream(Conninfo.from_conninfo(database.witnz_dsn), publication_names("witnz"), timeout_s=0.5)
    assert time.monotonic() - started < 20
    assert "pg_stat_activity" in refusal.value.hint


@pytest.mark.since(14, "a server of which doctor has nothing to say")
def test_other_traffic_does_not_disturb_the_trial(database: Database) -> None:
    prepared(database, "a")
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(database.owner_dsn, autocommit=True) as owner:
            while not stop.is_set():
                owner.execute("INSERT INTO a SELECT coalesce(max(id), 0) + 1, 'x' FROM a")
                owner.execute("SELECT pg_logical_emit_message(true, 'witnz-mark', 'not this one')")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        done = exercise_stream(Conninfo.from_conninfo(database.witnz_dsn), publication_names("witnz"), timeout_s=20)
    finally:
        stop.set()
        end_threads(thread)
    assert done.startswith("a message was written and decoded back")
