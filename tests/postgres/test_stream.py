"""The replication stream on real servers: what it delivers, what it acknowledges, and how it ends."""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.support.narrow import NarrowProxy
from tests.support.pgoutput import conninfo_of
from tests.support.postgres import Database, create_database, prepare_server
from witnz.core.lsn import parse_lsn
from witnz.demo.server import PostgresServer
from witnz.ending import end_threads
from witnz.errors import DatabaseUnreachable, KeyProblem, ReplicationImpossible, SlotLost, UsageError
from witnz.postgres import stream as stream_module
from witnz.postgres.pgoutput import Begin, Commit, Decoder, Event, LogicalMessage, Rows
from witnz.postgres.session import Conninfo, connect
from witnz.postgres.slot import emit_marker, slot_state
from witnz.postgres.stream import Batch, ReplicationStream

COPY_DONE = b"c\x00\x00\x00\x04"


@contextmanager
def streamed(database: Database, **keywords: object) -> Iterator[ReplicationStream]:
    """A table t, published, with a slot that is being read."""
    with ReplicationStream(prepare(database), "s", "p", start_lsn=0, **keywords) as stream:  # type: ignore[arg-type]
        yield stream


def prepare(database: Database) -> Conninfo:
    database.sql("CREATE TABLE t (id bigint PRIMARY KEY, v text)")
    database.create_publication("p", "t")
    database.create_slot("s")
    return conninfo_of(database)


@pytest.fixture
def fresh(pg_server: PostgresServer) -> Iterator[Database]:
    """A database whose slot name is free, whoever else uses the server."""
    yield from _with_slot_dropped(pg_server)


def _with_slot_dropped(server: PostgresServer) -> Iterator[Database]:
    created = create_database(server)
    yield created
    created.drop()


def read_until_commit(stream: ReplicationStream, decoder: Decoder | None = None, timeout_s: float = 20.0) -> list[Event]:
    """What comes, up to the end of a transaction; ``decoder``: where a stream is read further after this."""
    decoder = decoder or Decoder()
    events: list[Event] = []
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        events += decoder.decode(stream.read(1000, 0.2).payloads)
        if events and isinstance(events[-1], Commit):
            return events
    raise TimeoutError("no transaction came")


def read_until_error(stream: ReplicationStream, timeout_s: float = 20.0) -> list[bytes]:
    """Read for ever; a test expects this to raise."""
    payloads: list[bytes] = []
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        payloads += stream.read(100, 0.2).payloads
    return payloads


def confirmed(database: Database, slot: str = "s") -> int:
    return parse_lsn(
        database.sql(f"SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{slot}'")[0][0]
    )


def wait_for(condition: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


# -- reading --


def test_a_read_returns_at_once_what_has_come_and_waits_only_for_the_first(every_database: Database) -> None:
    with streamed(every_database) as stream:
        begun = time.monotonic()
        while stream.read(100, 0.0) != Batch([], None):
            assert time.monotonic() - begun < 5
        begun = time.monotonic()
        batch = stream.read(100, 0.3)
        assert batch.payloads == []
        assert batch.wal_end is not None or 0.3 <= time.monotonic() - begun < 5
        threading.Timer(0.2, lambda: every_database.sql("INSERT INTO t VALUES (1, 'x')")).start()
        events = read_until_commit(stream)
        assert [event.new for event in events if isinstance(event, Rows)] == [[b"1\tx"]]


def test_a_batch_has_at_most_as_many_messages_as_asked_for(fresh: Database) -> None:
    with streamed(fresh) as stream:
        fresh.sql("INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 1000) i")
        payloads: list[bytes] = []
        while not payloads or payloads[-1][:1] != b"C":
            batch = stream.read(7, 5.0)
            assert len(batch.payloads) <= 7
            payloads += batch.payloads
        assert len(payloads) == 1000 + 3  # Begin, Relation, Commit


def test_a_batch_ends_when_it_is_too_large_for_memory(fresh: Database) -> None:
    with streamed(fresh, max_batch_bytes=20_000) as stream:
        fresh.sql("INSERT INTO t SELECT i, repeat('x', 3000) FROM generate_series(1, 1000) i")
        sizes: list[int] = []
        payloads: list[bytes] = []
        while not payloads or payloads[-1][:1] != b"C":
            payloads = stream.read(100000, 5.0).payloads
            sizes.append(sum(map(len, payloads)))
        assert max(sizes) < 20_000 + 3100
        assert sum(sizes) > 1000 * 3000


def test_messages_come_on_every_version_that_sends_them(every_database: Database) -> None:
    with streamed(every_database) as stream:
        emit_marker(every_database.connect_witnz(), "witnz-mark", "x")
        events = read_until_commit(stream)
        assert [event.content for event in events if isinstance(event, LogicalMessage)] == [b"x"]


@pytest.mark.since(14, "logical messages in the stream")
@pytest.mark.parametrize("version", [130000, 140000, 170000])
def test_the_options_follow_the_servers_version(fresh: Database, version: int) -> None:
    with streamed(fresh, server_version_num=version) as stream:
        watcher = fresh.connect_witnz()
        emit_marker(watcher, "witnz-mark", "x")
        fresh.sql("INSERT INTO t VALUES (1, 'x')")
        decoder = Decoder()
        events = read_until_commit(stream, decoder)
        if not any(isinstance(event, Rows) for event in events):
            events += read_until_commit(stream, decoder)
        assert any(isinstance(event, LogicalMessage) for event in events) is (version >= 140000)


def test_several_publications_with_names_that_need_quotes_are_read(fresh: Database) -> None:
    fresh.sql("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)")
    names = ['the "first", publication', "it's 2"]
    fresh.sql('CREATE PUBLICATION "the ""first"", publication" FOR TABLE a; CREATE PUBLICATION "it\'s 2" FOR TABLE b')
    fresh.create_slot("s")
    with ReplicationStream(conninfo_of(fresh), "s", names, start_lsn=0) as stream:
        fresh.sql("BEGIN; INSERT INTO a VALUES (1); INSERT INTO b VALUES (2); COMMIT")
        assert [event.new for event in read_until_commit(stream) if isinstance(event, Rows)] == [[b"1"], [b"2"]]


# -- acknowledging --


def test_what_is_acknowledged_is_not_sent_again(every_database: Database) -> None:
    database = every_database
    conninfo = prepare(database)
    with ReplicationStream(conninfo, "s", "p", start_lsn=0) as stream:
        database.sql("INSERT INTO t VALUES (1, 'x')")
        first = read_until_commit(stream)
    with ReplicationStream(conninfo, "s", "p", start_lsn=0) as stream:
        assert read_until_commit(stream) == first  # not acknowledged: it comes again, the same
        commit = first[-1]
        assert isinstance(commit, Commit)
        assert stream.received_lsn >= commit.end_lsn
        stream.ack(commit.end_lsn)
    assert confirmed(database) == commit.end_lsn  # close() sent it
    with ReplicationStream(conninfo, "s", "p", start_lsn=0) as stream:
        database.sql("INSERT INTO t VALUES (2, 'y')")
        assert [event.new for event in read_until_commit(stream) if isinstance(event, Rows)] == [[b"2\ty"]]


def test_nothing_is_acknowledged_beyond_what_was_received(fresh: Database) -> None:
    with streamed(fresh) as stream:
        fresh.sql("INSERT INTO t VALUES (1, 'x')")
        commit = read_until_commit(stream)[-1]
        assert isinstance(commit, Commit)
        received = stream.received_lsn
        assert received >= commit.end_lsn
        stream.ack(1 << 60, force=True)
        assert stream.acked_lsn == received
        assert wait_for(lambda: confirmed(fresh) == received)
        stream.ack(commit.end_lsn - 8, force=True)
        assert stream.acked_lsn == received


def test_a_server_that_falls_silent_at_the_end_holds_nobody_up(fresh: Database) -> None:
    """The end of the copy comes, and what belongs behind it does not; the proxy's threads need the interpreter meanwhile."""
    conninfo = prepare(fresh)
    with NarrowProxy((conninfo.host, conninfo.port)) as proxy:
        stream = ReplicationStream(replace(conninfo, port=proxy.port), "s", "p", start_lsn=0)
        fresh.sql("INSERT INTO t VALUES (1, 'a')")
        assert read_until_commit(stream)
        proxy.silent_after = COPY_DONE
        closing = threading.Thread(target=stream.close)
        closing.start()
        end_threads(closing)
        assert not closing.is_alive()
    with ReplicationStream(conninfo, "s", "p", start_lsn=0, busy_timeout_s=60) as stream:
        assert read_until_commit(stream), "nothing was acknowledged"


def test_rows_of_a_transaction_that_has_not_ended_are_not_received_yet(fresh: Database) -> None:
    with streamed(fresh) as stream:
        before_lsn = parse_lsn(fresh.sql("SELECT pg_current_wal_insert_lsn()::text")[0][0])
        fresh.sql("INSERT INTO t SELECT i, 'v' FROM generate_series(1, 500) i")
        payloads: list[bytes] = []
        while len(payloads) < 100:
            payloads += stream.read(100 - len(payloads), 1.0).payloads
        assert stream.received_lsn <= before_lsn
        stream.ack(1 << 60, force=True)
        assert stream.acked_lsn <= before_lsn


def test_acknowledgements_are_gathered_and_still_go_out_soon(fresh: Database) -> None:
    with streamed(fresh) as stream:
        ends: list[int] = []
        sent = []
        decoder = Decoder()
        for i in range(20):
            fresh.sql(f"INSERT INTO t VALUES ({i}, 'x')")
            commit = read_until_commit(stream, decoder)[-1]
            assert isinstance(commit, Commit)
            ends.append(commit.end_lsn)
        for end_lsn in ends:  # in no time, on whatever machine
            before = stream._status_at
            stream.ack(end_lsn)
            sent.append(stream._status_at != before)
        assert not all(sent)
        begun = time.monotonic()
        while confirmed(fresh) < ends[-1]:
            stream.read(10, 0.05)  # the timer within read() sends what is left
            assert time.monotonic() - begun < 20


def test_an_idle_slot_moves_on_with_the_keepalives(every_database: Database) -> None:
    database, decoder = every_database, Decoder()
    shell = (Begin, Commit) if database.server.version < 15 else ()  # later servers leave out what holds nothing of ours
    with streamed(database) as stream:
        database.sql("CREATE TABLE unwatched (i int); INSERT INTO unwatched SELECT generate_series(1, 2000)")
        written_lsn = parse_lsn(database.sql("SELECT pg_current_wal_flush_lsn()::text")[0][0])
        deadline = time.monotonic() + 20
        while confirmed(database) < written_lsn and time.monotonic() < deadline:
            batch = stream.read(100, 0.1)
            events = list(decoder.decode(batch.payloads))
            assert all(isinstance(event, shell) for event in events)
            if batch.wal_end is not None:
                stream.ack(batch.wal_end, force=True)
        assert confirmed(database) >= written_lsn


def test_a_server_without_anything_to_send_is_asked_how_far_it_has_read(every_database: Database) -> None:
    conninfo = prepare(every_database)
    with ReplicationStream(conninfo, "s", "p", start_lsn=0, status_interval_s=0.05) as stream:
        answers: list[int] = []
        deadline = time.monotonic() + 60
        while len(answers) < 20 and time.monotonic() < deadline:
            wal_end = stream.read(100, 1.0).wal_end
            if wal_end is not None:
                answers.append(wal_end)
                stream.ack(wal_end, force=True)  # it has nothing to say of its own accord now
        assert len(answers) == 20
        assert answers == sorted(answers)


def test_a_keepalive_before_a_message_is_not_the_batchs_end(fresh: Database) -> None:
    with streamed(fresh) as stream:
        for i in range(30):
            fresh.sql(f"INSERT INTO t VALUES ({i}, 'x')")
            batch = stream.read(1, 5.0)
            if batch.payloads:
                assert batch.wal_end is None
            elif batch.wal_end is not None:
                assert batch.wal_end <= stream.received_lsn


# -- the timer --


def test_a_slow_reader_of_a_backlog_is_not_cut_off(fresh: Database) -> None:
    conninfo = prepare(fresh)
    impatient = Conninfo(
        conninfo.host, conninfo.port, conninfo.dbname, conninfo.user, extra=(("options", "-c wal_sender_timeout=1s"),)
    )
    fresh.sql("INSERT INTO t SELECT i, repeat('x', 3000) FROM generate_series(1, 8000) i")
    with ReplicationStream(impatient, "s", "p", start_lsn=0, status_interval_s=0.2) as stream:
        count = 0
        begun = time.monotonic()
        while count < 8003:
            count += len(stream.read(20, 5.0).payloads)
            if time.monotonic() - begun < 3.5:  # thrice the server's patience, with megabytes waiting
                time.sleep(0.01)
        assert time.monotonic() - begun > 3


def test_without_its_timer_the_same_reader_would_be_cut_off(fresh: Database) -> None:
    conninfo = prepare(fresh)
    impatient = Conninfo(
        conninfo.host, conninfo.port, conninfo.dbname, conninfo.user, extra=(("options", "-c wal_sender_timeout=1s"),)
    )
    with ReplicationStream(impatient, "s", "p", start_lsn=0, status_interval_s=1000) as stream:
        fresh.sql("INSERT INTO t SELECT i, repeat('x', 3000) FROM generate_series(1, 8000) i")
        with pytest.raises(DatabaseUnreachable):
            for _ in range(4000):
                stream.read(20, 5.0)
                time.sleep(0.01)


def test_an_owner_that_is_busy_elsewhere_keeps_the_stream_alive_with_beat(fresh: Database) -> None:
    conninfo = prepare(fresh)
    impatient = Conninfo(
        conninfo.host, conninfo.port, conninfo.dbname, conninfo.user, extra=(("options", "-c wal_sender_timeout=3s"),)
    )
    with ReplicationStream(impatient, "s", "p", start_lsn=0, status_interval_s=0.2) as stream:
        begun = time.monotonic()
        while time.monotonic() - begun < 4.5:  # half as long again as the server's patience
            time.sleep(0.1)
            stream.beat()
        fresh.sql("INSERT INTO t VALUES (1, 'x')")
        assert read_until_commit(stream)


# -- the end --


def test_a_terminated_stream_delivers_what_came_and_can_be_taken_up_again(every_database: Database) -> None:
    database = every_database
    conninfo = prepare(database)
    stream = ReplicationStream(conninfo, "s", "p", start_lsn=0)
    database.sql("INSERT INTO t VALUES (1, 'x')")
    sent = f"SELECT sent_lsn >= pg_current_wal_flush_lsn() FROM pg_stat_replication WHERE pid = {stream.backend_pid}"
    assert wait_for(lambda: database.sql(sent, user="postgres") == [(True,)])
    database.sql(f"SELECT pg_terminate_backend({stream.backend_pid})", user="postgres")
    time.sleep(0.3)
    decoder = Decoder()
    events = []
    with pytest.raises(DatabaseUnreachable, match=r"57P01|closed the connection"):
        for _ in range(100):
            events += decoder.decode(stream.read(100, 0.2).payloads)
    assert [event.new for event in events if isinstance(event, Rows)] == [[b"1\tx"]]
    with pytest.raises(DatabaseUnreachable):
        stream.read(100, 0.0)
    stream.ack(1 << 60, force=True)  # harmless
    stream.close()
    with ReplicationStream(conninfo, "s", "p", start_lsn=0) as again:
        assert read_until_commit(again) == events


@pytest.mark.parametrize("version", [16, 18])
def test_a_fast_shutdown_returns_promptly_and_ends_the_stream(own_server: Callable[..., PostgresServer], version: int) -> None:
    server = own_server(version=version)
    prepare_server(server)
    database = create_database(server)
    stream = ReplicationStream(prepare(database), "s", "p", start_lsn=0)
    stopped: list[float] = []

    def stop() -> None:
        begun = time.monotonic()
        server.stop("fast", timeout_s=30)
        stopped.append(time.monotonic() - begun)

    database.sql("INSERT INTO t VALUES (1, 'x')")
    thread = threading.Thread(target=stop)
    decoder = Decoder()
    ended: Exception | None = None
    received = 0
    try:
        for turn in itertools.count():
            if turn == 5:
                thread.start()
            batch = stream.read(100, 0.1)
            for event in decoder.decode(batch.payloads):
                if isinstance(event, Commit):
                    received = event.end_lsn
                    stream.ack(received)
            if batch.wal_end is not None:
                stream.ack(batch.wal_end)
            assert turn < 300
    except DatabaseUnreachable as error:
        ended = error
    end_threads(thread)
    stream.close()
    assert received > 0
    assert ended is not None
    assert stopped[0] < 10
    with pytest.raises(DatabaseUnreachable):
        ReplicationStream(conninfo_of(database), "s", "p", start_lsn=0)
    server.start()
    with ReplicationStream(conninfo_of(database), "s", "p", start_lsn=0) as again:
        database.sql("INSERT INTO t VALUES (2, 'y')")
        decoder = Decoder()
        rows: list[list[bytes]] = []
        while rows[-1:] != [[b"2\ty"]]:  # before 17 an acknowledgement is forgotten by a shutdown, and the first comes again
            rows += [event.new for event in read_until_commit(again, decoder) if isinstance(event, Rows)]
        assert rows[:-1] in ([], [[b"1\tx"]])
    database.drop()


def test_a_crash_of_the_server_is_something_to_try_again(own_server: Callable[..., PostgresServer]) -> None:
    server = own_server()
    prepare_server(server)
    database = create_database(server)
    with streamed(database) as stream:
        database.sql("INSERT INTO t VALUES (1, 'x')")
        first = read_until_commit(stream)
        server.kill()
        with pytest.raises(DatabaseUnreachable):
            read_until_error(stream)
    server.start()
    with ReplicationStream(conninfo_of(database), "s", "p", start_lsn=0) as again:
        assert read_until_commit(again) == first


def test_a_closed_stream_leaves_its_slot_free_at_once(fresh: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "_CLOSE_S", 60.0)  # after which it would be left without the server's word
    conninfo = prepare(fresh)
    fresh.sql("INSERT INTO t SELECT i, 'v' FROM generate_series(1, 5000) i")
    for messages in (0, 10, 100000):
        stream = ReplicationStream(conninfo, "s", "p", start_lsn=0, busy_timeout_s=0)
        if messages:
            stream.read(messages, 2.0)
        begun = time.monotonic()
        stream.close()
        assert time.monotonic() - begun < 50, "the server agreed"
        stream.close()


def test_a_busy_slot_is_waited_for(fresh: Database) -> None:
    conninfo = prepare(fresh)
    first = ReplicationStream(conninfo, "s", "p", start_lsn=0)
    with pytest.raises(DatabaseUnreachable, match="55006"):
        ReplicationStream(conninfo, "s", "p", start_lsn=0, busy_timeout_s=0.2)
    threading.Timer(0.7, first.close).start()
    begun = time.monotonic()
    with ReplicationStream(conninfo, "s", "p", start_lsn=0, busy_timeout_s=20):
        assert time.monotonic() - begun > 0.4


def test_a_slot_that_is_gone_is_lost(every_database: Database) -> None:
    conninfo = prepare(every_database)
    with connect(conninfo) as connection:
        connection.execute("SELECT pg_drop_replication_slot('s')")
    with pytest.raises(SlotLost, match="does not exist") as caught:
        ReplicationStream(conninfo, "s", "p", start_lsn=0)
    assert caught.value.exit_code == 14


@pytest.mark.parametrize("version", [16, 18])
def test_a_slot_whose_wal_the_server_threw_away_is_lost(own_server: Callable[..., PostgresServer], version: int) -> None:
    server = own_server(
        version=version, settings={"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB", "min_wal_size": "32MB"}
    )
    prepare_server(server)
    database = create_database(server)
    conninfo = prepare(database)
    ReplicationStream(conninfo, "s", "p", start_lsn=0).close()
    for i in range(4):
        database.sql(f"INSERT INTO t SELECT i, repeat('x', 900) FROM generate_series({i * 9000}, {i * 9000 + 8999}) i")
        server.sql("SELECT pg_switch_wal()")
    server.sql("CHECKPOINT")
    with connect(conninfo) as connection:
        state = slot_state(connection, "s")
    assert state is not None
    assert state.lost
    assert state.wal_status == "lost"
    assert state.invalidation == ("wal_removed" if version >= 17 else "lost")
    with pytest.raises(SlotLost, match="given it up"):
        ReplicationStream(conninfo, "s", "p", start_lsn=0)


def test_a_publication_that_is_not_there_is_no_lost_slot(fresh: Database) -> None:
    conninfo = prepare(fresh)
    with ReplicationStream(conninfo, "s", "nosuch", start_lsn=0) as stream:
        fresh.sql("INSERT INTO t VALUES (1, 'x')")
        with pytest.raises(ReplicationImpossible, match="nosuch") as caught:
            read_until_error(stream)
        assert "42704" in caught.value.message


def test_a_slot_of_another_plugin_or_database_is_refused(pg_server: PostgresServer, fresh: Database) -> None:
    conninfo = prepare(fresh)
    other = f"o_{secrets.token_hex(4)}"
    pg_server.sql(f"SELECT pg_create_physical_replication_slot('{other}')")
    try:
        with pytest.raises(ReplicationImpossible):
            ReplicationStream(conninfo, other, "p", start_lsn=0)
    finally:
        pg_server.sql(f"SELECT pg_drop_replication_slot('{other}')")
    elsewhere = Conninfo(conninfo.host, conninfo.port, "postgres", conninfo.user)
    with pytest.raises(ReplicationImpossible):
        ReplicationStream(elsewhere, "s", "p", start_lsn=0)


def test_what_cannot_be_a_slots_name_is_refused_before_connecting() -> None:
    for name in ("", "Ä", "a b", "x" * 64, 'a"; DROP'):
        with pytest.raises(UsageError):
            ReplicationStream(Conninfo("127.0.0.1", 1, "x", "y"), name, "p", start_lsn=0)


def test_a_role_that_may_not_replicate_is_told_so(fresh: Database) -> None:
    prepare(fresh)
    with pytest.raises(KeyProblem):
        ReplicationStream(conninfo_of(fresh, "app_owner"), "s", "p", start_lsn=0)
