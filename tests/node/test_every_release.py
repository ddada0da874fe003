"""Every older release of PostgreSQL, each in one breath: protect, record every type, verify, an attack, a restart.

The whole suite runs on each of them in `make test-all`; these few seconds are for every day.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import OLDER
from tests.postgres.test_types import make_typed_table
from tests.support.node import Protected, wait
from tests.support.postgres import create_database
from witnz.core.verdict import Verdict
from witnz.demo.server import PostgresServer
from witnz.errors import ConfigError


@pytest.fixture(params=OLDER, ids=lambda version: f"pg{version}")
def older_server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A server of each older release, for the test alone."""
    try:
        server = PostgresServer(version=request.param)
    except ConfigError as error:
        pytest.skip(f"{error} ({error.hint})")
    with server:
        yield server


def test_an_older_release_is_watched_like_any_other(older_server: PostgresServer, tmp_path: Path) -> None:
    database = create_database(older_server)
    rows = make_typed_table(database)
    database.sql(f"CREATE TABLE quiet (id int PRIMARY KEY); INSERT INTO quiet VALUES (1); INSERT INTO t VALUES ({rows[0]})")
    tables = [{"name": "public.t", "mode": "append_only"}, {"name": "public.quiet", "mode": "append_only"}]
    protected = Protected.start(tmp_path, database, tables)
    try:
        with database.connect_owner() as owner:
            for row in rows[1:]:
                owner.execute(f"INSERT INTO t VALUES ({row})".encode())
        protected.caught_up()
        verified = protected.verify("public.t")
        assert (verified.verdict, verified.not_checked, verified.result.rows) == (Verdict.VERIFIED, (), len(rows))

        database.sql("UPDATE t SET c0 = NOT c0 WHERE id = 1", user="postgres")
        database.sql("SET session_replication_role = replica; DELETE FROM t WHERE id = 2", user="postgres")
        assert protected.wait_for("violation.update", "1").table == "public.t"
        assert protected.wait_for("violation.delete", "2").table == "public.t"

        older_server.restart()
        wait(lambda: protected.node.capture.status.connected, "the stream after a restart")
        database.sql("INSERT INTO quiet VALUES (2)")
        protected.caught_up()
        quiet = protected.verify("public.quiet")
        assert (quiet.verdict, quiet.not_checked, quiet.result.rows) == (Verdict.VERIFIED, (), 2)
        verified = protected.verify("public.t")
        assert verified.verdict is Verdict.TAMPERED
        assert {(d.cls, d.key, d.explained) for d in verified.result.differences} == {
            ("row.modified", "1", True),
            ("row.deleted", "2", True),
        }
        assert protected.findings("public.quiet") == []
    finally:
        protected.stop()
