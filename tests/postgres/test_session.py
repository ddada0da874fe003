"""Connections: what is pinned, what is refused, what an error is called."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Callable

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.postgres import Database
from witnz.demo.server import PostgresServer
from witnz.errors import ConfigError, DatabaseUnreachable, KeyProblem, ReplicationImpossible, WitnzError
from witnz.postgres.session import (
    PINNED,
    SCAN_PINNED,
    Conninfo,
    classify_error,
    connect,
    is_transient,
    pinned_options,
    server_identity,
)
from witnz.postgres.sqlstate import error_for

URL = "postgresql://witnz:pa%40ss@db.internal:6432/app?sslmode=verify-full&sslrootcert=/etc/ca.pem&target_session_attrs=any"


def conninfo_of(database: Database, *, user: str = "witnz") -> Conninfo:
    return Conninfo.from_conninfo(database.server.dsn(user, database.name))


# -- where the database is --


def test_a_url_and_a_keyword_string_say_the_same() -> None:
    expected = Conninfo(
        host="db.internal",
        port=6432,
        dbname="app",
        user="witnz",
        password="pa@ss",
        sslmode="verify-full",
        sslrootcert="/etc/ca.pem",
        extra=(("target_session_attrs", "any"),),
    )
    assert Conninfo.from_url(URL) == expected
    words = "host=db.internal port=6432 dbname=app user=witnz password='pa@ss' sslmode=verify-full sslrootcert=/etc/ca.pem"
    assert Conninfo.from_conninfo(words + " target_session_attrs=any") == expected
    assert expected.parameters() == {
        "host": "db.internal",
        "port": "6432",
        "dbname": "app",
        "user": "witnz",
        "password": "pa@ss",
        "sslmode": "verify-full",
        "sslrootcert": "/etc/ca.pem",
        "target_session_attrs": "any",
    }


def test_what_is_left_out_has_defaults() -> None:
    assert Conninfo.from_url("postgres://witnz@") == Conninfo("localhost", 5432, "witnz", "witnz")


def test_a_conninfo_never_shows_its_password() -> None:
    conninfo = Conninfo.from_url(URL)
    for text in (repr(conninfo), str(conninfo), f"{conninfo}", conninfo.describe(), repr([conninfo])):
        assert "pa@ss" not in text
        assert "pa%40ss" not in text
    assert conninfo.describe() == "witnz@db.internal:6432/app"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://witnz:hunter2@host:notaport/db%zz",
        "host=localhost hunter2",
        "user=witnz password=hunter2 nosuchparameter=1",
        "postgresql://:hunter2@host/db",  # no user
        "postgresql://witnz:hunter2@a,b/db",
        "postgresql://witnz:hunter2@a:1,b:2/db",
        "postgresql://witnz:hunter2@a:70000/db",
        "postgresql://witnz:hunter2@a:0/db",
        "user=witnz password=hunter2 replication=database",
        "user=witnz password=hunter2 client_encoding=latin1",
        "",
    ],
)
def test_strings_that_cannot_be_used_are_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Conninfo.from_conninfo(text)
    shown = "".join(traceback.format_exception(caught.value)) + caught.value.hint
    assert "hunter2" not in shown


def test_a_url_is_asked_for_where_only_a_url_will_do() -> None:
    with pytest.raises(ConfigError, match="postgresql://"):
        Conninfo.from_url("host=localhost user=witnz")


# -- what is pinned --


def test_every_setting_is_pinned_on_every_kind_of_connection(every_database: Database) -> None:
    database = every_database
    database.sql(f"ALTER ROLE witnz IN DATABASE {database.name} SET datestyle = 'German'", user="postgres")
    database.sql(f"ALTER DATABASE {database.name} SET timezone = 'Asia/Kathmandu'", user="postgres")
    database.sql(f"ALTER DATABASE {database.name} SET extra_float_digits = 0", user="postgres")
    for keywords, settings in (({}, PINNED), ({"replication": True}, PINNED), ({"scan": True}, SCAN_PINNED)):
        with connect(conninfo_of(database), **keywords) as connection:
            found = {name: connection.execute(f"SHOW {name}").fetchone()[0] for name in settings}
            assert found == dict(settings)
            assert connection.autocommit
            name = connection.execute("SHOW application_name").fetchone()[0]
            assert name == "witnz"


def test_row_security_and_scan_order_are_the_scanners_alone(database: Database) -> None:
    with connect(conninfo_of(database)) as connection:
        assert connection.execute("SHOW row_security").fetchone() == ("on",)
    with connect(conninfo_of(database), scan=True, application_name="witnz scan") as connection:
        assert connection.execute("SHOW synchronize_seqscans").fetchone() == ("off",)
        assert connection.execute("SHOW application_name").fetchone() == ("witnz scan",)


def test_options_of_the_users_own_stay_but_do_not_win(database: Database) -> None:
    options = (("options", "-c wal_sender_timeout=7s -c datestyle=SQL"),)
    mine = conninfo_of(database)
    with connect(Conninfo(mine.host, mine.port, mine.dbname, mine.user, extra=options), replication=True) as connection:
        assert connection.execute("SHOW wal_sender_timeout").fetchone() == ("7s",)
        assert connection.execute("SHOW datestyle").fetchone() == ("ISO, MDY",)


def test_no_session_compiles_its_queries_unless_its_user_asks_for_it(every_database: Database) -> None:
    """A server built with LLVM spends seconds of CPU on compiling catalog queries that run for milliseconds."""
    mine = conninfo_of(every_database)
    every_database.sql(f"ALTER ROLE witnz IN DATABASE {every_database.name} SET jit = on", user="postgres")
    for keywords in ({}, {"replication": True}, {"scan": True}):
        with connect(mine, **keywords) as connection:
            assert connection.execute("SHOW jit").fetchone() == ("off",)
    asked = Conninfo(mine.host, mine.port, mine.dbname, mine.user, extra=(("options", "-c jit=on"),))
    with connect(asked) as connection:
        assert connection.execute("SHOW jit").fetchone() == ("on",)


def test_pinned_options_work_as_pgoptions_of_psql(database: Database) -> None:
    environment = {**os.environ, "PGOPTIONS": pinned_options(SCAN_PINNED)}
    shows = [argument for name in SCAN_PINNED for argument in ("-c", f"SHOW {name}")]
    psql = database.server.bin("psql")
    result = subprocess.run(
        [psql, database.witnz_dsn, "-XAt", *shows], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines() == list(SCAN_PINNED.values())


def test_a_setting_that_did_not_take_is_refused_and_poolers_are_named(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    with pytest.raises(ReplicationImpossible) as caught:
        connect(conninfo_of(database))
    assert "timezone is 'Asia/Tokyo'" in caught.value.message
    assert "pooler" in caught.value.hint
    assert "PGTZ" in caught.value.hint


def test_spellings_of_the_same_zone_count_as_a_difference(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGTZ", "Etc/UTC")
    with pytest.raises(ReplicationImpossible, match="timezone"):
        connect(conninfo_of(database))


def test_a_database_without_an_encoding_is_refused(pg_server: PostgresServer) -> None:
    pg_server.sql("CREATE DATABASE ascii_only TEMPLATE template0 ENCODING SQL_ASCII LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        with pytest.raises(ReplicationImpossible, match="SQL_ASCII"):
            connect(Conninfo.from_conninfo(pg_server.dsn("witnz", "ascii_only")))
    finally:
        pg_server.sql("DROP DATABASE ascii_only WITH (FORCE)")


def test_a_database_in_another_encoding_is_read_as_utf8(pg_server: PostgresServer) -> None:
    pg_server.sql("CREATE DATABASE latin TEMPLATE template0 ENCODING LATIN1 LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        with connect(Conninfo.from_conninfo(pg_server.dsn("witnz", "latin"))) as connection:
            assert connection.execute("SELECT convert_to(U&'\\00e9', 'UTF8')").fetchone() == ("é".encode(),)
    finally:
        pg_server.sql("DROP DATABASE latin WITH (FORCE)")


# -- which database it is --


def test_both_kinds_of_connection_identify_the_same_server_without_privileges(every_database: Database) -> None:
    version = every_database.server.version
    with connect(conninfo_of(every_database)) as plain, connect(conninfo_of(every_database), replication=True) as stream:
        identity = server_identity(plain)
        assert identity == server_identity(stream)
    assert identity.dbname == every_database.name
    assert identity.timeline == 1
    assert identity.in_recovery is False
    assert identity.version_num // 10000 == version
    # the file begins with it (struct ControlFileData); not every build brings pg_controldata, which would print it
    control = (every_database.server.data_dir / "global" / "pg_control").read_bytes()
    assert int(identity.system) == int.from_bytes(control[:8], sys.byteorder)


# -- what errors are called --


def test_a_port_where_nobody_listens_is_unreachable() -> None:
    with pytest.raises(DatabaseUnreachable) as caught:
        connect(Conninfo("127.0.0.1", 1, "app", "witnz", "hunter" + "2"), connect_timeout_s=3)
    assert caught.value.exit_code == 14
    assert "witnz@127.0.0.1:1/app" in caught.value.message
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(("user", "dbname"), [("nobody_here", None), ("witnz", "no_such_database")])
def test_a_login_that_will_never_work_is_not_tried_again(database: Database, user: str, dbname: str | None) -> None:
    server = database.server
    with pytest.raises(ReplicationImpossible) as caught:
        connect(Conninfo("127.0.0.1", server.port, dbname or database.name, user))
    assert "does not exist" in caught.value.message
    assert caught.value.exit_code == 14


def test_a_wrong_password_is_a_database_problem_that_waiting_does_not_cure(own_server: Callable[..., PostgresServer]) -> None:
    server = own_server(auth="scram-sha-256", password="right")
    with pytest.raises(ReplicationImpossible, match="password authentication failed") as caught:
        connect(Conninfo("127.0.0.1", server.port, "postgres", "postgres", "wrong"))
    assert "wrong" not in caught.value.message.replace("password", "")
    with pytest.raises(ReplicationImpossible, match="password"):
        connect(Conninfo("127.0.0.1", server.port, "postgres", "postgres"))
    connect(Conninfo("127.0.0.1", server.port, "postgres", "postgres", "right")).close()


def test_a_role_without_replication_is_told_which_right_it_lacks(database: Database) -> None:
    with pytest.raises(KeyProblem) as caught:
        connect(conninfo_of(database, user="app_owner"), replication=True)
    assert caught.value.exit_code == 12
    assert "REPLICATION" in caught.value.hint


def test_a_table_that_may_not_be_read_names_the_grant(database: Database) -> None:
    database.sql("CREATE SCHEMA hidden; REVOKE ALL ON SCHEMA hidden FROM witnz; CREATE TABLE public.closed (i int);"
                 "REVOKE ALL ON public.closed FROM witnz; CREATE TABLE hidden.t (i int)")  # fmt: skip
    with connect(conninfo_of(database)) as connection:
        for query, grant in (
            ("SELECT * FROM public.closed", "GRANT SELECT ON closed"),
            ("SELECT * FROM hidden.t", "GRANT USAGE ON SCHEMA hidden"),
        ):
            with pytest.raises(psycopg.Error) as caught:
                connection.execute(query)
            error = classify_error(caught.value)
            assert isinstance(error, KeyProblem)
            assert error.exit_code == 12
            assert grant in error.hint
            assert not is_transient(caught.value)


def test_a_terminated_session_may_be_tried_again(database: Database) -> None:
    connection = connect(conninfo_of(database))
    database.sql(f"SELECT pg_terminate_backend({connection.info.backend_pid})", user="postgres")
    with pytest.raises(psycopg.Error) as caught:
        connection.execute("SELECT 1")
    assert is_transient(caught.value)
    assert isinstance(classify_error(caught.value), DatabaseUnreachable)
    with pytest.raises(psycopg.Error) as caught:
        connection.execute("SELECT 1")  # the connection is gone by now: no SQLSTATE at all
    assert is_transient(caught.value)


def test_the_detail_of_an_error_is_not_repeated(database: Database) -> None:
    with connect(conninfo_of(database, user="app_owner")) as connection:
        connection.execute("CREATE TABLE public.t (secret text PRIMARY KEY); INSERT INTO public.t VALUES ('hunter2')")
        with pytest.raises(psycopg.Error) as caught:
            connection.execute("INSERT INTO public.t VALUES ('hunter2')")
    assert "hunter2" in str(caught.value)
    error = classify_error(caught.value, doing="writing")
    assert "hunter2" not in error.message
    assert error.message.startswith("writing: duplicate key value")
    assert error.message.endswith("(SQLSTATE 23505)")


@pytest.mark.parametrize(
    ("sqlstate", "expected"),
    [
        *((state, DatabaseUnreachable) for state in ("08006", "08P01", "53300", "55006", "55P03", "57P01", "57P02", "57P03")),
        *((state, ReplicationImpossible) for state in ("55000", "42704", "54000", "22P05", "28P01", "28000", "XX000", "3D000")),
        ("42501", KeyProblem),
    ],
)
def test_sqlstates_are_sorted_into_what_passes_and_what_does_not(sqlstate: str, expected: type[WitnzError]) -> None:
    error = error_for(sqlstate, "some sentence in any language", broken=True)
    assert type(error) is expected
    assert error.hint
    assert sqlstate in error.message


@pytest.mark.parametrize(
    ("sqlstate", "sentence", "helps"),
    [
        ("55000", "logical decoding requires wal_level >= logical", "ALTER SYSTEM SET wal_level = logical"),
        ("55000", "replication slots can only be used if max_replication_slots > 0", "raise max_replication_slots"),
        ("55000", "in another language", "wal_level"),
        (None, "connection failed: fe_sendauth: no password supplied", "WITNZ_DB_PASSWORD"),
        (None, 'FATAL: password authentication failed for user "witnz"', "password"),
        (None, 'FATAL: database "nodb" does not exist', "name an existing database"),
        (None, 'FATAL: no pg_hba.conf entry for host "10.0.0.1"', "pg_hba.conf has to let this role in"),
        (None, "permission denied to start WAL sender", "WITH REPLICATION"),
    ],
)
def test_a_refusal_says_what_to_do_about_its_own_cause(sqlstate: str | None, sentence: str, helps: str) -> None:
    assert helps in error_for(sqlstate, sentence, broken=sqlstate is None).hint


@given(st.text(max_size=40))
def test_without_a_sqlstate_an_unknown_sentence_of_a_broken_connection_passes(message: str) -> None:
    assert type(error_for(None, f"«{message}»", broken=True)) is DatabaseUnreachable
    assert type(error_for(None, f"«{message}»", broken=False)) is ReplicationImpossible


def test_importing_the_session_module_does_not_open_the_heavy_layers() -> None:
    code = "import sys, witnz.postgres.session; print(sorted(m for m in sys.modules if m.startswith('witnz.')))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "['witnz.errors', 'witnz.postgres', 'witnz.postgres.session', 'witnz.postgres.sqlstate']"
