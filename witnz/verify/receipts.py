"""What a receipt proves offline, to whoever brings the trust: one function a type, for rule 8 of formats.md 6.

    basic            the note itself under the verifier's policy
    s3               nothing: a claim until the bucket is asked (``--online``)
    evm              .proof   a transaction with the digest, its sender and its block     .trust   given account and block
    rfc3161          .token   an authority's signature over digest and time               given its root, with witnz[tsa]
    opentimestamps   .proof   what leads from the digest to a block of Bitcoin            .trust   given the block's header

A verifier is given a receipt whose grammar holds and whose digest and size are those of a checkpoint that passed, and answers
with checks named after it: ok for what holds, fail for what contradicts, skip for what it cannot check and why.  It never
raises, and needs the base install only; a library that an extra brings is imported inside, and its absence is a skip.  Inside,
too, is imported what few bundles need: a verification is a whole process, and most of its time is starting.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from witnz.core.checkpoint import checkpoint_digest
from witnz.core.note import Note, parse_note
from witnz.core.policy import Policy, evaluate
from witnz.core.receipt import Receipt
from witnz.core.timestamp import format_time
from witnz.core.trust import Trust
from witnz.core.verdict import Check, CheckStatus
from witnz.errors import FormatError, ProofError

if TYPE_CHECKING:  # slow to import, and few bundles hold a receipt that needs them
    from cryptography import x509

    from witnz.core.evm.receipt import EvmProof
    from witnz.core.opentimestamps import Attestation

OfflineVerifier = Callable[[Receipt, bytes, Trust, str], Sequence[Check]]
"""(receipt, digest of the checkpoint, trust, name of the check) -> at least one check, each named ``name`` or ``name.…``."""

Online = Callable[[Receipt, str], Sequence[Check]]
"""(receipt, name of the check) -> what the outside says; given by whoever may use the network."""

NO_POLICY: Final = "no policy was given, so nobody's signature was checked; bring one that came through another channel"


def ok(name: str, detail: str) -> Check:
    return Check(name, CheckStatus.OK, detail)


def fail(name: str, detail: str) -> Check:
    return Check(name, CheckStatus.FAIL, detail)


def skip(name: str, detail: str) -> Check:
    return Check(name, CheckStatus.SKIP, detail)


def check_signatures(note: Note, policy: Policy | None, name: str) -> tuple[list[Check], list[str]]:
    """Every signature that names a policy key verifies, the log signed, the quorum is met; and who cosigned."""
    if policy is None:
        return [skip(f"{name}.signatures", NO_POLICY)], []
    result = evaluate(policy, note)
    if result.bad or not result.log_ok:
        return [fail(f"{name}.signatures", result.detail)], result.cosigned_by
    signed = ok(f"{name}.signatures", "every signature that names a key of the policy verifies, the log's own among them")
    if not result.satisfied:
        return [signed, skip(f"{name}.quorum", result.detail)], result.cosigned_by
    return [signed, ok(f"{name}.quorum", result.detail)], result.cosigned_by


def verify_basic(receipt: Receipt, digest: bytes, trust: Trust, name: str) -> list[Check]:
    """A ``basic`` receipt is a note of its own: the same text, and the policy is met by it."""
    note = parse_note(receipt.members["note"])
    if checkpoint_digest(note.text) != digest:
        return [fail(f"{name}.note", "the note in the basic receipt is not the checkpoint that it is for")]
    checks, _ = check_signatures(note, trust.policy, name)
    return checks


def verify_s3(receipt: Receipt, digest: bytes, trust: Trust, name: str) -> list[Check]:
    """Nothing in an answer of S3 is signed: offline only its bucket can be compared with the one that the verifier knows."""
    bucket, name = receipt.members["bucket"], f"{name}.object"
    if trust.buckets and bucket not in trust.buckets:
        return [fail(name, f"it is of the bucket {bucket}, and the trust file names {', '.join(sorted(trust.buckets))}")]
    return [skip(name, "whether the object is still there and locked: not checked (a claim until the bucket is asked)")]


# -- public chains -------------------------------------------------------------------------------------------------------------


def verify_evm(receipt: Receipt, digest: bytes, trust: Trust, name: str) -> list[Check]:
    """An ``evm`` receipt holds its own proof; whose the account is, and whether the block is the chain's, the verifier says."""
    from witnz.core.evm.receipt import check_evm_receipt
    from witnz.core.evm.transaction import format_address

    try:
        proof = check_evm_receipt(receipt.members)
    except ProofError as error:
        return [fail(f"{name}.proof", error.message)]
    shown = ok(
        f"{name}.proof",
        f"transaction 0x{proof.transaction.hex()} of {format_address(proof.sender)} for chain {proof.chain_id} holds the digest"
        f" and is in block {proof.block_number} of {_at(proof.time_s)}, hash 0x{proof.block_hash.hex()}",
    )
    return [shown, _in_chain(proof, trust, f"{name}.trust")]


def _in_chain(proof: EvmProof, trust: Trust, name: str) -> Check:
    from witnz.core.evm.transaction import format_address

    place = f"block {proof.block_number} of chain {proof.chain_id}"
    block_hash = trust.blocks.get((proof.chain_id, proof.block_number))
    if block_hash is not None and block_hash != proof.block_hash:
        return fail(name, f"{place} is 0x{block_hash.hex()}, another one: the transaction is not in the chain")
    if trust.accounts and (proof.chain_id, proof.sender) not in trust.accounts:
        return fail(name, f"{format_address(proof.sender)} on chain {proof.chain_id} is no account that the trust file lists")
    lacking, lines = [], []
    if not trust.accounts:
        lacking.append("whether the account is the operator's")
        lines.append(f"account {proof.chain_id} <its address>")
    if block_hash is None:
        lacking.append(f"whether this is {place}")
        lines.append(f"block {proof.chain_id} {proof.block_number} <its hash, looked up elsewhere>")
    if lacking:
        how = " and ".join(repr(line) for line in lines)
        return skip(name, f"{' and '.join(lacking)}: not checked (a trust file with {how}, or --online)")
    return ok(name, f"the account is one that the trust file lists, and {place} is as it says")


# -- time stamps ---------------------------------------------------------------------------------------------------------------


def verify_rfc3161(receipt: Receipt, digest: bytes, trust: Trust, name: str) -> list[Check]:
    """A time stamp is signed by an authority: one whose root the verifier lists, else nobody knows whose it is."""
    from witnz.core import rfc3161

    name = f"{name}.token"
    if not rfc3161.is_available():
        return [skip(name, "the time stamp: not checked (this installation cannot; install witnz[tsa], or use openssl ts)")]
    response = b64decode(receipt.members["response"])
    asked = trust.is_about("rfc3161")
    try:
        if asked:
            roots = [*trust.certificates, *_listed(receipt.members["roots"], trust.authorities)]
            stamp = rfc3161.check_time_stamp(response, digest, roots)
        else:
            stamp = rfc3161.read_time_stamp(response, digest)
    except ProofError as error:
        return [fail(name, error.message)]
    said = f"stamped {_at(stamp.time_s)} by {stamp.authority} (policy {stamp.policy}, serial {stamp.serial})"
    if asked:
        return [ok(name, f"{said}, whose certificate leads to one that the trust file lists")]
    unknown = "whether that is an authority: not checked (a trust file with its root certificate)"
    return [skip(name, f"{said}, as it says itself; {unknown}")]


def _listed(texts: Sequence[str], authorities: frozenset[bytes]) -> list[x509.Certificate]:
    """Of the PEM certificates that a receipt brings, those whose digests the verifier lists."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    found = []
    for text in texts:
        with suppress(ValueError):
            found += x509.load_pem_x509_certificates(text.encode())
    return [certificate for certificate in found if certificate.fingerprint(SHA256()) in authorities]


def verify_opentimestamps(receipt: Receipt, digest: bytes, trust: Trust, name: str) -> list[Check]:
    """A proof leads to a Merkle root of Bitcoin, once a calendar has put it there; whose block that is, the verifier says."""
    from witnz.core.opentimestamps import heights, read_proof

    proof, trusted = f"{name}.proof", f"{name}.trust"
    try:
        about, attestations = read_proof(b64decode(receipt.members["proof"]))
    except FormatError as error:
        return [fail(proof, error.message)]
    if about != digest:
        return [fail(proof, f"the proof is about {about.hex()}, not about the digest")]
    blocks = heights(attestations)
    if not blocks:
        calendars = ", ".join(sorted({ascii(one.calendar)[1:-1] for one in attestations if one.calendar})) or "nobody known"
        pending = "whether a Bitcoin block commits to the digest: not checked (the proof is pending)"
        return [ok(proof, f"promised by {calendars}"), skip(trusted, pending)]
    leads = ok(proof, f"leads to Bitcoin block {blocks[0]}")
    known = [one for one in attestations if one.height in trust.bitcoin_blocks]
    if not known:
        how = f"a trust file with 'bitcoin-block {blocks[0]} <its header, looked up elsewhere>'"
        return [leads, skip(trusted, f"whether that block commits to the digest: not checked ({how})")]
    return [leads, *(_in_bitcoin(one, trust, trusted) for one in known)]


def _in_bitcoin(attestation: Attestation, trust: Trust, name: str) -> Check:
    from witnz.core.opentimestamps import read_block_header

    height = attestation.height or 0
    header = read_block_header(trust.bitcoin_blocks[height])
    if header.merkle_root != attestation.message:
        return fail(name, f"the proof does not lead to the Merkle root of Bitcoin block {height}")
    return ok(name, f"Bitcoin block {height} of {_at(header.time_s)}, hash {header.hash.hex()}, commits to the digest")


def _at(time_s: int) -> str:
    """A time in seconds since 1970; a block may say one that no calendar has."""
    try:
        return format_time(time_s * 1_000_000)
    except FormatError:
        return f"second {time_s} since 1970"


VERIFIERS: Final[Mapping[str, OfflineVerifier]] = {
    "basic": verify_basic,
    "s3": verify_s3,
    "evm": verify_evm,
    "rfc3161": verify_rfc3161,
    "opentimestamps": verify_opentimestamps,
}
