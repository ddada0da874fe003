"""witnz.postgres.publication: statements as the owner runs them, state and differences as an ordinary role sees them."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.support.postgres import Database
from witnz.errors import UsageError
from witnz.postgres import publication
from witnz.postgres.publication import (
    PublicationState,
    departures,
    differences,
    expected_publications,
    publication_names,
    publication_sql,
    publication_state,
    repair_sql,
)

HOSTILE = ('Sch.ema "x" 表', "ta'ble; DROP TABLE é")
TABLES = """
CREATE TABLE a (id int PRIMARY KEY, note text, g int GENERATED ALWAYS AS (id + 1) STORED);
CREATE TABLE b (id int PRIMARY KEY, note text);
CREATE TABLE c (note text);
CREATE TABLE root (k int PRIMARY KEY) PARTITION BY LIST (k);
CREATE TABLE leaf PARTITION OF root FOR VALUES IN (1);
"""


def oids(database: Database, *names: str) -> dict[int, tuple[str, str]]:
    rows = database.sql(
        "SELECT c.oid, n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname !~ '^pg_' AND c.relkind IN ('r', 'p') ORDER BY c.relname"
    )
    return {oid: (schema, name) for oid, schema, name in rows if name in names}


def state_of(database: Database, name: str) -> PublicationState:
    with psycopg.connect(database.witnz_dsn, autocommit=True) as connection:
        state = publication_state(connection, name)
    assert state is not None
    return state


def apply(database: Database, tables: dict[int, tuple[str, str]], **keywords: Any) -> list[str]:
    with psycopg.connect(database.owner_dsn, autocommit=True) as owner:
        return publication.apply(owner, "witnz", tables, **keywords)


@pytest.fixture
def tables(database: Database) -> Database:
    database.sql(TABLES)
    return database


def test_the_printed_statements_make_exactly_what_is_expected(every_database: Database) -> None:
    every_database.sql(TABLES)
    owner = every_database.connect_owner()
    owner.execute(psycopg.sql.SQL("CREATE SCHEMA {}").format(psycopg.sql.Identifier(HOSTILE[0])))
    owner.execute(psycopg.sql.SQL("CREATE TABLE {} (id int PRIMARY KEY)").format(psycopg.sql.Identifier(*HOSTILE)))
    main, inserts = oids(every_database, "a", "root", HOSTILE[1]), oids(every_database, "c")
    version = owner.info.server_version
    for statement in publication_sql(
        "My publication", list(main.values()), inserts_only_tables=list(inserts.values()), version=version
    ):
        assert ";" not in statement.replace(HOSTILE[1], "")
        owner.execute(statement.encode())
    for expected in expected_publications("My publication", main, inserts):
        state = state_of(every_database, expected.name)
        assert differences(expected, state) == []
        assert state.owner == "app_owner"
        assert (state.all_tables, state.via_root, state.schemas) == (False, False, ())
        assert (state.insert, state.truncate) == (True, True)
        assert (state.update, state.delete) == ((True, True) if not expected.inserts_only else (False, False))
        assert state.publishes_generated == (True if version >= 180000 else None)
        assert {oid: (t.schema, t.name) for oid, t in state.tables.items()} == expected.tables


def test_without_tables_both_publications_are_made_empty(tables: Database) -> None:
    generated = ", publish_generated_columns = stored" if tables.server.version >= 18 else ""
    options = f"publish_via_partition_root = false{generated}"
    assert apply(tables, {}) == [
        f"CREATE PUBLICATION \"witnz\" WITH (publish = 'insert, update, delete, truncate', {options})",
        f"CREATE PUBLICATION \"witnz_ins\" WITH (publish = 'insert, truncate', {options})",
    ]
    assert apply(tables, {}) == []


def test_updates_of_a_table_without_key_go_on_working_where_only_its_inserts_are_published(tables: Database) -> None:
    apply(tables, oids(tables, "a"), inserts_only_tables=oids(tables, "c"))
    tables.sql("INSERT INTO c VALUES ('x'); UPDATE c SET note = 'y'; DELETE FROM c")


def test_tables_are_added_moved_and_removed_one_by_one(tables: Database) -> None:
    a, b, c = oids(tables, "a"), oids(tables, "b"), oids(tables, "c")
    apply(tables, a)
    assert apply(tables, {**a, **b}) == ['ALTER PUBLICATION "witnz" ADD TABLE ONLY "public"."b"']
    assert apply(tables, a) == [], "a table is never taken out unless it is named"
    assert apply(tables, a, inserts_only_tables={**b, **c}) == [
        'ALTER PUBLICATION "witnz" DROP TABLE ONLY "public"."b"',
        'ALTER PUBLICATION "witnz_ins" ADD TABLE ONLY "public"."b", ONLY "public"."c"',
    ]
    assert apply(tables, {**a, **b}, inserts_only_tables={}, remove=set(c)) == [
        'ALTER PUBLICATION "witnz" ADD TABLE ONLY "public"."b"',
        'ALTER PUBLICATION "witnz_ins" DROP TABLE ONLY "public"."b", ONLY "public"."c"',
    ]
    for expected in expected_publications("witnz", {**a, **b}):
        assert differences(expected, state_of(tables, expected.name)) == []


DIFFERENCES = {
    "DROP PUBLICATION witnz": ["publication witnz does not exist"],
    "ALTER PUBLICATION witnz DROP TABLE a": ["public.a is not in it"],
    "ALTER PUBLICATION witnz ADD TABLE b": ["public.b is in it and is not protected"],
    "ALTER PUBLICATION witnz SET TABLE b": ["public.a is not in it", "public.b is in it and is not protected"],
    "ALTER PUBLICATION witnz SET TABLE a WHERE (id > 5)": ["public.a is published under a row filter"],
    "ALTER PUBLICATION witnz SET TABLE a (id)": ["public.a is published with a column list"],
    "ALTER PUBLICATION witnz SET (publish = 'insert, delete')": ["it does not publish update", "it does not publish truncate"],
    "ALTER PUBLICATION witnz SET (publish_via_partition_root = true)": [
        "it publishes partitions under their root (publish_via_partition_root)"
    ],
}
BY_SUPERUSER = {
    "ALTER PUBLICATION witnz ADD TABLES IN SCHEMA public": ["it publishes all tables of schema public"],
    "DROP PUBLICATION witnz; CREATE PUBLICATION witnz FOR ALL TABLES": ["it is FOR ALL TABLES", "public.a is not in it"],
}


SINCE_15 = ("WHERE (id > 5)", "a (id)", "IN SCHEMA public")


def marked(statement: str) -> Any:
    late = pytest.mark.since(15, "row filters, column lists and publications of schemas")
    return pytest.param(statement, marks=late) if statement.endswith(SINCE_15) else statement


@pytest.mark.parametrize("statement", [marked(statement) for statement in [*DIFFERENCES, *BY_SUPERUSER]])
def test_every_departure_is_named_and_what_can_be_put_right_is(tables: Database, statement: str) -> None:
    a = oids(tables, "a")
    apply(tables, a)
    main, inserts = expected_publications("witnz", a)
    before = state_of(tables, "witnz")
    for part in statement.split("; "):
        tables.sql(part, user="postgres" if statement in BY_SUPERUSER else "app_owner")
    with psycopg.connect(tables.witnz_dsn, autocommit=True) as connection:
        state = publication_state(connection, "witnz")
    unpublished = "it does not publish stored generated columns (publish_generated_columns)"  # the default of 18
    found = [text for text in differences(main, state) if text != unpublished or "CREATE" not in statement]
    assert found == (DIFFERENCES | BY_SUPERUSER)[statement]
    assert differences(inserts, state_of(tables, "witnz_ins")) == []
    assert state != before
    for departure in departures(main, state):
        about = {"is not in it": ("missing", "a"), "is not protected": ("surplus", "b")}
        expected = next((kind for text, kind in about.items() if departure.text.endswith(text)), None)
        if expected is not None:
            assert (departure.kind, {departure.oid}) == (expected[0], set(oids(tables, expected[1])))
    if statement in BY_SUPERUSER:
        with pytest.raises(UsageError, match="more than single tables") as refusal:
            apply(tables, a)
        assert 'DROP PUBLICATION "witnz"' in refusal.value.hint
        return
    apply(tables, a, remove=set(oids(tables, "b")))
    assert differences(main, state_of(tables, "witnz")) == []


def test_taking_a_table_out_and_putting_it_back_shows(tables: Database) -> None:
    a = oids(tables, "a")
    apply(tables, a)
    (oid,) = a
    before = state_of(tables, "witnz")
    tables.sql("ALTER PUBLICATION witnz DROP TABLE a")
    tables.sql("ALTER PUBLICATION witnz ADD TABLE a")
    after = state_of(tables, "witnz")
    assert differences(expected_publications("witnz", a)[0], after) == []
    assert after.tables[oid].row_xmin != before.tables[oid].row_xmin
    assert after.tables[oid].row_oid != before.tables[oid].row_oid
    assert after.row_xmin == before.row_xmin
    tables.sql("ALTER PUBLICATION witnz SET (publish = 'insert')")
    assert state_of(tables, "witnz").row_xmin != before.row_xmin


def test_a_server_that_can_but_does_not_publish_generated_columns_is_told(own_server: Any) -> None:
    server = own_server(version=18)
    server.sql("CREATE TABLE a (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id + 1) STORED)")
    server.sql("ALTER TABLE a REPLICA IDENTITY FULL")
    server.sql("CREATE PUBLICATION witnz FOR TABLE a")
    server.sql("INSERT INTO a VALUES (1)")
    with pytest.raises(psycopg.errors.InvalidColumnReference):  # why it matters: the application's own updates fail
        server.sql("UPDATE a SET id = 2")
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        ((oid,),) = connection.execute("SELECT 'a'::regclass::oid").fetchall()
        (main, _) = expected_publications("witnz", {oid: ("public", "a")})
        state = publication_state(connection, "witnz")
        assert differences(main, state) == ["it does not publish stored generated columns (publish_generated_columns)"]
        (statement,) = repair_sql(main, state, version=connection.info.server_version)
        connection.execute(statement.encode())
        connection.execute("UPDATE a SET id = 2")


def test_names_that_postgresql_would_cut_off_are_refused() -> None:
    assert publication_names("p") == ("p", "p_ins")
    assert publication_names("é" * 29 + "x") == ("é" * 29 + "x", "é" * 29 + "x_ins")
    for name in ("", "x" * 60, "é" * 30, "a\0b"):
        with pytest.raises(UsageError, match="publication name"):
            publication_names(name)


def test_only_the_owner_can_apply_and_nothing_is_left_half_done(tables: Database) -> None:
    a = oids(tables, "a")
    with psycopg.connect(tables.witnz_dsn, autocommit=True) as witnz, pytest.raises(psycopg.errors.InsufficientPrivilege):
        publication.apply(witnz, "witnz", a)
    with pytest.raises(psycopg.errors.UndefinedTable):
        apply(tables, a, inserts_only_tables={1: ("public", "nowhere")})
    assert tables.sql("SELECT pubname FROM pg_publication") == []


class InterruptedConnection(psycopg.Connection[Any]):
    """Somebody else is at work, too, between any two of its statements."""

    between: Any = staticmethod(lambda: None)

    def execute(self, *arguments: Any, **keywords: Any) -> Any:
        answer = super().execute(*arguments, **keywords)
        self.between()
        return answer


def test_a_publication_made_anew_while_it_is_looked_at_is_the_old_one_or_the_new_one(tables: Database) -> None:
    """Never one without tables: that would be a finding about each of them."""
    expected = oids(tables, "a", "b")
    tables.create_publication("witnz", "a", "b")
    old = state_of(tables, "witnz")
    with InterruptedConnection.connect(tables.witnz_dsn, autocommit=True) as connection:
        connection.between = lambda: tables.sql("DROP PUBLICATION witnz; CREATE PUBLICATION witnz FOR TABLE ONLY a, ONLY b")
        seen = publication_state(connection, "witnz")
        again = publication_state(connection, "witnz")
    assert seen is not None and seen.oid == old.oid and seen.tables == old.tables
    assert again is not None and again.oid != old.oid and again.tables.keys() == expected.keys()
