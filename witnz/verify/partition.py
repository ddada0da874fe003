"""A multiset of row hashes of any size in bounded memory, and the state tree over it (formats.md 3, state root).

Hashes are kept by their first byte in 256 buffers, 32 bytes each; when these together pass a bound they are written to one
unlinked temporary file.  A partition is read back, sorted and turned into its 256 bucket hashes one at a time, so a table is
never in memory as a whole.  No hash is an object of Python's on the way (:mod:`witnz.core.hashing`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Protocol

from witnz.core import hashing
from witnz.core.state import HASH, StateTree
from witnz.errors import FormatError

PARTITIONS = 256
MAX_HELD = 1_200_000  # 38 MB, and up to an eighth more; two multisets are held at a time
PIECE_BYTES = 256 << 10  # as much is sorted into the buffers at a time


class Partitions:
    """Add row hashes in any order; take them back sorted, one first byte at a time.

    ``spill_dir``: where the temporary file goes once more than ``max_held`` hashes are held.
    """

    def __init__(self, spill_dir: Path, max_held: int = MAX_HELD) -> None:
        self._spill_dir, self._max_held = spill_dir, max_held
        self._buffers = [bytearray() for _ in range(PARTITIONS)]
        self._segments: list[list[tuple[int, int]]] = [[] for _ in range(PARTITIONS)]
        self._file: BinaryIO | None = None
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._held = 0
        self.rows = 0

    def add(self, packed: bytes) -> None:
        """Add hashes, 32 bytes each, one after another; FormatError where they do not come out even."""
        if len(packed) % HASH:
            raise FormatError(f"packed hashes: expected a multiple of {HASH} bytes, found {len(packed)}")
        self.rows += len(packed) // HASH
        self._waiting.append(packed)
        self._waiting_bytes += len(packed)
        if self._waiting_bytes >= min(PIECE_BYTES, HASH * self._max_held):
            self._pack()

    def add_all(self, hashes: Iterable[bytes]) -> None:
        """Add hashes that are objects of their own."""
        self.add(b"".join(hashes))

    def sorted(self, partition: int) -> bytes:
        """All hashes with this first byte, ascending, one after another, equal ones as often as they were added."""
        self._pack()
        found = self._buffers[partition]
        if self._file is not None:
            parts: list[bytes | bytearray] = []
            for offset, size in self._segments[partition]:
                self._file.seek(offset)
                parts.append(self._file.read(size))
            found = bytearray().join([*parts, found])
        return hashing.sort_packed(found)

    def close(self) -> None:
        self._buffers, self._waiting = [], []
        if self._file is not None:
            self._file.close()
            self._file = None

    def _pack(self) -> None:
        if not self._waiting_bytes:
            return
        hashing.pack_partitions(b"".join(self._waiting), self._buffers)
        self._held += self._waiting_bytes // HASH
        self._waiting, self._waiting_bytes = [], 0
        if self._held > self._max_held:
            self._spill()

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._spill_dir)  # noqa: SIM115  closed by close()
        self._file.seek(0, 2)
        offset = self._file.tell()
        for partition, buffer in enumerate(self._buffers):
            if buffer:
                self._file.write(buffer)
                self._segments[partition].append((offset, len(buffer)))
                offset += len(buffer)
        self._buffers = [bytearray() for _ in range(PARTITIONS)]
        self._held = 0


class Sorted(Protocol):
    """A multiset of row hashes that gives its partitions back, ascending; each is asked for once, in order."""

    def sorted(self, partition: int) -> bytes: ...


def state_trees(expected: Sorted, found: Sorted) -> tuple[StateTree, StateTree]:
    """The state trees over both multisets; where a partition is equal on both sides its buckets are hashed once."""
    left: list[bytes] = []
    right: list[bytes] = []
    for partition in range(PARTITIONS):
        a, b = expected.sorted(partition), found.sorted(partition)
        left.append(hashing.bucket_hashes(a))
        right.append(left[-1] if a == b else hashing.bucket_hashes(b))
    tree = StateTree(b"".join(left))
    return tree, tree if left == right else StateTree(b"".join(right))


def state_tree(hashes: Sorted) -> StateTree:
    """The state tree over one multiset."""
    return StateTree(b"".join([hashing.bucket_hashes(hashes.sorted(partition)) for partition in range(PARTITIONS)]))
