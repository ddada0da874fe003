"""The anchor evm on a real chain: receipts that anybody can check, and everything that goes wrong between signing and
finality.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from eth_account import Account

from tests.support.anchors import Kept, answering, publication
from tests.support.bundle_maker import PaperBundle
from tests.support.chains import Answer, address_of, evm_anchor, fresh_key, liar
from witnz.anchor.base import Pending, Published
from witnz.anchor.evm import BACKEND, EvmAnchor
from witnz.core.evm.receipt import check_evm_receipt
from witnz.core.evm.transaction import parse_transaction
from witnz.core.finding import FindingClass
from witnz.core.policy import parse_policy
from witnz.core.receipt import Receipt
from witnz.core.trust import parse_trust
from witnz.core.verdict import CheckStatus, Verdict
from witnz.demo.chain import Anvil
from witnz.errors import AnchorRefused, AnchorUnreachable
from witnz.verify.bundle import verify_bundle

PUBLICATION = publication()
OLDER = publication(3)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Anvil]:
    """A chain that makes a block of each transaction, for tests that leave it so."""
    with Anvil.start(tmp_path_factory.mktemp("chain") / "anvil.log") as chain:
        yield chain


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Anvil]:
    """A chain of the test's own, with some blocks, to do anything with."""
    with Anvil.start(tmp_path / "anvil.log") as chain:
        chain.mine(5)
        yield chain


@pytest.fixture
def chain(request: pytest.FixtureRequest) -> Anvil:
    """The test's own chain where it asks for one, else the shared one."""
    chain: Anvil = request.getfixturevalue("own" if "own" in request.fixturenames else "shared")
    return chain


@pytest.fixture
def key(chain: Anvil) -> str:
    return fresh_key(chain)


def publish(anchor: EvmAnchor, memory: Kept, chain: Anvil | None = None, *, of: Any = PUBLICATION, rounds: int = 40) -> Receipt:
    """Ask until there is a receipt, a block being made between two questions where ``chain`` is given."""
    reasons = []
    for _ in range(rounds):
        answer = anchor.publish(of, memory)
        if isinstance(answer, Published):
            return answer.receipt
        reasons.append(answer.reason)
        if chain is not None:
            chain.mine()
    pytest.fail(f"no receipt after {rounds} rounds: {reasons[-5:]}")


def waiting(answer: Published | Pending) -> str:
    assert isinstance(answer, Pending), answer
    assert answer.retry_after_s > 0
    return answer.reason


def sent(chain: Anvil, key: str) -> int:
    """How many transactions of the account are in the chain."""
    return int(chain.call("eth_getTransactionCount", address_of(key), "latest"), 16)


# -- what is published ---------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_anchored_and_anybody_can_check_it_offline(chain: Anvil, key: str) -> None:
    receipt = publish(evm_anchor(chain, key), Kept())
    assert (receipt.digest, receipt.size) == (PUBLICATION.digest, PUBLICATION.checkpoint.size)
    in_chain = chain.call("eth_getTransactionByHash", "0x" + receipt.members["tx"])
    assert (in_chain["input"], in_chain["value"]) == (f"0x{PUBLICATION.digest.hex()}", "0x0")
    assert in_chain["from"] == in_chain["to"] == address_of(key).lower()
    paper = PaperBundle()
    data = paper.build(anchors=[dict(receipt.members)])
    block = f"block {chain.chain_id} {receipt.members['block_number']} {receipt.members['block_hash']}\n"
    account = f"account {chain.chain_id} {address_of(key)}\n"
    policy = parse_policy(paper.parts["policy"])
    assert verify_bundle(data, policy, trust=parse_trust((account + block).encode())).verdict is Verdict.VERIFIED
    assert verify_bundle(data, policy, trust=parse_trust(account.encode())).verdict is Verdict.INCONCLUSIVE
    foreign = f"account {chain.chain_id} {'11' * 20}\n"
    assert verify_bundle(data, policy, trust=parse_trust((foreign + block).encode())).verdict is Verdict.TAMPERED


def test_an_anchor_uses_the_least_gas_that_the_chain_asks(chain: Anvil, key: str) -> None:
    receipt = publish(evm_anchor(chain, key), Kept())
    found = chain.call("eth_getTransactionReceipt", "0x" + receipt.members["tx"])
    zeros = PUBLICATION.digest.count(0)
    assert int(found["gasUsed"], 16) == 21_000 + 40 * (32 - zeros) + 10 * zeros


@pytest.mark.parametrize("around", [0, 1, 36])
@pytest.mark.usefixtures("own")
def test_the_proof_holds_in_blocks_of_any_size_with_transactions_of_every_type(chain: Anvil, key: str, around: int) -> None:
    chain.call("evm_setAutomine", False)
    memory, anchor = Kept(), evm_anchor(chain, key, max_priority_fee_gwei=1)
    others = Account.from_key(bytes.fromhex(fresh_key(chain, 10**20)))
    base = int(chain.call("eth_getBlockByNumber", "latest", False)["baseFeePerGas"], 16)
    for nonce in range(around):
        raw = other_transaction(others, chain.chain_id, nonce, 3 * base + 10**9)
        chain.call("eth_sendRawTransaction", raw)
        if nonce == around // 2:
            assert "not in a block yet" in waiting(anchor.publish(PUBLICATION, memory))
    receipt = publish(anchor, memory, chain)
    proof = check_evm_receipt(receipt.members)
    assert proof.sender.hex() == address_of(key)[2:].lower()
    block = chain.call("eth_getBlockByHash", "0x" + receipt.members["block_hash"], True)
    assert len(block["transactions"]) == around + 1
    if around > 20:
        assert {one["type"] for one in block["transactions"]} == {"0x0", "0x1", "0x2", "0x4"}
        assert receipt.members["tx_index"] > 0


def other_transaction(account: Any, chain_id: int, nonce: int, price: int) -> str:
    fields: dict[str, Any] = {"nonce": nonce, "to": account.address, "value": 0, "gas": 120_000, "chainId": chain_id}
    fields["data"] = sha256(b"%d" % nonce).digest() * (nonce % 7)
    listed = [{"address": account.address, "storageKeys": ["0x" + "11" * 32]}]
    dynamic = {"maxFeePerGas": price, "maxPriorityFeePerGas": 10**9}
    match nonce % 4:
        case 0:
            fields |= {"gasPrice": price}
        case 1:
            fields |= {"gasPrice": price, "accessList": listed}
        case 2:
            fields |= dynamic
        case _:
            authorization = {"chainId": chain_id, "address": account.address, "nonce": 10**6}
            fields |= {**dynamic, "type": 4, "authorizationList": [account.sign_authorization(authorization)]}
    return str(account.sign_transaction(fields).raw_transaction.to_0x_hex())


@pytest.mark.usefixtures("own")
def test_confirmations_are_awaited(chain: Anvil, key: str) -> None:
    anchor, memory = evm_anchor(chain, key, confirmations=3), Kept()
    anchor.publish(PUBLICATION, memory)
    for seen in range(3):
        assert f"{seen} of 3 confirmations" in waiting(anchor.publish(PUBLICATION, memory))
        chain.mine()
    assert isinstance(anchor.publish(PUBLICATION, memory), Published)


def test_the_same_publication_again_is_the_same_transaction(chain: Anvil, key: str) -> None:
    """A crash after the receipt was made and before it was journalled."""
    memory = Kept()
    first = publish(evm_anchor(chain, key), memory)
    chain.mine(3)
    assert publish(evm_anchor(chain, key), memory) == first
    assert sent(chain, key) == 1


def test_one_checkpoint_after_another(chain: Anvil, key: str) -> None:
    anchor, memory = evm_anchor(chain, key), Kept()
    older = publish(anchor, memory, of=OLDER)
    newer = publish(anchor, memory)
    assert (older.size, newer.size) == (3, 9)
    assert older.members["tx"] != newer.members["tx"]
    assert sent(chain, key) == 2
    assert anchor.is_own(newer)
    assert not evm_anchor(chain, fresh_key(chain)).is_own(newer)


# -- what is durable -----------------------------------------------------------------------------------------------------------


class Crash(Exception):
    """The process ended here."""


def test_the_signed_transaction_is_remembered_before_it_is_sent(chain: Anvil, key: str) -> None:
    kept = Kept()

    def die(method: str, params: list[Any], answer: Answer) -> Answer:
        if method == "eth_sendRawTransaction":
            raise Crash
        return answer

    with liar(chain, die) as url:
        anchor = evm_anchor(chain, key, rpc_url=url, timeout="2s")
        with pytest.raises(AnchorUnreachable):
            anchor.publish(PUBLICATION, kept)
    remembered = parse_transaction(bytes.fromhex(kept.document["attempts"][0]["raw"]))
    assert remembered.data == PUBLICATION.digest
    receipt = publish(evm_anchor(chain, key), kept)
    assert receipt.members["tx"] == remembered.hash.hex()
    assert sent(chain, key) == 1


def test_a_transaction_that_was_sent_and_never_answered_is_not_sent_as_another(chain: Anvil, key: str) -> None:
    kept = Kept()

    def swallow(method: str, params: list[Any], answer: Answer) -> Answer:
        if method == "eth_sendRawTransaction":
            return {"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": "the backend timed out"}}
        return answer

    with liar(chain, swallow) as url:
        reason = waiting(evm_anchor(chain, key, rpc_url=url).publish(PUBLICATION, kept))
    assert "the backend timed out" in reason
    publish(evm_anchor(chain, key), kept)
    assert sent(chain, key) == 1


@pytest.mark.usefixtures("own")
def test_a_transaction_that_the_pool_dropped_is_sent_again_byte_for_byte(chain: Anvil, key: str) -> None:
    chain.call("evm_setAutomine", False)
    anchor, memory = evm_anchor(chain, key), Kept()
    anchor.publish(PUBLICATION, memory)
    first = memory.document["attempts"][0]["hash"]
    chain.call("anvil_dropTransaction", f"0x{first}")
    assert "sent again" in waiting(anchor.publish(PUBLICATION, memory))
    assert publish(anchor, memory, chain).members["tx"] == first


# -- reorganisations, replacements, strangers ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("own")
def test_a_reorganisation_before_finality_only_means_to_wait_on(chain: Anvil, key: str) -> None:
    anchor, memory = evm_anchor(chain, key, confirmations=6), Kept()
    anchor.publish(PUBLICATION, memory)
    chain.mine(2)
    assert "2 of 6 confirmations" in waiting(anchor.publish(PUBLICATION, memory))
    first = memory.document["attempts"][0]["hash"]
    old_block = chain.call("eth_getTransactionReceipt", f"0x{first}")["blockHash"]
    chain.reorganise(3)
    assert chain.call("eth_getTransactionReceipt", f"0x{first}") is None
    assert "sent again" in waiting(anchor.publish(PUBLICATION, memory))
    receipt = publish(anchor, memory, chain)
    assert receipt.members["tx"] == first
    assert "0x" + receipt.members["block_hash"] != old_block
    assert sent(chain, key) == 1


@pytest.mark.usefixtures("own")
def test_a_reorganisation_after_the_receipt_is_found_by_looking(chain: Anvil, key: str) -> None:
    anchor, memory = evm_anchor(chain, key), Kept()
    receipt = publish(anchor, memory)
    chain.mine(2)
    assert [look.check.status for look in anchor.look(receipt)] == [CheckStatus.OK]
    chain.reorganise(3)
    chain.mine(4)
    (gone,) = anchor.look(receipt)
    assert (gone.check.status, gone.finding) == (CheckStatus.FAIL, FindingClass.ANCHOR_MISSING)
    assert f"block {receipt.members['block_number']} of chain 31337" in gone.check.detail
    again = publish(anchor, memory, chain)
    assert [look.check.status for look in anchor.look(again)] == [CheckStatus.OK]


@pytest.mark.usefixtures("own")
def test_a_transaction_that_pays_too_little_is_replaced_under_its_nonce(chain: Anvil, key: str) -> None:
    chain.call("evm_setAutomine", False)
    anchor, memory = evm_anchor(chain, key), Kept()
    anchor.publish(PUBLICATION, memory)
    first = memory.document["attempts"][0]
    for _ in range(10):  # blocks that ask more than it pays
        chain.call("anvil_setNextBlockBaseFeePerGas", hex(first["max_fee"] + 10**9))
        chain.call("evm_mine")
    assert "replaced by one that pays more" in waiting(anchor.publish(PUBLICATION, memory))
    second = memory.document["attempts"][1]
    assert second["max_fee"] >= first["max_fee"] * 9 // 8
    assert second["tip"] >= first["tip"] * 9 // 8
    receipt = publish(anchor, memory, chain)
    assert receipt.members["tx"] == second["hash"]
    assert sent(chain, key) == 1


@pytest.mark.usefixtures("own")
def test_whichever_attempt_is_in_the_chain_counts(chain: Anvil, key: str) -> None:
    """The first one is put into a block by somebody after the second was signed."""
    chain.call("evm_setAutomine", False)
    anchor, memory = evm_anchor(chain, key), Kept()
    anchor.publish(PUBLICATION, memory)
    first = memory.document["attempts"][0]
    for _ in range(10):
        chain.call("anvil_setNextBlockBaseFeePerGas", hex(first["max_fee"] + 10**9))
        chain.call("evm_mine")
    anchor.publish(PUBLICATION, memory)
    second = memory.document["attempts"][1]
    chain.call("anvil_dropTransaction", f"0x{second['hash']}")
    chain.call("anvil_setNextBlockBaseFeePerGas", hex(10**9))
    chain.call("eth_sendRawTransaction", f"0x{first['raw']}")
    chain.call("evm_mine")
    assert publish(anchor, memory).members["tx"] == first["hash"]


@pytest.mark.usefixtures("own")
def test_a_newer_checkpoint_takes_the_nonce_of_one_that_waits(chain: Anvil, key: str) -> None:
    chain.call("evm_setAutomine", False)
    anchor, memory = evm_anchor(chain, key), Kept()
    anchor.publish(OLDER, memory)
    assert "replaced" in waiting(anchor.publish(PUBLICATION, memory))
    assert {attempt["digest"] for attempt in memory.document["attempts"]} == {OLDER.digest.hex(), PUBLICATION.digest.hex()}
    assert publish(anchor, memory, chain).digest == PUBLICATION.digest
    assert sent(chain, key) == 1


@pytest.mark.usefixtures("own")
def test_a_nonce_that_a_stranger_used_is_given_up_when_that_is_certain(chain: Anvil, key: str) -> None:
    """Another node with the same key, whose transaction was taken instead of ours."""
    chain.call("evm_setAutomine", False)
    anchor, memory = evm_anchor(chain, key, confirmations=2), Kept()
    anchor.publish(OLDER, memory)
    chain.call("anvil_dropTransaction", f"0x{memory.document['attempts'][0]['hash']}")
    other = evm_anchor(chain, key, confirmations=2)
    other.publish(PUBLICATION, theirs := Kept())
    chain.mine()
    assert "nonce was used by another transaction" in waiting(anchor.publish(OLDER, memory))
    chain.mine(2)
    assert publish(anchor, memory, chain, of=OLDER).size == 3
    assert publish(other, theirs, chain).size == 9
    assert sent(chain, key) == 2


# -- money ---------------------------------------------------------------------------------------------------------------------


def test_an_account_without_funds_is_refused_with_its_address(chain: Anvil) -> None:
    key, memory = fresh_key(chain, 0), Kept()
    with pytest.raises(AnchorRefused, match="one anchor may need") as refused:
        evm_anchor(chain, key).publish(PUBLICATION, memory)
    assert refused.value.hint == f"send funds to {address_of(key)}"
    assert "attempts" not in memory.document
    chain.fund(address_of(key))
    assert publish(evm_anchor(chain, key), memory).size == 9


@pytest.mark.usefixtures("own")
def test_what_costs_more_than_the_cap_waits(chain: Anvil, key: str) -> None:
    anchor, memory = evm_anchor(chain, key, max_fee_gwei=5), Kept()
    chain.call("anvil_setNextBlockBaseFeePerGas", hex(50 * 10**9))
    chain.mine()
    assert "more than max_fee_gwei (5)" in waiting(anchor.publish(PUBLICATION, memory))
    assert memory.document == {}
    chain.call("anvil_setNextBlockBaseFeePerGas", hex(10**9))
    chain.mine()
    receipt = publish(anchor, memory)
    paid = chain.call("eth_getTransactionByHash", "0x" + receipt.members["tx"])
    assert int(paid["maxFeePerGas"], 16) <= 5 * 10**9


# -- endpoints that are not what they should be --------------------------------------------------------------------------------


def test_another_chain_is_refused(chain: Anvil, key: str) -> None:
    with pytest.raises(AnchorRefused, match="endpoint of chain 31337, expected chain 1"):
        evm_anchor(chain, key, chain_id=1).publish(PUBLICATION, Kept())


@pytest.mark.usefixtures("own")
def test_nobody_there_is_unreachable_and_says_nothing_of_the_path(chain: Anvil, key: str) -> None:
    chain.stop()
    with pytest.raises(AnchorUnreachable, match="cannot be reached") as unreachable:
        evm_anchor(chain, key, rpc_url=f"{chain.url}/v3/secret-token").publish(PUBLICATION, Kept())
    assert "secret-token" not in str(unreachable.value)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, AnchorRefused),
        (403, AnchorRefused),
        (302, AnchorRefused),
        (429, AnchorUnreachable),
        (503, AnchorUnreachable),
        (404, AnchorRefused),
    ],
)
def test_what_http_says_decides_whether_it_is_tried_again(chain: Anvil, key: str, status: int, error: type[Exception]) -> None:
    with answering(status, "error") as url, pytest.raises(error):
        evm_anchor(chain, key, rpc_url=url).publish(PUBLICATION, Kept())


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"result": None},
        {"result": "1"},
        {"result": 31337},
        {"result": "0x" + "f" * 80},
        {"error": {"code": 1}},
        {"error": "no"},
    ],
)
def test_answers_of_another_form_are_no_answers(chain: Anvil, key: str, answer: Answer) -> None:
    def instead(method: str, params: list[Any], true: Answer) -> Answer:
        return {"jsonrpc": "2.0", "id": 1, **answer}

    with liar(chain, instead) as url, pytest.raises(AnchorUnreachable):
        evm_anchor(chain, key, rpc_url=url).publish(PUBLICATION, Kept())


@pytest.mark.parametrize("member", ["stateRoot", "transactionsRoot", "timestamp", "extraData", "transactions"])
def test_a_block_that_was_altered_on_the_way_gives_no_receipt(chain: Anvil, key: str, member: str) -> None:
    def altered(method: str, params: list[Any], answer: Answer) -> Answer:
        if method == "eth_getBlockByHash":
            old = answer["result"][member]
            answer["result"][member] = [] if member == "transactions" else "0x" + ("ab" * 32 if len(old) > 20 else "1234")
        return answer

    memory = Kept()
    with liar(chain, altered) as url:
        anchor = evm_anchor(chain, key, rpc_url=url)
        anchor.publish(PUBLICATION, memory)
        with pytest.raises(AnchorUnreachable, match="gives a block that proves nothing"):
            anchor.publish(PUBLICATION, memory)
    assert publish(evm_anchor(chain, key), memory).size == 9


@pytest.mark.usefixtures("own")
def test_a_second_endpoint_that_knows_another_block_stops_the_receipt(chain: Anvil, key: str, tmp_path: Path) -> None:
    """The first one shows a transaction in a block of its own making; the second one is honest."""
    with Anvil.start(tmp_path / "made-up.log") as made_up:
        made_up.fund(address_of(key))
        chain.mine(3)
        anchor, memory = evm_anchor(made_up, key, second_rpc_url=chain.url), Kept()
        anchor.publish(PUBLICATION, memory)
        reason = waiting(anchor.publish(PUBLICATION, memory))
        assert "no receipt until they agree" in reason
        assert chain.url in reason
        receipt = publish(evm_anchor(made_up, key), memory)
        looks = anchor.look(receipt)
        assert [look.check.status for look in looks] == [CheckStatus.OK, CheckStatus.FAIL]
    assert publish(evm_anchor(chain, key, second_rpc_url=chain.url), Kept()).size == 9


@pytest.mark.usefixtures("own")
def test_looking_is_inconclusive_where_nobody_can_say(chain: Anvil, key: str, tmp_path: Path) -> None:
    anchor = evm_anchor(chain, key)
    receipt = publish(anchor, Kept())
    with Anvil.start(tmp_path / "other.log", chain_id=5) as other:
        (look,) = evm_anchor(other, key).look(receipt)
        assert (look.check.status, look.finding) == (CheckStatus.SKIP, None)
        assert "an endpoint of chain 5, not of 31337" in look.check.detail
    with Anvil.start(tmp_path / "behind.log") as behind:
        (look,) = evm_anchor(behind, key).look(receipt)
        assert look.check.status is CheckStatus.SKIP
        assert "may not have caught up" in look.check.detail
    chain.stop()
    (look,) = anchor.look(receipt)
    assert (look.check.status, look.finding) == (CheckStatus.SKIP, None)


def test_a_receipt_that_proves_nothing_is_found_by_looking(chain: Anvil, key: str) -> None:
    anchor = evm_anchor(chain, key)
    receipt = publish(anchor, Kept())
    altered = Receipt("evm", receipt.digest, receipt.size, {**receipt.members, "tx_index": 5})
    (look,) = anchor.look(altered)
    assert (look.check.status, look.finding) == (CheckStatus.FAIL, FindingClass.ANCHOR_ALTERED)


# -- keys ----------------------------------------------------------------------------------------------------------------------


def test_a_keystore_is_opened_with_its_password(chain: Anvil) -> None:
    key = fresh_key(chain)
    store = json.dumps(Account.encrypt(bytes.fromhex(key), "correct horse", kdf="pbkdf2", iterations=10))
    receipt = publish(evm_anchor(chain, store, key_password="correct horse"), Kept())
    assert receipt.members["from"] == address_of(key)[2:].lower()
    for wrong in ({"key_password": "wrong"}, {}):
        with pytest.raises(AnchorRefused) as refused:
            evm_anchor(chain, store, **wrong).publish(PUBLICATION, Kept())
        assert "horse" not in str(refused.value) + refused.value.hint


@pytest.mark.parametrize("key", ["", "0x12", "zz" * 32, "00" * 32, "ff" * 32, "{}", "{"])
def test_what_is_no_key_is_refused_without_being_shown(chain: Anvil, key: str) -> None:
    with pytest.raises(AnchorRefused) as refused:
        evm_anchor(chain, key, key_password="x").publish(PUBLICATION, Kept())
    assert key == "" or key not in str(refused.value)


def test_a_key_of_another_address_than_verifiers_know_is_refused(chain: Anvil, key: str) -> None:
    assert publish(evm_anchor(chain, key, address=address_of(key).lower()), Kept()).size == 9
    with pytest.raises(AnchorRefused, match="expected that of 0x1111"):
        evm_anchor(chain, key, address="0x" + "11" * 20).publish(PUBLICATION, Kept())


# -- the rehearsal -------------------------------------------------------------------------------------------------------------


def test_the_rehearsal_goes_up_to_the_signature_and_sends_nothing(chain: Anvil, key: str) -> None:
    checks = evm_anchor(chain, key, second_rpc_url=chain.url).rehearse()
    assert [check.status for check in checks] == [CheckStatus.OK] * 3
    assert address_of(key) in checks[-1].detail
    assert sent(chain, key) == 0
    poor = evm_anchor(chain, fresh_key(chain, 0)).rehearse()
    assert poor[-1].status is CheckStatus.FAIL
    assert "send funds to" in poor[-1].detail
    dear = evm_anchor(chain, key, max_fee_gwei=1).rehearse()
    assert dear[-1].status is CheckStatus.SKIP
    assert evm_anchor(chain, key, chain_id=7).rehearse()[-1].status is CheckStatus.FAIL


def test_what_the_registry_says_of_it(chain: Anvil, key: str) -> None:
    anchor = evm_anchor(chain, key, rpc_url=f"{chain.url}/secret")
    assert anchor.place == f"chain 31337 at {chain.url}"
    receipt = publish(evm_anchor(chain, key), Kept())
    assert BACKEND.party(receipt) == f"those who could rewrite chain 31337 from block {receipt.members['block_number']} on"
    assert anchor.newest("vectors.example/app", 0) is None
    assert BACKEND.implied(receipt) is None
    assert httpx.get(chain.url, trust_env=False).status_code != 0
