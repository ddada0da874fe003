"""A database that restarts, hangs up or is slow while it is read: each step ends whole, or is tried again and says so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cutter import Cutter
from tests.support.far_database import FarDatabase
from tests.support.node import Protected, wait
from tests.support.postgres import Database, create_database, prepare_server
from witnz.core.verdict import Verdict
from witnz.errors import WitnzError
from witnz.postgres.session import Conninfo

TABLE = "public.ledger"
ROWS = 2000
SLOW_BYTES_S = 1_000_000.0  # the baseline, and each scan, takes some two seconds: time to do something to it


def in_the_midst(database: Database, application: str, deed: Callable[[], Any]) -> threading.Thread:
    """``deed``, as soon as this session of the node reads the table's rows; joined by who started it."""

    def reading() -> bool:
        found = database.server.sql(
            f"SELECT 1 FROM pg_stat_activity WHERE application_name = '{application}' AND query LIKE 'COPY%'"
        )
        return bool(found)

    def act() -> None:
        wait(reading, f"a session {application} that reads")
        deed()

    thread = threading.Thread(target=act)
    thread.start()
    return thread


@pytest.fixture
def far(own_server: Callable[..., Any]) -> Iterator[tuple[FarDatabase, Cutter]]:
    server = own_server()
    prepare_server(server)
    made = create_database(server)
    cutter = Cutter()
    target = Conninfo.from_conninfo(made.witnz_dsn)
    _, port = cutter.through("node", "database", (target.host, target.port))
    yield FarDatabase(server, made.name, port=port), cutter
    cutter.close()


def test_what_a_restart_or_a_cut_interrupts_is_done_again_as_a_whole(far: tuple[FarDatabase, Cutter], tmp_path: Path) -> None:
    database, cutter = far
    database.sql(f"CREATE TABLE {TABLE} (id bigint PRIMARY KEY, note text)")
    database.sql(f"INSERT INTO {TABLE} SELECT g, repeat(md5(g::text), 32) FROM generate_series(1, {ROWS}) g")
    cutter.trickle("database", "node", SLOW_BYTES_S)
    restarted = in_the_midst(database, "witnz baseline", lambda: database.server.restart("immediate"))
    protected = Protected.start(tmp_path, database, [{"name": TABLE, "mode": "append_only"}])
    try:
        restarted.join()
        wait(lambda: [state.status for state in protected.node.states()] == ["active"], "the baseline, begun anew")
        assert protected.node.state(TABLE).head.size == 1 + ROWS  # the schema, and each row once

        for deed in (lambda: database.server.restart("immediate"), lambda: cutter.hang_up("node", "database")):
            interrupted = in_the_midst(database, "witnz verify", deed)
            try:
                assert protected.verify(TABLE).verdict is Verdict.INCONCLUSIVE
            except WitnzError as error:
                assert error.exit_code != 0
            interrupted.join()
            wait(lambda: protected.node.capture.status.connected, "the stream again")
        cutter.heal()

        for first in range(ROWS + 1, ROWS + 401, 100):
            database.sql(f"INSERT INTO {TABLE} SELECT g, 'later' FROM generate_series({first}, {first + 99}) g")
            cutter.hang_up("node", "database")
        wait(lambda: protected.node.state(TABLE).head.size == 1 + ROWS + 400, "the rows that came meanwhile")
        protected.caught_up()
        assert protected.node.state(TABLE).head.size == 1 + ROWS + 400
        protected.assert_verified(TABLE)
        assert protected.findings(state=None) == []
    finally:
        cutter.heal()
        protected.stop()
