"""Generations: from the first baseline to every later one, under writes, with nothing lost and nothing doubled.

What must be recorded is told by a second slot: the old generation ends with exactly the transactions below L, the new one holds
its baseline and exactly the transactions that its snapshot does not see (formats.md 2).
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator
from itertools import groupby, pairwise

import psycopg
import pytest

from tests.support.node import TIMEOUT_S, wait
from tests.support.recorded import audit_problems, log_row, recorded, records, replayed
from tests.support.workshop import RECORD, Load, Workshop, open_workshop
from witnz.core.entry import chain_hash, content_hash, first_parent, format_entry, parse_schema_hint
from witnz.core.lsn import parse_lsn
from witnz.core.merkle import root_of
from witnz.postgres import catalog
from witnz.postgres.xid import parse_snapshot, widen


@pytest.fixture(scope="module")
def shop(pg_server, tmp_path_factory) -> Iterator[Workshop]:
    with open_workshop(pg_server, tmp_path_factory.mktemp("generations")) as made:
        yield made


# -- what must hold of every generation --------------------------------------------------------------------------------


def assert_generation(shop: Workshop, table: str, generation: int, *, keyed: bool = True) -> None:
    """This generation holds its baseline and exactly the transactions that it must, each whole and once, in stream order."""
    (record,) = [r for r in records(shop.protected, "table", table) if r.body["generation"] == generation]
    later = [r for r in records(shop.protected, "table", table) if r.body["generation"] == generation + 1]
    snapshot, end = parse_snapshot(record.body["snapshot"]), parse_lsn(later[0].body["lsn"]) if later else 1 << 64
    expected = []
    for at, kind in shop.judge.changes(record.body["oid"]):
        if not snapshot.visible(widen(at.xid, snapshot.xmax)) and at.final_lsn < end:
            # an update that changes the key, and any of a row without one, is a delete and an update
            expected += [(at.xid, at.final_lsn, at.at)] * (2 if kind == b"UK" or (kind == b"UO" and not keyed) else 1)
    found = recorded(shop.protected, table, generation)
    described = [e.hint for e in found if e.op == "schema"]
    assert found[0].op == "schema" and all(one != other for one, other in pairwise(described))
    told = [(e.xid, e.lsn, e.at) for e in found if e.op not in ("schema", "baseline")]
    assert [(xid, len(list(group))) for xid, group in groupby(told)] == [(x, len(list(g))) for x, g in groupby(expected)]
    assert {(e.lsn, e.xid, e.at) for e in found if e.op == "baseline"} <= {(parse_lsn(record.body["lsn"]), 0, record.at)}
    if keyed or not later:
        replayed(found, keyed=keyed)  # raises for a row that is doubled, or deleted without having been there


def assert_linked(shop: Workshop, table: str, generation: int) -> None:
    """``previous`` of this generation's record is the generation before, derived here from its entries."""
    (record,) = [r for r in records(shop.protected, "table", table) if r.body["generation"] == generation]
    lines = [format_entry(entry) for entry in recorded(shop.protected, table, generation - 1)]
    leaves = [content_hash(line) for line in lines]
    chain = first_parent(log_row(shop.protected, table, generation - 1).origin)
    for leaf in leaves:
        chain = chain_hash(chain, leaf)
    assert record.body["previous"] == {
        "size": len(lines),
        "root": base64.b64encode(root_of(leaves)).decode(),
        "chain": chain,
    }


def assert_recorded_as_it_is(shop: Workshop, table: str, *, keyed: bool = True) -> None:
    """The newest generation replays to what the table shows."""
    assert replayed(recorded(shop.protected, table), keyed=keyed) == Counter(shop.live_hashes(table))


# -- the first generation ----------------------------------------------------------------------------------------------


def test_a_transaction_older_than_the_opening_is_waited_for_and_recorded_once(shop: Workshop) -> None:
    shop.publish(
        "straddle",
        "CREATE TABLE straddle (id int PRIMARY KEY, v text);"
        "INSERT INTO straddle SELECT g, 'was' FROM generate_series(1, 500) g",
    )
    with shop.open_transaction(
        "INSERT INTO straddle VALUES (1001, 'older')", "UPDATE straddle SET v = 'o' WHERE id = 1"
    ) as older:
        shop.node.protect_table("public.straddle", RECORD)
        shop.await_phase("public.straddle", "waiting")
        with shop.open_transaction(
            "INSERT INTO straddle VALUES (1002, 'younger')", "DELETE FROM straddle WHERE id = 2"
        ) as younger:
            shop.database.sql("INSERT INTO straddle VALUES (1003, 'between'); UPDATE straddle SET v = 'x' WHERE id = 3")
            wait(lambda: "older than" in (o.error if (o := shop.opening("public.straddle")) else ""), "the reason to be said")
            older.commit()
            shop.node.wait_ready(TIMEOUT_S)
            younger.execute("INSERT INTO straddle VALUES (1004, 'younger still')")
            younger.commit()
    shop.assert_in_order("public.straddle")
    ops = {e.key: e.op for e in recorded(shop.protected, "public.straddle") if e.key is not None and int(e.key) > 1000}
    assert ops == {b"1001": "baseline", b"1003": "baseline", b"1002": "insert", b"1004": "insert"}
    assert_generation(shop, "public.straddle", 1)
    assert_recorded_as_it_is(shop, "public.straddle")


def test_a_baseline_under_load_loses_and_doubles_nothing(shop: Workshop) -> None:
    shop.publish(
        "busy",
        "CREATE TABLE busy (id bigserial PRIMARY KEY, v int, note text);"
        "INSERT INTO busy (v, note) SELECT g, repeat('n', g % 90) FROM generate_series(1, 20000) g",
    )
    shop.publish(
        "heap",
        "CREATE TABLE heap (a int, b text); ALTER TABLE heap REPLICA IDENTITY FULL;"
        "INSERT INTO heap SELECT g % 50, 'same' FROM generate_series(1, 5000) g",
    )
    with Load(shop.database, write_keyed, write_keyed_more, write_keyless) as load:
        load.await_rounds(5)
        shop.node.protect_table("public.busy", RECORD)
        shop.node.protect_table("public.heap", RECORD)
        shop.node.wait_ready(TIMEOUT_S)
        load.await_rounds(20)
    shop.assert_in_order("public.busy", "public.heap")
    for table, keyed in (("public.busy", True), ("public.heap", False)):
        assert len([e for e in recorded(shop.protected, table) if e.op not in ("schema", "baseline")]) > 10
        assert_generation(shop, table, 1, keyed=keyed)
        assert_recorded_as_it_is(shop, table, keyed=keyed)


def write_keyed(connection: psycopg.Connection, n: int) -> None:
    connection.execute("INSERT INTO busy (v, note) VALUES (%s, 'new'), (%s, NULL)", [n, n])
    connection.execute("UPDATE busy SET v = v + 1 WHERE id = %s", [n % 20000 + 1])


def write_keyed_more(connection: psycopg.Connection, n: int) -> None:
    with connection.transaction():
        connection.execute("DELETE FROM busy WHERE id = %s", [20000 - n])
        connection.execute("SAVEPOINT s")
        connection.execute("UPDATE busy SET note = 'undone'  WHERE id BETWEEN %s AND %s", [n * 7, n * 7 + 5])
        connection.execute("ROLLBACK TO s")
        connection.execute("UPDATE busy SET note = 'kept' WHERE id BETWEEN %s AND %s", [n * 5, n * 5 + 3])


def write_keyless(connection: psycopg.Connection, n: int) -> None:
    connection.execute("INSERT INTO heap VALUES (%s, 'same')", [n % 50])
    connection.execute("UPDATE heap SET b = 'other' WHERE ctid = (SELECT ctid FROM heap WHERE a = %s LIMIT 1)", [n % 50])
    connection.execute("DELETE FROM heap WHERE ctid = (SELECT ctid FROM heap WHERE a = %s LIMIT 1)", [n * 3 % 50])


def test_a_baseline_whose_connection_breaks_is_begun_again(shop: Workshop) -> None:
    shop.publish("broken", "CREATE TABLE broken (id int PRIMARY KEY); INSERT INTO broken SELECT generate_series(1, 10)")
    with shop.stalled_stream():
        shop.node.protect_table("public.broken", RECORD)
        shop.await_phase("public.broken", "reading")
        shop.database.sql("INSERT INTO broken VALUES (11)")
        shop.terminate("witnz baseline")
    wait(lambda: [s.status for s in shop.node.states() if s.name == "public.broken"] == ["active"], "the table to be protected")
    shop.assert_in_order("public.broken")
    assert_generation(shop, "public.broken", 1)
    assert_recorded_as_it_is(shop, "public.broken")


def test_ddl_that_holds_the_table_is_waited_for_without_holding_up_anything(shop: Workshop) -> None:
    shop.publish("altered", "CREATE TABLE altered (id int PRIMARY KEY); INSERT INTO altered SELECT generate_series(1, 10)")
    with shop.open_transaction("ALTER TABLE altered ADD COLUMN v int DEFAULT 7") as ddl:
        shop.node.protect_table("public.altered", RECORD)
        opening = shop.await_phase("public.altered", "waiting")
        wait(lambda: "lock" in opening.error, f"the lock to be named: {opening.error}")
        # other tables are recorded meanwhile
        for n in range(5):
            shop.database.sql(f"INSERT INTO bystander (note) VALUES ('while it waits {n}')")
            shop.protected.caught_up()
        assert opening.phase == "waiting"
        ddl.commit()
    shop.database.sql("INSERT INTO altered VALUES (11, 11)")
    shop.await_generation("public.altered", log_row(shop.protected, "public.altered").generation)
    shop.assert_in_order("public.altered", "public.bystander")
    assert_recorded_as_it_is(shop, "public.altered")


# -- later generations -------------------------------------------------------------------------------------------------

CHANGES = {
    "a column added with a default": "ALTER TABLE {t} ADD COLUMN added text DEFAULT 'filled in'",
    "a column added, filled by each row's own value": "ALTER TABLE {t} ADD COLUMN added uuid DEFAULT gen_random_uuid()",
    "a column renamed": "ALTER TABLE {t} RENAME v TO w",
    "the key column renamed": "ALTER TABLE {t} RENAME id TO number",
    "an integer widened": "ALTER TABLE {t} ALTER v TYPE bigint",
    "the key widened": "ALTER TABLE {t} ALTER id TYPE bigint",
    "a text narrowed to varchar": "ALTER TABLE {t} ALTER note TYPE varchar(100)",
    "a column added and another renamed": "ALTER TABLE {t} ADD COLUMN added int DEFAULT 3;"
    "ALTER TABLE {t} RENAME note TO remark",
}
ROWS = "INSERT INTO {t} SELECT g, g, 'note ' || g FROM generate_series(1, 300) g"


@pytest.mark.parametrize("title", CHANGES)
def test_a_changed_definition_begins_a_generation_and_finds_nothing(shop: Workshop, title: str) -> None:
    t = "changing_" + str(list(CHANGES).index(title))
    table = shop.protect(t, f"CREATE TABLE {t} (id int PRIMARY KEY, v int, note text); {ROWS.format(t=t)}")
    shop.database.sql(
        f"INSERT INTO {t} VALUES (301, 1, NULL); UPDATE {t} SET v = -v WHERE id < 5; DELETE FROM {t} WHERE id = 9"
    )
    shop.database.sql(CHANGES[title].format(t=t))
    # rows under the new definition come before anybody has looked at it
    key = "number" if title == "the key column renamed" else "id"
    shop.database.sql(
        f"INSERT INTO {t} ({key}) VALUES (401); DELETE FROM {t} WHERE {key} = 10; DELETE FROM {t} WHERE {key} = 301"
    )
    shop.database.sql(f"UPDATE {t} SET {key} = 500 WHERE {key} = 11; UPDATE {t} SET {key} = {key} WHERE {key} = 12")
    shop.await_generation(table, 2)
    shop.database.sql(f"INSERT INTO {t} ({key}) VALUES (402); DELETE FROM {t} WHERE {key} = 13")
    shop.assert_in_order(table)
    assert_linked(shop, table, 2)
    assert_generation(shop, table, 1)
    assert_generation(shop, table, 2)
    assert_recorded_as_it_is(shop, table)
    columns = [c.name for c in parse_schema_hint(recorded(shop.protected, table, 2)[0].hint or "").columns]
    assert columns == [
        name
        for (name,) in shop.database.sql(
            f"SELECT attname::text FROM pg_attribute WHERE attrelid = '{t}'::regclass AND attnum > 0 ORDER BY attnum"
        )
    ]


@pytest.mark.parametrize("title", ["a column added with a default", "a column renamed", "an integer widened"])
def test_a_table_without_a_key_changes_its_definition_and_nothing_is_found(shop: Workshop, title: str) -> None:
    t = "pile_" + str(list(CHANGES).index(title))
    table = shop.protect(
        t,
        f"CREATE TABLE {t} (id int, v int, note text); ALTER TABLE {t} REPLICA IDENTITY FULL;"
        f"INSERT INTO {t} SELECT g % 5, g % 3, 'same' FROM generate_series(1, 90) g",
    )
    shop.database.sql(f"DELETE FROM {t} WHERE id = 4; INSERT INTO {t} VALUES (1, 1, 'same'), (NULL, NULL, NULL)")
    shop.database.sql(CHANGES[title].format(t=t))
    shop.database.sql(f"INSERT INTO {t} (id, note) VALUES (1, 'same'), (1, 'same'), (NULL, NULL)")
    shop.database.sql(f"UPDATE {t} SET id = 7 WHERE id = 3; DELETE FROM {t} WHERE id = 2")
    shop.await_generation(table, 2)
    shop.assert_in_order(table)
    assert_linked(shop, table, 2)
    assert_generation(shop, table, 1, keyed=False)
    assert_generation(shop, table, 2, keyed=False)
    assert_recorded_as_it_is(shop, table, keyed=False)


def test_columns_left_out_stay_left_out_in_the_next_generation(shop: Workshop) -> None:
    table = shop.protect(
        "lessened",
        "CREATE TABLE lessened (rc regclass, id int PRIMARY KEY, v int);"
        "INSERT INTO lessened VALUES ('pg_class', 1, 1), ('pg_type', 2, 2)",
        excluded=frozenset({"rc"}),
    )
    shop.database.sql("UPDATE lessened SET v = 3 WHERE id = 1")
    shop.database.sql("ALTER TABLE lessened ADD COLUMN w text DEFAULT 'w'; UPDATE lessened SET v = 4 WHERE id = 1")
    shop.protected.caught_up()
    shop.await_generation(table, 2)
    shop.database.sql("UPDATE lessened SET v = 5 WHERE id = 2; INSERT INTO lessened VALUES ('pg_proc', 3, 3, 'x')")
    shop.assert_in_order(table)
    assert replayed(recorded(shop.protected, table), keyed=True) == Counter(shop.live_hashes(table, "id, v, w"))


def test_the_key_moves_to_another_column_while_rows_under_the_old_one_are_still_to_come(shop: Workshop) -> None:
    table = shop.protect(
        "moving",
        "CREATE TABLE moving (a int PRIMARY KEY, b int NOT NULL); INSERT INTO moving SELECT g, g FROM generate_series(1, 9) g",
    )
    shop.database.sql("UPDATE moving SET b = 10 WHERE a = 1")
    shop.protected.caught_up()
    with shop.stalled_stream():
        shop.database.sql("INSERT INTO moving SELECT g, g FROM generate_series(21, 29) g; DELETE FROM moving WHERE a = 2")
        shop.database.sql("ALTER TABLE moving DROP CONSTRAINT moving_pkey, ADD COLUMN c int GENERATED BY DEFAULT AS IDENTITY")
        shop.database.sql("ALTER TABLE moving ADD PRIMARY KEY (c)")
        shop.look()
        shop.await_phase(table, "reading")
        shop.database.sql(
            "INSERT INTO moving VALUES (31, 31, 31); UPDATE moving SET b = 0 WHERE c = 1; DELETE FROM moving WHERE c = 3"
        )
    shop.await_generation(table, 2)
    shop.assert_in_order(table)
    assert_linked(shop, table, 2)
    assert_generation(shop, table, 1)
    assert_generation(shop, table, 2)
    assert_recorded_as_it_is(shop, table)
    assert records(shop.protected, "table", table)[-1].body["keys"]["columns"] == ["c"]


def test_a_column_is_added_under_load(shop: Workshop) -> None:
    table = shop.protect(
        "loaded",
        "CREATE TABLE loaded (id bigserial PRIMARY KEY, v int); INSERT INTO loaded (v) SELECT generate_series(1, 20000)",
    )

    def write(connection: psycopg.Connection, n: int) -> None:
        connection.execute("INSERT INTO loaded (v) VALUES (%s)", [n])
        connection.execute("UPDATE loaded SET v = v + 1 WHERE id = %s", [n % 20000 + 1])
        connection.execute("DELETE FROM loaded WHERE id = %s", [20000 - n])

    with Load(shop.database, write, write) as load:
        load.await_rounds(5)
        shop.database.sql("ALTER TABLE loaded ADD COLUMN w text DEFAULT 'w'")
        load.await_rounds(5)
        shop.await_generation(table, 2)
        load.await_rounds(5)
    shop.assert_in_order(table)
    assert_linked(shop, table, 2)
    assert_generation(shop, table, 1)
    assert_generation(shop, table, 2)
    assert_recorded_as_it_is(shop, table)


def test_a_transaction_that_the_snapshot_does_not_see_is_no_difference_to_the_old_generation(shop: Workshop) -> None:
    """It commits after S was taken and is recorded before the old rows are compared."""
    table = shop.protect(
        "late", "CREATE TABLE late (id int PRIMARY KEY, v int); INSERT INTO late SELECT g, g FROM generate_series(1, 20) g"
    )
    with shop.open_transaction() as older:
        shop.database.sql("ALTER TABLE late ADD COLUMN w int DEFAULT 1")
        shop.look()
        shop.await_phase(table, "waiting")
        with shop.open_transaction("UPDATE late SET v = -v WHERE id < 5", "DELETE FROM late WHERE id = 6") as younger:
            younger.execute("INSERT INTO late VALUES (100, 100)")
            with shop.stalled_stream():
                older.rollback()
                shop.await_phase(table, "reading")
                younger.commit()
    shop.await_generation(table, 2)
    shop.assert_in_order(table)
    assert_generation(shop, table, 1)
    assert_generation(shop, table, 2)
    assert_recorded_as_it_is(shop, table)


# -- what goes wrong meanwhile -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["waiting", "reading"])
def test_the_stream_is_lost_while_a_generation_is_opened(shop: Workshop, phase: str) -> None:
    table = shop.protect(
        f"lost_{phase}",
        f"CREATE TABLE lost_{phase} (id int PRIMARY KEY, v int);"
        f"INSERT INTO lost_{phase} SELECT g, g FROM generate_series(1, 20) g",
    )
    name = f"lost_{phase}"
    with shop.open_transaction() as older:
        shop.database.sql(f"ALTER TABLE {name} ADD COLUMN w int DEFAULT 1; UPDATE {name} SET v = 0 WHERE id = 1")
        shop.look()
        shop.await_phase(table, "waiting")
        if phase == "waiting":
            shop.terminate("witnz stream")
            shop.protected.caught_up()
        with shop.stalled_stream():
            older.rollback()
            shop.await_phase(table, "reading")
            # beyond L: the old generation must not have these, should the opening succeed, and must have them, should it not
            shop.database.sql(f"UPDATE {name} SET v = 0 WHERE id = 2; INSERT INTO {name} VALUES (50, 50)")
            if phase == "reading":
                shop.database.sql(f"SELECT pg_terminate_backend({shop.backend('witnz stream')})", user="postgres")
    shop.await_generation(table, 2)
    shop.database.sql(f"DELETE FROM {name} WHERE id = 3; INSERT INTO {name} VALUES (51, 51)")
    shop.assert_in_order(table)
    assert_linked(shop, table, 2)
    assert_generation(shop, table, 1)
    assert_generation(shop, table, 2)
    assert_recorded_as_it_is(shop, table)


def test_a_plan_that_was_made_while_the_stream_was_lost_ends_the_generation_that_is_recorded_into_now(shop: Workshop) -> None:
    table = shop.protect("planned", "CREATE TABLE planned (id int PRIMARY KEY, v int); INSERT INTO planned VALUES (1, 1)")
    before = shop.node.state(table)
    shop.terminate("witnz stream")
    wait(lambda: shop.node.state(table) is not before, "a recorder made anew")
    with shop.node.catalog() as conn:
        shop.node.generations.decided(before, catalog.table_by_oid(conn, before.oid), "gap accepted")
    shop.await_generation(table, 2)
    shop.database.sql("INSERT INTO planned VALUES (2, 2)")
    shop.assert_in_order(table)
    assert_linked(shop, table, 2)
    assert_generation(shop, table, 1)
    assert_generation(shop, table, 2)


def test_a_cancelled_generation_gives_what_it_kept_back_to_the_old_one(shop: Workshop) -> None:
    table = shop.protect(
        "given", "CREATE TABLE given (id int PRIMARY KEY, v int); INSERT INTO given SELECT g, g FROM generate_series(1, 20) g"
    )
    shop.database.sql("ALTER TABLE given ADD COLUMN w int DEFAULT 1")
    with shop.stalled_stream():
        shop.look()
        shop.await_phase(table, "reading")
        shop.database.sql(
            "UPDATE given SET v = 0 WHERE id = 2; INSERT INTO given VALUES (50, 50); DELETE FROM given WHERE id = 3"
        )
        shop.terminate("witnz baseline")
    wait(lambda: records(shop.protected, "cancel", table), "the opening to be cancelled")
    shop.protected.caught_up()
    if not [r for r in records(shop.protected, "table", table) if r.body["generation"] == 2]:
        assert [e.op for e in recorded(shop.protected, table, 1)][-3:] == ["update", "insert", "delete"]
    shop.await_generation(table, 2)
    shop.assert_in_order(table)
    assert_linked(shop, table, 2)
    assert_generation(shop, table, 1)
    assert_generation(shop, table, 2)
    assert_recorded_as_it_is(shop, table)


def test_the_store_audits_clean_after_all_of_it(shop: Workshop) -> None:
    assert audit_problems(shop.protected) == []
