"""Running the programs of one PostgreSQL installation, each as the account it needs and with nobody else's environment."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from witnz.demo.installation import Installation, RunAs, find_installation
from witnz.errors import ConfigError, DatabaseError

DATA_TOOLS = frozenset(
    {"initdb", "pg_ctl", "postgres", "pg_checksums", "pg_controldata", "pg_resetwal", "pg_rewind", "pg_upgrade"}
    | {"pg_verifybackup", "pg_waldump"}
)
"""Programs that work on a data directory: they run as the server's account, the others as the caller."""

CLIENTS = 18  # whose client programs stand in


@dataclass(frozen=True, slots=True)
class Programs:
    """``installation``'s programs; those of :data:`DATA_TOOLS` run as ``account`` in ``directory``."""

    installation: Installation
    account: RunAs
    directory: Path

    def path(self, name: str) -> Path:
        """The path of a program; ConfigError when neither this installation nor, of a client, the wheel's has it.

        Clients of a newer release serve older servers too; the npm packages bring none.
        """
        path = self.installation.bin / name
        if not path.is_file() and name not in DATA_TOOLS:
            with contextlib.suppress(ConfigError):
                path = find_installation(CLIENTS).bin / name
        if not path.is_file():
            raise ConfigError(
                f"PostgreSQL {self.installation.version} here has no program {name!r} in {self.installation.bin}",
                hint="the client programs come with witnz[demo], or with the distribution's postgresql-client",
                code="demo.postgres-missing",
            )
        return path

    def how(self, name: str, connection: Mapping[str, str]) -> dict[str, Any]:
        """The keyword arguments for :mod:`subprocess`: environment, and account and folder where the program needs them."""
        keywords: dict[str, Any] = {"env": self.environment(connection)}
        if name in DATA_TOOLS:
            keywords |= {"cwd": self.directory, **self.account}
        return keywords

    def environment(self, connection: Mapping[str, str]) -> dict[str, str]:
        """Ours without any PG* setting, so that the caller's own database never comes into play."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith("PG") and name not in {"LC_ALL", "LANG"}
        }
        path = f"{self.installation.bin}{os.pathsep}{kept.get('PATH', os.defpath)}"
        return {**kept, "LC_ALL": "C", "PATH": path, "PGCLIENTENCODING": "UTF8", "PSQLRC": os.devnull, **connection}

    def run(
        self,
        name: str,
        arguments: Sequence[str | Path],
        connection: Mapping[str, str],
        *,
        check: bool,
        input: str | None,
        stdout: int | IO[Any],
        timeout_s: float,
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end; DatabaseError with the last line of its complaint when it fails and ``check`` is set."""
        done = subprocess.run(
            [str(self.path(name)), *map(str, arguments)],
            stdin=subprocess.DEVNULL if input is None else None,
            input=input,
            stdout=stdout,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            timeout=timeout_s,
            check=False,
            **self.how(name, connection),
        )
        if check and done.returncode != 0:
            raise DatabaseError(
                f"{name} failed with exit code {done.returncode}: {last_line(done.stderr)}",
                hint=done.stderr[-2000:],
                code="demo.program",
            )
        return done


def last_line(text: str) -> str:
    """The line of a program's complaint that says most, shortened."""
    lines = text.strip().splitlines()
    return lines[-1][:300] if lines else "no output"
