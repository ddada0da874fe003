"""The audit of its own store that every node begins its life with (architecture.md 3).

Tail and right edge were checked when the store was opened; everything else is derived anew in a process of its own.  Until that
has ended the store's audit is *pending*; what it finds wrong is a finding, and a critical one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import structlog

from witnz.ending import end_process, end_threads
from witnz.node.findings import FindingBook
from witnz.store.database import Database

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class SelfAudit:
    """Runs once.  ``status``, ``message``, ``since`` (µs since the Unix epoch) and ``checks`` are for `witnz status`."""

    db: Database
    path: Path
    book: FindingBook
    clock: Callable[[], int]
    status: Literal["pending", "ok", "fail"] = "pending"
    message: str = ""
    since: int | None = None
    checks: list[dict[str, Any]] = field(default_factory=list)
    _process: subprocess.Popen[str] | None = None

    def run(self, stop: threading.Event) -> None:
        """Audit, and open findings for what is wrong; returns early when the node stops."""
        command = [sys.executable, "-m", "witnz.verify.audit_process", str(self.path)]
        # Nothing is ever written to its standard input: it ends when the pipe does, so also when this node is killed.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        reader: list[str] = []
        output = threading.Thread(target=lambda: reader.append(self._read()), name="audit output", daemon=True)
        output.start()
        while self._process.poll() is None:
            if stop.wait(0.2):
                end_process(self._process)
                end_threads(output)
                self._close_input()
                return
        end_threads(output)
        self._close_input()
        self._conclude("".join(reader), self._process.returncode)

    def _close_input(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def _read(self) -> str:
        if self._process is None or self._process.stdout is None:
            return ""
        with self._process.stdout as pipe:
            return pipe.read()

    def _conclude(self, text: str, code: int) -> None:
        try:
            document = json.loads(text)
        except ValueError:
            self.message = "the audit of the store could not run; see the log"
            log.error("store audit could not run", exit_code=code)
            return
        self.checks = document["checks"]
        failed = [check for check in self.checks if check["status"] == "fail"]
        self.since = self.clock()
        if failed:
            self.status, self.message = "fail", f"{failed[0]['name']}: {failed[0]['detail']}"
        elif document["verdict"] == "VERIFIED":
            self.status = "ok"
        else:
            self.message = document.get("error", "the audit of the store did not finish")
        for check in failed:
            with self.db.write() as conn:
                self.book.open(conn, cls="node.store-tampered", detail=f"{check['name']}: {check['detail']}"[:1000])
            log.error("store audit failed", part=check["name"], detail=check["detail"])
        if not failed:
            log.info("store was audited", parts=len(self.checks))
