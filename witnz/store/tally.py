"""Counts under keys of bytes, too many for memory: what a table held, and what it holds, on disk while they are compared.

    rows(k, value, before, after, marked)    value: 32 bytes or whatever the user keeps with a key; before, after: how often

The file has lost its name as soon as it is open, so nothing is left of it, whatever ends the program then; it has no journal
and is never synced, because nobody reads it again.  Errors of SQLite leave as they are: whoever uses it holds a read or a write
of the store beside it, where they become what they amount to (:mod:`witnz.store.database`).
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from witnz.store.datadir import raise_store_full

PREFIX = ".tally-"
BATCH = 4096
CACHE_KIB = 24 * 1024
_LOOKUPS = 512
_SETTINGS = ("journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE", f"cache_size = -{CACHE_KIB}")

Addition = tuple[bytes, bytes | None, int, int]
"""Key, value (None: as it is), how often more before, how often more after."""


@dataclass(frozen=True, slots=True)
class Count:
    """What stands under one key."""

    value: bytes | None
    before: int
    after: int
    marked: bool


class Tally:
    """Made by :func:`tally`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.execute("BEGIN")
        connection.execute(
            "CREATE TABLE rows (k BLOB PRIMARY KEY, value BLOB, before INTEGER, after INTEGER, marked INTEGER DEFAULT 0)"
            " WITHOUT ROWID"
        )

    def add(self, additions: Iterable[Addition]) -> None:
        """Add to what stands under the keys; some thousands at a time are best."""
        self._connection.executemany(
            "INSERT INTO rows (k, value, before, after) VALUES (?, ?, ?, ?) ON CONFLICT (k) DO UPDATE SET"
            " value = coalesce(excluded.value, value), before = before + excluded.before, after = after + excluded.after",
            additions,
        )

    def mark(self, keys: Iterable[bytes]) -> None:
        self._connection.executemany("UPDATE rows SET marked = 1 WHERE k = ?", [(key,) for key in keys])

    def find(self, keys: Sequence[bytes]) -> dict[bytes, Count]:
        """What stands under those of the keys that are there."""
        found: dict[bytes, Count] = {}
        for at in range(0, len(keys), _LOOKUPS):
            some = list(keys[at : at + _LOOKUPS])
            some += some[-1:] * (_LOOKUPS - len(some))  # one statement, which SQLite has prepared
            found.update(_counts(self._connection.execute(_FIND, some)))
        return found

    def batches(self) -> Iterator[list[tuple[bytes, Count]]]:
        """Everything, in the order of the keys; more may be added under the keys meanwhile."""
        after = None
        while True:
            condition, arguments = ("", ()) if after is None else ("WHERE k > ?", (after,))
            query = f"SELECT k, value, before, after, marked FROM rows {condition} ORDER BY k LIMIT {BATCH}"  # noqa: S608
            batch = list(_counts(self._connection.execute(query, arguments)))
            if not batch:
                return
            yield batch
            after = batch[-1][0]

    def __bool__(self) -> bool:
        return self._connection.execute("SELECT 1 FROM rows LIMIT 1").fetchone() is not None


_FIND = f"SELECT k, value, before, after, marked FROM rows WHERE k IN ({', '.join('?' * _LOOKUPS)})"  # noqa: S608


def _counts(cursor: sqlite3.Cursor) -> Iterator[tuple[bytes, Count]]:
    return ((key, Count(value, before, after, bool(marked))) for key, value, before, after, marked in cursor)


@contextmanager
def tally(folder: Path) -> Iterator[Tally]:
    """An empty one, in a file of its own in ``folder`` until the ``with`` ends.  Raises StoreFull if it can not be made."""
    try:
        file, path = tempfile.mkstemp(prefix=PREFIX, dir=folder)  # 0600
    except OSError as error:
        raise_store_full(error, folder)
    try:
        os.close(file)
        connection = sqlite3.connect(path, isolation_level=None)
    except BaseException:
        Path(path).unlink()
        raise
    with closing(connection):
        try:
            for setting in _SETTINGS:
                connection.execute(f"PRAGMA {setting}")
            made = Tally(connection)
        finally:
            Path(path).unlink()
        yield made
