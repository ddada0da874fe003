"""F07: a well-formed forgery, re-hashed and re-signed by somebody without the keys; a genuine old receipt on a newer
checkpoint.
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.anchored import anchor_now, bundle_of, publication_of, with_receipts
from tests.support.chains import address_of
from witnz.core.bundle import build_bundle, format_bundle, parse_bundle
from witnz.core.checkpoint import Checkpoint, checkpoint_digest, cosign, format_checkpoint
from witnz.core.keys import Ed25519Signer
from witnz.core.merkle import inclusion_path, root_of
from witnz.core.note import format_note, sign_note
from witnz.core.policy import parse_policy
from witnz.core.record import Record, parse_record, record_leaf_hash
from witnz.core.trust import parse_trust
from witnz.core.verdict import CheckStatus, Verdict
from witnz.demo.chain import Anvil
from witnz.node.setup import policy_of
from witnz.store import journal
from witnz.verify.bundle import BundleResult, verify_bundle

TABLE = "public.ledger"
ROWS = (
    "SELECT g, 'late', g, NULL, '2026-02-01 00:00:00+00'::timestamptz + g * interval '1 hour'"
    " FROM generate_series({first}, {last}) g"
)


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Anvil]:
    with Anvil.start(tmp_path / "anvil.log") as chain:
        yield chain


def failed(result: BundleResult) -> list[str]:
    return [check.name for check in result.checks if check.status is CheckStatus.FAIL]


def rewritten(records: list[Record]) -> list[Record]:
    """The journal with the newest seal saying that a table log has another root: what a changed history needs."""
    place = max(number for number, record in enumerate(records) if record.type == "seal")
    head, *others = records[place].body["tables"]
    body = {**records[place].body, "tables": [{**head, "root": b64encode(bytes(32)).decode()}, *others]}
    return [*records[:place], replace(records[place], body=body, body_json=b""), *records[place + 1 :]]


def test_a_history_that_is_re_hashed_and_re_signed_lacks_the_keys(own_scene) -> None:  # type: ignore[no-untyped-def]
    scene = own_scene({"name": TABLE, "mode": "append_only"})
    genuine, policy = bundle_of(scene), parse_policy(policy_of(scene.node.data))
    assert verify_bundle(genuine, policy).verdict is Verdict.VERIFIED
    parsed = parse_bundle(genuine)
    with scene.node.db.read() as conn:
        leaves = [parse_record(leaf) for leaf in journal.records(conn)][: parsed.head.checkpoint.size]
    shown = {proven.record.seq for proven in parsed.records}
    forged = rewritten(leaves)
    hashes = [record_leaf_hash(record) for record in forged]
    text = format_checkpoint(Checkpoint(parsed.head.checkpoint.origin, len(forged), root_of(hashes)))

    def bundle(note: str) -> bytes:
        records = [(record, inclusion_path(hashes, place)) for place, record in enumerate(forged) if record.seq in shown]
        return build_bundle(
            checkpoint=note, records=records, policy=parsed.policy.text, created=parsed.created, tool=parsed.tool
        )

    own_key = Ed25519Signer(parsed.head.checkpoint.origin, secrets.token_bytes(32))
    cosigner = Ed25519Signer(f"{own_key.name}/nodes/node1", secrets.token_bytes(32))
    signed = sign_note(text, [own_key])
    with_own_keys = format_note(signed.with_signatures(cosign(text, cosigner, 1_795_284_600)))
    assert failed(verify_bundle(bundle(with_own_keys), policy)) == ["checkpoint.signatures"]
    with_old_signatures = format_note(replace(parsed.head.note, text=text))
    assert failed(verify_bundle(bundle(with_old_signatures), policy)) == ["checkpoint.signatures"]
    result = verify_bundle(bundle(format_note(parsed.head.note)), policy)
    assert result.exit_code == 3
    assert all(name.startswith("records[") for name in failed(result)) and failed(result)
    scene.assert_bystanders_verified()


def test_a_genuine_old_receipt_covers_only_what_it_covered(own_scene, chain: Anvil) -> None:  # type: ignore[no-untyped-def]
    key = secrets.token_hex(32)
    chain.fund(address_of(key))
    section = {"type": "evm", "rpc_url": chain.url, "chain_id": chain.chain_id, "key": key, "confirmations": 0, "every": "1h"}
    scene = own_scene({"name": TABLE, "mode": "append_only"}, anchors=[section])
    old = anchor_now(scene, "evm")
    at = f"block {chain.chain_id} {old.members['block_number']} {old.members['block_hash']}\n"
    trust = parse_trust((f"account {chain.chain_id} {address_of(key)}\n" + at).encode())
    scene.database.sql(f"INSERT INTO {TABLE} " + ROWS.format(first=20, last=24))
    scene.protected.caught_up()
    newer, policy = bundle_of(scene), parse_policy(policy_of(scene.node.data))
    parsed = parse_bundle(newer)
    assert parsed.head.checkpoint.size > old.size

    result = verify_bundle(newer, policy, trust=trust)
    assert result.verdict is Verdict.VERIFIED
    (covers,) = [check.detail for check in result.checks if check.name == "anchors[0]"]
    assert f"the checkpoint of size {old.size} and covers no record beyond it" in covers

    without_its_checkpoint = format_bundle(replace(parsed, consistency=()))
    assert failed(verify_bundle(without_its_checkpoint, policy, trust=trust)) == ["anchors[0]"]
    digest = publication_digest(newer)
    for changed in ({"size": parsed.head.checkpoint.size}, {"size": parsed.head.checkpoint.size, "digest": digest}):
        relabelled = with_receipts(newer, [{**old.members, **changed}])
        assert failed(verify_bundle(relabelled, policy, trust=trust)) in (["anchors[0]"], ["anchors[0].proof"])
    assert publication_of(newer, old).checkpoint.size == old.size
    scene.assert_bystanders_verified()


def publication_digest(bundle: bytes) -> str:
    """The digest of the bundle's own checkpoint, which nobody anchored."""
    return checkpoint_digest(parse_bundle(bundle).head.note.text).hex()
