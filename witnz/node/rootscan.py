"""The "scan" of a partitioned root: it has no rows of its own, only a snapshot at which that is so.

A root is protected like a table, so that its rules stand in the journal for the leaves that appear later; its baseline is
empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import psycopg

from witnz.core.lsn import parse_lsn
from witnz.postgres.xid import Snapshot, parse_snapshot


class RootScan:
    """Has the parts of :class:`witnz.postgres.scan.SnapshotScan` that openings and verifications use."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self.snapshot_text = ""
        self.lsn = 0

    @property
    def snapshot(self) -> Snapshot:
        return parse_snapshot(self.snapshot_text)

    def __enter__(self) -> Self:
        row = self._connection.execute("SELECT pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text").fetchone()
        if row is None:
            raise psycopg.OperationalError("a query for one row gave none")
        self.snapshot_text, self.lsn = row[0], parse_lsn(row[1])
        return self

    def lines(self, batch: int = 4096) -> Iterator[list[bytes]]:
        return iter(())

    def blocks(self) -> Iterator[bytes]:
        return iter(())

    def changed_during(self) -> tuple[str, ...]:
        return ()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return
