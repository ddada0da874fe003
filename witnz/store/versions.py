"""The versions of rows that a log's state names by seq: entries, or (negative) rows that an operator granted.

Whoever reads the accepted or applied state (:mod:`witnz.store.live`) gets seqs; what stood in the row is here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import TypeVar

from witnz.store import entries, granted

K = TypeVar("K")


def row_hashes(
    conn: sqlite3.Connection, log: int, seqs: Mapping[K, int], grants: tuple[sqlite3.Connection, int] | None = None
) -> dict[K, bytes | None]:
    """The row hash of each seq, under what the seq stands under; None where the entry has none (an unchanged TOAST value).

    ``grants``: store and log that have the granted rows, where the entries are elsewhere.  Raises StoreError for an entry that
    the log does not have, StoreCorrupt for a granted row that is not there.
    """
    found = entries.row_hashes_at(conn, log, [seq for seq in seqs.values() if seq > 0])
    where = grants or (conn, log)
    return {key: found[seq] if seq > 0 else granted.get(*where, seq)[1] for key, seq in seqs.items()}


class Seen:
    """Which versions of a log were seen: one byte an entry, so that ten million of them are 10 MB.  ``size``: of the log."""

    def __init__(self, size: int) -> None:
        self._flags = bytearray(size + 1)
        self._granted: set[int] = set()

    def add(self, seq: int) -> None:
        if seq > 0:
            self._flags[seq] = 1
        else:
            self._granted.add(seq)

    def __contains__(self, seq: int) -> bool:
        return bool(self._flags[seq]) if seq > 0 else seq in self._granted
