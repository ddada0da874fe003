"""Commits of the store that fail, or fail although they persisted: nothing is lost or doubled, and the store is sound.

What a node makes durable, but for key files and an engine's log, is a commit of the store: entries with the position,
records of the journal, checkpoints, the cosigner's memory, findings and the marks of what was delivered.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.support.node import Protected, wait
from tests.support.postgres import Database
from tests.support.recorded import audit_problems

TABLE = "public.ledger"
EVERY = 3


class FaultyWriter:
    """The store's writing connection, of which one commit in ``EVERY`` fails while ``kind`` says how."""

    def __init__(self, real: sqlite3.Connection) -> None:
        self._real, self.kind, self.commits, self.failed = real, "", 0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement != "COMMIT" or not self.kind:
            return self._real.execute(statement, *values)
        self.commits += 1
        if self.commits % EVERY:
            return self._real.execute(statement)
        self.failed += 1
        if self.kind == "failed but persisted":
            self._real.execute(statement)
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise error


@pytest.mark.parametrize("kind", ["failed", "failed but persisted"])
def test_commits_that_fail_lose_and_double_nothing(database: Database, tmp_path: Path, kind: str) -> None:
    database.sql(f"CREATE TABLE {TABLE} (id bigint PRIMARY KEY, note text); INSERT INTO {TABLE} VALUES (0, 'first')")
    protected = Protected.start(tmp_path, database, [{"name": TABLE, "mode": "append_only"}])
    faulty = FaultyWriter(protected.node.db._writer)  # type: ignore[arg-type]
    protected.node.db._writer = faulty  # type: ignore[assignment]
    try:
        faulty.kind = kind
        for first in (1, 101, 201):
            database.sql(f"INSERT INTO {TABLE} SELECT g, 'row' FROM generate_series({first}, {first + 99}) g")
        database.sql(f"UPDATE {TABLE} SET note = 'forged' WHERE id = 7")
        protected.wait_for("violation.update", "7")
        wait(lambda: faulty.failed >= 4, "commits that failed")
        faulty.kind = ""
        wait(lambda: protected.node.capture.last_error is None, "the stream again")
        wait(lambda: protected.node.state(TABLE).head.size == 1 + 1 + 300 + 1, "every change")
        protected.caught_up()
        protected.node.seal_now()
        assert protected.node.state(TABLE).head.size == 303
        assert [(f.cls, f.key) for f in protected.findings()] == [("violation.update", "7")]
        assert audit_problems(protected) == []
        protected.restart()
        assert protected.node.state(TABLE).head.size == 303
        assert [(f.cls, f.key) for f in protected.findings()] == [("violation.update", "7")]
    finally:
        faulty.kind = ""
        protected.stop()
