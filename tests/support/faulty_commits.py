"""A store whose commits fail: with nothing done, or done and reported as failed all the same."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.faulty_files import PERSISTED
from witnz.store.database import Database


class FaultyCommits:
    """The store's writing connection; a commit for which ``which`` says so (they are counted from 1) fails as ``kind`` says."""

    def __init__(self, real: sqlite3.Connection, which: Callable[[int], bool], kind: str = "") -> None:
        self._real, self._which, self.kind = real, which, kind
        self.commits = self.failed = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement != "COMMIT" or not self.kind:
            return self._real.execute(statement, *values)
        self.commits += 1
        if not self._which(self.commits):
            return self._real.execute(statement)
        self.failed += 1
        if self.kind == PERSISTED:
            self._real.execute(statement)
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise error


@contextmanager
def faulty_commits(db: Database, which: Callable[[int], bool], kind: str) -> Iterator[FaultyCommits]:
    """The commits of ``db`` while the ``with`` lasts."""
    real = db._writer
    assert real is not None
    faulty = FaultyCommits(real, which, kind)
    db._writer = faulty  # type: ignore[assignment]
    try:
        yield faulty
    finally:
        faulty.kind = ""
        db._writer = real
