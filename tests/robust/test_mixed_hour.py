"""An hour of mixed changes at four transactions a second, as fast as they go: three nodes derive the same bytes, each alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cutter import CutTrio
from tests.support.mixed_load import CLIENTS, MIXED, SCHEMA, run_mixed_load
from tests.support.postgres import Database
from witnz.core.entry import parse_entry
from witnz.core.verdict import Verdict

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RATE, HOUR_S = 4, 3600
TRANSACTIONS = RATE * HOUR_S
assert TRANSACTIONS % CLIENTS == 0


def test_three_nodes_record_an_hour_of_mixed_load_byte_for_byte_alike(database: Database, tmp_path: Path) -> None:
    database.sql(SCHEMA)
    trio = CutTrio.begin(tmp_path, database, [{**table, "verify_interval": "0s"} for table in MIXED])
    try:
        run_mixed_load(database, tmp_path, TRANSACTIONS, timeout_s=600)
        trio.assert_alike(expected=lambda finding: finding.cls == "quorum.lost")
        (history,) = database.sql("SELECT count(*) FROM history")[0]
        for node in trio.nodes:
            assert len(trio.log(node, "public.history")) == 1 + history
        changes = [parse_entry(line).op for table in ("state", "pile") for line in trio.log("node1", f"public.{table}")]
        assert {"insert", "update", "delete"} <= set(changes) and len(changes) > TRANSACTIONS // 4
        for node, table in zip(trio.nodes, MIXED, strict=True):  # the logs are alike: each node replays another one
            result = trio[node].verify_table(f"public.{table['name']}").result
            assert result.verdict is Verdict.VERIFIED, result
    finally:
        trio.stop()
