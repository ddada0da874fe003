"""Anchor ``evm``: the digest as calldata of a transaction of value 0 from an account to itself, on a public chain.

No contract is needed, and the sender's signature binds the account.  What is remembered, one JSON object, durable before
anything is sent:

    nonce       the account's nonce that is being used
    attempts    [{digest, raw, hash, max_fee, tip, height}]      all signed transactions with that nonce, newest last
    lost_at     the height at which the nonce was seen to be used by none of them, or null

1. An attempt is signed, remembered, and only then sent; after a crash the same bytes are sent again.
2. Whichever attempt is in the chain is looked for anew each time, so a reorganisation only means to go on waiting: what neither
   the chain nor the endpoint's pool knows any more is sent again, byte for byte.
3. What is not included after :data:`REPLACE_AFTER_BLOCKS` blocks, or carries another digest than the one wanted now, is
replaced
   under the same nonce by one that pays at least an eighth more.  So there is never more than one nonce open.
4. A nonce that something else used (another node with the same key, another program) is given up once that is as deep as a
   confirmation, and a new one begun.
5. With ``confirmations`` blocks on top, and the second endpoint naming the same block, the block is fetched, proven
   (:mod:`witnz.core.evm`) and the receipt made.  An endpoint's word is never enough.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from witnz.anchor.base import Look, Memory, Pending, Publication, Published, Surroundings, fail, ok, skip
from witnz.anchor.evm_rpc import Endpoint, Inclusion, Sent
from witnz.config import AnchorConfig
from witnz.config.types import Secret
from witnz.core.evm.receipt import check_evm_receipt, evm_receipt_members
from witnz.core.evm.transaction import format_address, parse_transaction
from witnz.core.finding import FindingClass
from witnz.core.receipt import Receipt, parse_receipt
from witnz.core.verdict import Check, CheckStatus
from witnz.errors import AnchorError, AnchorRefused, AnchorUnreachable, ConfigError, FormatError, ProofError

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

GWEI: Final = 10**9
REPLACE_AFTER_BLOCKS: Final = 10
BUMP: Final = (9, 8)
"""A replacement pays at least this much more; nodes ask for a tenth."""
MAX_GAS: Final = 2_000_000
"""Ethereum asks 22,280 for an anchor; chains on top of it count more, never this much."""
POLL_S: Final = 4.0


class EvmAnchor:
    """One account on one chain."""

    type = "evm"

    def __init__(self, config: AnchorConfig, surroundings: Surroundings) -> None:
        assert config.rpc_url is not None
        assert config.chain_id is not None
        self._config = config
        self._chain_id = config.chain_id
        self._endpoint = Endpoint(config.rpc_url.reveal(), config.timeout_s)
        second = config.second_rpc_url
        self._second = Endpoint(second.reveal(), config.timeout_s) if second is not None else None

    @property
    def place(self) -> str:
        return f"chain {self._chain_id} at {self._endpoint.host}"

    @cached_property
    def _account(self) -> LocalAccount:
        """The account of the configured key.  Raises AnchorRefused where there is none, or another than verifiers know."""
        try:
            account = load_account(self._config.key, self._config.key_password)
        except ConfigError as error:
            raise AnchorRefused(error.message, hint=error.hint) from None
        expected = self._config.address
        if expected is not None and expected.lower().removeprefix("0x") != account.address.lower()[2:]:
            raise AnchorRefused(
                f"anchors[].key is the key of {account.address}, expected that of {expected}",
                hint="verifiers know the account by its address: correct the key, or address and what verifiers were given",
            )
        return account

    @property
    def _address(self) -> str:
        return format_address(bytes.fromhex(self._account.address[2:]))

    def is_own(self, receipt: Receipt) -> bool:
        """Of this chain and account; of this chain, where whoever asks may not read the key."""
        if receipt.members["chain_id"] != self._chain_id:
            return False
        try:
            return bool(receipt.members["from"] == self._address[2:].lower())
        except AnchorRefused:
            return True

    # -- publishing -----------------------------------------------------------------------------------------------------------

    def publish(self, publication: Publication, memory: Memory) -> Published | Pending:
        """Anchor the digest, or go on with it; see the rules above."""
        self._check_chain(self._endpoint)
        state = dict(memory.load())
        if state.get("address") != self._account.address or state.get("chain_id") != self._chain_id:
            state = {"address": self._account.address, "chain_id": self._chain_id, "attempts": []}
        digest, height = publication.digest.hex(), self._endpoint.height()
        found = self._included(state["attempts"])
        if found is not None and found[0]["digest"] == digest:
            return self._settled(publication, found[1], height)
        if found is not None:
            if height < found[1].block_number + self._config.confirmations:
                return self._wait("the transaction of an earlier checkpoint is being confirmed")
            state["attempts"] = []
        elif state["attempts"] and (since := self._lost_since(state, memory, height)) is not None:
            if height < since + self._config.confirmations:
                return self._wait("the account's nonce was used by another transaction; waiting until that is certain")
            state["attempts"] = []
        return self._advance(state, memory, digest, height)

    def _check_chain(self, endpoint: Endpoint) -> None:
        if (found := endpoint.chain_id()) != self._chain_id:
            raise AnchorRefused(
                f"{endpoint.host} is an endpoint of chain {found}, expected chain {self._chain_id}",
                hint="correct anchors[].chain_id or the address of the endpoint",
            )

    def _included(self, attempts: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], Inclusion] | None:
        for attempt in reversed(attempts):
            if (found := self._endpoint.inclusion(bytes.fromhex(attempt["hash"]))) is not None:
                return attempt, found
        return None

    def _lost_since(self, state: dict[str, Any], memory: Memory, height: int) -> int | None:
        """Since which height the nonce is used by something that is no attempt of ours; None where it is not.  Remembered."""
        is_used = self._endpoint.nonce(self._account.address) > state["nonce"]
        since: int | None = state.get("lost_at")
        if is_used != (since is not None):
            since = height if is_used else None
            state["lost_at"] = since
            memory.save(state)
        return since

    def _advance(self, state: dict[str, Any], memory: Memory, digest: str, height: int) -> Pending:
        """Sign the first transaction, replace one that does not get through, or send the last one again."""
        attempts = state["attempts"]
        if not attempts:
            state = {**state, "nonce": self._endpoint.nonce(self._account.address), "lost_at": None}
        elif attempts[-1]["digest"] == digest and height < attempts[-1]["height"] + REPLACE_AFTER_BLOCKS:
            if not self._endpoint.is_known(bytes.fromhex(attempts[-1]["hash"])):
                return self._send(attempts[-1], "sent again: neither chain nor endpoint knew it any more")
            return self._wait("sent, and not in a block yet")
        attempt = self._signed(state["nonce"], digest, height, attempts[-1] if attempts else None)
        if isinstance(attempt, Pending):
            return attempt
        state["attempts"] = [*attempts, attempt]
        memory.save(state)
        return self._send(attempt, "replaced by one that pays more" if attempts else "sent")

    def _signed(self, nonce: int, digest: str, height: int, before: Mapping[str, Any] | None) -> Mapping[str, Any] | Pending:
        """A new attempt that pays what the next blocks ask and an eighth more than the one before; or why that must wait."""
        fees, cap = self._endpoint.fees(), self._config.max_fee_gwei * GWEI
        tip = min(fees.tip, self._config.max_priority_fee_gwei * GWEI)
        max_fee = min(2 * fees.base + tip, cap) if fees.base is not None else fees.tip
        least = fees.base + tip if fees.base is not None else fees.tip
        if before is not None:
            tip, max_fee = max(tip, _more(before["tip"])), max(max_fee, _more(before["max_fee"]))
        if least > cap or max_fee > cap:
            asked = max(least, max_fee) / GWEI
            return self._wait(f"a unit of gas costs {asked:.3f} gwei, more than max_fee_gwei ({self._config.max_fee_gwei})")
        data = bytes.fromhex(digest)
        gas = self._endpoint.gas_for(self._account.address, data) * 5 // 4
        if gas > MAX_GAS:
            raise AnchorRefused(f"{self._endpoint.host} asks {gas} gas for an anchor, more than any chain does")
        self._check_funds(gas * max_fee)
        price = {"gasPrice": max_fee} if fees.base is None else {"maxFeePerGas": max_fee, "maxPriorityFeePerGas": tip}
        fields: dict[str, Any] = {"to": self._account.address, "value": 0, "data": data, "gas": gas, "nonce": nonce}
        signed = self._account.sign_transaction({**fields, "chainId": self._chain_id, **price})
        raw = bytes(signed.raw_transaction)
        parsed = parse_transaction(raw)  # never send what our own verifier would refuse
        assert format_address(parsed.sender) == self._address
        return {
            "digest": digest,
            "raw": raw.hex(),
            "hash": parsed.hash.hex(),
            "max_fee": max_fee,
            "tip": tip,
            "height": height,
        }

    def _check_funds(self, needed: int) -> None:
        if (balance := self._endpoint.balance(self._account.address)) < needed:
            raise AnchorRefused(
                f"account {self._address} on chain {self._chain_id} has {balance / 10**18:.6f} and one anchor may need"
                f" {needed / 10**18:.6f}",
                hint=f"send funds to {self._address}",
            )

    def _send(self, attempt: Mapping[str, Any], done: str) -> Pending:
        outcome, said = self._endpoint.send(bytes.fromhex(attempt["raw"]))
        if outcome is Sent.NO_FUNDS:
            raise AnchorRefused(f"account {self._address}: {said}", hint=f"send funds to {self._address}")
        if outcome is Sent.ACCEPTED:
            return self._wait(f"{done}, not in a block yet", after_s=1.0)
        # Whatever the words, what counts is asked again: the transaction may be in the chain by now, or its nonce used.
        return self._wait(f"{outcome.value}: {said}")

    def _settled(self, publication: Publication, found: Inclusion, height: int) -> Published | Pending:
        """The receipt, once the block is deep enough and everybody asked agrees on it."""
        confirmations = max(height - found.block_number, 0)
        if confirmations < self._config.confirmations:
            return self._wait(f"in block {found.block_number}, {confirmations} of {self._config.confirmations} confirmations")
        for endpoint in (self._endpoint, *self._others()):
            self._check_chain(endpoint)
            named = endpoint.block_hash(found.block_number)
            if named != found.block_hash:
                shown = "no block" if named is None else f"0x{named.hex()}"
                return self._wait(
                    f"{endpoint.host} says that block {found.block_number} is {shown},"
                    f" {self._endpoint.host} said 0x{found.block_hash.hex()}; no receipt until they agree"
                )
        return Published(self._proven(publication, found))

    def _proven(self, publication: Publication, found: Inclusion) -> Receipt:
        """The receipt of what is in that block.  Raises AnchorUnreachable where the endpoint's block proves something else."""
        try:
            header, transactions = self._endpoint.block(found.block_hash)
            if found.index >= len(transactions):
                raise ProofError(f"block {found.block_number} has no transaction {found.index}")
            members = evm_receipt_members(header, transactions, found.index)
            own = {"type": "evm", "digest": publication.digest.hex(), "size": publication.checkpoint.size}
            receipt = parse_receipt({**own, **members})
            proof = check_evm_receipt(receipt.members)
        except (ProofError, FormatError) as error:
            raise AnchorUnreachable(
                f"{self._endpoint.host} gives a block that proves nothing: {error.message}",
                hint="ask another endpoint (rpc_url)",
            ) from None
        if (proof.block_hash, proof.chain_id, proof.sender.hex()) != (
            found.block_hash,
            self._chain_id,
            self._account.address[2:].lower(),
        ):
            raise AnchorUnreachable(f"{self._endpoint.host} gives another block than it named", hint="ask another endpoint")
        return receipt

    def _others(self) -> tuple[Endpoint, ...]:
        return (self._second,) if self._second is not None else ()

    def _wait(self, reason: str, after_s: float = POLL_S) -> Pending:
        return Pending(after_s, f"chain {self._chain_id}: {reason}")

    # -- looking --------------------------------------------------------------------------------------------------------------

    def look(self, receipt: Receipt) -> Sequence[Look]:
        """Whether the block of the receipt is the chain's, by every endpoint that is configured."""
        try:
            proof = check_evm_receipt(receipt.members)
        except ProofError as error:
            return [fail("proof", error.message, FindingClass.ANCHOR_ALTERED)]
        place = f"block {proof.block_number} of chain {proof.chain_id}"
        looks: list[Look] = []
        for number, endpoint in enumerate((self._endpoint, *self._others()), 1):
            name = f"chain-{number}" if self._second is not None else "chain"
            try:
                if (chain_id := endpoint.chain_id()) != proof.chain_id:
                    looks.append(skip(name, f"{endpoint.host} is an endpoint of chain {chain_id}, not of {proof.chain_id}"))
                    continue
                named = endpoint.block_hash(proof.block_number)
            except AnchorError as error:
                looks.append(skip(name, error.message))
                continue
            if named == proof.block_hash:
                looks.append(ok(name, f"{endpoint.host}: {place} is 0x{named.hex()}, the receipt's"))
            elif named is None:
                looks.append(skip(name, f"{endpoint.host} does not know {place}; it may not have caught up"))
            else:
                gone = f"{endpoint.host}: {place} is 0x{named.hex()}, not 0x{proof.block_hash.hex()}: the transaction is gone"
                looks.append(fail(name, gone, FindingClass.ANCHOR_MISSING))
        return looks

    def newest(self, origin: str, above: int) -> str | None:
        """A chain holds digests; which checkpoint one is of, it cannot say."""
        return None

    def rehearse(self) -> Sequence[Check]:
        """Everything up to the signature; nothing is sent."""
        checks: list[Check] = []
        try:
            for number, endpoint in enumerate((self._endpoint, *self._others()), 1):
                self._check_chain(endpoint)
                name = f"anchor.evm.endpoint{'' if number == 1 else '-2'}"
                checks.append(
                    Check(name, CheckStatus.OK, f"{endpoint.host}: chain {self._chain_id}, block {endpoint.height()}")
                )
            attempt = self._signed(self._endpoint.nonce(self._account.address), "ff" * 32, 0, None)
        except AnchorError as error:
            return [*checks, Check("anchor.evm", CheckStatus.FAIL, f"{error.message}. {error.hint}".strip())]
        if isinstance(attempt, Pending):
            return [*checks, Check("anchor.evm.fees", CheckStatus.SKIP, attempt.reason)]
        paid = f"account {self._address} can pay for an anchor at {attempt['max_fee'] / GWEI:.3f} gwei for a unit of gas"
        return [*checks, Check("anchor.evm.account", CheckStatus.OK, paid)]


class _Evm:
    """What the registry knows of the type."""

    type = "evm"
    about = "a public chain: nobody who does not rewrite the chain can undo or backdate it; provable offline"
    extra = "chain"
    latency = "the chain's time for a block and its confirmations: minutes"

    def open(self, config: AnchorConfig, surroundings: Surroundings) -> EvmAnchor:
        return EvmAnchor(config, surroundings)

    def implied(self, receipt: Receipt) -> AnchorConfig | None:
        """A receipt names a chain, not an endpoint."""
        return None

    def party(self, receipt: Receipt) -> str:
        members = receipt.members
        return f"those who could rewrite chain {members['chain_id']} from block {members['block_number']} on"


BACKEND: Final = _Evm()


def load_account(key: Secret | None, password: Secret | None) -> LocalAccount:
    """The account of a private key in hex digits, or of a keystore (JSON, version 3) with its password.

    Raises ConfigError where it is neither, or the password is not the keystore's; no message holds any of it.
    """
    from eth_account import Account

    text = key.reveal().strip() if key is not None else ""
    hint = "give anchors[].key (or key_file) a private key of 64 hex digits, or a keystore with its key_password"
    try:
        if not text.startswith("{"):
            if len(text.removeprefix("0x")) != 64:
                raise ConfigError("anchors[].key: expected a private key of 64 hex digits or a keystore", hint=hint)
            private = bytes.fromhex(text.removeprefix("0x"))
        elif password is None:
            raise ConfigError("anchors[].key is a keystore, and key_password is not given", hint=hint)
        else:
            private = bytes(Account.decrypt(json.loads(text), password.reveal()))
        account: LocalAccount = Account.from_key(private)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError("anchors[].key: no usable key, or key_password does not open the keystore", hint=hint) from None
    return account


def _more(fee: int) -> int:
    """What a replacement pays at least."""
    return fee * BUMP[0] // BUMP[1] + 1
