"""A member whose stream is ahead of its journal tells nobody what an operator's order, still to come, makes no finding."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Event

import pytest

from tests.support.cluster import Trio
from tests.support.erasures import signed
from tests.support.node import wait
from tests.support.postgres import create_database
from tests.support.receiver import Receiver, answer, receiver
from witnz.core.verdict import Verdict
from witnz.demo.server import PostgresServer
from witnz.node import delivery, peering
from witnz.node.abreast import PATIENCE_S, Abreast
from witnz.node.following import NotYet
from witnz.node.journal import IN_FLIGHT
from witnz.store import meta
from witnz.verify.store import audit_store

NAMES = ("isolated", "leader", "follower", "ended", "untouched")


@pytest.fixture(scope="module")
def pager() -> Iterator[Receiver]:
    with receiver(answer(200)) as there:
        yield there


@pytest.fixture(scope="module")
def trio(pg_server: PostgresServer, pager: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    database = create_database(pg_server)
    for name in NAMES:
        database.sql(f"CREATE TABLE {name} (id int PRIMARY KEY, owner text)")
        database.sql(f"INSERT INTO {name} SELECT g, 'user' || g FROM generate_series(1, 9) g")
    tables = [{"name": name, "mode": "append_only", "verify_interval": "0s"} for name in NAMES]
    with ExitStack() as stack:
        stack.callback(database.drop)
        alerts = {"webhooks": [{"name": "pager", "url": pager.url}]}
        trio = Trio.start(tmp_path_factory.mktemp("trio"), database, tables, alerts=alerts)
        stack.callback(trio.stop)
        trio.settled()
        yield trio


def decide(trio: Trio, node: str, record_type: str, body: dict[str, object]) -> None:
    key = trio.configs["node1"].data_dir / "operator-alice.key"
    trio[node].decide(record_type, signed(trio[node], key, record_type, body))


def erase(trio: Trio, node: str, table: str, key: str) -> None:
    """Order a row to be erased, and delete it as soon as that is agreed."""
    decide(trio, node, "erase", trio[node].erasing.body(f"public.{table}", [key], "asked for"))
    trio.database.sql(f"DELETE FROM {table} WHERE id = {key}")


@contextmanager
def applying(trio: Trio, node: str, before: Callable[[], object]) -> Iterator[None]:
    """Something happens on this member before each record that it applies."""
    engine = trio.engines.engines[node]
    apply = engine._apply
    assert apply is not None

    def delayed(index: int, command: bytes) -> None:
        before()
        apply(index, command)

    engine._apply = delayed
    try:
        yield
    finally:
        engine._apply = apply


def told(pager: Receiver, name: str) -> list[tuple[str, str]]:
    """(node, event) of what the pager was told about a finding."""
    documents = [json.loads(each.body) for each in pager.received]
    return [(d["node"], d["event"]) for d in documents if d.get("finding", {}).get("id") == name]


def taken_back(trio: Trio, node: str, name: str, table: str) -> None:
    """The finding is nowhere, neither in a store nor in the journal, and everybody is content with the generation after it."""
    wait(lambda: name not in {f.id for f in trio.findings(node, state=None)}, f"{name} to be taken back on {node}")

    def goes_on(node: str) -> bool:
        return (f"public.{table}", 2, "active") in {(s.name, s.generation, s.status) for s in trio[node].states()}

    wait(lambda: all(map(goes_on, trio.nodes)), f"generation 2 of {table} on every node", 240)
    trio.settled()
    for each in trio.nodes:
        assert name not in {record.body["id"] for record in trio.records(each) if record.type == "finding"}
        audit = audit_store(trio.configs[each].data_dir / "witnz.db")
        assert audit.verdict is Verdict.VERIFIED, (each, audit.checks)
    trio.assert_alike(expected=lambda f: f.table not in (None, f"public.{table}"))  # each test violates a table of its own


def test_a_member_that_was_cut_off_takes_back_what_was_ordered_meanwhile(
    trio: Trio, pager: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone it alerts, and journals nothing at its return before it has caught up; who was told hears that it is over."""
    monkeypatch.setattr(peering, "OTHERS_JOURNAL_AFTER_S", 0.0)
    monkeypatch.setattr(delivery, "HOLD_S", 0.0)
    alone, other = trio.followers()
    trio.links.isolate(alone)
    erase(trio, other, "isolated", "3")
    finding = trio.wait_for(alone, "violation.delete", "3")
    wait(lambda: (alone, "finding.open") in told(pager, finding.id), "the alert of whoever has no quorum")
    for number in range(20):
        trio[other].note_operator("test", f"record {number} that is to be fetched first")
    with applying(trio, alone, lambda: time.sleep(0.2)):
        trio.links.heal()
        taken_back(trio, alone, finding.id, "isolated")
    wait(lambda: told(pager, finding.id) == [(alone, "finding.open"), (alone, "finding.approved")], "the end of the alert")


@pytest.mark.slow
@pytest.mark.parametrize(("place", "key"), [("leader", "4"), ("follower", "5")])
def test_a_member_that_is_behind_for_a_moment_tells_nobody(
    trio: Trio, pager: Receiver, monkeypatch: pytest.MonkeyPatch, place: str, key: str
) -> None:
    monkeypatch.setattr(peering, "OTHERS_JOURNAL_AFTER_S", 0.0)
    monkeypatch.setattr(delivery, "HOLD_S", 0.0)
    late = trio.leader if place == "leader" else trio.followers()[0]
    other = next(node for node in trio.nodes if node != late)
    engine, released, asked = trio.engines.engines[late], Event(), Event()
    barrier = engine.barrier
    monkeypatch.setattr(engine, "barrier", lambda deadline_s: (asked.set(), barrier(deadline_s)))
    with applying(trio, late, released.wait):
        erase(trio, other, place, key)
        finding = trio.wait_for(late, "violation.delete", key)
        asked.clear()
        assert asked.wait(60), "it looks whether something was agreed"
        released.set()
    taken_back(trio, late, finding.id, place)
    assert told(pager, finding.id) == []


def test_what_was_seen_of_a_table_after_its_protection_had_ended_is_taken_back(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peering, "OTHERS_JOURNAL_AFTER_S", 0.0)
    alone, other = trio.followers()
    trio.links.isolate(alone)
    trio.database.sql("UPDATE ended SET owner = 'before' WHERE id = 1")
    before = trio.wait_for(alone, "violation.update", "1")
    trio.wait_for(trio.leader, "violation.update", "1")
    decide(trio, other, "unprotect", {"table": "public.ended", "reason": "retention"})
    trio.database.sql("UPDATE ended SET owner = 'after' WHERE id = 2")
    after = trio.wait_for(alone, "violation.update", "2")
    trio.links.heal()
    wait(lambda: after.id not in {f.id for f in trio.findings(alone, state=None)}, "the later one to be taken back")
    trio.settled()
    for node in trio.nodes:
        about = {r.body["id"] for r in trio.records(node) if r.type == "finding" and r.body["table"] == "public.ended"}
        assert about == {before.id}


def test_what_can_never_be_carried_out_keeps_nobody_silent(trio: Trio) -> None:
    """Whoever has caught up says so at once; whoever can not, after a while; whoever has no quorum is not asked to."""

    def never(record: object) -> None:
        raise NotYet("what this is about never comes")

    node, now = trio[trio.followers()[0]], [0.0]
    judge = Abreast(node.engine, node.following, lambda: node.journal.size, lambda: now[0])
    wait(judge.caught_up, "the rest of the tests before to be carried out")
    follow = node.following.handlers["operator"]
    node.following.handlers["operator"] = never
    try:
        node.note_operator("test", "this one")
        assert not judge.caught_up() and not judge.may_alert()
        for now[0] in (PATIENCE_S / 2, PATIENCE_S - 1):
            assert not judge.caught_up() and not judge.may_alert()
        now[0] = PATIENCE_S
        assert judge.caught_up() and judge.may_alert()
        now[0] = 2 * PATIENCE_S
        assert not judge.caught_up(), "what was last asked long ago is waited for anew"
        trio.links.isolate(node.config.node_id)
        assert judge.may_alert() and not judge.caught_up(), "nothing is proposed that would wait for a quorum"
    finally:
        node.following.handlers["operator"] = follow
        trio.links.heal()
    wait(judge.caught_up, "the rest to be carried out")
    assert node.following.done == node.journal.size


def test_what_is_found_while_the_quorum_goes_is_not_left_to_be_proposed(trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proposal outlives whoever made it: it would be ordered at the return, whatever was agreed meanwhile."""
    monkeypatch.setattr(peering, "OTHERS_JOURNAL_AFTER_S", 0.0)
    alone = trio.followers()[0]
    trio.links.isolate(alone)
    trio.database.sql("DELETE FROM untouched WHERE id = 9")
    finding = trio.wait_for(alone, "violation.delete", "9")
    assert trio[alone].approvals.journal_all() == [], "as a chore does that has just seen a quorum"
    with trio[alone].db.read() as conn:
        assert not meta.load_value(conn, IN_FLIGHT)
    trio.links.heal()
    wait(lambda: trio[alone].journal.state.finding_state(finding.id), "the finding to be in the journal then")
