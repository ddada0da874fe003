r"""Tuples of pgoutput as row lines, many at once.

    tuple  = columns(2) *column                      numbers big-endian
    column = "n" | "u" | "t" length(4) value         NULL, unchanged TOAST value, text without any NUL byte

(PostgreSQL documentation 55.9 "Logical Replication Message Formats", TupleData.  "b", a binary value, is never asked for and
refused.)  A value becomes a cell by COPY's escapes (:mod:`witnz.core.rowline`), NULL is ``\N``, and an unchanged TOAST value
that nothing in its message tells is :data:`UNCHANGED`.

The strict way, :func:`read_tuple`, goes column by column and bounds every length.  It costs a Python loop per column, so the
first row of a run and short runs go that way, which notices a server that speaks differently than expected, and most others
take the fast way: one regular expression matches the message of a row that has all its values,

    head(8)  ( "t" 00 any any any  ([^00]*) ) * columns  end

Why the fast way can never give another line than the strict one.  Take a message of less than 2^24 bytes that the strict way
accepts.  Every length then begins with a 00 byte, and no value holds one.  The first header is at offset 8.  A group holds no
00 and has to be followed by "t" 00, so it ends one byte before the first 00 behind its header; the value holds no 00 and the
next header begins "t" 00, so that is where the value ends.  What the other three bytes of a length are does not matter: they
are stepped over, never looked at.  By induction there is one way to match, and its groups are the values.  A NULL or "u" column
has no "t" 00, so such a message has too few headers and does not match.  Messages of 2^24 bytes and more go the strict way.

Where the package was installed with a C compiler, a third way takes the place of the second for messages of one tuple: the
strict one in C (``_fast_tuples.pyx``), which leaves to the strict one what has an unchanged TOAST value or does not fit.

What the fast way does not do is compare each length with its value.  Lengths that lie are not in PostgreSQL's power; and who
can forge messages could as well send the same row with lengths that fit.
"""

from __future__ import annotations

import re
import struct
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import methodcaller
from typing import Final, cast

from witnz.core.rowline import NULL, escape
from witnz.errors import FormatError

try:
    from witnz.postgres._fast_tuples import read_lines
except ImportError:
    read_lines = None  # type: ignore[assignment]

UNCHANGED: Final = rb"\U"
"""The cell of a value that the message leaves out because it did not change; COPY never writes it."""

HEAD_BYTES: Final = 8
"""Type, relation, kind of tuple and number of columns: what all messages of a run have in common."""

_FAST_BELOW_BYTES: Final = 1 << 24  # from here on a length's first byte may not be 00
_FAST_FROM_ROWS: Final = 4
_LEARN_AFTER: Final = 64
_CHUNK_ROWS: Final = 256  # at once: more of them do not stay in the processor's cache, at twice the cost
_MAX_COUNTED: Final = 256
_BETWEEN: Final = b"\n"  # two lines of one message, until they are taken apart; no line has a raw newline
_VALUE: Final = rb"t\x00...([^\x00]*)"
_VALUE_BEFORE_NULL: Final = rb"t\x00(...)([^\x00]*)"
_SPECIAL = re.compile(rb"[\\\x08-\x0d\x00]")
_ESCAPES: Final = [(raw, escape(raw)) for raw in (b"\\", b"\b", b"\t", b"\n", b"\v", b"\f", b"\r")]  # the backslash first

_columns = struct.Struct(">H").unpack_from
_length = struct.Struct(">I").unpack_from
_groups = re.Match[bytes].groups


def read_tuple(message: bytes, at: int, columns: int) -> tuple[list[bytes], list[int], int]:
    """The cells of the tuple at offset ``at``, the indices of its NULLs, and the offset behind it: the strict way.

    Raises :class:`FormatError` for another number of columns, an unknown kind of column, a length beyond the message and a NUL
    byte in a value.
    """
    cells: list[bytes] = []
    nulls: list[int] = []
    unchanged: list[int] = []
    try:
        (found,) = _columns(message, at)
        if found != columns:
            raise FormatError(f"expected a tuple of {columns} columns, found {found}")
        at += 2
        for _ in range(columns):
            kind = message[at]
            if kind == 0x74:  # t
                start = at + 5
                at = start + _length(message, at + 1)[0]
                cells.append(message[start:at])
                continue
            if kind == 0x6E:  # n
                nulls.append(len(cells))
            elif kind == 0x75:  # u
                unchanged.append(len(cells))
            else:
                raise FormatError(f"expected a column of kind t, n or u, found {chr(kind)!r} in column {len(cells) + 1}")
            cells.append(b"")
            at += 1
    except (IndexError, struct.error):
        at = len(message) + 1
    if at > len(message):
        raise FormatError(f"expected a tuple of {columns} columns, found the message's end in column {len(cells)}")
    if _SPECIAL.search(b"".join(cells)):
        cells = list(map(escape, cells))
    for index in nulls:
        cells[index] = NULL
    for index in unchanged:
        cells[index] = UNCHANGED
    return cells, nulls, at


class _Shape:
    """The fast way for the messages whose NULLs are in one particular set of columns; to begin with, in none.

    ``nulls`` counts columns from 0 through all ``tuples`` of a message, one or two (old and new).  With NULLs, too, the headers
    lie where the 00 bytes are, and a message with another number of NULLs has another number of headers and does not match.
    But "n" may also be a value's last letter: before a header ``xn`` is the value ``xn``, or ``x`` and a NULL.  So the length
    of every value before NULLs is compared.  If all fit, the message has as many NULLs where they are expected as it has in
    all (those before a tuple's first header stand by themselves): none can be anywhere else.
    """

    __slots__ = ("_checks", "_join", "_match", "_values", "_wanted", "nulls")

    def __init__(self, columns: int, tuples: int, nulls: tuple[int, ...]) -> None:
        pattern = [b".{%d}" % HEAD_BYTES]
        template = b""
        checks: list[tuple[int, int]] = []
        values: list[int] = []  # the numbers of their groups
        groups = 0
        for column in range(columns * tuples):
            if column and column % columns == 0:
                pattern.append(re.escape(b"N" + columns.to_bytes(2)))
                template += _BETWEEN
            elif column:
                template += b"\t"
            if column in nulls:
                pattern.append(b"n")
                template += NULL
                continue
            if column + 1 in nulls:
                checks.append((groups + 1, groups + 2))
            pattern.append(_VALUE_BEFORE_NULL if column + 1 in nulls else _VALUE)
            groups += 2 if column + 1 in nulls else 1
            template += b"%b"
            values.append(groups)
        self.nulls = nulls
        self._match = re.compile(b"".join(pattern), re.DOTALL).fullmatch
        self._checks = checks
        self._values = _picker(values) if checks else _groups
        self._join = template.__mod__ if nulls or tuples > 1 else b"\t".join
        self._wanted = [(raw, template.count(raw)) for raw, _ in _ESCAPES]

    def read(self, run: Sequence[bytes]) -> list[bytes | None]:
        """The line (or two, apart by a newline) of each message; None for one that has other NULLs."""
        matches = list(map(self._match, run))
        if self._checks:
            matches = [match if match is not None and self._fits(match) else None for match in matches]
        rows = list(map(self._values, filter(None, matches)))
        lines = list(map(self._join, rows))
        escapes = self._needed(lines)
        if escapes:
            lines = [self._join(_escape_all(values, escapes)) for values in rows]
        if len(lines) == len(run):
            return list(lines)
        ready = iter(lines)
        return [None if match is None else next(ready) for match in matches]

    def _fits(self, match: re.Match[bytes]) -> bool:
        return all(int.from_bytes(match[claim]) == match.end(value) - match.start(value) for claim, value in self._checks)

    def _needed(self, lines: list[bytes]) -> list[tuple[bytes, bytes]]:
        """The escapes of the bytes that ``lines``, joined as yet without any, have from their values."""
        text = b"".join(lines)
        return [
            pair
            for pair, (raw, own) in zip(_ESCAPES, self._wanted, strict=True)
            if (text.count(raw) != own * len(lines) if own else raw in text)
        ]


class _RunReader(ABC):
    """Reads runs of one kind of message of one relation, and learns which combinations of NULLs it usually has."""

    __slots__ = ("_columns", "_counted", "_shapes", "_tuples")

    def __init__(self, columns: int, tuples: int) -> None:
        self._columns = columns
        self._tuples = tuples
        self._shapes = [_shape_of(columns, tuples, ())]  # at most two, the more frequent one first
        self._counted: Counter[tuple[int, ...]] = Counter()

    def _read(self, run: Sequence[bytes]) -> tuple[list[bytes], tuple[int, ...]]:
        """The line (or two, apart by a newline) of each message, and the indices of those that have an UNCHANGED cell."""
        lines: list[bytes | None] = [None] * len(run)
        if len(run) >= _FAST_FROM_ROWS and max(map(len, run)) < _FAST_BELOW_BYTES:
            lines[1:] = self._read_fast(run[1:])
        unresolved = []
        for i, line in enumerate(lines):
            if line is None:
                lines[i], complete = self._read_strictly(run[i])
                if not complete:
                    unresolved.append(i)
        return cast("list[bytes]", lines), tuple(unresolved)

    def _read_fast(self, run: Sequence[bytes]) -> list[bytes | None]:
        """The lines of the messages that have a known combination of NULLs, up to where hardly any has."""
        lines: list[bytes | None] = []
        for start in range(0, len(run), _CHUNK_ROWS):
            chunk = self._try_shapes(run[start : start + _CHUNK_ROWS])
            lines += chunk
            if 4 * chunk.count(None) > 3 * len(chunk):
                break
        return lines + [None] * (len(run) - len(lines))

    def _try_shapes(self, run: Sequence[bytes]) -> list[bytes | None]:
        lines = self._shapes[0].read(run)
        if len(self._shapes) == 1 or None not in lines:
            return lines
        left = [i for i, line in enumerate(lines) if line is None]
        more = self._shapes[1].read([run[i] for i in left])
        for i, line in zip(left, more, strict=True):
            lines[i] = line
        if len(left) - more.count(None) > len(run) - len(left):
            self._shapes.reverse()
        return lines

    @abstractmethod
    def _read_strictly(self, message: bytes) -> tuple[bytes, bool]:
        """The line (or two), and whether all values are known."""

    def _learn(self, nulls: list[int]) -> None:
        """Count what the fast way missed; a combination of NULLs that it misses often takes the second place."""
        key = tuple(nulls)
        if key in [shape.nulls for shape in self._shapes] or len(key) == self._columns * self._tuples:
            return
        self._counted[key] += 1
        if self._counted[key] >= _LEARN_AFTER:
            self._shapes = [self._shapes[0], _shape_of(self._columns, self._tuples, key)]
            self._counted.clear()
        elif len(self._counted) > _MAX_COUNTED:
            self._counted.clear()


class TupleReader(_RunReader):
    """Messages that hold one tuple from offset 6 to their end: inserts, deletes, updates without an old tuple."""

    __slots__ = ()

    def __init__(self, columns: int) -> None:
        super().__init__(columns, 1)

    def lines(self, run: Sequence[bytes]) -> tuple[list[bytes], tuple[int, ...]]:
        """The row line of each message, and the indices of those with an UNCHANGED cell.

        Raises :class:`FormatError` as :func:`read_tuple` does, and for trailing bytes.
        """
        return self._read(run)

    def _read_strictly(self, message: bytes) -> tuple[bytes, bool]:
        cells, nulls, end = read_tuple(message, HEAD_BYTES - 2, self._columns)
        _check_end(message, end)
        complete = UNCHANGED not in cells
        if complete:
            self._learn(nulls)
        return b"\t".join(cells), complete


class CompiledTupleReader(TupleReader):
    """The same; what the fast way was is C."""

    __slots__ = ()

    def _read_fast(self, run: Sequence[bytes]) -> list[bytes | None]:
        return read_lines(run, self._columns, HEAD_BYTES - 2)


def tuple_reader(columns: int) -> TupleReader:
    """The quickest that there is here."""
    return TupleReader(columns) if read_lines is None or not columns else CompiledTupleReader(columns)


class PairReader(_RunReader):
    """Updates that carry the old tuple too: K (key columns, the others NULL) or O (whole, REPLICA IDENTITY FULL).

    ``carried``: for each column whether an unchanged TOAST value of the new tuple may be taken from the old one.
    """

    __slots__ = ("_carried",)

    def __init__(self, carried: Sequence[bool]) -> None:
        super().__init__(len(carried), 2)
        self._carried = tuple(carried)

    def lines(self, run: Sequence[bytes]) -> tuple[list[bytes], list[bytes], tuple[int, ...]]:
        """The new and the old row line of each message, and the indices of the new ones with an UNCHANGED cell.

        Raises :class:`FormatError` as :func:`read_tuple` does, for a missing new tuple, for trailing bytes, and for an old
        tuple that leaves values out, which PostgreSQL writes in full (ExtractReplicaIdentity in heapam.c).
        """
        lines, unresolved = self._read(run)
        both = [line.split(_BETWEEN) for line in lines]
        return [new for _, new in both], [old for old, _ in both], unresolved

    def _read_strictly(self, message: bytes) -> tuple[bytes, bool]:
        before, nulls, at = read_tuple(message, HEAD_BYTES - 2, self._columns)
        if UNCHANGED in before:
            raise FormatError("expected an old tuple with all its values, found an unchanged TOAST value")
        if message[at : at + 1] != b"N":
            raise FormatError(f"expected the new tuple N after the old one, found {message[at : at + 1]!r}")
        cells, more_nulls, end = read_tuple(message, at + 1, self._columns)
        _check_end(message, end)
        if UNCHANGED in cells:
            known = zip(cells, before, self._carried, strict=True)
            cells = [old if cell == UNCHANGED and carried else cell for cell, old, carried in known]
        else:
            self._learn(nulls + [self._columns + column for column in more_nulls])
        return b"\t".join(before) + _BETWEEN + b"\t".join(cells), UNCHANGED not in cells


@lru_cache(maxsize=256)
def _shape_of(columns: int, tuples: int, nulls: tuple[int, ...]) -> _Shape:
    return _Shape(columns, tuples, nulls)


def _picker(groups: list[int]) -> Callable[[re.Match[bytes]], tuple[bytes, ...]]:
    """What gives these groups of a match; ``group`` itself gives a tuple only for two and more."""
    if len(groups) == 1:
        return lambda match: (match[groups[0]],)
    return methodcaller("group", *groups)


def _escape_all(values: Sequence[bytes], escapes: list[tuple[bytes, bytes]]) -> tuple[bytes, ...]:
    """``values``, which hold no NUL byte, escaped all at once."""
    joined = b"\0".join(values)
    for raw, escaped in escapes:
        joined = joined.replace(raw, escaped)
    return tuple(joined.split(b"\0"))


def _check_end(message: bytes, end: int) -> None:
    if end != len(message):
        raise FormatError(f"expected the message's end after {end} bytes, found {len(message) - end} more")
