"""witnz.postgres.handshake: two sessions of one role read one table in one snapshot."""

from __future__ import annotations

import threading

from tests.support.postgres import Database
from tests.support.scanning import read, scanner, table
from witnz.postgres import handshake
from witnz.postgres.handshake import accept, await_offer
from witnz.postgres.scan import SnapshotScan

TOKEN = "0123456789abcdef"


def test_whoever_has_read_before_the_other_looks_has_read_all_the_same(database: Database, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """A small table is read in less time than passes between two looks."""
    database.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)")
    holder, reader = scanner(database), scanner(database)
    has_read, ended = threading.Event(), threading.Event()
    sees = SnapshotScan.sees

    def looks_late(scan: SnapshotScan, prefix: str) -> str | None:
        assert has_read.wait(60)
        return sees(scan, prefix)

    monkeypatch.setattr(SnapshotScan, "sees", looks_late)
    found: list[list[bytes]] = []

    def offer() -> None:
        try:
            with SnapshotScan(holder, table(holder)) as scan:
                handshake.offer(scan, TOKEN)
                found.append(read(scan))
        finally:
            ended.set()

    offering = threading.Thread(target=offer)
    offering.start()
    shared = await_offer(reader, TOKEN, ended.is_set)
    assert shared is not None
    database.sql("INSERT INTO t VALUES (3)")
    with SnapshotScan(reader, table(reader), import_snapshot=shared) as scan:
        accept(scan, TOKEN)
        found.append(read(scan))
    has_read.set()
    offering.join()
    assert found == [[b"1", b"2"]] * 2
