"""witnz.postgres.scan: one snapshot of one table, read by a role that owns nothing, while others do their worst."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from tests.support.postgres import Database, create_database
from tests.support.scanning import read, scanner, table
from witnz.demo.server import PostgresServer
from witnz.ending import end_threads
from witnz.errors import FormatError, UsageError
from witnz.postgres.catalog import find_table, leaf_partitions
from witnz.postgres.copysql import copy_statement
from witnz.postgres.scan import SnapshotScan
from witnz.postgres.scan_errors import (
    DataUnreadable,
    ScanInterrupted,
    TableChanged,
    TableLocked,
    TableReplaced,
    VisibilityChanged,
)


@pytest.fixture
def small(database: Database) -> Database:
    database.sql(
        "CREATE TABLE t (id int PRIMARY KEY, note text); INSERT INTO t VALUES (1, 'one'), (2, E'tab\\there'), (3, NULL)"
    )
    return database


LINES = [b"1\tone", b"2\ttab\\there", b"3\t\\N"]


def test_a_scan_gives_raw_row_lines_with_its_snapshot_and_position(every_database: Database) -> None:
    every_database.sql("CREATE TABLE t (id int PRIMARY KEY, note text)")
    every_database.sql("INSERT INTO t VALUES (1, 'one'), (2, E'tab\\there'), (3, NULL)")
    connection = scanner(every_database)
    ((low,),) = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchall()
    with SnapshotScan(connection, table(connection)) as scan:
        assert read(scan) == LINES
        assert scan.rows == 3
        with pytest.raises(UsageError, match="once"):
            read(scan)
    ((high,),) = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchall()
    assert low <= scan.lsn <= high
    assert scan.snapshot.xmin <= scan.snapshot.xmax
    assert scan.snapshot_text.count(":") == 2
    assert scan.changed_during() == ()
    assert scan.fingerprint_after == scan.fingerprint_before
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_writes_after_the_snapshot_are_not_seen_and_those_before_are(small: Database) -> None:
    connection = scanner(small)
    owner = small.connect_owner()
    pending = small.connect_owner(autocommit=False)
    pending.execute("INSERT INTO t VALUES (4, 'committed after the snapshot')")
    (xid,) = pending.execute("SELECT pg_current_xact_id()::text::int8").fetchone() or ()
    with SnapshotScan(connection, table(connection)) as scan:
        pending.commit()
        owner.execute("UPDATE t SET note = 'later'")
        owner.execute("DELETE FROM t WHERE id = 1")
        assert read(scan) == LINES
    assert not scan.snapshot.visible(xid)
    with SnapshotScan(connection, table(connection)) as scan:
        assert sorted(read(scan)) == [b"2\tlater", b"3\tlater", b"4\tlater"]
    assert scan.snapshot.visible(xid)


def test_the_lock_is_taken_before_the_snapshot_so_that_a_truncate_is_seen_whole(small: Database) -> None:
    """A TRUNCATE that holds its lock when the scan begins: never an empty table under a snapshot from before it."""
    connection = scanner(small)
    info = table(connection)
    truncating = small.connect_owner(autocommit=False)
    truncating.execute("TRUNCATE t")
    truncating.execute("INSERT INTO t VALUES (9, 'new')")
    (xid,) = truncating.execute("SELECT pg_current_xact_id()::text::int8").fetchone() or ()
    commit = threading.Timer(0.3, truncating.commit)
    commit.start()
    with SnapshotScan(connection, info, lock_timeout_s=30) as scan:
        assert read(scan) == [b"9\tnew"]
    end_threads(commit)
    assert scan.snapshot.visible(xid)


def test_a_table_locked_against_readers_is_tried_again_and_then_left(small: Database) -> None:
    connection = scanner(small)
    info = table(connection)
    owner = small.connect_owner(autocommit=False)
    owner.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
    started = time.monotonic()
    with pytest.raises(TableLocked, match="locked by DDL, retried") as refusal:
        SnapshotScan(connection, info, lock_timeout_s=0.05, attempts=2).__enter__()
    assert (refusal.value.code, refusal.value.exit_code) == ("scan.locked", 4)
    assert time.monotonic() - started >= 0.1 + 0.25
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    threading.Timer(0.2, owner.rollback).start()
    with SnapshotScan(connection, info, lock_timeout_s=0.05, attempts=20) as scan:
        assert read(scan) == LINES


def test_a_scan_never_waits_in_front_of_others_longer_than_its_lock_timeout(small: Database) -> None:
    connection = scanner(small)
    info = table(connection)
    with SnapshotScan(connection, info):
        mode = small.sql("SELECT mode FROM pg_locks WHERE relation = 't'::regclass", user="postgres")
        assert mode == [("AccessShareLock",)]


SWAPS = {
    "dropped": "DROP TABLE t",
    "recreated": "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, note text); INSERT INTO t VALUES (1, 'one')",
    "recreated without rights": "DROP TABLE t; CREATE TABLE t (id int, note text); REVOKE ALL ON t FROM witnz",
    "renamed": "ALTER TABLE t RENAME TO honest",
    "behind a view": "ALTER TABLE t RENAME TO honest; CREATE VIEW t AS SELECT * FROM honest",
    "behind a materialized view": "ALTER TABLE t RENAME TO honest; CREATE MATERIALIZED VIEW t AS SELECT * FROM honest",
    "behind a partition root": (
        "ALTER TABLE t RENAME TO honest; CREATE TABLE t (LIKE honest) PARTITION BY LIST (id);"
        "ALTER TABLE t ATTACH PARTITION honest DEFAULT"
    ),
    "swapped with a copy": "CREATE TABLE copy AS SELECT * FROM t; ALTER TABLE t RENAME TO x; ALTER TABLE copy RENAME TO t",
    "moved away": "CREATE SCHEMA attic; ALTER TABLE t SET SCHEMA attic",
    "schema renamed": "ALTER SCHEMA public RENAME TO attic; CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO witnz",
}


@pytest.mark.parametrize("swap", SWAPS)
def test_another_relation_under_the_recorded_name_is_never_read(small: Database, swap: str) -> None:
    connection = scanner(small)
    info = table(connection)
    small.sql(SWAPS[swap])
    now = find_table(connection, "public", "t")
    with pytest.raises(TableReplaced) as refusal, SnapshotScan(connection, info) as scan:
        read(scan)
    assert refusal.value.expected_oid == info.oid
    assert (refusal.value.found_oid, refusal.value.found_kind) == ((now.oid, now.relkind) if now else (None, ""))
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_a_swap_that_commits_while_the_lock_is_waited_for_is_seen_under_the_lock(small: Database) -> None:
    connection = scanner(small)
    info = table(connection)
    swapping = small.connect_owner(autocommit=False)
    swapping.execute("ALTER TABLE t RENAME TO x")
    swapping.execute("CREATE TABLE t AS SELECT * FROM x")
    threading.Timer(0.3, swapping.commit).start()
    with pytest.raises(TableReplaced):
        SnapshotScan(connection, info, lock_timeout_s=30).__enter__()


def test_a_schema_exchanged_under_the_lock_cannot_slip_another_table_in(small: Database) -> None:
    """ALTER SCHEMA locks no table; the copy then reads the impostor, and the transaction's own locks tell."""
    small.sql("CREATE SCHEMA other; CREATE TABLE other.t AS SELECT id, 'forged'::text AS note FROM t")
    connection = scanner(small)
    with pytest.raises(TableReplaced) as refusal, SnapshotScan(connection, table(connection)) as scan:
        small.sql(
            "ALTER SCHEMA public RENAME TO attic; ALTER SCHEMA other RENAME TO public; GRANT USAGE ON SCHEMA public TO witnz"
        )
        assert read(scan) == [b"1\tforged", b"2\tforged", b"3\tforged"]
        small.sql("ALTER SCHEMA public RENAME TO other; ALTER SCHEMA attic RENAME TO public")
    forged = table(connection, "t", "other")
    assert refusal.value.found_oid == forged.oid


def test_row_security_raises_instead_of_hiding_rows(small: Database) -> None:
    connection = scanner(small)
    info = table(connection)
    small.sql("ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON t USING (id > 1)")
    with pytest.raises(VisibilityChanged, match="row-level security") as refusal, SnapshotScan(connection, info) as scan:
        read(scan)
    assert refusal.value.exit_code == 4
    small.sql("ALTER TABLE t DISABLE ROW LEVEL SECURITY; REVOKE SELECT ON t FROM witnz")
    with pytest.raises(VisibilityChanged, match="permission denied"), SnapshotScan(connection, info) as scan:
        read(scan)


def test_row_security_raises_even_on_a_connection_that_forgot_to_ask_for_it(small: Database) -> None:
    info = table(scanner(small))
    small.sql("ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON t USING (id > 1)")
    careless = small.connect_witnz(options="-c row_security=on")
    with pytest.raises(VisibilityChanged), SnapshotScan(careless, info) as scan:
        read(scan)


@pytest.mark.parametrize(
    "ddl",
    ["ALTER TABLE t DROP note", "ALTER TABLE t RENAME note TO remark", "ALTER TABLE t ALTER note TYPE varchar(9)"],
)
def test_a_column_that_is_not_what_was_recorded_is_not_read(small: Database, ddl: str) -> None:
    connection = scanner(small)
    info = table(connection)
    small.sql(ddl)
    with pytest.raises(TableChanged, match="column note"), SnapshotScan(connection, info) as scan:
        read(scan)


def test_old_columns_can_be_read_of_a_table_that_has_gained_one(small: Database) -> None:
    connection = scanner(small)
    info = table(connection)
    small.sql("ALTER TABLE t ADD extra int DEFAULT 5")
    with SnapshotScan(connection, info) as scan:
        assert read(scan) == LINES
    with SnapshotScan(connection, table(connection), columns=["extra", "id"]) as scan:
        assert read(scan) == [b"5\t1", b"5\t2", b"5\t3"]


def test_an_enum_renamed_during_the_scan_is_told_even_when_it_is_renamed_back(database: Database) -> None:
    database.sql("CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE t (m mood); INSERT INTO t VALUES ('sad')")
    connection = scanner(database)
    with SnapshotScan(connection, table(connection)) as scan:
        database.sql("ALTER TYPE mood RENAME VALUE 'sad' TO 'glad'")
        assert read(scan) == [b"glad"], "the label is read as it is now, not as of the snapshot"
        database.sql("ALTER TYPE mood RENAME VALUE 'glad' TO 'sad'")
    assert scan.changed_during() == ("types",)
    with SnapshotScan(connection, table(connection)) as scan:
        assert read(scan) == [b"sad"]
        database.sql("GRANT SELECT ON t TO PUBLIC; CREATE INDEX ON t (m)")
    assert scan.changed_during() == (), "what does not touch how rows read is no reason to scan again"


def test_every_kind_of_name_key_and_column_can_be_scanned(every_database: Database) -> None:
    schema, name, column = 'Sch.ema "x" 表', "ta'ble; %s {} é\n\t", 'co"l umn %(x)s'
    owner = every_database.connect_owner()
    identifier = psycopg.sql.Identifier
    owner.execute(psycopg.sql.SQL("CREATE SCHEMA {}").format(identifier(schema)))
    owner.execute(
        psycopg.sql.SQL(
            "CREATE TABLE {} (junk int, {} text, id int, gen int GENERATED ALWAYS AS (id * 2) STORED, PRIMARY KEY (id, {}))"
        ).format(identifier(schema, name), identifier(column), identifier(column))
    )
    owner.execute(psycopg.sql.SQL("ALTER TABLE {} DROP junk").format(identifier(schema, name)))
    owner.execute(
        psycopg.sql.SQL("INSERT INTO {} ({}, id) VALUES ('é', 1)").format(identifier(schema, name), identifier(column))
    )
    connection = scanner(every_database)
    info = table(connection, name, schema)
    with SnapshotScan(connection, info) as scan:
        # stored generated columns are carried, and so scanned, from 18 on
        assert read(scan) == ["é\t1\t2".encode() if every_database.server.version >= 18 else "é\t1".encode()]


def test_leaves_are_scanned_and_partitioned_tables_are_not(database: Database) -> None:
    database.sql(
        """
        CREATE TABLE root (k int, v text, PRIMARY KEY (k)) PARTITION BY LIST (k);
        CREATE TABLE a PARTITION OF root FOR VALUES IN (1);
        CREATE TABLE b (v text, k int NOT NULL PRIMARY KEY); ALTER TABLE root ATTACH PARTITION b FOR VALUES IN (2);
        INSERT INTO root VALUES (1, 'x'), (2, 'y');
        CREATE TABLE parent (id int); CREATE TABLE child (more text) INHERITS (parent);
        INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2, 'c');
        """
    )
    connection = scanner(database)
    root = table(connection, "root")
    with pytest.raises(UsageError, match="partitioned"):
        SnapshotScan(connection, root)
    found = {}
    for leaf in [*leaf_partitions(connection, root.oid), table(connection, "parent")]:
        with SnapshotScan(connection, leaf) as scan:
            found[leaf.name] = read(scan)
    assert found == {"a": [b"1\tx"], "b": [b"y\t2"], "parent": [b"1"]}


def test_rows_come_in_physical_order_from_the_heap_whatever_the_planner_would_like(database: Database) -> None:
    database.sql(
        """
        CREATE TABLE t (id int PRIMARY KEY, g int GENERATED ALWAYS AS (-id) STORED, pad text);
        CREATE INDEX covering ON t (id) INCLUDE (g);
        INSERT INTO t (id, pad) SELECT g, repeat('x', 300) FROM generate_series(20000, 1, -1) g;
        """
    )
    database.sql("VACUUM ANALYZE t")
    connection = scanner(database)
    for setting in (
        "parallel_setup_cost = 0",
        "parallel_tuple_cost = 0",
        "min_parallel_table_scan_size = 0",
    ):
        connection.execute(f"SET {setting}")
    info = table(connection)
    statement = copy_statement(info, ["g", "id"])
    assert b"FROM ONLY" in statement.as_bytes(None)
    plan = "\n".join(row[0] for row in connection.execute("EXPLAIN SELECT g, id FROM ONLY public.t"))
    assert "Index Only Scan" in plan or "Gather" in plan, "the temptation is real"
    with SnapshotScan(connection, info, columns=["g", "id"]) as scan:
        assert read(scan) == [b"%d\t%d" % (-n, n) for n in range(20000, 0, -1)]


def test_an_exported_snapshot_shows_the_same_rows_to_another_session(small: Database) -> None:
    leader, follower = scanner(small), scanner(small)
    info = table(leader)
    with SnapshotScan(leader, info) as first:
        exported = first.export()
        small.sql("UPDATE t SET note = 'later'; INSERT INTO t VALUES (4, 'new')")
        with SnapshotScan(follower, info, import_snapshot=exported) as second:
            assert read(second) == LINES
        assert read(first) == LINES
    assert second.snapshot == first.snapshot
    assert second.lsn >= first.lsn
    with pytest.raises(ScanInterrupted), SnapshotScan(follower, info, import_snapshot=exported):
        pass
    for malformed in ("", "00000003-0000001B-1'; DROP TABLE t", "../../x", "00000003-0000001b-1"):
        with pytest.raises(FormatError, match="exported snapshot"):
            SnapshotScan(follower, info, import_snapshot=malformed)


def test_an_import_does_not_queue_behind_ddl_that_waits_for_the_exporter(small: Database) -> None:
    leader, follower = scanner(small), scanner(small)
    info = table(leader)
    owner = small.connect_owner()
    truncate = threading.Thread(target=owner.execute, args=("TRUNCATE t",))
    with SnapshotScan(leader, info) as first:
        exported = first.export()
        truncate.start()
        while not small.sql("SELECT 1 FROM pg_locks WHERE NOT granted", user="postgres"):
            time.sleep(0.01)
        started = time.monotonic()
        with pytest.raises(TableLocked):
            SnapshotScan(follower, info, import_snapshot=exported, lock_timeout_s=60, attempts=1).__enter__()
        assert time.monotonic() - started < 30
    end_threads(truncate)


# -- the server's own files ----


def test_a_damaged_page_is_inconclusive_and_named(own_server: Callable[..., PostgresServer]) -> None:
    server = own_server(initdb_args=["--data-checksums"])
    database = create_database(server)
    database.sql("CREATE TABLE t AS SELECT g AS id, repeat('x', 100) AS v FROM generate_series(1, 1000) g")
    database.sql("CHECKPOINT", user="postgres")
    ((path,),) = database.sql("SELECT pg_relation_filepath('t')", user="postgres")
    server.stop()
    file = server.data_dir / path
    content = bytearray(file.read_bytes())
    content[8192 * 3 + 4000] ^= 1
    file.write_bytes(content)
    server.start()
    connection = scanner(database)
    info = table(connection)
    with pytest.raises(DataUnreadable, match="XX001") as refusal, SnapshotScan(connection, info) as scan:
        read(scan)
    assert refusal.value.where.replace(" in ", " of ") == f"block 3 of relation {path}"
    assert refusal.value.exit_code == 4
    database._open.clear()
    connection.close()


def test_a_missing_toast_value_and_file_are_inconclusive(small: Database) -> None:
    small.sql(
        "CREATE TABLE big (v text); ALTER TABLE big ALTER v SET STORAGE EXTERNAL; INSERT INTO big VALUES (repeat('x', 9000))"
    )
    connection = scanner(small)
    info = table(connection, "big")
    admin = small.connect_admin()
    ((toast,),) = admin.execute("SELECT reltoastrelid::regclass::text FROM pg_class WHERE relname = 'big'").fetchall()
    admin.execute("SET allow_system_table_mods = on")
    try:
        admin.execute(f"DELETE FROM {toast} WHERE chunk_seq = 1")
    except psycopg.Error:
        admin.execute(f"UPDATE pg_class SET relkind = 'r' WHERE oid = '{toast}'::regclass")
        admin.execute(f"DELETE FROM {toast} WHERE chunk_seq = 1")
        admin.execute(f"UPDATE pg_class SET relkind = 't' WHERE oid = '{toast}'::regclass")
    with pytest.raises(DataUnreadable) as refusal, SnapshotScan(connection, info) as scan:
        read(scan)
    assert refusal.value.where.startswith("toast value ")
    assert connection.execute("SELECT 1").fetchone() == (1,)


# -- the stress that the order of the steps exists for ----


def writers(database: Database, enough: threading.Event) -> Iterator[threading.Thread]:
    def run(seed: int) -> None:
        with psycopg.connect(database.owner_dsn, autocommit=True) as owner:
            n = 0
            while not enough.is_set():
                n += 1
                if seed == 0 and n % 50 == 0:
                    with owner.transaction():
                        owner.execute("TRUNCATE t")
                        owner.execute("INSERT INTO t SELECT g, 0 FROM generate_series(1, 50) g")
                else:
                    with contextlib.suppress(psycopg.errors.DeadlockDetected):
                        owner.execute("UPDATE t SET n = n + 1")

    for seed in range(3):
        yield threading.Thread(target=run, args=(seed,))


def test_no_scan_ever_sees_half_a_transaction(database: Database) -> None:
    """Every transaction leaves 50 rows with one same number: a scan that sees anything else has mixed two moments."""
    database.sql("CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL); INSERT INTO t SELECT g, 0 FROM generate_series(1, 50) g")
    connection = scanner(database)
    info = table(connection)
    enough = threading.Event()
    threads = list(writers(database, enough))
    for thread in threads:
        thread.start()
    scans, began = 0, time.monotonic()
    try:
        while scans <= 10 or time.monotonic() < began + 1.5:
            assert all(thread.is_alive() for thread in threads)
            try:
                with SnapshotScan(connection, info) as scan:
                    lines = read(scan)
            except TableLocked:
                continue
            scans += 1
            assert len(lines) == 50
            assert len({line.split(b"\t")[1] for line in lines}) == 1
    finally:
        enough.set()
        for thread in threads:
            thread.join()
