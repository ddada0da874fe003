"""A full disk under the data directory: the node says so, waits, and goes on where it stood once there is room again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.disk import reason_for_none, small_disk
from tests.support.node import Protected, wait
from tests.support.postgres import Database
from witnz.core.verdict import Verdict
from witnz.errors import WitnzError
from witnz.node.view import StoreView

TABLE = "public.ledger"
DISK_MIB = 32


def capture_check(protected: Protected) -> dict[str, Any]:
    """What `witnz status` says of the capture."""
    node = protected.node
    found = StoreView(node.db, node.journal.state, node.config).vitals(node)["checks"]
    return next(check for check in found if check["name"] == "capture")


def test_a_full_disk_is_named_and_waited_for_and_nothing_is_lost_or_doubled(database: Database, tmp_path: Path) -> None:
    if reason := reason_for_none(tmp_path):
        pytest.skip(reason)
    database.sql(f"CREATE TABLE {TABLE} (id bigint PRIMARY KEY, note text); INSERT INTO {TABLE} VALUES (0, 'first')")
    with small_disk(tmp_path / "disk", DISK_MIB) as disk:
        protected = Protected.start(disk.path, database, [{"name": TABLE, "mode": "append_only"}])
        try:
            disk.fill()
            for first in (1, 5001, 10001):
                database.sql(f"INSERT INTO {TABLE} SELECT g, md5(g::text) FROM generate_series({first}, {first + 4999}) g")
            database.sql(f"UPDATE {TABLE} SET note = 'forged' WHERE id = 7")
            wait(lambda: capture_check(protected)["status"] == "fail", "a status that names the full disk")
            said = capture_check(protected)
            assert "recording waits until the store can be written" in said["message"] and "full" in said["message"]
            assert "free space" in said["hint"]
            assert protected.node.capture.fatal is None
            with pytest.raises(WitnzError):
                protected.verify(TABLE)  # could not look: never green
            disk.free()
            wait(lambda: capture_check(protected)["status"] == "ok", "a status without complaint")
            protected.caught_up()
            assert protected.node.state(TABLE).head.size == 1 + 1 + 15000 + 1  # schema, baseline, inserts, the forged row
            assert [(f.cls, f.key) for f in protected.findings()] == [("violation.update", "7")]
            verified = protected.verify(TABLE)
            assert verified.verdict is Verdict.TAMPERED
            assert [difference.key for difference in verified.result.differences] == ["7"]
            protected.restart()
            assert protected.node.state(TABLE).head.size == 15003
            assert [(f.cls, f.key) for f in protected.findings()] == [("violation.update", "7")]
        finally:
            disk.free()
            protected.stop()
