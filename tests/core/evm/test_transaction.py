"""Transactions signed by eth-account, read back by us; senders recovered; addresses as wallets show them."""

from __future__ import annotations

from hashlib import sha256

import pytest
from eth_account import Account
from eth_utils.address import to_checksum_address
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.evm_paper import signed
from witnz.core.evm.secp256k1 import FIELD, ORDER, recover
from witnz.core.evm.transaction import format_address, parse_transaction
from witnz.errors import FormatError, ProofError


@given(
    st.sampled_from([0, 1, 2]),
    st.binary(min_size=32, max_size=32).filter(lambda key: 0 < int.from_bytes(key, "big") < ORDER),
    st.binary(max_size=64),
    st.integers(1, 2**53 - 1),
    st.integers(0, 2**40),
)
@settings(max_examples=30, deadline=None)
def test_what_eth_account_signs_is_read_with_its_sender(kind: int, key: bytes, data: bytes, chain_id: int, nonce: int) -> None:
    raw = signed(data, kind=kind, key=key, chainId=chain_id, nonce=nonce)
    transaction = parse_transaction(raw)
    address = bytes.fromhex(Account.from_key(key).address[2:])
    assert (transaction.type, transaction.chain_id, transaction.nonce) == (kind, chain_id, nonce)
    assert (transaction.sender, transaction.to, transaction.value, transaction.data) == (address, address, 0, data)


def test_the_sender_of_a_published_transaction() -> None:
    """The example of EIP-155: its private key is 0x4646…46, its chain 1."""
    raw = bytes.fromhex(
        "f86c098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a76400008025a028ef61340bd939bc2195fe537567866003e1a15d"
        "3c71ff63e1590620aa636276a067cbe9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83"
    )
    transaction = parse_transaction(raw)
    assert (transaction.chain_id, transaction.nonce, transaction.value) == (1, 9, 10**18)
    assert format_address(transaction.sender) == "0x9d8A62f656a8d1615C1294fd71e9CFb3E4855A4F"


@given(st.binary(min_size=20, max_size=20))
def test_addresses_are_shown_with_their_checksum(address: bytes) -> None:
    assert format_address(address) == to_checksum_address(address)


@pytest.mark.parametrize("place", range(0, 140, 9))
def test_a_changed_byte_is_another_sender_or_no_transaction(place: int) -> None:
    raw = signed(sha256(b"digest").digest())
    other = raw[:place] + bytes([raw[place] ^ 0x55]) + raw[place + 1 :]
    try:
        sender = parse_transaction(other).sender
    except (FormatError, ProofError):
        return
    assert sender != parse_transaction(raw).sender


@pytest.mark.parametrize(
    ("parity", "r", "s"),
    [(2, 1, 1), (0, 0, 1), (0, 1, 0), (0, ORDER, 1), (0, 1, ORDER // 2 + 1), (0, FIELD - 1, 1), (0, 5, 1)],
)
def test_numbers_that_are_no_signature(parity: int, r: int, s: int) -> None:
    with pytest.raises(ProofError, match="signature"):
        recover(sha256(b"digest").digest(), parity, r, s)
