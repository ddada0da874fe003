from __future__ import annotations

import os
import random
import resource
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.stores import make_columns, make_log
from witnz.ending import end_threads
from witnz.errors import NotInitialised, StoreCorrupt, StoreError, StoreFull, StoreLocked
from witnz.store import entries, logs, meta, schema, tablelog
from witnz.store.database import Database

FILL_UP = """
import resource, signal, sys
from pathlib import Path
from tests.support.stores import make_columns, make_log
from witnz.errors import StoreFull
from witnz.store import tablelog
from witnz.store.database import Database
database = Database.open(Path(sys.argv[1]))
with database.read() as conn:
    head = tablelog.load_head(conn, 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
try:
    while True:
        with database.write() as conn:
            make_columns(100, first=head.size).append_to(conn, head)
        print(head.size, flush=True)
except StoreFull as error:
    print("full", error.exit_code, flush=True)
"""


def tables(database: Database) -> set[str]:
    with database.read() as conn:
        return {name for (name,) in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_a_new_store_has_all_tables_and_opens_again(directory: Path) -> None:
    path = directory / "witnz.db"
    with Database.create(path) as made:
        names = tables(made)
    assert {"logs", "bundles", "tail", "tiles", "live", "runs", "overlay", "undo", "spool", "journal", "checkpoints"} <= names
    assert {"cosigned", "findings", "verifications", "outbox", "images", "texts", "meta", "granted", "nonces"} <= names
    with Database.open(path) as opened:
        assert tables(opened) == names
    assert [entry.name for entry in directory.iterdir()] == ["witnz.db"]


def test_a_store_is_never_overwritten(database: Database) -> None:
    with pytest.raises(StoreError, match="exists already"):
        Database.create(database.path)


def test_what_a_crash_left_of_an_earlier_create_is_no_hindrance(directory: Path) -> None:
    (directory / "witnz.db.new").write_bytes(b"half")
    (directory / "witnz.db.new-wal").write_bytes(b"half")
    Database.create(directory / "witnz.db").close()
    assert [entry.name for entry in directory.iterdir()] == ["witnz.db"]


def test_opening_nothing_is_not_initialised(directory: Path) -> None:
    for read_only in (True, False):
        with pytest.raises(NotInitialised):
            Database.open(directory / "witnz.db", read_only=read_only)


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + bytes(5000), random.Random(1).randbytes(8192)])
@pytest.mark.parametrize("read_only", [True, False])
def test_a_file_that_is_no_database_is_corrupt(directory: Path, content: bytes, read_only: bool) -> None:
    path = directory / "witnz.db"
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt) as refused:
        Database.open(path, read_only=read_only)
    assert refused.value.exit_code == 3


def test_somebody_elses_database_is_refused_and_not_touched(directory: Path) -> None:
    path = directory / "witnz.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE contacts (name TEXT)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(StoreCorrupt, match="not a store of witnz"):
        Database.open(path)
    assert path.read_bytes() == before


def test_the_store_of_a_newer_program_is_refused_with_a_hint(directory: Path) -> None:
    path = directory / "witnz.db"
    with Database.create(path) as database, database.write() as conn:
        conn.execute("PRAGMA user_version = 99")
    for read_only in (True, False):
        with pytest.raises(StoreError, match="99") as refused:
            Database.open(path, read_only=read_only)
        assert "newer" in refused.value.hint
        assert refused.value.exit_code == 1


def test_an_older_store_is_migrated_for_writing_and_refused_for_reading(directory: Path) -> None:
    path = directory / "witnz.db"
    with Database.create(path) as database, database.write() as conn:
        conn.execute("PRAGMA user_version = 0")
        for (name,) in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            conn.execute(f"DROP TABLE {name}")
    with pytest.raises(StoreError, match="version 0") as refused:
        Database.open(path, read_only=True)
    assert "start the node" in refused.value.hint
    with Database.open(path) as database:
        assert "logs" in tables(database)


def test_migrations_run_once_each_in_order_and_all_or_nothing(directory: Path) -> None:
    conn = sqlite3.connect(directory / "m.db", isolation_level=None)
    steps: list[str] = []

    def first(db: schema.sqlite_utils.Database) -> None:  # type: ignore[name-defined]
        steps.append("first")
        db.table("t").create({"id": int}, pk="id")

    def second(db: schema.sqlite_utils.Database) -> None:  # type: ignore[name-defined]
        steps.append("second")
        db.table("t").add_column("name", str)

    def broken(db: schema.sqlite_utils.Database) -> None:  # type: ignore[name-defined]
        db.table("t").add_column("half", str)
        raise StoreFull("no space")

    schema.migrate(conn, [first])
    with pytest.raises(StoreFull):
        schema.migrate(conn, [first, second, broken])
    assert conn.execute("PRAGMA user_version").fetchone() == (1,)
    assert [column[1] for column in conn.execute("PRAGMA table_info(t)")] == ["id"]
    schema.migrate(conn, [first, second])
    schema.migrate(conn, [first, second])
    assert steps == ["first", "second", "second"]
    assert [column[1] for column in conn.execute("PRAGMA table_info(t)")] == ["id", "name"]
    conn.close()


def test_a_write_is_all_or_nothing(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as conn:
        meta.save_value(conn, "a", "1")
        raise ZeroDivisionError
    with database.write() as conn:
        assert meta.load_value(conn, "a") is None
        meta.save_value(conn, "b", "2")
    with database.read() as conn:
        assert (meta.load_value(conn, "a"), meta.load_value(conn, "b")) == (None, "2")


def test_a_reader_sees_one_moment_and_cannot_write(database: Database) -> None:
    with database.write() as conn:
        meta.save_value(conn, "at", 1)
    with database.read() as before:
        with database.write() as conn:
            meta.save_value(conn, "at", 2)
        with database.read() as after:
            assert meta.load_number(after, "at") == 2
        assert meta.load_number(before, "at") == 1
    with pytest.raises(StoreFull, match="readonly"), database.read() as conn:
        meta.save_value(conn, "at", 3)
    with database.read() as conn:
        assert meta.load_number(conn, "at") == 2


def test_a_write_within_a_write_is_refused_instead_of_waiting_for_itself(database: Database) -> None:
    with database.write() as conn:
        with pytest.raises(StoreError, match="open already"), database.write():
            raise AssertionError("never reached")
        meta.save_value(conn, "a", 1)
    with database.read() as conn:
        assert meta.load_number(conn, "a") == 1


def test_writers_of_many_threads_take_turns(database: Database) -> None:
    def work() -> None:
        for _ in range(25):
            with database.write() as conn:
                meta.save_value(conn, "n", (meta.load_number(conn, "n") or 0) + 1)
            with database.read() as conn:
                assert (meta.load_number(conn, "n") or 0) >= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        end_threads(thread)
    with database.read() as conn:
        assert meta.load_number(conn, "n") == 100


def test_a_store_for_reading_only_refuses_to_write_and_a_closed_one_everything(database: Database) -> None:
    with Database.open(database.path, read_only=True) as reader:
        assert reader.read_only
        with pytest.raises(StoreError, match="reading only"), reader.write():
            raise AssertionError("never reached")
    with pytest.raises(StoreError, match="closed"), reader.read():
        raise AssertionError("never reached")


def test_what_another_process_holds_is_locked(database: Database) -> None:
    with database.write() as conn:
        conn.execute("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreLocked), database.write():
        raise AssertionError("never reached")
    other.execute("ROLLBACK")
    other.close()
    with database.write() as conn:
        meta.save_value(conn, "a", 1)


def test_a_full_disk_loses_nothing_that_was_committed(database: Database) -> None:
    with database.write() as conn:
        head = make_log(conn)
        make_columns(700).append_to(conn, head)
    with database.write() as conn:
        pages = conn.execute("PRAGMA page_count").fetchone()[0]
        conn.execute(f"PRAGMA max_page_count = {pages + 3}")
    with pytest.raises(StoreFull) as refused, database.write() as conn:
        make_columns(5_000, first=head.size).append_to(conn, head)
    assert refused.value.exit_code == 1
    assert "free space" in refused.value.hint
    with database.write() as conn:
        conn.execute("PRAGMA max_page_count = 1000000")
        head = tablelog.load_head(conn, head.id)
        assert head.size == 700
        make_columns(5_000, first=700).append_to(conn, head)
        assert list(entries.entries(conn, head.id)) == make_columns(5_700).lines()


def test_a_file_size_limit_in_the_middle_of_a_commit_loses_nothing(database: Database) -> None:
    with database.write() as conn:
        make_log(conn)
    database.close()
    done = subprocess.run(
        [sys.executable, "-c", FILL_UP, str(database.path)], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    *sizes, last = done.stdout.splitlines()
    assert last == "full 1"
    with Database.open(database.path) as again, again.read() as conn:
        head = tablelog.load_head(conn, 1)
        assert head.size == (int(sizes[-1]) if sizes else 0) > 0
        assert list(entries.entries(conn, 1)) == make_columns(head.size).lines()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system of its own, which only root may")
def test_a_full_file_system_is_told_apart_from_a_corrupt_store(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let a test mount a file system")
    try:
        with Database.create(place / "witnz.db") as database:
            with database.write() as conn:
                head = make_log(conn)
            with pytest.raises(StoreFull):
                while True:
                    with database.write() as conn:
                        make_columns(200, first=head.size).append_to(conn, head)
            with database.read() as conn:
                head = tablelog.load_head(conn, 1)
                assert head.size > 0
                assert list(entries.entries(conn, 1)) == make_columns(head.size).lines()
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_damaged_page_is_corrupt_wherever_it_is_met(directory: Path) -> None:
    path = directory / "witnz.db"
    with Database.create(path) as database, database.write() as conn:
        head = make_log(conn)
        make_columns(3_000).append_to(conn, head)
    data = bytearray(path.read_bytes())
    found = 0
    for page in range(1, len(data) // 8192):
        damaged = bytearray(data)
        damaged[page * 8192 : (page + 1) * 8192] = b"\xa5" * 8192
        path.write_bytes(damaged)
        try:
            with Database.open(path) as database, database.read() as conn:
                tablelog.load_head(conn, 1)
                lines = list(entries.entries(conn, 1))
            assert lines == make_columns(3_000).lines() or b"\xa5" in b"".join(lines)
        except StoreCorrupt:
            found += 1
    assert found > 10


def test_a_missing_table_is_corrupt_and_not_an_accident_of_sql(database: Database) -> None:
    with database.write() as conn:
        conn.execute("DROP TABLE bundles")
        head = make_log(conn)
    with pytest.raises(StoreCorrupt, match="bundles"), database.write() as conn:
        make_columns(300).append_to(conn, head)


def test_a_mistake_in_the_program_is_not_called_a_damaged_store(database: Database) -> None:
    with pytest.raises(sqlite3.OperationalError, match="syntax"), database.read() as conn:
        conn.execute("SELEC 1")


def test_the_limits_on_memory_and_durability_are_set(database: Database) -> None:
    with database.write() as conn:
        assert conn.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert conn.execute("PRAGMA synchronous").fetchone() == (2,)
        assert conn.execute("PRAGMA mmap_size").fetchone() in {(0,), None}
        assert conn.execute("PRAGMA cache_size").fetchone() == (-16_384,)
    with database.read() as conn:
        assert conn.execute("PRAGMA cache_size").fetchone() == (-4_096,)


def test_checkpoint_empties_the_write_ahead_log(database: Database) -> None:
    with database.write() as conn:
        make_columns(2_000).append_to(conn, make_log(conn))
    wal = database.path.with_name("witnz.db-wal")
    assert wal.stat().st_size > 0
    database.checkpoint()
    assert wal.stat().st_size == 0
    with database.read() as conn:
        assert logs.log_size(conn, 1) == 2_000


def test_growing_a_log_takes_bounded_memory(database: Database) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with database.write() as conn:
        head = make_log(conn)
    for first in range(0, 40_000, 4_000):
        with database.write() as conn:
            make_columns(4_000, first=first).append_to(conn, head)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mib < 60
