"""What a process that was killed left in the data directory, removed when the next node starts.

    .tally-xxxxxxxx                       counts (:mod:`witnz.store.tally`), while they still have a name
    .scratch-xxxxxxxx/, tmpxxxxxxxx/      a log's state derived anew (:mod:`witnz.verify.scratch`); the second by older versions
    tmp/tmpxxxxxxxx                       hashes that memory does not hold (:mod:`witnz.verify.partition`), likewise as above
    tmp/reports/<id>/ of no SHA256SUMS    a report that was not finished

Only these names, only of the kind that witnz makes (a folder only with the files it makes there, and not while somebody holds
it), and never through a symbolic link.  Keys, evidence and what SQLite has beside the store stay, whatever they are called.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import structlog

from witnz.node.reporting import FOLDER
from witnz.store import scratch, tally
from witnz.store.datadir import DataDir
from witnz.verify.package import SUMS

log = structlog.get_logger(__name__)

MAX_NAMED: Final = 20
_RANDOM: Final = "[a-z0-9_]{8}"  # of the standard library's tempfile
_TALLY = re.compile(re.escape(tally.PREFIX) + _RANDOM)
_SCRATCH = re.compile(f"(?:{re.escape(scratch.PREFIX)}|tmp){_RANDOM}")
_IN_SCRATCH = re.compile(r"scratch\.db(?:\.new)?(?:-wal|-shm|-journal)?")
_SPILLED = re.compile("tmp" + _RANDOM)
_REPORT = re.compile("[0-9a-f]{32}")


def remove_leftovers(data: DataDir) -> None:
    """Remove them, and log how many bytes that freed; for the holder of the directory's lock, before it works."""
    removed: dict[str, int] = {}
    for path, remove in _found(data):
        try:
            size = remove(path)
        except OSError as error:
            log.warning("scratch of an earlier process was not removed", path=str(path), reason=error.strerror)
            continue
        if size is not None:
            removed[str(path.relative_to(data.path))] = size
    if removed:
        names = sorted(removed)[:MAX_NAMED]
        log.info("scratch of an earlier process was removed", count=len(removed), bytes=sum(removed.values()), names=names)


Remove = Callable[[Path], int | None]
"""Removes a path: the bytes that this freed, None if it is to stay."""


def _found(data: DataDir) -> Iterator[tuple[Path, Remove]]:
    for entry in _entries(data.path):
        if entry.is_file(follow_symlinks=False) and _TALLY.fullmatch(entry.name):
            yield Path(entry), _remove_file
        elif entry.is_dir(follow_symlinks=False) and _SCRATCH.fullmatch(entry.name):
            yield Path(entry), _remove_scratch
    if data.spill_dir.is_symlink():
        return
    for entry in _entries(data.spill_dir):
        if entry.is_file(follow_symlinks=False) and _SPILLED.fullmatch(entry.name):
            yield Path(entry), _remove_file
        elif entry.is_dir(follow_symlinks=False) and entry.name == FOLDER:
            for report in _entries(Path(entry)):
                if report.is_dir(follow_symlinks=False) and _REPORT.fullmatch(report.name):
                    yield Path(report), _remove_unfinished


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder; nothing where there is none to read."""
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []


def _remove_file(path: Path) -> int:
    size = path.lstat().st_size
    path.unlink()
    return size


def _remove_scratch(path: Path) -> int | None:
    try:
        held = scratch.take(path)
    except (BlockingIOError, FileNotFoundError):
        return None  # somebody works there, or has just ended
    try:
        inside = _entries(path)
        if not all(entry.is_file(follow_symlinks=False) and _IN_SCRATCH.fullmatch(entry.name) for entry in inside):
            return None
        size = sum(_remove_file(Path(entry)) for entry in inside)
        path.rmdir()
    finally:
        os.close(held)
    return size


def _remove_unfinished(path: Path) -> int | None:
    if os.path.lexists(path / SUMS):  # written last
        return None
    size = sum((Path(place) / name).lstat().st_size for place, _, names in os.walk(path) for name in names)
    shutil.rmtree(path)  # follows no link
    return size
