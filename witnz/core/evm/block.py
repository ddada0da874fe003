"""Block headers, and block and transactions out of what a node's JSON-RPC says about them.

The hash of a block is the Keccak-256 of its header's RLP: a list of 15 strings, to which forks have appended further ones.  The
first fifteen have not moved since the first block; of those a verifier reads three: transactions root (4), number (8), time
(11).

A node's JSON is turned back into the bytes that are hashed, and is believed only where the hashes come out: the header must
hash to the block's hash, each transaction to its own, and their trie to the header's root.  A chain with header fields or
transaction types of its own so ends in a :class:`ProofError` that says which, never in a proof that does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from witnz.core.evm.keccak import keccak256
from witnz.core.evm.rlp import Encodable, as_bytes, as_integer, decode_list, encode
from witnz.errors import FormatError, ProofError

HEADER_INTEGERS: Final = frozenset(
    ("difficulty", "number", "gasLimit", "gasUsed", "timestamp", "baseFeePerGas", "blobGasUsed", "excessBlobGas")
)
HEADER_FIELDS: Final = (
    *("parentHash", "sha3Uncles", "miner", "stateRoot", "transactionsRoot", "receiptsRoot", "logsBloom", "difficulty"),
    *("number", "gasLimit", "gasUsed", "timestamp", "extraData", "mixHash", "nonce"),
    # London, Shanghai, Cancun, Prague
    *("baseFeePerGas", "withdrawalsRoot", "blobGasUsed", "excessBlobGas", "parentBeaconBlockRoot", "requestsHash"),
)


@dataclass(frozen=True, slots=True)
class Header:
    """What a verifier reads of a header; ``time_s`` is seconds since 1970 as the block's maker said."""

    hash: bytes
    transactions_root: bytes
    number: int
    time_s: int


def parse_header(data: bytes) -> Header:
    """The header of its RLP.  Raises FormatError for bytes that are no header."""
    fields = decode_list(data, "block header")
    if len(fields) < 15:
        raise FormatError(f"block header: expected at least 15 members, found {len(fields)}")
    for place, field in enumerate(fields):
        as_bytes(field, f"block header member {place}")
    return Header(
        hash=keccak256(data),
        transactions_root=as_bytes(fields[4], "transactions root", 32),
        number=as_integer(fields[8], "block number", 8),
        time_s=as_integer(fields[11], "block time", 8),
    )


def header_from_json(block: Mapping[str, Any]) -> bytes:
    """The header's RLP of an ``eth_getBlockBy…`` answer.  Raises ProofError where it does not hash to the block's hash."""
    fields: list[Encodable] = []
    for name in HEADER_FIELDS:
        if block.get(name) is not None:
            fields.append(_integer(block, name) if name in HEADER_INTEGERS else _bytes(block, name))
    header = encode(fields)
    if keccak256(header) != _bytes(block, "hash"):
        raise ProofError(
            f"block {block['hash']}: its {len(fields)} known header fields do not hash to its hash; this chain's headers differ"
        )
    return header


def transaction_from_json(transaction: Mapping[str, Any]) -> bytes:
    """The bytes of a transaction, types 0 to 4, out of its JSON.  Raises ProofError where they do not hash to its hash."""
    kind = _integer(transaction, "type") if transaction.get("type") is not None else 0
    body = _BODIES.get(kind)
    if body is None:
        raise ProofError(f"transaction {transaction.get('hash')}: type {kind:#x} is not known")
    raw = (bytes([kind]) if kind else b"") + encode(body(transaction))
    if keccak256(raw) != _bytes(transaction, "hash"):
        raise ProofError(f"transaction {transaction['hash']}: its fields do not hash to its hash")
    return raw


# -- JSON-RPC spelling: 0x-prefixed hexadecimal, quantities without leading zeros ----------------------------------------------


def _bytes(value: Mapping[str, Any], name: str) -> bytes:
    text = value.get(name)
    if not isinstance(text, str) or not text.startswith("0x"):
        raise FormatError(f"JSON-RPC: expected 0x and hex digits as {name}, found {str(text)[:60]!r}")
    try:
        return bytes.fromhex(text[2:])
    except ValueError:
        raise FormatError(f"JSON-RPC: expected whole bytes in hex as {name}, found {text[:60]!r}") from None


def _integer(value: Mapping[str, Any], name: str) -> int:
    text = value.get(name)
    try:
        if not isinstance(text, str) or not text.startswith("0x") or len(text) > 66:
            raise ValueError
        return int(text[2:], 16)
    except ValueError:
        raise FormatError(f"JSON-RPC: expected a quantity as {name}, found {str(text)[:60]!r}") from None


def _parity(value: Mapping[str, Any]) -> int:
    return _integer(value, "yParity" if value.get("yParity") is not None else "v")


def _head(value: Mapping[str, Any], *names: str) -> list[Encodable]:
    """The named quantities, then to, value and input."""
    to = _bytes(value, "to") if value.get("to") is not None else b""
    return [*(_integer(value, name) for name in names), to, _integer(value, "value"), _bytes(value, "input")]


def _access_list(value: Mapping[str, Any]) -> Encodable:
    entries = value.get("accessList") or []
    return [[_bytes(entry, "address"), [_bytes({"key": key}, "key") for key in entry["storageKeys"]]] for entry in entries]


def _signature(value: Mapping[str, Any]) -> list[Encodable]:
    return [_parity(value), _integer(value, "r"), _integer(value, "s")]


_FEES: Final = ("chainId", "nonce", "maxPriorityFeePerGas", "maxFeePerGas", "gas")


def _legacy(value: Mapping[str, Any]) -> Encodable:
    return [*_head(value, "nonce", "gasPrice", "gas"), *(_integer(value, name) for name in "vrs")]


def _access_listed(value: Mapping[str, Any]) -> Encodable:
    return [*_head(value, "chainId", "nonce", "gasPrice", "gas"), _access_list(value), *_signature(value)]


def _dynamic_fee(value: Mapping[str, Any]) -> Encodable:
    return [*_head(value, *_FEES), _access_list(value), *_signature(value)]


def _blob(value: Mapping[str, Any]) -> Encodable:
    hashes = [_bytes({"hash": entry}, "hash") for entry in value["blobVersionedHashes"]]
    return [*_head(value, *_FEES), _access_list(value), _integer(value, "maxFeePerBlobGas"), hashes, *_signature(value)]


def _set_code(value: Mapping[str, Any]) -> Encodable:
    authorizations = [
        [_integer(entry, "chainId"), _bytes(entry, "address"), _integer(entry, "nonce"), *_signature(entry)]
        for entry in value["authorizationList"]
    ]
    return [*_head(value, *_FEES), _access_list(value), authorizations, *_signature(value)]


_BODIES: Final[Mapping[int, Callable[[Mapping[str, Any]], Encodable]]] = {
    0: _legacy,
    1: _access_listed,
    2: _dynamic_fee,
    3: _blob,
    4: _set_code,
}
