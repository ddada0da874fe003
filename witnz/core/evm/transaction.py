"""Signed transactions: reading those an anchor can be made of, and recovering who signed.

    type 0 (legacy)   rlp([nonce, gasPrice, gas, to, value, data, v, r, s])          v = 35 + 2 chainId + parity (EIP-155)
    type 1 (EIP-2930) 0x01 || rlp([chainId, nonce, gasPrice, gas, to, value, data, accessList, parity, r, s])
    type 2 (EIP-1559) 0x02 || rlp([chainId, nonce, maxPriorityFeePerGas, maxFeePerGas, gas, to, value, data, accessList,
    parity, r, s])

What is signed is the Keccak-256 of the same without the signature (for type 0 with chainId, 0, 0 in its place), so a signature
holds for one chain only; a legacy transaction without a chain id is refused.  The hash of a transaction is over all its bytes,
the sender's address the last 20 bytes of the Keccak-256 of the recovered public key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from witnz.core.evm.keccak import keccak256
from witnz.core.evm.rlp import Encodable, Item, as_bytes, as_integer, decode_list, encode
from witnz.core.evm.secp256k1 import recover
from witnz.errors import ProofError

ADDRESS_BYTES: Final = 20
MAX_TRANSACTION_BYTES: Final = 128 * 1024
"""What nodes relay at most; an anchor has about 150 bytes."""

_NAMES: Final[Mapping[int, tuple[str, ...]]] = {
    0: ("nonce", "gas_price", "gas", "to", "value", "data", "v", "r", "s"),
    1: ("chain_id", "nonce", "gas_price", "gas", "to", "value", "data", "access_list", "parity", "r", "s"),
    2: ("chain_id", "nonce", "tip", "max_fee", "gas", "to", "value", "data", "access_list", "parity", "r", "s"),
}


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transaction whose signature was checked: ``sender`` is who made it.  ``to`` is empty where it makes a contract."""

    type: int
    chain_id: int
    nonce: int
    sender: bytes
    to: bytes
    value: int
    data: bytes
    hash: bytes


def parse_transaction(raw: bytes) -> Transaction:
    """The transaction of ``raw``, its bytes as they are hashed.

    Raises :class:`witnz.errors.FormatError` for bytes that are not of the form above, and :class:`ProofError` for another type
    of transaction, one that is bound to no chain, and a signature that no key made.
    """
    if not 0 < len(raw) <= MAX_TRANSACTION_BYTES:
        raise ProofError(f"transaction: expected 1 to {MAX_TRANSACTION_BYTES} bytes, found {len(raw)}")
    kind = 0 if raw[0] >= 0xC0 else raw[0]
    names = _NAMES.get(kind)
    if names is None:
        raise ProofError(f"transaction: expected type 0, 1 or 2, found {kind}")
    items = decode_list(raw if kind == 0 else raw[1:], "transaction")
    if len(items) != len(names):
        raise ProofError(f"transaction: expected {len(names)} members in type {kind}, found {len(items)}")
    fields = dict(zip(names, items, strict=True))
    chain_id, parity, signed = _signed_part(kind, items, fields)
    to = as_bytes(fields["to"], "to")
    if len(to) not in (0, ADDRESS_BYTES):
        raise ProofError(f"transaction: expected an address of {ADDRESS_BYTES} bytes or none, found {len(to)} bytes")
    public = recover(keccak256(signed), parity, as_integer(fields["r"], "r"), as_integer(fields["s"], "s"))
    return Transaction(
        type=kind,
        chain_id=chain_id,
        nonce=as_integer(fields["nonce"], "nonce", 8),
        sender=keccak256(public)[-ADDRESS_BYTES:],
        to=to,
        value=as_integer(fields["value"], "value"),
        data=as_bytes(fields["data"], "data"),
        hash=keccak256(raw),
    )


def format_address(address: bytes) -> str:
    """An address as wallets show it: 0x and 40 hex digits, in the case of the letters a checksum (EIP-55)."""
    digits = address.hex()
    case = keccak256(digits.encode("ascii")).hex()
    return "0x" + "".join(digit.upper() if int(nibble, 16) >= 8 else digit for digit, nibble in zip(digits, case, strict=False))


def _signed_part(kind: int, items: list[Item], fields: Mapping[str, Item]) -> tuple[int, int, bytes]:
    """Chain id, parity, and the bytes whose digest is signed."""
    body: list[Encodable] = [_encodable(item) for item in items[:-3]]
    if kind:
        return (
            as_integer(fields["chain_id"], "chain id", 8),
            as_integer(fields["parity"], "parity", 1),
            bytes([kind]) + encode(body),
        )
    v = as_integer(fields["v"], "v", 9)
    if v < 37:
        raise ProofError("transaction: it is bound to no chain (EIP-155), so it could be repeated on any")
    chain_id, parity = divmod(v - 35, 2)
    return chain_id, parity, encode([*body, chain_id, 0, 0])


def _encodable(item: Item) -> Encodable:
    return item if isinstance(item, bytes) else [_encodable(member) for member in item]
