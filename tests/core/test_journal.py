"""The journal's validity: every rule by a case that breaks it, and what the journal answers afterwards."""

from __future__ import annotations

import json
from base64 import b64decode
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.journal_cases import (
    CASES,
    accept_body,
    epoch_body,
    gap_body,
    key_body,
    member_body,
    opened,
    previous,
    sealed,
)
from tests.support.journal_maker import (
    CLUSTER,
    CLUSTER_ID,
    TABLE,
    PaperCluster,
    head_body,
    open_body,
    seal_body,
    signer,
    table_body,
    verify_body,
)
from witnz.core.journal import FORGED, JournalState
from witnz.core.journal_facts import AcceptedRow, LogHead
from witnz.core.record import NO_PREVIOUS, Record, parse_record, record_hash
from witnz.errors import FormatError, ProofError

VECTORS = Path(__file__).parent.parent / "vectors"


@pytest.fixture
def cluster() -> PaperCluster:
    return PaperCluster().start()


@pytest.mark.parametrize("name", CASES)
def test_every_rule_refuses_what_breaks_it_and_nothing_else(cluster: PaperCluster, name: str) -> None:
    prepare, refused_for = CASES[name]
    record = prepare(cluster)
    before = deepcopy(vars(cluster.state))
    if refused_for is None:
        cluster.state.check(record)
        cluster.state.apply(record)
        assert cluster.state.size == record.seq
        return
    with pytest.raises(ProofError, match=refused_for):
        cluster.state.check(record)
    with pytest.raises(ProofError, match=refused_for):
        cluster.state.apply(record)
    assert vars(cluster.state) == before


def test_most_cases_are_refusals() -> None:
    assert sum(refused is not None for _, refused in CASES.values()) >= 4 * sum(
        refused is None for _, refused in CASES.values()
    )


@pytest.mark.parametrize(
    "name", [name for name, (_, refused) in CASES.items() if refused and not any(w in refused for w in ("by the", "vote of"))]
)
def test_without_signatures_every_other_rule_still_holds(cluster: PaperCluster, name: str) -> None:
    prepare, refused_for = CASES[name]
    record = prepare(cluster)
    with pytest.raises(ProofError, match=refused_for):
        cluster.state.check(record, verify_signatures=False)


def test_the_published_journal_is_valid_record_by_record() -> None:
    state = JournalState()
    for item in json.loads((VECTORS / "journal.json").read_text()):
        state.apply(parse_record(item["canonical"].encode()))
    assert state.size == 5
    assert state.cluster == "example.com/witnz/demo"
    assert state.cluster_id == "00112233445566778899aabbccddeeff"
    assert state.quorum == 2
    assert state.last_seal_sizes() == {("public.audit_logs", 1): 7}
    assert (state.next_n("node1"), state.next_n("node2"), state.next_n("node3")) == (5, 2, 1)


@pytest.mark.parametrize("left_out", range(4))
def test_no_record_of_the_published_journal_can_be_left_out(left_out: int) -> None:
    state = JournalState()
    records = [parse_record(item["canonical"].encode()) for item in json.loads((VECTORS / "journal.json").read_text())]
    with pytest.raises(ProofError):
        for index, record in enumerate(records):
            if index != left_out:
                state.apply(record)


def test_a_proposal_is_judged_without_its_seq_but_needs_one_to_enter(cluster: PaperCluster) -> None:
    proposal = cluster.make("seal", seal_body("0/1949A00", head_body(4)), seq=None)
    cluster.state.check(proposal)
    with pytest.raises(ProofError, match="found a proposal"):
        cluster.state.apply(proposal)
    cluster.state.apply(proposal.at_seq(3))
    assert cluster.state.size == 3


def test_a_body_that_is_not_its_types_is_refused_even_when_it_was_never_parsed(cluster: PaperCluster) -> None:
    record = cluster.make("operator", {"action": "x", "detail": ""})
    with pytest.raises(FormatError, match="member 'more'"):
        cluster.state.check(replace(record, body={**record.body, "more": 1}, body_json=b""))


def test_each_node_has_its_own_chain(cluster: PaperCluster) -> None:
    assert cluster.state.next_n("node2") == 1
    assert cluster.state.prev_of("node2") == NO_PREVIOUS
    record = cluster.add("verify", verify_body(4, 2), node="node2")
    assert (record.n, record.prev) == (1, NO_PREVIOUS)
    assert cluster.state.next_n("node2") == 2
    assert cluster.state.prev_of("node2") == record_hash(record)
    assert cluster.state.prev_of("node1") == record_hash(cluster.records[1])


def test_genesis_brings_members_operators_and_quorum(cluster: PaperCluster) -> None:
    state = cluster.state
    assert sorted(state.members) == ["node1", "node2", "node3"]
    assert state.members["node2"].identity == cluster.identity("node2").public
    assert state.operator_key("alice") == cluster.operator("alice").public
    assert state.operator_key("bob") is None
    assert (state.cluster, state.cluster_id, state.quorum) == (CLUSTER, CLUSTER_ID, 2)
    assert (state.system, state.timeline) == ("7123456789012345678", 1)


def test_a_table_record_is_the_current_generation(cluster: PaperCluster) -> None:
    table = cluster.state.current_table(TABLE)
    assert table is not None
    assert (table.generation, table.rules.mode, table.key_columns, table.hidden_keys) == (1, "append_only", ("id",), False)
    assert (table.lsn, table.oid, table.seq, table.previous) == (0x1949850, 16384, 2, None)
    opened(cluster).add("table", table_body(2, previous(), keys={"columns": [], "form": "hidden"}))
    newer = cluster.state.current_table(TABLE)
    assert newer is not None
    assert (newer.generation, newer.key_columns, newer.hidden_keys) == (2, (), True)
    assert newer.previous == LogHead.from_body(previous())
    assert cluster.state.opened == {}


def test_unprotecting_leaves_the_generation_known_so_that_the_next_one_follows_it(cluster: PaperCluster) -> None:
    sealed(cluster).add("unprotect", {"table": TABLE, "reason": "moved"})
    assert cluster.state.tables() == {}
    newest = cluster.state.newest_generation(TABLE)
    assert newest is not None
    assert newest.generation == 1
    cluster.add("open", open_body(2))
    cluster.add("table", table_body(2, previous(), mode="state_integrity"))
    assert list(cluster.state.tables()) == [TABLE]


def test_seals_move_the_sealed_heads_and_the_lsn(cluster: PaperCluster) -> None:
    sealed(cluster)
    assert cluster.state.last_seal_lsn == 0x1949A00
    assert cluster.state.last_sealed(TABLE, 1) == LogHead.from_body(head_body(4))
    sealed(cluster, 9, "1/0")
    assert cluster.state.last_seal_lsn == 1 << 32
    assert cluster.state.last_seal_sizes() == {(TABLE, 1): 9}


def test_a_split_seal_that_never_ends_gives_way_to_the_next_seal(cluster: PaperCluster) -> None:
    cluster.add("seal", seal_body("0/1949A00", head_body(4), part=1, parts=2))
    assert cluster.state.split is not None
    cluster.add("seal", seal_body("0/1949B00", head_body(5)))
    assert cluster.state.split is None
    assert cluster.state.last_seal_sizes() == {(TABLE, 1): 5}


def test_an_epoch_in_two_parts_ends_each_table_where_it_says(cluster: PaperCluster) -> None:
    cluster.add("table", table_body(table="public.other", oid=16400))
    cluster.add("epoch", epoch_body(head_body(4), part=1, parts=2))
    cluster.add("epoch", epoch_body(head_body(2, "public.other"), part=2, parts=2))
    assert cluster.state.ended_at(TABLE, 1) == LogHead.from_body(head_body(4))
    assert cluster.state.ended_at("public.other", 1) == LogHead.from_body(head_body(2, "public.other"))
    assert cluster.state.open_gaps() == {TABLE: 5, "public.other": 5}
    assert (cluster.state.timeline, cluster.state.last_seal_lsn) == (2, 0x1949000)


def test_a_restore_to_before_a_baseline_is_no_place_in_that_log_and_stays_none(cluster: PaperCluster) -> None:
    cluster.add("table", table_body(table="public.later", oid=16400, lsn="0/194A000"))
    final = (head_body(4), head_body(2, "public.later"))
    cluster.add("epoch", epoch_body(*final, switch_lsn="0/1949F00"))
    switched = lambda: [cluster.state.switched_at(table, 1) for table in (TABLE, "public.later")]  # noqa: E731
    assert switched() == [0x1949F00, None]
    cluster.add("epoch", epoch_body(*final, timeline=3, switch_lsn="0/194B000"))
    assert switched() == [0x1949F00, None], "what was a restore to before it is not undone by another one"
    cluster.add("epoch", epoch_body(*final, timeline=4, switch_lsn="0/1949000"))
    assert switched() == [None, None]


def test_a_gap_is_open_until_its_table_begins_anew(cluster: PaperCluster) -> None:
    cluster.add("table", table_body(table="public.other", oid=16400))
    sealed(cluster).add("gap", gap_body())
    assert cluster.state.open_gap(TABLE) == 5
    assert cluster.state.open_gap("public.other") is None
    cluster.add("open", open_body(2))
    cluster.add("table", table_body(2, previous()), operator="alice")
    assert cluster.state.open_gaps() == {}


def test_accepting_a_finding_without_a_table_accepts_the_gap_of_all(cluster: PaperCluster) -> None:
    cluster.add("gap", gap_body())
    finding = cluster.finding("slot.lost", table=None, generation=None, key=None, seq=None)
    cluster.add("finding", finding)
    cluster.add("accept", accept_body(table=None, generation=None, finding=finding["id"]))
    assert cluster.state.open_gaps() == {}


@pytest.mark.parametrize("other_table", [None, TABLE])
def test_a_gap_stays_open_until_every_finding_that_stands_for_one_is_decided(
    cluster: PaperCluster, other_table: str | None
) -> None:
    cluster.add("table", table_body(table="public.other", oid=16400))
    cluster.add("gap", gap_body(tables=[TABLE, "public.other"]))
    first = cluster.finding("slot.lost", table=None, generation=None, key=None, seq=None)
    second = cluster.finding("publication.changed", table=other_table, generation=None, key="0/1949A00", seq=None)
    for finding in (first, second):
        cluster.add("finding", finding)
    cluster.add("accept", accept_body(table=None, generation=None, finding=first["id"]))
    assert list(cluster.state.open_gaps()) == [TABLE, *(["public.other"] if other_table is None else [])]
    cluster.add("accept", accept_body(table=None, generation=None, finding=second["id"]))
    assert cluster.state.open_gaps() == {}


@pytest.mark.parametrize(
    ("finding_table", "accept_table", "still_open"),
    [(None, None, []), (TABLE, None, ["public.other"]), (None, TABLE, ["public.other"]), (TABLE, "public.other", [TABLE])],
)
def test_an_accept_closes_the_gap_of_the_table_that_it_or_its_finding_names(
    cluster: PaperCluster, finding_table: str | None, accept_table: str | None, still_open: list[str]
) -> None:
    cluster.add("table", table_body(table="public.other", oid=16400))
    cluster.add("gap", gap_body(tables=[TABLE, "public.other"]))
    finding = cluster.finding("slot.lost", table=finding_table, generation=finding_table and 1, key=None, seq=None)
    cluster.add("finding", finding)
    cluster.add("accept", accept_body(table=accept_table, generation=accept_table and 1, finding=finding["id"]))
    assert list(cluster.state.open_gaps()) == still_open


def test_a_finding_lives_from_open_over_acknowledged_to_approved(cluster: PaperCluster) -> None:
    finding = cluster.finding()
    cluster.add("finding", finding)
    state = cluster.state

    def now() -> tuple[str, bool]:
        known = state.finding_state(finding["id"])
        assert known is not None
        return known.status, known.closed

    assert now() == ("open", False)
    cluster.add("finding", finding, node="node2")
    assert now() == ("open", False)
    cluster.add("ack", {"finding": finding["id"], "reason": "looking"})
    assert now() == ("acknowledged", False)
    cluster.add("accept", accept_body(finding=finding["id"], rows=[{"key": "2", "row": None, "seq": 3}]))
    assert now() == ("approved", True)
    assert state.accepts(TABLE, 1) == (AcceptedRow("2", None, 3, 6),)
    assert state.accepts(TABLE, 2) == ()
    cluster.add("finding", finding, node="node3")
    assert now() == ("approved", True)
    assert state.finding_state("F-000000000000") is None


def test_a_repaired_finding_stays_repaired_when_it_is_closed(cluster: PaperCluster) -> None:
    finding = cluster.finding()
    cluster.add("finding", finding)
    repair = {"finding": finding["id"], "target": TABLE, "sql_sha256": None}
    cluster.add("repair", {**repair, "result": "the row changed meanwhile"})
    known = cluster.state.finding_state(finding["id"])
    assert known is not None
    assert known.status == "open"
    cluster.add("repair", {**repair, "result": "repaired"})
    cluster.add("finding", cluster.finding(occurrence=1))
    cluster.add("accept", accept_body(finding=finding["id"]))
    with pytest.raises(ProofError, match="an id that follows"):
        cluster.add("finding", cluster.finding(occurrence=2))
    known = cluster.state.finding_state(finding["id"])
    assert known is not None
    assert (known.status, known.closed) == ("repaired", True)


def test_intent_keys_are_in_force_from_the_lsn_that_brings_them(cluster: PaperCluster) -> None:
    public = signer("intent-deploy").public
    cluster.add("key", key_body(from_lsn="0/2000000"))
    cluster.add("key", key_body(action="remove", from_lsn="0/3000000"))
    state = cluster.state
    assert state.intent_key("deploy-1", 0x1FFFFFF) is None
    assert state.intent_key("deploy-1", 0x2000000) == public
    assert state.intent_key("deploy-1", 0x2FFFFFF) == public
    assert state.intent_key("deploy-1", 0x3000000) is None
    assert state.intent_key("deploy-1") is None
    assert state.keys_in_force("intent") == {}
    assert state.intent_key("other", 0x2000000) is None


def test_a_report_and_a_log_key_can_stand_beside_the_others(cluster: PaperCluster) -> None:
    cluster.add("key", key_body(kind="report", name="report-2026", key="MFkwEwYHKoZIzj0CAQ=="))
    cluster.add("key", key_body(kind="log", name="log-2027", key=cluster.log_key))
    assert cluster.state.key_in_force("report", "report-2026") == b64decode("MFkwEwYHKoZIzj0CAQ==")
    assert cluster.state.keys_in_force("log") == {"log-2027": cluster.log_key.encode()}


@pytest.mark.parametrize(
    ("nodes", "genesis", "added", "quorum"),
    [(3, 2, 1, 3), (3, 2, 2, 3), (3, 3, 1, 3), (1, 1, 1, 2), (5, 4, 2, 4), (5, 5, 1, 5)],
)
def test_the_quorum_follows_the_members(nodes: int, genesis: int, added: int, quorum: int) -> None:
    cluster = PaperCluster(nodes, genesis).start()
    for number in range(nodes + 1, nodes + added + 1):
        cluster.add("member", member_body(cluster, f"node{number}"))
        cluster.nodes.append(f"node{number}")
    assert cluster.state.quorum == quorum
    assert cluster.state.members[f"node{nodes + 1}"].from_lsn == 0x1949A00


def test_a_cluster_that_shrinks_needs_no_more_votes_than_it_has_members() -> None:
    cluster = PaperCluster(3, 3).start()
    cluster.add("member", member_body(cluster, "node3", "remove"))
    cluster.add("member", member_body(cluster, "node2", "remove"))
    assert cluster.state.quorum == 1
    cluster.add("seal", seal_body("0/1949A00", head_body(4)), voters=["node1"])


def test_a_majority_of_fewer_members_is_fewer_votes() -> None:
    cluster = PaperCluster(5).start()
    for node in ("node5", "node4"):
        cluster.add("member", member_body(cluster, node, "remove"))
    assert cluster.state.quorum == 2


def test_without_signatures_none_is_verified(cluster: PaperCluster) -> None:
    votes = {"node1": "A" * 86 + "==", "node2": "A" * 86 + "=="}
    record = replace(cluster.make("seal", {**seal_body("0/1949A00", head_body(4)), "votes": votes}), sig=bytes(64))
    cluster.state.check(record, verify_signatures=False)
    with pytest.raises(ProofError, match="identity key"):
        cluster.state.check(record)


def test_a_replay_of_validated_records_gives_the_same_answers(cluster: PaperCluster) -> None:
    opened(cluster).add("table", table_body(2, previous()))
    cluster.add("finding", cluster.finding())
    replayed = JournalState()
    for record in cluster.records:
        replayed.apply(record, verify_signatures=False)
    assert vars(replayed) == vars(cluster.state)


def refused(cluster: PaperCluster, record: Record) -> ProofError:
    """Why a record, proposed before, is refused now."""
    with pytest.raises(ProofError) as error:
        cluster.state.check(replace(record, seq=cluster.state.size + 1))
    return error.value


def test_a_record_that_a_change_of_members_overtook_is_refused_and_accuses_nobody(cluster: PaperCluster) -> None:
    opened(cluster).add("table", table_body(2, previous()))
    body, voters = seal_body("0/194A000", head_body(4)), ["node1", "node3"]
    seal = cluster.make("seal", body, voters=voters)
    own = cluster.make("operator", {"action": "look", "detail": ""}, node="node3")
    cluster.add("member", member_body(cluster, "node3", "remove"), node="node2")
    for record, reason in ((seal, "found one of node3"), (own, "a member in force")):
        problem = refused(cluster, record)
        assert reason in problem.message and problem.code != FORGED
    # node1 has seen the change once it has written again; then only a liar puts such votes into a record
    cluster.add("operator", {"action": "look", "detail": ""})
    problem = refused(cluster, cluster.make("seal", body, voters=voters))
    assert "found one of node3" in problem.message and problem.code == FORGED


def test_a_larger_quorum_overtakes_a_seal_and_one_that_never_had_enough_votes_is_forged(cluster: PaperCluster) -> None:
    opened(cluster).add("table", table_body(2, previous()))
    body = seal_body("0/194A000", head_body(4))
    seal = cluster.make("seal", body, voters=["node1", "node2"])
    alone = cluster.make("seal", body, voters=["node1"])
    cluster.add("member", member_body(cluster, "node4"), node="node2")
    assert cluster.state.quorum == 3
    for record, forged in ((seal, False), (alone, True)):
        problem = refused(cluster, record)
        assert "expected votes of 3 members" in problem.message and (problem.code == FORGED) == forged


def test_a_seal_that_stands_in_the_journal_is_not_let_in_again_and_leaves_no_memory_behind(cluster: PaperCluster) -> None:
    remembered = len(cluster.state._voted)
    for size in range(4, 24):
        again = seal_body(f"0/19500{size:02}", head_body(size))
        again["votes"] = cluster.add("seal", again).body["votes"]
        with pytest.raises(ProofError, match="beyond the last seal"):
            cluster.state.check(cluster.make("seal", again))
        later = seal_body(f"0/19600{size:02}", head_body(size))
        with pytest.raises(ProofError, match=f"grow beyond {size}"):
            cluster.state.check(cluster.make("seal", later))
    assert len(cluster.state._voted) == remembered
