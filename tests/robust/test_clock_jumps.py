"""A machine's clock that jumps by hours under a single node: nobody is accused, nothing waits for the clock to come back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.node import WATCH_S, Protected, wait
from tests.support.postgres import Database
from tests.support.receiver import answer, receiver
from tests.support.recorded import audit_problems, records
from witnz.core.record import Record
from witnz.node.node import Node, now_us
from witnz.store import checkpoints

TABLE = "public.ledger"
JUMPS_S = (7_200, -7_200, 0)


@pytest.mark.slow
def test_a_clock_that_jumps_changes_no_history_accuses_nobody_and_stops_no_schedule(database: Database, tmp_path: Path) -> None:
    database.sql(f"CREATE TABLE {TABLE} (id bigint PRIMARY KEY, note text); INSERT INTO {TABLE} VALUES (0, 'first')")
    jump_s = [0]
    with receiver(answer(200)) as hook:
        protected = Protected.start(
            tmp_path, database, [{"name": TABLE, "mode": "append_only"}],
            anchors=[{"type": "basic", "directory": str(tmp_path / "copies"), "every": "1h"}],
            alerts={"enabled": True, "webhooks": [{"url": hook.url}]},
        )  # fmt: skip
        try:
            protected.stop()
            protected.node = Node(protected.config, clock=lambda: now_us() + jump_s[0] * 1_000_000, watch_s=WATCH_S)
            protected.go()
            node, violations = protected.node, []
            for number, jump_s[0] in enumerate(JUMPS_S, 1):
                sealed = len(records(protected, "seal"))
                anchored = len(records(protected, "anchor"))
                database.sql(f"INSERT INTO {TABLE} VALUES ({number}, 'row')")
                protected.caught_up()
                wait(lambda n=sealed: len(records(protected, "seal")) > n, "a seal")  # type: ignore[misc]
                protected.assert_verified(TABLE)
                node.anchoring.check_late()
                if number < len(JUMPS_S):  # due: two hours have passed, or nobody knows how many
                    wait(lambda n=anchored: len(records(protected, "anchor")) > n, "a publication")  # type: ignore[misc]
                assert _final_is_newest(protected)
                assert _is_of(records(protected)[-1], jump_s[0])
            for key in range(1, len(JUMPS_S) + 1):
                jump_s[0] = JUMPS_S[key - 1]
                database.sql(f"UPDATE {TABLE} SET note = 'forged' WHERE id = {key}")
                violations.append(protected.wait_for("violation.update", str(key)).id)
                wait(lambda n=key: len(hook.received) == n, "the alert")  # type: ignore[misc]
            assert [json.loads(each.body)["finding"]["id"] for each in hook.received] == violations
            node.seal_now()
            assert sorted(finding.id for finding in protected.findings(state=None)) == sorted(violations)
            assert audit_problems(protected) == []
            protected.restart()  # by the real clock: what was signed stays signed
            database.sql(f"INSERT INTO {TABLE} VALUES (100, 'row')")
            protected.caught_up()
            protected.node.seal_now()
            assert _final_is_newest(protected)
            assert sorted(finding.id for finding in protected.findings(state=None)) == sorted(violations)
            assert audit_problems(protected) == []
        finally:
            protected.stop()


def _final_is_newest(protected: Protected) -> bool:
    """Whether a final checkpoint covers all that stands in the journal now."""
    size = protected.node.journal.size

    def final() -> bool:
        with protected.node.db.read() as conn:
            newest = checkpoints.latest(conn, final=True)
        return newest is not None and newest.size >= size

    return bool(wait(final, "a final checkpoint"))


def _is_of(record: Record, jump_s: int) -> bool:
    """Whether a record carries the time of the machine as it was then: times are what a clock said, never an order."""
    return abs(record.at - now_us() - jump_s * 1_000_000) < 600 * 1_000_000
