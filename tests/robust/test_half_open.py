"""A database behind something that acknowledges TCP but lets nothing through: noticed, named, and left without a trace."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.cutter import Cutter
from tests.support.far_database import FarDatabase
from tests.support.node import WATCH_S, Protected, wait
from tests.support.postgres import Database
from witnz.core.verdict import Verdict
from witnz.errors import DatabaseUnreachable, WitnzError
from witnz.node.node import Node
from witnz.postgres.session import Conninfo, connect
from witnz.postgres.silence import Silence
from witnz.postgres.stream import ReplicationStream

TABLE = "public.ledger"
SILENCE_S = 2.0


def conninfo_of(database: FarDatabase) -> Conninfo:
    return replace(Conninfo.from_conninfo(database.witnz_dsn), silence_s=SILENCE_S)


@pytest.fixture
def far(database: Database) -> Iterator[tuple[FarDatabase, Cutter]]:
    cutter = Cutter()
    target = Conninfo.from_conninfo(database.witnz_dsn)
    _, port = cutter.through("node", "database", (target.host, target.port))
    # the server's own limit, where it is longer, is the one that counts
    database.server.sql(f"ALTER ROLE witnz IN DATABASE {database.name} SET wal_sender_timeout = '2s'")
    yield FarDatabase(database.server, database.name, port=port), cutter
    cutter.close()


def test_a_stream_and_a_statement_end_when_the_server_is_gone_behind_a_proxy(far: tuple[FarDatabase, Cutter]) -> None:
    database, cutter = far
    database.sql("CREATE TABLE t (id bigint PRIMARY KEY)")
    database.create_publication("p", "t")
    slot = f"half_open_{database.name}"
    with database.connect(database.admin_dsn) as admin:
        admin.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
    try:
        with (
            connect(conninfo_of(database)) as session,
            ReplicationStream(conninfo_of(database), slot, "p", start_lsn=0) as stream,
        ):
            until = time.monotonic() + 2 * SILENCE_S
            while time.monotonic() < until:  # an idle server answers: it is not taken for gone
                stream.read(100, 0.1)
            cutter.cut("node", "database")
            with pytest.raises(DatabaseUnreachable, match="the server did not answer for 2 s") as gone:
                for _ in range(600):
                    stream.read(100, 0.1)
            assert "what lies between" in gone.value.hint and stream.silent
            with pytest.raises(psycopg.OperationalError, match="without an answer for 2 s"), session.transaction():
                session.execute("SELECT 1")
            assert session.closed
    finally:
        cutter.heal()
        wait(lambda: _free(database, slot), "the end of the walsender")
        database.server.sql(f"SELECT pg_drop_replication_slot('{slot}')")


@pytest.mark.slow
def test_a_node_names_the_silence_connects_again_and_loses_doubles_and_accuses_nothing(
    far: tuple[FarDatabase, Cutter], tmp_path: Path
) -> None:
    database, cutter = far
    database.sql(f"CREATE TABLE {TABLE} (id bigint PRIMARY KEY, note text); INSERT INTO {TABLE} VALUES (0, 'first')")
    protected = Protected.start(tmp_path, database, [{"name": TABLE, "mode": "append_only"}])
    try:
        protected.stop()
        protected.node = Node(protected.config, watch_s=WATCH_S, silence_s=SILENCE_S)
        protected.go()
        database.sql(f"INSERT INTO {TABLE} SELECT g, 'before' FROM generate_series(1, 100) g")
        protected.caught_up()

        cutter.cut("node", "database")
        database.sql(f"INSERT INTO {TABLE} SELECT g, 'meanwhile' FROM generate_series(101, 200) g")
        source = protected.node.capture.status
        wait(lambda: not source.connected and "answer for 2 s" in source.error, "a status that names the silence")
        with suppress(WitnzError):
            assert protected.verify(TABLE).verdict is Verdict.INCONCLUSIVE  # could not look: never green
        found = protected.wait_for("source.unreachable")

        cutter.heal()
        wait(lambda: source.connected, "the stream again")
        wait(lambda: protected.node.state(TABLE).head.size == 1 + 1 + 200, "what came meanwhile")
        protected.caught_up()
        assert protected.node.state(TABLE).head.size == 1 + 1 + 200  # the schema, the baseline, each row once
        looks = protected.node.watch.looks
        wait(lambda: protected.node.watch.looks > looks, "the catalog watch again")
        protected.assert_verified(TABLE)
        assert [finding.id for finding in protected.findings(state=None)] == [found.id]
    finally:
        cutter.heal()
        protected.stop()


def test_silence_is_borne_longer_each_time_that_it_ended_a_stream_at_the_same_place() -> None:
    silence = Silence()
    factors = []
    for _ in range(8):
        silence.ended(500)
        factors.append(silence.factor)
    assert factors == [2, 4, 8, 16, 32, 64, 64, 64]
    silence.ended(501)  # further than before: another transaction, or another fault
    assert silence.factor == 2
    silence.passed()
    assert silence.factor == 1


def _free(database: Database, slot: str) -> bool:
    found: list[Any] = database.server.sql(f"SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}'")
    return not found[0][0]
