"""The ``evm`` receipt (formats.md 7): made from a block, and checked offline by anybody.

    chain_id from tx block_hash block_number block_time header tx_index proof

What the receipt proves by itself: a transaction with this calldata, signed by the key of this address for this chain, is in the
block with this hash, number and time.  What it cannot say: that this block is one of the chain's.  Who verifies brings that,
and brings chain and address, from elsewhere (:mod:`witnz.core.anchor_trust`); ``chain_id`` and ``from`` in the receipt are only
compared with what the signature says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from witnz.core.evm.block import parse_header
from witnz.core.evm.transaction import parse_transaction
from witnz.core.evm.trie import root_and_proof, transaction_key, value_in
from witnz.core.timestamp import format_time, parse_time
from witnz.errors import FormatError, ProofError

_MICROSECONDS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class EvmProof:
    """What an ``evm`` receipt proves; ``time_s`` is seconds since 1970, as the block's maker said."""

    chain_id: int
    sender: bytes
    transaction: bytes
    block_hash: bytes
    block_number: int
    time_s: int


def check_evm_receipt(receipt: Mapping[str, Any]) -> EvmProof:
    """What the receipt, whose grammar holds, proves.

    Raises :class:`ProofError` where any part does not fit: header and hash, proof and root, signature, sender, recipient,
    value, calldata and digest, or a number that the receipt says and its header does not.
    """
    try:
        header = parse_header(bytes.fromhex(receipt["header"]))
        _same("block_hash", receipt["block_hash"], header.hash.hex())
        _same("block_number", receipt["block_number"], header.number)
        _same("block_time", _in_microseconds(receipt["block_time"]), header.time_s * _MICROSECONDS)
        proof = [bytes.fromhex(node) for node in receipt["proof"]]
        raw = value_in(header.transactions_root, transaction_key(receipt["tx_index"]), proof)
        transaction = parse_transaction(raw)
    except FormatError as error:
        raise ProofError(error.message) from None
    _same("tx", receipt["tx"], transaction.hash.hex())
    _same("chain_id", receipt["chain_id"], transaction.chain_id)
    _same("from", receipt["from"], transaction.sender.hex())
    if transaction.to != transaction.sender or transaction.value:
        raise ProofError("the transaction is not one of value 0 from its sender to itself")
    if transaction.data.hex() != receipt["digest"]:
        raise ProofError(f"the transaction's calldata is {transaction.data.hex()[:64] or 'empty'}, not the digest")
    return EvmProof(transaction.chain_id, transaction.sender, transaction.hash, header.hash, header.number, header.time_s)


def evm_receipt_members(header: bytes, transactions: Sequence[bytes], index: int) -> dict[str, Any]:
    """The members of an ``evm`` receipt besides type, digest and size, for the transaction at ``index`` of a block.

    ``header``: its RLP; ``transactions``: all of the block's, as they are hashed.  Raises ProofError where they are not those
    of the header, and what :func:`witnz.core.evm.transaction.parse_transaction` raises.
    """
    parsed = parse_header(header)
    root, proof = root_and_proof(transactions, index)
    if root != parsed.transactions_root:
        raise ProofError(f"block {parsed.hash.hex()}: its {len(transactions)} transactions are not those of its header")
    transaction = parse_transaction(transactions[index])
    return {
        "chain_id": transaction.chain_id,
        "from": transaction.sender.hex(),
        "tx": transaction.hash.hex(),
        "block_hash": parsed.hash.hex(),
        "block_number": parsed.number,
        "block_time": format_time(parsed.time_s * _MICROSECONDS),
        "header": header.hex(),
        "tx_index": index,
        "proof": [node.hex() for node in proof],
    }


def _in_microseconds(block_time: int | str) -> int:
    """The receipt's time in µs since 1970: it may stand there in seconds, or in the spelling of times."""
    return block_time * _MICROSECONDS if isinstance(block_time, int) else parse_time(block_time)


def _same(name: str, claimed: object, proven: object) -> None:
    if claimed != proven:
        raise ProofError(f"the receipt says {name} {str(claimed)[:70]}, its proof {str(proven)[:70]}")
