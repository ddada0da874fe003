"""The one file that the engine's journal lives in, behind an interface that a test can fail."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from witnz.errors import StoreError, StoreFull


class LogFile(Protocol):
    """A file that is appended to, and now and then replaced as a whole."""

    def read(self) -> bytes | None:
        """All of it; None where there is none yet."""

    def append(self, data: bytes) -> None:
        """Add to its end; durable only after :meth:`sync`."""

    def sync(self) -> None:
        """Return once everything appended is durable."""

    def replace(self, data: bytes) -> None:
        """Put another in its place: after a crash there is the old one or the new one, and after this returns the new one."""

    def truncate(self, size: int) -> None:
        """Cut its end off, durably."""

    def close(self) -> None: ...


class DiskFile:
    """A :class:`LogFile` on disk.  Raises StoreFull and StoreError; after either, it is not to be used any more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def read(self) -> bytes | None:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failed(self.path, error) from error

    def append(self, data: bytes) -> None:
        try:
            fd = self._open()
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        except OSError as error:
            raise _failed(self.path, error) from error

    def sync(self) -> None:
        try:
            os.fdatasync(self._open())
        except OSError as error:
            raise _failed(self.path, error) from error

    def replace(self, data: bytes) -> None:
        new = self.path.with_suffix(".new")
        try:
            self.close()
            with suppress(FileNotFoundError):
                new.unlink()
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            new.replace(self.path)
            self._sync_directory()
        except OSError as error:
            raise _failed(self.path, error) from error

    def truncate(self, size: int) -> None:
        try:
            os.ftruncate(self._open(), size)
            os.fsync(self._open())
        except OSError as error:
            raise _failed(self.path, error) from error

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> int:
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        return self._fd

    def _sync_directory(self) -> None:
        fd = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _failed(path: Path, error: OSError) -> StoreError:
    kind = StoreFull if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) else StoreError
    return kind(f"{path}: {error.strerror or error}", hint="the engine stops; see to the disk and start the node again")
