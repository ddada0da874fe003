"""F04: a checkpoint that is forged, forked or truncated, or has too few or foreign cosignatures."""

from __future__ import annotations

import os
from base64 import b64encode
from typing import Any

import pytest

from tests.support.bundle_maker import edited
from witnz.core.bundle import parse_bundle
from witnz.core.checkpoint import Checkpoint, cosign, format_checkpoint
from witnz.core.keys import COSIGNATURE, Ed25519Signer, format_verifier_key, verifier_key
from witnz.core.note import Note, format_note, parse_note, sign_note
from witnz.core.policy import Policy, format_policy, parse_policy
from witnz.core.verdict import CheckStatus, Verdict
from witnz.node.cosigning import Forked
from witnz.node.evidence import Evidence
from witnz.node.node import now_us
from witnz.node.setup import policy_of
from witnz.verify.bundle import BundleResult, verify_bundle

TABLE = "public.ledger"


@pytest.fixture
def case(own_scene: Any) -> tuple[Any, bytes, Policy]:
    scene = own_scene({"name": TABLE, "mode": "append_only"})
    scene.node.seal_now()
    return scene, Evidence(scene.node.db, now_us).checkpoint_bundle(), parse_policy(policy_of(scene.node.data))


def refused(result: BundleResult) -> list[str]:
    return [check.name for check in result.checks if check.status is CheckStatus.FAIL]


def test_a_checkpoint_is_worth_what_its_signatures_are(case: tuple[Any, bytes, Policy]) -> None:
    scene, bundle, policy = case
    note = parse_bundle(bundle).head.note
    checkpoint = parse_bundle(bundle).head.checkpoint
    assert verify_bundle(bundle, policy).verdict is Verdict.VERIFIED

    log, cosigner = scene.node.keys.log, scene.node.keys.cosigner
    thief, stranger = Ed25519Signer(log.name, os.urandom(32)), Ed25519Signer(cosigner.name, os.urandom(32))
    forged_text = format_checkpoint(Checkpoint(checkpoint.origin, checkpoint.size, bytes(32)))

    def judged(text: str, *signatures: Any) -> BundleResult:
        return verify_bundle(edited(bundle, ("checkpoint",), format_note(Note(text, signatures))), policy)

    own_log, own_cosignature = note.signatures
    # another root under the signatures of the true one
    assert "checkpoint.signatures" in refused(judged(forged_text, *note.signatures))
    # the names are right, the keys are somebody else's
    foreign = judged(note.text, *sign_note(note.text, [thief]).signatures, cosign(note.text, stranger, 1))
    assert (foreign.verdict, refused(foreign)) == (Verdict.TAMPERED, ["checkpoint.signatures"])
    # the log's key without anybody who checked
    alone = judged(note.text, own_log)
    assert (alone.verdict, alone.exit_code, refused(alone)) == (Verdict.INCONCLUSIVE, 4, [])
    with_stranger = judged(note.text, own_log, cosign(note.text, stranger, 1))
    assert with_stranger.verdict is Verdict.INCONCLUSIVE
    # those who checked without the log
    assert judged(note.text, own_cosignature).verdict is Verdict.TAMPERED
    # a policy that asks for more than one
    other = Ed25519Signer(f"{checkpoint.origin}/nodes/node2", os.urandom(32))
    members = [("node1", scene.node.keys.cosigner_key), ("node2", _cosigner_key(other))]
    two = parse_policy(format_policy(scene.node.keys.log_key, members, 2))
    assert verify_bundle(bundle, two).verdict is Verdict.INCONCLUSIVE
    scene.assert_bystanders_verified(TABLE)


def _cosigner_key(signer: Ed25519Signer) -> str:
    return format_verifier_key(verifier_key(signer.name, COSIGNATURE, signer.public))


def test_a_truncated_checkpoint_does_not_cover_what_came_later(case: tuple[Any, bytes, Policy]) -> None:
    scene, bundle, policy = case
    older = parse_bundle(bundle).head
    scene.database.sql(f"INSERT INTO {TABLE} VALUES (100, 'user', 1, NULL, now())")
    scene.protected.caught_up()
    scene.node.seal_now()
    newer = Evidence(scene.node.db, now_us).checkpoint_bundle()
    assert verify_bundle(newer, policy).verdict is Verdict.VERIFIED
    cut = edited(newer, ("checkpoint",), format_note(older.note))
    result = verify_bundle(cut, policy)
    assert result.verdict is Verdict.TAMPERED
    assert any(name.startswith("records[") for name in refused(result))
    scene.assert_bystanders_verified(TABLE)


def test_a_fork_signed_with_the_clusters_own_keys_is_known_for_one(case: tuple[Any, bytes, Policy]) -> None:
    """Whoever has all keys can sign a second history; it contradicts the first wherever the two meet."""
    scene, bundle, policy = case
    head = parse_bundle(bundle).head
    text = format_checkpoint(Checkpoint(head.checkpoint.origin, head.checkpoint.size, b"\x01" * 32))
    keys = scene.node.keys
    fork = format_note(Note(text, (*sign_note(text, [keys.log]).signatures, cosign(text, keys.cosigner, 1))))
    with pytest.raises(Forked) as found:
        scene.node.cosigner.compare(parse_note(fork))
    assert found.value.size == head.checkpoint.size
    shown = edited(bundle, ("consistency",), [{"checkpoint": fork, "proof": []}])
    result = verify_bundle(shown, policy)
    assert (result.verdict, refused(result)) == (Verdict.TAMPERED, ["consistency[0].proof"])
    assert b64encode(head.checkpoint.root).decode() in head.note.text
    scene.assert_bystanders_verified(TABLE)
