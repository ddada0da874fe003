"""witnz.postgres.copyout: rows of any size, in bounded memory, however the copy ends."""

from __future__ import annotations

import resource
import threading
import time

import psycopg
import pytest

from tests.support.postgres import Database
from tests.support.scanning import read, scanner, table
from witnz.ending import end_threads
from witnz.errors import DatabaseUnreachable, UsageError
from witnz.postgres.copyout import CopyOut
from witnz.postgres.scan import SnapshotScan
from witnz.postgres.scan_errors import (
    ScanInterrupted,
)


@pytest.fixture
def small(database: Database) -> Database:
    database.sql(
        "CREATE TABLE t (id int PRIMARY KEY, note text); INSERT INTO t VALUES (1, 'one'), (2, E'tab\\there'), (3, NULL)"
    )
    return database


def test_rows_of_any_size_arrive_whole_and_batches_stay_small(database: Database) -> None:
    database.sql("CREATE TABLE t (id int PRIMARY KEY, v text)")
    database.sql("ALTER TABLE t ALTER v SET STORAGE EXTERNAL")
    sizes = [0, 1, 7, 8180, 16384, 100_000, 3_000_000, 9_000_000, 5, 2_000_000, 2_000_000, 2_000_000]
    database.sql(
        "INSERT INTO t SELECT i, repeat('é', n) FROM unnest(%s) WITH ORDINALITY AS u(n, i)".replace(
            "%s", f"'{{{','.join(map(str, sizes))}}}'::int[]"
        )
    )
    database.sql("INSERT INTO t SELECT i, '' FROM generate_series(100, 20099) i")
    connection = scanner(database)
    with SnapshotScan(connection, table(connection)) as scan:
        batches = list(scan.lines(batch=1000))
    lines = [line for batch in batches for line in batch]
    assert lines[: len(sizes)] == [b"%d\t" % (i + 1) + "é".encode() * n for i, n in enumerate(sizes)]
    assert lines[len(sizes) :] == [b"%d\t" % i for i in range(100, 20100)]
    assert scan.rows == len(lines)
    for batch in batches:
        assert sum(map(len, batch)) - max(map(len, batch)) <= 12 << 20
    assert max(map(len, batches)) == 1000
    assert len(batches) <= 20 + len(sizes)


def test_memory_does_not_grow_with_the_table(database: Database) -> None:
    database.sql("CREATE UNLOGGED TABLE src AS SELECT g AS id, repeat('x', 900) AS v FROM generate_series(1, 100000) g")
    database.sql("CREATE TABLE t AS SELECT * FROM src")
    connection = scanner(database)
    with SnapshotScan(connection, table(connection)) as scan:
        lines = scan.lines()
        next(lines)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in lines:
            pass
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 << 10, "KiB; the table has 90 MB"
    assert scan.rows == 100_000


def test_an_empty_table_and_a_table_of_empty_lines_are_told_apart(database: Database) -> None:
    database.sql("CREATE TABLE t (v text)")
    connection = scanner(database)
    with SnapshotScan(connection, table(connection)) as scan:
        assert (read(scan), scan.rows) == ([], 0)
    database.sql("INSERT INTO t VALUES (''), (''), ('')")
    with SnapshotScan(connection, table(connection)) as scan:
        assert (read(scan), scan.rows) == ([b"", b"", b""], 3)


def test_a_scan_that_is_left_early_frees_the_table_and_the_connection(database: Database) -> None:
    database.sql("CREATE TABLE t AS SELECT g AS id, repeat('x', 1000) AS v FROM generate_series(1, 50000) g")
    connection = scanner(database)
    with SnapshotScan(connection, table(connection)) as scan:
        next(iter(scan.lines()))
    with pytest.raises(UsageError, match="not ended"):
        scan.changed_during()
    with pytest.raises(KeyboardInterrupt), SnapshotScan(connection, table(connection)) as scan:
        for _ in scan.lines():
            raise KeyboardInterrupt
    assert connection.execute("SELECT 1").fetchone() == (1,)
    database.sql("SET lock_timeout = '5s'; DROP TABLE t")


def test_cancellation_and_a_lost_connection_are_told_apart(database: Database) -> None:
    database.sql("CREATE TABLE t AS SELECT g AS id, repeat('x', 1000) AS v FROM generate_series(1, 50000) g")
    connection = scanner(database)
    pid = connection.info.backend_pid
    info = table(connection)
    with pytest.raises(ScanInterrupted, match="57014"), SnapshotScan(connection, info) as scan:
        for _ in scan.lines():
            database.sql(f"SELECT pg_cancel_backend({pid})", user="postgres")
    with SnapshotScan(connection, info) as scan:
        assert len(read(scan)) == 50000
    with pytest.raises(DatabaseUnreachable) as lost, SnapshotScan(connection, info) as scan:
        for _ in scan.lines():
            database.sql(f"SELECT pg_terminate_backend({pid})", user="postgres")
    assert lost.value.exit_code == 14
    with pytest.raises(DatabaseUnreachable):
        SnapshotScan(connection, info).__enter__()


def test_a_server_that_falls_silent_does_not_hold_the_scan_for_ever(small: Database) -> None:
    connection = scanner(small)
    started = time.monotonic()
    with pytest.raises(psycopg.OperationalError, match="sent nothing"):
        CopyOut(connection, b"COPY (SELECT pg_sleep(30)) TO STDOUT", silence_timeout_s=0.2).lines().__next__()
    assert time.monotonic() - started < 15
    assert connection.closed


def test_other_threads_go_on_while_the_server_lets_a_scan_wait(database: Database) -> None:
    connection = scanner(database)
    ticks: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(0.01):
            ticks.append(time.monotonic())

    other = threading.Thread(target=tick)
    other.start()
    copy = CopyOut(connection, b"COPY (SELECT 1 FROM pg_sleep(0.5)) TO STDOUT")
    assert [line for lines in copy.lines() for line in lines] == [b"1"]
    stop.set()
    end_threads(other)
    assert len(ticks) > 10


def test_a_role_level_statement_timeout_does_not_end_a_long_scan(database: Database) -> None:
    database.sql("CREATE TABLE t AS SELECT g AS id, repeat('x', 2000) AS v FROM generate_series(1, 30000) g")
    connection = scanner(database)
    connection.execute("SET statement_timeout = '100ms'")
    info = table(connection)
    with SnapshotScan(connection, info) as scan:
        for lines in scan.lines():
            time.sleep(0.05)
            assert lines
    assert scan.rows == 30000
