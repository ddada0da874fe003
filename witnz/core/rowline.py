"""Row lines: one row as the line PostgreSQL's ``COPY … TO STDOUT`` (text format) writes for it, without the final newline.

    line   = cell *(TAB cell)          values in attnum order, as each type's output function prints them, UTF-8
    cell   = "\\N" | text              NULL, or the value with backslash, 08 (b), 09 (t), 0A (n), 0B (v), 0C (f), 0D (r) escaped

The same escapes as in PostgreSQL's documentation of COPY, "Text Format" (source: CopyAttributeOutText); every other byte stands
for itself.  A line is bytes and nothing here decodes it.  Hashes are those of formats.md 1:

    row_blind = SHA256(secret || line)         secret: 32 random bytes per generation of a table
    row_hash  = SHA256(row_blind || line)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from witnz.errors import FormatError

NULL: Final = b"\\N"

_LETTERS = {
    b"\\": b"\\\\",
    b"\b": b"\\b",
    b"\t": b"\\t",
    b"\n": b"\\n",
    b"\v": b"\\v",
    b"\f": b"\\f",
    b"\r": b"\\r",
}
_BYTES = {escaped: raw for raw, escaped in _LETTERS.items()}
# PostgreSQL carries no NUL in any value; it is in the class so that it is refused, at no cost to other values.
_SPECIAL = re.compile(rb"[\\\x08-\x0d\x00]")
_CELL = re.compile(rb"[^\\\x08-\x0d\x00]*+(?:\\[\\btnvfr][^\\\x08-\x0d\x00]*+)*+")
_ESCAPED = re.compile(rb"\\.")


def escape(value: bytes) -> bytes:
    """``value`` as COPY writes it in a cell.  Raises :class:`FormatError` for a NUL byte."""
    if _SPECIAL.search(value) is None:
        return value
    if b"\0" in value:
        raise FormatError("cell: expected a value of PostgreSQL, found a NUL byte")
    return _SPECIAL.sub(lambda match: _LETTERS[match[0]], value)


def unescape(cell: bytes) -> bytes:
    """The value of a cell that is not NULL; the inverse of :func:`escape`.

    Raises :class:`FormatError` for an escape that COPY does not write (``\\N`` and ``\\H`` too) and for a raw byte that it
    would have escaped.
    """
    if _CELL.fullmatch(cell) is None:
        found = cell[_CELL.match(cell).end() :][:2]  # type: ignore[union-attr]  # the pattern matches the empty string
        raise FormatError(f"cell: expected only the escapes that COPY writes, found {found!r}")
    if b"\\" not in cell:
        return cell
    return _ESCAPED.sub(lambda match: _BYTES[match[0]], cell)


def format_line(values: Sequence[bytes | None]) -> bytes:
    """The row line of ``values`` (NULL is ``None``).  A row of no columns is the empty line, as in COPY."""
    return b"\t".join([NULL if value is None else escape(value) for value in values])


def split_cells(line: bytes) -> list[bytes]:
    """The cells of a line, still escaped and not checked; NULL is :data:`NULL`."""
    return line.split(b"\t")


def parse_line(line: bytes) -> list[bytes | None]:
    """The values of a row line; the inverse of :func:`format_line`.

    The empty line is one empty value (of a row without columns there is nothing to parse).  Raises :class:`FormatError`, see
    :func:`unescape`.
    """
    return [None if cell == NULL else unescape(cell) for cell in split_cells(line)]


def row_blind(secret: bytes, line: bytes) -> bytes:
    """The 32 bytes that, with the line, open a row hash to whoever is shown that one row."""
    return sha256(secret + line).digest()


def row_hash(secret: bytes, line: bytes) -> bytes:
    """The 32 bytes that stand for a row version in the log.  A reference; :mod:`witnz.core.hashing` does many at once."""
    return sha256(row_blind(secret, line) + line).digest()


def secret_commitment(secret: bytes) -> str:
    """``secret_sha256`` of a ``table`` record: 64 hex digits of SHA256("witnz/secret/1\\n" || secret)."""
    return sha256(b"witnz/secret/1\n" + secret).hexdigest()


def leaf_secret(root_secret: bytes, oid: int) -> bytes:
    """The provisional secret of a partition that appeared while its root was recorded (formats.md 3)."""
    return sha256(root_secret + b"leaf%d" % oid).digest()
