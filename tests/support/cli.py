"""The program as people run it, in a folder of its own, in a process of its own or as if it were."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from witnz.cli.main import main

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
    """Calls from one folder.  ``environ``: on top of a clean environment.

    ``run`` calls the program's ``main`` in this process, with the folder, environment and standard streams of a process of its
    own; ``spawn`` really makes one, which takes as long as importing everything does.
    """

    folder: Path
    environ: dict[str, str] = field(default_factory=dict)

    def run(self, *words: str | Path, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> Result:
        out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
        with ExitStack() as stack:
            stack.enter_context(contextlib.chdir(self.folder))
            stack.enter_context(_environment(self._environment(env)))
            stack.enter_context(contextlib.redirect_stdout(out))
            stack.enter_context(contextlib.redirect_stderr(err))
            stack.enter_context(_stdin(stdin))
            stack.callback(_end_logging)
            code = main([str(word) for word in words])
            out.flush()
            err.flush()
        return Result(code, out.detach().getvalue().decode(), err.detach().getvalue().decode())  # type: ignore[attr-defined]

    def spawn(
        self,
        *words: str | Path,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
        timeout_s: float = TIMEOUT_S,
    ) -> Result:
        done = subprocess.run(
            [*wrapper, sys.executable, "-m", "witnz", *map(str, words)],
            cwd=self.folder,
            env=self._environment(env) | {"PYTHONWARNINGS": "error"},
            input=stdin,
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
        log = self.folder / "start.err"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "witnz", "start", *words],
                cwd=self.folder,
                env=self._environment(None) | {"PYTHONWARNINGS": "error"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stream,
                start_new_session=True,
            )
        return Started(process, log).listening()

    def _environment(self, env: Mapping[str, str] | None) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        return kept | {"PYTHONPATH": str(ROOT)} | self.environ | dict(env or {})


@contextmanager
def _environment(environ: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _stdin(data: bytes) -> Iterator[None]:
    before, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(data), "utf-8")
    try:
        yield
    finally:
        sys.stdin = before


def _end_logging() -> None:
    """The program leaves its log's handler behind; here the stream of it goes away."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if getattr(handler, "_witnz", False)]:
        root.removeHandler(handler)


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
