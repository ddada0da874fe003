"""The data directory: where a node keeps its store, its keys and its lock; all of it for its owner only.

    <data_dir>/            0700
        witnz.db           0600   the store (:mod:`witnz.store.database`), with its -wal and -shm beside it
        keys/              0700   one key a file, 0600
        evidence/          0700   what was set aside: divergent tails, entries beyond an epoch, forks
        lock               0600   flock'ed by the one process that may write; holds its process id
        tmp/               0700   what a verification can not hold in memory, and the newest reports until they are fetched
        witnz.sock                the node's Unix socket

A secret is never read from a file that others can read, nor through a symbolic link, and is never written half: the new file
is complete and on disk before it gets its name.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NoReturn, TypeVar

from witnz.errors import FormatError, KeyProblem, NotInitialised, StoreError, StoreFull, StoreLocked

MAX_KEY_FILE_BYTES = 65_536
_OTHERS = 0o077
_OWN_NAMES = frozenset({"witnz.db", "witnz.db.new", "keys", "evidence", "lock"})

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class DataDir:
    """The paths of one data directory, and what makes it usable."""

    path: Path

    @property
    def database(self) -> Path:
        return self.path / "witnz.db"

    @property
    def keys_dir(self) -> Path:
        return self.path / "keys"

    @property
    def evidence_dir(self) -> Path:
        return self.path / "evidence"

    @property
    def spill_dir(self) -> Path:
        return self.path / "tmp"

    @property
    def socket(self) -> Path:
        return self.path / "witnz.sock"

    @property
    def lock_file(self) -> Path:
        return self.path / "lock"

    def create(self) -> None:
        """Make the directory and its folders, 0700; one that is empty or was begun by an earlier ``create`` is taken over.

        Raises StoreError for a directory that holds other files, KeyProblem for one of ours that others can enter, StoreFull
        where nothing can be made.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = {entry.name for entry in self.path.iterdir()} - {"lost+found"}
            if not found:
                self.path.chmod(0o700)
            elif not found & _OWN_NAMES:
                raise StoreError(
                    f"data directory {self.path}: expected a new or empty directory, found {min(found)!r} in it",
                    hint="give witnz a directory of its own (node.data_dir)",
                )
            _check_private(self.path, "data directory", "700")
            for folder in (self.keys_dir, self.evidence_dir):
                folder.mkdir(mode=0o700, exist_ok=True)
                _check_private(folder, "directory", "700")
        except OSError as error:
            raise_store_full(error, self.path)

    def check(self, *, writable: bool = True) -> None:
        """Refuse a directory that cannot be used.

        Raises NotInitialised where there is no store, KeyProblem for permissions that let others in, and, where ``writable``,
        StoreFull if this process could not write to it.
        """
        _check_private(self.path, "data directory", "700")
        _check_private(self.database, "store", "600")
        if self.keys_dir.exists():
            _check_private(self.keys_dir, "directory", "700")
        if writable and not (may_write(self.path, os.W_OK | os.X_OK) and may_write(self.database, os.W_OK)):
            raise StoreFull(
                f"data directory {self.path} cannot be written",
                hint="is the file system mounted read-only, or does the directory belong to another user?",
            )

    def lock(self) -> StoreLock:
        """Take the directory for this process, at once or not at all; release it, or leave the ``with``, to give it back.

        The kernel gives it back when the process ends, however it ends.  Raises StoreLocked with the holder's process id,
        also when the holder is this process; NotInitialised where there is no directory; StoreFull where it cannot be written.
        """
        try:
            file = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            raise _not_initialised(self.path, "data directory") from None
        except OSError as error:
            raise_store_full(error, self.lock_file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 32).decode("ascii", "replace").strip()
            os.close(file)
            raise StoreLocked(
                f"data directory {self.path} is held by process {holder or 'unknown'}",
                hint="one node runs on one data directory; stop that process, or talk to it through its socket",
            ) from None
        try:
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            os.close(file)
            raise_store_full(error, self.lock_file)
        return StoreLock(file)


class StoreLock:
    """A data directory that is held; made by :meth:`DataDir.lock`."""

    def __init__(self, file: int) -> None:
        self._file: int | None = file

    def release(self) -> None:
        """Give the directory back; a second call does nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> StoreLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


def load_key_file(path: Path) -> str:
    """The text of a key file, 1 to 65,536 bytes of UTF-8, without the white space around it.

    Raises KeyProblem for a file that is missing, no regular file, a symbolic link, readable or writable by others, empty, too
    large or not text.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise KeyProblem(f"key file {path}: expected a file, found a symbolic link", hint="name the file itself") from None
        if error.errno == errno.ENOENT:
            raise KeyProblem(f"key file {path} does not exist", hint="restore it, or make keys with `witnz init`") from None
        raise KeyProblem(f"key file {path} cannot be read: {error.strerror}") from None
    try:
        mode = os.fstat(file).st_mode
        if not stat.S_ISREG(mode):
            raise KeyProblem(f"key file {path}: expected a regular file")
        if mode & _OTHERS:
            _refuse_mode(path, "key file", mode, "600")
        data = os.read(file, MAX_KEY_FILE_BYTES + 1)
    finally:
        os.close(file)
    if len(data) > MAX_KEY_FILE_BYTES:
        raise KeyProblem(f"key file {path}: expected at most {MAX_KEY_FILE_BYTES} bytes")
    try:
        text = data.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise KeyProblem(f"key file {path} is damaged: expected text", hint="restore it from your copy") from None
    if not text:
        raise KeyProblem(f"key file {path} is damaged: it is empty", hint="restore it from your copy")
    return text


def load_key(path: Path, parse: Callable[[str], _T]) -> _T:
    """What ``parse`` makes of the text of a key file; a FormatError of it becomes a KeyProblem that names the file."""
    text = load_key_file(path)
    try:
        return parse(text)
    except FormatError as error:
        raise KeyProblem(f"key file {path} is damaged: {error}", hint="restore it from your copy") from None


def save_key_file(path: Path, text: str, *, replace: bool = False) -> None:
    """Write a key file, 0600, whole and durable or not at all.

    Raises KeyProblem if it exists and is not to be replaced, or is a symbolic link; StoreFull where it cannot be written.
    """
    if path.is_symlink():
        raise KeyProblem(f"key file {path}: expected a file, found a symbolic link", hint="name the file itself")
    try:
        with _new_file(path, [text.rstrip("\n").encode() + b"\n"]) as new:
            if replace:
                new.replace(path)
            else:
                path.hardlink_to(new)
        sync_directory(path.parent)
    except FileExistsError:
        raise KeyProblem(f"key file {path} exists already", hint="a key is not overwritten; move the old file away") from None
    except OSError as error:
        raise_store_full(error, path)


def save_file(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file, 0600, whole and durable or not at all, in the place of what stood there.  Raises StoreFull."""
    try:
        with _new_file(path, chunks) as new:
            new.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise_store_full(error, path)


@contextmanager
def _new_file(path: Path, chunks: Iterable[bytes]) -> Iterator[Path]:
    """A new 0600 file beside ``path``, durably written; what is left of it under its temporary name goes away in the end."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(file, "wb") as stream:
            stream.writelines(chunks)
            stream.flush()
            os.fsync(stream.fileno())
            yield new
    finally:
        new.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def may_write(path: Path, mode: int) -> bool:
    """What the kernel would say to this process as it is now, a read-only file system included."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _check_private(path: Path, what: str, mode: str) -> None:
    try:
        found = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise _not_initialised(path, what) from None
    except PermissionError as error:
        raise KeyProblem(f"{what} {path} cannot be read: {error.strerror}", hint="run as the user that owns it") from None
    if found & _OTHERS:
        _refuse_mode(path, what, found, mode)


def _not_initialised(path: Path, what: str) -> NotInitialised:
    return NotInitialised(f"{what} {path} does not exist", hint="run `witnz init` first")


def _refuse_mode(path: Path, what: str, found: int, mode: str) -> NoReturn:
    raise KeyProblem(
        f"{what} {path}: expected permissions {mode}, found {stat.S_IMODE(found):o}", hint=f"run: chmod {mode} {path}"
    )


def raise_store_full(error: OSError, path: Path) -> NoReturn:
    """The StoreFull that an operating system error on ``path`` amounts to."""
    hints = {
        errno.ENOSPC: "free space on this file system; nothing that was recorded is lost",
        errno.EDQUOT: "raise the quota of this user; nothing that was recorded is lost",
        errno.EROFS: "the file system is mounted read-only",
        errno.EACCES: "run as the user that owns it",
        errno.EPERM: "run as the user that owns it",
    }
    raise StoreFull(f"{path} cannot be written: {error.strerror}", hint=hints.get(error.errno or 0, "")) from error
