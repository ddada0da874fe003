"""``verify: all``: three nodes verify in one snapshot, each journals what it found, and whoever differs is named."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.cluster import LEDGER, Trio, ledger_trio
from tests.support.intruder import raw
from tests.support.node import wait
from tests.support.postgres import create_database
from witnz.core.finding import Finding
from witnz.core.record import Record
from witnz.core.verdict import Verdict
from witnz.demo.server import PostgresServer
from witnz.errors import Inconclusive
from witnz.node import together
from witnz.node.verification import Verified

pytestmark = pytest.mark.slow


@dataclass(slots=True)
class Shared:
    """The nodes that tests share, until one of them alters a store for good."""

    trio: Trio | None = None
    stack: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        self.trio = None
        self.stack.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    with closing(Shared()) as shared:
        yield shared


@pytest.fixture
def trio(shared: Shared, pg_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Trio:
    if shared.trio is None:
        database = create_database(pg_server)
        shared.stack.callback(database.drop)
        shared.trio = ledger_trio(tmp_path_factory.mktemp("trio"), database, verify="all")
        shared.stack.callback(shared.trio.stop)
    return shared.trio


@pytest.fixture
def spoiled(shared: Shared) -> Iterator[None]:
    """The tests after this one get other nodes."""
    yield
    shared.close()


@pytest.fixture
def earlier(trio: Trio) -> Callable[[Finding], bool]:
    """Whether a finding is from a test before this one."""
    known = {finding.id for node in trio.nodes for finding in trio.findings(node, state=None)}
    return lambda finding: finding.id in known


def verifications(trio: Trio, node: str, snapshot: str, table: str = LEDGER) -> dict[str, Record]:
    found = [r for r in trio.records(node) if r.type == "verify" and (r.body["snapshot"], r.body["table"]) == (snapshot, table)]
    assert len({record.node for record in found}) == len(found), "each node says it once"
    return {record.node: record for record in found}


def verified_by_all(trio: Trio, node: str, table: str = LEDGER, **differs: str) -> Verified:
    """A verification on this node in which all others find the same, or what ``differs`` says.

    Whoever is too busy to come along, or to vote in time, is asked again; what nobody may ever say is that a row differs.
    """
    expected = dict.fromkeys(set(trio.nodes) - {node}, "the same") | differs

    def look() -> Verified | None:
        verified = trio[node].verify_table(table)
        assert verified.verdict is Verdict.VERIFIED, verified.to_json()
        said = {verified.members[other] for other in expected if other not in differs}
        assert "another state" not in said, verified.members
        return verified if verified.members == expected else None

    return wait(look, f"all to verify {table} with {node}", 120)


def test_all_verify_in_one_snapshot_under_load_and_an_idle_table_as_well(
    trio: Trio, earlier: Callable[[Finding], bool]
) -> None:
    stop = threading.Event()

    def write() -> None:
        number = 1000
        while not stop.is_set():
            number += 1
            trio.database.sql(f"INSERT INTO ledger VALUES ({number}, 'load', {number})")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for node in trio.nodes:
            verified = verified_by_all(trio, node)
            assert verified.to_json()["members"] == dict.fromkeys(sorted(set(trio.nodes) - {node}), "the same")
            records = verifications(trio, node, verified.result.snapshot)
            assert sorted(records) == sorted(trio.nodes)
            assert {(r.body["state_found"], r.body["rows"], r.body["verdict"]) for r in records.values()} == {
                (verified.found_root_b64, verified.result.rows, "VERIFIED")
            }
    finally:
        stop.set()
        writer.join()
    for node in trio.nodes:  # nothing happens meanwhile, so all say exactly the same
        idle = verified_by_all(trio, node, "public.untouched")
        assert sorted(verifications(trio, node, idle.result.snapshot, "public.untouched")) == sorted(trio.nodes)
    trio.assert_alike(expected=earlier)


def test_those_who_have_the_snapshot_go_on_when_the_one_that_exported_it_is_gone(
    trio: Trio, earlier: Callable[[Finding], bool]
) -> None:
    exporter = trio.followers()[0]
    others = [node for node in trio.nodes if node != exporter]
    told: list[str] = []
    invite = trio[exporter].peering.together._invite

    def invite_and_die(what: Mapping[str, Any]) -> dict[str, str]:
        answers = invite(what)
        if answers != dict.fromkeys(others, ""):
            raise Inconclusive("somebody was too busy to come along")
        told.append(what["snapshot"])
        trio.links.isolate(exporter)
        raise Inconclusive("this node dies here")  # its transaction ends with its connection

    trio[exporter].peering.together._invite = invite_and_die
    try:
        wait(lambda: trio[exporter].verify_table(LEDGER) and told, "all to have the snapshot", 120)
        for node in others:
            wait(lambda node=node: sorted(verifications(trio, node, told[0])) == sorted(others), f"both results on {node}")
    finally:
        trio[exporter].peering.together._invite = invite
        trio.links.heal()
    assert {r.body["verdict"] for r in verifications(trio, others[0], told[0]).values()} == {"VERIFIED"}
    trio.assert_alike(expected=earlier)


def test_a_slow_member_holds_nobody_up_not_even_a_stop_and_is_compared_when_it_comes(
    trio: Trio, earlier: Callable[[Finding], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, asked = trio.followers()
    go_on = threading.Event()
    recorded = trio[slow].scanning.recorded

    @contextmanager
    def reads_slowly(state: Any, **reading: Any) -> Iterator[Any]:
        with recorded(state, **reading) as scan:
            yield scan
            go_on.wait(60)

    monkeypatch.setattr(together, "WAIT_LEAST_S", 0.5)
    monkeypatch.setattr(trio[slow].scanning, "recorded", reads_slowly)
    verified = trio[asked].verify_table(LEDGER)
    assert verified.verdict is Verdict.VERIFIED
    assert "still reading" in verified.members[slow]
    assert slow not in verifications(trio, trio.leader, verified.result.snapshot)
    trio.halt(asked)
    go_on.set()
    wait(lambda: slow in verifications(trio, trio.leader, verified.result.snapshot), "the slow one's result", 60)
    trio.run(asked)
    trio.ready()
    trio.assert_alike(expected=earlier)


def test_a_member_that_is_done_is_compared_though_its_record_comes_here_later(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = trio.followers()[0]
    together, comparison = trio[asked].peering.together, trio[asked].peering.comparison
    kept: list[Record] = []
    followed, wait_for_all = comparison.followed, together._await

    def let_go() -> None:
        monkeypatch.setattr(comparison, "followed", followed)
        for record in kept:
            followed(record)

    def then_let_go(*waited_for: Any) -> None:
        wait_for_all(*waited_for)
        threading.Timer(0.3, let_go).start()

    monkeypatch.setattr(comparison, "followed", kept.append)
    monkeypatch.setattr(together, "_await", then_let_go)
    members = trio[asked].verify_table(LEDGER).members
    assert set(members) == set(trio.nodes) - {asked}
    assert all(said == "the same" or said.startswith("not confirmed") for said in members.values()), members


def test_a_member_that_says_it_found_something_else_is_named_by_the_others(
    trio: Trio, earlier: Callable[[Finding], bool]
) -> None:
    liar = trio.followers()[0]
    others = [node for node in trio.nodes if node != liar]
    propose = trio[liar].journal.propose

    def lie(record_type: str, body: Mapping[str, Any], **keywords: Any) -> int:
        if record_type == "verify":
            body = {**body, "state_found": "A" * 43 + "=", "verdict": "TAMPERED"}
        return propose(record_type, body, **keywords)

    trio[liar].journal.propose = lie  # the intruder's own node, patched by its root
    try:
        verified_by_all(trio, others[0], **{liar: "another state"})
    finally:
        trio[liar].journal.propose = propose
    for node in others:
        assert "found another state than 2 others" in trio.wait_for(node, "node.diverged", liar).detail
    trio.assert_alike(expected=lambda f: (f.cls, f.key) == ("node.diverged", liar) or earlier(f))


def test_a_range_of_a_rolling_verification_is_confirmed_by_the_others(trio: Trio) -> None:
    def rolled(node: str) -> list[Record]:
        """The records of a round, as the node itself has them; none where the others could not confirm it in time."""
        verified = trio[node].roll("public.untouched")
        assert verified.verdict is Verdict.VERIFIED, verified.to_json()
        return [r for r in trio.records(node) if (r.type, r.node, r.seq) == ("verify", node, verified.journal_seq)]

    for node in trio.nodes:
        (record,) = wait(lambda node=node: rolled(node), f"a round of {node} that is confirmed")  # type: ignore[misc]
        assert record.body["mode"] == "rolling"
        assert len(record.body["votes"]) >= 2


@pytest.mark.usefixtures("spoiled")
def test_a_member_whose_store_was_altered_is_named_and_accuses_no_row(trio: Trio) -> None:
    victim = next(node for node in trio.followers() if not any(f.key == node for f in trio.findings(node, state=None)))
    others = [node for node in trio.nodes if node != victim]
    named_before = {f.key for f in trio.findings(others[0], state=None)}
    trio.database.sql("INSERT INTO ledger VALUES (77, 'user77', 770)")
    trio.settled()
    store = trio[victim].data.database
    trio.halt(victim)
    altered = raw(store, "DELETE FROM live WHERE k = ?", b"77")
    assert altered == 1, "the accepted state of its store no longer has the row"
    trio.run(victim)
    trio.ready()
    trio.caught_up()

    def disputed() -> bool:
        """It is never green; whether it knows why, too, which takes the others' answers in time."""
        asked = trio[victim].verify_table(LEDGER)
        assert asked.verdict is Verdict.INCONCLUSIVE
        return any("other members expect" in text for text in asked.not_checked)

    wait(disputed, "the others' word against its store", 120)
    verified = trio[others[0]].verify_table(LEDGER)
    assert verified.verdict is Verdict.VERIFIED
    for node in trio.nodes:
        trio.wait_for(node, "node.diverged", victim)
    rows = [f for node in trio.nodes for f in trio.findings(node, state=None) if f.cls.startswith("row.")]
    assert not rows
    trio.assert_alike(
        expected=lambda f: f.cls == "node.store-tampered" or (f.cls == "node.diverged" and f.key in {victim, *named_before}),
    )
