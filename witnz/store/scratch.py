"""Folders that work needs for a while, beside the store.

A killed process leaves its own behind; the next start of the node removes them (:mod:`witnz.node.leftovers`).  An audit from
the command line works beside a node that starts, so whoever uses a folder holds a lock on it, which ends with the process.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from witnz.store.datadir import raise_store_full

PREFIX = ".scratch-"


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """A new folder, 0700, in ``folder`` until the ``with`` ends.  Raises StoreFull if it can not be made."""
    try:
        place, held = _make(folder)
    except OSError as error:
        raise_store_full(error, folder)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(held)


def take(place: Path) -> int:
    """Hold a folder, until the descriptor is closed.

    Raises BlockingIOError where somebody holds it, FileNotFoundError where it is gone, another OSError for what is no folder
    and on a file system without such locks, where nobody can say whether it is in use.
    """
    held = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(held), place.lstat()):
            raise FileNotFoundError(place)
    except OSError:
        os.close(held)
        raise
    return held


def _make(folder: Path) -> tuple[Path, int]:
    """A folder, and what holds it."""
    while True:
        place = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
        try:
            return place, take(place)
        except (BlockingIOError, FileNotFoundError):
            continue  # a node that starts took it, empty and held by nobody, for one that was left
        except OSError:
            return place, os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # no locks: no node removes it either
