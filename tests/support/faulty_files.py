"""Files whose n-th durable step fails: with nothing done, or done and reported as failed all the same.

The steps are those by which a program makes something last: os.write, fsync, fdatasync, replace, link and ftruncate, of files
and folders below one directory.  What stands in for the operating system here is its answer, nothing of witnz.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FAILED, PERSISTED = "failed", "failed but persisted"
KINDS = (FAILED, PERSISTED)
_BY_NAME, _BY_FD = ("replace", "link"), ("write", "fsync", "fdatasync", "ftruncate")


class FaultyFiles:
    """Counts the steps below ``directory``; the ``nth`` (from 1; 0: none) fails as ``kind`` says."""

    def __init__(self, directory: Path, nth: int, kind: str) -> None:
        self._directory, self._nth, self._kind = str(directory.resolve()), nth, kind
        self.steps: list[str] = []

    @property
    def fired(self) -> bool:
        return 0 < self._nth <= len(self.steps)

    def around(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(where: Any, *arguments: Any, **keywords: Any) -> Any:
            path = str(Path(f"/proc/self/fd/{where}").readlink() if name in _BY_FD else Path(where).absolute())
            if not path.startswith(self._directory):
                return real(where, *arguments, **keywords)
            self.steps.append(f"{name} {path.removeprefix(self._directory)}")
            if len(self.steps) != self._nth:
                return real(where, *arguments, **keywords)
            if self._kind == PERSISTED:
                real(where, *arguments, **keywords)
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

        return step


@contextmanager
def faulty_files(directory: Path, nth: int, kind: str) -> Iterator[FaultyFiles]:
    files = FaultyFiles(directory, nth, kind)
    with pytest.MonkeyPatch.context() as patch:
        for name in (*_BY_NAME, *_BY_FD):
            patch.setattr(os, name, files.around(name, getattr(os, name)))
        yield files


class FaultyWrites:
    """Counts the files that Python writes whole below ``directory``; the ``nth`` (from 1; 0: none) fails as ``kind`` says."""

    def __init__(self, directory: Path, nth: int, kind: str) -> None:
        self._directory, self._nth, self._kind = directory.resolve(), nth, kind
        self.files: list[str] = []
        self._within = False

    @property
    def fired(self) -> bool:
        return 0 < self._nth <= len(self.files)

    def around(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def write(path: Path, *arguments: Any, **keywords: Any) -> Any:
            reads = name == "open" and not (arguments and str(arguments[0]).startswith(("w", "x", "a")))
            if self._within or reads or not path.resolve().is_relative_to(self._directory):
                return real(path, *arguments, **keywords)
            self.files.append(path.name)
            fails = len(self.files) == self._nth
            self._within = True  # write_bytes opens
            try:
                made = None if fails and self._kind == FAILED else real(path, *arguments, **keywords)
            finally:
                self._within = False
            if fails:
                if name == "open" and made is not None:
                    made.close()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return made

        return write


@contextmanager
def faulty_writes(directory: Path, nth: int, kind: str) -> Iterator[FaultyWrites]:
    """Files that are written without being made durable: those of a folder that counts only once it is complete."""
    files = FaultyWrites(directory, nth, kind)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("write_bytes", "write_text", "open"):
            patch.setattr(Path, name, files.around(name, getattr(Path, name)))
        yield files
