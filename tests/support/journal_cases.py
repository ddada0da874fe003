"""Journals by mutation: each case prepares a cluster and returns one more record, with the reason to refuse it (or None)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.support.journal_maker import (
    CLUSTER,
    CLUSTER_ID,
    DIGEST,
    HASH,
    TABLE,
    PaperCluster,
    b64,
    head_body,
    open_body,
    seal_body,
    seed,
    signer,
    table_body,
    verify_body,
)
from witnz.core.keys import format_verifier_key, parse_verifier_key, verifier_key
from witnz.core.record import Record, operator_bytes, vote_bytes

Case = Callable[[PaperCluster], Record]

CASES: dict[str, tuple[Case, str | None]] = {}


def case(refused_for: str | None) -> Callable[[Case], Case]:
    """Register a case under its function's name; ``refused_for`` is part of the message."""

    def register(prepare: Case) -> Case:
        CASES[prepare.__name__.replace("_", "-")] = (prepare, refused_for)
        return prepare

    return register


def sealed(cluster: PaperCluster, size: int = 4, lsn: str = "0/1949A00") -> PaperCluster:
    cluster.add("seal", seal_body(lsn, head_body(size)))
    return cluster


def previous(size: int = 4, generation: int = 1) -> dict[str, Any]:
    return {name: value for name, value in head_body(size, generation=generation).items() if name in ("size", "root", "chain")}


def key_body(**changed: Any) -> dict[str, Any]:
    added = b64(signer("intent-deploy").public)
    return {"action": "add", "kind": "intent", "name": "deploy-1", "key": added, "from_lsn": "0/0", **changed}


def member_body(cluster: PaperCluster, node: str, action: str = "add", **changed: Any) -> dict[str, Any]:
    return {"action": action, **cluster.member_body(node), "from_lsn": "0/1949A00", **changed}


def accept_body(**changed: Any) -> dict[str, Any]:
    return {"table": TABLE, "generation": 1, "rows": [], "finding": None, "reason": "seen", **changed}


# -- place, signer -----------------------------------------------------------------------------------------------------


@case("genesis first")
def first_record_is_no_genesis(cluster: PaperCluster) -> Record:
    empty = PaperCluster()
    record = empty.make("operator", {"action": "x", "detail": ""})
    cluster.records.clear()
    cluster.state = empty.state
    return record


@case("genesis first")
def genesis_again(cluster: PaperCluster) -> Record:
    return cluster.make("genesis", cluster.genesis_body())


@case("member in force")
def genesis_by_a_stranger(cluster: PaperCluster) -> Record:
    cluster.records.clear()
    cluster.state = PaperCluster().state
    return cluster.make("genesis", cluster.genesis_body(), node="node9")


@case("expected cluster")
def record_of_another_cluster(cluster: PaperCluster) -> Record:
    return cluster.make("operator", {"action": "x", "detail": ""}, cluster="f" * 32)


@case("expected seq")
def seq_leaves_a_hole(cluster: PaperCluster) -> Record:
    return cluster.make("operator", {"action": "x", "detail": ""}, seq=4)


@case("expected seq")
def seq_of_the_record_before(cluster: PaperCluster) -> Record:
    return cluster.make("operator", {"action": "x", "detail": ""}, seq=2)


@case("expected n 3")
def n_repeated(cluster: PaperCluster) -> Record:
    return cluster.make("operator", {"action": "x", "detail": ""}, n=2)


@case("expected n 3")
def n_leaves_a_hole(cluster: PaperCluster) -> Record:
    return cluster.make("operator", {"action": "x", "detail": ""}, n=4)


@case("expected prev")
def prev_of_another_record(cluster: PaperCluster) -> Record:
    return cluster.make("operator", {"action": "x", "detail": ""}, prev="a" * 64)


@case("expected n")
def record_held_back_and_replayed(cluster: PaperCluster) -> Record:
    held = cluster.make("operator", {"action": "x", "detail": ""})
    cluster.add("operator", {"action": "y", "detail": ""})
    return replace(held, seq=cluster.state.size + 1)


@case("member in force")
def record_by_a_stranger(cluster: PaperCluster) -> Record:
    return cluster.make("operator", {"action": "x", "detail": ""}, node="node9")


@case("member in force")
def record_by_a_removed_member(cluster: PaperCluster) -> Record:
    cluster.add("member", member_body(cluster, "node3", "remove"))
    return cluster.make("operator", {"action": "x", "detail": ""}, node="node3")


@case("not by the identity key")
def signature_of_another_member(cluster: PaperCluster) -> Record:
    record = cluster.make("operator", {"action": "x", "detail": ""})
    other = cluster.make("operator", {"action": "x", "detail": ""}, node="node2", n=record.n, prev=record.prev)
    return replace(record, sig=other.sig)


@case("not by the identity key")
def body_changed_after_signing(cluster: PaperCluster) -> Record:
    return replace(cluster.make("operator", {"action": "x", "detail": ""}), body={"action": "x", "detail": "!"}, body_json=b"")


@case(None)
def record_of_another_node_starts_its_own_chain(cluster: PaperCluster) -> Record:
    return cluster.make("operator", {"action": "x", "detail": ""}, node="node2")


# -- votes -------------------------------------------------------------------------------------------------------------


@case("expected votes of 2 members")
def seal_with_one_vote(cluster: PaperCluster) -> Record:
    return cluster.make("seal", seal_body("0/1949A00", head_body(4)), voters=["node1"])


@case("votes of members in force")
def seal_with_a_strangers_vote(cluster: PaperCluster) -> Record:
    return cluster.make("seal", seal_body("0/1949A00", head_body(4)), voters=["node1", "node2", "node9"])


@case("vote of node2")
def seal_with_a_vote_for_another_body(cluster: PaperCluster) -> Record:
    body = seal_body("0/1949A00", head_body(4))
    other = vote_bytes(seal_body("0/1949A00", head_body(5)), CLUSTER_ID, "seal")
    good = vote_bytes(body, CLUSTER_ID, "seal")
    votes = {"node1": b64(cluster.identity("node1").sign(good)), "node2": b64(cluster.identity("node2").sign(other))}
    return cluster.make("seal", {**body, "votes": votes})


@case("vote of node2")
def seal_with_one_members_vote_twice(cluster: PaperCluster) -> Record:
    body = seal_body("0/1949A00", head_body(4))
    vote = b64(cluster.identity("node1").sign(vote_bytes(body, CLUSTER_ID, "seal")))
    return cluster.make("seal", {**body, "votes": {"node1": vote, "node2": vote}})


@case("vote of node1")
def seal_with_votes_of_another_type(cluster: PaperCluster) -> Record:
    body = seal_body("0/1949A00", head_body(4))
    ballot = vote_bytes(body, CLUSTER_ID, "dissent")
    votes = {node: b64(cluster.identity(node).sign(ballot)) for node in ("node1", "node2")}
    return cluster.make("seal", {**body, "votes": votes})


@case("stands in the journal already")
def verification_voted_before(cluster: PaperCluster) -> Record:
    cluster.add("verify", verify_body(4, 2))
    return cluster.make("verify", verify_body(4, 2), voters=["node2", "node3"], node="node2")


@case(None)
def seal_with_every_vote(cluster: PaperCluster) -> Record:
    return cluster.make("seal", seal_body("0/1949A00", head_body(4)), voters=cluster.nodes)


# -- auth --------------------------------------------------------------------------------------------------------------


@case("expected an operator key in force")
def accept_by_nobody_known(cluster: PaperCluster) -> Record:
    return cluster.make("accept", accept_body(), operator="mallory")


@case("nonce was used before")
def accept_with_a_used_nonce(cluster: PaperCluster) -> Record:
    cluster.add("accept", accept_body(nonce="a" * 32))
    return cluster.make("accept", accept_body(nonce="a" * 32, reason="again"))


@case("not by the operator key")
def accept_signed_by_the_node(cluster: PaperCluster) -> Record:
    body = accept_body(nonce="b" * 32)
    sig = b64(cluster.identity("node1").sign(operator_bytes(body, CLUSTER_ID, "accept")))
    return cluster.make("accept", {**body, "auth": {"operator": "alice", "sig": sig}})


@case("not by the operator key")
def accept_with_the_auth_of_an_unprotect(cluster: PaperCluster) -> Record:
    body = accept_body(nonce="c" * 32)
    sig = b64(cluster.operator("alice").sign(operator_bytes(body, CLUSTER_ID, "prune")))
    return cluster.make("accept", {**body, "auth": {"operator": "alice", "sig": sig}})


@case("expected an operator key in force")
def accept_by_a_removed_operator(cluster: PaperCluster) -> Record:
    bob = b64(cluster.operator("bob").public)
    cluster.add("key", key_body(kind="operator", name="bob", key=bob))
    cluster.add("key", key_body(action="remove", kind="operator", name="bob", key=bob))
    return cluster.make("accept", accept_body(), operator="bob")


@case(None)
def accept_by_an_added_operator(cluster: PaperCluster) -> Record:
    cluster.add("key", key_body(kind="operator", name="bob", key=b64(cluster.operator("bob").public)))
    return cluster.make("accept", accept_body(), operator="bob")


# -- seals -------------------------------------------------------------------------------------------------------------


@case("expected an LSN beyond")
def seal_at_the_same_lsn(cluster: PaperCluster) -> Record:
    return sealed(cluster).make("seal", seal_body("0/1949A00", head_body(5)))


@case("expected an LSN beyond")
def seal_at_an_earlier_lsn(cluster: PaperCluster) -> Record:
    return sealed(cluster).make("seal", seal_body("0/19499FF", head_body(5)))


@case("to grow beyond 4")
def seal_of_the_same_size(cluster: PaperCluster) -> Record:
    return sealed(cluster).make("seal", seal_body("0/1949B00", head_body(4)))


@case("to grow beyond 4")
def seal_of_a_smaller_size(cluster: PaperCluster) -> Record:
    return sealed(cluster).make("seal", seal_body("0/1949B00", head_body(3)))


@case("current generations of protected tables")
def seal_of_an_unknown_table(cluster: PaperCluster) -> Record:
    return cluster.make("seal", seal_body("0/1949A00", head_body(4, "public.other")))


@case("current generations of protected tables")
def seal_of_a_generation_to_come(cluster: PaperCluster) -> Record:
    return cluster.make("seal", seal_body("0/1949A00", head_body(4, generation=2)))


@case("open for a new generation")
def seal_of_an_open_table(cluster: PaperCluster) -> Record:
    cluster.add("open", open_body(2))
    return cluster.make("seal", seal_body("0/1949A00", head_body(4)))


@case("current generations of protected tables")
def seal_of_an_unprotected_table(cluster: PaperCluster) -> Record:
    cluster.add("unprotect", {"table": TABLE, "reason": "moved"})
    return cluster.make("seal", seal_body("0/1949A00", head_body(4)))


@case("expected part 1 first")
def seal_begins_with_its_second_part(cluster: PaperCluster) -> Record:
    return cluster.make("seal", seal_body("0/1949A00", head_body(4), part=2, parts=2))


def split_seal(cluster: PaperCluster) -> PaperCluster:
    cluster.add("table", table_body(table="public.other", oid=16400))
    cluster.add("seal", seal_body("0/1949A00", head_body(4), part=1, parts=3))
    return cluster


@case("expected part 2 of 3")
def seal_leaves_out_a_part(cluster: PaperCluster) -> Record:
    return split_seal(cluster).make("seal", seal_body("0/1949A00", head_body(4, "public.other"), part=3, parts=3))


@case("expected part 2 of 3")
def seal_changes_the_number_of_parts(cluster: PaperCluster) -> Record:
    return split_seal(cluster).make("seal", seal_body("0/1949A00", head_body(4, "public.other"), part=2, parts=2))


@case("in one part only")
def seal_lists_a_table_in_two_parts(cluster: PaperCluster) -> Record:
    return split_seal(cluster).make("seal", seal_body("0/1949A00", head_body(5), part=2, parts=3))


@case("expected part 1 first")
def seal_part_at_another_lsn(cluster: PaperCluster) -> Record:
    return split_seal(cluster).make("seal", seal_body("0/1949A01", head_body(4, "public.other"), part=2, parts=3))


@case("in one part only")
def seal_lists_a_table_in_its_first_and_last_part(cluster: PaperCluster) -> Record:
    split_seal(cluster).add("seal", seal_body("0/1949A00", head_body(4, "public.other"), part=2, parts=3))
    return cluster.make("seal", seal_body("0/1949A00", head_body(5), part=3, parts=3))


@case(None)
def seal_lists_a_table_again_that_an_unfinished_seal_listed(cluster: PaperCluster) -> Record:
    split_seal(cluster).add("seal", seal_body("0/1949B00", head_body(4, "public.other"), part=1, parts=2))
    return cluster.make("seal", seal_body("0/1949B00", head_body(5), part=2, parts=2))


@case(None)
def seal_in_two_parts(cluster: PaperCluster) -> Record:
    return split_seal(cluster).make("seal", seal_body("0/1949A00", head_body(4, "public.other"), part=2, parts=3))


# -- generations -------------------------------------------------------------------------------------------------------


@case("expected generation 2")
def table_of_the_generation_in_force(cluster: PaperCluster) -> Record:
    return cluster.make("table", table_body(reason="again"))


@case("expected generation 2")
def table_skips_a_generation(cluster: PaperCluster) -> Record:
    return sealed(cluster).make("table", table_body(3, previous(generation=2)))


@case("expected an open record")
def table_of_a_generation_never_opened(cluster: PaperCluster) -> Record:
    return sealed(cluster).make("table", table_body(2, previous()))


def opened(cluster: PaperCluster) -> PaperCluster:
    sealed(cluster).add("open", open_body(2))
    return cluster


@case("generation and secret_sha256 of its open record")
def table_with_another_secret_than_opened(cluster: PaperCluster) -> Record:
    return opened(cluster).make("table", table_body(2, previous(), secret_sha256=DIGEST))


@case("previous to be null for generation 1")
def table_without_its_previous(cluster: PaperCluster) -> Record:
    return opened(cluster).make("table", table_body(2))


@case("previous to be null for generation 1")
def first_generation_with_a_previous(cluster: PaperCluster) -> Record:
    return cluster.make("table", table_body(1, previous(), table="public.other"))


@case("extend the log sealed at size 4")
def table_cuts_the_generation_before(cluster: PaperCluster) -> Record:
    return opened(cluster).make("table", table_body(2, previous(3)))


@case("extend the log sealed at size 4")
def table_links_another_root_at_the_sealed_size(cluster: PaperCluster) -> Record:
    return opened(cluster).make("table", table_body(2, {**previous(4), "root": HASH}))


@case("expected a table that is not open")
def open_twice(cluster: PaperCluster) -> Record:
    return opened(cluster).make("open", open_body(2))


@case("expected generation 2")
def open_of_a_later_generation(cluster: PaperCluster) -> Record:
    return cluster.make("open", open_body(3))


@case("expected a generation that is open")
def cancel_of_what_is_not_open(cluster: PaperCluster) -> Record:
    return cluster.make("cancel", {"table": TABLE, "generation": 2, "reason": "timeout"})


@case("expected an open record")
def table_after_its_attempt_was_cancelled(cluster: PaperCluster) -> Record:
    opened(cluster).add("cancel", {"table": TABLE, "generation": 2, "reason": "timeout"})
    return cluster.make("table", table_body(2, previous()))


@case(None)
def next_generation(cluster: PaperCluster) -> Record:
    return opened(cluster).make("table", table_body(2, previous()))


@case(None)
def next_generation_after_entries_that_were_not_sealed(cluster: PaperCluster) -> Record:
    return opened(cluster).make("table", table_body(2, previous(9)))


def weaker(name: str, start: dict[str, Any], end: dict[str, Any]) -> None:
    """Two cases: the same weakening without and with an operator."""

    def prepare(cluster: PaperCluster) -> PaperCluster:
        cluster.add("table", table_body(table="public.rules", oid=16500, **start))
        cluster.add("open", open_body(2, table="public.rules"))
        return cluster

    body = table_body(2, previous(), table="public.rules", oid=16500, **end)
    refused = f"expected an operator's auth, because {name} is weakened"
    CASES[f"table-weakens-{name.replace('_', '-')}"] = (lambda cluster: prepare(cluster).make("table", body), refused)
    CASES[f"table-weakens-{name.replace('_', '-')}-by-an-operator"] = (
        lambda cluster: prepare(cluster).make("table", body, operator="alice"),
        None,
    )


def rules(**changed: bool) -> dict[str, Any]:
    return {"rules": {"inserts_only": False, "require_intent": False, "retain": False, **changed}}


weaker("mode", {"mode": "append_only"}, {"mode": "state_integrity"})
weaker("on_change", {"on_change": "alert"}, {"on_change": "record"})
weaker("require_intent", rules(require_intent=True), rules())
weaker("inserts_only", rules(), rules(inserts_only=True))
weaker("retain", rules(retain=True), rules())


@case(None)
def next_generation_with_stricter_rules(cluster: PaperCluster) -> Record:
    cluster.add(
        "table", table_body(table="public.rules", mode="state_integrity", on_change="record", **rules(inserts_only=True))
    )
    cluster.add("open", open_body(2, table="public.rules"))
    stricter = rules(require_intent=True, retain=True)
    return cluster.make("table", table_body(2, previous(), table="public.rules", **stricter))


@case(None)
def next_generation_with_the_same_lax_rules(cluster: PaperCluster) -> Record:
    lax = {"table": "public.rules", "mode": "state_integrity", "on_change": "record", **rules(inserts_only=True)}
    cluster.add("table", table_body(**lax))
    cluster.add("open", open_body(2, table="public.rules"))
    return cluster.make("table", table_body(2, previous(), **lax))


@case(None)
def next_generation_with_the_same_strict_rules(cluster: PaperCluster) -> Record:
    strict = {"table": "public.rules", **rules(require_intent=True, retain=True)}
    cluster.add("table", table_body(**strict))
    cluster.add("open", open_body(2, table="public.rules"))
    return cluster.make("table", table_body(2, previous(), **strict))


@case("expected a protected table")
def unprotect_twice(cluster: PaperCluster) -> Record:
    cluster.add("unprotect", {"table": TABLE, "reason": "moved"})
    return cluster.make("unprotect", {"table": TABLE, "reason": "moved"})


# -- gaps and epochs ---------------------------------------------------------------------------------------------------


def gap_body(**changed: Any) -> dict[str, Any]:
    return {"from_lsn": "0/1949A00", "to_lsn": "0/1950000", "reason": "slot lost", "tables": [TABLE], **changed}


def epoch_body(*heads: dict[str, Any], **changed: Any) -> dict[str, Any]:
    restored = {"system": "7123456789012345678", "timeline": 2, "switch_lsn": "0/1949000", "reason": "restored"}
    return {**restored, "final": list(heads) or [head_body(4)], **changed}


@case("follows the gap or epoch of record 4")
def table_after_a_gap_without_an_operator(cluster: PaperCluster) -> Record:
    sealed(cluster).add("gap", gap_body())
    cluster.add("open", open_body(2))
    return cluster.make("table", table_body(2, previous()))


@case("follows the gap or epoch of record 4")
def table_after_an_epoch_without_an_operator(cluster: PaperCluster) -> Record:
    sealed(cluster).add("epoch", epoch_body())
    cluster.add("open", open_body(2))
    return cluster.make("table", table_body(2, previous()))


@case(None)
def table_after_a_gap_by_an_operator(cluster: PaperCluster) -> Record:
    sealed(cluster).add("gap", gap_body())
    cluster.add("open", open_body(2))
    return cluster.make("table", table_body(2, previous()), operator="alice")


@case(None)
def table_after_a_gap_that_was_accepted(cluster: PaperCluster) -> Record:
    sealed(cluster).add("gap", gap_body())
    finding = cluster.finding("coverage.gap", key=None, seq=None)
    cluster.add("finding", finding)
    cluster.add("accept", accept_body(finding=finding["id"]))
    cluster.add("open", open_body(2))
    return cluster.make("table", table_body(2, previous()))


@case("follows the gap or epoch")
def table_after_a_gap_when_another_finding_was_accepted(cluster: PaperCluster) -> Record:
    sealed(cluster).add("gap", gap_body())
    finding = cluster.finding("row.modified")
    cluster.add("finding", finding)
    cluster.add("accept", accept_body(finding=finding["id"]))
    cluster.add("open", open_body(2))
    return cluster.make("table", table_body(2, previous()))


@case("follows the gap or epoch of record 7")
def table_after_a_second_gap_when_the_first_was_accepted_twice(cluster: PaperCluster) -> Record:
    sealed(cluster).add("gap", gap_body())
    finding = cluster.finding("coverage.gap", key=None, seq=None)
    cluster.add("finding", finding)
    cluster.add("accept", accept_body(finding=finding["id"]))
    cluster.add("gap", gap_body(to_lsn="0/1960000"))
    cluster.add("accept", accept_body(finding=finding["id"], reason="again"))
    cluster.add("open", open_body(2))
    return cluster.make("table", table_body(2, previous()))


@case("extend the log sealed at size 4")
def epoch_ends_below_the_seal(cluster: PaperCluster) -> Record:
    return sealed(cluster).make("epoch", epoch_body(head_body(3)))


@case("expected current generations")
def epoch_ends_an_unknown_table(cluster: PaperCluster) -> Record:
    return cluster.make("epoch", epoch_body(head_body(3, "public.other")))


@case("expected part 1 first")
def epoch_begins_with_its_second_part(cluster: PaperCluster) -> Record:
    return cluster.make("epoch", epoch_body(head_body(4), part=2, parts=2))


@case("in one part only")
def epoch_ends_a_table_in_two_parts(cluster: PaperCluster) -> Record:
    cluster.add("epoch", epoch_body(head_body(4), part=1, parts=2))
    return cluster.make("epoch", epoch_body(head_body(5), part=2, parts=2))


@case("expected part 1 first")
def epoch_part_of_another_restore(cluster: PaperCluster) -> Record:
    cluster.add("table", table_body(table="public.other", oid=16400))
    cluster.add("epoch", epoch_body(head_body(4), part=1, parts=2))
    return cluster.make("epoch", epoch_body(head_body(5, "public.other"), part=2, parts=2, timeline=3))


@case("expected part 1 first")
def epoch_part_after_a_seal_part(cluster: PaperCluster) -> Record:
    return split_seal(cluster).make("epoch", epoch_body(head_body(5, "public.other"), part=2, parts=3))


@case("ended it before")
def epoch_ends_elsewhere_what_an_epoch_ended(cluster: PaperCluster) -> Record:
    sealed(cluster).add("epoch", epoch_body(head_body(5)))
    return cluster.make("epoch", epoch_body(head_body(6), timeline=3))


@case(None)
def epoch_after_an_epoch(cluster: PaperCluster) -> Record:
    sealed(cluster).add("epoch", epoch_body(head_body(5)))
    return cluster.make("epoch", epoch_body(head_body(5), timeline=3))


@case("as the epoch ended it")
def table_links_another_end_than_the_epochs(cluster: PaperCluster) -> Record:
    sealed(cluster).add("epoch", epoch_body(head_body(5)))
    cluster.add("open", open_body(2))
    return cluster.make("table", table_body(2, previous(6)), operator="alice")


@case("ended")
def seal_of_a_generation_that_an_epoch_ended(cluster: PaperCluster) -> Record:
    sealed(cluster).add("epoch", epoch_body(head_body(5)))
    return cluster.make("seal", seal_body("0/1949B00", head_body(6)))


@case(None)
def seal_at_an_earlier_lsn_after_a_restore(cluster: PaperCluster) -> Record:
    cluster.add("table", table_body(table="public.other", oid=16400))
    sealed(cluster).add("epoch", epoch_body())
    return cluster.make("seal", seal_body("0/1949001", head_body(2, "public.other")))


@case("expected an LSN beyond")
def seal_before_the_switch_of_a_restore(cluster: PaperCluster) -> Record:
    cluster.add("table", table_body(table="public.other", oid=16400))
    sealed(cluster).add("epoch", epoch_body())
    return cluster.make("seal", seal_body("0/1949000", head_body(2, "public.other")))


# -- verifications, findings, acceptances ------------------------------------------------------------------------------


@case("state found is not the one expected")
def verified_though_the_state_differs(cluster: PaperCluster) -> Record:
    return cluster.make("verify", verify_body(4, 2, state_found=b64(seed("another state"))))


@case("rows are unresolved")
def verified_though_rows_are_unresolved(cluster: PaperCluster) -> Record:
    return cluster.make("verify", verify_body(4, 2, unresolved=1))


@case("findings are named")
def verified_though_findings_are_named(cluster: PaperCluster) -> Record:
    return cluster.make("verify", verify_body(4, 2, findings=["F-0123456789ab"]))


@case("journal_size of at most 2")
def verification_under_a_journal_to_come(cluster: PaperCluster) -> Record:
    return cluster.make("verify", verify_body(4, 3))


@case("a generation that the journal knows")
def verification_of_an_unknown_generation(cluster: PaperCluster) -> Record:
    return cluster.make("verify", verify_body(4, 2, generation=2))


@case(None)
def verification_that_found_tampering(cluster: PaperCluster) -> Record:
    found = {"verdict": "TAMPERED", "findings": ["F-0123456789ab"], "state_found": b64(seed("another state"))}
    return cluster.make("verify", verify_body(4, 2, **found))


@case("an id that follows from its members")
def finding_under_another_id(cluster: PaperCluster) -> Record:
    return cluster.make("finding", {**cluster.finding(), "id": "F-000000000000"})


@case("an id that follows from its members")
def finding_of_an_occurrence_to_come(cluster: PaperCluster) -> Record:
    return cluster.make("finding", cluster.finding(occurrence=1))


@case(None)
def finding_again_after_it_was_closed(cluster: PaperCluster) -> Record:
    cluster.add("finding", cluster.finding())
    cluster.add("accept", accept_body(finding=cluster.finding()["id"]))
    return cluster.make("finding", cluster.finding(occurrence=1))


@case("a finding that the journal knows")
def ack_of_an_unknown_finding(cluster: PaperCluster) -> Record:
    return cluster.make("ack", {"finding": "F-0123456789ab", "reason": "seen"})


@case("a finding that the journal knows")
def accept_of_an_unknown_finding(cluster: PaperCluster) -> Record:
    return cluster.make("accept", accept_body(finding="F-0123456789ab"))


@case("a generation that the journal knows")
def accept_in_an_unknown_generation(cluster: PaperCluster) -> Record:
    return cluster.make("accept", accept_body(generation=2))


@case("a finding that the journal knows")
def repair_of_an_unknown_finding(cluster: PaperCluster) -> Record:
    body = {"finding": "F-0123456789ab", "target": TABLE, "sql_sha256": DIGEST, "result": "repaired"}
    return cluster.make("repair", body)


@case("a generation that the journal knows")
def erase_in_an_unknown_table(cluster: PaperCluster) -> Record:
    return cluster.make("erase", {"table": "public.other", "generation": 1, "keys": ["2"], "reason": "law"})


@case("expected a checkpoint of at most 2")
def anchor_of_a_checkpoint_to_come(cluster: PaperCluster) -> Record:
    receipt = {"type": "x", "digest": DIGEST, "size": 3}
    return cluster.make("anchor", {**receipt, "receipt": receipt})


@case(None)
def anchor_of_the_newest_checkpoint(cluster: PaperCluster) -> Record:
    receipt = {"type": "x", "digest": DIGEST, "size": 2}
    return cluster.make("anchor", {**receipt, "receipt": receipt})


# -- members and keys --------------------------------------------------------------------------------------------------


@case("a new node or to change one")
def member_added_twice(cluster: PaperCluster) -> Record:
    return cluster.make("member", member_body(cluster, "node2"))


@case(None)
def member_with_keys_of_its_own_that_are_new(cluster: PaperCluster) -> Record:
    changed = {"identity": b64(signer("identity-node2-new").public)}
    return cluster.make("member", member_body(cluster, "node2", **changed))


@case("by the identity key of its node")
def record_under_an_identity_that_was_replaced(cluster: PaperCluster) -> Record:
    cluster.add("member", member_body(cluster, "node2", identity=b64(signer("identity-node2-new").public)))
    return cluster.make("operator", {"action": "x", "detail": ""}, node="node2")


@case("keys that no other member has")
def member_given_the_identity_of_another(cluster: PaperCluster) -> Record:
    return cluster.make("member", member_body(cluster, "node2", identity=cluster.member_body("node1")["identity"]))


@case("a log key named")
def log_key_of_another_cluster(cluster: PaperCluster) -> Record:
    return cluster.make("key", key_body(kind="log", name="log-2", key=key_under("other.example/app", cluster.log_key)))


@case("keys that no other member has")
def member_with_the_identity_of_another(cluster: PaperCluster) -> Record:
    return cluster.make("member", member_body(cluster, "node4", identity=cluster.member_body("node1")["identity"]))


@case("a cosigner named")
def member_with_a_cosigner_of_another_cluster(cluster: PaperCluster) -> Record:
    key = cluster.member_body("node4")["cosigner"]
    foreign = key_under(f"other/{CLUSTER}/nodes/node4", key)
    return cluster.make("member", member_body(cluster, "node4", cosigner=foreign))


def key_under(name: str, key: str) -> str:
    parsed = parse_verifier_key(key)
    return format_verifier_key(verifier_key(name, parsed.type, parsed.public))


@case("expected to remove a member in force")
def member_removed_under_another_key(cluster: PaperCluster) -> Record:
    return cluster.make("member", member_body(cluster, "node2", "remove", identity=b64(seed("another identity"))))


@case("expected to remove a member in force")
def member_removed_that_never_was_one(cluster: PaperCluster) -> Record:
    return cluster.make("member", member_body(cluster, "node4", "remove"))


@case("expected a member to remain")
def last_member_removed(cluster: PaperCluster) -> Record:
    single = PaperCluster(1).start()
    cluster.__dict__.update(single.__dict__)
    return cluster.make("member", member_body(cluster, "node1", "remove"))


@case("expected votes of 3 members")
def quorum_grows_with_the_members(cluster: PaperCluster) -> Record:
    cluster.add("member", member_body(cluster, "node4"))
    return cluster.make("seal", seal_body("0/1949A00", head_body(4)))


@case("a new intent key under a new name")
def key_added_twice(cluster: PaperCluster) -> Record:
    cluster.add("key", key_body())
    return cluster.make("key", key_body())


@case("a new intent key under a new name")
def another_key_under_a_name_in_force(cluster: PaperCluster) -> Record:
    cluster.add("key", key_body())
    return cluster.make("key", key_body(key=b64(signer("intent-other").public)))


@case(None)
def log_key_removed(cluster: PaperCluster) -> Record:
    cluster.add("key", key_body(kind="log", name="log-2027", key=cluster.log_key))
    return cluster.make("key", key_body(action="remove", kind="log", name="log-2027", key=cluster.log_key))


@case("expected to remove a log key in force")
def log_key_removed_under_another_name(cluster: PaperCluster) -> Record:
    cluster.add("key", key_body(kind="log", name="log-2027", key=cluster.log_key))
    renamed = key_under(f"{CLUSTER}-2", cluster.log_key)
    return cluster.make("key", key_body(action="remove", kind="log", name="log-2027", key=renamed))


@case("a new operator key under a new name")
def operator_under_a_second_name(cluster: PaperCluster) -> Record:
    return cluster.make("key", key_body(kind="operator", name="bob", key=b64(cluster.operator("alice").public)))


@case("expected to remove a intent key in force")
def key_removed_that_was_never_added(cluster: PaperCluster) -> Record:
    return cluster.make("key", key_body(action="remove"))


@case("expected an operator key to remain")
def last_operator_removed(cluster: PaperCluster) -> Record:
    alice = b64(cluster.operator("alice").public)
    return cluster.make("key", key_body(action="remove", kind="operator", name="alice", key=alice))
