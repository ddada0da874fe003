"""The decoder: on messages built by hand, and on what real servers send."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.pgoutput import (
    OID,
    UNCHANGED_VALUE,
    conninfo_of,
    format_begin,
    format_commit,
    format_delete,
    format_insert,
    format_relation,
    format_update,
    open_decoder,
    open_feed,
)
from tests.support.postgres import Database
from witnz.core.entry import SchemaColumn
from witnz.core.lsn import parse_lsn
from witnz.core.timestamp import PG_EPOCH_US
from witnz.errors import FormatError
from witnz.postgres.pgoutput import Begin, Commit, Decoder, LogicalMessage, Origin, Relation, Rows, Truncate
from witnz.postgres.session import connect

MESSAGE = b"M\1" + struct.pack(">Q", 77) + b"witnz\0" + struct.pack(">I", 5) + b"hello"
TRUNCATE = b"T" + struct.pack(">IBI", 1, 3, OID)
ORIGIN = b"O" + struct.pack(">Q", 88) + b"elsewhere\0"
TYPE = b"Y" + struct.pack(">I", 99) + b"public\0mood\0"


def copy_lines(database: Database, query: str) -> list[bytes]:
    """What COPY writes, under a scan's settings."""
    with connect(conninfo_of(database), scan=True) as scanner, scanner.cursor().copy(f"COPY ({query}) TO STDOUT") as copy:
        return [bytes(row).removesuffix(b"\n") for row in copy]


def rows_of(events: Sequence[object]) -> list[Rows]:
    return [event for event in events if isinstance(event, Rows)]


# -- by hand --


def test_every_kind_of_message_becomes_its_event() -> None:
    payloads = [
        format_begin(1000, 5, 700),
        ORIGIN,
        TYPE,
        format_relation(2, keys=(1,), identity=b"i"),
        MESSAGE,
        format_insert([b"a", None]),
        format_insert([b"b", b"\t"]),
        format_update([b"c", b"1"]),
        format_update([b"c", b"2"], [None, b"1"], b"K"),
        format_update([b"c", b"3"], [b"c", b"2"], b"O"),
        format_delete([None, b"3"]),
        format_delete([b"c", b"3"], b"O"),
        TRUNCATE,
        format_commit(1000, 1100, 6),
        b"M\0" + MESSAGE[2:],
    ]
    assert Decoder().decode(payloads) == [
        Begin(1000, PG_EPOCH_US + 5, 700),
        Origin(88, "elsewhere"),
        Relation(OID, "public", "t", "i", (SchemaColumn("c0", 25, -1, False), SchemaColumn("c1", 25, -1, True))),
        LogicalMessage(True, 77, "witnz", b"hello"),
        Rows(OID, b"insert", [b"a\t\\N", b"b\t\\t"], [], False, ()),
        Rows(OID, b"update", [b"c\t1"], [None], False, ()),
        Rows(OID, b"update", [b"c\t2"], [b"\\N\t1"], False, ()),
        Rows(OID, b"update", [b"c\t3"], [b"c\t2"], True, ()),
        Rows(OID, b"delete", [], [b"\\N\t3"], False, ()),
        Rows(OID, b"delete", [], [b"c\t3"], True, ()),
        Truncate((OID,), True, True),
        Commit(1000, 1100, PG_EPOCH_US + 6),
        LogicalMessage(False, 77, "witnz", b"hello"),
    ]


def test_memory_views_are_as_good_as_bytes() -> None:
    payloads = [format_begin(), format_relation(1), *[format_insert([b"%d" % i]) for i in range(9)], format_commit()]
    assert Decoder().decode([memoryview(payload) for payload in payloads]) == Decoder().decode(payloads)
    assert Decoder().decode([]) == []


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 7))
def test_however_a_stream_is_cut_into_batches_the_rows_are_the_same(kinds: list[int], size: int) -> None:
    make: list[Callable[[int], bytes]] = [
        lambda i: format_insert([b"%d" % i, None]),
        lambda i: format_insert([b"%d" % i, b"v"]),
        lambda i: format_update([b"%d" % i, b"w"]),
        lambda i: format_delete([b"%d" % i, None]),
    ]
    payloads = [format_begin(), format_relation(2), *[make[kind](i) for i, kind in enumerate(kinds)], format_commit()]

    def flatten(events: Sequence[object]) -> list[object]:
        return [(rows.op, line) for rows in rows_of(events) for line in rows.new or rows.old]

    decoder = Decoder()
    cut = [event for at in range(0, len(payloads), size) for event in decoder.decode(payloads[at : at + size])]
    assert flatten(cut) == flatten(Decoder().decode(payloads))
    assert len(flatten(cut)) == len(kinds)


def test_rows_of_two_tables_in_turn_stay_apart() -> None:
    other = OID + 1
    payloads = [format_insert([b"%d" % i], OID + i % 2) for i in range(4)]
    decoder = open_decoder(1)
    decoder.decode([format_relation(1, oid=other)])
    assert [(event.oid, event.new) for event in rows_of(decoder.decode(payloads))] == [
        (OID, [b"0"]),
        (other, [b"1"]),
        (OID, [b"2"]),
        (other, [b"3"]),
    ]


def test_a_relation_described_anew_counts_from_there_on() -> None:
    decoder = open_decoder(2, keys=(0,))
    decoder.decode([format_update([b"1", b"2"], [b"0", None], b"K")] * 3)
    decoder.decode([format_relation(3, keys=(1,))])
    (event,) = decoder.decode([format_update([b"1", b"2", b"3"], [None, b"0", None], b"K")])
    assert rows_of([event])[0].old == [b"\\N\t0\t\\N"]
    with pytest.raises(FormatError, match="expected a tuple of 3 columns"):
        decoder.decode([format_insert([b"1", b"2"])])


def test_an_unchanged_key_is_taken_by_the_key_of_now() -> None:
    decoder = open_decoder(2, keys=(0,))
    message = format_update([UNCHANGED_VALUE, UNCHANGED_VALUE], [b"a", b"b"], b"K")
    assert rows_of(decoder.decode([message]))[0].new == [b"a\t\\U"]
    decoder.decode([format_relation(2, keys=(1,))])
    assert rows_of(decoder.decode([message]))[0].new == [b"\\U\tb"]


def test_a_logical_message_may_hold_any_bytes() -> None:
    content = bytes(range(256))
    message = b"M\0" + struct.pack(">Q", 1) + "préfixe\0".encode() + struct.pack(">I", 256) + content
    assert Decoder().decode([message]) == [LogicalMessage(False, 1, "préfixe", content)]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "empty"),
        (b"S" + b"\0" * 5, "unknown type"),  # streamed transactions are protocol 2
        (b"P" + b"\0" * 30, "unknown type"),
        (b"z", "unknown type"),
        (b"\xff", "unknown type"),
        (format_begin(), "found a Begin"),
        (format_begin() + b"\0", "expected 21 bytes"),
        (format_commit()[:-1], "expected 26 bytes"),
        (format_commit(1001, 1100), "expected the LSN that Begin named"),
        (format_commit(1000, 1000), "a later end"),
        (b"C\1" + format_commit()[2:], "expected flags 0"),
        (format_insert([b"1", b"2"], oid=1), "expected a relation that was described"),
        (b"I" + struct.pack(">I", OID), "expected a relation and a tuple"),
        (b"I" + struct.pack(">I", OID) + b"K" + format_insert([b"1", b"2"])[6:], "tuple of kind N"),
        (b"D" + struct.pack(">I", OID) + b"N" + format_insert([b"1", b"2"])[6:], "tuple of kind K, O"),
        (b"U" + struct.pack(">I", OID) + b"X" + format_insert([b"1", b"2"])[6:], "tuple of kind N, K, O"),
        (format_delete([b"1", None]) + b"N" + format_insert([b"1", b"2"])[6:], "expected the message's end"),
        (b"U" + format_delete([b"1", None])[1:], "expected the new tuple N"),
        (TRUNCATE + b"\0", "expected the message's end"),
        (TRUNCATE[:-1], "expected the message's end"),
        (b"T" + struct.pack(">IB", 1, 0), "expected the message's end"),
        (b"T" + struct.pack(">IBI", 1, 4, OID), "expected flags 0 to 3"),
        (b"T" + struct.pack(">IBI", 1, 0, 1), "expected a relation that was described"),
        (b"T" + struct.pack(">IB", 1 << 31, 0), "expected the message's end"),
        (MESSAGE + b"!", "expected the message's end"),
        (MESSAGE[:-1], "expected the message's end"),
        (b"M\2" + MESSAGE[2:], "expected flags 0 or 1"),
        (MESSAGE[:12], "NUL byte"),
        (b"M\1" + struct.pack(">Q", 77) + b"\xff\0" + struct.pack(">I", 0), "UTF-8"),
        (ORIGIN[:-1], "NUL byte"),
        (ORIGIN + b"\0", "expected the message's end"),
        (TYPE[:-1], "NUL byte"),
        (TYPE + b"\0", "expected the message's end"),
        (format_relation(2)[:-1], "found the message's end"),
        (format_relation(2) + b"\0", "expected the message's end"),
        (format_relation(2, identity=b"x"), "expected a replica identity"),
        (format_relation(2).replace(b"\1c0", b"\2c0"), "expected column flags"),
        (format_relation(2).replace(b"public", b"publi\xff"), "UTF-8"),
    ],
)
def test_what_does_not_follow_the_grammar_is_refused_and_named(payload: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason) as caught:
        open_decoder(2).decode([payload])
    assert "in the transaction committed at 0/3E8" in caught.value.message
    if payload:
        assert caught.value.message.startswith(f"pgoutput message {payload[:1].decode('latin-1')} ")


@pytest.mark.parametrize(
    "payload", [format_insert([b"1", b"2"]), TRUNCATE, MESSAGE, ORIGIN, TYPE, format_relation(2), format_commit()]
)
def test_what_belongs_to_a_transaction_is_refused_outside_of_one(payload: bytes) -> None:
    decoder = open_decoder(2)
    decoder.decode([format_commit()])
    with pytest.raises(FormatError, match="within a transaction") as caught:
        decoder.decode([payload])
    assert "after the transaction that ended at 0/418" in caught.value.message


@pytest.mark.parametrize("message", [format_relation(3), TYPE, ORIGIN, MESSAGE, TRUNCATE, format_commit()])
def test_every_truncation_of_a_message_is_refused(message: bytes) -> None:
    for size in range(1, len(message)):
        with pytest.raises(FormatError):
            open_decoder(2).decode([message[:size]])


@given(st.binary(max_size=60))
def test_no_bytes_at_all_do_worse_than_a_refusal(payload: bytes) -> None:
    try:
        Decoder().decode([payload])
        open_decoder(2).decode([payload])
    except FormatError:
        pass


# -- from real servers --


def hostile_rows(count: int) -> list[tuple[Any, ...]]:
    choose = random.Random(7)
    pieces = [
        "\\",
        "\t",
        "\n",
        "\r",
        "\b",
        "\v",
        "\f",
        "\x01",
        "\x7f",
        "é",
        "表",
        "😀",
        "\u2028",
        "t",
        "n",
        "u",
        "N",
        "\\N",
        "\\.",
        "'",
        ",",
    ]

    def text() -> str | None:
        if choose.random() < 0.25:
            return None
        return "".join(choose.choice(pieces) for _ in range(choose.choice([0, 1, 3, 8, 0x74, 300])))

    return [(i, text(), text(), text(), choose.choice([None, choose.randbytes(9)]), text()) for i in range(count)]


def test_inserted_rows_are_the_lines_that_copy_writes(every_database: Database) -> None:
    database = every_database
    database.sql(
        "CREATE TABLE hostile (id int PRIMARY KEY, a text, b text, dropped int, c text, d bytea, e text,"
        " f double precision DEFAULT 1.1, g timestamptz DEFAULT '2026-11-21 18:09:40.5+09', h interval DEFAULT '1 mon 2 days',"
        " i numeric DEFAULT 'NaN', j jsonb DEFAULT '{\"a\\\\b\": [1, null]}', k text[] DEFAULT ARRAY['x\"y', NULL, E'\\\\n'],"
        " l bool DEFAULT true, m date DEFAULT '0044-03-15 BC', n money DEFAULT 12345.67);"
        "ALTER TABLE hostile DROP COLUMN dropped"
    )
    rows = hostile_rows(700)
    with open_feed(database, "hostile") as feed, database.connect_owner() as owner, owner.cursor() as cursor:
        cursor.executemany("INSERT INTO hostile (id, a, b, c, d, e) VALUES (%s, %s, %s, %s, %s, %s)", rows[:100])
        with cursor.copy("COPY hostile (id, a, b, c, d, e) FROM STDIN") as copy:
            for row in rows[100:]:
                copy.write_row(row)
        lines = [line for event in rows_of(feed.take_events()) for line in event.new]
        assert lines == copy_lines(database, "SELECT * FROM ONLY public.hostile ORDER BY id")
        assert len(lines) == 700
        cursor.execute("UPDATE hostile SET a = b, e = a WHERE id % 2 = 0; DELETE FROM hostile WHERE id % 7 = 0")
        updates, deletes = rows_of(feed.take_events())
        current = copy_lines(database, "SELECT * FROM ONLY public.hostile ORDER BY id")
        changed = {line.split(b"\t")[0]: line for line in updates.new}
        assert updates.old == [None] * 350
        assert all(changed.get(line.split(b"\t")[0], line) == line for line in current)
        assert len(changed) == 350
        assert sorted(filter(None, deletes.old)) == sorted(b"%d" % i + b"\t\\N" * 14 for i in range(0, 700, 7))


def test_a_relation_is_described_as_the_catalog_has_it(every_database: Database) -> None:
    database = every_database
    database.sql(
        "CREATE TYPE mood AS ENUM ('fine'); CREATE DOMAIN short AS varchar(7);"
        'CREATE TABLE "Wéird ""t""" (b varchar(12), gone int, "K 2" mood NOT NULL, a numeric(9,2) NOT NULL, d short,'
        ' g int GENERATED ALWAYS AS (1) STORED, PRIMARY KEY (a, "K 2")); ALTER TABLE "Wéird ""t""" DROP COLUMN gone'
    )
    with open_feed(database, '"Wéird ""t"""') as feed:
        database.sql("""INSERT INTO "Wéird ""t\""" VALUES ('x', 'fine', 1, 'y')""")
        assert rows_of(feed.take_events())[0].new == [b"x\tfine\t1.00\ty"]
        assert any(payload[:1] == b"Y" for payload in feed.payloads)
        database.sql('ALTER TABLE "Wéird ""t""" REPLICA IDENTITY FULL')
        database.sql("""INSERT INTO "Wéird ""t\""" VALUES ('x', 'fine', 2, 'y')""")
        feed.take()
    (oid,) = database.sql("SELECT oid::bigint FROM pg_class WHERE relname LIKE 'W%'")[0]
    columns = database.sql(
        "SELECT attname, atttypid::bigint, atttypmod, attname IN ('a', 'K 2') FROM pg_attribute"
        f" WHERE attrelid = {oid} AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum"
    )
    described = tuple(SchemaColumn(*column) for column in columns)
    full = tuple(SchemaColumn(column.name, column.typoid, column.typmod, True) for column in described)
    assert feed.relations == [
        Relation(oid, "public", 'Wéird "t"', "d", described),
        Relation(oid, "public", 'Wéird "t"', "f", full),
    ]


def test_transactions_come_whole_with_their_ids_times_and_positions(every_database: Database) -> None:
    database = every_database
    database.sql("CREATE TABLE t (id int PRIMARY KEY)")
    with open_feed(database, "t") as feed:
        before_us = time.time_ns() // 1000
        owner = database.connect_owner(autocommit=False)
        xids = []
        for i in range(3):
            owner.execute("INSERT INTO t VALUES (%s)", [i])
            owner.execute("SAVEPOINT s")
            owner.execute("INSERT INTO t VALUES (%s)", [100 + i])
            owner.execute("ROLLBACK TO s" if i == 1 else "RELEASE s")
            owner.execute("INSERT INTO t VALUES (%s)", [200 + i])
            xids.append(int(owner.execute("SELECT pg_current_xact_id()::text").fetchone()[0]))
            owner.commit()
        owner.execute("INSERT INTO t VALUES (999)")
        owner.rollback()
        after_lsn = parse_lsn(database.sql("SELECT pg_current_wal_insert_lsn()::text")[0][0])
        transactions = feed.take()
        after_us = time.time_ns() // 1000
    assert [[line for rows in rows_of(events) for line in rows.new] for events in transactions] == [
        [b"0", b"100", b"200"],
        [b"1", b"201"],
        [b"2", b"102", b"202"],
    ]
    last_end = 0
    for events, xid in zip(transactions, xids, strict=True):
        begin, commit = events[0], events[-1]
        assert isinstance(begin, Begin)
        assert isinstance(commit, Commit)
        assert begin.xid == xid % (1 << 32)
        assert begin.final_lsn == commit.commit_lsn
        assert last_end <= begin.final_lsn < commit.end_lsn <= after_lsn
        assert before_us <= begin.commit_us == commit.commit_us <= after_us
        last_end = commit.end_lsn


def test_a_prepared_transaction_comes_when_it_is_committed(every_database: Database) -> None:
    database = every_database
    database.sql("CREATE TABLE t (id int PRIMARY KEY)")
    with open_feed(database, "t") as feed:
        owner = database.connect_owner()
        owner.execute("BEGIN; INSERT INTO t VALUES (1)")
        xid = int(owner.execute("SELECT pg_current_xact_id()::text").fetchone()[0])
        owner.execute(f"PREPARE TRANSACTION '{database.name}_a'")
        owner.execute("INSERT INTO t VALUES (2)")
        assert [line for rows in rows_of(feed.take_events()) for line in rows.new] == [b"2"]
        owner.execute(f"COMMIT PREPARED '{database.name}_a'")
        owner.execute(f"BEGIN; INSERT INTO t VALUES (3); PREPARE TRANSACTION '{database.name}_b'")
        owner.execute(f"ROLLBACK PREPARED '{database.name}_b'")
        (events,) = feed.take()
    begin, rows, _ = events
    assert isinstance(begin, Begin)
    assert begin.xid == xid
    assert rows_of([rows])[0].new == [b"1"]


def test_a_changed_key_brings_the_old_one(every_database: Database) -> None:
    database = every_database
    database.sql("CREATE TABLE t (a int, b text, c text, PRIMARY KEY (c, a)); INSERT INTO t VALUES (1, 'x', 'k')")
    with open_feed(database, "t") as feed:
        database.sql("UPDATE t SET b = 'y'")
        database.sql("UPDATE t SET a = 2")
        database.sql("UPDATE t SET c = E'new\\tkey', b = NULL")
        database.sql("DELETE FROM t")
        assert [(rows.op, rows.new, rows.old, rows.whole) for rows in rows_of(feed.take_events())] == [
            (b"update", [b"1\ty\tk"], [None], False),
            (b"update", [b"2\ty\tk"], [b"1\t\\N\tk"], False),
            (b"update", [b"2\t\\N\tnew\\tkey"], [b"2\t\\N\tk"], False),
            (b"delete", [], [b"2\t\\N\tnew\\tkey"], False),
        ]


@pytest.mark.since(14, "logical messages in the stream")
def test_an_index_as_identity_gives_its_columns(database: Database) -> None:
    database.sql(
        "CREATE TABLE t (id int PRIMARY KEY, mail text NOT NULL); CREATE UNIQUE INDEX by_mail ON t (mail);"
        "ALTER TABLE t REPLICA IDENTITY USING INDEX by_mail; INSERT INTO t VALUES (1, 'a@b')"
    )
    with open_feed(database, "t") as feed:
        database.sql("UPDATE t SET mail = 'c@d'; DELETE FROM t")
        update, delete = rows_of(feed.take_events())
        assert (update.old, delete.old) == ([b"\\N\ta@b"], [b"\\N\tc@d"])
        assert feed.relations[0].identity == "i"


def test_an_unchanged_toast_value_is_unresolved_unless_the_identity_is_full(every_database: Database) -> None:
    database = every_database
    long = "".join(chr(0x4E00 + i * 7919 % 20000) for i in range(4000))  # too varied to be compressed into the row
    line = long.encode()
    for table in ("plain", "whole"):
        database.sql(
            f"CREATE TABLE {table} (id int PRIMARY KEY, n int, long text); ALTER TABLE {table} ALTER long SET STORAGE EXTERNAL"
        )
    database.sql("ALTER TABLE whole REPLICA IDENTITY FULL")
    with open_feed(database, "plain", "whole") as feed, database.connect_owner() as owner:
        for table in ("plain", "whole"):
            owner.execute(
                f"INSERT INTO {table} SELECT i, 0, CASE i WHEN 2 THEN 'short' ELSE %s END FROM generate_series(1, 3) i", [long]
            )
        inserts = rows_of(feed.take_events())
        assert [len(rows.new) for rows in inserts] == [3, 3]
        assert all(rows.unresolved == () and rows.new[0] == b"1\t0\t" + line for rows in inserts)
        owner.execute("UPDATE plain SET n = 1; UPDATE whole SET n = 1")
        plain, whole = rows_of(feed.take_events())
        assert plain == Rows(plain.oid, b"update", [b"1\t1\t\\U", b"2\t1\tshort", b"3\t1\t\\U"], [None] * 3, False, (0, 2))
        assert whole.unresolved == ()
        assert whole.whole
        assert whole.new == [b"1\t1\t" + line, b"2\t1\tshort", b"3\t1\t" + line]
        assert whole.old == [b"1\t0\t" + line, b"2\t0\tshort", b"3\t0\t" + line]
        owner.execute("UPDATE plain SET long = long || '!' WHERE id = 1; DELETE FROM whole WHERE id = 1")
        plain, whole = rows_of(feed.take_events())
        assert plain.new == [b"1\t1\t" + line + b"!"]
        assert (whole.old, whole.whole) == ([b"1\t1\t" + line], True)


@pytest.mark.since(14, "logical messages in the stream")
def test_a_long_key_is_carried_with_every_update(database: Database) -> None:
    database.sql("CREATE TABLE t (id text PRIMARY KEY, n int); ALTER TABLE t ALTER id SET STORAGE EXTERNAL")
    key = "k" * 2500  # out of line, and still below an index's limit
    with open_feed(database, "t") as feed, database.connect_owner() as owner:
        owner.execute("INSERT INTO t VALUES (%s, 1)", [key])
        owner.execute("UPDATE t SET n = 2")
        _, update = rows_of(feed.take_events())
        assert update.new == [key.encode() + b"\t2"]
        assert update.old == [key.encode() + b"\t\\N"]
        assert update.unresolved == ()
        assert any(payload[payload.rindex(b"N") + 3 :][:1] == b"u" for payload in feed.payloads if payload[:1] == b"U")


def test_truncations_name_all_their_tables(every_database: Database) -> None:
    database = every_database
    database.sql(
        "CREATE TABLE a (id serial PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a);"
        "CREATE TABLE c (id int PRIMARY KEY)"
    )
    oids = dict(database.sql("SELECT relname, oid::bigint FROM pg_class WHERE relname IN ('a', 'b', 'c')"))
    with open_feed(database, "a", "b", "c") as feed:
        database.sql("TRUNCATE a, c CASCADE")
        database.sql("TRUNCATE c RESTART IDENTITY")
        first, second = feed.take_events()
    assert isinstance(first, Truncate)
    assert (set(first.oids), first.cascade, first.restart) == ({oids["a"], oids["b"], oids["c"]}, True, False)
    assert second == Truncate((oids["c"],), False, True)


def test_messages_come_where_they_were_written(every_database: Database) -> None:
    database = every_database
    database.sql("CREATE TABLE t (id int PRIMARY KEY)")
    with open_feed(database, "t") as feed, database.connect_owner(autocommit=False) as owner:
        for i in (1, 2):
            owner.execute("SELECT pg_logical_emit_message(true, 'witnz', %s)", [f'{{"by":"é{i}"}}'])
            owner.execute("INSERT INTO t VALUES (%s)", [i])
        owner.execute("SELECT pg_logical_emit_message(false, 'now', '\\x00ff'::bytea)")
        owner.commit()
        events = feed.take_events()
    now, *rest = events
    assert isinstance(now, LogicalMessage)
    assert (now.transactional, now.prefix, now.content) == (False, "now", b"\0\xff")
    assert [(e.transactional, e.prefix, e.content) if isinstance(e, LogicalMessage) else e.new for e in rest] == [
        (True, "witnz", '{"by":"é1"}'.encode()),
        [b"1"],
        (True, "witnz", '{"by":"é2"}'.encode()),
        [b"2"],
    ]


@pytest.mark.since(14, "logical messages in the stream")
def test_rows_replicated_from_elsewhere_say_so(database: Database) -> None:
    database.sql("CREATE TABLE t (id int PRIMARY KEY)")
    admin = database.connect_admin()
    with open_feed(database, "t") as feed:
        name = f"far_{database.name}"
        admin.execute("SELECT pg_replication_origin_create(%s)", [name])
        try:
            admin.execute("SELECT pg_replication_origin_session_setup(%s)", [name])
            admin.execute("INSERT INTO public.t VALUES (1)")
            origin, rows = feed.take_events()
            admin.execute("SELECT pg_replication_origin_session_reset()")
        finally:
            admin.execute("SELECT pg_replication_origin_drop(%s)", [name])
    assert isinstance(origin, Origin)
    assert origin.name == name
    assert rows_of([rows])[0].new == [b"1"]


@pytest.mark.since(14, "logical messages in the stream")
def test_a_partitions_rows_carry_the_leaf(database: Database) -> None:
    database.sql(
        "CREATE TABLE p (id int, v text) PARTITION BY RANGE (id); CREATE TABLE p1 (v text, id int);"
        "ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (10)"
    )
    database.sql("ALTER TABLE p1 REPLICA IDENTITY FULL")
    with open_feed(database, "p1") as feed:
        database.sql("INSERT INTO p VALUES (1, 'x')")
        (rows,) = rows_of(feed.take_events())
        assert rows.new == [b"x\t1"]
        assert [relation.name for relation in feed.relations] == ["p1"]


@pytest.mark.since(14, "logical messages in the stream")
def test_a_value_of_more_than_sixteen_mebibytes_is_read(database: Database) -> None:
    database.sql("CREATE TABLE t (id int PRIMARY KEY, big text)")
    with open_feed(database, "t") as feed:
        database.sql("INSERT INTO t VALUES (0, 'x'), (1, repeat('tn', 9000000)), (2, 'y')")
        lines = [line for rows in rows_of(feed.take_events()) for line in rows.new]
    assert [len(line) for line in lines] == [3, 18000002, 3]
    assert lines[1] == b"1\t" + b"tn" * 9000000


@pytest.mark.since(14, "logical messages in the stream")
def test_recorded_messages_decode_alike_one_at_a_time(database: Database) -> None:
    database.sql("CREATE TABLE t (id int PRIMARY KEY, a text, b text)")
    with open_feed(database, "t") as feed:
        database.sql(
            "INSERT INTO t SELECT i, nullif(i % 3, 0)::text, CASE WHEN i % 5 > 0 THEN E'\\t' END FROM generate_series(1, 500) i"
        )
        together = [line for rows in rows_of(feed.take_events()) for line in rows.new]
    decoder = Decoder()
    alone = [line for payload in feed.payloads for rows in rows_of(decoder.decode([payload])) for line in rows.new]
    assert len(alone) == 500
    assert alone == together
