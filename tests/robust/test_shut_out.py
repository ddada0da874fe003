"""A database that turns the node away while it runs: it says why, keeps asking, and goes on where it stood."""

from __future__ import annotations

from pathlib import Path

from tests.support.node import Protected, wait
from tests.support.postgres import Database
from witnz.core.verdict import Verdict
from witnz.node.status import Live
from witnz.node.view import StoreView

TABLE = "public.ledger"


def capture_check(node: Live, protected: Protected) -> dict[str, str]:
    view = StoreView(protected.node.db, protected.node.journal.state, protected.config)
    return next(check for check in view.vitals(node)["checks"] if check["name"] == "capture")


def test_a_login_that_is_refused_for_a_while_ends_nothing(database: Database, tmp_path: Path) -> None:
    database.sql(f"CREATE TABLE {TABLE} (id bigint PRIMARY KEY, note text); INSERT INTO {TABLE} VALUES (0, 'first')")
    protected = Protected.start(tmp_path, database, [{"name": TABLE, "mode": "append_only"}])
    try:
        name = database.name
        database.sql(f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC, witnz", user="postgres")
        database.sql(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND usename = 'witnz'",
            user="postgres",
        )
        database.sql(f"INSERT INTO {TABLE} VALUES (1, 'meanwhile'); DELETE FROM {TABLE} WHERE id = 0")
        wait(lambda: "permission denied" in capture_check(protected.node, protected)["message"], "a status that says why")
        assert capture_check(protected.node, protected)["status"] == "fail"
        assert protected.node.capture.fatal is None
        verified = protected.verify(TABLE)
        assert verified.verdict is Verdict.INCONCLUSIVE, "what cannot be asked is never green"

        database.sql(f"GRANT CONNECT ON DATABASE {name} TO witnz", user="postgres")
        wait(lambda: capture_check(protected.node, protected)["status"] == "ok", "the stream once it is let in again")
        protected.caught_up()
        assert protected.node.state(TABLE).head.size == 1 + 1 + 2
        assert [(f.cls, f.key) for f in protected.findings()] == [("violation.delete", "0")]
    finally:
        protected.stop()
