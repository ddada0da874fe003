"""C2SP checkpoints, what a log says about itself, and the cosignatures of those who checked it.

The text of a checkpoint's note is (c2sp.org/tlog-checkpoint v1.0.0)

    <origin>                                  not empty
    <tree size>                               decimal, no leading zeros
    <root hash>                               base64 of 32 bytes
    <extension lines>                         any number, none empty; kept, never written by witnz

each line ended by a newline.  A cosignature (c2sp.org/tlog-cosignature v1.0.1, type 0x04) is a note signature on such a text
that also says when.  What is anchored elsewhere is :func:`checkpoint_digest`, over the text alone, so that it does not depend
on who has cosigned (formats.md 5, 7).
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass

from witnz.core.keys import COSIGNATURE, Signer, VerifierKey, cosigner_key, key_id, parse_base64
from witnz.core.merkle import HASH_BYTES, MAX_SIZE
from witnz.core.note import (
    MAX_TIMESTAMP_S,
    Signature,
    check_note_text,
    cosignature_time,
    cosigned_message,
    encode_text,
    signature_fits,
)
from witnz.errors import FormatError, UsageError

_SIZE = re.compile(r"0|[1-9][0-9]{0,19}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tree head that a log claims: ``size`` leaves under ``root`` (32 bytes)."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()


def parse_checkpoint(text: str) -> Checkpoint:
    """The checkpoint in a note's text (without blank line and signatures); FormatError for anything malformed."""
    check_note_text(text)
    lines = text[:-1].split("\n")
    if len(lines) < 3 or not all(lines):
        raise FormatError(f"checkpoint: expected origin, size and root on non-empty lines, found {len(lines)} lines")
    origin, size_text, root_text, *extensions = lines
    if _SIZE.fullmatch(size_text) is None or (size := int(size_text)) > MAX_SIZE:
        raise FormatError(f"checkpoint size: expected a decimal below 2^64 without leading zeros, found {size_text[:40]!r}")
    root = parse_base64(root_text, what="checkpoint root")
    if len(root) != HASH_BYTES:
        raise FormatError(f"checkpoint root: expected {HASH_BYTES} bytes, found {len(root)}")
    return Checkpoint(origin, size, root, tuple(extensions))


def format_checkpoint(checkpoint: Checkpoint) -> str:
    """The note text of a checkpoint, the inverse of :func:`parse_checkpoint`.

    Raises FormatError for parts that cannot stand in one: a newline in the origin, a root that is not 32 bytes.
    """
    root = base64.b64encode(checkpoint.root).decode("ascii")
    text = "".join(f"{line}\n" for line in (checkpoint.origin, checkpoint.size, root, *checkpoint.extensions))
    if parse_checkpoint(text) != checkpoint:
        raise FormatError("checkpoint: expected parts that read back as they are, found a newline in one of them")
    return text


def checkpoint_digest(note_text: str) -> bytes:
    """SHA-256 of a checkpoint's note text, final newline included: the 32 bytes that anchors publish (formats.md 7)."""
    return hashlib.sha256(encode_text(note_text)).digest()


def cosign(note_text: str, signer: Signer, timestamp_s: int) -> Signature:
    """The signer's cosignature of a checkpoint at ``timestamp_s`` (POSIX seconds, at most 2^63 - 1).

    Whether it is right to sign (consistency, own logs, durability) is for the caller to know.  Raises FormatError if the text
    is not a checkpoint, UsageError for a time out of range.
    """
    parse_checkpoint(note_text)
    if not 0 <= timestamp_s <= MAX_TIMESTAMP_S:
        raise UsageError(f"cosignature time: expected 0 to 2^63 - 1 seconds, found {timestamp_s}")
    signature = timestamp_s.to_bytes(8, "big") + signer.sign(cosigned_message(note_text, timestamp_s))
    return Signature(signer.name, key_id(signer.name, COSIGNATURE, signer.public), signature)


def check_cosignature(note_text: str, signature: Signature, key: VerifierKey) -> int | None:
    """The POSIX seconds that a cosignature states, if it is ``key``'s and verifies over the checkpoint's text; else None.

    ``key`` may be listed with type 0x01 or 0x04.
    """
    return cosignature_time(signature) if signature_fits(note_text, signature, cosigner_key(key)) else None
