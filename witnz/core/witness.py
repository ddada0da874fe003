"""What a log and a witness say to each other, and what a witness answers (c2sp.org/tlog-witness v1.0.0).

    POST <prefix>/add-checkpoint        old <size>\\n
                                        <base64 hash>\\n             0 to 63 lines: the consistency proof from old
                                        \\n
                                        <the checkpoint, a signed note>

    200   one cosignature line or more    404   origin unknown          409   old is not the size seen last: that is the body
    400   malformed, old > size           403   not signed by the log   422   the proof fails, or another root for the size

:func:`judge` decides; what was seen last is an argument, and keeping what it returns is for the caller, in one transaction with
having read what was seen: two requests at once must not both be judged by the same past.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from witnz.core.checkpoint import Checkpoint, parse_checkpoint
from witnz.core.keys import VerifierKey, parse_base64
from witnz.core.merkle import EMPTY_ROOT, HASH_BYTES, verify_consistency
from witnz.core.note import MAX_NOTE_BYTES, Note, format_note, parse_note, signature_fits
from witnz.errors import FormatError

MAX_PROOF: Final = 63
MAX_REQUEST_BYTES: Final = 64 * 1024
SIZE_TYPE: Final = "text/x.tlog.size"
_OLD = re.compile(r"old (0|[1-9][0-9]{0,19})")

assert MAX_REQUEST_BYTES < MAX_NOTE_BYTES


@dataclass(frozen=True, slots=True)
class Submission:
    """A checkpoint that a log asks to have cosigned; ``old``: the size that it believes was seen last."""

    old: int
    proof: tuple[bytes, ...]
    note: Note

    @property
    def checkpoint(self) -> Checkpoint:
        return parse_checkpoint(self.note.text)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a witness cosigned last of a log."""

    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer other than 200; ``seen``: the size to say with 409."""

    status: int
    reason: str
    seen: int | None = None


def format_submission(submission: Submission) -> bytes:
    """The body of a request; the inverse of :func:`parse_submission`."""
    lines = [f"old {submission.old}", *(b64encode(each).decode("ascii") for each in submission.proof)]
    return ("\n".join(lines) + "\n\n" + format_note(submission.note)).encode()


def parse_submission(data: bytes) -> Submission:
    """The request in a body of at most 64 KiB.  Raises FormatError for anything malformed; its note is unverified."""
    if len(data) > MAX_REQUEST_BYTES:
        raise FormatError(f"submission: expected at most {MAX_REQUEST_BYTES} bytes, found {len(data)}")
    head, separator, rest = data.partition(b"\n\n")
    if not separator:
        raise FormatError("submission: expected a blank line before the checkpoint, found none")
    try:
        first, *hashes = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise FormatError("submission: expected ASCII before the checkpoint") from None
    old = _OLD.fullmatch(first)
    if old is None:
        raise FormatError(f"submission: expected old <size>, found {first[:40]!r}")
    if len(hashes) > MAX_PROOF:
        raise FormatError(f"submission: expected at most {MAX_PROOF} hashes, found {len(hashes)}")
    proof = tuple(parse_base64(line, what="consistency proof") for line in hashes)
    if any(len(each) != HASH_BYTES for each in proof):
        raise FormatError(f"submission: expected hashes of {HASH_BYTES} bytes")
    submission = Submission(int(old[1]), proof, parse_note(rest))
    parse_checkpoint(submission.note.text)
    return submission


def judge(submission: Submission, keys: Sequence[VerifierKey], seen: Seen | None) -> Seen | Refusal:
    """What a witness that trusts ``keys`` for this origin (none: it does not know it) and has ``seen`` does with a submission.

    The checks stand in the order of the specification.
    """
    checkpoint, old = submission.checkpoint, submission.old
    if not keys:
        return Refusal(404, "the origin is not known here")
    claimed = [(each, key) for each in submission.note.signatures for key in keys if each.is_by(key)]
    if not claimed or not all(signature_fits(submission.note.text, each, key) for each, key in claimed):
        return Refusal(403, "it is not signed by the key that is known for its origin")
    if old > checkpoint.size:
        return Refusal(400, "old is larger than the checkpoint")
    last = Seen(0, EMPTY_ROOT) if seen is None else seen
    if old != last.size:
        return Refusal(409, "another size was seen last", last.size)
    if checkpoint.size == 0 and checkpoint.root != EMPTY_ROOT:
        return Refusal(422, "the root of an empty tree is another")
    if not _extends(last, checkpoint, submission.proof):
        return Refusal(422, "it is not consistent with what was seen last")
    return Seen(checkpoint.size, checkpoint.root)


def _extends(last: Seen, checkpoint: Checkpoint, proof: Sequence[bytes]) -> bool:
    if last.size == 0:
        return not proof
    if last.size == checkpoint.size:
        return not proof and last.root == checkpoint.root
    return verify_consistency(last.size, checkpoint.size, last.root, checkpoint.root, list(proof))


def monitoring_path(origin: str) -> str:
    """Where, below a witness's monitoring prefix, its newest checkpoint of a log is."""
    return f"{sha256(origin.encode()).hexdigest()}/checkpoint"
