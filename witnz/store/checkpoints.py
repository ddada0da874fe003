"""Checkpoints of the journal, and the promise that this node's cosigner key has given.

A checkpoint is kept as the note that was signed, verbatim; more cosignatures replace it by the fuller note of the same size.
``cosigned`` is the one row that a cosigner must not lose: it is written, and durable, before the signature leaves the node, and
it only ever moves forward (formats.md 5).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from witnz.errors import ProofError
from witnz.store.schema import open_utils


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """``note``: over the journal's first ``size`` records; ``at``: µs since the Unix epoch; ``final``: it has its quorum."""

    size: int
    note: str
    at: int
    final: bool


@dataclass(frozen=True, slots=True)
class Cosigned:
    """The newest checkpoint that this node has cosigned; ``root``: 32 raw bytes."""

    size: int
    root: bytes
    note: str


def save_checkpoint(connection: sqlite3.Connection, size: int, note: str, at: int, *, final: bool) -> None:
    """Keep a checkpoint, or a fuller note of one: ``at`` stays that of the first, and a final one is not replaced by less."""
    connection.execute(
        "INSERT INTO checkpoints (size, note, at, final) VALUES (?, ?, ?, ?) ON CONFLICT (size) DO UPDATE"
        " SET note = excluded.note, final = excluded.final WHERE excluded.final >= final",
        (size, note, at, int(final)),
    )


def get(connection: sqlite3.Connection, size: int) -> StoredCheckpoint | None:
    """The checkpoint of exactly this size."""
    return _first(connection, "size = ?", [size])


def latest(connection: sqlite3.Connection, *, final: bool = False) -> StoredCheckpoint | None:
    """The newest checkpoint, or the newest that is final."""
    return _first(connection, "final >= ?", [int(final)])


def list_checkpoints(
    connection: sqlite3.Connection, *, limit: int = 100, below: int | None = None, final: bool = False
) -> list[StoredCheckpoint]:
    """Checkpoints, newest first; ``below`` a size, to go on where a list ended."""
    where, values = "final >= ?", [int(final)]
    if below is not None:
        where, values = "final >= ? AND size < ?", [int(final), below]
    rows = open_utils(connection).table("checkpoints").rows_where(where, values, order_by="size DESC", limit=limit)
    return [StoredCheckpoint(row["size"], row["note"], row["at"], bool(row["final"])) for row in rows]


def newest_before(connection: sqlite3.Connection, at: int) -> StoredCheckpoint | None:
    """The largest final checkpoint that this node noted before ``at`` (µs since the Unix epoch)."""
    return _first(connection, "final = 1 AND at < ?", [at])


def iter_between(connection: sqlite3.Connection, above: int, to_size: int) -> Iterator[StoredCheckpoint]:
    """Every checkpoint with above < size <= to_size, oldest first, final or not."""
    query = "SELECT size, note, at, final FROM checkpoints WHERE size > ? AND size <= ? ORDER BY size"
    for size, note, at, final in connection.execute(query, (above, to_size)):
        yield StoredCheckpoint(size, note, at, bool(final))


def iter_all(connection: sqlite3.Connection) -> Iterator[StoredCheckpoint]:
    """Every checkpoint, smallest first, final or not; also one of a size that no journal has."""
    for size, note, at, final in connection.execute("SELECT size, note, at, final FROM checkpoints ORDER BY size"):
        yield StoredCheckpoint(size, note, at, bool(final))


def count_and_newest(connection: sqlite3.Connection) -> tuple[int, int]:
    """How many checkpoints there are, final or not, and the size of the largest, 0 for none."""
    count, newest = connection.execute("SELECT count(*), coalesce(max(size), 0) FROM checkpoints").fetchone()
    return int(count), int(newest)


def load_cosigned(connection: sqlite3.Connection) -> Cosigned | None:
    """What this node cosigned last, None if nothing yet."""
    row = connection.execute("SELECT size, root, note FROM cosigned WHERE id = 1").fetchone()
    return Cosigned(*row) if row else None


def save_cosigned(connection: sqlite3.Connection, size: int, root: bytes, note: str) -> None:
    """Note what this node is about to cosign; the signature may leave only when the transaction has committed.

    Raises ProofError, with nothing changed, for a size below the one before, or the same size with another root: such a
    signature would prove that this node forked the journal.
    """
    before = load_cosigned(connection)
    if before is not None and (size < before.size or (size == before.size and root != before.root)):
        raise ProofError(
            f"cannot cosign the journal at size {size}: cosigned already at size {before.size}, root {before.root.hex()[:16]}",
            hint="was the store restored from an older copy? run `witnz verify --store`",
        )
    connection.execute("INSERT OR REPLACE INTO cosigned (id, size, root, note) VALUES (1, ?, ?, ?)", (size, root, note))


def _first(connection: sqlite3.Connection, where: str, values: list[int]) -> StoredCheckpoint | None:
    rows = open_utils(connection).table("checkpoints").rows_where(where, values, order_by="size DESC", limit=1)
    return next((StoredCheckpoint(row["size"], row["note"], row["at"], bool(row["final"])) for row in rows), None)
