"""Blocks: a table's decoded changes, hashed and keyed, ready to become entries.

A block is a set of parallel lists, one element per future entry, in stream order.  It is what the recorder judges and stores,
and what the spool keeps while a generation is being opened; everything in it comes from the stream alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from witnz.core import hashing
from witnz.core.classify import DELETE, INSERT, SCHEMA, TRUNCATE, UPDATE
from witnz.core.entry import entry_suffix
from witnz.core.keyplan import NO_KEY, KeyPlan
from witnz.core.message import Message
from witnz.postgres.pgoutput import Rows

NO_MESSAGE = Message(None, None, None)

OldHashes = tuple[bytes, ...]


@dataclass(slots=True)
class Transaction:
    """One committed transaction as the stream tells it; ``message`` is the last ``witnz`` message before the rows at hand."""

    final_lsn: int
    xid: int
    xid64: int
    at: int
    message: Message = NO_MESSAGE
    suffix: bytes = b""

    def __post_init__(self) -> None:
        self.speak(self.message)

    def speak(self, message: Message) -> None:
        """A new message holds for the rows that follow it."""
        self.message = message
        self.suffix = entry_suffix(self.final_lsn, self.xid, self.at, message.by, message.hint, message.intent)


@dataclass(slots=True)
class Said:
    """What all entries written under one message of one transaction share."""

    tx: Transaction
    message: Message
    suffix: bytes


@dataclass(slots=True)
class Block:
    """Parallel lists: operation, state key (None: no key), key field, row hash, what was said, old row hashes, row line.

    ``old_hashes``: where the stream carried the old tuple whole (REPLICA IDENTITY FULL), the hashes under which it may have
    been recorded: as it stands, then under the fewer columns there were before.  Empty where nobody can say.
    ``lines`` is filled only for tables that retain rows.
    """

    ops: list[bytes] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    fields: list[bytes] = field(default_factory=list)
    hashes: list[bytes | None] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)
    old_hashes: list[OldHashes] = field(default_factory=list)
    lines: list[bytes | None] = field(default_factory=list)
    only_inserts: bool = True

    def __len__(self) -> int:
        return len(self.ops)

    def add(
        self,
        op: bytes,
        key: bytes | None,
        key_field: bytes,
        row_hash: bytes | None,
        said: Said,
        *,
        old_hashes: OldHashes = (),
        line: bytes | None = None,
    ) -> None:
        """Append one future entry."""
        if op != INSERT:
            self.only_inserts = False
        self.ops.append(op)
        self.keys.append(key)
        self.fields.append(key_field)
        self.hashes.append(row_hash)
        self.said.append(said)
        self.old_hashes.append(old_hashes)
        self.lines.append(line)

    def split(self, first: Callable[[Said], bool]) -> tuple[Block, Block]:
        """Two blocks: the entries for which ``first`` holds, and the others, each in order."""
        parts = (Block(), Block())
        for op, key, key_field, row_hash, said, old_hashes, line in zip(
            self.ops, self.keys, self.fields, self.hashes, self.said, self.old_hashes, self.lines, strict=True
        ):
            parts[0 if first(said) else 1].add(op, key, key_field, row_hash, said, old_hashes=old_hashes, line=line)
        return parts

    def add_schema(self, hint: str, tx: Transaction) -> None:
        """The schema entry that precedes the first row under a new description."""
        suffix = entry_suffix(tx.final_lsn, tx.xid, tx.at, None, hint, None)
        self.add(SCHEMA, None, NO_KEY, None, Said(tx, NO_MESSAGE, suffix))

    def add_truncate(self, said: Said) -> None:
        self.add(TRUNCATE, None, NO_KEY, None, said)

    def add_rows(self, rows: Rows, plan: KeyPlan, said: Said, *, retain: bool, earlier: Sequence[int] | None = ()) -> None:
        """Hash and key one run of row messages.

        ``earlier``: with how many of the first columns rows were recorded before, if there are more now, the most first; None:
        what they were recorded under can not be told.
        """
        if rows.op == INSERT:
            self._add_inserts(rows, plan, said, retain=retain)
        elif rows.op == DELETE:
            self._add_deletes(rows, plan, said, earlier)
        else:
            self._add_updates(rows, plan, said, earlier, retain=retain)

    def _add_inserts(self, rows: Rows, plan: KeyPlan, said: Said, *, retain: bool) -> None:
        lines = rows.new
        count = len(lines)
        hashes = new_row_hashes(rows, plan.secret)
        if plan.keyed:
            keys, fields = plan.state_keys(lines)
            self.keys += keys
            self.fields += fields
        else:
            self.keys += [None] * count
            self.fields += [NO_KEY] * count
        self.ops += [INSERT] * count
        self.hashes += hashes
        self.said += [said] * count
        self.old_hashes += [()] * count
        self.lines += list(lines) if retain else [None] * count

    def _add_deletes(self, rows: Rows, plan: KeyPlan, said: Said, earlier: Sequence[int] | None) -> None:
        old = [line if line is not None else b"" for line in rows.old]
        hashes: list[bytes | None] = hashing.row_hashes(plan.secret, old) if rows.whole else [None] * len(old)
        befores = old_row_hashes(rows, hashes, plan.secret, earlier)
        keys, fields = plan.state_keys(old) if plan.keyed else ([None] * len(old), [NO_KEY] * len(old))
        for i, gone in enumerate(hashes):
            self.add(DELETE, keys[i], fields[i], gone, said, old_hashes=befores[i])

    def _add_updates(self, rows: Rows, plan: KeyPlan, said: Said, earlier: Sequence[int] | None, *, retain: bool) -> None:
        hashes = new_row_hashes(rows, plan.secret)
        olds: Sequence[bytes | None] = hashing.row_hashes(plan.secret, rows.old) if rows.whole else [None] * len(hashes)
        befores = old_row_hashes(rows, olds, plan.secret, earlier)
        if not plan.keyed:
            for line, new_hash, old_hash, before in zip(rows.new, hashes, olds, befores, strict=True):
                self.add(DELETE, None, NO_KEY, old_hash, said, old_hashes=before)
                self.add(UPDATE, None, NO_KEY, new_hash, said, line=line if retain else None)
            return
        keys, fields = plan.state_keys(rows.new)
        old_keys, old_fields = keys, fields
        if any(line is not None for line in rows.old):
            known = [new if old is None else old for new, old in zip(rows.new, rows.old, strict=True)]
            old_keys, old_fields = plan.state_keys(known)
        for i, after in enumerate(hashes):
            image = rows.new[i] if retain else None
            if old_keys[i] == keys[i]:
                self.add(UPDATE, keys[i], fields[i], after, said, old_hashes=befores[i], line=image)
            else:
                self.add(DELETE, old_keys[i], old_fields[i], olds[i], said, old_hashes=befores[i])
                self.add(UPDATE, keys[i], fields[i], after, said, line=image)


def new_row_hashes(rows: Rows, secret: bytes) -> list[bytes | None]:
    """Row hashes of the new versions; None where unchanged TOAST values left a row unresolved (formats.md 1)."""
    if not rows.unresolved:
        return hashing.row_hashes(secret, rows.new)
    lines: list[bytes | None] = list(rows.new)
    for i in rows.unresolved:
        lines[i] = None
    return hashing.row_hashes(secret, lines)


def old_row_hashes(
    rows: Rows, olds: Sequence[bytes | None], secret: bytes, earlier: Sequence[int] | None
) -> Sequence[OldHashes]:
    """:attr:`Block.old_hashes` of rows that go or change, whose old tuples have the hashes ``olds``."""
    if earlier is None or not rows.whole:
        return [()] * len(olds)
    found = [(row,) if row is not None else () for row in olds]
    for columns in earlier:
        cut = [None if line is None else b"\t".join(line.split(b"\t", columns)[:columns]) for line in rows.old]
        for i, row in enumerate(hashing.row_hashes(secret, cut)):
            found[i] = (*found[i], row) if row is not None else found[i]
    return found
