"""The program as people run it: ``python -m witnz`` in a process and a folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

TIMEOUT_S = 60.0
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Result:
    """What one call left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        found = json.loads(self.out)
        assert isinstance(found, dict), found
        return found

    @property
    def error(self) -> dict[str, Any]:
        """The ``witnz.error/1`` that ends stderr; it names the code the process really gave."""
        found = json.loads(self.err.strip().splitlines()[-1])
        assert isinstance(found, dict)
        assert found["schema"] == "witnz.error/1", found
        assert found["exit_code"] == self.code, found
        return found

    def expect(self, code: int) -> Result:
        """This result, if the process gave this code and no traceback."""
        assert self.code == code, f"exit code {self.code} instead of {code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"
        assert "Traceback" not in self.err, self.err
        return self


@dataclass(slots=True)
class Cli:
    """Calls from one folder.  ``environ``: on top of a clean environment."""

    folder: Path
    environ: dict[str, str] = field(default_factory=dict)
    wrapper: Sequence[str] = ()

    def run(
        self, *words: str | Path, stdin: bytes | None = None, env: Mapping[str, str] | None = None, timeout_s: float = TIMEOUT_S
    ) -> Result:
        done = subprocess.run(
            self._command(words),
            cwd=self.folder,
            env=self._environment(env),
            input=b"" if stdin is None else stdin,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def json(self, *words: str | Path, code: int = 0) -> dict[str, Any]:
        """The document of a call that gives ``code``."""
        return self.run(*words, "--json").expect(code).document

    def start(self, *words: str) -> Started:
        """``witnz start``, listening when this returns."""
        process = subprocess.Popen(
            self._command(("start", *words)),
            cwd=self.folder,
            env=self._environment(None),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=(self.folder / "start.err").open("wb"),
            start_new_session=True,
        )
        return Started(process, self.folder / "start.err").listening()

    def _command(self, words: Sequence[str | Path]) -> list[str]:
        return [*self.wrapper, sys.executable, "-m", "witnz", *map(str, words)]

    def _environment(self, env: Mapping[str, str] | None) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        return kept | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"} | self.environ | dict(env or {})


@dataclass(slots=True)
class Started:
    """A running ``witnz start``."""

    process: subprocess.Popen[bytes]
    log: Path
    first_line: str = ""

    def listening(self) -> Self:
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline().decode()
        assert self.first_line, f"witnz start ended with {self.process.wait()}:\n{self.log.read_text()}"
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(TIMEOUT_S)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop(signal.SIGKILL)


def wait_until(look: Any, what: str, timeout_s: float = TIMEOUT_S) -> Any:
    """The first truthy answer of ``look``, polled."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}"
        time.sleep(0.1)
