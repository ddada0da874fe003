"""The state that a scan under a given snapshot must find, from the store alone (formats.md 3, accepted state).

The store holds the accepted state as of the newest transaction it recorded.  What a snapshot could not see yet is taken
back key by key, to the value before the first such transaction: per key the visible transactions are a prefix of commit
order (architecture.md 7).  Row hashes are read from the log's hash blocks in one pass, never row by row.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

from witnz.core import hashing
from witnz.core.keyplan import state_key_of_entry
from witnz.core.keyrange import KeyRange
from witnz.core.state import HASH, bucket_of, split_hashes
from witnz.core.tiles import TILE
from witnz.errors import StoreCorrupt
from witnz.postgres.xid import Snapshot
from witnz.store import entries, granted, live, undo
from witnz.store.logs import log_size
from witnz.store.verified_states import VerifiedState
from witnz.store.versions import row_hashes
from witnz.verify.partition import Partitions

ABSENT = bytes(HASH)  # stands in a hash block for an entry without a row hash

Undone = dict[bytes, tuple[int | None, int | None]]


@dataclass(frozen=True, slots=True)
class ExpectedRow:
    """One accepted row: its state key, the entry that it comes from (negative: granted by an operator), its hash."""

    key: bytes
    seq: int
    row_hash: bytes | None


class ExpectedState:
    """The accepted state of one log under one snapshot.

    ``conn`` must be one consistent read of the store, begun after the stream passed the snapshot's marker.  ``key_range``: as
    if the table had no other keys; :meth:`by_keys` and :meth:`applied` still answer for any.
    """

    def __init__(
        self,
        conn: sqlite3.Connection,
        log: int,
        size: int,
        snapshot: Snapshot,
        *,
        keyed: bool,
        key_range: KeyRange | None = None,
    ) -> None:
        self.conn, self.log, self.size, self._keyed, self._range = conn, log, size, keyed, key_range
        self.undone: Undone = undo.invisible(conn, log, snapshot.visible)
        self._flags, self._granted = self._live_versions()
        self.unresolved = 0

    def _live_versions(self) -> tuple[bytearray, list[int]]:
        """One flag per entry that is somebody's accepted version; and the granted ones (negative seqs)."""
        if self._range is None:
            flags = live.live_flags(self.conn, self.log)
            extra = set(live.granted_seqs(self.conn, self.log))
        else:
            flags, extra = self._in_range(self._range)

        def mark(seq: int | None, flag: int) -> None:
            if seq is None:
                return
            if seq > 0:
                flags[seq] = flag
            elif flag:
                extra.add(seq)
            else:
                extra.discard(seq)

        here = {key for key in self.undone if self._range is None or self._range.holds(key)}
        now = live.accepted_many(self.conn, self.log, list(here))
        for key in here:
            mark(now.get(key), 0)
            mark(self.undone[key][0], 1)
        return flags, sorted(extra)

    def _in_range(self, key_range: KeyRange) -> tuple[bytearray, set[int]]:
        """:meth:`_live_versions` without the keys beyond a range, before anything is taken back."""
        flags, extra = bytearray(log_size(self.conn, self.log) + 1), set[int]()
        for low, high in key_range.spans():
            for key, seq in live.accepted_between(self.conn, self.log, low, high):
                if not key_range.holds(key):
                    continue
                if seq < 0:
                    extra.add(seq)
                elif seq < len(flags):
                    flags[seq] = 1
                else:
                    raise StoreCorrupt(f"accepted state of log {self.log}: it names an entry that the log does not have")
        return flags, extra

    @property
    def count(self) -> int:
        return self._flags.count(1) + len(self._granted)

    def alive(self) -> tuple[bytes, tuple[int, ...]]:
        """Which entries are accepted versions, one byte each and compressed, and the granted ones: what `saved_state` reads."""
        return zlib.compress(bytes(self._flags), 1), tuple(self._granted)

    def hashes(self, spill_dir: Path) -> Partitions:
        """All accepted row hashes; counts the rows that have none in ``unresolved``."""
        out = Partitions(spill_dir)
        self.unresolved = 0
        for _, packed, flags in self._flagged_blocks():
            chosen = packed if flags.count(1) == len(flags) else hashing.pick_slices(packed, flags)
            there = _resolved(chosen)
            self.unresolved += (len(chosen) - len(there)) // HASH
            out.add(there)
        for seq in self._granted:
            out.add(granted.get(self.conn, self.log, seq)[1])
        return out

    def rows_in(self, buckets: set[int]) -> Iterator[ExpectedRow]:
        """The accepted rows whose hashes fall into these buckets, and all unresolved ones."""
        for first, packed, flags in self._flagged_blocks():
            picked = [
                (at, row_hash)
                for at, row_hash in enumerate(split_hashes(packed))
                if flags[at] and (row_hash == ABSENT or bucket_of(row_hash) in buckets)
            ]
            yield from self._block_rows(first, picked)
        for row in self._granted_rows():
            if row.row_hash is not None and bucket_of(row.row_hash) in buckets:
                yield row

    def rows_but(self, seen: bytearray, seen_granted: set[int]) -> Iterator[ExpectedRow]:
        """The accepted rows whose entry has no flag in ``seen`` (one byte an entry, index = seq)."""
        for first, packed, flags in self._flagged_blocks():
            block = split_hashes(packed)
            picked = [(at, row_hash) for at, row_hash in enumerate(block) if flags[at] and not seen[first + at]]
            yield from self._block_rows(first, picked)
        yield from (row for row in self._granted_rows() if row.seq not in seen_granted)

    def hashes_from(self, first_seq: int) -> Iterator[list[bytes]]:
        """The accepted row hashes of the entries from this one on, a block at a time, without rows that have none."""
        for first, packed, flags in self._flagged_blocks():
            if first + len(flags) > first_seq:
                skip = max(0, first_seq - first)
                kept = compress(split_hashes(packed)[skip:], flags[skip:])
                yield [row_hash for row_hash in kept if row_hash != ABSENT]

    def by_keys(self, keys: Iterable[bytes]) -> dict[bytes, ExpectedRow]:
        """The accepted rows under these state keys; a key without one is absent."""
        wanted = list(keys)
        seqs = live.accepted_many(self.conn, self.log, wanted)
        for key in wanted:
            if key in self.undone:
                before = self.undone[key][0]
                if before is None:
                    seqs.pop(key, None)
                else:
                    seqs[key] = before
        return self._rows(seqs)

    def applied(self, keys: Iterable[bytes]) -> dict[bytes, ExpectedRow]:
        """What the stream left under these keys, accepted or not."""
        wanted = list(keys)
        seqs = live.applied_many(self.conn, self.log, wanted)
        for key in wanted:
            if key in self.undone:
                before = self.undone[key][1]
                if before is None:
                    seqs.pop(key, None)
                else:
                    seqs[key] = before
        return self._rows(seqs)

    def _rows(self, seqs: dict[bytes, int]) -> dict[bytes, ExpectedRow]:
        hashes = row_hashes(self.conn, self.log, seqs)
        return {key: ExpectedRow(key, seq, hashes[key]) for key, seq in seqs.items()}

    def _block_rows(self, first: int, picked: list[tuple[int, bytes]]) -> Iterator[ExpectedRow]:
        """The rows at some offsets (with their hashes) of a block of entries that begins with ``first``; reads it once."""
        if not picked:
            return
        lines = list(entries.entries(self.conn, self.log, first + picked[0][0], first + picked[-1][0]))
        for at, row_hash in picked:
            seq, known = first + at, None if row_hash == ABSENT else row_hash
            yield ExpectedRow(state_key_of_entry(lines[at - picked[0][0]], seq, known, keyed=self._keyed), seq, known)

    def _granted_rows(self) -> Iterator[ExpectedRow]:
        for seq in self._granted:
            key, row_hash = granted.get(self.conn, self.log, seq)
            yield ExpectedRow(key, seq, row_hash)

    def _flagged_blocks(self) -> Iterator[tuple[int, bytes, bytearray]]:
        """(seq of the first, row hashes one after another, one flag each) of blocks of entries that have an accepted one."""
        flags = self._flags
        if self._range is not None:
            yield from self._flagged_blocks_here()
            return
        for first, count, data in entries.iter_hash_blocks(self.conn, self.log):
            if first > self.size:
                return
            part = flags[first : first + count]
            if 1 in part:
                yield first, data[: HASH * len(part)], part

    def _flagged_blocks_here(self) -> Iterator[tuple[int, bytes, bytearray]]:
        """Only the blocks that hold something: a range has few, and reading all would make a round quadratic."""
        at = self._flags.find(1)
        while 0 < at <= self.size:
            n = (at - 1) // TILE
            first = n * TILE + 1
            part = self._flags[first : first + TILE]
            yield first, entries.hash_block(self.conn, self.log, n)[: HASH * len(part)], part
            at = self._flags.find(1, first + TILE)


def saved_state(conn: sqlite3.Connection, log: int, saved: VerifiedState) -> Iterator[bytes]:
    """The row hashes, one after another, of a state that a verification found and the store remembers."""
    flags = zlib.decompress(saved.alive)
    for first, _, data in entries.iter_hash_blocks(conn, log):
        part = flags[first : first + len(data) // HASH]
        if 1 in part:
            yield _resolved(hashing.pick_slices(data[: HASH * len(part)], part))
    for seq in saved.granted:
        yield granted.get(conn, log, seq)[1]


def _resolved(packed: bytes) -> bytes:
    """Without those that stand for no hash; almost always none does."""
    if ABSENT not in packed:
        return packed
    return b"".join([row_hash for row_hash in split_hashes(packed) if row_hash != ABSENT])
