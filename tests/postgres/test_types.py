"""The canonical row has two sources, and they give the same bytes: the stream's text values and a scan's COPY (formats.md 1).

Every built-in type that can be a column (``reg*`` and ``aclitem`` are refused at protection), arrays, ranges, enums, domains
and composite types, each with the values that formatting code gets wrong; and every extension type that the server offers.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.support.postgres import Database
from witnz.core.rowline import format_line, parse_line
from witnz.postgres.catalog import TableInfo, find_table, schema_columns
from witnz.postgres.pgoutput import Decoder, Relation, Rows
from witnz.postgres.scan import SnapshotScan
from witnz.postgres.session import Conninfo, connect
from witnz.postgres.stream import ReplicationStream

SETUP = r"""
CREATE SCHEMA "Odd types";
CREATE TYPE "Odd types".mood AS ENUM ('low', E'ta\tb', 'quo"te''s', 'back\slash', 'com,ma', '', ' blank ', 'é表😀');
CREATE TYPE "Odd types".pair AS (a int, b text, c timestamptz, d float8, e "Odd types".mood[]);
CREATE DOMAIN "Odd types".code AS varchar(40) CHECK (value <> 'forbidden');
CREATE DOMAIN "Odd types".pair_domain AS "Odd types".pair;
CREATE TYPE "Odd types".float_range AS RANGE (subtype = float8);
"""

TEXTS = (
    *("''", r"E'\\N'", r"E'\\.'", r"E'\\'", r"E'\\\\N'", r"E'\t'", r"E'\n'", r"E'\r\n'", r"E'\b\f\v'", r"E'a\tb\nc\\d\re'"),
    *("'NULL'", "'null'", "' '", "'  lead and trail  '", "'it''s \"quoted\" {braces} (parens), commas; | pipes'"),
    *("chr(1) || chr(27) || chr(31) || chr(127)", "chr(128) || chr(133) || chr(160) || chr(8232) || chr(65279)"),
    *("'żółć 日本語 ﷽ 😀👨‍👩‍👧'", "'e' || chr(769)", "chr(1114111)", "'\\t is no tab'", "'<nil>'"),
    *("repeat('long\t', 3000)", "repeat('€', 5000)", "repeat(E'\\\\', 4001)"),
)
FLOATS = (
    "'NaN'",
    "'Infinity'",
    "'-Infinity'",
    "'-0'",
    "0",
    "0.1",
    "1e15",
    "1e16",
    "123456789",
    "0.30000000000000004",
    "100000",
)

TYPES: dict[str, tuple[str, ...]] = {
    "boolean": ("true", "false"),
    "smallint": ("-32768", "32767", "0"),
    "integer": ("-2147483648", "2147483647"),
    "bigint": ("'-9223372036854775808'", "9223372036854775807"),
    "real": (*FLOATS, "1e-45", "3.4028235e38", "16777217", "1.17549435e-38"),
    "double precision": (*FLOATS, "5e-324", "1.7976931348623157e308", "pi()", "2.2250738585072014e-308", "9007199254740993"),
    "numeric": ("'NaN'", "0", "'-0.000'", "1.10", "1e131", "1e-130", "12345678901234567890.09876543210", "'-1.500'", "0.0001"),
    "numeric(12,3)": ("1", "'-999999999.999'", "'NaN'", "0.0005"),
    "money": ("'0.01'", "'-92233720368547758.08'", "'1234567.89'"),
    "text": TEXTS,
    "varchar": TEXTS,
    "varchar(12)": ("''", r"E'\\N'", "'twelve chars'", "'日本語日本語日本語日本語'"),
    "char(8)": ("''", "'ab'", "'ab   '", "'日本'", r"E'a\tb'", r"E'\\'"),
    "bpchar": ("'x   '", r"E'\n '"),
    '"char"': ("'a'", "''", r"E'\t'", r"E'\\'"),
    "name": ("'plain'", r"E'a\\b\tc'", "repeat('é', 31)"),
    "bytea": (r"'\x'", r"'\x00ff5c0a0900'", "decode(repeat('deadbeef', 3000), 'hex')", r"'\\'::bytea", "'abc'::bytea"),
    "date": (
        "'2024-02-29'",
        "'infinity'",
        "'-infinity'",
        "'0001-12-31 BC'",
        "'4713-01-01 BC'",
        "'5874897-12-31'",
        "'0099-01-01'",
    ),
    "time": ("'24:00:00'", "'00:00:00.000001'", "'12:34:56.5'"),
    "time(2)": ("'12:34:56.789'", "'23:59:59.999'"),
    "timetz": ("'12:34:56.789+05:30'", "'24:00:00-15:59'", "'00:00:00+00'"),
    "timestamp": (
        "'infinity'",
        "'-infinity'",
        "'2024-03-31 02:30'",
        "'0044-03-15 10:00:00.123456 BC'",
        "'294276-12-31 23:59:59.999999'",
    ),
    "timestamptz": (
        "'infinity'",
        "'-infinity'",
        "'2024-03-31 02:30+00'",
        "'2024-10-27 01:30+02'",
        "'0044-03-15 10:00+00 BC'",
        "'1880-01-01+00'",
    ),
    "timestamptz(3)": ("'2024-03-31 02:30:00.9996+00'",),
    "interval": (
        "'1 year 2 mons -3 days +04:05:06.7'",
        "'0'",
        "'-178000000 years'",
        "'1 mon -1 hour'",
        "'-00:00:00.000001'",
        "'P1Y2M10DT2H30M'",
    ),
    "interval day to second(2)": ("'1 12:34:56.789'",),
    "uuid": ("'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "'00000000-0000-0000-0000-000000000000'"),
    "json": ("""E'{ "b" : 1,\\n\\t"a": "\\\\u00e9\\\\n\\\\\\\\", "b":2 }'""", "'null'", "'[ 1 , 2.0 ]'", "'\"\"'"),
    "jsonb": (
        """E'{ "b" : 1, "a": "\\\\u00e9\\\\n\\\\\\\\", "b":2, "aa":[1.0,1.00,1e2,-0] }'""",
        "'null'",
        "'[]'",
        "'\"\\u0001\"'",
    ),
    "jsonpath": ("""'$.a[*] ? (@.b > 1 && @.c like_regex "^x\\\\d" flag "i")'""", "'strict $'"),
    "point": ("'(1.5,-0)'", "'(NaN,Infinity)'", "'(1e300,1e-300)'"),
    "line": ("'{1,-1,0.1}'",),
    "lseg": ("'[(0,0),(1,0.1)]'",),
    "box": ("'(0,0),(1,1)'",),
    "path": ("'[(0,0),(1,1)]'", "'((0,0),(1,1),(2,0))'"),
    "polygon": ("'((0,0),(1,1),(2,0))'",),
    "circle": ("'<(0.1,0.2),0.3>'",),
    "inet": ("'192.168.1.5/24'", "'::1'", "'fe80::1/64'", "'10.0.0.1'", "'::ffff:1.2.3.4/128'"),
    "cidr": ("'192.168.0.0/16'", "'2001:db8::/32'", "'10/8'"),
    "macaddr": ("'08:00:2b:01:02:03'",),
    "macaddr8": ("'08:00:2b:01:02:03:04:05'",),
    "bit(5)": ("B'10101'", "B'00000'"),
    "bit varying(70)": ("B''", "B'0011'"),
    "tsvector": ("'a fat cat'", r"$$'it''s' 'back\\slash':1A,2B 'com,ma':3$$", "''"),
    "tsquery": (r"$$'fat' & ( rat | !cat ) <-> 'd\\og':*AB$$", "''"),
    "int4range": ("'[1,5)'", "'empty'", "'(,)'", "'[,3]'"),
    "int8range": ("'[-9223372036854775808,9223372036854775806]'",),
    "numrange": ("'[1.10,2.50]'", "'(,-0.0]'", "'[NaN,NaN]'"),
    "tsrange": ("'[2024-01-01,infinity]'", "'[2024-01-01 10:00:00.5,)'"),
    "tstzrange": ("'[2024-01-01 00:00+00,2024-06-01 12:00+02)'", "'empty'"),
    "daterange": ("'[2024-01-01,2024-02-01]'", "'(,infinity)'"),
    "oid": ("4294967295", "0"),
    "xid": ("'4294967295'",),
    "xid8": ("'18446744073709551615'",),
    "cid": ("'7'",),
    "tid": ("'(4294967294,65535)'",),
    "pg_lsn": ("'FFFFFFFF/FFFFFFFF'", "'0/0'"),
    "txid_snapshot": ("'10:20:10,14,15'",),
    "pg_snapshot": ("'10:20:10,14,15'", "'5:5:'"),
    "int2vector": ("'1 2 3'", "''"),
    "oidvector": ("'1 2 4294967295'",),
    "refcursor": (r"E'cursor\t'",),
    "integer[]": ("'{}'", "'{1,NULL,3}'", "'[0:1][-1:0]={{1,2},{3,4}}'"),
    "text[]": (
        r"""ARRAY['a', '', NULL, 'NULL', 'null', 'a"b', E'a\\b', E'tab\tnl\n', '{x}', 'a,b', ' lead', 'é😀']""",
        "'{}'",
        "'{{a,b},{c,d}}'",
    ),
    "bytea[]": (r"ARRAY['\x00ff'::bytea, '\x5c']",),
    "double precision[]": ("'{NaN,Infinity,-0,0.1}'",),
    "timestamptz[]": ("ARRAY['2024-01-01 00:00+00'::timestamptz, NULL]",),
    "interval[]": ("ARRAY['1 day 02:00'::interval]",),
    "jsonb[]": ("""ARRAY['{"a":"b\\"c"}'::jsonb]""",),
    "box[]": ("'{(1,1),(0,0);(2,2),(1,1)}'",),
    "numeric[]": ("'{1.00,NaN}'",),
    "money[]": ("ARRAY['1.5'::money]",),
    "bit(1)[]": ("ARRAY[B'1', B'0']",),
    '"Odd types".mood': ("'low'", r"E'ta\tb'", "'quo\"te''s'", r"'back\slash'", "'com,ma'", "''", "' blank '", "'é表😀'"),
    '"Odd types".mood[]': (r"""ARRAY['low', E'ta\tb', 'back\slash', NULL, '']::"Odd types".mood[]""",),
    '"Odd types".pair': (
        r"""ROW(1, E'a"b\\c,(d)\t\n', NULL, 'NaN', ARRAY['back\slash', 'quo"te''s']::"Odd types".mood[])""",
        "ROW(NULL, NULL, NULL, NULL, NULL)",
        "ROW(1, '', '2024-01-01 00:00+00', '-0', '{}')",
    ),
    '"Odd types".pair[]': (r"""ARRAY[ROW(1, E'a"b\\c', NULL, 0.1, NULL)::"Odd types".pair, NULL]""",),
    '"Odd types".code': (r"E'x\ty'", "'NULL'"),
    '"Odd types".code[]': ("""ARRAY['q', 'w w', '']::"Odd types".code[]""",),
    '"Odd types".pair_domain': ("ROW(1, 'a', NULL, 2, NULL)",),
    '"Odd types".float_range': ("'[0.1,1e300)'", "'[-Infinity,NaN]'"),
}
XML = {"xml": ("""E'<?xml version="1.0"?><a b="1">\\n\\té</a>'""", "'plain text'", "'<a/>'")}
SINCE = {
    14: {
        "int4multirange": ("'{[1,3),[5,7)}'", "'{}'"),
        "tstzmultirange": ("'{[2024-01-01 00:00+00,2024-06-01 12:00+02)}'",),
        "numeric /* infinite */": ("'Infinity'", "'-Infinity'"),
    },
    17: {"interval /* infinite */": ("'infinity'", "'-infinity'")},
}
EXTENSIONS = {
    "hstore": ("hstore", (r"""'a=>1, "b c"=>NULL, "q\"x"=>"y\\z", bb=>""'""", "''")),
    "citext": ("citext", ("'CaSe'", r"E't\tab\\'")),
    "ltree": ("ltree", ("'Top.Science.Astro'", "''")),
    "cube": ("cube", ("'(1,2),(3,0.1)'", "'(0.1)'")),
    "seg": ("seg", ("'1.50 .. 2.0'", "'~3'")),
    "isn": ("isbn13", ("'978-0-393-04002-9'",)),
    "intarray": ("query_int", ("'1&(2|3)&!4'",)),
    "vector": ("vector(3)", ("'[1,-0,0.1]'", "'[1e30,2,3]'")),
}

# What an adversary, or an honest DBA, may set for the role: pinned settings win (threats.md B08).
HOSTILE_SETTINGS = {
    "datestyle": "German, DMY",
    "intervalstyle": "sql_standard",
    "timezone": "Asia/Kathmandu",
    "extra_float_digits": "-3",
    "bytea_output": "escape",
    "search_path": "Odd types",
    "quote_all_identifiers": "on",
    "row_security": "on",
}


def columns_of(database: Database) -> dict[str, tuple[str, ...]]:
    """Type to values, for this server."""
    found = dict(TYPES)
    with contextlib.suppress(psycopg.errors.FeatureNotSupported):  # a server that was built without libxml
        database.sql("SELECT '<a/>'::xml")
        found |= XML
    for version, more in SINCE.items():
        if database.server.version >= version:
            found |= more
    for (extension,) in database.sql("SELECT name FROM pg_available_extensions"):
        if extension in EXTENSIONS:
            database.sql(f"CREATE EXTENSION {extension} SCHEMA public", user="postgres")
            name, values = EXTENSIONS[extension]
            found[f"public.{name}"] = values
    return found


def conninfo(database: Database) -> Conninfo:
    return Conninfo.from_conninfo(database.witnz_dsn)


def scanned(database: Database, info: TableInfo) -> list[bytes]:
    with connect(conninfo(database), scan=True) as connection, SnapshotScan(connection, info) as scan:
        return [line for lines in scan.lines() for line in lines]


def by_id(lines: list[bytes]) -> list[bytes]:
    """Physical order is not that of writing: rows go where there is room."""
    return sorted(lines, key=lambda line: int(line.partition(b"\t")[0]))


def table(database: Database, name: str = "t") -> TableInfo:
    with connect(conninfo(database)) as connection:
        info = find_table(connection, "public", name)
    assert info is not None
    return info


def streamed(database: Database, slot: str, rows: int) -> Iterator[Rows | Relation]:
    """Relations and rows until ``rows`` rows have come."""
    decoder = Decoder()
    deadline = time.monotonic() + 60
    with ReplicationStream(conninfo(database), slot, ["p"], start_lsn=0) as stream:
        while rows > 0:
            assert time.monotonic() < deadline, f"{rows} rows have not come"
            for event in decoder.decode(stream.read(1000, 1.0).payloads):
                if isinstance(event, Rows):
                    rows -= max(len(event.new), len(event.old))
                    yield event
                elif isinstance(event, Relation):
                    yield event


def make_typed_table(database: Database) -> list[str]:
    """A table ``t`` with a column of every type; its rows as lists of SQL values, the last one of nothing but NULLs."""
    database.sql(SETUP)
    columns = columns_of(database)
    declared = ", ".join(f'"c{number}" {name}' for number, name in enumerate(columns))
    database.sql(f"CREATE TABLE t (id int PRIMARY KEY, {declared})")
    count = max(map(len, columns.values()))
    rows = [", ".join([str(row), *(values[row % len(values)] for values in columns.values())]) for row in range(count)]
    return [*rows, str(count)]


@pytest.fixture
def typed(every_database: Database) -> tuple[Database, str, int]:
    """A table with a column of every type, published, a slot, then its rows: (database, slot, number of rows)."""
    database = every_database
    rows = make_typed_table(database)
    for setting, value in HOSTILE_SETTINGS.items():
        database.sql(f"ALTER ROLE witnz IN DATABASE {database.name} SET {setting} = '{value}'", user="postgres")
    database.create_publication("p", "t")
    slot = f"s_{database.name}"
    database.create_slot(slot)
    owner = database.connect_owner()
    for row in rows:
        owner.execute(f"INSERT INTO t VALUES ({row})".encode())
    return database, slot, len(rows)


def test_stream_and_scan_give_the_same_line_for_every_type(typed: tuple[Database, str, int]) -> None:
    database, slot, count = typed
    events = list(streamed(database, slot, count))
    from_stream = [line for event in events if isinstance(event, Rows) for line in event.new]
    info = table(database)
    from_scan = scanned(database, info)

    assert by_id(from_stream) == by_id(from_scan)
    assert len(from_scan) == count
    for line in from_scan:
        assert format_line(parse_line(line)) == line
        assert line.count(b"\t") == len(info.columns) - 1
    relations = [event for event in events if isinstance(event, Relation)]
    assert {relation.columns for relation in relations} == {schema_columns(info)}


def test_old_rows_of_updates_and_deletes_are_what_a_scan_saw_before(typed: tuple[Database, str, int]) -> None:
    """REPLICA IDENTITY FULL, with values out of line: the stream leaves them out of the new row and gives the old one whole."""
    database, slot, count = typed
    database.sql("ALTER TABLE t REPLICA IDENTITY FULL; ALTER TABLE t ADD touched int")
    info = table(database)
    before = by_id(scanned(database, info))
    database.sql("UPDATE t SET touched = id")
    after = by_id(scanned(database, info))
    database.sql("DELETE FROM t")
    seen = [event for event in streamed(database, slot, 3 * count) if isinstance(event, Rows)]
    updates = [event for event in seen if event.op == b"update"]
    deletes = [event for event in seen if event.op == b"delete"]
    assert by_id([line for event in updates for line in event.old if line is not None]) == before
    assert by_id([line for event in updates for line in event.new]) == after
    assert all(event.whole and not event.unresolved for event in [*updates, *deletes])
    assert by_id([line for event in deletes for line in event.old if line is not None]) == after


def test_any_text_in_any_column_is_the_line_that_the_format_says(every_database: Database) -> None:
    """Neither source is asked here: the values are known, and formats.md 1 says what their line is."""
    database = every_database
    database.sql("CREATE TABLE t (id int PRIMARY KEY, a text, b varchar, c text)")
    database.create_publication("p", "t")
    slot = f"s_{database.name}"
    database.create_slot(slot)
    drawn = random.Random(20)
    alphabet = [*"\\\t\n\r\b\f\vN.xnt \x01\x7f", "\u0085", "\u2028", "é", "😀"]

    def value() -> str | None:
        if drawn.random() < 0.2:
            return None
        return "".join(drawn.choices(alphabet, k=drawn.choice([0, 1, 2, 3, 8, 40])))

    rows: list[tuple[Any, ...]] = [(number, value(), value(), value()) for number in range(2000)]
    with database.connect_owner().cursor() as cursor:
        cursor.executemany("INSERT INTO t VALUES (%s, %s, %s, %s)", rows)
    lines = [format_line([None if cell is None else str(cell).encode() for cell in row]) for row in rows]
    info = table(database)
    assert by_id(scanned(database, info)) == lines
    assert [line for e in streamed(database, slot, len(rows)) if isinstance(e, Rows) for line in e.new] == lines


@pytest.mark.parametrize("encoding", ["LATIN1", "EUC_JP", "WIN1251"])
def test_a_database_in_another_encoding_gives_utf8_lines_from_both(database: Database, encoding: str) -> None:
    text = {"LATIN1": "é\xa0ß", "EUC_JP": "日本語\\", "WIN1251": "Привет\t№"}[encoding]
    name = f"{database.name}_{encoding.lower()}"
    create = f"CREATE DATABASE {name} OWNER app_owner TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'"
    database.sql(create, user="postgres")
    other = Database(database.server, name)
    try:
        other.sql("CREATE TABLE public.t (id int PRIMARY KEY, v text)", user="postgres")
        other.sql("GRANT SELECT ON public.t TO witnz; CREATE PUBLICATION p FOR TABLE ONLY public.t", user="postgres")
        other.create_slot(f"s_{name}")
        with other.connect_admin(client_encoding="utf8") as admin:
            admin.execute("INSERT INTO public.t VALUES (1, %s)", (text,))
        line = format_line([b"1", text.encode()])
        assert scanned(other, table(other)) == [line]
        assert [line for e in streamed(other, f"s_{name}", 1) if isinstance(e, Rows) for line in e.new] == [line]
    finally:
        other.drop()
