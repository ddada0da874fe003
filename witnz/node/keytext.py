"""Keys as people type them (interface.md 1, KEY).

one key column        the text of its value                      42          Zürich
several               col=value,col=value, in any order          flight=11,carrier=UA
as findings show it   the key field of the entry, escaped; a hidden or long key is \\H and 64 hex digits
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from witnz.core.entry import MAX_KEY, hide_key
from witnz.core.rowline import format_line, parse_line, unescape
from witnz.errors import FormatError, UsageError
from witnz.store.logs import LogRow

_HIDDEN = re.compile(r"\\H[0-9a-f]{64}")


def parse_key(text: str, columns: Sequence[str]) -> bytes:
    """The state key of a keyed table (:mod:`witnz.core.keyplan`): the key's row line, or the hidden form as it is.

    ``columns``: the key columns in their order.  Raises UsageError for a text that names no key of such a table.
    """
    if not columns:
        raise UsageError("the table has no key, so no row can be named by one", hint="name the entry by its number: --seq N")
    if _HIDDEN.fullmatch(text):
        return text.encode("ascii")
    if len(columns) == 1:
        return format_line([_encode(text.removeprefix(f"{columns[0]}="))])
    named = _named_values(text, columns)
    if named is not None:
        return format_line([_encode(value) for value in named])
    return _shown_key(text, columns)


def recorded_key(row: LogRow, text: str, *, hidden: bool) -> bytes:
    """The state key of a row that people name by ``text``, in the form in which this log records it."""
    line = parse_key(text, row.key_columns)
    if not line.startswith(b"\\H") and (hidden or len(line) > MAX_KEY):
        return b"\\H" + hide_key(line, row.secret).encode("ascii")
    return line


def _named_values(text: str, columns: Sequence[str]) -> list[str] | None:
    """The values of ``col=value,col=value`` in the order of ``columns``; None if the text does not name each column once."""
    alternatives = "|".join(re.escape(name) for name in sorted(columns, key=len, reverse=True))
    starts = [(match.start(), match.end(), match[1]) for match in re.finditer(f"(?:^|(?<=,))({alternatives})=", text)]
    if sorted(name for _, _, name in starts) != sorted(columns) or starts[0][0] != 0:
        return None
    ends = [start - 1 for start, _, _ in starts[1:]] + [len(text)]
    values = {name: text[value:end] for (_, value, name), end in zip(starts, ends, strict=True)}
    return [values[name] for name in columns]


def _shown_key(text: str, columns: Sequence[str]) -> bytes:
    """A key of several columns as a finding shows it, with TABs written as ``\\t``."""
    wanted = ",".join(f"{name}=…" for name in columns)
    try:
        line = unescape(_encode(text))
        if len(parse_line(line)) == len(columns):
            return line
    except FormatError:
        pass
    raise UsageError(f"key {text[:80]!r}: expected {wanted}", hint=f"the key of this table has {len(columns)} columns")


def _encode(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError("key: expected Unicode text, found a lone surrogate") from None
