"""``witnz init``: what it writes, what it never writes, and that it can be run again until all is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.cli.conftest import Site, url_of
from tests.support.cli import Cli
from tests.support.postgres import create_database
from witnz.config import load_config
from witnz.core.policy import parse_policy
from witnz.demo.server import PostgresServer
from witnz.node.keyring import load_person_key

MakeSite = Callable[..., Site]
TABLES = ("--table", "audit_logs:append_only", "--table", "billing.prices")


def run_sql(site: Site, statements: list[str]) -> None:
    """As the DBA who was handed the SQL."""
    with psycopg.connect(site.database.owner_dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def test_without_the_owner_the_sql_is_printed_and_the_same_words_finish_the_job(make_site: MakeSite) -> None:
    site = make_site()
    words = ("init", "--db", site.url, *TABLES)
    first = site.cli.spawn(*words).expect(14)
    statements = [line.removesuffix(";") for line in first.out.splitlines()]
    assert [statement.split()[:2] for statement in statements] == [["CREATE", "PUBLICATION"]] * 2
    assert first.err.startswith("error: the publication is not there yet")
    second = site.cli.run(*words, "--json").expect(14)
    assert second.document["sql"] == statements
    assert second.document["complete"] is False
    assert second.error["code"] == "publication.missing"
    run_sql(site, statements)
    third = site.cli.run(*words, "--json").expect(0).document
    assert third["complete"] is True
    assert [made.split()[0] for made in third["created"]] == ["replication"]
    assert site.cli.json(*words)["created"] == []
    assert site.cli.json("init")["created"] == []


def test_with_the_owner_everything_is_made_at_once(make_site: MakeSite) -> None:
    site = make_site()
    done = site.cli.run("init", "--db", site.url, "--admin-url", site.owner_url, "--operator", "alice", *TABLES).expect(0)
    data = site.folder / "witnz-data"
    assert data.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in (data / "keys").iterdir()) == [
        "cosigner.key", "identity.key", "log.key", "report.auth", "report.key", "retain.key",
    ]  # fmt: skip
    assert load_person_key(data / "operator-alice.key", "operator")[0] == "alice"
    assert "Move " in done.out
    assert str(data / "operator-alice.key") in done.out
    document = site.cli.json("init")
    assert document["schema"] == "witnz.init/1"
    assert parse_policy(document["policy"]).text in done.out.replace("\n  ", "\n")
    config = load_config(site.config, {})
    assert [(table.name, table.mode) for table in config.protected_tables] == [
        ("public.audit_logs", "append_only"),
        ("billing.prices", "state_integrity"),
    ]
    assert config.missing_for_start() == []
    assert site.config.stat().st_mode & 0o777 == 0o600
    assert site.cli.json("config", "check")["startable"] is True


def test_further_tables_are_added_to_the_file_that_is_there(make_site: MakeSite) -> None:
    site = make_site()
    site.init("--table", "audit_logs:append_only")
    with site.config.open("a") as stream:
        stream.write("# a comment of mine\n")
    before = site.config.read_text()
    words = ("--table", "billing.prices", "--admin-url", site.owner_url, "--operator", "somebody-else")
    done = site.cli.run("init", *words).expect(0)
    assert "has its first operator already" in done.err and "witnz keys new operator somebody-else" in done.err
    assert site.config.read_text().replace("  - {name: billing.prices, mode: state_integrity}\n", "") == before
    assert site.cli.json("config", "check")["tables"] == ["public.audit_logs", "billing.prices"]


def test_a_password_is_never_written_and_never_shown(tmp_path: Path, scram_server: PostgresServer) -> None:
    cli = Cli(tmp_path)
    url = url_of(scram_server, "witnz", "app", "right-password")
    made = cli.run("init", "--db", url, "--table", "t").expect(14)
    text = (tmp_path / "witnz.yaml").read_text()
    assert "right-password" not in text + made.out + made.err
    assert "  password: ${WITNZ_DB_PASSWORD}\n" in text
    again = cli.run("init").expect(2)
    assert "the environment variable WITNZ_DB_PASSWORD is not set" in again.err
    environment = {"WITNZ_DB_PASSWORD": "right-password"}
    admin = url_of(scram_server, "postgres", "app", scram_server.password)
    done = cli.run("init", "--admin-url", admin, env=environment)
    assert done.code == 14, done.err  # wal_level = replica
    assert scram_server.password not in text + done.out + done.err
    assert "wal_level" in done.err


def test_a_wrong_password_is_one_clear_error_and_leaves_nothing_behind(tmp_path: Path, scram_server: PostgresServer) -> None:
    cli = Cli(tmp_path)
    url = url_of(scram_server, "witnz", "app", "wrong-password")
    found = cli.run("init", "--db", url, "--table", "t", "--json").expect(14)
    assert "password authentication failed" in found.error["message"]
    assert found.error["hint"]
    assert "wrong-password" not in found.out + found.err
    assert list(tmp_path.iterdir()) == []


def test_wal_level_replica_is_refused_before_anything_is_recorded(tmp_path: Path, scram_server: PostgresServer) -> None:
    cli = Cli(tmp_path, {"WITNZ_DB_PASSWORD": "right-password"})
    url = url_of(scram_server, "witnz", "app", "right-password")
    admin = url_of(scram_server, "postgres", "app", scram_server.password)
    error = cli.run("init", "--db", url, "--admin-url", admin, "--table", "t", "--json").expect(14).error
    assert "wal_level" in error["message"] + error["hint"]
    checks = {check["name"]: check for check in cli.json("doctor", code=6)["checks"]}
    assert checks["server.wal_level"]["status"] == "fail"
    assert "wal_level = logical" in checks["server.wal_level"]["hint"]
    assert checks["stream"]["status"] == "skip"


def test_no_free_slot_is_an_error_that_says_so(tmp_path: Path, own_server: Callable[..., PostgresServer]) -> None:
    database = create_database(own_server(settings={"max_replication_slots": "1"}))
    database.sql("CREATE TABLE t (id int PRIMARY KEY)")
    database.create_slot("taken")
    url, owner = (url_of(database.server, user, database.name) for user in ("witnz", "app_owner"))
    error = Cli(tmp_path).run("init", "--db", url, "--admin-url", owner, "--table", "t", "--json").expect(14).error
    assert "all replication slots are in use" in error["message"]
    assert "max_replication_slots" in error["hint"]
    checks = {check["name"]: check for check in Cli(tmp_path).json("doctor", code=6)["checks"]}
    assert checks["server.slots"]["status"] == "fail"
    assert checks["server.slots"]["hint"]


@pytest.fixture(scope="module")
def scram_server() -> PostgresServer:
    """A server that asks for passwords and whose wal_level is not logical."""
    with PostgresServer(auth="scram-sha-256", settings={"wal_level": "replica"}) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute("CREATE ROLE witnz LOGIN REPLICATION PASSWORD 'right-password'")
            admin.execute("CREATE DATABASE app")
        with psycopg.connect(server.dsn(dbname="app"), autocommit=True) as admin:
            admin.execute("CREATE TABLE t (id int PRIMARY KEY)")
            admin.execute("GRANT SELECT ON t TO witnz")
        yield server


# -- tables that cannot be protected ------------------------------------------------------------------------------------------

UNFIT = """
CREATE TABLE orders (id int PRIMARY KEY);
CREATE VIEW seen AS SELECT * FROM orders;
CREATE UNLOGGED TABLE fast (id int PRIMARY KEY);
CREATE TABLE nokey (a int);
CREATE TABLE secret (id int PRIMARY KEY);
ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
CREATE TABLE hidden (id int PRIMARY KEY);
REVOKE SELECT ON hidden FROM witnz;
"""


@pytest.fixture(scope="module")
def unfit(tmp_path_factory: pytest.TempPathFactory, pg_server: PostgresServer) -> Site:
    database = create_database(pg_server)
    database.sql(UNFIT)
    folder = tmp_path_factory.mktemp("unfit")
    yield Site(folder, database, Cli(folder))
    database.drop()


@pytest.mark.parametrize(
    ("table", "code", "name", "hint"),
    [
        ("ordres", 2, "table.missing", "did you mean public.orders"),
        ("elsewhere.orders", 2, "table.missing", ""),
        ("seen", 2, "table.kind", "protect the tables"),
        ("fast", 2, "table.unlogged", 'ALTER TABLE "public"."fast" SET LOGGED'),
        ("nokey", 14, "table.identity", 'ALTER TABLE "public"."nokey" REPLICA IDENTITY FULL'),
        ("secret", 12, "table.row-security", 'ALTER ROLE "witnz" BYPASSRLS'),
        ("hidden", 12, "role.select", 'GRANT SELECT ON "public"."hidden" TO "witnz"'),
    ],
)
def test_a_table_that_cannot_be_protected_is_refused_with_its_remedy(
    unfit: Site, table: str, code: int, name: str, hint: str
) -> None:
    words = ("init", "--db", unfit.url, "--admin-url", unfit.owner_url, "--table", table)
    error = unfit.cli.run(*words, "--json").expect(code).error
    assert error["code"] == name
    assert hint in error["hint"]
    text = unfit.cli.run(*words).expect(code)
    assert text.out == ""
    assert text.err.startswith(f"error: {error['message']}  [{name}]\nhint: ")
    assert list(unfit.folder.iterdir()) == []
    assert unfit.database.sql("SELECT count(*) FROM pg_publication") == [(0,)]


# -- words --------------------------------------------------------------------------------------------------------------------


def test_print_sql_prints_and_does_nothing(make_site: MakeSite) -> None:
    site = make_site()
    words = ("init", "--db", site.url, *TABLES, "--print-sql")
    lines = site.cli.run(*words).expect(0).out.splitlines()
    assert lines[0] == 'CREATE ROLE "witnz" LOGIN REPLICATION;'
    assert 'GRANT USAGE ON SCHEMA "billing" TO "witnz";' in lines
    assert 'GRANT SELECT ON "public"."audit_logs" TO "witnz";' in lines
    assert [line.split()[1] for line in lines[-2:]] == ["PUBLICATION", "PUBLICATION"]
    document = site.cli.json(*words)
    assert document == {"schema": "witnz.sql/1", "sql": [line.removesuffix(";") for line in lines]}
    assert list(site.folder.iterdir()) == []
    assert site.database.sql("SELECT count(*) FROM pg_publication") == [(0,)]


def test_the_sql_for_a_server_that_cannot_be_asked_is_for_any(tmp_path: Path) -> None:
    found = Cli(tmp_path).run("init", "--db", "postgresql://w@127.0.0.1:1/d", "--table", "t", "--print-sql").expect(0)
    assert "publish_generated_columns" not in found.out
    assert "publish_generated_columns" in found.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no database is named"),
        (["--db", "nonsense"], "expected postgresql://"),
        (["--db", "postgresql://127.0.0.1/d"], "expected a user name"),
        (["--db", "postgresql://w@h/d?application_name=x"], "application_name is set by witnz itself"),
        (["--db", "postgresql://w@h/d?sslcrl=x"], "sslcrl cannot be kept in witnz.yaml"),
        (["--db", "postgresql://w@h/d", "--table", "t:append-only"], "mode of table 't'"),
        (["--db", "postgresql://w@h/d", "--table", "a.b.c"], "must be table or schema.table"),
        (["--db", "postgresql://w@h/d", "--cluster", "Not A Cluster"], "cluster"),
    ],
)
def test_words_that_make_no_configuration_are_refused_and_nothing_is_written(
    words: list[str], message: str, tmp_path: Path
) -> None:
    found = Cli(tmp_path).run("init", *words).expect(2)
    assert message in found.err
    assert list(tmp_path.iterdir()) == []


def test_another_database_than_the_files_is_refused(make_site: MakeSite) -> None:
    site = make_site()
    site.init("--table", "audit_logs")
    found = site.cli.run("init", "--db", site.url + "x").expect(2)
    assert "--db about witnz@127.0.0.1" in found.err


def test_an_unreachable_database_leaves_nothing_behind(tmp_path: Path) -> None:
    error = Cli(tmp_path).run("init", "--db", "postgresql://w@127.0.0.1:1/d", "--table", "t", "--json").expect(14).error
    assert error["code"] == "database.unreachable"
    assert list(tmp_path.iterdir()) == []
