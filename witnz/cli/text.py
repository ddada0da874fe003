"""Values as people read them: ages, sizes, counts, digests, columns; and nothing that a terminal would obey.

Keys and names come from a database that somebody else writes, so everything shown goes through :func:`printable`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_ANSI = re.compile("\x1b\\[[0-9;]*m")
_SIZES = ("bytes", "kB", "MB", "GB", "TB")


def printable(text: object) -> str:
    """``text`` with every control, direction and surrogate character as an escape, so that it is one harmless line."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], str(text))


def count(number: int, one: str = "", many: str = "") -> str:
    """``1,204,498 rows``; the noun is optional, its plural an s unless given."""
    noun = one if number == 1 else (many or f"{one}s") if one else ""
    return f"{number:,} {noun}".rstrip()


def duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``3 min``, ``5 h``, ``9 days``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def age(seconds: float | None) -> str:
    """``12 s ago``, or ``never``."""
    return "never" if seconds is None else f"{duration(seconds)} ago"


def size(size_bytes: int | None) -> str:
    """``4.1 kB``; a power of 1024, as PostgreSQL counts."""
    if size_bytes is None:
        return "unknown"
    value, unit = float(size_bytes), 0
    while value >= 1024 and unit < len(_SIZES) - 1:
        value, unit = value / 1024, unit + 1
    return f"{size_bytes} bytes" if unit == 0 else f"{value:.1f} {_SIZES[unit]}"


def short(digest: str | None) -> str:
    """The first twelve characters of a digest, for a table; details show all of it."""
    if digest is None:
        return "none"
    return digest if len(digest) <= 13 else f"{digest[:12]}…"


def columns(rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), gap: str = "  ") -> list[str]:
    """Lines with aligned cells.  Cells may be coloured; ``right``: the columns of numbers."""
    if not rows:
        return []
    widths = [max(_width(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for at, cell in enumerate(row):
            fill = " " * (widths[at] - _width(cell))
            cells.append(fill + cell if at in right else cell + fill)
        lines.append(gap.join(cells).rstrip())
    return lines


def _width(cell: str) -> int:
    """Columns of a terminal that a cell takes: wide characters take two, colours none."""
    plain = _ANSI.sub("", cell)
    if plain.isascii():
        return len(plain)
    from rich.cells import cell_len

    return cell_len(plain)
