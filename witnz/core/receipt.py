"""Receipts: what an anchor returned, as one JSON object (formats.md 7).

Every receipt has ``type``, ``digest`` (hex SHA-256 of a checkpoint note's text) and ``size`` (of that checkpoint); a known type
has exactly the members listed here besides.  A type that is not known keeps whatever it carries: it can be matched against a
checkpoint by its digest, and is otherwise NOT CHECKED.

    basic     note                                                                   the cosigned note itself
    s3        bucket key version_id etag sha256 mode retain_until date endpoint      a claim until asked online
    evm       chain_id from tx block_hash block_number block_time header tx_index proof
                                                                                     hex without prefix, proof root first
    rfc3161   url response roots                                                     base64 DER, PEM texts
    opentimestamps   proof                                                           base64 of an .ots file
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from witnz.core.note import parse_note
from witnz.core.opentimestamps import MAX_PROOF_BYTES
from witnz.core.shape import Shape, base64_bytes, hex_bytes, integer, list_of, matching, members, one_of, spelled, text
from witnz.core.timestamp import parse_time
from witnz.errors import FormatError

MAX_RECEIPT_BYTES: Final = 1 << 20
"""Of any one text or base64 member; a block header, a trie proof and a time stamp with its certificates are far below."""

_TYPE = matching(r"[a-z0-9][a-z0-9._-]{0,63}", "an anchor type (a-z 0-9 . _ -)")
_EVERY: Mapping[str, Shape] = {"type": _TYPE, "digest": hex_bytes(32), "size": integer(0)}
_HEX = matching(r"(?:[0-9a-f]{2}){1,65536}", "lower-case hex bytes without a prefix")
_LONG = text(MAX_RECEIPT_BYTES, min_bytes=1)


def _block_time(value: Any, path: str) -> None:
    """Seconds since 1970 as the block header has them, or a time in witnz's spelling."""
    (spelled(parse_time) if isinstance(value, str) else integer())(value, path)


_KNOWN: Mapping[str, Mapping[str, Shape]] = {
    "basic": {"note": spelled(parse_note)},
    "s3": {
        "bucket": text(255, min_bytes=1),
        "key": text(1024, min_bytes=1),
        "version_id": text(1024, min_bytes=1),
        "etag": text(256),
        "sha256": hex_bytes(32),
        "mode": one_of("COMPLIANCE", "GOVERNANCE"),
        "retain_until": spelled(parse_time),
        "date": text(64, min_bytes=1),
        "endpoint": text(2048),
    },
    "evm": {
        "chain_id": integer(1),
        "from": hex_bytes(20),
        "tx": hex_bytes(32),
        "block_hash": hex_bytes(32),
        "block_number": integer(),
        "block_time": _block_time,
        "header": _HEX,
        "tx_index": integer(),
        "proof": list_of(_HEX, low=1, high=64),
    },
    "rfc3161": {
        "url": text(2048, min_bytes=1),
        "response": base64_bytes(max_bytes=MAX_RECEIPT_BYTES),
        "roots": list_of(_LONG, high=16),
    },
    "opentimestamps": {"proof": base64_bytes(max_bytes=MAX_PROOF_BYTES)},
}

KNOWN_TYPES: Final = frozenset(_KNOWN)
_PLACE: Mapping[str, tuple[str, ...]] = {"s3": ("bucket", "endpoint"), "evm": ("chain_id", "from"), "rfc3161": ("url",)}


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt whose grammar holds; whether it proves anything is for a verifier.  ``members`` is the whole object."""

    type: str
    digest: bytes
    size: int
    members: Mapping[str, Any]

    @property
    def known(self) -> bool:
        """Whether this version knows the type, and so has checked the grammar of all its members."""
        return self.type in KNOWN_TYPES

    @property
    def place(self) -> str:
        """Where it says that it was published, so that receipts of two buckets or accounts are told apart; empty for a note."""
        return " ".join(str(self.members[name]) for name in _PLACE.get(self.type, ()))


def check_receipt(value: Any, path: str) -> None:
    """The shape of a receipt.  Raises :class:`FormatError` for a missing, unknown or malformed member of a known type."""
    if not isinstance(value, dict):
        raise FormatError(f"{path}: expected a receipt object, found {type(value).__name__}")
    known = _KNOWN.get(kind) if isinstance(kind := value.get("type"), str) else None
    if known is None:
        members(_EVERY)({name: value[name] for name in _EVERY if name in value}, path)
    else:
        members({**_EVERY, **known})(value, path)


def parse_receipt(value: Any, path: str = "receipt") -> Receipt:
    """The receipt that a parsed JSON object is.  Raises :class:`FormatError`, see :func:`check_receipt`."""
    check_receipt(value, path)
    return recall_receipt(value)


def recall_receipt(value: Mapping[str, Any]) -> Receipt:
    """The receipt in a record that was parsed before: :func:`parse_receipt` without its checks."""
    return Receipt(value["type"], bytes.fromhex(value["digest"]), value["size"], value)
