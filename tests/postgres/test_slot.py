"""Replication slots and markers on real servers."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.node import wait
from tests.support.pgoutput import conninfo_of
from tests.support.postgres import Database, create_database
from witnz.core.lsn import parse_lsn
from witnz.demo.server import PostgresServer
from witnz.ending import end_threads
from witnz.errors import DatabaseUnreachable, KeyProblem, ReplicationImpossible, UsageError
from witnz.postgres.session import Connection, Conninfo, connect
from witnz.postgres.slot import check_slot_name, create_slot, drop_slot, emit_marker, free_slots, slot_state
from witnz.postgres.stream import ReplicationStream


@pytest.fixture
def slot() -> str:
    return f"s_{secrets.token_hex(4)}"


@pytest.fixture
def walsender(every_database: Database) -> Iterator[Connection]:
    every_database.sql("CREATE TABLE t (id int PRIMARY KEY)")
    every_database.create_publication("p", "t")
    with connect(conninfo_of(every_database), replication=True) as connection:
        yield connection


def test_a_slot_is_made_described_and_dropped(every_database: Database, walsender: Connection, slot: str) -> None:
    with connect(conninfo_of(every_database)) as plain:
        free = free_slots(plain)
        assert slot_state(plain, slot) is None
        consistent_lsn = create_slot(walsender, slot, publication="p")
        assert free_slots(plain) == free - 1
        for connection in (plain, walsender):
            state = slot_state(connection, slot)
            assert state is not None
            assert (state.name, state.plugin, state.database) == (slot, "pgoutput", every_database.name)
            assert state.confirmed_flush_lsn == consistent_lsn
            assert state.restart_lsn is not None
            assert state.restart_lsn <= consistent_lsn
            assert (state.wal_status, state.invalidation, state.lost) == ("reserved", None, False)
            assert (state.active_pid, state.two_phase, state.temporary) == (None, False, False)
            assert state.safe_wal_size_bytes is None
        assert drop_slot(plain, slot) is True
        assert drop_slot(plain, slot) is False
        assert slot_state(plain, slot) is None


def test_a_slot_that_is_read_names_its_reader_and_cannot_be_dropped(
    every_database: Database, walsender: Connection, slot: str
) -> None:
    create_slot(walsender, slot)
    conninfo = conninfo_of(every_database)
    with connect(conninfo) as plain:
        with ReplicationStream(conninfo, slot, "p", start_lsn=0) as stream:
            state = slot_state(plain, slot)
            assert state is not None
            assert state.active_pid == stream.backend_pid
            with pytest.raises(DatabaseUnreachable, match="55006"):
                drop_slot(plain, slot)
        assert drop_slot(plain, slot) is True


def test_a_slot_with_two_phase_says_so(every_database: Database, slot: str) -> None:
    with connect(conninfo_of(every_database)) as plain:
        plain.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput', false, true)", [slot])
        state = slot_state(plain, slot)
        assert state is not None
        assert state.two_phase


def test_a_slot_is_not_made_twice(walsender: Connection, slot: str) -> None:
    create_slot(walsender, slot)
    with pytest.raises(ReplicationImpossible, match="exists already") as caught:
        create_slot(walsender, slot)
    assert f"pg_drop_replication_slot('{slot}')" in caught.value.hint


def test_a_slot_before_its_publication_is_refused(every_database: Database, walsender: Connection, slot: str) -> None:
    with pytest.raises(ReplicationImpossible, match="publication it's not there does not exist"):
        create_slot(walsender, slot, publication="it's not there")
    with connect(conninfo_of(every_database)) as plain:
        assert slot_state(plain, slot) is None


def test_making_a_slot_waits_for_writers_but_not_for_ever(every_database: Database, walsender: Connection, slot: str) -> None:
    writer = every_database.connect_owner(autocommit=False)
    writer.execute("INSERT INTO t VALUES (1)")
    begun = time.monotonic()
    with pytest.raises(DatabaseUnreachable, match="still open") as caught:
        create_slot(walsender, slot, lock_timeout_s=0.3)
    assert 0.3 <= time.monotonic() - begun < 10
    assert "pg_stat_activity" in caught.value.hint
    assert walsender.execute("SHOW lock_timeout").fetchone() == ("0",)
    with connect(conninfo_of(every_database)) as plain:
        assert slot_state(plain, slot) is None
    threading.Timer(0.3, writer.rollback).start()
    assert create_slot(walsender, slot, lock_timeout_s=20) > 0


def test_a_role_that_may_not_replicate_cannot_drop_a_slot(every_database: Database, slot: str) -> None:
    with connect(conninfo_of(every_database, "app_owner")) as plain, pytest.raises(KeyProblem):
        drop_slot(plain, slot)


@pytest.mark.parametrize("name", ["", "Upper", "with space", "with-dash", "ä", "x" * 64, "s'; --"])
def test_names_that_postgresql_would_refuse_are_refused_here(name: str) -> None:
    with pytest.raises(UsageError, match="replication slot"):
        check_slot_name(name)
    assert check_slot_name("witnz_node_1") == "witnz_node_1"


def test_no_free_slot_is_an_error_with_a_remedy(pg_server: PostgresServer, slot: str) -> None:
    database = create_database(pg_server)
    made = []
    try:
        with connect(conninfo_of(database)) as plain, connect(conninfo_of(database), replication=True) as walsender:
            while free_slots(plain) > 0:
                made.append(f"{slot}_{len(made)}")
                plain.execute("SELECT pg_create_physical_replication_slot(%s)", [made[-1]])
            with pytest.raises(ReplicationImpossible, match="53400") as caught:
                create_slot(walsender, slot)
            assert "max_replication_slots" in caught.value.hint
            for name in made:
                drop_slot(plain, name)
    finally:
        database.drop()


# -- markers --


def test_a_markers_lsn_is_flushed_when_it_returns(every_database: Database) -> None:
    with connect(conninfo_of(every_database)) as plain:
        for content in ("text é", b"\x00\xff'\\", ""):
            lsn = emit_marker(plain, "witnz-mark", content)
            flushed = parse_lsn(plain.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()[0])
            assert 0 < lsn <= flushed
        assert plain.execute("SHOW synchronous_commit").fetchone() == ("on",)


@pytest.mark.since(14, "waiting for a standby with a message alone")
def test_a_marker_waits_for_no_standby(own_server: Callable[..., PostgresServer]) -> None:
    server = own_server()
    conninfo = Conninfo.from_conninfo(server.dsn())
    with connect(conninfo) as witnz, connect(conninfo) as application:
        server.sql("ALTER SYSTEM SET synchronous_standby_names = 'nosuch'")
        server.sql("SELECT pg_reload_conf()")
        ends = threading.Event()

        def work() -> None:
            """The first transactions may still pass: it is another process that tells the others to wait."""
            while not ends.is_set():
                application.execute("SELECT pg_logical_emit_message(true, 'x', 'y')")

        ordinary = threading.Thread(target=work)
        ordinary.start()
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        wait(lambda: witnz.execute(waits).fetchone() == (1,), "an ordinary transaction to wait for the standby")
        assert emit_marker(witnz, "witnz-mark", "x") > 0
        ends.set()
        assert ordinary.is_alive()  # the same without our setting still waits
        server.sql("ALTER SYSTEM RESET synchronous_standby_names")
        server.sql("SELECT pg_reload_conf()")
        end_threads(ordinary)


def test_a_marker_outside_of_a_transaction_is_one_too(every_database: Database) -> None:
    with connect(conninfo_of(every_database)) as plain:
        before = parse_lsn(plain.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()[0])
        assert emit_marker(plain, "witnz-mark", "x", transactional=False) > before
