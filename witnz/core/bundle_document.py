"""A bundle as one JSON document: its spelling, its digest and the shape of its members (formats.md 6).

What stands inside the strings (notes, entries, records, receipts, the policy) is read by :mod:`witnz.core.bundle`, each with a
parser and a limit of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from witnz.core.canonical import canonical, parse_json
from witnz.core.names import parse_table_name
from witnz.core.rowline import parse_line
from witnz.core.shape import base64_bytes, hex_bytes, integer, list_of, members, nullable, one_of, spelled, text
from witnz.core.timestamp import parse_time
from witnz.errors import FormatError

FORMAT: Final = "witnz-bundle/1"
MAX_BUNDLE_BYTES: Final = 64 << 20
MAX_DEPTH: Final = 32
MAX_TOOL_BYTES: Final = 256


def _row_line(line: str) -> None:
    parse_line(line.encode())


_HASHES = list_of(base64_bytes(32))
_POSITION = integer(0)
_LOG = {"table": spelled(parse_table_name), "generation": integer(1)}
_INNER = text(MAX_BUNDLE_BYTES)

_SHAPE = members(
    {
        "format": one_of(FORMAT),
        "created": spelled(parse_time),
        "tool": text(MAX_TOOL_BYTES),
        "sha256": hex_bytes(32),
        "checkpoint": _INNER,
        "records": list_of(members({"record": lambda value, path: None, "proof": _HASHES})),
        "rows": list_of(
            members(
                {
                    **_LOG,
                    "seal": _POSITION,
                    "schema": _INNER,
                    "schema_proof": _HASHES,
                    "entry": _INNER,
                    "proof": _HASHES,
                    "line": nullable(spelled(_row_line)),
                    "blind": nullable(base64_bytes(32)),
                    "state": nullable(members({"verify": _POSITION, "bucket": list_of(hex_bytes(32)), "proof": _HASHES})),
                }
            )
        ),
        "tables": list_of(members({**_LOG, "secret": nullable(base64_bytes(32)), "verify": nullable(_POSITION)})),
        "consistency": list_of(members({"checkpoint": _INNER, "proof": _HASHES})),
        "anchors": list_of(lambda value, path: None),
        "policy": _INNER,
    }
)


def parse_document(data: bytes) -> dict[str, Any]:
    """The JSON value of a bundle's file, its members of the right types and lengths.

    Raises :class:`FormatError` for a file over 64 MiB, nested deeper than 32, not canonical, of another format, with members
    missing or unknown, or whose ``sha256`` is not that of the rest.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise FormatError(f"bundle: expected at most {MAX_BUNDLE_BYTES} bytes, found {len(data)}")
    if not data.endswith(b"}\n"):
        raise FormatError("bundle: expected a JSON object and one newline")
    value = parse_json(data[:-1], what="bundle", max_bytes=MAX_BUNDLE_BYTES, max_depth=MAX_DEPTH)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise FormatError(f"bundle: expected an object with format {FORMAT}")
    written, digest = _encode(value)
    if written != data:
        raise FormatError("bundle: expected canonical JSON (RFC 8785) and one newline, found another spelling")
    if value.get("sha256") != digest:
        raise FormatError("bundle.sha256: expected the digest of the rest of the bundle; the file was changed or cut")
    _SHAPE(value, "bundle")
    return value


def format_document(value: Mapping[str, Any]) -> bytes:
    """The file of a bundle's members, ``sha256`` added; the inverse of :func:`parse_document`."""
    _, digest = _encode(value)
    return _encode({**value, "sha256": digest})[0]


def _encode(value: Mapping[str, Any]) -> tuple[bytes, str]:
    """The file that ``value`` should be, and the digest of it without its ``sha256``, in one pass over the members."""
    written = {name: canonical(name) + b":" + canonical(value[name]) for name in sorted(value)}
    whole = b"{" + b",".join(written.values()) + b"}\n"
    rest = b"{" + b",".join(item for name, item in written.items() if name != "sha256") + b"}"
    return whole, sha256(rest).hexdigest()
