"""Whose keys counted when: what a policy must accept, and what it must not, after keys and members changed."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest

from tests.support.journal_cases import key_body, member_body
from tests.support.journal_maker import CLUSTER, PaperCluster, b64, seed, signer
from witnz.core.checkpoint import Checkpoint, cosign, format_checkpoint
from witnz.core.keys import COSIGNATURE, ED25519, Ed25519Signer, format_verifier_key, verifier_key
from witnz.core.note import Note, sign_note
from witnz.core.periods import periods_of, quorum_after
from witnz.core.policy import evaluate, parse_policy


@pytest.fixture
def cluster() -> PaperCluster:
    return PaperCluster(3).start()


def new_cosigner(node: str) -> Ed25519Signer:
    return Ed25519Signer(f"{CLUSTER}/nodes/{node}", seed(f"new-cosigner-{node}"))


def vkey(key: Ed25519Signer, key_type: int = COSIGNATURE) -> str:
    return format_verifier_key(verifier_key(key.name, key_type, key.public))


def note_by(cluster: PaperCluster, *cosigners: Ed25519Signer, log: Any = None) -> Note:
    text = format_checkpoint(Checkpoint(CLUSTER, 9, bytes(32)))
    note = sign_note(text, [log or cluster.log])
    return note.with_signatures(*(cosign(text, cosigner, 1_795_000_000) for cosigner in cosigners))


def accepted(policy: str, note: Note) -> bool:
    return evaluate(parse_policy(policy), note).accepted


def rotate_cosigner(cluster: PaperCluster, node: str = "node1") -> None:
    cluster.add("member", member_body(cluster, node, cosigner=vkey(new_cosigner(node))))


def test_what_was_signed_before_a_rotation_verifies_under_the_policies_of_then_and_of_now(cluster: PaperCluster) -> None:
    before = cluster.state.periods.now.policy()
    old = note_by(cluster, cluster.cosigner("node1"), cluster.cosigner("node2"))
    rotate_cosigner(cluster)
    new_log = signer("log-2")
    new_log = Ed25519Signer(CLUSTER, seed("log-2"))
    cluster.add("key", key_body(kind="log", name="log-2", key=vkey(new_log, ED25519)))
    now = cluster.state.periods.now.policy()
    assert accepted(before, old)
    assert accepted(now, old)
    new = note_by(cluster, new_cosigner("node1"), cluster.cosigner("node2"), log=new_log)
    assert accepted(now, new)
    assert not accepted(before, new)


def test_without_retired_keys_a_policy_accepts_only_those_in_force(cluster: PaperCluster) -> None:
    old = note_by(cluster, cluster.cosigner("node1"), cluster.cosigner("node2"))
    rotate_cosigner(cluster)
    assert not accepted(cluster.state.periods.now.policy(retired=False), old)


def test_an_old_and_a_new_key_of_one_member_count_once(cluster: PaperCluster) -> None:
    rotate_cosigner(cluster)
    twice = note_by(cluster, cluster.cosigner("node1"), new_cosigner("node1"))
    assert not accepted(cluster.state.periods.now.policy(), twice)


def test_a_removed_member_counts_in_its_own_period_only(cluster: PaperCluster) -> None:
    note = note_by(cluster, cluster.cosigner("node2"), cluster.cosigner("node3"))
    size = cluster.state.size
    cluster.add("member", member_body(cluster, "node3", "remove"))
    assert not accepted(cluster.state.periods.now.policy(), note)
    assert accepted(cluster.state.periods.at(size).policy(), note)
    assert cluster.state.periods.at(size + 1) is cluster.state.periods.now


def test_a_member_that_comes_back_does_not_bring_its_keys_of_before(cluster: PaperCluster) -> None:
    cluster.add("member", member_body(cluster, "node3", "remove"))
    cluster.add("member", member_body(cluster, "node3", cosigner=vkey(new_cosigner("node3"))))
    old = note_by(cluster, cluster.cosigner("node2"), cluster.cosigner("node3"))
    assert not accepted(cluster.state.periods.now.policy(), old)


def test_the_quorum_of_one_node_does_not_outlive_it() -> None:
    alone = PaperCluster(1).start()
    note = note_by(alone, alone.cosigner("node1"))
    for node in ("node2", "node3"):
        alone.add("member", member_body(alone, node))
        alone.nodes.append(node)
    assert not accepted(alone.state.periods.now.policy(), note)
    assert accepted(alone.state.periods.at(2).policy(), note)


def test_the_periods_follow_from_the_records_alone(cluster: PaperCluster) -> None:
    rotate_cosigner(cluster)
    cluster.add("operator", {"action": "x", "detail": ""})
    again = periods_of(cluster.records)
    assert again.all == cluster.state.periods.all
    assert [period.since for period in again.all] == [1, cluster.state.size - 1]
    assert again.now.members["node1"].identity == cluster.identity("node1").public
    assert b64encode(again.now.members["node1"].identity).decode() == b64(cluster.identity("node1").public)


@pytest.mark.parametrize(
    ("members", "genesis", "asked", "quorum"),
    [(1, 1, 1, 1), (3, 1, 1, 2), (3, 3, 2, 2), (2, 3, 3, 2), (5, 3, 3, 3), (4, 3, 3, 3), (5, 5, 4, 4)],
)
def test_a_quorum_is_a_majority_or_what_genesis_asked_for(members: int, genesis: int, asked: int, quorum: int) -> None:
    assert quorum_after(members, genesis, asked) == quorum
