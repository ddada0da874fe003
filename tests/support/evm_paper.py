"""A chain on paper: one block with our transaction among others, out of fixed seeds, and hands to spoil it.

Everything is signed by `eth-account` and re-encoded by `rlp`, which our own code is held against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from typing import Any

import rlp
from eth_account import Account

from witnz.core.evm.keccak import keccak256
from witnz.core.evm.receipt import evm_receipt_members
from witnz.core.evm.trie import root_and_proof

CHAIN_ID = 31337
BLOCK_NUMBER = 21_000_000
BLOCK_TIME_S = 1_795_284_600
KEY = sha256(b"witnz evm vectors").digest()
ACCOUNT = Account.from_key(KEY)
ADDRESS = bytes.fromhex(ACCOUNT.address[2:])
FEES: dict[int, dict[str, Any]] = {
    0: {"gasPrice": 3_000_000_000},
    1: {"gasPrice": 3_000_000_000, "accessList": [{"address": ACCOUNT.address, "storageKeys": ["0x" + "11" * 32]}]},
    2: {"maxFeePerGas": 3_000_000_000, "maxPriorityFeePerGas": 1_000_000_000},
}


def signed(data: bytes, *, kind: int = 2, key: bytes = KEY, **changed: Any) -> bytes:
    """A raw transaction of value 0 to oneself with this calldata."""
    account = Account.from_key(key)
    fields = {"nonce": 7, "to": account.address, "value": 0, "gas": 30_000, "chainId": CHAIN_ID, "data": data, **FEES[kind]}
    return bytes(
        account.sign_transaction({name: value for name, value in {**fields, **changed}.items() if value is not ...})[0]
    )


@cache
def others(count: int) -> tuple[bytes, ...]:
    """Transactions of other people, of three types."""
    return tuple(
        signed(sha256(b"other %d" % number).digest() * 3, kind=number % 3, key=sha256(b"somebody %d" % number).digest())
        for number in range(count)
    )


def header(transactions_root: bytes, **changed: Any) -> bytes:
    """A header of the 21 fields that blocks have had since 2025."""

    def some(name: str, size: int = 32) -> bytes:
        return sha256(name.encode()).digest()[:size]

    fields: dict[str, Any] = {
        "parent": some("parent"),
        "uncles": keccak256(rlp.encode([])),
        "miner": some("miner", 20),
        "state": some("state"),
        "transactions": transactions_root,
        "receipts": some("receipts"),
        "bloom": bytes(256),
        "difficulty": 0,
        "number": BLOCK_NUMBER,
        "gas_limit": 36_000_000,
        "gas_used": 12_345_678,
        "time": BLOCK_TIME_S,
        "extra": b"paper",
        "mix": some("mix"),
        "nonce": bytes(8),
        "base_fee": 1_000_000_000,
        "withdrawals": some("withdrawals"),
        "blob_gas": 131_072,
        "excess_blob_gas": 0,
        "beacon": some("beacon"),
        "requests": some("requests"),
        **changed,
    }
    return bytes(rlp.encode(list(fields.values())))


def block_of(transactions: Sequence[bytes], **changed: Any) -> bytes:
    """The header over these transactions."""
    return header(root_and_proof(transactions, 0)[0], **changed)


def receipt_for(digest: bytes, size: int) -> dict[str, Any]:
    """The receipt of a checkpoint: our transaction in the midst of forty others."""
    return {"type": "evm", "digest": digest.hex(), "size": size, **_members(digest)}


@cache
def _members(digest: bytes, around: int = 40) -> Mapping[str, Any]:
    transactions = list(others(around))
    place = around // 2
    transactions.insert(place, signed(digest))
    return evm_receipt_members(block_of(transactions), transactions, place)


def unchecked_receipt(digest: bytes, size: int, raw: bytes, **claimed: Any) -> dict[str, Any]:
    """A receipt around any bytes as the only transaction, its claims those of a good one where not given."""
    root, proof = root_and_proof([raw], 0)
    own = header(root)
    members: Mapping[str, Any] = {
        "chain_id": CHAIN_ID,
        "from": ADDRESS.hex(),
        "tx": keccak256(raw).hex(),
        "block_hash": keccak256(own).hex(),
        "block_number": BLOCK_NUMBER,
        "block_time": BLOCK_TIME_S,
        "header": own.hex(),
        "tx_index": 0,
        "proof": [node.hex() for node in proof],
        **claimed,
    }
    return {"type": "evm", "digest": digest.hex(), "size": size, **members}
