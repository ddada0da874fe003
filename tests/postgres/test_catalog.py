"""witnz.postgres.catalog and fingerprint: what an unprivileged role reads of tables that somebody else owns."""

from __future__ import annotations

import struct
from typing import Any

import psycopg
import pytest

from tests.support.postgres import Database
from witnz.core.entry import SchemaColumn
from witnz.postgres.catalog import find_table, leaf_partitions, schema_columns, table_by_oid
from witnz.postgres.fingerprint import TableFingerprint, fingerprint
from witnz.postgres.session import Conninfo, connect

HOSTILE = ('Mixed Case."quoted" 表', 'na\tme.with\n"every"\'thing\\ é 😀 %s {x}')


def watcher(database: Database) -> psycopg.Connection[Any]:
    """As a node connects: no superuser, no owner, pinned settings."""
    connection = connect(Conninfo.from_conninfo(database.witnz_dsn))
    database._open.append(connection)
    return connection


def relations(database: Database, slot: str, publication: str) -> dict[int, tuple[str, str, tuple[SchemaColumn, ...]]]:
    """The Relation messages that a slot holds (protocol, "Logical Replication Message Formats"): the last of each OID."""
    rows = database.sql(
        f"SELECT data FROM pg_logical_slot_get_binary_changes('{slot}', NULL, NULL, 'proto_version', '1', "
        f"'publication_names', '{publication}')",
        user="witnz",
    )
    found = {}
    for (data,) in rows:
        if data[:1] == b"R":
            (oid,) = struct.unpack_from(">I", data, 1)
            schema, name, rest = data[5:].split(b"\0", 2)
            identity, (count,), rest = rest[:1].decode(), struct.unpack_from(">H", rest, 1), rest[3:]
            columns = []
            for _ in range(count):
                flags, (column, rest) = rest[0], rest[1:].split(b"\0", 1)
                columns.append(SchemaColumn(column.decode(), *struct.unpack_from(">Ii", rest), key=flags == 1))
                rest = rest[8:]
            assert rest == b""
            found[oid] = (f"{schema.decode()}|{name.decode()}", identity, tuple(columns))
    return found


TABLES = {
    "plain": "CREATE TABLE plain (id bigint PRIMARY KEY, t varchar(20), n numeric(10,2))",
    "composite": "CREATE TABLE composite (a int, b text, c date, PRIMARY KEY (c, a))",
    "keyless": "CREATE TABLE keyless (a int, b text)",
    "full": "CREATE TABLE full_ (a int PRIMARY KEY, b text[]); ALTER TABLE full_ REPLICA IDENTITY FULL",
    "nothing": "CREATE TABLE nothing (a int PRIMARY KEY, b text); ALTER TABLE nothing REPLICA IDENTITY NOTHING",
    "index": "CREATE TABLE ix (id int PRIMARY KEY, b text NOT NULL, c int NOT NULL, d int);"
    "CREATE UNIQUE INDEX ix_cb ON ix (c, b) INCLUDE (d); ALTER TABLE ix REPLICA IDENTITY USING INDEX ix_cb",
    "dropped index": "CREATE TABLE gone (id int PRIMARY KEY, b int NOT NULL); CREATE UNIQUE INDEX gone_b ON gone (b);"
    "ALTER TABLE gone REPLICA IDENTITY USING INDEX gone_b; DROP INDEX gone_b",
    "deferrable": "CREATE TABLE deferrable_ (id int PRIMARY KEY DEFERRABLE, b int)",
    "generated": "CREATE TABLE generated_ (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id * 2) STORED, z text)",
    "dropped column": "CREATE TABLE holes (x int, id int, y text, z timestamptz(3), PRIMARY KEY (id));"
    "ALTER TABLE holes DROP x, DROP y",
    "user types": "CREATE TYPE mood AS ENUM ('a'); CREATE TYPE pair AS (x int, m mood); CREATE DOMAIN dom AS varchar(5);"
    "CREATE TABLE typed (id int PRIMARY KEY, m mood, p pair[], d dom, i interval(2), b bit(3))",
}


FIRST_ROW = {
    "composite": "VALUES (1, 'b', 'today')",
    "keyless": "VALUES (1, 'b')",
    "full": "VALUES (1, '{b}')",
    "nothing": "VALUES (1, 'b')",
    "index": "VALUES (1, 'b', 1)",
    "dropped index": "VALUES (1, 1)",
}


@pytest.mark.parametrize("what", TABLES)
def test_schema_columns_are_what_the_stream_s_relation_message_says(every_database: Database, what: str) -> None:
    every_database.sql(TABLES[what])
    ((name,),) = every_database.sql(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    options = "publish = 'insert, truncate'"
    if every_database.server.version >= 18:
        options += ", publish_generated_columns = stored"
    every_database.sql(f"CREATE PUBLICATION p FOR TABLE ONLY {name} WITH ({options})")
    slot = f"s_{every_database.name}"
    every_database.create_slot(slot)
    every_database.sql(f"INSERT INTO {name} {FIRST_ROW.get(what, '(id) VALUES (1)')}")

    info = find_table(watcher(every_database), "public", name)

    assert info is not None
    (oid, (full_name, identity, columns)), *others = relations(every_database, slot, "p").items()
    assert (oid, full_name, others) == (info.oid, f"public|{name}", [])
    assert (info.identity, schema_columns(info)) == (identity, columns)


@pytest.mark.parametrize(
    ("what", "key", "identifies"),
    [
        ("plain", ("id",), True),
        ("composite", ("a", "c"), True),
        ("keyless", (), False),
        ("full", ("a",), True),
        ("nothing", ("a",), False),
        ("index", ("b", "c"), True),
        ("dropped index", (), False),
        ("deferrable", (), False),
        ("dropped column", ("id",), True),
    ],
)
def test_key_columns_are_the_primary_key_s_or_the_identity_index_s_in_attnum_order(
    database: Database, what: str, key: tuple[str, ...], identifies: bool
) -> None:
    database.sql(TABLES[what])
    ((oid,),) = database.sql("SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace")
    info = table_by_oid(watcher(database), oid)
    assert info is not None
    assert (info.key_columns, info.identifies_rows) == (key, identifies)
    # and PostgreSQL agrees that without an identity a published UPDATE fails
    name = info.name
    column = info.columns[-1].name
    database.sql(f"CREATE PUBLICATION p FOR TABLE ONLY {name}")
    if identifies:
        database.sql(f"UPDATE {name} SET {column} = {column}")
    else:
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            database.sql(f"UPDATE {name} SET {column} = {column}")


def test_generated_columns_are_carried_from_18_on_and_only_the_stored_ones(every_database: Database) -> None:
    version = every_database.server.version
    virtual = ", v int GENERATED ALWAYS AS (id * 3) VIRTUAL" if version >= 18 else ""
    every_database.sql(f"CREATE TABLE t (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id * 2) STORED{virtual}, z text)")
    info = find_table(watcher(every_database), "public", "t")
    assert info is not None
    assert {c.name: c.generated for c in info.columns} == {"id": "", "g": "s", "z": ""} | ({"v": "v"} if virtual else {})
    assert [c.name for c in info.replicated_columns] == (["id", "g", "z"] if version >= 18 else ["id", "z"])


def test_hostile_names_in_other_schemas_are_found_exactly(database: Database) -> None:
    schema, table = HOSTILE
    with database.connect_owner() as owner:
        identifier = psycopg.sql.Identifier
        owner.execute(psycopg.sql.SQL("CREATE SCHEMA {}").format(identifier(schema)))
        owner.execute(
            psycopg.sql.SQL("CREATE TABLE {} ({} int PRIMARY KEY)").format(identifier(schema, table), identifier(table))
        )
    database.sql("CREATE TABLE lower_ (id int); CREATE SCHEMA other; CREATE TABLE other.lower_ (id int, more text)")
    connection = watcher(database)
    info = find_table(connection, schema, table)
    assert info is not None
    assert (info.schema, info.name, info.key_columns) == (schema, table, (table,))
    assert find_table(connection, schema.lower(), table) is None
    assert find_table(connection, "public", "LOWER_") is None
    there = find_table(connection, "other", "lower_")
    assert there is not None
    assert [c.name for c in there.columns] == ["id", "more"]
    assert there.witnz_name == "other.lower_"


def test_a_table_s_traits_are_reported(database: Database) -> None:
    database.sql(
        """
        CREATE TABLE t (id int PRIMARY KEY, body text, short varchar(4));
        CREATE TABLE small (id int PRIMARY KEY, short varchar(4));
        CREATE UNLOGGED TABLE u (id int);
        CREATE VIEW v AS SELECT 1 AS id;
        CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TRIGGER trig BEFORE INSERT ON t EXECUTE FUNCTION f();
        CREATE RULE elsewhere AS ON INSERT TO t DO ALSO NOTHING;
        INSERT INTO t SELECT g, 'x', 'y' FROM generate_series(1, 500) g; ANALYZE t;
        """
    )
    connection = watcher(database)
    t, small, u, v = (find_table(connection, "public", name) for name in ("t", "small", "u", "v"))
    assert t and small and u and v
    assert (t.relkind, t.persistence, t.identity, t.owner) == ("r", "p", "d", "app_owner")
    assert (t.rules, t.triggers, t.estimated_rows, t.toast_risk) == (("elsewhere",), ("trig",), 500, True)
    assert (small.toast_risk, small.estimated_rows, small.rules) == (False, None, ())
    assert (u.persistence, v.relkind, v.rules) == ("u", "v", ())
    assert [c.type_name for c in t.columns] == ["integer", "text", "character varying(4)"]
    database.sql("ALTER TABLE t REPLICA IDENTITY FULL")
    again = table_by_oid(connection, t.oid)
    assert again is not None
    assert not again.toast_risk
    assert table_by_oid(connection, 4_000_000_000) is None


def test_unstable_types_are_seen_through_arrays_domains_and_composites(database: Database) -> None:
    database.sql(
        """
        CREATE TYPE inner_ AS (n int, c regclass); CREATE TYPE outer_ AS (i inner_[]); CREATE DOMAIN dom AS regtype[];
        CREATE TABLE t (a regproc, b aclitem[], c outer_, d dom, e int[], f text, g oid, h regclass[]);
        """
    )
    info = find_table(watcher(database), "public", "t")
    assert info is not None
    assert {c.name: c.unstable_type for c in info.columns} == {
        **{"a": "regproc", "b": "aclitem", "c": "regclass", "d": "regtype", "h": "regclass"},
        **{"e": "", "f": "", "g": ""},
    }


def test_row_security_is_reported_where_it_would_filter_this_role(database: Database) -> None:
    database.sql("CREATE TABLE t (id int PRIMARY KEY)")
    connection, owner = watcher(database), database.connect_owner(options="-c search_path=pg_catalog")

    def seen(by: psycopg.Connection[Any]) -> tuple[bool, bool, bool]:
        info = find_table(by, "public", "t")
        assert info is not None
        return info.row_security, info.row_security_forced, info.filters_role

    assert seen(connection) == (False, False, False)
    database.sql("ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    assert (seen(connection), seen(owner)) == ((True, False, True), (True, False, False))
    database.sql("ALTER TABLE t FORCE ROW LEVEL SECURITY")
    assert (seen(connection), seen(owner)) == ((True, True, True), (True, True, True))


def test_leaf_partitions_are_found_at_any_depth_without_locking(database: Database) -> None:
    database.sql(
        """
        CREATE TABLE root (k int, id int, t text, PRIMARY KEY (k, id)) PARTITION BY LIST (k);
        CREATE TABLE leaf1 PARTITION OF root FOR VALUES IN (1);
        CREATE TABLE mid PARTITION OF root FOR VALUES IN (2) PARTITION BY RANGE (id);
        CREATE TABLE leaf2 PARTITION OF mid DEFAULT;
        CREATE TABLE late (t text, junk int, id int NOT NULL, k int NOT NULL, PRIMARY KEY (k, id));
        ALTER TABLE late DROP junk; ALTER TABLE root ATTACH PARTITION late FOR VALUES IN (3);
        CREATE TABLE parent (id int); CREATE TABLE child () INHERITS (parent);
        """
    )
    connection = watcher(database)
    root, mid, parent = (find_table(connection, "public", name) for name in ("root", "mid", "parent"))
    assert root and mid and parent
    with database.connect_owner(autocommit=False) as busy:
        busy.execute("LOCK TABLE root, leaf1, leaf2, late IN ACCESS EXCLUSIVE MODE")
        connection.execute("SET statement_timeout = '5s'")
        leaves = leaf_partitions(connection, root.oid)
        fingerprint(connection, [root.oid, *(leaf.oid for leaf in leaves)])
    assert {leaf.name for leaf in leaves} == {"leaf1", "leaf2", "late"}
    assert {(leaf.is_partition, leaf.partition_root) for leaf in leaves} == {(True, root.oid)}
    assert (root.is_partitioned, root.is_partition, root.partition_root) == (True, False, None)
    assert [leaf.name for leaf in leaf_partitions(connection, mid.oid)] == ["leaf2"]
    assert [leaf.name for leaf in leaf_partitions(connection, parent.oid)] == ["parent"]
    late = next(leaf for leaf in leaves if leaf.name == "late")
    assert [c.name for c in late.replicated_columns] == ["t", "id", "k"]
    assert late.key_columns == ("id", "k")


# -- fingerprints ----

CHANGES: dict[str, tuple[str, set[str]]] = {
    "insert": ("INSERT INTO t (id, n) VALUES (2, 2)", set()),
    "analyze": ("ANALYZE t", set()),
    "truncate": ("TRUNCATE t", {"class_row", "relfilenode"}),
    "cluster": ("CLUSTER t USING t_pkey", {"class_row", "relfilenode"}),
    "rename": ("ALTER TABLE t RENAME TO t2", {"class_row", "name"}),
    "rename and back": ("ALTER TABLE t RENAME TO t2; ALTER TABLE t2 RENAME TO t", {"class_row"}),
    "other schema": ("ALTER TABLE t SET SCHEMA other", {"class_row", "schema", "schema_oid", "schema_row"}),
    "schema renamed": ("ALTER SCHEMA public RENAME TO p2", {"schema", "schema_row"}),
    "schema renamed and back": ("ALTER SCHEMA public RENAME TO p2; ALTER SCHEMA p2 RENAME TO public", {"schema_row"}),
    "column added": ("ALTER TABLE t ADD x int", {"class_row", "columns"}),
    "column with default added": ("ALTER TABLE t ADD x int DEFAULT 7", {"class_row", "columns", "missing_values"}),
    "column dropped": ("ALTER TABLE t DROP note", {"columns"}),
    "column renamed": ("ALTER TABLE t RENAME note TO note2", {"columns"}),
    "column retyped": ("ALTER TABLE t ALTER note TYPE varchar(9) USING 'lie'", {"class_row", "columns", "relfilenode"}),
    "rewritten in place": ("ALTER TABLE t ALTER n TYPE int USING 999", {"class_row", "relfilenode"}),
    "unlogged and logged": ("ALTER TABLE t SET UNLOGGED; ALTER TABLE t SET LOGGED", {"class_row", "relfilenode"}),
    "unlogged": ("ALTER TABLE t SET UNLOGGED", {"class_row", "relfilenode", "persistence"}),
    "identity": ("ALTER TABLE t REPLICA IDENTITY FULL", {"class_row", "identity"}),
    "identity index": ("ALTER TABLE t REPLICA IDENTITY USING INDEX t_n", {"class_row", "identity", "keys"}),
    "row security": ("ALTER TABLE t ENABLE ROW LEVEL SECURITY", {"class_row", "row_security"}),
    "forced": ("ALTER TABLE t FORCE ROW LEVEL SECURITY", {"class_row", "row_security_forced"}),
    "enum renamed": ("ALTER TYPE mood RENAME VALUE 'sad' TO 'glad'", {"types"}),
    "enum renamed and back": (
        "ALTER TYPE mood RENAME VALUE 'sad' TO 'glad'; ALTER TYPE mood RENAME VALUE 'glad' TO 'sad'",
        {"types"},
    ),
    "composite extended": ("ALTER TYPE pair ADD ATTRIBUTE z int", {"types"}),
    "composite renamed": ("ALTER TYPE pair RENAME ATTRIBUTE x TO y", {"types"}),
    "unused type": ("CREATE TYPE third AS ENUM ('x'); ALTER TYPE third RENAME VALUE 'x' TO 'y'", set()),
    "rule": ("CREATE RULE r AS ON UPDATE TO t DO INSTEAD NOTHING", {"class_row", "has_rules", "rules"}),
    "trigger": ("CREATE TRIGGER g AFTER INSERT ON t EXECUTE FUNCTION f()", {"class_row", "triggers"}),
    "attached": (
        "CREATE TABLE root (LIKE t) PARTITION BY LIST (id); ALTER TABLE root ATTACH PARTITION t FOR VALUES IN (1)",
        {"class_row", "is_partition", "parents"},
    ),
    "child": ("CREATE TABLE child () INHERITS (t)", {"class_row", "children"}),
    "grant": ("GRANT UPDATE ON t TO witnz", {"class_row"}),
}
SETUP = """
CREATE SCHEMA other;
CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE TYPE pair AS (x int, m mood[]); CREATE DOMAIN dom AS pair;
CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 1, note text, d dom);
CREATE UNIQUE INDEX t_n ON t (n);
INSERT INTO t (id) VALUES (1);
"""


def fingerprint_of(connection: psycopg.Connection[Any], oid: int) -> TableFingerprint:
    return fingerprint(connection, [oid])[oid]


def test_a_fingerprint_says_what_changed(every_database: Database) -> None:
    every_database.sql(SETUP)
    ((oid,),) = every_database.sql("SELECT 't'::regclass::oid")
    owner = every_database.connect_owner()
    found = {}
    for what, (statements, _) in CHANGES.items():
        with owner.transaction(force_rollback=True):
            before = fingerprint_of(owner, oid)
            owner.execute(statements.encode())
            found[what] = set(before.changes(fingerprint_of(owner, oid)))
    # Whether the table's own row moves with DDL on a part of it is PostgreSQL's business; that the part shows is ours.
    assert {what: fields - {"class_row"} for what, fields in found.items()} == {
        what: fields - {"class_row"} for what, (_, fields) in CHANGES.items()
    }
    assert {what for what, (_, fields) in CHANGES.items() if "class_row" in fields - found[what]} == set()
    assert found["insert"] == found["analyze"] == found["unused type"] == set()


def test_vacuum_leaves_a_fingerprint_alone_and_vacuum_full_moves_only_the_file(database: Database) -> None:
    database.sql(SETUP + "ALTER TABLE t ADD x int DEFAULT 7")
    ((oid,),) = database.sql("SELECT 't'::regclass::oid")
    connection = watcher(database)
    before = fingerprint_of(connection, oid)
    database.sql("VACUUM (FREEZE, ANALYZE) t")
    assert before.changes(fingerprint_of(connection, oid)) == ()
    database.sql("VACUUM FULL t")
    assert before.changes(fingerprint_of(connection, oid)) == ("class_row", "relfilenode", "missing_values")


def test_a_changed_trigger_function_and_missing_value_show(database: Database) -> None:
    database.sql(
        SETUP
        + "ALTER TABLE t ADD x int DEFAULT 7, ADD y int DEFAULT 8; CREATE TRIGGER g AFTER INSERT ON t EXECUTE FUNCTION f();"
    )
    ((oid,),) = database.sql("SELECT 't'::regclass::oid")
    connection = watcher(database)
    before = fingerprint_of(connection, oid)
    database.sql("CREATE OR REPLACE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    changed = fingerprint_of(connection, oid)
    assert before.changes(changed) == ("triggers",)
    database.sql(
        "UPDATE pg_attribute SET attmissingval = (SELECT attmissingval FROM pg_attribute"
        " WHERE attrelid = 't'::regclass AND attname = 'y') WHERE attrelid = 't'::regclass AND attname = 'x'",
        user="postgres",
    )
    assert database.sql("SELECT x FROM t") == [(8,)]  # what the catalog edit did: every row reads differently
    assert changed.changes(fingerprint_of(connection, oid)) == ("missing_values",)


def test_fingerprints_of_many_tables_come_together_and_absent_ones_are_left_out(database: Database) -> None:
    database.sql(SETUP + "CREATE TABLE second (m mood); CREATE TABLE third (id int);")
    oids = dict(database.sql("SELECT relname, oid FROM pg_class WHERE relname IN ('t', 'second', 'third')"))
    connection = watcher(database)
    found = fingerprint(connection, [*oids.values(), 4_000_000_000])
    assert {oid: (f.oid, f.name) for oid, f in found.items()} == {oid: (oid, name) for name, oid in oids.items()}
    database.sql("ALTER TYPE mood RENAME VALUE 'sad' TO 'glad'")
    later = fingerprint(connection, list(oids.values()))
    assert {f.name: found[oid].changes(f) for oid, f in later.items()} == {"t": ("types",), "second": ("types",), "third": ()}
    assert fingerprint(connection, []) == {}
