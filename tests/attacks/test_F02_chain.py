"""F02: the anchoring transaction is reorganised away, replaced, or stands on another chain than it should."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from tests.support.anchored import anchor_now, bundle_of, with_receipts
from tests.support.anchors import Kept, publication
from tests.support.chains import address_of, evm_anchor
from tests.support.node import wait
from witnz.anchor.base import Published
from witnz.core.evm.receipt import check_evm_receipt
from witnz.core.policy import parse_policy
from witnz.core.trust import Trust, parse_trust
from witnz.core.verdict import CheckStatus, Verdict
from witnz.demo.chain import Anvil
from witnz.node.setup import policy_of
from witnz.verify.bundle import verify_bundle

TABLE = "public.ledger"


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Anvil]:
    with Anvil.start(tmp_path / "anvil.log") as chain:
        chain.mine(5)
        yield chain


def anchored_scene(own_scene: Any, chain: Anvil, confirmations: int) -> tuple[Any, str]:
    """A node that anchors to the chain, and its account's key."""
    key = secrets.token_hex(32)
    chain.fund(address_of(key))
    section = {"type": "evm", "rpc_url": chain.url, "chain_id": chain.chain_id, "key": key, "confirmations": confirmations}
    scene = own_scene({"name": TABLE, "mode": "append_only"}, anchors=[{**section, "every": "1h"}])
    return scene, key


def trust_in(chain: Anvil, key: str, *numbers: int, chain_id: int | None = None) -> Trust:
    """What somebody believes who asked this chain for these blocks."""
    chain_id = chain_id or chain.chain_id
    lines = [f"account {chain_id} {address_of(key)}"]
    for number in numbers:
        block = chain.call("eth_getBlockByNumber", hex(number), False)
        lines.append(f"block {chain_id} {number} {block['hash']}")
    return parse_trust("".join(f"{line}\n" for line in lines).encode())


def test_a_transaction_that_is_reorganised_away_after_its_receipt_is_a_finding_and_no_evidence(  # type: ignore[no-untyped-def]
    own_scene, chain: Anvil
) -> None:
    scene, key = anchored_scene(own_scene, chain, 0)
    receipt = anchor_now(scene, "evm")
    number = receipt.members["block_number"]
    chain.mine(2)
    kept, policy = bundle_of(scene), parse_policy(policy_of(scene.node.data))
    assert verify_bundle(kept, policy, trust=trust_in(chain, key, number)).verdict is Verdict.VERIFIED
    assert {looked.status for looked in scene.node.anchoring.check(everything=True)} == {CheckStatus.OK}

    chain.reorganise(3)
    assert {looked.status for looked in scene.node.anchoring.check(everything=True)} == {CheckStatus.FAIL}
    finding, *_ = wait(lambda: [f for f in scene.protected.findings() if f.cls == "anchor.missing"], "the finding")
    assert (finding.cls, finding.state) == ("anchor.missing", "open")
    assert f"evm {chain.chain_id} {receipt.members['from']}" in str(finding.key)
    result = verify_bundle(kept, policy, trust=trust_in(chain, key, number))
    assert result.exit_code == 3
    assert "the transaction is not in the chain" in next(c.detail for c in result.checks if c.status is CheckStatus.FAIL)
    assert verify_bundle(kept, policy, trust=trust_in(chain, key)).exit_code == 4, "without a block nothing is green"
    scene.assert_bystanders_verified()


def test_a_reorganisation_before_the_receipt_leaves_a_receipt_of_the_chain_as_it_is(own_scene, chain: Anvil) -> None:  # type: ignore[no-untyped-def]
    scene, key = anchored_scene(own_scene, chain, 3)
    scene.node.seal_now()
    assert scene.node.anchoring.now(["evm"], 0.0)[0]["status"] in ("waiting", "pending")
    wait(lambda: int(chain.call("eth_getTransactionCount", address_of(key), "latest"), 16) == 1, "the transaction")
    chain.mine(1)
    chain.reorganise(2)
    assert int(chain.call("eth_getTransactionCount", address_of(key), "latest"), 16) == 0

    def published() -> bool:
        chain.mine(1)
        scene.node.anchoring.lanes["evm"].ask()
        return bool(scene.node.anchoring.lanes["evm"].receipts())

    wait(published, "the receipt")
    lane = scene.node.anchoring.lanes["evm"]
    published_receipt = lane.receipt_of(lane.receipts()[-1])
    proof = check_evm_receipt(published_receipt.members)
    policy = parse_policy(policy_of(scene.node.data))
    trust = trust_in(chain, key, proof.block_number)
    shown = with_receipts(bundle_of(scene), [published_receipt])
    assert verify_bundle(shown, policy, trust=trust).verdict is Verdict.VERIFIED
    assert {looked.status for looked in scene.node.anchoring.check(everything=True)} == {CheckStatus.OK}
    scene.assert_bystanders_verified()


def test_a_transaction_replaced_by_whoever_has_the_key_is_published_again(own_scene, chain: Anvil) -> None:  # type: ignore[no-untyped-def]
    """The thief of the key takes the nonce with a transaction of his own; the checkpoint is anchored by the next one."""
    chain.call("evm_setAutomine", False)
    scene, key = anchored_scene(own_scene, chain, 0)
    scene.node.seal_now()
    scene.node.anchoring.now(["evm"], 0.0)
    pending = wait(lambda: next(iter(chain.call("txpool_content")["pending"].values()), None), "our transaction")
    (ours,) = pending.values()
    chain.call("anvil_dropTransaction", ours["hash"])
    thief = Account.from_key(bytes.fromhex(key))
    price = {"maxFeePerGas": 50 * 10**9, "maxPriorityFeePerGas": 10**9}
    fields = {"to": thief.address, "value": 0, "data": bytes(32), "gas": 30_000, "nonce": 0, "chainId": chain.chain_id}
    chain.call("eth_sendRawTransaction", thief.sign_transaction({**fields, **price}).raw_transaction.to_0x_hex())
    chain.mine(1)
    chain.call("evm_setAutomine", True)
    receipt = anchor_now(scene, "evm")
    assert receipt.members["tx"] != ours["hash"][2:]
    policy = parse_policy(policy_of(scene.node.data))
    trust = trust_in(chain, key, receipt.members["block_number"])
    assert verify_bundle(bundle_of(scene), policy, trust=trust).verdict is Verdict.VERIFIED
    scene.assert_bystanders_verified()


def test_a_transaction_on_another_chain_is_not_the_anchor_that_was_promised(own_scene, chain: Anvil, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The operator promised chain 1 and shows a transaction of a chain that he runs himself."""
    scene, key = anchored_scene(own_scene, chain, 0)
    receipt = anchor_now(scene, "evm")
    kept, policy = bundle_of(scene), parse_policy(policy_of(scene.node.data))
    promised = trust_in(chain, key, receipt.members["block_number"], chain_id=1)
    result = verify_bundle(kept, policy, trust=promised)
    assert result.exit_code == 3
    assert "on chain 31337 is no account that the trust file lists" in str([c.detail for c in result.checks])
    relabelled = with_receipts(kept, [{**receipt.members, "chain_id": 1}])
    assert verify_bundle(relabelled, policy, trust=promised).exit_code == 3
    with Anvil.start(tmp_path / "own.log", chain_id=1) as made_up:
        made_up.fund(address_of(key))
        anchor, memory = evm_anchor(made_up, key), Kept()
        anchor.publish(publication(), memory)
        answer = anchor.publish(publication(), memory)
        assert isinstance(answer, Published)
        looked_up = trust_in(chain, key, answer.receipt.members["block_number"], chain_id=1)
        forged = with_receipts(kept, [{**answer.receipt.members, "digest": receipt.digest.hex(), "size": receipt.size}])
        assert verify_bundle(forged, policy, trust=looked_up).exit_code == 3
    scene.assert_bystanders_verified()
