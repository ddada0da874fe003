"""A range of keys, ordered as PostgreSQL orders them and as the store can look them up (architecture.md 7, rolling).

A range is ``(low, high]`` of one key column, as text; None is an open end, so consecutive ranges leave nothing out.  Only types
whose order follows from their text without asking a database qualify: the integers, by number, and uuid, byte by byte.

The store keeps keys of one length in the order of their bytes; a *span* is an inclusive stretch of keys of one length.  For
integers that is one span a sign and number of digits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from witnz.core.entry import SchemaColumn
from witnz.errors import FormatError, UsageError

KeyKind = Literal["integer", "uuid"]
_KINDS: Final[Mapping[int, KeyKind]] = {
    20: "integer",
    21: "integer",
    23: "integer",
    2950: "uuid",
}  # pg_type: int8 int2 int4 uuid
_INTEGER: Final = re.compile(r"0|-?[1-9][0-9]{0,18}")
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1
_DIGITS: Final = 19
MAX_PARTS: Final = 10_000

Span = tuple[bytes, bytes]


def key_kind(key_columns: Sequence[str], columns: Sequence[SchemaColumn], *, hidden: bool) -> KeyKind:
    """How the keys of a table are ordered.  Raises UsageError where ranges of them cannot be formed."""
    types = [column.typoid for column in columns if column.name in key_columns]
    if hidden or len(types) != 1 or types[0] not in _KINDS:
        raise UsageError(
            "ranges of keys need a readable key of one column of type smallint, integer, bigint or uuid",
            hint="verify this table in whole snapshots (verify_mode: snapshot)",
        )
    return _KINDS[types[0]]


@dataclass(frozen=True, slots=True)
class KeyRange:
    """The keys above ``low`` up to and with ``high``.  Raises FormatError for bounds that are no keys or in wrong order."""

    kind: KeyKind
    low: str | None
    high: str | None

    def __post_init__(self) -> None:
        pattern = _INTEGER if self.kind == "integer" else _UUID
        for bound in (self.low, self.high):
            if bound is not None and pattern.fullmatch(bound) is None:
                raise FormatError(f"key range: expected bounds of type {self.kind}, found {bound[:40]!r}")
        if self.low is not None and self.high is not None and not order(self.kind, self.low) < order(self.kind, self.high):
            raise FormatError(f"key range: expected {self.low} to come before {self.high}")

    @classmethod
    def parse(cls, kind: KeyKind, body: Mapping[str, Any]) -> KeyRange:
        """The ``range`` of a ``verify`` record."""
        return cls(kind, body["from"], body["to"])

    def to_body(self) -> dict[str, str | None]:
        return {"from": self.low, "to": self.high}

    def __str__(self) -> str:
        return f"({'start' if self.low is None else self.low}, {'end' if self.high is None else self.high}]"

    def holds(self, key: bytes) -> bool:
        """Whether a state key lies in the range; a key of another type lies in none."""
        try:
            place = order(self.kind, key.decode("ascii"))
        except (FormatError, UnicodeDecodeError):
            return False
        low = None if self.low is None else order(self.kind, self.low)
        return (low is None or low < place) and (self.high is None or place <= order(self.kind, self.high))

    def spans(self) -> Iterator[Span]:
        """Every key of the range lies in one of these, and no other key of its type does, but perhaps ``low`` itself."""
        if self.kind == "uuid":
            zero, ones = b"00000000-0000-0000-0000-000000000000", b"ffffffff-ffff-ffff-ffff-ffffffffffff"
            yield self.low.encode() if self.low else zero, self.high.encode() if self.high else ones
            return
        low = _LEAST if self.low is None else int(self.low) + 1
        high = _MOST if self.high is None else int(self.high)
        yield from ((b"-%d" % a, b"-%d" % b) for a, b in _by_digits(max(1, -high), -low))
        yield from ((b"%d" % a, b"%d" % b) for a, b in _by_digits(max(0, low), high))


def order(kind: KeyKind, text: str) -> int:
    """The place of a key among all of its kind.  Raises FormatError for what is no key of that kind."""
    if kind == "integer" and _INTEGER.fullmatch(text):
        return int(text)
    if kind == "uuid" and _UUID.fullmatch(text):
        return int(text.replace("-", ""), 16)
    raise FormatError(f"key: expected a value of type {kind}")


def parse_sample(text: str) -> tuple[int, int]:
    """``N/T``.  Raises UsageError for anything else."""
    wanted, slash, parts = text.partition("/")
    if not slash or not wanted.isdecimal() or not parts.isdecimal() or not 1 <= int(wanted) <= int(parts) <= MAX_PARTS:
        raise UsageError(f"sample: expected N/T with 1 <= N <= T <= {MAX_PARTS}, such as 1/20, found {text[:40]!r}")
    return int(wanted), int(parts)


def _by_digits(low: int, high: int) -> Iterator[tuple[int, int]]:
    """Stretches of numbers with equally many digits."""
    for digits in range(1, _DIGITS + 1):
        a, b = max(low, 10 ** (digits - 1) if digits > 1 else 0), min(high, 10**digits - 1)
        if a <= b:
            yield a, b
