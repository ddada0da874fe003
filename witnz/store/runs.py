"""Runs: the accepted keys of a table whose keys only grow, packed some hundred a row.

Most keys are numbers from a sequence: each is larger than all before.  Then a key is new because it is beyond the highest one,
nothing has to be looked up, and one row a key in a tree (3 to 4 µs, 18 bytes) gives way to a run (1 µs, 9 bytes).

Order is that of numbers: shorter first, then byte by byte (``9 < 10``); a key's *place* in it is its length as two big-endian
bytes and the key.  A run goes from place ``first`` to place ``last``; it holds ``count`` keys in order, joined by newlines
(which no key line holds), and their seqs: consecutive from ``first_seq``, or ``first_seq`` plus the uint32 offsets in ``seqs``.
Runs of a log never overlap and never change: what happens to their keys later stands in ``live`` (:mod:`witnz.store.live`),
which goes before.
"""

from __future__ import annotations

import sqlite3
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from operator import lt

from witnz.errors import StoreCorrupt

MIN_KEYS = 128  # fewer at a time are not worth a row of their own
MIN_ASCENDING = 0.9
RUN_BYTES = 1_900  # four rows fill a page of 8,192 bytes

_Item = tuple[bytes, int]


def place_of(key: bytes) -> bytes:
    """Where a key stands in the order of runs."""
    return len(key).to_bytes(2, "big") + key


def split_run(items: Sequence[_Item], highest: bytes | None) -> tuple[list[_Item], list[_Item]]:
    """(items that can be packed, in order; the others) of new (key, seq) pairs as they came.

    Packed are those beyond the place ``highest``, if there are enough and the keys came in their order, but for what concurrent
    transactions shuffle.  Keys that occur twice are never packed.
    """
    if len(items) < MIN_KEYS:
        return [], list(items)
    heads = {size: size.to_bytes(2, "big") for size in {len(key) for key, _ in items}}
    places = [heads[len(key)] + key for key, _ in items]
    ascending = sum(map(lt, places, places[1:]))
    if ascending < MIN_ASCENDING * (len(items) - 1):
        return [], list(items)
    ordered = list(items)
    if ascending < len(items) - 1:
        ordered = [item for _, item in sorted(zip(places, items, strict=True))]
        places.sort()
        if not all(map(lt, places, places[1:])):
            return [], list(items)
    start = 0 if highest is None else bisect_right(places, highest)
    packed = ordered[start:]
    if len(packed) < MIN_KEYS or b"\n" in b"".join([key for key, _ in packed]):
        return [], list(items)
    return packed, ordered[:start]


def save_runs(connection: sqlite3.Connection, log_id: int, items: Sequence[_Item]) -> None:
    """Write (key, seq) pairs that :func:`split_run` has found fit."""
    mean = len(b"".join([key for key, _ in items])) / len(items) + 1
    step = max(16, int(RUN_BYTES / mean))
    rows = []
    for at in range(0, len(items), step):
        keys, seqs = zip(*items[at : at + step], strict=True)
        first_seq = min(seqs)
        offsets = None
        if seqs != tuple(range(first_seq, first_seq + len(seqs))):
            offsets = struct.pack(f"<{len(seqs)}I", *[seq - first_seq for seq in seqs])
        rows.append((log_id, place_of(keys[0]), place_of(keys[-1]), len(keys), first_seq, offsets, b"\n".join(keys)))
    connection.executemany(
        "INSERT INTO runs (log, first, last, count, first_seq, seqs, keys) VALUES (?, ?, ?, ?, ?, ?, ?)", rows
    )


def find_in_runs(connection: sqlite3.Connection, log_id: int, keys: Iterable[bytes]) -> dict[bytes, int]:
    """The seq that the runs of a log give each key; keys that are in none are left out.  Each run is read once."""
    found: dict[bytes, int] = {}
    run: _Run | None = None
    query = "SELECT last, count, first_seq, seqs, keys FROM runs WHERE log = ? AND first <= ? ORDER BY first DESC LIMIT 1"
    for place in sorted(map(place_of, keys)):
        if run is None or place > run.last:
            row = connection.execute(query, (log_id, place)).fetchone()
            if row is None:
                continue
            run = _Run(log_id, row)
        seq = run.find(place[2:])
        if seq is not None:
            found[place[2:]] = seq
    return found


def iter_runs(connection: sqlite3.Connection, log_id: int) -> Iterator[list[_Item]]:
    """The (key, seq) pairs of each run, in order."""
    query = "SELECT last, count, first_seq, seqs, keys FROM runs WHERE log = ? ORDER BY first"
    for row in connection.execute(query, (log_id,)):
        run = _Run(log_id, row)
        yield list(zip(run.keys(), run.seqs(), strict=True))


def runs_between(connection: sqlite3.Connection, log_id: int, low: bytes, high: bytes) -> Iterator[list[_Item]]:
    """The (key, seq) pairs of each run that may hold a key from ``low`` to ``high``, which are of one length."""
    query = (
        "SELECT last, count, first_seq, seqs, keys FROM runs WHERE log = ?1 AND first <= ?3 AND last >= ?2 AND first >="
        " coalesce((SELECT max(first) FROM runs WHERE log = ?1 AND first <= ?2), x'') ORDER BY first"
    )
    for row in connection.execute(query, (log_id, place_of(low), place_of(high))):
        run = _Run(log_id, row)
        yield [item for item in zip(run.keys(), run.seqs(), strict=True) if low <= item[0] <= high and len(item[0]) == len(low)]


def iter_run_seqs(connection: sqlite3.Connection, log_id: int) -> Iterator[range | list[int]]:
    """The seqs of each run, without its keys."""
    for row in connection.execute("SELECT first_seq, count, seqs FROM runs WHERE log = ?", (log_id,)):
        yield _seqs(log_id, *row)


class _Run:
    """One row of ``runs``; raises StoreCorrupt where its lengths do not fit together."""

    __slots__ = ("_count", "_first_seq", "_log_id", "_offsets", "_text", "last")

    def __init__(self, log_id: int, row: tuple[bytes, int, int, bytes | None, bytes]) -> None:
        self.last, self._count, self._first_seq, self._offsets, keys = row
        self._log_id = log_id
        self._text = b"\n" + keys + b"\n"
        if self._text.count(b"\n") != self._count + 1 or not self._text.endswith(b"\n" + self.last[2:] + b"\n"):
            raise _corrupt(log_id, "a run's keys are not what its row says")
        if self._offsets is not None and len(self._offsets) != 4 * self._count:
            raise _corrupt(log_id, f"expected {self._count} seqs of a run, found {len(self._offsets)} bytes")

    def find(self, key: bytes) -> int | None:
        at = self._text.find(b"\n" + key + b"\n")
        if at < 0:
            return None
        index = self._text.count(b"\n", 0, at)
        return self._first_seq + (index if self._offsets is None else struct.unpack_from("<I", self._offsets, 4 * index)[0])

    def keys(self) -> list[bytes]:
        return self._text[1:-1].split(b"\n")

    def seqs(self) -> range | list[int]:
        return _seqs(self._log_id, self._first_seq, self._count, self._offsets)


def _seqs(log_id: int, first_seq: int, count: int, offsets: bytes | None) -> range | list[int]:
    if offsets is None:
        return range(first_seq, first_seq + count)
    if len(offsets) != 4 * count:
        raise _corrupt(log_id, f"expected {count} seqs of a run, found {len(offsets)} bytes")
    return [first_seq + offset for offset in struct.unpack(f"<{count}I", offsets)]


def _corrupt(log_id: int, reason: str) -> StoreCorrupt:
    return StoreCorrupt(
        f"accepted state of log {log_id}: {reason}",
        hint="keep a copy of the store as it is, and run `witnz verify --store`",
    )
