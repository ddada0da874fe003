"""A node of the demo, in a process of its own, as a user starts it; it is asked through its socket only."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from witnz.demo import guard
from witnz.ending import end_process
from witnz.errors import DatabaseError, NodeUnreachable
from witnz.web.client import NodeClient

STOP_S: Final = 30.0
ORDER_S: Final = 120.0
"""The longest order, a false seal, takes half a minute."""
HONEST: Final = ("witnz", "start")
COMPROMISED: Final = ("witnz.demo.compromised",)
"""The modules that a node may run, with their words: the program, and what an intruder puts in its place."""


class NodeProcess:
    """``folder``: where its ``witnz.yaml`` is; ``data``: its data directory; ``environment``: of its processes."""

    def __init__(self, node_id: str, folder: Path, data: Path, environment: Mapping[str, str]) -> None:
        self.id, self.folder, self.data, self._environment = node_id, folder, data, environment
        self.client = NodeClient(data / "witnz.sock")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.folder / "node.log"

    @property
    def runs(self) -> bool:
        return self._process is not None

    def start(self, program: tuple[str, ...] = HONEST) -> None:
        """Begin; :meth:`is_recording` says when it has.  The compromised program takes its orders by :meth:`order`."""
        pipe = subprocess.PIPE if program is COMPROMISED else None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *program],
                stdin=pipe or subprocess.DEVNULL,
                stdout=pipe or log,
                stderr=log,
                cwd=self.folder,
                env=dict(self._environment),
                start_new_session=True,  # Ctrl-C is for the demo, which then stops it in order
            )
        guard.protect_process(self._process.pid)

    def order(self, line: str) -> str:
        """Tell the compromised program what to do; its answer.  Raises DatabaseError where it gives none."""
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        answer = b""
        with contextlib.suppress(OSError):
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
            if not select.select([self._process.stdout], [], [], ORDER_S)[0]:  # one line an order: nothing waits in the buffer
                raise DatabaseError(f"{self.id} did not answer {line} within {ORDER_S:g} s", code="demo.node")
            answer = self._process.stdout.readline()
        if not answer:
            raise DatabaseError(f"{self.id} has ended; its log ends:\n{self.log_tail()}", code="demo.node")
        return answer.decode()

    def status(self) -> dict[str, Any] | None:
        """What it says of itself, None where it says nothing."""
        with contextlib.suppress(NodeUnreachable):
            return dict(self.client.status())
        return None

    def is_recording(self, tables: int) -> bool:
        """Whether it runs, is connected, and has opened its tables.  Raises DatabaseError if it has ended."""
        if self._process is None or self._process.poll() is not None:
            raise DatabaseError(f"{self.id} has ended; its log ends:\n{self.log_tail()}", code="demo.node")
        status = self.status()
        return status is not None and status["node"]["state"] == "running" and len(status["tables"]) == tables

    def stop(self, *, timeout_s: float = STOP_S) -> int:
        """SIGTERM, and its exit code.  Raises DatabaseError, after a kill, if it does not stop."""
        if self._process is None:
            return 0
        process = self._process
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise DatabaseError(f"{self.id} did not stop within {timeout_s:g} s", code="demo.node") from None
        finally:
            self.kill()

    def kill(self) -> None:
        """kill -9."""
        if self._process is None:
            return
        process, self._process = self._process, None
        end_process(process, what=self.id)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        guard.release_process(process.pid)

    @contextmanager
    def held(self) -> Iterator[None]:
        """It hangs: the process gets no time meanwhile."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    def log_tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-8:])


def free_address() -> str:
    """An address of this machine on which nobody listens now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"
