"""Live verification: one table against its log, as of one snapshot, exact while the table is being written to.

The algorithm of architecture.md 7:

1.  Hold the stream's horizon, so that the values before every transaction the snapshot might not see stay available.
2.  Lock the table ACCESS SHARE, *then* take the snapshot, read the table under it and hash every row.
3.  Emit a marker and wait until the stream has recorded it: then everything visible in the snapshot is in the log.
4.  Compare the hashes found with the accepted state under that snapshot, bucket by bucket.
5.  What differs is named, and looked at once more, by key and under a new snapshot, before it is called a difference.

A scan that could not finish, a stream that makes no progress and a row without a recorded hash are INCONCLUSIVE, never
tampering; and they are never green either.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from witnz.core import hashing
from witnz.core.keyplan import KeyPlan, key_text
from witnz.core.keyrange import KeyRange
from witnz.core.rowline import escape
from witnz.core.state import EMPTY_STATE_ROOT, bucket_of, differing_buckets
from witnz.core.verdict import Verdict
from witnz.errors import Inconclusive
from witnz.postgres.xid import Snapshot
from witnz.store import journal, live, logs
from witnz.store.database import Database
from witnz.verify.expected import ExpectedRow, ExpectedState
from witnz.verify.hash_process import HashProcess
from witnz.verify.partition import Partitions, state_trees
from witnz.verify.stream import PATIENCE, Patience, Stream

MAX_SUSPECT_ROWS = 200_000  # rows looked at one by one; a table tampered with beyond that is named in part and counted in full
MAX_DIFFERENCES = 1_000
BIG_ROWS = 50_000  # from here on, without the compiled functions, a process of its own pays for its start
BIG_BYTES = 16 << 20  # as much is held until then

Progress = Callable[[int], None]


class Scan(Protocol):
    """What verification needs of a scan (:class:`witnz.postgres.scan.SnapshotScan`)."""

    snapshot_text: str
    lsn: int

    @property
    def snapshot(self) -> Snapshot: ...

    def blocks(self) -> Iterator[bytes]: ...

    def lines(self, batch: int = 4096) -> Iterator[list[bytes]]: ...

    def changed_during(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Target:
    """One generation of one table, as the store knows it.

    ``settled_xid``: a snapshot whose xmin is below this 64-bit id may not see transactions of which it is not known what they
    replaced, because other members gave their entries.  ``open_first``: the first scan where it is another than the later
    ones, because others read in its snapshot, too.  ``key_range``: only these keys, which ``open_scan`` then reads.
    """

    log: int
    table: str
    generation: int
    oid: int
    plan: KeyPlan
    open_scan: Callable[[], AbstractContextManager[Scan]]
    settled_xid: int = 0
    open_first: Callable[[], AbstractContextManager[Scan]] | None = None
    key_range: KeyRange | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """One row that is not as recorded.  Hashes are raw; ``applied_seq`` is set where the stream explains what was found."""

    cls: str
    key: str | None
    state_key: bytes
    seq: int | None
    recorded: bytes | None
    found: bytes | None
    explained: bool


@dataclass(slots=True)
class TableResult:
    """What one run found; ``not_checked`` is never empty for an INCONCLUSIVE one."""

    table: str
    generation: int
    verdict: Verdict = Verdict.INCONCLUSIVE
    size: int = 0
    journal_size: int = 0
    snapshot: str = ""
    lsn: int = 0
    rows: int = 0
    unresolved: int = 0
    expected_root: bytes = EMPTY_STATE_ROOT
    found_root: bytes = EMPTY_STATE_ROOT
    seconds: float = 0.0
    differences: list[Difference] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)
    key_range: KeyRange | None = None
    alive: tuple[bytes, tuple[int, ...]] | None = None  # of a VERIFIED run: what `prove` needs to show a row in its state root


@dataclass(slots=True)
class _Pass:
    """One scan with the expected state that belongs to it."""

    scan: Scan
    expected: ExpectedState
    size: int
    journal_size: int


class LiveVerifier:
    """Verifies tables of one node.  ``spill_dir``: for what does not fit into memory."""

    def __init__(self, db: Database, stream: Stream, spill_dir: Path, patience: Patience = PATIENCE) -> None:
        self._db, self._stream, self._spill_dir, self._patience = db, stream, spill_dir, patience

    def verify(self, target: Target, progress: Progress = lambda rows: None) -> TableResult:
        """One run.  Errors that mean "could not look" become an INCONCLUSIVE result with their reason."""
        started = time.monotonic()
        result = TableResult(target.table, target.generation, key_range=target.key_range)
        try:
            self._run(target, result, progress)
        except Inconclusive as error:
            result.verdict = Verdict.INCONCLUSIVE
            result.not_checked.append(error.message)
        result.seconds = time.monotonic() - started
        return result

    def _run(self, target: Target, result: TableResult, progress: Progress) -> None:
        found = _Found(target.plan.secret, self._spill_dir, progress)
        expected: Partitions | None = None
        rows = 0
        try:
            with self._read(target, found.take, target.open_first) as seen:
                found.finish()
                expected = seen.expected.hashes(self._spill_dir)
                result.size, result.journal_size = seen.size, seen.journal_size
                result.snapshot, result.lsn = seen.scan.snapshot_text, seen.scan.lsn
                result.rows, result.unresolved = found.rows, seen.expected.unresolved
                left, right = state_trees(expected, found.partitions)
                result.expected_root, result.found_root = left.root(), right.root()
                if left.root() == right.root() and not result.unresolved:
                    result.verdict = Verdict.VERIFIED
                    result.alive = seen.expected.alive() if target.key_range is None else None
                    return
                suspects = set(differing_buckets(left, right))
                rows = max(found.rows, expected.rows)
        finally:
            found.close()
            if expected is not None:
                expected.close()
        self._name(target, suspects, rows, result)

    # -- naming ---------------------------------------------------------------------------------------------------------------

    def _name(self, target: Target, suspects: set[int], rows: int, result: TableResult) -> None:
        """Name the rows behind the differing buckets, then look at exactly those once more.

        ``rows``: how many were found or expected, whichever is more.
        """
        buckets, left_out = _bounded(suspects, rows)
        keys = self._candidates(target, buckets)
        confirm = self._confirm_keyed if target.plan.keyed else self._confirm_keyless
        differences, unresolved = confirm(target, keys)
        result.differences = differences[:MAX_DIFFERENCES]
        if len(differences) > MAX_DIFFERENCES:
            result.not_checked.append(f"{len(differences) - MAX_DIFFERENCES} more differing rows are not listed")
        if left_out:
            result.not_checked.append(f"differences in {left_out} of {len(suspects)} state buckets are not itemised")
        if differences or left_out:
            result.verdict = Verdict.TAMPERED
            return
        if unresolved:
            result.not_checked.append(
                f"{unresolved} row(s) have no recorded hash (unchanged TOAST values without REPLICA IDENTITY FULL)"
            )
        if suspects and not unresolved:
            result.not_checked.append("a difference was seen under one snapshot and not confirmed under the next; run again")
        result.verdict = Verdict.INCONCLUSIVE

    def _candidates(self, target: Target, buckets: set[int]) -> set[bytes]:
        """The state keys (keyless: row hashes) that have a row in one of these buckets, found or expected."""
        keys: set[bytes] = set()

        def take(block: bytes) -> None:
            lines = _lines(block)
            rows = hashing.row_hashes(target.plan.secret, lines)
            picked = [(line, row) for line, row in zip(lines, rows, strict=True) if row and bucket_of(row) in buckets]
            if not picked:
                return
            if target.plan.keyed:
                keys.update(target.plan.state_keys([line for line, _ in picked])[0])
            else:
                keys.update(row for _, row in picked)

        with self._read(target, take) as seen:
            for row in seen.expected.rows_in(buckets):
                keys.add(row.key if target.plan.keyed else row.row_hash or row.key[:32])
        return keys

    def _confirm_keyed(self, target: Target, keys: set[bytes]) -> tuple[list[Difference], int]:
        found: dict[bytes, list[bytes]] = {}

        def take(block: bytes) -> None:
            lines = _lines(block)
            states = target.plan.state_keys(lines)[0]
            wanted = [(state, line) for state, line in zip(states, lines, strict=True) if state in keys]
            rows = hashing.row_hashes(target.plan.secret, [line for _, line in wanted])
            for (state, _), row in zip(wanted, rows, strict=True):
                found.setdefault(state, []).append(row or b"")

        with self._read(target, take) as seen:
            accepted, applied = seen.expected.by_keys(keys), seen.expected.applied(keys)
        differences, unresolved = [], 0
        for key in sorted(keys):
            here, recorded = found.get(key, []), accepted.get(key)
            if recorded is not None and recorded.row_hash is None:
                unresolved += 1
                here = here[1:]
            elif recorded is not None and recorded.row_hash in here:
                here.remove(recorded.row_hash)
            elif here or recorded is not None:
                differences.append(_keyed_difference(key, recorded, here.pop(0) if here else None, applied.get(key)))
            # A second row under one key is what PostgreSQL itself rules out, as long as its index is what it should be.
            differences += [_keyed_difference(key, None, row, None) for row in here]
        return differences, unresolved

    def _confirm_keyless(self, target: Target, hashes: set[bytes]) -> tuple[list[Difference], int]:
        """Rows without a key are told apart by their hash; equal rows are counted."""
        found: Counter[bytes] = Counter()

        def take(block: bytes) -> None:
            rows = hashing.row_hashes(target.plan.secret, _lines(block))
            found.update(row for row in rows if row in hashes)

        with self._read(target, take) as seen:
            accepted: dict[bytes, list[ExpectedRow]] = {}
            for row in seen.expected.rows_in({bucket_of(row) for row in hashes}):
                if row.row_hash in hashes:
                    accepted.setdefault(row.row_hash, []).append(row)
            applied = Counter({row: live.keyless_count(seen.expected.conn, target.log, row, applied=True) for row in hashes})
        differences: list[Difference] = []
        for row_hash in sorted(hashes):
            recorded = accepted.get(row_hash, [])
            explained = found[row_hash] == applied[row_hash]
            name = row_hash.hex()
            for old in recorded[found[row_hash] :]:
                differences.append(Difference("row.deleted", name, old.key, old.seq, row_hash, None, explained))
            for _ in range(found[row_hash] - len(recorded)):
                differences.append(Difference("row.inserted", name, row_hash, None, None, row_hash, explained))
        return differences, 0

    # -- reading --------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _read(
        self,
        target: Target,
        take: Callable[[bytes], None],
        open_scan: Callable[[], AbstractContextManager[Scan]] | None = None,
    ) -> Iterator[_Pass]:
        """Scan the table under a new snapshot, wait for the stream, then offer the expected state that belongs to it."""
        with self._stream.hold():
            with (open_scan or target.open_scan)() as scan:
                if scan.snapshot.xmin < target.settled_xid:
                    raise Inconclusive(
                        f"a transaction is still open that began before this node had caught up with {target.table};"
                        " it is verified when that has ended"
                    )
                for block in scan.blocks():
                    take(block)
            if changed := scan.changed_during():
                raise Inconclusive(f"the definition of {target.table} changed during the scan ({', '.join(changed)})")
            self._stream.await_mark(os.urandom(16).hex().encode(), self._patience)
            with self._db.read() as conn:
                log = logs.get_log(conn, target.log)
                if log.status == "ended" or log.final_lsn is not None:
                    raise Inconclusive(f"a new generation of {target.table} is being opened; run again when it is")
                expected = ExpectedState(conn, log.id, log.size, scan.snapshot, keyed=log.keyed, key_range=target.key_range)
                yield _Pass(scan, expected, log.size, journal.journal_size(conn))


class _Found:
    """The row hashes of one scan.

    The compiled functions hash here, and let other threads go on meanwhile.  The plain ones do it for small tables; once one
    turns out to be big, a process on another core does (:mod:`witnz.verify.hash_process`).
    """

    def __init__(self, secret: bytes, spill_dir: Path, progress: Progress) -> None:
        self._secret, self._spill_dir, self._progress = secret, spill_dir, progress
        self._near = Partitions(spill_dir)
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._far: HashProcess | None = None
        self.rows = 0

    @property
    def partitions(self) -> Partitions | HashProcess:
        return self._far or self._near

    def take(self, lines: bytes) -> None:
        if hashing.IMPLEMENTATION == "compiled":
            self._near.add(hashing.packed_row_hashes(self._secret, lines))
            self.rows = self._near.rows
        else:
            self.rows += lines.count(b"\n")
            self._take_plainly(lines)
        self._progress(self.rows)

    def _take_plainly(self, lines: bytes) -> None:
        if self._far is not None:
            self._far.add_lines(lines)
            return
        self._held.append(lines)
        self._held_bytes += len(lines)
        if self.rows > BIG_ROWS or self._held_bytes > BIG_BYTES:
            self._far = HashProcess(self._secret, self._spill_dir)
            for held in self._held:
                self._far.add_lines(held)
            self._held = []

    def finish(self) -> None:
        """The scan has ended."""
        if self._far is not None:
            self._far.finish()
        for held in self._held:
            self._near.add(hashing.packed_row_hashes(self._secret, held))
        self._held = []

    def close(self) -> None:
        self._near.close()
        if self._far is not None:
            self._far.close()


def _lines(block: bytes) -> list[bytes]:
    """The row lines of a block in which each has a newline behind it."""
    return block[:-1].split(b"\n")


def _bounded(buckets: set[int], rows: int) -> tuple[set[int], int]:
    """As many of the buckets as may be looked at row by row, and how many were left out."""
    per_bucket = max(rows / 65536, 0.01)
    limit = max(int(MAX_SUSPECT_ROWS / per_bucket), 16)
    if len(buckets) <= limit:
        return buckets, 0
    return set(sorted(buckets)[:limit]), len(buckets) - limit


def _keyed_difference(key: bytes, recorded: ExpectedRow | None, here: bytes | None, applied: ExpectedRow | None) -> Difference:
    cls = "row.inserted" if recorded is None else "row.deleted" if here is None else "row.modified"
    explained = here == (applied.row_hash if applied else None)
    name = key_text(key if key.startswith(b"\\H") else escape(key))
    seq = recorded.seq if recorded and recorded.seq > 0 else None
    if explained and applied is not None:
        seq = applied.seq
    return Difference(cls, name, key, seq, recorded.row_hash if recorded else None, here, explained)
