"""C2SP signed notes: a text and the signatures of those who stand by it (c2sp.org/signed-note v1.0.0).

    <text, ending in a newline>
    <blank line>
    — <key name> <base64 of the 4-byte key id and the signature>        one or more such lines; the dash is U+2014

The text may hold empty lines: the *last* empty line of the note separates.  A note is valid UTF-8 without control characters
below U+0020 other than newline.  (name, key id) names a key: signatures of unknown keys are ignored, one known key whose
signature does not verify condemns the whole note.

Type 0x01 signs the text itself.  Type 0x04 (c2sp.org/tlog-cosignature) has a signature of 72 bytes, a uint64 of POSIX seconds
and an Ed25519 signature over ``cosignature/v1\\ntime <seconds>\\n`` and the text.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from witnz.core.keys import (
    COSIGNATURE,
    ED25519,
    KEY_ID_BYTES,
    SIGNATURE_BYTES,
    Signer,
    VerifierKey,
    key_id,
    key_name_problem,
    parse_base64,
    verify_signature,
)
from witnz.errors import FormatError, ProofError

MAX_TEXT_BYTES = 1 << 20
MAX_NOTE_BYTES = 2 * MAX_TEXT_BYTES
MAX_SIGNATURES = 100
MAX_TIMESTAMP_S = 2**63 - 1

_SIGNATURE_START = "— "
_TIMESTAMP_BYTES = 8
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line, unverified: the claimed key and the bytes after the key id (0x01: 64, 0x04: 8 + 64)."""

    name: str
    key_id: bytes
    signature: bytes

    def is_by(self, key: VerifierKey) -> bool:
        """Whether this line claims to be made by ``key``: name and id alike, not only one of them."""
        return self.name == key.name and self.key_id == key.key_id


@dataclass(frozen=True, slots=True)
class Note:
    """A well-formed note; its text is unverified until a trusted key's signature has been checked."""

    text: str
    signatures: tuple[Signature, ...]

    def with_signatures(self, *signatures: Signature) -> Note:
        """The same text with further signature lines at the end."""
        return replace(self, signatures=(*self.signatures, *signatures))


def parse_note(data: bytes | str) -> Note:
    """A note of at most 1 MiB of text and 100 signatures; FormatError for anything malformed."""
    text, separator, lines = _decode(data).rpartition("\n\n")
    if not separator:
        raise FormatError("note: expected a blank line between text and signatures, found none")
    text += "\n"
    check_note_text(text)
    if not lines.endswith("\n"):
        raise FormatError("note: expected signature lines that end in a newline, found none or a cut-off line")
    signature_lines = lines[:-1].split("\n")
    if len(signature_lines) > MAX_SIGNATURES:
        raise FormatError(f"note: expected at most {MAX_SIGNATURES} signatures, found {len(signature_lines)}")
    return Note(text, tuple(_parse_signature(line) for line in signature_lines))


def format_note(note: Note) -> str:
    """The note as text, to be encoded in UTF-8; the inverse of :func:`parse_note`.

    Raises FormatError for a note that the parser would refuse, so that nobody signs what nobody can read.
    """
    data = note.text + "\n" + "".join(_format_signature(signature) for signature in note.signatures)
    if parse_note(data) != note:
        raise FormatError("note: expected parts that read back as they are, found others")
    return data


def sign_note(text: str, signers: Sequence[Signer]) -> Note:
    """``text`` with one signature of type 0x01 by each signer; FormatError if the text cannot be a note's."""
    check_note_text(text)
    message = text.encode()
    return Note(
        text,
        tuple(Signature(signer.name, key_id(signer.name, ED25519, signer.public), signer.sign(message)) for signer in signers),
    )


def check_note_text(text: str) -> None:
    """Raise FormatError unless ``text`` can be a note's text: at most 1 MiB, a final newline, no control characters."""
    if len(text) > MAX_TEXT_BYTES or len(encode_text(text)) > MAX_TEXT_BYTES:
        raise FormatError(f"note text: expected at most {MAX_TEXT_BYTES} bytes, found more")
    if not text.endswith("\n"):
        raise FormatError("note text: expected a final newline, found none")
    if (found := _CONTROL.search(text)) is not None:
        raise FormatError(f"note text: expected no control character but newline, found {found.group()!r}")


def encode_text(text: str) -> bytes:
    """The UTF-8 bytes of ``text``; FormatError where it has none (a lone surrogate)."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise FormatError(f"note: expected valid UTF-8, found a lone surrogate at character {error.start}") from None


def cosigned_message(text: str, timestamp_s: int) -> bytes:
    """What an Ed25519 cosignature of type 0x04 signs: header line, time line, the note's whole text."""
    return b"cosignature/v1\ntime %d\n" % timestamp_s + encode_text(text)


def cosignature_time(signature: Signature) -> int | None:
    """The claimed POSIX seconds in a signature of the shape of type 0x04, None if it does not have that shape."""
    data = signature.signature
    timestamp_s = int.from_bytes(data[:_TIMESTAMP_BYTES], "big")
    return timestamp_s if len(data) == _TIMESTAMP_BYTES + SIGNATURE_BYTES and timestamp_s <= MAX_TIMESTAMP_S else None


def signature_fits(text: str, signature: Signature, key: VerifierKey) -> bool:
    """Whether ``signature`` names ``key`` and verifies over ``text`` by the rule of the key's type."""
    if not signature.is_by(key):
        return False
    if key.type == COSIGNATURE:
        timestamp_s = cosignature_time(signature)
        if timestamp_s is None:
            return False
        return verify_signature(key.public, signature.signature[_TIMESTAMP_BYTES:], cosigned_message(text, timestamp_s))
    return key.type == ED25519 and verify_signature(key.public, signature.signature, encode_text(text))


def verify_note(note: Note, keys: Sequence[VerifierKey]) -> tuple[VerifierKey, ...]:
    """Those of the known ``keys`` that signed the note, in the order of ``keys``.

    Raises ProofError if a signature that names a known key does not verify, or if no known key signed.
    """
    verified = []
    for key in keys:
        by_key = [signature for signature in note.signatures if signature.is_by(key)]
        if not all(signature_fits(note.text, signature, key) for signature in by_key):
            raise ProofError(f"note: expected a signature by {key.name!r} that verifies, found one that does not")
        if by_key:
            verified.append(key)
    if not verified:
        raise ProofError("note: expected a signature by a known key, found none")
    return tuple(verified)


def _decode(data: bytes | str) -> str:
    if len(data) > MAX_NOTE_BYTES:
        raise FormatError(f"note: expected at most {MAX_NOTE_BYTES} bytes, found {len(data)}")
    if isinstance(data, str):
        encode_text(data)
        return data
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"note: expected valid UTF-8, found another byte at offset {error.start}") from None


def _parse_signature(line: str) -> Signature:
    name, separator, encoded = line.removeprefix(_SIGNATURE_START).partition(" ")
    if not line.startswith(_SIGNATURE_START) or not separator:
        raise FormatError(f"note signature: expected '— name base64', found {line[:80]!r}")
    if (problem := key_name_problem(name)) is not None:
        raise FormatError(f"note signature: {problem}")
    data = parse_base64(encoded, what=f"note signature of {name[:80]!r}")
    if len(data) <= KEY_ID_BYTES:
        raise FormatError(f"note signature of {name[:80]!r}: expected more than a key id, found {len(data)} bytes")
    return Signature(name, data[:KEY_ID_BYTES], data[KEY_ID_BYTES:])


def _format_signature(signature: Signature) -> str:
    encoded = base64.b64encode(signature.key_id + signature.signature).decode("ascii")
    return f"{_SIGNATURE_START}{signature.name} {encoded}\n"
