"""From row lines to keys: where the key columns are, and how a key is written (formats.md 2, column 4).

A key is the key columns' own row line.  In the accepted state a row is found under its *state key*:

    plain key          the key line itself
    hidden or long     ``\\H`` and 64 hex digits of SHA256(secret || 0x00 || key line)
    table without key  32 bytes of row hash || 8 bytes of big-endian seq, because equal rows may occur more than once
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from witnz.core.entry import MAX_KEY, key_field
from witnz.core.rowline import escape, unescape
from witnz.errors import FormatError

NO_KEY = b"\\N"


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """Which cells of a row line are its key.  ``positions`` is empty for a table that has none."""

    positions: tuple[int, ...]
    secret: bytes
    hidden: bool

    @classmethod
    def of(cls, key_columns: Sequence[str], columns: Sequence[str], secret: bytes, *, hidden: bool) -> KeyPlan:
        """The plan for ``key_columns`` within the row's ``columns`` (both names, attnum order).

        Raises FormatError if a key column is not among the columns: then no key can be written and a new generation is due.
        """
        missing = [name for name in key_columns if name not in columns]
        if missing:
            raise FormatError(f"key column {missing[0]!r} is no longer among the columns of the table")
        return cls(tuple(columns.index(name) for name in key_columns), secret, hidden)

    @property
    def keyed(self) -> bool:
        return bool(self.positions)

    def key_lines(self, lines: Sequence[bytes]) -> list[bytes]:
        """The key line of each row line."""
        if self.positions == (0,):
            return [line.partition(b"\t")[0] for line in lines]
        positions = self.positions
        if len(positions) == 1:
            (at,) = positions
            return [line.split(b"\t", at + 1)[at] for line in lines]
        return [b"\t".join([cells[i] for i in positions]) for cells in [line.split(b"\t") for line in lines]]

    def state_keys(self, lines: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
        """(state keys, entry key fields) of row lines of a keyed table."""
        keys = self.key_lines(lines)
        if not self.hidden and keys:
            together = b"".join(keys)  # one look at all of them: almost no key needs more
            if b"\\" not in together and b"\t" not in together and len(max(keys, key=len)) <= MAX_KEY:
                return keys, keys
        fields = [key_field(k, self.secret, self.hidden) for k in keys]
        states = [field if field.startswith(b"\\H") else key for key, field in zip(keys, fields, strict=True)]
        return states, fields


def keyless_state_key(row_hash: bytes, seq: int) -> bytes:
    """The state key of one row of a table without a key."""
    return row_hash + seq.to_bytes(8, "big")


def key_text(field: bytes) -> str | None:
    """What people and findings call a key: the entry's key field as text, None where there is none."""
    return None if field == NO_KEY else field.decode("utf-8", "replace")


def state_key_of_entry(line: bytes, seq: int, row_hash: bytes | None, *, keyed: bool) -> bytes:
    """The state key under which the row of an entry line is found.

    A table with a key has entries without one from when its key column was dropped until its next generation.
    """
    field = line.split(b"\t", 4)[3] if keyed else NO_KEY
    if field == NO_KEY:
        return keyless_state_key(row_hash or bytes(32), seq)
    return field if field.startswith(b"\\H") else unescape(field)


def state_key_of_text(text: str) -> bytes:
    """The state key that findings, ``accept`` rows and ``erase`` records show as ``text``."""
    field = text.encode()
    return field if field.startswith(b"\\H") else unescape(field)


def text_of_state_key(key: bytes) -> str:
    """The inverse of :func:`state_key_of_text`."""
    return (key if key.startswith(b"\\H") else escape(key)).decode("utf-8", "replace")
