"""What a block of entries does to the state of its table: accepted, applied, undo, findings.

Two states are kept per table (formats.md 3).  *Accepted*: the rows that a scan must find.  *Applied*: the rows as the
stream left them; it differs from the accepted one only for keys whose newest change nobody has accepted, and only those are
stored (the overlay).  For every transaction that some snapshot might not see yet, the values before it are kept (undo), so
that the expected state of *any* snapshot can be told exactly.

The common case, inserts of new keys that the rules accept, takes one statement per block; everything else is replayed entry by
entry over dictionaries that hold just the block's keys.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field

from witnz.core.classify import DELETE, INSERT, SCHEMA, TRUNCATE, UPDATE, judge
from witnz.core.keyplan import keyless_state_key
from witnz.node.block import Block, OldHashes, Said
from witnz.node.table_state import TableState
from witnz.store import departed, entries, erasures, live, undo

Intended = Callable[[Said, str], bool]


@dataclass(frozen=True, slots=True)
class Draft:
    """A finding about one entry, before it has an id: the class, the entry's seq and index, and the hashes to show."""

    cls: str
    seq: int
    index: int
    recorded: bytes | None
    found: bytes | None


@dataclass(slots=True)
class Applied:
    """What applying a block led to."""

    drafts: list[Draft] = field(default_factory=list)
    superseded: list[int] = field(default_factory=list)  # seqs that no longer are the accepted version of any row


def apply_block(
    conn: sqlite3.Connection, table: TableState, block: Block, first_seq: int, horizon: int, intended: Intended
) -> Applied:
    """Move the state of ``table`` by ``block``, whose entries get the seqs from ``first_seq`` on.

    ``horizon``: transactions with a smaller 64-bit xid are visible in every snapshot from now on and need no undo.
    ``intended(said, table_name)``: whether a valid intent covers the entry.
    """
    if block.only_inserts and table.rules.accepts_new_keys and not table.has_overlay and not _any_intent(block):
        items = _fresh_items(table, block, first_seq)
        if live.insert_fresh(conn, table.head.id, items):
            _undo_inserts(conn, table, block, items, horizon)
            return Applied()
    return _Replay(conn, table, block, first_seq, horizon, intended).run()


def _any_intent(block: Block) -> bool:
    """Whether an intent is to be counted, needed or not: every node must count the same ones."""
    return block.said[-1].message.intent is not None or any(said.message.intent is not None for said in block.said)


def _fresh_items(table: TableState, block: Block, first_seq: int) -> list[tuple[bytes, int]]:
    """(state key, seq) of a block of inserts."""
    if table.plan.keyed and None not in block.keys:
        return [(key or b"", seq) for seq, key in enumerate(block.keys, first_seq)]
    rows = enumerate(zip(block.keys, block.hashes, strict=True), first_seq)
    return [(keyless_state_key(row or bytes(32), seq) if key is None else key, seq) for seq, (key, row) in rows]


def _undo_inserts(
    conn: sqlite3.Connection, table: TableState, block: Block, items: list[tuple[bytes, int]], horizon: int
) -> None:
    rows = [
        (said.tx.xid64, table.head.id, seq, key, None, None)
        for said, (key, seq) in zip(block.said, items, strict=True)
        if said.tx.xid64 >= horizon
    ]
    if rows:
        undo.add_many(conn, rows)


class _Replay:
    """The exact way: one entry after another."""

    def __init__(
        self, conn: sqlite3.Connection, table: TableState, block: Block, first_seq: int, horizon: int, intended: Intended
    ) -> None:
        self.conn, self.table, self.block, self.first_seq = conn, table, block, first_seq
        self.horizon, self.intended = horizon, intended
        self.log = table.head.id
        self.result = Applied()
        self.undo_rows: list[tuple[int, int, int, bytes, int | None, int | None]] = []
        self.changed: set[bytes] = set()
        self.olds: list[tuple[int, int]] = []  # (index, seq of the version that was there), where the stream told what was
        self.accepted: dict[bytes, int | None] = {}
        self.applied: dict[bytes, int | None] = {}
        self.awaited: dict[bytes, int] = {}  # keys of rows that operators ordered to be erased, and the size before

    def run(self) -> Applied:
        self._load()
        block = self.block
        for index, op in enumerate(block.ops):
            if op == TRUNCATE:
                self._truncate(index)
            elif op != SCHEMA:
                self._row(index, op)
        self._write_back()
        self._check_old_images()
        return self.result

    def _load(self) -> None:
        keys = {key for key in self.block.keys if key is not None}
        if not keys:
            return
        if DELETE in self.block.ops:
            self.awaited = erasures.awaited(self.conn, self.log)
        accepted = live.accepted_many(self.conn, self.log, keys)
        self.accepted.update(accepted)
        self.applied.update(live.applied_many(self.conn, self.log, keys) if self.table.has_overlay else accepted)

    def _row(self, index: int, op: bytes) -> None:
        block, seq = self.block, self.first_seq + index
        named, row_hash, said = block.keys[index], block.hashes[index], block.said[index]
        intended = self.intended(said, self.table.name)
        key = self._keyless_key(op, row_hash, index, intended=intended) if named is None else named
        before_accepted = self.accepted.get(key)
        before_applied = self.applied.get(key)
        known = named is not None and (before_accepted is not None or before_applied is not None)
        erased = op == DELETE and self._erases(key, seq)
        cls = None if erased else judge(self.table.rules, op, intended=intended, key_known=known)
        after = seq if op in (INSERT, UPDATE) else None
        if cls is None:
            if before_accepted is not None:
                self.result.superseded.append(before_accepted)
            self.accepted[key] = after
        else:
            recorded = before_accepted if before_accepted is not None else before_applied
            self.result.drafts.append(Draft(cls, seq, index, self._hash_of(recorded), row_hash))
        self.applied[key] = after
        self.changed.add(key)
        if said.tx.xid64 >= self.horizon:
            self.undo_rows.append((said.tx.xid64, self.log, seq, key, before_accepted, before_applied))
        if named is not None and block.old_hashes[index] and before_applied is not None:
            self.olds.append((index, before_applied))

    def _erases(self, key: bytes, seq: int) -> bool:
        """Whether this is the delete that an order to erase the row covers: the first one behind it."""
        if self.awaited.get(key, seq) >= seq:
            return False
        del self.awaited[key]
        erasures.cover(self.conn, self.log, key, seq)
        return True

    def _keyless_key(self, op: bytes, row_hash: bytes | None, index: int, *, intended: bool) -> bytes:
        """The state key of a row without a key: a new one for a new row, the oldest equal one for a row that goes."""
        seq, old_hashes = self.first_seq + index, self.block.old_hashes[index]
        if op in (INSERT, UPDATE):
            return keyless_state_key(row_hash or bytes(32), seq)
        if row_hash is None:
            return keyless_state_key(bytes(32), seq)
        self._write_back()
        key = live.keyless_find(self.conn, self.log, row_hash, applied=True)
        if key is not None:
            self.accepted[key] = live.accepted_many(self.conn, self.log, [key]).get(key)
            self.applied[key] = live.applied_many(self.conn, self.log, [key]).get(key)
            return key
        if not old_hashes or self._departed(old_hashes[1:], index, intended=intended):
            # The old image shows columns that were not there when the row was recorded; the new generation will tell.
            return keyless_state_key(row_hash, seq)
        # Nothing recorded equals the row that went: the old image itself was tampered with before.
        self.result.drafts.append(Draft("row.modified", seq, seq - self.first_seq, None, row_hash))
        return keyless_state_key(row_hash, seq)

    def _truncate(self, index: int) -> None:
        """Every row goes at once; done in bulk, after what the block did so far is written."""
        seq, said = self.first_seq + index, self.block.said[index]
        self._write_back()
        self.awaited.clear()
        erasures.cover_all(self.conn, self.log, seq)
        xid = said.tx.xid64 if said.tx.xid64 >= self.horizon else None
        cls = judge(self.table.rules, TRUNCATE, intended=self.intended(said, self.table.name), key_known=True)
        if cls is None:
            live.truncate_accepted(self.conn, self.log, xid, seq)
            self.accepted = dict.fromkeys(self.accepted)
            self.table.has_overlay = False
        else:
            live.truncate_applied(self.conn, self.log, xid, seq)
            self.table.has_overlay = True
            self.result.drafts.append(Draft(cls, seq, index, None, None))
        self.applied = dict.fromkeys(self.applied)

    def _write_back(self) -> None:
        if not self.changed:
            return
        self._flush_undo()
        keys = self.changed
        live.set_accepted(self.conn, self.log, [(key, self.accepted.get(key)) for key in keys])
        differing = [(key, self.applied.get(key)) for key in keys if self.applied.get(key) != self.accepted.get(key)]
        if self.table.has_overlay:
            live.clear_overlay(self.conn, self.log, keys)
        if differing:
            live.set_overlay(self.conn, self.log, differing)
            self.table.has_overlay = True
        self.changed = set()

    def _flush_undo(self) -> None:
        if self.undo_rows:
            undo.add_many(self.conn, self.undo_rows)
            self.undo_rows = []

    def _hash_of(self, seq: int | None) -> bytes | None:
        if seq is None:
            return None
        if seq >= self.first_seq:
            return self.block.hashes[seq - self.first_seq]
        return entries.row_hash_at(self.conn, self.log, seq)

    def _check_old_images(self) -> None:
        """Under REPLICA IDENTITY FULL the stream shows what was there: it must be what was recorded (architecture.md 2)."""
        for index, before in self.olds:
            recorded, olds = self._hash_of(before), self.block.old_hashes[index]
            if recorded is not None and recorded not in olds and not self._restores(index, recorded):
                self.result.drafts.append(Draft("row.modified", self.first_seq + index, index, recorded, olds[0]))

    def _departed(self, hashes: OldHashes, index: int, *, intended: bool) -> bool:
        """Whether the row that went was recorded when the table had fewer columns; noted if its going is accepted."""
        for row_hash in hashes:
            here = live.keyless_count(self.conn, self.log, row_hash, applied=True)
            if here > departed.count(self.conn, self.log, row_hash):
                if judge(self.table.rules, DELETE, intended=intended, key_known=False) is None:
                    xid = self.block.said[index].tx.xid64
                    departed.add(self.conn, self.log, self.first_seq + index, xid, row_hash)
                return True
        return False

    def _restores(self, index: int, recorded: bytes) -> bool:
        """Whether an entry under a valid intent makes its row what was recorded: a repair of what is a finding already."""
        return self.block.hashes[index] == recorded and self.intended(self.block.said[index], self.table.name)
