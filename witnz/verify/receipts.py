"""What a receipt proves offline, to whoever brings the trust: one function a type, for rule 8 of formats.md 6.

    basic     the note itself under the verifier's policy
    s3        nothing: a claim until the bucket is asked (``--online``)

A verifier is given a receipt whose grammar holds and whose digest and size are those of a checkpoint that passed, and answers
with checks named after it: ok for what holds, fail for what contradicts, skip for what it cannot check and why.  It never
raises, and needs the base install only; a library that an extra brings is imported inside, and its absence is a skip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from witnz.core.checkpoint import checkpoint_digest
from witnz.core.note import Note, parse_note
from witnz.core.policy import Policy, evaluate
from witnz.core.receipt import Receipt
from witnz.core.trust import Trust
from witnz.core.verdict import Check, CheckStatus

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


def verify_later(receipt: Receipt, digest: bytes, trust: Trust, name: str) -> list[Check]:
    """Of a type that this version reads and cannot verify yet."""
    return [skip(f"{name}.{receipt.type}", f"whether the {receipt.type} receipt proves anything: not checked by this version")]


VERIFIERS: Final[Mapping[str, OfflineVerifier]] = {
    "basic": verify_basic,
    "s3": verify_s3,
    "evm": verify_later,
    "rfc3161": verify_later,
}
