"""In-toto statements and the DSSE envelope around one: what is signed, and how it is read again.

    statement   {"_type", "subject": [{"name", "digest": {"sha256"}}], "predicateType", "predicate"}      in-toto Statement v1
    envelope    {"payload": base64, "payloadType", "signatures": [{"keyid", "sig"}]}                      DSSE v1
    signed      "DSSEv1" SP len(type) SP type SP len(payload) SP payload                                  lengths in decimal

Both are RFC 8785 JSON; files end with one newline, the payload does not.  There is exactly one signature, by the report key:
ECDSA P-256 over SHA-256, DER; ``keyid`` is the hex SHA-256 of the key's DER SubjectPublicKeyInfo.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any, Final

from witnz.core.canonical import canonical, parse_canonical
from witnz.core.shape import base64_bytes, decode_base64, hex_bytes, list_of, members, one_of
from witnz.errors import FormatError
from witnz.report.key import ReportKey, verify

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
EVIDENCE_TYPE: Final = "https://witnz.dev/evidence/v1"
REPORT_TYPE: Final = "https://witnz.dev/report/v1"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
MAX_ENVELOPE_BYTES: Final = 16 << 20

_ENVELOPE = members(
    {
        "payload": base64_bytes(max_bytes=MAX_ENVELOPE_BYTES),
        "payloadType": one_of(PAYLOAD_TYPE),
        "signatures": list_of(members({"keyid": hex_bytes(32), "sig": base64_bytes(max_bytes=80)}), low=1, high=1),
    }
)


@dataclass(frozen=True, slots=True)
class Envelope:
    """An envelope whose grammar holds; nothing of it is believed yet."""

    payload: bytes
    key_id: str
    signature: bytes

    def signed_by(self, public_der: bytes) -> bool:
        """Whether the signature is that key's.  Raises FormatError for a key that is no P-256 key."""
        return verify(public_der, pre_authentication(self.payload), self.signature)


def statement(subjects: Mapping[str, str], predicate_type: str, predicate: Mapping[str, Any]) -> dict[str, Any]:
    """A statement about files: ``subjects`` are hex SHA-256 digests by name."""
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(subjects.items())],
        "predicateType": predicate_type,
        "predicate": predicate,
    }


def digests(package: Path, names: Iterable[str]) -> dict[str, str]:
    """The hex SHA-256 of files, by their names relative to the package."""
    out = {}
    for name in names:
        with (package / name).open("rb") as stream:
            out[name] = file_digest(stream, "sha256").hexdigest()
    return out


def pre_authentication(payload: bytes) -> bytes:
    """DSSE's PAE of a payload."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def sign(value: Mapping[str, Any], key: ReportKey) -> bytes:
    """The file of an envelope around a statement."""
    payload = canonical(value)
    signature = key.sign(pre_authentication(payload))
    envelope = {
        "payload": b64encode(payload).decode("ascii"),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": key.key_id, "sig": b64encode(signature).decode("ascii")}],
    }
    return canonical(envelope) + b"\n"


def parse_envelope(data: bytes) -> Envelope:
    """The envelope of a file.  Raises FormatError for any other bytes."""
    if not data.endswith(b"}\n"):
        raise FormatError("report: expected a JSON object and one newline")
    value = parse_canonical(data[:-1], what="report", max_bytes=MAX_ENVELOPE_BYTES)
    _ENVELOPE(value, "report")
    signature = value["signatures"][0]
    payload = decode_base64(value["payload"], "report.payload", max_bytes=MAX_ENVELOPE_BYTES)
    return Envelope(payload, signature["keyid"], decode_base64(signature["sig"], "report.signatures[0].sig", max_bytes=80))
