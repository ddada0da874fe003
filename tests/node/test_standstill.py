"""Waiting for the stream: one that stands still is INCONCLUSIVE with its reason, one that lags and moves is waited for."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.narrow import NarrowProxy
from tests.support.node import Protected, wait
from tests.support.postgres import Database
from witnz.core.lsn import parse_lsn
from witnz.core.verdict import Verdict
from witnz.ending import end_threads
from witnz.errors import Inconclusive
from witnz.node.marks import Progress, Vigil
from witnz.node.node import Node
from witnz.postgres.session import Conninfo
from witnz.store import logs
from witnz.verify.live import LiveVerifier, TableResult
from witnz.verify.stream import Patience

SCHEMA = """
CREATE TABLE ledger (id int PRIMARY KEY, note text);
CREATE TABLE wide (id int PRIMARY KEY, note text);
ALTER TABLE wide ALTER COLUMN note SET STORAGE EXTERNAL;
INSERT INTO ledger SELECT g, 'note ' || g FROM generate_series(1, 50) g;
"""
TABLES = [{"name": "ledger", "mode": "append_only"}, {"name": "wide", "on_change": "record"}]


# -- the judgement ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moved", [Progress(1), Progress(0, received_messages=1), Progress(0, recorded_entries=1)])
def test_any_kind_of_progress_is_progress(moved: Progress) -> None:
    vigil = Vigil(1000, Patience(standstill_s=30, total_s=600), began=100.0)
    assert vigil.complaint(100.0, Progress(0)) is None
    assert vigil.complaint(129.9, Progress(0)) is None
    assert vigil.complaint(129.9, moved) is None
    assert vigil.complaint(159.8, moved) is None
    complaint = vigil.complaint(159.9, moved)
    assert complaint == f"the replication stream stood still for 30 s, {1000 - moved.reached} bytes before position 0/3E8"


def test_a_stream_that_never_gets_there_is_not_waited_for_without_end() -> None:
    vigil = Vigil(10_000, Patience(standstill_s=30, total_s=600), began=100.0)
    assert {vigil.complaint(100.0 + second, Progress(second)) for second in range(600)} == {None}
    complaint = vigil.complaint(700.0, Progress(600))
    assert complaint == "the replication stream lags: it moves, but after 600 s it was 9400 bytes before position 0/2710"


# -- real streams -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def node(database: Database, tmp_path: Path) -> Iterator[Protected]:
    database.sql(SCHEMA)
    node = Protected.start(tmp_path, database, TABLES)
    yield node
    node.stop()


@contextmanager
def stalled(node: Protected) -> Iterator[None]:
    """While held, the server's end of the stream is stopped: connected, and mute."""
    query = f"SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{node.config.slot_name}' AND active"
    [(pid,)] = wait(lambda: node.database.sql(query, user="postgres"), "the node to stream")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def verify(node: Protected, patience: Patience) -> TableResult:
    verifier = LiveVerifier(node.node.db, node.node.capture, node.directory, patience)
    return verifier.verify(node.node.target(node.node.state("public.ledger")))


def test_a_stream_that_stands_still_is_inconclusive_with_its_reason(node: Protected) -> None:
    with stalled(node):
        node.database.sql("INSERT INTO wide VALUES (1, repeat('x', 20000))")
        result = verify(node, Patience(standstill_s=1.5))
        assert result.verdict is Verdict.INCONCLUSIVE
        [reason] = result.not_checked
        told = re.fullmatch(
            r"the replication stream stood still for 1\.5 s, (\d+) bytes before position ([0-9A-F]+/[0-9A-F]+)", reason
        )
        assert told, reason
        assert int(told[1]) > 20000, "how far it was behind"
        assert result.lsn < parse_lsn(told[2])
    assert verify(node, Patience()).verdict is Verdict.VERIFIED
    assert node.findings(state=None) == []


def test_a_slow_stream_that_moves_is_waited_for(database: Database, tmp_path: Path) -> None:
    database.sql(SCHEMA)
    where = Conninfo.from_conninfo(database.witnz_dsn)
    patience = Patience(standstill_s=4.0)
    with NarrowProxy((where.host, where.port)) as proxy:
        address = {"host": "127.0.0.1", "port": proxy.port, "database": where.dbname, "user": where.user, "sslmode": "disable"}
        node = Protected.start(tmp_path, database, TABLES, database=address)
        node.caught_up()
        proxy.pause_s = 0.25
        database.sql("INSERT INTO wide SELECT g, repeat(md5(g::text), 512) FROM generate_series(1, 25) g")
        began = time.monotonic()
        result = verify(node, patience)
        assert time.monotonic() - began > patience.standstill_s, "the stream was not slow enough to show anything"
        assert (result.verdict, result.not_checked) == (Verdict.VERIFIED, [])
        proxy.pause_s = 0.0
        node.stop()


def test_who_waits_is_told_at_once_when_the_node_stops(node: Protected) -> None:
    told: list[str] = []

    def ask() -> None:
        try:
            node.node.capture.await_mark(b"never", Patience())
        except Inconclusive as error:
            told.append(error.message)

    with stalled(node):
        thread = threading.Thread(target=ask)
        thread.start()
        stopping = threading.Thread(target=node.node.capture.stop)
        stopping.start()
        thread.join(20)  # well before Patience() ends
        assert told == ["the node is stopping"]
    end_threads(stopping)


def test_what_is_whole_is_durable_while_the_stream_lags(database: Database, tmp_path: Path) -> None:
    """Of a backlog nearly every batch ends within a transaction; that must not put off the commit of those before."""
    database.sql(SCHEMA)
    node = Protected.start(tmp_path, database, TABLES)
    node.stop()
    with database.connect_owner() as conn:
        for at in range(0, 90_000, 1500):
            conn.execute(f"INSERT INTO wide SELECT g, 'x' FROM generate_series({at + 1}, {at + 1500}) g")
    node.node = Node(node.config)
    sizes: set[int] = set()
    node.node.start(schedule=False)
    while max(sizes, default=0) < 90_000:
        with node.node.db.read() as store:
            sizes.add(logs.find_log(store, "public.wide").size)
    node.stop()
    assert len(sizes) >= 5, sizes
