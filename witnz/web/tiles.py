"""Static C2SP tiles of the node's logs (c2sp.org/tlog-tiles), under ``/tiles/{log}/``.

    {log}                       the journal: the cluster's name; a table log: its origin `<cluster>/<table>/<generation>`,
                                or `<table>/<generation>`, or `<table>` for the newest; percent-encoded or with its slashes
    {log}/checkpoint            the journal: the newest signed checkpoint
                                a table log: the *unsigned* text of its newest seal, which the journal vouches for
    {log}/tile/{level}/{n}[.p/{width}]      256 hashes, or the first `width` of them
    {log}/tile/entries/{n}[.p/{width}]      the same entries, each behind its length as uint16

Tiles never change, so they may be cached for ever; a checkpoint must not be.
"""

from __future__ import annotations

import re
import sqlite3
from itertools import islice
from typing import Final, Literal

from witnz.core.journal import JournalState
from witnz.core.tiles import TILE, format_entry_bundle, tile_path
from witnz.errors import UsageError
from witnz.node.export import unsigned_checkpoint
from witnz.store import checkpoints, entries, journal, logs
from witnz.store.logs import LogRow
from witnz.web.problems import not_found

TILE_TYPE: Final = "application/octet-stream"
NOTE_TYPE: Final = "text/plain; charset=utf-8"
FOR_EVER: Final = "max-age=31536000, immutable"

_PATH = re.compile(r"tile/(entries|[0-9]{1,2})/((?:x[0-9]{3}/){0,5}[0-9]{3})(?:\.p/([0-9]{1,3}))?")

Level = int | Literal["entries"]


def parse_tile_path(path: str) -> tuple[Level, int, int]:
    """(level, n, width) of a tile's path; the inverse of :func:`witnz.core.tiles.tile_path`.  UsageError for any other text."""
    match = _PATH.fullmatch(path)
    if match is None:
        raise UsageError(f"tile: expected tile/<level>/<n>[.p/<width>], found {path[:80]!r}")
    level: Level = "entries" if match[1] == "entries" else int(match[1])
    n, width = int(match[2].replace("x", "").replace("/", "")), int(match[3] or TILE)
    if tile_path(level, n, width) != path:
        raise UsageError(f"tile: expected the path {tile_path(level, n, width)}, found {path[:80]!r}")
    return level, n, width


def find_log(conn: sqlite3.Connection, state: JournalState, name: str) -> LogRow | None:
    """The table log that ``name`` stands for, None for the journal.  Raises UsageError (404) if there is no such log."""
    if name == state.cluster:
        return None
    rows = [row for row in logs.list_logs(conn) if row.status != "open"]
    for row in reversed(rows):  # by table and generation, so that of several the newest comes first
        if name in (row.origin, f"{row.table}/{row.generation}", row.table):
            return row
    raise not_found(f"there is no log {name[:200]!r}", f"the journal is {state.cluster}, a table's log <schema>.<table>")


def read_checkpoint(conn: sqlite3.Connection, state: JournalState, name: str) -> bytes:
    """The checkpoint of a log as the module says.  Raises UsageError (404) while there is none."""
    row = find_log(conn, state, name)
    if row is None:
        newest = checkpoints.latest(conn, final=True) or checkpoints.latest(conn)
        if newest is None:
            raise not_found("there is no checkpoint yet", "one is made at each seal")
        return newest.note.encode()
    sealed = state.last_sealed(row.table, row.generation)
    if sealed is None:
        raise not_found(f"no seal covers the log of {row.table} yet", "one is made every seal_interval")
    return unsigned_checkpoint(conn, row, min(sealed.size, row.size)).encode()


def read_tile(conn: sqlite3.Connection, state: JournalState, name: str, path: str) -> bytes:
    """A tile or an entry bundle.  Raises UsageError: 400 for a path that is none, 404 for one that the log does not have."""
    level, n, width = parse_tile_path(path)
    row = find_log(conn, state, name)
    size = journal.journal_size(conn) if row is None else row.size
    at_level = size if level == "entries" else size >> (8 * level)
    if n * TILE + width > at_level:
        raise not_found(f"the log {name[:200]!r} has no {path}", f"its size is {size}")
    if level == "entries":
        if row is not None and row.status == "pruned":
            raise not_found(f"the entries of {name[:200]!r} were removed by order", "its hash tiles are kept")
        first, last = n * TILE + 1, n * TILE + width
        lines = journal.records(conn, first, last) if row is None else entries.entries(conn, row.id, first, last)
        return format_entry_bundle(list(islice(lines, TILE)))
    read = journal.tile_reader(conn) if row is None else entries.tile_reader(conn, row.id)
    return read(level, n, width)
