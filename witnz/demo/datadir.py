"""The data directory of a throw-away server: made by initdb, configured by us, owned by the account that runs the server."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from witnz.demo.programs import Programs, last_line
from witnz.errors import DatabaseError

SETTINGS_FILE = "witnz.conf"


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """``path`` lies in ``programs.directory``, which is ours; from ``path`` downwards everything is the server's own."""

    path: Path
    programs: Programs

    @property
    def exists(self) -> bool:
        return (self.path / "PG_VERSION").exists()

    def create(self, *, auth: str, password: str | None, arguments: Sequence[str]) -> None:
        """Run initdb: UTF8 and ``C.UTF-8`` (``C`` on a system without it) unless ``arguments`` name a locale.

        Raises DatabaseError with initdb's complaint.
        """
        self.path.mkdir(exist_ok=True)
        give(self.path, 0o700, self.programs)
        fixed = ["-D", str(self.path), "-U", "postgres", "-A", auth, "-E", "UTF8", "--no-sync"]
        password_file = self.programs.directory / "initdb-password"
        if password is not None:
            password_file.touch(mode=0o600)
            password_file.write_text(password + "\n", encoding="utf-8")
            give(password_file, 0o600, self.programs)
            fixed.append(f"--pwfile={password_file}")
        try:
            if any(argument.startswith(("--locale", "--lc-")) for argument in arguments):
                done = self._initdb(*fixed, *arguments)
            else:
                done = self._initdb(*fixed, "--locale=C.UTF-8", *arguments)
                if done.returncode != 0 and "locale" in done.stderr:
                    done = self._initdb(*fixed, "--locale=C", *arguments)
        finally:
            if password is not None:
                password_file.unlink()
        if done.returncode != 0:
            raise DatabaseError(f"initdb failed: {last_line(done.stderr)}", hint=done.stderr[-2000:], code="demo.initdb")
        self._write("postgresql.conf", f"include_if_exists = '{SETTINGS_FILE}'\n", os.O_APPEND)

    def _initdb(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.programs.run("initdb", arguments, {}, check=False, input=None, stdout=subprocess.PIPE, timeout_s=120)

    def write_settings(self, settings: Mapping[str, str]) -> None:
        """Into a file of their own that postgresql.conf includes, so that ALTER SYSTEM still wins over them."""
        lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in settings.items()]
        self._write(SETTINGS_FILE, "".join(lines), os.O_CREAT | os.O_TRUNC)

    def _write(self, name: str, text: str, flags: int) -> None:
        """Never through a symbolic link that the server's account could have placed there while we are root."""
        number = os.open(self.path / name, os.O_WRONLY | os.O_NOFOLLOW | flags, 0o600)
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
            if self.programs.account:
                os.fchown(number, self.programs.account["user"], self.programs.account["group"])

    def is_ready(self, pid: int) -> bool:
        """Whether the postmaster ``pid`` accepts connections: line 8 of postmaster.pid (utils/pidfile.h), as pg_ctl does it."""
        try:
            lines = (self.path / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def give(path: Path, mode: int, programs: Programs) -> None:
    """Make ``path`` the server's own, with ``mode``."""
    path.chmod(mode)
    if programs.account:
        os.chown(path, programs.account["user"], programs.account["group"], follow_symlinks=False)
