"""Log sequence numbers: the byte positions of PostgreSQL's write-ahead log.

As text an LSN is two hexadecimal halves of 32 bits, ``%X/%X`` unpadded and in upper case (``0/1949850``), as every supported
server prints ``pg_lsn`` (PostgreSQL documentation 8.20); as a number it is one unsigned 64-bit integer.  formats.md, opening.
"""

from __future__ import annotations

import re

from witnz.errors import FormatError

_LSN = re.compile(r"(0|[1-9A-F][0-9A-F]{0,7})/(0|[1-9A-F][0-9A-F]{0,7})")
_MAX = (1 << 64) - 1


def parse_lsn(text: str) -> int:
    """The 64-bit position that ``text`` names.

    Raises :class:`FormatError` for anything but the one spelling that :func:`format_lsn` gives: no lower case, no padding, no
    sign, no space.
    """
    match = _LSN.fullmatch(text)
    if match is None:
        raise FormatError(f"LSN: expected %X/%X such as 0/1949850, found {text[:40]!r}")
    high, low = match.groups()
    return int(high, 16) << 32 | int(low, 16)


def format_lsn(lsn: int) -> str:
    """The text of a 64-bit position; the inverse of :func:`parse_lsn`.  Raises :class:`FormatError` outside 0 … 2^64 - 1."""
    if not 0 <= lsn <= _MAX:
        raise FormatError(f"LSN: expected an unsigned 64-bit position, found {lsn}")
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
