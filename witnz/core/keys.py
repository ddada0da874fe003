"""Ed25519 keys as signed notes name them: verifier keys, private keys, signing and verifying.

    verifier key    <name>+<8 hex digits of the key id>+base64(type || 32-byte public key)
    private key     PRIVATE+KEY+<name>+<8 hex digits of the key id>+base64(type || 32-byte seed)
    key id          SHA256(name || 0x0A || type || public key), the first four bytes

Two types exist here: 0x01 signs a note's text (c2sp.org/signed-note), 0x04 is a timestamped cosignature
(c2sp.org/tlog-cosignature).  A witness is sometimes listed with its 0x01 key; :func:`cosigner_key` gives the 0x04 key that its
cosignatures carry, and only that form is ever printed.  The layout of private keys is the convention of Go's sumdb/note.

Randomness is never drawn here: a seed is an argument.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from witnz.errors import FormatError, KeyProblem

ED25519 = 0x01
COSIGNATURE = 0x04
KEY_TYPES = (ED25519, COSIGNATURE)
KEY_BYTES = 32
KEY_ID_BYTES = 4
SIGNATURE_BYTES = 64
MAX_KEY_CHARS = 1024

_PRIVATE_PREFIX = "PRIVATE+KEY+"
_PRIVATE_KEY_HINT = "restore the key file from its backup; it is one line that starts with PRIVATE+KEY+"

# The y coordinates of the eight points of small order, canonical and not (RFC 8032 5.1.3 drops the sign bit first).  Under such
# a "key" one signature fits many messages, so it identifies nobody.
_SMALL_ORDER = frozenset(
    bytes.fromhex(y)
    for y in (
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
)


class Signer(Protocol):
    """What can sign under a name: a seed in a file today, a KMS or an HSM elsewhere."""

    @property
    def name(self) -> str:
        """The key name in signature lines."""

    @property
    def public(self) -> bytes:
        """The 32-byte Ed25519 public key."""

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature of ``message`` (RFC 8032)."""


class Ed25519Signer:
    """A :class:`Signer` with its 32-byte seed in memory; raises KeyProblem for another length or an impossible name."""

    __slots__ = ("_private", "name", "public")

    def __init__(self, name: str, seed: bytes) -> None:
        if len(seed) != KEY_BYTES:
            raise KeyProblem(
                f"private key {name!r}: expected a seed of {KEY_BYTES} bytes, found {len(seed)}", hint=_PRIVATE_KEY_HINT
            )
        if (problem := key_name_problem(name)) is not None:
            raise KeyProblem(f"private key: {problem}", hint=_PRIVATE_KEY_HINT)
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.name = name
        self.public = self._private.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"Ed25519Signer({self.name!r})"

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of ``message``."""
        return self._private.sign(message)

    def tls_key(self) -> Ed25519PrivateKey:
        """The key itself, for TLS between nodes, whose library makes its own signatures (RFC 8446 4.4.3)."""
        return self._private


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key under a name, for one signature type; (name, key_id) is what a signature line refers to."""

    name: str
    key_id: bytes
    type: int
    public: bytes

    def __str__(self) -> str:
        return format_verifier_key(self)


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """What a private key file holds; the seed stays out of ``repr``."""

    name: str
    type: int
    seed: bytes = field(repr=False)

    def signer(self) -> Ed25519Signer:
        """The signer of this key."""
        return Ed25519Signer(self.name, self.seed)

    def verifier(self) -> VerifierKey:
        """The public half."""
        return verifier_key(self.name, self.type, self.signer().public)


def key_name_problem(name: str) -> str | None:
    """Why ``name`` cannot be a key name (non-empty, no Unicode space or control, no ``+``), or None where it can."""
    if not name:
        return "key name: expected at least one character, found none"
    if any(char.isspace() or char < " " or char == "+" for char in name):
        return f"key name: expected no space, control character or plus, found {name[:80]!r}"
    if any("\ud800" <= char <= "\udfff" for char in name):
        return f"key name: expected valid UTF-8, found {name[:80]!r}"
    return None


def key_id(name: str, key_type: int, public: bytes) -> bytes:
    """The four bytes that, with the name, tell which key made a signature (c2sp.org/signed-note)."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([key_type]) + public).digest()[:KEY_ID_BYTES]


def verifier_key(name: str, key_type: int, public: bytes) -> VerifierKey:
    """The verifier key of these parts, its id computed.

    Raises FormatError for an impossible name, a type other than 0x01 and 0x04, or a public key that is not 32 bytes or is a
    point of small order.
    """
    if (problem := key_name_problem(name)) is not None:
        raise FormatError(f"verifier key: {problem}")
    if key_type not in KEY_TYPES:
        raise FormatError(f"verifier key {name!r}: expected type 0x01 or 0x04, found {key_type:#04x}")
    if len(public) != KEY_BYTES:
        raise FormatError(f"verifier key {name!r}: expected a public key of {KEY_BYTES} bytes, found {len(public)}")
    if _is_small_order(public):
        raise FormatError(f"verifier key {name!r}: expected a key that identifies somebody, found a point of small order")
    return VerifierKey(name, key_id(name, key_type, public), key_type, public)


def cosigner_key(key: VerifierKey) -> VerifierKey:
    """The same public key as a cosigner of type 0x04, whichever type it was listed with."""
    return verifier_key(key.name, COSIGNATURE, key.public)


def parse_verifier_key(text: str) -> VerifierKey:
    """A verifier key of type 0x01 or 0x04; raises FormatError for anything else.

    At most two splits, because the base64 part may hold a ``+`` of its own.
    """
    if len(text) > MAX_KEY_CHARS:
        raise FormatError(f"verifier key: expected at most {MAX_KEY_CHARS} characters, found {len(text)}")
    parts = text.split("+", 2)
    if len(parts) != 3:
        raise FormatError(f"verifier key: expected name+keyid+base64, found {text[:80]!r}")
    name, claimed_id, encoded = parts
    key_type, public = _type_and_bytes(encoded, what=f"verifier key {name[:80]!r}")
    key = verifier_key(name, key_type, public)
    if claimed_id != key.key_id.hex():
        raise FormatError(f"verifier key {name[:80]!r}: expected key id {key.key_id.hex()}, found {claimed_id[:20]!r}")
    return key


def format_verifier_key(key: VerifierKey) -> str:
    """``name+keyid+base64``, the inverse of :func:`parse_verifier_key`."""
    return f"{key.name}+{key.key_id.hex()}+{_encode(bytes([key.type]) + key.public)}"


def parse_private_key(text: str) -> PrivateKey:
    """The private key in one line, without a newline; raises KeyProblem, whose message quotes nothing of the line.

    The key id must be that of the public key which belongs to the seed, so a damaged seed is noticed here.
    """
    parts = text.removeprefix(_PRIVATE_PREFIX).split("+", 2)
    if len(text) > MAX_KEY_CHARS or not text.startswith(_PRIVATE_PREFIX) or len(parts) != 3:
        raise _damaged("PRIVATE+KEY+name+keyid+base64 on one line", "something else")
    name, claimed_id, encoded = parts
    if key_name_problem(name) is not None:
        raise _damaged("a key name without spaces or control characters", "another")
    try:
        key_type, seed = _type_and_bytes(encoded, what="private key")
    except FormatError:
        raise _damaged("the base64 of type 0x01 or 0x04 and a seed of 32 bytes", "something else") from None
    key = PrivateKey(name, key_type, seed)
    if claimed_id != key.verifier().key_id.hex():
        raise _damaged("the key id that belongs to name and seed", "another")
    return key


def format_private_key(name: str, key_type: int, seed: bytes) -> str:
    """``PRIVATE+KEY+name+keyid+base64(type || seed)``; raises KeyProblem for an impossible name, type or seed."""
    signer = Ed25519Signer(name, seed)
    if key_type not in KEY_TYPES:
        raise KeyProblem(f"private key {name!r}: expected type 0x01 or 0x04, found {key_type:#04x}")
    return f"{_PRIVATE_PREFIX}{name}+{key_id(name, key_type, signer.public).hex()}+{_encode(bytes([key_type]) + seed)}"


def verify_signature(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether ``signature`` is the Ed25519 signature of ``message`` by ``public`` (RFC 8032).

    False for wrong lengths and for public keys of small order; never raises.
    """
    if len(public) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    key = _public_key(public)
    if key is None:
        return False
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def parse_base64(text: str, *, what: str) -> bytes:
    """Standard base64 with padding (RFC 4648 4), canonical: ``encode(parse(x)) == x``; FormatError names ``what``."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise FormatError(f"{what}: expected standard base64 with padding, found {len(text)} characters that are not") from None
    if _encode(data) != text:
        raise FormatError(f"{what}: expected canonical base64, found another spelling of the same bytes")
    return data


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _type_and_bytes(encoded: str, *, what: str) -> tuple[int, bytes]:
    data = parse_base64(encoded, what=what)
    if len(data) != 1 + KEY_BYTES or data[0] not in KEY_TYPES:
        found = f"type {data[0]:#04x} and {len(data) - 1} bytes" if data else "nothing"
        raise FormatError(f"{what}: expected type 0x01 or 0x04 and {KEY_BYTES} bytes, found {found}")
    return data[0], data[1:]


def _damaged(expected: str, found: str) -> KeyProblem:
    return KeyProblem(f"damaged private key: expected {expected}, found {found}", hint=_PRIVATE_KEY_HINT)


def _is_small_order(public: bytes) -> bool:
    return public[:-1] + bytes([public[-1] & 0x7F]) in _SMALL_ORDER


@lru_cache(maxsize=1024)
def _public_key(public: bytes) -> Ed25519PublicKey | None:
    if _is_small_order(public):
        return None
    try:
        return Ed25519PublicKey.from_public_bytes(public)
    except ValueError:
        return None
