"""Commits of the store that fail, or fail although they persisted: nothing is lost or doubled, and the store is sound.

What a node makes durable, but for key files and an engine's log, is a commit of the store: entries with the position,
records of the journal, checkpoints, the cosigner's memory, findings and the marks of what was delivered.
"""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.alerts import CLUSTER, NODE, finding
from tests.support.faulty_commits import FaultyCommits, faulty_commits
from tests.support.faulty_files import FAILED, KINDS
from tests.support.node import Protected, wait
from tests.support.postgres import Database
from tests.support.receiver import answer, receiver
from tests.support.recorded import audit_problems
from witnz.alert.service import AlertService
from witnz.alert.sinks import WebhookSink
from witnz.cli.access import idle_node
from witnz.config import Secret
from witnz.core.checkpoint import parse_checkpoint
from witnz.core.note import parse_note
from witnz.core.verdict import CheckStatus
from witnz.errors import StoreFull
from witnz.node.node import Node
from witnz.store import checkpoints, outbox
from witnz.store.database import Database as Store

TABLE = "public.ledger"
EVERY = 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_commits_that_fail_lose_and_double_nothing(database: Database, tmp_path: Path, kind: str) -> None:
    database.sql(f"CREATE TABLE {TABLE} (id bigint PRIMARY KEY, note text); INSERT INTO {TABLE} VALUES (0, 'first')")
    with receiver(answer(200)) as hook:
        protected = Protected.start(
            tmp_path, database, [{"name": TABLE, "mode": "append_only"}],
            anchors=[{"type": "basic", "directory": str(tmp_path / "copies"), "every": "1h"}],
            alerts={"enabled": True, "webhooks": [{"url": hook.url}]},
        )  # fmt: skip
        node = protected.node
        try:
            with faulty_commits(node.db, lambda n: n % EVERY == 0, kind) as faulty:
                for first in (1, 101, 201):
                    database.sql(f"INSERT INTO {TABLE} SELECT g, 'row' FROM generate_series({first}, {first + 99}) g")
                database.sql(f"UPDATE {TABLE} SET note = 'forged' WHERE id = 7")
                violation = protected.wait_for("violation.update", "7")
                node.anchoring.now([], 1.0)
                wait(lambda: _commits_fail(node, faulty, 8), "commits that failed")
                faulty.kind = ""
            wait(lambda: node.capture.last_error is None, "the stream again")
            wait(lambda: node.state(TABLE).head.size == 1 + 1 + 300 + 1, "every change")
            protected.caught_up()
            node.seal_now()
            (lane,) = node.anchoring.lanes.values()
            wait(lambda: node.anchoring.now([], 5.0)[0]["status"] in ("published", "unchanged"), "a publication")
            assert all(
                look.check.status is CheckStatus.OK
                for each in lane.receipts()
                for look in lane.anchor.look(lane.receipt_of(each))
            )
            receipts = Counter((each.type, each.digest) for each in lane.receipts())
            assert receipts and set(receipts.values()) == {1}
            wait(lambda: hook.received, "the alert")

            def as_it_was() -> None:
                assert protected.node.state(TABLE).head.size == 303
                assert [(f.cls, f.key) for f in protected.findings()] == [("violation.update", "7")]

            as_it_was()
            assert audit_problems(protected) == []
            protected.stop()
            with idle_node(protected.config) as idle:
                _fail_each_commit_of_a_checkpoint(idle, kind)
            protected.resume()
            as_it_was()
            told = [json.loads(each.body)["finding"]["id"] for each in hook.received]
            assert told == [violation.id]
        finally:
            protected.stop()


def _commits_fail(node: Node, faulty: FaultyCommits, wanted: int) -> bool:
    """Whether so many have failed; until then there is one more thing to commit: a node with nothing to do commits nothing."""
    if faulty.failed < wanted:
        with suppress(StoreFull):
            node.note_operator("drill", "one more")
    return faulty.failed >= wanted


def _fail_each_commit_of_a_checkpoint(node: Node, kind: str) -> None:
    """The cosigner's memory, then the checkpoint: after each fault the next one is signed as if nothing had been."""
    for nth in (1, 2):
        node.note_operator("drill", f"commit {nth}")
        with faulty_commits(node.db, lambda n, nth=nth: n == nth, kind) as faulty, pytest.raises(StoreFull):  # type: ignore[misc]
            node.cosigner.checkpoint()
        assert (faulty.commits, faulty.failed) == (nth, 1)
        node.cosigner.checkpoint()
        with node.db.read() as conn:
            final, memory = checkpoints.latest(conn, final=True), checkpoints.load_cosigned(conn)
        assert final is not None and memory is not None
        assert final.size == memory.size == node.journal.size
        assert parse_checkpoint(parse_note(final.note).text).root == memory.root


@pytest.mark.parametrize("kind", KINDS)
def test_a_mark_of_delivery_that_fails_neither_loses_an_alert_nor_sends_it_twice(tmp_path: Path, kind: str) -> None:
    with Store.create(tmp_path / "witnz.db") as db, receiver(answer(200)) as hook:
        alerts = AlertService(
            db, [WebhookSink("hook", Secret(hook.url), timeout_s=60.0)], cluster=CLUSTER, node=NODE, chance=random.Random(1)
        )
        alerts.deliver_due()  # what a start has to write is written
        for number, nth in enumerate((1, 2, 3), 1):
            found = finding(number)
            with faulty_commits(db, lambda n, nth=nth: n == nth, kind) as faulty:  # type: ignore[misc]
                for _ in range(2):  # queued, and queued again where it is not known whether it was
                    try:
                        with db.write() as conn:
                            alerts.enqueue(conn, found)
                        break
                    except StoreFull:
                        assert faulty.failed == 1
                for _ in range(3):
                    alerts.deliver_due()
            alerts.deliver_due()
            told = [json.loads(each.body)["finding"]["id"] for each in hook.received]
            assert told.count(found.id) == 1
            with db.read() as conn:
                assert outbox.counts(conn) == {"pending": 0, "delivered": number, "dead": 0}
        assert (kind == FAILED) or faulty.commits >= 2


def test_what_was_delivered_and_could_not_be_noted_is_noted_at_the_stop(tmp_path: Path) -> None:
    with Store.create(tmp_path / "witnz.db") as db, receiver(answer(200)) as hook:

        def service() -> AlertService:
            sinks = [WebhookSink("hook", Secret(hook.url), timeout_s=60.0)]
            return AlertService(db, sinks, cluster=CLUSTER, node=NODE, chance=random.Random(1))

        alerts, stop = service(), threading.Event()
        alerts.deliver_due()
        with db.write() as conn:
            alerts.enqueue(conn, finding(1))
        with faulty_commits(db, lambda n: True, FAILED) as faulty:
            alerts.deliver_due()
            assert faulty.failed and len(hook.received) == 1
        stop.set()
        alerts.run(stop)
        service().deliver_due()
        assert len(hook.received) == 1
