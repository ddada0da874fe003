"""200,000 concurrent transactions of every kind while both detectors run without a pause: no finding, no doubt.

Inserts, updates that change the key, multi-statement transactions, savepoints with partial rollback, aborts, two-phase commits,
upserts, deletes, tables with and without a key, mixed synchronous_commit; eight clients.
"""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.support.mixed_load import MIXED, SCHEMA, run_mixed_load
from tests.support.node import Protected
from tests.support.postgres import Database
from witnz.core.verdict import CheckStatus, Verdict
from witnz.ending import end_threads
from witnz.verify.store import audit_store

TRANSACTIONS = 200_000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_two_hundred_thousand_concurrent_transactions_raise_nothing(database: Database, tmp_path: Path) -> None:
    database.sql(SCHEMA)
    (tmp_path / "node").mkdir()
    node = Protected.start(tmp_path / "node", database, MIXED)
    names = [f"public.{table['name']}" for table in MIXED]
    runs: Counter[tuple[str, str]] = Counter()
    doubts: list[object] = []
    stop = threading.Event()

    def keep_verifying() -> None:
        while not stop.is_set():  # whole rounds: how many fit in is a matter of the machine
            for name in names:
                verified = node.verify(name)
                runs[name, verified.verdict.value] += 1
                if verified.verdict is not Verdict.VERIFIED:
                    doubts.append(verified.to_json())

    thread = threading.Thread(target=keep_verifying)
    thread.start()
    try:
        run_mixed_load(database, tmp_path, TRANSACTIONS, timeout_s=800)
    finally:
        stop.set()
        end_threads(thread)
    node.caught_up()
    last = [node.verify(name).verdict for name in names]
    found = node.findings(state=None)
    node.stop()
    assert found == [], [(f.cls, f.table, f.key) for f in found[:5]]
    assert doubts == [], doubts[:3]
    assert last == [Verdict.VERIFIED] * 3
    assert set(runs) == {(name, "VERIFIED") for name in names}, runs
    audit = audit_store(tmp_path / "node" / "data" / "witnz.db")
    assert [check for check in audit.checks if check.status is not CheckStatus.OK] == []
