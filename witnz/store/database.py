"""The store: one SQLite file, one writer at a time, any number of consistent readers beside it.

Rules:
1. Everything that belongs together (entries, tiles, live state, position of the stream) is written in one ``write()``; when it
   returns, it is on disk (write-ahead log, ``synchronous=FULL``), and when it raises, nothing of it is.
2. What callers hold in memory about the store (the heads of :mod:`witnz.store.tablelog`) is void after a ``write()`` that
   raised: load it again.
3. A ``read()`` sees one moment of the store, whatever is written meanwhile.
4. Errors of SQLite leave as the StoreError that they amount to, whoever raised them inside ``write()`` or ``read()``.

The rest of :mod:`witnz.store` is functions on the connection that ``write()`` or ``read()`` gives.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from witnz.errors import NotInitialised, StoreCorrupt, StoreError, StoreFull, StoreLocked
from witnz.store import schema
from witnz.store.datadir import may_write, sync_directory
from witnz.store.turn import Turn

PAGE_BYTES = 8192
WAL_BYTES = 16 * 1024 * 1024
WRITER_CACHE_KIB = 16 * 1024
READER_CACHE_KIB = 4 * 1024
BUSY_TIMEOUT_S = 5.0
_IDLE_READERS = 4


class Database:
    """An open store; made by :meth:`create` or :meth:`open`, used by any number of threads, closed once."""

    def __init__(self, path: Path, writer: sqlite3.Connection | None, *, immutable: bool = False) -> None:
        self.path = path
        self._writer = writer
        self._immutable = immutable
        self._turn = Turn()
        self._turn_of: int | None = None
        self._idle: list[sqlite3.Connection] = []
        self._closed = False

    @classmethod
    def create(cls, path: Path) -> Database:
        """Make a new store, 0600, with the current schema, and open it; it appears under its name only when it is complete.

        Raises StoreError if there is one already, StoreFull where it cannot be written.
        """
        if path.exists():
            raise StoreError(f"store {path} exists already", hint="a store is never overwritten; choose another data directory")
        new = path.with_name(f"{path.name}.new")
        with _translated(path):
            try:
                _remove(new)
                os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            except OSError as error:
                raise StoreFull(f"store {path} cannot be made: {error.strerror}") from error
            connection = _connect(new, WRITER_CACHE_KIB)
            try:
                connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
                connection.execute("PRAGMA journal_mode = WAL")
                schema.migrate(connection)
            finally:
                connection.close()
            try:
                new.replace(path)
                sync_directory(path.parent)
            except OSError as error:
                raise StoreFull(f"store {path} cannot be made: {error.strerror}") from error
        return cls.open(path)

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Database:
        """Open a store and bring its schema up to date; ``read_only`` promises that nothing in it is changed.

        Raises NotInitialised if there is none, StoreCorrupt if it is no store of witnz, StoreError if a newer witnz wrote it,
        or an older one and ``read_only`` forbids the migration, StoreFull if it cannot be written.
        """
        if not path.exists():
            raise NotInitialised(f"store {path} does not exist", hint="run `witnz init` first")
        with _translated(path):
            if read_only:
                # Without its -wal a store can be read in a place that cannot be written, but SQLite has to be told so.
                wal = path.with_name(f"{path.name}-wal")
                immutable = not may_write(path.parent, os.W_OK) and not wal.exists()
                database = cls(path, None, immutable=immutable)
                with database.read() as reader:
                    schema.check(reader, path)
                return database
            connection = _connect(path, WRITER_CACHE_KIB)
            try:
                schema.check_program(connection, path)
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_BYTES // PAGE_BYTES}")
                connection.execute(f"PRAGMA journal_size_limit = {2 * WAL_BYTES}")
                schema.migrate(connection)
            except BaseException:
                connection.close()
                raise
            return cls(path, connection)

    @property
    def read_only(self) -> bool:
        return self._writer is None

    @contextmanager
    def write(self, *, urgent: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction; waits for the one before.  Committed and durable when it returns, undone when anything raises.

        ``urgent``: before the others that wait (:mod:`witnz.store.turn`); for what records, so that a finding does not stand
        behind the journal's and the alerts' transactions, each of which takes the disk's time.

        Raises StoreError for a store opened read-only and for a ``write()`` within a ``write()`` of one thread (it would wait
        for itself), StoreFull, StoreLocked and StoreCorrupt as SQLite says.
        """
        connection = self._writer
        if connection is None or self._closed:
            raise StoreError(f"store {self.path} is {'closed' if self._closed else 'open for reading only'}")
        if self._turn_of == threading.get_ident():
            raise StoreError(f"store {self.path}: a transaction of this thread is open already")
        with self._turn.taken(urgent=urgent), _translated(self.path):
            self._turn_of = threading.get_ident()
            try:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    # A full disk may have ended the transaction already.
                    with suppress(sqlite3.Error):
                        if connection.in_transaction:
                            connection.execute("ROLLBACK")
                    raise
            finally:
                self._turn_of = None

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """One moment of the store, to read from until the ``with`` ends; nothing can be written through it."""
        if self._closed:
            raise StoreError(f"store {self.path} is closed")
        with _translated(self.path):
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._reader()
            try:
                connection.execute("BEGIN")
                # The moment is that of the first read, not of BEGIN.
                connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
                yield connection
                connection.execute("ROLLBACK")
            except BaseException:
                connection.close()
                raise
            if self._closed or len(self._idle) >= _IDLE_READERS:
                connection.close()
            else:
                self._idle.append(connection)

    def checkpoint(self, patience_s: float = BUSY_TIMEOUT_S) -> bool:
        """Move what the write-ahead log holds into the file itself and empty the log; whether readers let it, in that time."""
        if self._writer is None:
            raise StoreError(f"store {self.path} is open for reading only")
        with self._turn.taken(), _translated(self.path):
            self._writer.execute(f"PRAGMA busy_timeout = {round(patience_s * 1000)}")
            try:
                busy = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            finally:
                self._writer.execute(f"PRAGMA busy_timeout = {round(BUSY_TIMEOUT_S * 1000)}")
            return not busy

    def close(self) -> None:
        """Close every connection; the file then stands alone, without a write-ahead log."""
        with self._turn.taken():
            self._closed = True
            while self._idle:
                self._idle.pop().close()
            if self._writer is not None:
                self._writer.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _reader(self) -> sqlite3.Connection:
        options = "mode=ro&immutable=1" if self._immutable else "mode=ro" if self.read_only else "mode=rw"
        connection = _connect(self.path, READER_CACHE_KIB, options)
        connection.execute("PRAGMA query_only = ON")
        return connection


def _connect(path: Path, cache_kib: int, options: str = "mode=rw") -> sqlite3.Connection:
    """A connection of which the caller controls the transactions; threads may pass it on, not share it."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute(f"PRAGMA cache_size = -{cache_kib}")
    except UnicodeDecodeError as error:  # the message quotes a schema that is no text any more
        connection.close()
        raise sqlite3.DatabaseError("malformed database schema") from error
    connection.execute("PRAGMA mmap_size = 0")  # a bad sector is an error, not a signal
    connection.execute("PRAGMA cell_size_check = ON")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA secure_delete = FAST")
    return connection


_DAMAGE = (
    "no such table",
    "no such index",
    "no query solution",  # an index that is not of the records that it is to find
    "malformed database schema",
    "Could not decode to UTF-8",  # bytes of a text
)
"""How SQLite's words begin where a file lacks what witnz made in it, without a result code that says so."""


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise_store_error(error, path)


def raise_store_error(error: sqlite3.Error, path: Path) -> NoReturn:
    """Raise the StoreError that an error of SQLite amounts to; one that only a mistake in the program explains, as it is.

    The primary result codes are those of https://www.sqlite.org/rescode.html.
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    text = str(error)
    damage = text.startswith(_DAMAGE)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT) or damage:
        raise StoreCorrupt(
            f"store {path} is damaged: {text}", hint="keep a copy of it as it is, and run `witnz verify --store`"
        ) from error
    if code == sqlite3.SQLITE_FULL:
        raise StoreFull(
            f"store {path} cannot be written: {text}", hint="free space on its file system; nothing that was recorded is lost"
        ) from error
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        raise StoreFull(
            f"store {path} cannot be read or written: {text}",
            hint="is the file system mounted read-only, full or failing, or does the file belong to another user?",
        ) from error
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        raise StoreLocked(
            f"store {path} is held by another process: {text}", hint="one node runs on one data directory"
        ) from error
    if code in (sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_TOOBIG):
        raise StoreError(f"store {path}: {text}") from error
    raise error
