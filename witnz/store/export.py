"""Exports of a log for other programs: C2SP tiles as files, and the audit log as rows.

``export_tiles`` writes the static layout of c2sp.org/tlog-tiles below a directory: hash tiles of every level and entry bundles,
full ones and the partial ones of the size exported; no checkpoint, because table logs have none of their own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from witnz.core.entry import audit_id, chain_hash, content_hash, parse_entry
from witnz.core.tiles import TILE, ReadTile, format_entry_bundle, tile_path, tile_widths
from witnz.core.timestamp import format_time
from witnz.errors import StoreError, StoreFull
from witnz.store import entries, journal, logs

_Leaves = Callable[[int, int], Iterator[bytes]]


def export_tiles(connection: sqlite3.Connection, log_id: int, directory: Path, size: int | None = None) -> int:
    """Write the tiles and entry bundles of a table log's first ``size`` entries (None: all); how many files that were.

    A pruned log has tiles and no entries any more.
    """
    log = logs.get_log(connection, log_id)
    wanted = log.size if size is None else size
    if log.status == "pruned":
        return _export(directory, wanted, entries.tile_reader(connection, log_id, wanted), lambda first, last: iter(()))
    return _export(
        directory, wanted, entries.tile_reader(connection, log_id, wanted),
        lambda first, last: entries.entries(connection, log_id, first, last),
    )  # fmt: skip


def export_journal(connection: sqlite3.Connection, directory: Path, size: int | None = None) -> int:
    """Write the tiles and entry bundles of the journal's first ``size`` records (None: all); how many files that were."""
    wanted = journal.journal_size(connection) if size is None else size
    read = journal.tile_reader(connection, wanted)
    return _export(directory, wanted, read, lambda first, last: journal.records(connection, first, last))


def audit_rows(
    connection: sqlite3.Connection, log_id: int, from_seq: int = 1, to_seq: int | None = None
) -> Iterator[dict[str, Any]]:
    """The audit log of formats.md 2, one row an entry, in which a SQL ``LAG`` finds gaps, forks and duplicates."""
    parent = entries.chain_at(connection, log_id, from_seq - 1)
    for line in entries.entries(connection, log_id, from_seq, to_seq):
        entry = parse_entry(line)
        content = content_hash(line)
        chain = chain_hash(parent, content)
        yield {
            "audit_id": audit_id(chain),
            "seq": entry.seq,
            "parent_hash": parent,
            "content_hash": content.hex(),
            "chain_hash": chain,
            "at": format_time(entry.at),
            "by": entry.by,
            "hint": entry.hint,
            "entry": line.decode(),
        }
        parent = chain


def _export(directory: Path, size: int, read: ReadTile, leaves: _Leaves) -> int:
    if directory.exists() and any(directory.iterdir()):
        raise StoreError(f"{directory}: expected a new or empty directory", hint="name another one")
    files = 0
    level = 0
    while tile_widths(size, level) != (0, 0):
        full, partial = tile_widths(size, level)
        for n in range(full + bool(partial)):
            width = TILE if n < full else partial
            _write(directory / tile_path(level, n, width), read(level, n, width))
            files += 1
        level += 1
    lines, n = leaves(1, size), 0
    while bundle := list(islice(lines, TILE)):
        _write(directory / tile_path("entries", n, len(bundle)), format_entry_bundle(bundle))
        files, n = files + 1, n + 1
    return files


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise StoreFull(f"{path} cannot be written: {error.strerror}") from error
