"""Entries: the lines of a table log, its hash chain, and the description of columns that ``schema`` entries carry.

    entry = "1" TAB seq TAB op TAB key TAB row TAB lsn TAB xid TAB at TAB by TAB hint TAB intent          at most 65,535 bytes

A COPY text line of exactly eleven columns (:mod:`witnz.core.rowline`), so that key, by, hint and intent are escaped and ``\\N``
means none.  ``key`` is the key columns' own row line, or ``\\H`` and 64 hex digits for one that is hidden or over 1,024 bytes.
formats.md 2:

    content_hash = SHA256(0x00 || entry)                                     the RFC 6962 leaf hash
    chain_hash   = SHA256(hex(parent chain_hash) || hex(content_hash))       128 ASCII bytes
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from witnz.core.canonical import canonical, parse_canonical
from witnz.core.lsn import format_lsn, parse_lsn
from witnz.core.message import MAX_BY, MAX_HINT, MAX_MESSAGE, parse_intent
from witnz.core.rowline import NULL, escape, parse_line, unescape
from witnz.core.timestamp import format_time, parse_time
from witnz.errors import FormatError

MAX_ENTRY: Final = 65_535
MAX_KEY: Final = 1_024
MAX_SCHEMA: Final = 60_000
MAX_SEQ: Final = (1 << 53) - 1
OPS: Final = ("schema", "baseline", "insert", "update", "delete", "truncate")
IDENTITIES: Final = ("d", "f", "i", "n")

_COLUMNS = 11
_HIDDEN = re.compile(rb"\\H([0-9a-f]{64})")
_ROW = re.compile(rb"[0-9a-f]{64}")
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,15}")
_HEX64 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry.  ``key`` is the raw key line (a row line, not escaped once more); of a hidden key only ``hidden_key`` is set,
    the 64 hex digits.  ``row`` is the raw 32-byte row hash.  ``lsn`` is a number, ``at`` microseconds since the Unix epoch.
    ``None`` is ``\\N``.
    """

    seq: int
    op: str
    key: bytes | None
    row: bytes | None
    lsn: int
    xid: int
    at: int
    by: str | None = None
    hint: str | None = None
    intent: str | None = None
    hidden_key: str | None = None


@dataclass(frozen=True, slots=True)
class SchemaColumn:
    """One column as pgoutput's Relation message describes it; ``key``: its "part of the key" flag."""

    name: str
    typoid: int
    typmod: int
    key: bool


@dataclass(frozen=True, slots=True)
class Schema:
    """A relation's description; of one too long for an entry only ``sha256`` (hex, of the canonical JSON) is known."""

    columns: tuple[SchemaColumn, ...]
    identity: str
    oid: int
    sha256: str | None = None


def format_entry(entry: Entry) -> bytes:
    """The line of an entry; the inverse of :func:`parse_entry`.

    Raises :class:`FormatError` where numbers are out of range or the line would be too long; the rest is the caller's.
    """
    row = NULL if entry.row is None else entry.row.hex().encode()
    suffix = entry_suffix(entry.lsn, entry.xid, entry.at, entry.by, entry.hint, entry.intent)
    line = b"1\t%d\t%b\t%b\t%b%b" % (entry.seq, entry.op.encode(), key_cell(entry), row, suffix)
    if len(line) > MAX_ENTRY:
        raise FormatError(f"entry: expected at most {MAX_ENTRY} bytes, found {len(line)}")
    return line


def entry_suffix(lsn: int, xid: int, at_us: int, by: str | None, hint: str | None, intent: str | None) -> bytes:
    """Columns 6 to 11 with the TAB before them: what all entries under one message of one transaction share."""
    cells = (_text_cell(by), _text_cell(hint), _text_cell(intent))
    return b"\t%b\t%d\t%b\t%b\t%b\t%b" % (format_lsn(lsn).encode(), xid, format_time(at_us).encode(), *cells)


def key_field(key_line: bytes | None, secret: bytes, hidden: bool) -> bytes:
    """Column 4 of an entry: the escaped key line, ``\\N`` for none, ``\\H…`` where ``hidden`` or over 1,024 bytes."""
    if key_line is None:
        return NULL
    if hidden or len(key_line) > MAX_KEY:
        return b"\\H" + hide_key(key_line, secret).encode()
    return escape(key_line)


def hide_key(key_line: bytes, secret: bytes) -> str:
    """The 64 hex digits that stand for a key: SHA256(secret || 0x00 || key line)."""
    return sha256(secret + b"\0" + key_line).hexdigest()


def key_cell(entry: Entry) -> bytes:
    """Column 4 of an entry as it stands in its line."""
    if entry.hidden_key is not None:
        return b"\\H" + entry.hidden_key.encode()
    return NULL if entry.key is None else escape(entry.key)


def parse_entry(line: bytes) -> Entry:
    """The entry of a line without its newline.

    Raises :class:`FormatError` for a line over 65,535 bytes, other than eleven columns, any column out of its grammar or range,
    members that the op does not have, and every spelling but that of :func:`format_entry`.
    """
    if len(line) > MAX_ENTRY:
        raise FormatError(f"entry: expected at most {MAX_ENTRY} bytes, found {len(line)}")
    cells = line.split(b"\t")
    if len(cells) != _COLUMNS:
        raise FormatError(f"entry: expected {_COLUMNS} columns, found {len(cells)}")
    version, seq, op, key, row, lsn, xid, at, by, hint, intent = cells
    if version != b"1":
        raise FormatError(f"entry version: expected 1, found {version[:20]!r}")
    op_text = _ascii(op, "op")
    if op_text not in OPS:
        raise FormatError(f"entry op: expected one of {' '.join(OPS)}, found {op_text[:20]!r}")
    key_line, hidden = _parse_key(key)
    entry = Entry(
        seq=_parse_number(seq, "seq", 1, MAX_SEQ),
        op=op_text,
        key=key_line,
        row=_parse_row(row),
        lsn=parse_lsn(_ascii(lsn, "lsn")),
        xid=_parse_number(xid, "xid", 0, (1 << 32) - 1),
        at=parse_time(_ascii(at, "at")),
        by=_parse_text(by, "by", MAX_BY),
        hint=_parse_text(hint, "hint", MAX_SCHEMA if op_text == "schema" else MAX_HINT),
        intent=_parse_text(intent, "intent", MAX_MESSAGE),
        hidden_key=hidden,
    )
    _check_op(entry)
    if format_entry(entry) != line:
        raise FormatError(f"entry {entry.seq}: expected its canonical spelling")
    return entry


def content_hash(line: bytes) -> bytes:
    """The 32 bytes of SHA256(0x00 || line): the entry's leaf hash (RFC 6962 2.1)."""
    return sha256(b"\0" + line).digest()


def chain_hash(parent_hex: str, content: bytes) -> str:
    """The chain hash, 64 hex digits, of an entry with this raw content hash after ``parent_hex``."""
    return sha256(f"{parent_hex}{content.hex()}".encode()).hexdigest()


def first_parent(origin: str) -> str:
    """The parent of the first entry of the log with this origin, 64 hex digits."""
    return sha256(f"witnz/chain/1\n{origin}".encode()).hexdigest()


def audit_id(chain_hex: str) -> str:
    """The short name of an entry: the first 16 hex digits of its chain hash."""
    return chain_hex[:16]


def schema_text(columns: Sequence[SchemaColumn], identity: str, oid: int) -> str:
    """The whole description as canonical JSON, of any length; :func:`schema_hint` is what an entry carries."""
    described = [{"key": c.key, "name": c.name, "typmod": c.typmod, "typoid": c.typoid} for c in columns]
    return canonical({"columns": described, "identity": identity, "oid": oid}).decode()


def schema_hint(columns: Sequence[SchemaColumn], identity: str, oid: int) -> str:
    """The hint of a ``schema`` entry: :func:`schema_text`, or ``{"sha256":…}`` of it where it would take over 60,000 bytes.

    The bytes are counted as they stand in the entry, escaped, so that no column names can make an entry too long.
    """
    text = schema_text(columns, identity, oid)
    if len(escape(text.encode())) <= MAX_SCHEMA:
        return text
    return canonical({"sha256": sha256(text.encode()).hexdigest()}).decode()


def parse_schema_hint(text: str) -> Schema:
    """The relation that the hint of a ``schema`` entry describes.  Raises :class:`FormatError` for any other text."""
    value = parse_canonical(text.encode("utf-8", "surrogatepass"), what="schema hint", max_bytes=MAX_SCHEMA)
    if not isinstance(value, dict):
        raise FormatError("schema hint: expected an object")
    if value.keys() == {"sha256"}:
        digest = value["sha256"]
        if not isinstance(digest, str) or _HEX64.fullmatch(digest) is None:
            raise FormatError("schema hint: expected 64 hex digits as sha256")
        return Schema(columns=(), identity="", oid=0, sha256=digest)
    if value.keys() != {"columns", "identity", "oid"}:
        raise FormatError("schema hint: expected exactly columns, identity and oid, or sha256")
    if value["identity"] not in IDENTITIES:
        raise FormatError("schema hint: expected identity d, f, i or n")
    columns = value["columns"]
    if not isinstance(columns, list):
        raise FormatError("schema hint: expected a list of columns")
    oid = _check_integer(value["oid"], "oid", 0, (1 << 32) - 1)
    return Schema(columns=tuple(_read_column(column) for column in columns), identity=value["identity"], oid=oid)


def _read_column(column: Any) -> SchemaColumn:
    if not isinstance(column, dict) or column.keys() != {"key", "name", "typmod", "typoid"}:
        raise FormatError("schema hint: expected columns of exactly key, name, typmod and typoid")
    if not isinstance(column["name"], str) or not isinstance(column["key"], bool):
        raise FormatError("schema hint: expected a column's name as text and key as true or false")
    return SchemaColumn(
        name=column["name"],
        typoid=_check_integer(column["typoid"], "typoid", 0, (1 << 32) - 1),
        typmod=_check_integer(column["typmod"], "typmod", -(1 << 31), (1 << 31) - 1),
        key=column["key"],
    )


def _check_integer(value: Any, name: str, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise FormatError(f"schema hint: expected {name} as an integer from {low} to {high}")
    return value


def _check_op(entry: Entry) -> None:
    """Which columns an op leaves empty (formats.md 2)."""
    if entry.op == "schema":
        if not _all_none(entry.key, entry.hidden_key, entry.row, entry.by, entry.intent) or entry.hint is None:
            raise FormatError("entry: expected of a schema entry a hint and no key, row, by or intent")
        parse_schema_hint(entry.hint)
    elif entry.op == "truncate":
        if not _all_none(entry.key, entry.hidden_key, entry.row):
            raise FormatError("entry: expected no key and no row of a truncate")
    elif entry.op == "baseline" and entry.xid != 0:
        raise FormatError(f"entry xid: expected 0 of a baseline, found {entry.xid}")
    if entry.intent is not None:
        parse_intent(entry.intent)


def _all_none(*columns: object) -> bool:
    return all(column is None for column in columns)


def _parse_key(cell: bytes) -> tuple[bytes | None, str | None]:
    if cell == NULL:
        return None, None
    match = _HIDDEN.fullmatch(cell)
    if match is not None:
        return None, match[1].decode()
    key_line = unescape(cell)
    if len(key_line) > MAX_KEY:
        raise FormatError(f"entry key: expected at most {MAX_KEY} bytes, or the hidden form, found {len(key_line)}")
    parse_line(key_line)
    _decode(key_line, "key")
    return key_line, None


def _parse_row(cell: bytes) -> bytes | None:
    if cell == NULL:
        return None
    if _ROW.fullmatch(cell) is None:
        raise FormatError(f"entry row: expected 64 hex digits or \\N, found {cell[:20]!r}")
    return bytes.fromhex(cell.decode())


def _parse_number(cell: bytes, name: str, low: int, high: int) -> int:
    text = _ascii(cell, name)
    if _DECIMAL.fullmatch(text) is None or not low <= int(text) <= high:
        raise FormatError(f"entry {name}: expected a decimal number from {low} to {high}, found {text[:24]!r}")
    return int(text)


def _parse_text(cell: bytes, name: str, max_bytes: int) -> str | None:
    if cell == NULL:
        return None
    raw = unescape(cell)
    if len(raw) > max_bytes:
        raise FormatError(f"entry {name}: expected at most {max_bytes} bytes, found {len(raw)}")
    return _decode(raw, name)


def _text_cell(text: str | None) -> bytes:
    return NULL if text is None else escape(text.encode())


def _ascii(cell: bytes, name: str) -> str:
    try:
        return cell.decode("ascii")
    except UnicodeDecodeError:
        raise FormatError(f"entry {name}: expected ASCII, found {cell[:20]!r}") from None


def _decode(raw: bytes, name: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(f"entry {name}: expected UTF-8") from None
