"""The kinds of tables that can be protected, as their applications make and change them, and what each change must lead to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Change = tuple[str, ...]
"""(op, key line), of a table without a key (op, row line).  A third part is the row line, where the row does not outlive its
transaction.  The op "unresolved" is an update whose row hash nobody can know."""


@dataclass(frozen=True)
class Step:
    """One transaction of the application, the entries it must lead to, and what it says of itself."""

    sql: str
    changes: tuple[Change, ...]
    by: str | None = None
    hint: str | None = None
    since: int = 13  # the major version of PostgreSQL that brought such a statement


@dataclass(frozen=True)
class Kind:
    """A table as its application makes and changes it.  ``columns`` and ``key`` are SQL lists, in attnum order."""

    table: str  # SQL
    ddl: str
    columns: str
    key: str | None
    steps: tuple[Step, ...]
    name: str = ""  # in the configuration, if not as in SQL
    config: dict[str, Any] = field(default_factory=dict)
    whole: bool = False  # the stream carries whole old rows
    hidden: bool = False
    since: int = 0  # server version
    until: int = 99
    columns_18: str = ""  # from PostgreSQL 18 on, where stored generated columns are carried
    recorded_columns: tuple[str, ...] | None = None  # of the schema entry, where not all that are not generated

    def steps_on(self, version: int) -> list[Step]:
        """Those that a server of this major version understands."""
        return [step for step in self.steps if step.since <= version]


def step(sql: str, *changes: Change, by: str | None = None, hint: str | None = None, since: int = 13) -> Step:
    return Step(sql, changes, by, hint, since)


LONG = "k" * 1024
LONGER = "k" * 1025
BIG = "(SELECT string_agg(md5((g * {n})::text), '') FROM generate_series(1, 300) g)"

KINDS = {
    "one key": Kind(
        "plain",
        "CREATE TABLE plain (id bigint PRIMARY KEY, note text, at timestamptz);"
        "INSERT INTO plain SELECT g, 'note ' || g, '2026-01-01' FROM generate_series(1, 20) g",
        "id, note, at",
        "id",
        (
            step("INSERT INTO plain VALUES (21, NULL, NULL)", ("insert", "21"), by="alice", hint="ticket 7"),
            step(
                "INSERT INTO plain SELECT g, '', now() FROM generate_series(31, 33) g",
                *[("insert", f"{g}") for g in (31, 32, 33)],
            ),
            step("UPDATE plain SET note = 'other' WHERE id = 5", ("update", "5"), by="Bob\tO'Brien \\ 日本"),
            step("UPDATE plain SET note = note WHERE id = 6", ("update", "6")),
            step("DELETE FROM plain WHERE id = 7", ("delete", "7"), hint="only a hint\nin two lines"),
            step("INSERT INTO plain VALUES (5, 'x') ON CONFLICT (id) DO UPDATE SET note = 'upsert'", ("update", "5")),
            step("INSERT INTO plain VALUES (5, 'x') ON CONFLICT DO NOTHING; INSERT INTO plain VALUES (40)", ("insert", "40")),
            step(
                "SAVEPOINT s; DELETE FROM plain; ROLLBACK TO s; INSERT INTO plain VALUES (41); SAVEPOINT t;"
                "INSERT INTO plain VALUES (42); RELEASE t",
                ("insert", "41"),
                ("insert", "42"),
            ),
            step(
                "MERGE INTO plain p USING (VALUES (41, 'merged'), (43, 'new')) v (id, note) ON p.id = v.id"
                " WHEN MATCHED THEN UPDATE SET note = v.note WHEN NOT MATCHED THEN INSERT VALUES (v.id, v.note)",
                ("update", "41"),
                ("insert", "43"),
                since=15,
            ),
            step("DELETE FROM plain WHERE id = 8; INSERT INTO plain VALUES (8, 'again')", ("delete", "8"), ("insert", "8")),
            step("TRUNCATE plain", ("truncate", "")),
            step("INSERT INTO plain VALUES (1, 'a new beginning')", ("insert", "1"), by="carol"),
        ),
    ),
    "composite key": Kind(
        "orders",
        "CREATE TABLE orders (region text, what text, no int, PRIMARY KEY (no, region));"
        "INSERT INTO orders SELECT 'r' || g % 3, 'w', g FROM generate_series(1, 9) g",
        "region, what, no",
        "region, no",
        (
            step("INSERT INTO orders VALUES ('r0', 'x', 1)", ("insert", "r0\t1")),
            step("UPDATE orders SET what = 'y' WHERE no = 1", ("update", "r1\t1"), ("update", "r0\t1")),
            step("UPDATE orders SET no = 77 WHERE no = 2", ("delete", "r2\t2"), ("update", "r2\t77")),
            step("DELETE FROM orders WHERE no = 3", ("delete", "r0\t3")),
            step("TRUNCATE orders", ("truncate", "")),
            step("INSERT INTO orders VALUES ('', 'x', 0)", ("insert", "\t0")),
        ),
    ),
    "hostile keys": Kind(
        "hostile",
        "CREATE TABLE hostile (a text, b text, v int, PRIMARY KEY (a, b));"
        r"INSERT INTO hostile VALUES (E'tab\there', E'back\\slash', 1), ('', '', 2), (E'\\N', 'null?', 3),"
        r" (E'\\H' || repeat('a', 64), 'hidden?', 4), (E'line\nfeed\r', E'\x01\x7f', 5),"
        r" ('Zürich 東京 🗼', E'\'\x22quotes\x22', 6)",
        "a, b, v",
        "a, b",
        (
            step(r"UPDATE hostile SET v = 10 WHERE v = 1", ("update", "tab\\there\tback\\\\slash")),
            step(r"UPDATE hostile SET v = 20 WHERE v = 2", ("update", "\t")),
            step(r"UPDATE hostile SET v = 30 WHERE v = 3", ("update", "\\\\N\tnull?")),
            step(r"DELETE FROM hostile WHERE v = 4", ("delete", "\\\\H" + "a" * 64 + "\thidden?")),
            step(r"UPDATE hostile SET v = 50 WHERE v = 5", ("update", "line\\nfeed\\r\t\x01\x7f")),
            step(
                r"UPDATE hostile SET b = E'\t' WHERE v = 6",
                ("delete", 'Zürich 東京 🗼\t\'"quotes"'),
                ("update", "Zürich 東京 🗼\t\\t"),
            ),
            step(r"INSERT INTO hostile VALUES (E'\\', E'\\t', 7)", ("insert", "\\\\\t\\\\t")),
        ),
    ),
    "one hostile key": Kind(
        "hostile_one",
        r"CREATE TABLE hostile_one (v int, k text PRIMARY KEY);"
        r"INSERT INTO hostile_one VALUES (1, E'\\N'), (2, ''), (3, E'\t')",
        "v, k",
        "k",
        (
            step(r"UPDATE hostile_one SET v = 4 WHERE k = E'\\N'", ("update", "\\\\N")),
            step(r"UPDATE hostile_one SET k = E'\n' WHERE k = ''", ("delete", ""), ("update", "\\n")),
            step(r"DELETE FROM hostile_one WHERE k = E'\t'", ("delete", "\\t")),
        ),
    ),
    "hidden keys": Kind(
        "patients",
        "CREATE TABLE patients (ssn text, born date, name text, PRIMARY KEY (ssn, born));"
        "INSERT INTO patients SELECT '078-05-' || g, '1990-01-01', 'n' FROM generate_series(1, 9) g",
        "ssn, born, name",
        "ssn, born",
        (
            step("INSERT INTO patients VALUES ('078-05-77', '2000-02-29', 'x')", ("insert", "078-05-77\t2000-02-29")),
            step("UPDATE patients SET name = 'm' WHERE ssn = '078-05-1'", ("update", "078-05-1\t1990-01-01")),
            step(
                "UPDATE patients SET ssn = 'new' WHERE ssn = '078-05-2'",
                ("delete", "078-05-2\t1990-01-01"),
                ("update", "new\t1990-01-01"),
            ),
            step("DELETE FROM patients WHERE ssn = '078-05-3'", ("delete", "078-05-3\t1990-01-01")),
        ),
        config={"keys": "hidden"},
        hidden=True,
    ),
    "long keys": Kind(
        "longkeys",
        "CREATE TABLE longkeys (k text PRIMARY KEY, v int);"
        f"INSERT INTO longkeys VALUES ('{LONG}', 1), ('{LONGER}', 2), ('s', 3)",
        "k, v",
        "k",
        (
            step(f"INSERT INTO longkeys VALUES ('{LONGER}!', 4)", ("insert", f"{LONGER}!")),
            step("UPDATE longkeys SET v = v + 10 WHERE v = 2", ("update", LONGER)),
            step(f"UPDATE longkeys SET k = '{LONGER}?' WHERE v = 1", ("delete", LONG), ("update", f"{LONGER}?")),
            step("DELETE FROM longkeys WHERE v = 12", ("delete", LONGER)),
            # 1,023 bytes of value and two of an escape: 1,025 of key line
            step(f"INSERT INTO longkeys VALUES ('{LONG[:1023]}' || chr(9), 5)", ("insert", LONG[:1023] + "\\t")),
        ),
    ),
    "a key that is TOASTed": Kind(
        "toastkey",
        "CREATE TABLE toastkey (k text PRIMARY KEY, v int, big text); ALTER TABLE toastkey ALTER k SET STORAGE EXTERNAL;"
        "INSERT INTO toastkey SELECT repeat('k' || g, 1100), g, '' FROM generate_series(1, 3) g",
        "k, v, big",
        "k",
        (
            step("UPDATE toastkey SET v = 20 WHERE v = 2", ("update", "k2" * 1100)),
            step("UPDATE toastkey SET k = 'short' WHERE v = 1", ("delete", "k1" * 1100), ("update", "short")),
            step("DELETE FROM toastkey WHERE v = 3", ("delete", "k3" * 1100)),
        ),
    ),
    "a deferrable key and FULL": Kind(
        "deferred",
        "CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v int);"
        "ALTER TABLE deferred REPLICA IDENTITY FULL; INSERT INTO deferred VALUES (1, 1), (2, 2)",
        "id, v",
        None,
        (
            step(
                "UPDATE deferred SET id = 3 - id",
                ("delete", "1\t1"),
                ("update", "2\t1"),
                ("delete", "2\t2"),
                ("update", "1\t2"),
            ),
            step("DELETE FROM deferred WHERE id = 1", ("delete", "1\t2")),
        ),
        whole=True,
    ),
    "a key and FULL": Kind(
        "fullkey",
        "CREATE TABLE fullkey (v text, id int PRIMARY KEY, n int); ALTER TABLE fullkey REPLICA IDENTITY FULL;"
        "INSERT INTO fullkey SELECT 'v', g, NULL FROM generate_series(1, 5) g",
        "v, id, n",
        "id",
        (
            step("UPDATE fullkey SET n = 1 WHERE id = 1", ("update", "1")),
            step("UPDATE fullkey SET id = 99 WHERE id = 2", ("delete", "2"), ("update", "99")),
            step("DELETE FROM fullkey WHERE id = 3", ("delete", "3")),
            step("UPDATE fullkey SET n = n WHERE id = 4", ("update", "4")),
        ),
        whole=True,
    ),
    "no key and FULL": Kind(
        "pile",
        "CREATE TABLE pile (a int, b text); ALTER TABLE pile REPLICA IDENTITY FULL;"
        "INSERT INTO pile SELECT 1, 'same' FROM generate_series(1, 4); INSERT INTO pile VALUES (NULL, NULL), (2, 'other')",
        "a, b",
        None,
        (
            step("INSERT INTO pile SELECT 1, 'same' FROM generate_series(1, 3)", *[("insert", "1\tsame")] * 3),
            step("DELETE FROM pile WHERE ctid IN (SELECT ctid FROM pile WHERE a = 1 LIMIT 2)", *[("delete", "1\tsame")] * 2),
            step(
                "UPDATE pile SET b = 'new' WHERE ctid = (SELECT ctid FROM pile WHERE a = 1 LIMIT 1)",
                ("delete", "1\tsame"),
                ("update", "1\tnew"),
            ),
            step("UPDATE pile SET a = 7 WHERE a IS NULL", ("delete", "\\N\t\\N"), ("update", "7\t\\N"), by="dave"),
            step(
                "INSERT INTO pile VALUES (9, 'brief'); DELETE FROM pile WHERE a = 9",
                ("insert", "9\tbrief"),
                ("delete", "9\tbrief"),
            ),
            step("DELETE FROM pile WHERE a = 2", ("delete", "2\tother")),
            step("TRUNCATE pile", ("truncate", "")),
            step("INSERT INTO pile VALUES (1, 'same')", ("insert", "1\tsame")),
        ),
        whole=True,
    ),
    "no key, inserts only": Kind(
        "events",
        "CREATE TABLE events (a int, b text); INSERT INTO events SELECT 1, 'same' FROM generate_series(1, 3)",
        "a, b",
        None,
        (
            step("INSERT INTO events VALUES (1, 'same'), (2, NULL)", ("insert", "1\tsame"), ("insert", "2\t\\N")),
            step("TRUNCATE events", ("truncate", "")),
            step("INSERT INTO events VALUES (1, 'same')", ("insert", "1\tsame")),
        ),
        config={"inserts_only": True},
    ),
    "USING INDEX beside a primary key": Kind(
        "byindex",
        "CREATE TABLE byindex (id int PRIMARY KEY, b text NOT NULL, c int NOT NULL, v int);"
        "CREATE UNIQUE INDEX byindex_u ON byindex (c, b); ALTER TABLE byindex REPLICA IDENTITY USING INDEX byindex_u;"
        "INSERT INTO byindex SELECT g, 'b' || g, g, 0 FROM generate_series(1, 5) g",
        "id, b, c, v",
        "b, c",
        (
            step("UPDATE byindex SET v = 1 WHERE id = 1", ("update", "b1\t1")),
            step("UPDATE byindex SET id = 100 WHERE id = 2", ("update", "b2\t2")),
            step("UPDATE byindex SET c = 33 WHERE id = 3", ("delete", "b3\t3"), ("update", "b3\t33")),
            step("DELETE FROM byindex WHERE id = 4", ("delete", "b4\t4")),
        ),
    ),
    "USING INDEX without a primary key": Kind(
        "onlyindex",
        "CREATE TABLE onlyindex (v int, k uuid NOT NULL UNIQUE);"
        "ALTER TABLE onlyindex REPLICA IDENTITY USING INDEX onlyindex_k_key;"
        "INSERT INTO onlyindex SELECT g, md5(g::text)::uuid FROM generate_series(1, 4) g",
        "v, k",
        "k",
        (
            step("UPDATE onlyindex SET v = 9 WHERE v = 1", ("update", "c4ca4238-a0b9-2382-0dcc-509a6f75849b")),
            step("DELETE FROM onlyindex WHERE v = 2", ("delete", "c81e728d-9d4c-2f63-6f06-7f89cc14862c")),
        ),
    ),
    "quoted and non-ASCII names": Kind(
        '"Größe.n"."Ünï ""quoted"" 表"',
        'CREATE SCHEMA "Größe.n";'
        'CREATE TABLE "Größe.n"."Ünï ""quoted"" 表" ("select" int, "Id" int PRIMARY KEY, "Spalte ""x"".%" text);'
        """INSERT INTO "Größe.n"."Ünï ""quoted"" 表" SELECT g, g, 'x' FROM generate_series(1, 3) g""",
        '"select", "Id", "Spalte ""x"".%"',
        '"Id"',
        (
            step('UPDATE "Größe.n"."Ünï ""quoted"" 表" SET "select" = 9 WHERE "Id" = 1', ("update", "1")),
            step('DELETE FROM "Größe.n"."Ünï ""quoted"" 表" WHERE "Id" = 2', ("delete", "2")),
            step("""INSERT INTO "Größe.n"."Ünï ""quoted"" 表" VALUES (4, 4, 'y')""", ("insert", "4")),
        ),
        name='"Größe.n"."Ünï ""quoted"" 表"',
    ),
    "upper case in another schema": Kind(
        'sales."Orders"',
        'CREATE SCHEMA sales; CREATE TABLE sales."Orders" (id int PRIMARY KEY, v int);'
        "CREATE TABLE sales.orders (id int PRIMARY KEY, v int);"
        'INSERT INTO sales."Orders" VALUES (1, 1); INSERT INTO sales.orders VALUES (1, 1)',
        "id, v",
        "id",
        (step('UPDATE sales."Orders" SET v = 2; UPDATE sales.orders SET v = 3', ("update", "1")),),
        name='sales."Orders"',
    ),
    "generated and identity columns": Kind(
        "made",
        "CREATE TABLE made (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int,"
        " twice int GENERATED ALWAYS AS (a * 2) STORED, b text);"
        "INSERT INTO made (a, b) SELECT g, 'b' FROM generate_series(1, 5) g",
        "id, a, b",
        "id",
        (
            step("INSERT INTO made (a, b) VALUES (6, 'c')", ("insert", "6")),
            step("UPDATE made SET a = 100 WHERE id = 1", ("update", "1")),
            step("INSERT INTO made (id, a) OVERRIDING SYSTEM VALUE VALUES (50, 1)", ("insert", "50")),
            step("DELETE FROM made WHERE id = 2", ("delete", "2")),
        ),
        columns_18="id, a, twice, b",
    ),
    "generated columns and FULL": Kind(
        "madefull",
        "CREATE TABLE madefull (a int, twice int GENERATED ALWAYS AS (a * 2) STORED, b text);"
        "ALTER TABLE madefull REPLICA IDENTITY FULL; INSERT INTO madefull (a, b) VALUES (1, 'x'), (2, 'y')",
        "a, b",
        None,
        (
            step("UPDATE madefull SET a = 5 WHERE a = 1", ("delete", "1\tx"), ("update", "5\tx")),
            step("DELETE FROM madefull WHERE a = 2", ("delete", "2\ty")),
        ),
        whole=True,
        until=17,
    ),
    "generated columns that are carried and FULL": Kind(
        "madefull",
        "CREATE TABLE madefull (a int, twice int GENERATED ALWAYS AS (a * 2) STORED, b text);"
        "ALTER TABLE madefull REPLICA IDENTITY FULL; INSERT INTO madefull (a, b) VALUES (1, 'x'), (2, 'y')",
        "a, twice, b",
        None,
        (
            step("UPDATE madefull SET a = 5 WHERE a = 1", ("delete", "1\t2\tx"), ("update", "5\t10\tx")),
            step("DELETE FROM madefull WHERE a = 2", ("delete", "2\t4\ty")),
        ),
        whole=True,
        since=18,
    ),
    "columns left out": Kind(
        "lessened",
        "CREATE TABLE lessened (rc regclass, id int PRIMARY KEY, acl aclitem[], v int, rp regproc);"
        "INSERT INTO lessened SELECT 'pg_class', g, NULL, 0, 'now' FROM generate_series(1, 3) g",
        "id, v",
        "id",
        (
            step("UPDATE lessened SET v = 1 WHERE id = 1", ("update", "1")),
            step("UPDATE lessened SET rc = 'pg_type' WHERE id = 2", ("update", "2")),
            step("UPDATE lessened SET id = 9 WHERE id = 3", ("delete", "3"), ("update", "9")),
            step("INSERT INTO lessened VALUES ('pg_proc', 4, NULL, 4, 'now')", ("insert", "4")),
        ),
        config={"exclude_columns": ["rc", "acl", "rp"]},
        recorded_columns=("id", "v"),
    ),
    "columns left out and FULL": Kind(
        "lessfull",
        "CREATE TABLE lessfull (v int, rc regclass, w text); ALTER TABLE lessfull REPLICA IDENTITY FULL;"
        "INSERT INTO lessfull VALUES (1, 'pg_class', 'a'), (1, 'pg_type', 'a')",
        "v, w",
        None,
        (
            step("UPDATE lessfull SET v = 2 WHERE rc = 'pg_class'::regclass", ("delete", "1\ta"), ("update", "2\ta")),
            step("DELETE FROM lessfull WHERE v = 1", ("delete", "1\ta")),
        ),
        whole=True,
        config={"exclude_columns": ["rc"]},
        recorded_columns=("v", "w"),
    ),
    "TOASTed values and FULL": Kind(
        "toastfull",
        "CREATE TABLE toastfull (id int PRIMARY KEY, big text, v int, other text); ALTER TABLE toastfull REPLICA IDENTITY FULL;"
        f"INSERT INTO toastfull SELECT g, {BIG.format(n='g')}, 0, {BIG.format(n='3')} FROM generate_series(1, 3) g",
        "id, big, v, other",
        "id",
        (
            step("UPDATE toastfull SET v = 1 WHERE id = 1", ("update", "1")),
            step(f"UPDATE toastfull SET big = {BIG.format(n='5')} WHERE id = 2", ("update", "2")),
            step("UPDATE toastfull SET id = 30, v = 3 WHERE id = 3", ("delete", "3"), ("update", "30")),
            step(f"INSERT INTO toastfull VALUES (4, {BIG.format(n='7')}, 0, NULL)", ("insert", "4")),
            step("DELETE FROM toastfull WHERE id = 1", ("delete", "1")),
        ),
        whole=True,
    ),
    "TOASTed values, no key and FULL": Kind(
        "toastpile",
        "CREATE TABLE toastpile (big text, v int); ALTER TABLE toastpile REPLICA IDENTITY FULL;"
        "ALTER TABLE toastpile ALTER big SET STORAGE EXTERNAL;"
        "INSERT INTO toastpile VALUES (repeat('x', 9000), 1), (repeat('x', 9000), 1)",
        "big, v",
        None,
        (
            step(
                "UPDATE toastpile SET v = 2 WHERE ctid = (SELECT min(ctid) FROM toastpile)",
                ("delete", "x" * 9000 + "\t1"),
                ("update", "x" * 9000 + "\t2"),
            ),
            step("DELETE FROM toastpile WHERE v = 1", ("delete", "x" * 9000 + "\t1")),
        ),
        whole=True,
    ),
    "TOASTed values that are all written": Kind(
        "toastpart",
        "CREATE TABLE toastpart (id int PRIMARY KEY, big text, v int);"
        f"INSERT INTO toastpart SELECT g, {BIG.format(n='g')}, 0 FROM generate_series(1, 3) g",
        "id, big, v",
        "id",
        (
            step("UPDATE toastpart SET v = 1 WHERE id = 1", ("unresolved", "1")),
            step(f"UPDATE toastpart SET big = {BIG.format(n='9')} WHERE id = 1", ("update", "1")),
            step("UPDATE toastpart SET v = 2 WHERE id = 2", ("unresolved", "2")),
            step("DELETE FROM toastpart WHERE id = 2", ("delete", "2")),
        ),
    ),
    "an empty table": Kind(
        "nothing",
        "CREATE TABLE nothing (id int PRIMARY KEY, v int)",
        "id, v",
        "id",
        (step("INSERT INTO nothing VALUES (1, 1); DELETE FROM nothing", ("insert", "1", "1\t1"), ("delete", "1")),),
    ),
    "one column": Kind(
        "single",
        "CREATE TABLE single (id text PRIMARY KEY); INSERT INTO single VALUES ('a'), ('')",
        "id",
        "id",
        (
            step("UPDATE single SET id = 'b' WHERE id = 'a'", ("delete", "a"), ("update", "b")),
            step("DELETE FROM single WHERE id = ''", ("delete", "")),
            step("INSERT INTO single VALUES (E'\\n'), ('')", ("insert", "\\n"), ("insert", "")),
        ),
    ),
    "one column without a key": Kind(
        "singlepile",
        "CREATE TABLE singlepile (v text); ALTER TABLE singlepile REPLICA IDENTITY FULL;"
        "INSERT INTO singlepile VALUES (NULL), (''), ('')",
        "v",
        None,
        (
            step("DELETE FROM singlepile WHERE v IS NULL", ("delete", "\\N")),
            step("INSERT INTO singlepile VALUES (NULL)", ("insert", "\\N")),
            step("UPDATE singlepile SET v = 'x' WHERE ctid = '(0,2)'", ("delete", ""), ("update", "x")),
        ),
        whole=True,
    ),
    "a wide table with dropped columns": Kind(
        "wide",
        "CREATE TABLE wide (gone int, " + ", ".join(f"c{n} int" for n in range(400)) + ", id int PRIMARY KEY, last text);"
        "ALTER TABLE wide DROP gone, DROP c7, ADD added text DEFAULT 'd';"
        "INSERT INTO wide (id, c5, c399) SELECT g, g, g FROM generate_series(1, 4) g",
        "*",
        "id",
        (
            step("UPDATE wide SET c200 = 1, last = 'x' WHERE id = 1", ("update", "1")),
            step("INSERT INTO wide (id) VALUES (9)", ("insert", "9")),
            step("DELETE FROM wide WHERE id = 2", ("delete", "2")),
        ),
    ),
    "stored generated columns that are carried": Kind(
        "carried",
        "CREATE TABLE carried (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED,"
        " unseen int GENERATED ALWAYS AS (a * 3) VIRTUAL); INSERT INTO carried (id, a) VALUES (1, 1), (2, 2)",
        "id, a, twice",
        "id",
        (
            step("UPDATE carried SET a = 10 WHERE id = 1", ("update", "1")),
            step("DELETE FROM carried WHERE id = 2", ("delete", "2")),
        ),
        since=18,
        recorded_columns=("id", "a", "twice"),
    ),
}
