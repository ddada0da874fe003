"""Anchored bundles by mutation: the file, the exit code it must give under the cluster's policy and the trust file, the
reason.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from typing import Any

from eth_keys import keys

from tests.support.bundle_maker import PaperBundle, edited
from tests.support.evm_paper import (
    ACCOUNT,
    BLOCK_NUMBER,
    BLOCK_TIME_S,
    CHAIN_ID,
    KEY,
    block_of,
    others,
    receipt_for,
    signed,
    unchecked_receipt,
)
from tests.support.time_authority import NOW, authority
from witnz.core.evm.keccak import keccak256
from witnz.core.evm.receipt import evm_receipt_members
from witnz.core.evm.rlp import decode, encode
from witnz.core.evm.secp256k1 import ORDER
from witnz.core.opentimestamps import BITCOIN, MAGIC, PENDING

BITCOIN_HEIGHT = 923_000
Case = Callable[[PaperBundle], bytes]

CASES: dict[str, tuple[Case, int, str]] = {}


def case(code: int, reason: str = "") -> Callable[[Case], Case]:
    """Register a case under its function's name."""

    def register(make: Case) -> Case:
        CASES[make.__name__.replace("_", "-")] = (make, code, reason)
        return make

    return register


def digest_and_size(paper: PaperBundle) -> tuple[bytes, int]:
    receipt = paper.receipt("s3")
    return bytes.fromhex(receipt["digest"]), receipt["size"]


def evm(paper: PaperBundle, **given: Any) -> dict[str, Any]:
    return receipt_for(*digest_and_size(paper), **given)


def odd(paper: PaperBundle, raw: bytes, **claimed: Any) -> bytes:
    """A bundle whose receipt is around any bytes as the only transaction of a block."""
    receipt = unchecked_receipt(*digest_and_size(paper), raw, **claimed)
    return paper.build(anchors=[receipt])


def changed(name: str, member: str, value: Any, reason: str, code: int = 3) -> None:
    """A case of a good ``evm`` receipt with one member replaced: ``value`` itself, or what it makes of the old one."""

    def make(paper: PaperBundle) -> bytes:
        receipt = evm(paper)
        new = value(receipt[member]) if callable(value) else value
        return edited(paper.build(anchors=[receipt]), ("anchors", 0, member), new)

    CASES[name] = (make, code, reason)


def trust_file() -> str:
    """What a verifier of these bundles believes."""
    digest, size = digest_and_size(PaperBundle())
    good = receipt_for(digest, size)
    return "".join(
        [
            "# Whom the verifier of these vectors believes, obtained through another channel.\n",
            f"account {CHAIN_ID} {ACCOUNT.address}\n",
            f"block {CHAIN_ID} {BLOCK_NUMBER} 0x{good['block_hash']}\n",
            f"block {CHAIN_ID} {BLOCK_NUMBER + 1} 0x{later(digest, size)['block_hash']}\n",
            authority().root_pem,
            f"bitcoin-block {BITCOIN_HEIGHT} {bitcoin_header(digest).hex()}\n",
        ]
    )


# -- evm: good ----------------------------------------------------------------------------------------------------------------


@case(0)
def evm_good(paper: PaperBundle) -> bytes:
    return paper.build(anchors=[evm(paper)])


def later(digest: bytes, size: int) -> dict[str, Any]:
    """A receipt of a legacy transaction, in another block, alone, its time in seconds."""
    transactions = [signed(digest, kind=0)]
    header = block_of(transactions, number=BLOCK_NUMBER + 1)
    members = {**evm_receipt_members(header, transactions, 0), "block_time": BLOCK_TIME_S}
    return {"type": "evm", "digest": digest.hex(), "size": size, **members}


@case(0)
def evm_good_legacy_transaction_alone_in_its_block(paper: PaperBundle) -> bytes:
    return paper.build(anchors=[later(*digest_and_size(paper))])


# -- evm: not asked outside ---------------------------------------------------------------------------------------------------


@case(4, "block 21000002 of chain 31337: not checked")
def evm_block_that_nobody_looked_up(paper: PaperBundle) -> bytes:
    digest, size = digest_and_size(paper)
    transactions = [*others(3), signed(digest, kind=1)]
    members = evm_receipt_members(block_of(transactions, number=BLOCK_NUMBER + 2), transactions, 3)
    return paper.build(anchors=[{"type": "evm", "digest": digest.hex(), "size": size, **members}])


# -- evm: the receipt does not hold together ----------------------------------------------------------------------------------

THEN, LATER = f"{BLOCK_TIME_S:x}", f"{BLOCK_TIME_S + 1:x}"
changed("evm-header-of-another-time", "header", lambda old: old.replace(THEN, LATER), "block_hash")
changed("evm-header-cut", "header", lambda old: old[:-2], "RLP")
changed("evm-header-with-a-byte-after-it", "header", lambda old: old + "00", "RLP: expected one item")
changed("evm-header-that-is-a-text", "header", "83616263", "expected an RLP list")
changed("evm-header-of-three-fields", "header", "c3010203", "expected at least 15 members")
changed("evm-header-in-capitals", "header", str.upper, "header", 2)
changed("evm-block-hash-of-another", "block_hash", "ab" * 32, "block_hash")
changed("evm-block-number-of-another", "block_number", BLOCK_NUMBER - 1, "block_number")
changed("evm-block-time-of-another", "block_time", "2026-11-21T18:10:01.000000Z", "block_time")
changed("evm-block-time-with-a-fraction", "block_time", "2026-11-21T18:10:00.000001Z", "block_time")
changed("evm-index-of-another", "tx_index", 19, "trie proof")
changed("evm-index-beyond-the-block", "tx_index", 1000, "trie proof")
changed("evm-hash-of-another-transaction", "tx", "cd" * 32, "the receipt says tx")
changed("evm-sender-of-another", "from", "ef" * 20, "the receipt says from")
changed("evm-sender-with-a-prefix", "from", lambda old: "0x" + old[2:], "from", 2)
changed("evm-chain-of-another", "chain_id", 1, "the receipt says chain_id")
changed("evm-chain-none", "chain_id", 0, "chain_id", 2)
changed("evm-proof-without-its-last-node", "proof", lambda old: old[:-1], "a node is missing")
changed("evm-proof-without-its-first-node", "proof", lambda old: old[1:], "node 0 is not the one")
changed("evm-proof-with-a-node-more", "proof", lambda old: [*old, old[0]], "not on the way")
changed("evm-proof-with-a-node-twice", "proof", lambda old: [old[0], *old], "node 1 is not the one")
changed("evm-proof-backwards", "proof", lambda old: old[::-1], "node 0 is not the one")
changed("evm-proof-byte-changed", "proof", lambda old: [*old[:-1], old[-1][:-2] + "00"], "is not the one that")
changed("evm-proof-empty", "proof", [], "proof", 2)
changed("evm-proof-of-sixty-five-nodes", "proof", lambda old: old * 33, "proof", 2)
changed("evm-member-missing", "tx_index", ..., "tx_index", 2)


# -- evm: another transaction than an anchor ----------------------------------------------------------------------------------


@case(3, "not the digest")
def evm_transaction_with_another_digest(paper: PaperBundle) -> bytes:
    return odd(paper, signed(sha256(b"another checkpoint").digest()))


@case(3, "not the digest")
def evm_transaction_with_more_than_the_digest(paper: PaperBundle) -> bytes:
    return odd(paper, signed(digest_and_size(paper)[0] + b"\0"))


@case(3, "not the digest")
def evm_transaction_without_calldata(paper: PaperBundle) -> bytes:
    return odd(paper, signed(b""))


@case(3, "value 0 from its sender to itself")
def evm_transaction_with_a_value(paper: PaperBundle) -> bytes:
    return odd(paper, signed(digest_and_size(paper)[0], value=1))


@case(3, "value 0 from its sender to itself")
def evm_transaction_to_somebody_else(paper: PaperBundle) -> bytes:
    return odd(paper, signed(digest_and_size(paper)[0], to="0x" + "11" * 20))


@case(3, "value 0 from its sender to itself")
def evm_transaction_that_makes_a_contract(paper: PaperBundle) -> bytes:
    return odd(paper, signed(digest_and_size(paper)[0], to=b"", gas=100_000))


@case(3, "is bound to no chain")
def evm_transaction_for_any_chain(paper: PaperBundle) -> bytes:
    return odd(paper, signed(digest_and_size(paper)[0], kind=0, chainId=...))


@case(3, "the receipt says chain_id")
def evm_transaction_for_another_chain(paper: PaperBundle) -> bytes:
    return odd(paper, signed(digest_and_size(paper)[0], chainId=1))


@case(3, "is no account that the trust file lists")
def evm_transaction_for_another_chain_said_so(paper: PaperBundle) -> bytes:
    return odd(paper, signed(digest_and_size(paper)[0], chainId=1), chain_id=1)


@case(3, "the receipt says from")
def evm_transaction_of_somebody_else(paper: PaperBundle) -> bytes:
    return odd(paper, signed(digest_and_size(paper)[0], key=sha256(b"forger").digest()))


@case(3, "is no account that the trust file lists")
def evm_transaction_of_somebody_else_said_so(paper: PaperBundle) -> bytes:
    digest, size = digest_and_size(paper)
    raw = signed(digest, key=sha256(b"forger").digest())
    members = evm_receipt_members(block_of([raw], number=BLOCK_NUMBER + 3), [raw], 0)
    return paper.build(anchors=[{"type": "evm", "digest": digest.hex(), "size": size, **members}])


@case(3, "another one: the transaction is not in the chain")
def evm_block_that_was_reorganised_away(paper: PaperBundle) -> bytes:
    return odd(paper, signed(digest_and_size(paper)[0]))


def respelled(raw: bytes, place: int, value: bytes) -> bytes:
    """A type 2 transaction with one member replaced, its signature as it was."""
    items = decode(raw[1:])
    assert isinstance(items, list)
    return raw[:1] + encode([*items[:place], value, *items[place + 1 :]])


@case(3, "with the lower s")
def evm_signature_with_the_higher_s(paper: PaperBundle) -> bytes:
    raw = signed(digest_and_size(paper)[0])
    items = decode(raw[1:])
    assert isinstance(items, list)
    assert isinstance(items[11], bytes)
    return odd(paper, respelled(raw, 11, (ORDER - int.from_bytes(items[11], "big")).to_bytes(32, "big")))


@case(3, "the receipt says from")
def evm_signature_with_the_other_parity(paper: PaperBundle) -> bytes:
    raw = signed(digest_and_size(paper)[0])
    items = decode(raw[1:])
    assert isinstance(items, list)
    return odd(paper, respelled(raw, 9, b"" if items[9] else b"\1"))


@case(3, "in the ranges of secp256k1")
def evm_signature_of_zero(paper: PaperBundle) -> bytes:
    return odd(paper, respelled(signed(digest_and_size(paper)[0]), 10, b""))


@case(3, "the receipt says from")
def evm_nonce_changed_after_signing(paper: PaperBundle) -> bytes:
    return odd(paper, respelled(signed(digest_and_size(paper)[0]), 1, b"\x08"))


@case(3, "expected type 0, 1 or 2, found 3")
def evm_transaction_of_a_type_that_is_no_anchor(paper: PaperBundle) -> bytes:
    return odd(paper, b"\x03" + signed(digest_and_size(paper)[0])[1:])


def resigned(raw: bytes, place: int, value: Any) -> bytes:
    """A type 2 transaction with one member replaced by anything, signed by its sender as it is then."""
    items = decode(raw[1:])
    assert isinstance(items, list)
    body = [*items[:place], value, *items[place + 1 : -3]]
    signature = keys.PrivateKey(KEY).sign_msg_hash(keccak256(b"\x02" + encode(body)))
    return b"\x02" + encode([*body, signature.v, signature.r, signature.s])


@case(3, "without leading zeros")
def evm_transaction_signed_with_a_padded_nonce(paper: PaperBundle) -> bytes:
    return odd(paper, resigned(signed(digest_and_size(paper)[0]), 1, b"\0\x07"))


@case(3, "at most 8 bytes")
def evm_transaction_signed_with_a_nonce_of_nine_bytes(paper: PaperBundle) -> bytes:
    return odd(paper, resigned(signed(digest_and_size(paper)[0]), 1, 1 << 64))


def in_block(paper: PaperBundle, block_time: int | str = BLOCK_TIME_S, access_list: Any = None, **members: Any) -> bytes:
    """A bundle whose receipt is of a block that nobody looked up, with another header or another transaction."""
    raw = signed(digest_and_size(paper)[0])
    raw = raw if access_list is None else resigned(raw, 8, access_list)
    number = BLOCK_NUMBER + 2
    block = block_of([raw], **{"number": number, **members})
    told = {"header": block.hex(), "block_hash": keccak256(block).hex(), "block_number": number, "block_time": block_time}
    return odd(paper, raw, **told)


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth else []


@case(4, "not checked")
def evm_good_access_list_ten_deep_in_a_block_that_nobody_looked_up(paper: PaperBundle) -> bytes:
    return in_block(paper, access_list=nested(9))


@case(4, "not checked")
def evm_good_access_list_as_deep_as_may_be_in_a_block_that_nobody_looked_up(paper: PaperBundle) -> bytes:
    return in_block(paper, access_list=nested(14))


@case(3, "nested at most")
def evm_access_list_too_deep(paper: PaperBundle) -> bytes:
    return in_block(paper, access_list=nested(15))


@case(3, "found a list")
def evm_header_with_a_list_in_it(paper: PaperBundle) -> bytes:
    return in_block(paper, requests=[b"a"])


@case(4, "not checked")
def evm_good_header_of_seventy_members_in_a_block_that_nobody_looked_up(paper: PaperBundle) -> bytes:
    return in_block(paper, **{f"more{number}": b"x" for number in range(49)})


NINE_THOUSAND_S = 221_845_392_000


@case(4, "not checked")
def evm_good_block_of_the_year_9000_that_nobody_looked_up(paper: PaperBundle) -> bytes:
    return in_block(paper, "9000-01-01T00:00:00.000000Z", time=NINE_THOUSAND_S)


@case(3, "block_time")
def evm_block_of_the_year_9000_with_a_fraction(paper: PaperBundle) -> bytes:
    """So small that a float of the seconds does not show it."""
    return in_block(paper, "9000-01-01T00:00:00.000001Z", time=NINE_THOUSAND_S)


@case(3, "RLP")
def evm_transaction_with_a_byte_after_it(paper: PaperBundle) -> bytes:
    return odd(paper, signed(digest_and_size(paper)[0]) + b"\0")


@case(3, "without leading zeros")
def evm_transaction_with_a_padded_nonce(paper: PaperBundle) -> bytes:
    return odd(paper, respelled(signed(digest_and_size(paper)[0]), 1, b"\0\x07"))


@case(3, "for none of the checkpoints")
def evm_genuine_receipt_of_another_checkpoint(paper: PaperBundle) -> bytes:
    return paper.build(anchors=[receipt_for(sha256(b"another checkpoint").digest(), 9)])


@case(3, "not the digest")
def evm_genuine_receipt_of_another_checkpoint_relabelled(paper: PaperBundle) -> bytes:
    digest, size = digest_and_size(paper)
    return paper.build(anchors=[receipt_for(sha256(b"another checkpoint").digest(), size) | {"digest": digest.hex()}])


@case(3, "says size")
def evm_genuine_receipt_of_an_older_checkpoint_said_to_be_newer(paper: PaperBundle) -> bytes:
    return paper.build(anchors=[evm(paper) | {"size": 8}])


# -- rfc3161 ------------------------------------------------------------------------------------------------------------------


def stamp(paper: PaperBundle, response: bytes, *roots: str) -> bytes:
    digest, size = digest_and_size(paper)
    members = {"url": "https://tsa.example/tsr", "response": b64encode(response).decode(), "roots": list(roots)}
    return paper.build(anchors=[{"type": "rfc3161", "digest": digest.hex(), "size": size, **members}])


@case(0)
def rfc3161_good(paper: PaperBundle) -> bytes:
    return stamp(paper, authority().response(digest_and_size(paper)[0]), authority().root_pem)


@case(0)
def rfc3161_good_with_its_chain_in_the_wrong_order(paper: PaperBundle) -> bytes:
    return stamp(paper, authority().response(digest_and_size(paper)[0], chain=True, unsorted=True))


@case(3, "not over the digest")
def rfc3161_over_another_digest(paper: PaperBundle) -> bytes:
    return stamp(paper, authority().response(sha256(b"another").digest()))


@case(3, "not over the digest")
def rfc3161_over_a_digest_of_another_kind(paper: PaperBundle) -> bytes:
    return stamp(paper, authority().response(digest_and_size(paper)[0], algorithm="sha3_256"))


@case(3, "not signed by an authority that is trusted")
def rfc3161_from_an_untrusted_authority(paper: PaperBundle) -> bytes:
    other = authority("foreign")
    return stamp(paper, other.response(digest_and_size(paper)[0], chain=True), other.root_pem)


@case(3, "not signed by an authority that is trusted")
def rfc3161_made_after_the_certificate_had_expired(paper: PaperBundle) -> bytes:
    expired = authority(expires=NOW - timedelta(days=1))
    return stamp(paper, expired.response(digest_and_size(paper)[0]))


@case(0)
def rfc3161_good_though_the_certificate_has_expired_since(paper: PaperBundle) -> bytes:
    short = authority(expires=NOW + timedelta(days=1))
    return stamp(paper, short.response(digest_and_size(paper)[0]))


@case(3, "not signed by an authority that is trusted")
def rfc3161_by_a_certificate_that_is_not_for_time_stamps(paper: PaperBundle) -> bytes:
    return stamp(paper, authority(is_for_time=False).response(digest_and_size(paper)[0]))


@case(3, "found status 2 no such policy")
def rfc3161_rejected(paper: PaperBundle) -> bytes:
    return stamp(paper, authority().response(digest_and_size(paper)[0], status="rejection"))


@case(3, "not signed by an authority that is trusted")
def rfc3161_with_a_bit_of_its_signature_turned(paper: PaperBundle) -> bytes:
    good = authority().response(digest_and_size(paper)[0])
    return stamp(paper, good[:-1] + bytes([good[-1] ^ 1]))


@case(3, "not signed by an authority that is trusted")
def rfc3161_moved_to_another_time(paper: PaperBundle) -> bytes:
    good = authority().response(digest_and_size(paper)[0])
    return stamp(paper, good.replace(b"20261121181000Z", b"20251121181000Z"))


@case(3, "expected a response in DER")
def rfc3161_cut(paper: PaperBundle) -> bytes:
    return stamp(paper, authority().response(digest_and_size(paper)[0])[:-1])


@case(3, "expected a response in DER")
def rfc3161_that_is_a_text(paper: PaperBundle) -> bytes:
    return stamp(paper, b"<html>502 Bad Gateway</html>")


@case(2, "response")
def rfc3161_not_in_base64(paper: PaperBundle) -> bytes:
    data = stamp(paper, authority().response(digest_and_size(paper)[0]))
    return edited(data, ("anchors", 0, "response"), "!!!!")


# -- opentimestamps -----------------------------------------------------------------------------------------------------------


def varbytes(data: bytes) -> bytes:
    assert len(data) < 128
    return bytes([len(data)]) + data


def ots(digest: bytes, *items: bytes) -> bytes:
    return MAGIC + b"\x01\x08" + digest + b"".join(items)


def pending(address: bytes = b"https://calendar.example") -> bytes:
    return b"\x00" + PENDING + varbytes(varbytes(address))


def in_bitcoin(height: int = BITCOIN_HEIGHT) -> bytes:
    return b"\x00" + BITCOIN + varbytes(bytes([height & 127 | 128, height >> 7 & 127 | 128, height >> 14]))


NONCE, LEFT = sha256(b"nonce").digest()[:16], sha256(b"the leaf to our left").digest()
WAY = b"\xf0" + varbytes(NONCE) + b"\x08" + b"\xf1" + varbytes(LEFT) + b"\x08"


def merkle_root(digest: bytes) -> bytes:
    return sha256(LEFT + sha256(digest + NONCE).digest()).digest()


def bitcoin_header(digest: bytes) -> bytes:
    fields = [b"\0\0\0\x20", sha256(b"previous").digest(), merkle_root(digest), BLOCK_TIME_S.to_bytes(4, "little"), bytes(8)]
    return b"".join(fields)


def stamped(paper: PaperBundle, proof: bytes) -> bytes:
    digest, size = digest_and_size(paper)
    return paper.build(
        anchors=[{"type": "opentimestamps", "digest": digest.hex(), "size": size, "proof": b64encode(proof).decode()}]
    )


@case(0)
def opentimestamps_good(paper: PaperBundle) -> bytes:
    return stamped(paper, ots(digest_and_size(paper)[0], WAY, in_bitcoin()))


@case(0)
def opentimestamps_good_and_pending_with_a_second_calendar(paper: PaperBundle) -> bytes:
    return stamped(paper, ots(digest_and_size(paper)[0], b"\xff" + pending(), WAY, in_bitcoin()))


@case(4, "the proof is pending")
def opentimestamps_pending(paper: PaperBundle) -> bytes:
    return stamped(paper, ots(digest_and_size(paper)[0], WAY, pending()))


@case(4, "'bitcoin-block 923001 <its header, looked up elsewhere>'")
def opentimestamps_in_a_block_that_nobody_looked_up(paper: PaperBundle) -> bytes:
    return stamped(paper, ots(digest_and_size(paper)[0], WAY, in_bitcoin(BITCOIN_HEIGHT + 1)))


@case(3, "does not lead to the Merkle root")
def opentimestamps_that_leads_elsewhere(paper: PaperBundle) -> bytes:
    return stamped(paper, ots(digest_and_size(paper)[0], WAY, b"\x08", in_bitcoin()))


@case(3, "not about the digest")
def opentimestamps_about_another_digest(paper: PaperBundle) -> bytes:
    return stamped(paper, ots(sha256(b"another").digest(), WAY, in_bitcoin()))


@case(3, "bytes after its end")
def opentimestamps_with_a_byte_after_it(paper: PaperBundle) -> bytes:
    return stamped(paper, ots(digest_and_size(paper)[0], WAY, in_bitcoin(), b"\0"))


@case(3, "OpenTimestamps proof: expected")
def opentimestamps_cut(paper: PaperBundle) -> bytes:
    return stamped(paper, ots(digest_and_size(paper)[0], WAY, in_bitcoin())[:-1])


@case(3, "expected SHA-256, append or prepend")
def opentimestamps_with_a_weak_operation(paper: PaperBundle) -> bytes:
    return stamped(paper, ots(digest_and_size(paper)[0], b"\x02", in_bitcoin()))


@case(3, "expected a file of version 1")
def opentimestamps_of_another_version(paper: PaperBundle) -> bytes:
    return stamped(paper, MAGIC + b"\x02\x08" + digest_and_size(paper)[0] + in_bitcoin())


@case(3, "operations in a row")
def opentimestamps_of_a_thousand_operations(paper: PaperBundle) -> bytes:
    return stamped(paper, ots(digest_and_size(paper)[0], b"\x08" * 1000, in_bitcoin()))
