"""A multiset of row hashes of any size in bounded memory, and the state tree over it (formats.md 3, state root).

Hashes are kept by their first byte in 256 lists; when the lists together pass a bound they are written to one unlinked
temporary file.  A partition is read back, sorted and turned into its 256 bucket hashes one at a time, so a table is never in
memory as a whole.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from witnz.core.state import StateTree, bucket_hashes_of_sorted, split_hashes

HASH = 32
PARTITIONS = 256
MAX_HELD = 700_000  # about 75 bytes each as Python holds them; two multisets are held at a time


class Partitions:
    """Add row hashes in any order; take them back sorted, one first byte at a time.

    ``spill_dir``: where the temporary file goes once more than ``max_held`` hashes are held.
    """

    def __init__(self, spill_dir: Path, max_held: int = MAX_HELD) -> None:
        self._spill_dir, self._max_held = spill_dir, max_held
        self._lists: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
        self._segments: list[list[tuple[int, int]]] = [[] for _ in range(PARTITIONS)]
        self._file: BinaryIO | None = None
        self._held = 0
        self.rows = 0

    def add(self, hashes: Sequence[bytes]) -> None:
        """Add 32-byte hashes."""
        lists = self._lists
        for row_hash in hashes:
            lists[row_hash[0]].append(row_hash)
        self.rows += len(hashes)
        self._held += len(hashes)
        if self._held > self._max_held:
            self._spill()

    def sorted(self, partition: int) -> list[bytes]:
        """All hashes with this first byte, ascending, equal ones as often as they were added."""
        hashes = list(self._lists[partition])
        if self._file is not None:
            for offset, size in self._segments[partition]:
                self._file.seek(offset)
                hashes += split_hashes(self._file.read(size))
        hashes.sort()
        return hashes

    def close(self) -> None:
        self._lists = []
        if self._file is not None:
            self._file.close()
            self._file = None

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._spill_dir)  # noqa: SIM115  closed by close()
        self._file.seek(0, 2)
        offset = self._file.tell()
        for partition, hashes in enumerate(self._lists):
            if hashes:
                self._file.write(b"".join(hashes))
                self._segments[partition].append((offset, len(hashes) * HASH))
                offset += len(hashes) * HASH
        self._lists = [[] for _ in range(PARTITIONS)]
        self._held = 0


class Sorted(Protocol):
    """A multiset of row hashes that gives its partitions back, ascending; each is asked for once, in order."""

    def sorted(self, partition: int) -> list[bytes]: ...


def state_trees(expected: Sorted, found: Sorted) -> tuple[StateTree, StateTree]:
    """The state trees over both multisets; where a partition is equal on both sides its buckets are hashed once."""
    left: list[bytes] = []
    right: list[bytes] = []
    for partition in range(PARTITIONS):
        a, b = expected.sorted(partition), found.sorted(partition)
        buckets = bucket_hashes_of_sorted(partition, a)
        left += buckets
        right += buckets if a == b else bucket_hashes_of_sorted(partition, b)
    tree = StateTree(left)
    return tree, tree if left == right else StateTree(right)
