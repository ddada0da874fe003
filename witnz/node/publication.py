"""What anchors are given: a final checkpoint with its bundle, and the logs' tiles that it makes provable."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Final

from witnz.anchor.base import LogFile, Publication
from witnz.core.checkpoint import parse_checkpoint
from witnz.core.journal_view import JournalView
from witnz.core.note import parse_note
from witnz.core.tiles import TILE, ReadTile, consistency_proof, format_entry_bundle, tile_path, tile_widths
from witnz.node.evidence import Evidence
from witnz.store import entries, journal, logs
from witnz.store.database import Database
from witnz.store.logs import LogRow
from witnz.store.seals import newest_sealed

MAX_LEVELS: Final = 8  # 256^8 leaves


def publication_of(db: Database, clock: Callable[[], int], note: str, state: JournalView) -> Publication:
    """The checkpoint of a note that this store holds.  ``state``: what its journal says by now."""
    size = parse_checkpoint(parse_note(note).text).size

    def files(kept: Mapping[str, int]) -> Iterator[LogFile]:
        with db.read() as conn:
            yield from log_files(conn, parse_checkpoint(parse_note(note).text).origin, size, kept, state)

    def proof(old: int) -> list[bytes]:
        with db.read() as conn:
            return consistency_proof(journal.tile_reader(conn, size), old, size)

    return Publication(note, lambda: Evidence(db, clock, state).checkpoint_bundle(size), files, proof)


def log_files(
    conn: sqlite3.Connection, origin: str, size: int, kept: Mapping[str, int], state: JournalView | None = None
) -> Iterator[LogFile]:
    """Tiles of the journal up to ``size``, and of every table log up to its newest seal there, beyond the sizes ``kept``."""
    for row, sealed in _sealed(conn, size, kept, state):
        if sealed > kept.get(row.origin, 0):
            read, lines = entries.tile_reader(conn, row.id, sealed), _entry_reader(conn, row.id)
            yield from _tiles(row.origin, kept.get(row.origin, 0), sealed, read, None if row.status == "pruned" else lines)
    if size > kept.get(origin, 0):
        yield from _tiles(origin, kept.get(origin, 0), size, journal.tile_reader(conn, size), _record_reader(conn))


def _sealed(
    conn: sqlite3.Connection, size: int, kept: Mapping[str, int], state: JournalView | None
) -> list[tuple[LogRow, int]]:
    """(log, size) of every table log that a seal among the first ``size`` records names, and that is not kept as a whole."""
    rows = {(row.table, row.generation): row for row in logs.list_logs(conn) if row.size > kept.get(row.origin, 0)}
    return [(rows[log], sealed.size) for log, sealed in sorted(newest_sealed(conn, rows, size, state).items())]


def _tiles(
    log: str, before: int, size: int, read: ReadTile, lines: Callable[[int, int], list[bytes]] | None
) -> Iterator[LogFile]:
    """The tiles of the tree of ``size`` leaves that the tree of ``before`` did not have, hashes first, then the entries.

    ``lines``: None for a log whose entries were removed by order.
    """
    for level in range(MAX_LEVELS):
        full, partial = tile_widths(size, level)
        if (full, partial) == (0, 0):
            break
        first = tile_widths(before, level)[0]
        for n in range(first, full):
            yield LogFile(log, size, tile_path(level, n), read(level, n, TILE))
        if partial and tile_widths(before, level) != (full, partial):
            yield LogFile(log, size, tile_path(level, full, partial), read(level, full, partial))
    if lines is None:
        return
    full, partial = tile_widths(size, 0)
    for n in range(before // TILE, full):
        yield LogFile(log, size, tile_path("entries", n), format_entry_bundle(lines(n, TILE)))
    if partial:
        yield LogFile(log, size, tile_path("entries", full, partial), format_entry_bundle(lines(full, partial)))


def _entry_reader(conn: sqlite3.Connection, log_id: int) -> Callable[[int, int], list[bytes]]:
    return lambda n, width: list(islice(entries.entries(conn, log_id, n * TILE + 1, n * TILE + width), width))


def _record_reader(conn: sqlite3.Connection) -> Callable[[int, int], list[bytes]]:
    return lambda n, width: list(islice(journal.records(conn, n * TILE + 1, n * TILE + width), width))
