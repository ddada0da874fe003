"""Logs for the tests of the store: filled the same way wherever they are needed."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from witnz.core.entry import entry_suffix
from witnz.core.hashing import entry_lines
from witnz.store import schema, tablelog
from witnz.store.tablelog import LogHead

SECRET = bytes(range(32))


@dataclass
class Columns:
    """The arguments of ``append`` for some entries."""

    ops: list[bytes]
    keys: list[bytes]
    hashes: list[bytes | None]
    suffixes: list[bytes]

    def __getitem__(self, part: slice) -> Columns:
        return Columns(self.ops[part], self.keys[part], self.hashes[part], self.suffixes[part])

    def append_to(self, conn: sqlite3.Connection, head: LogHead) -> int:
        return tablelog.append(conn, head, self.ops, self.keys, self.hashes, self.suffixes)

    def lines(self, first_seq: int = 1) -> list[bytes]:
        return entry_lines(first_seq, self.ops, self.keys, self.hashes, self.suffixes)


def make_columns(count: int, *, first: int = 0, rows_per_transaction: int = 3) -> Columns:
    """``count`` entries from the ``first``-th on, the same for the same numbers: inserts, now and then without a row hash."""
    made = Columns([], [], [], [])
    for i in range(first, first + count):
        unresolved = i % 97 == 13
        made.ops.append(b"update" if i % 11 == 7 else b"insert")
        made.keys.append(b"%d" % (100_000 + i))
        made.hashes.append(None if unresolved else hashlib.sha256(b"row %d" % i).digest())
        made.suffixes.append(suffix_of(i // rows_per_transaction))
    return made


@cache
def suffix_of(transaction: int) -> bytes:
    """The columns that the entries of one transaction share."""
    by = f"u{transaction % 5}" if transaction % 4 == 0 else None
    at = 1_795_000_000_000_000 + 1_003 * transaction
    return entry_suffix(0x1949850 + 400 * transaction, 700 + transaction, at, by, None, None)


def make_log(conn: sqlite3.Connection, table: str = "public.t", generation: int = 1) -> LogHead:
    origin = f"local/app/{table}/{generation}"
    return tablelog.create_log(
        conn, table=table, generation=generation, origin=origin, oid=16_384, secret=SECRET, key_columns=["id"]
    )


def as_before_the_last_migration(path: Path) -> None:
    """Make a store of the schema of one version ago: without the tables and indexes that the last migration adds."""
    older, newer = (_shape(schema.MIGRATIONS[:count]) for count in (-1, None))
    added = newer.keys() - older.keys()
    assert added and all(newer[name] == sql for name, sql in older.items()), "a migration that alters has to be undone by hand"
    with closing(sqlite3.connect(path)) as conn, conn:
        for kind, name in sorted(added, reverse=True):  # tables first: their own indexes go with them
            conn.execute(f"DROP {kind} IF EXISTS {name}")
        conn.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) - 1}")


def _shape(migrations: Sequence[schema.Migration]) -> dict[tuple[str, str], str]:
    """The statements that make each table and index, by its kind and name."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as conn:
        schema.migrate(conn, migrations)
        rows = conn.execute("SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")
        return {(kind, name): sql for kind, name, sql in rows}
