"""``witnz log export``: one generation of a table log as files for other programs (formats.md 2 and 3).

    tiles       checkpoint, tile/0/000 …, tile/entries/000 …    C2SP tlog-tiles; `checkpoint` is *unsigned*, see below
    audit-log   entries.jsonl       {audit_id, seq, parent_hash, content_hash, chain_hash, at, by, hint, entry} a line
                checkpoints.jsonl   {as_of_seq, chain_hash, snapshot_uri, at} for every seal of this log
    tsv         entries.tsv         the entry lines, as COPY reads them

Table logs have no signed checkpoint of their own: the seals in the journal fix them.  So `checkpoint` holds the text (origin,
size, root) of the newest seal without any signature; who wants to trust it takes the root from a sealed record in a bundle.
Files are never overwritten.  Everything is streamed from one moment of the store.
"""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Final, Literal

from witnz.core.checkpoint import Checkpoint, format_checkpoint
from witnz.core.record import recall_record
from witnz.core.timestamp import format_time
from witnz.errors import StoreFull, UsageError
from witnz.store import entries, export, journal
from witnz.store.logs import LogRow
from witnz.store.seals import naming

ExportFormat = Literal["tiles", "audit-log", "tsv"]
FORMATS: Final[tuple[ExportFormat, ...]] = ("tiles", "audit-log", "tsv")


def export_log(conn: sqlite3.Connection, log: LogRow, size: int, directory: Path, fmt: str) -> list[str]:
    """Write the first ``size`` entries of a log below ``directory``; the names of the files, `tile/` for all tiles.

    Raises UsageError for a format that there is not and for files that exist already, StoreFull where nothing can be written.
    """
    if fmt not in FORMATS:
        raise UsageError(f"format: expected {', '.join(FORMATS)}, found {fmt[:40]!r}")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if fmt == "tiles":
            return _tiles(conn, log, size, directory)
        if fmt == "tsv":
            lines = (line + b"\n" for line in entries.entries(conn, log.id, 1, size)) if size else ()
            return [_write(directory / "entries.tsv", lines)]
        rows = export.audit_rows(conn, log.id, 1, size) if size else ()
        return [
            _write(directory / "entries.jsonl", _json_lines(rows)),
            _write(directory / "checkpoints.jsonl", _json_lines(seal_rows(conn, log))),
        ]
    except FileExistsError as error:
        raise UsageError(f"{error.filename} exists already", hint="name a new directory; nothing is overwritten") from None
    except OSError as error:
        raise StoreFull(f"{error.filename or directory} cannot be written: {error.strerror}") from error


def seal_rows(conn: sqlite3.Connection, log: LogRow) -> Iterator[dict[str, Any]]:
    """The `checkpoints` rows of the audit log: what each seal says of this log; none is anchored yet."""
    named = naming([log.table])
    for _, leaf in journal.records_of(conn, "seal"):
        if named.search(leaf) is None:
            continue
        record = recall_record(leaf)
        for head in record.body["tables"]:
            if (head["table"], head["generation"]) == (log.table, log.generation):
                at = format_time(record.at)
                yield {"as_of_seq": head["size"], "chain_hash": head["chain"], "snapshot_uri": None, "at": at}


def unsigned_checkpoint(conn: sqlite3.Connection, log: LogRow, size: int) -> str:
    """The checkpoint text of a table log at a size; nobody signs it, see the module."""
    return format_checkpoint(Checkpoint(log.origin, size, entries.root_at(conn, log.id, size)))


def log_summary(conn: sqlite3.Connection, log: LogRow, size: int) -> dict[str, Any]:
    """What is exported: table, generation, origin, size, root (b64) and chain head (hex)."""
    return {
        "table": log.table,
        "generation": log.generation,
        "origin": log.origin,
        "size": size,
        "root": base64.b64encode(entries.root_at(conn, log.id, size)).decode(),
        "chain": entries.chain_at(conn, log.id, size),
    }


def _tiles(conn: sqlite3.Connection, log: LogRow, size: int, directory: Path) -> list[str]:
    checkpoint = directory / "checkpoint"
    if any(directory.iterdir()):
        raise UsageError(f"{directory} is not empty", hint="name a new directory; nothing is overwritten")
    export.export_tiles(conn, log.id, directory, size)
    _write(checkpoint, [unsigned_checkpoint(conn, log, size).encode()])
    return ["checkpoint", "tile/"]


def _json_lines(rows: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    for row in rows:
        yield json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _write(path: Path, chunks: Iterable[bytes]) -> str:
    """Write a new file; its name."""
    stream: IO[bytes]
    with path.open("xb") as stream:
        for chunk in chunks:
            stream.write(chunk)
    return path.name
