"""The audit of its own store that every node begins its life with (architecture.md 3).

Tail and right edge were checked when the store was opened; everything else is derived anew in a process of its own.  Until that
has ended the store's audit is *pending*; what it finds wrong is a finding, and a critical one.  An audit that could not look at
everything, for want of disk space say, is made again until it can.
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

from witnz.core.verdict import CheckStatus, Verdict
from witnz.ending import end_process, end_threads
from witnz.errors import StoreFull, StoreLocked
from witnz.node.findings import FindingBook
from witnz.store.database import Database

log = structlog.get_logger(__name__)

AGAIN_S = 60.0  # until an audit that could not look at everything is made again


@dataclass(slots=True)
class SelfAudit:
    """``status``, ``message``, ``since`` (µs since the Unix epoch) and ``checks`` are for `witnz status`."""

    db: Database
    path: Path
    book: FindingBook
    clock: Callable[[], int]
    status: Literal["pending", "ok", "fail"] = "pending"
    message: str = ""
    since: int | None = None
    checks: list[dict[str, Any]] = field(default_factory=list)
    again_s: float = AGAIN_S
    _process: subprocess.Popen[str] | None = None

    def run(self, stop: threading.Event) -> None:
        """Audit, and open findings for what is wrong; returns early when the node stops."""
        while not stop.is_set():
            try:
                text, code = self._audit(stop)
                if stop.is_set() or self._conclude(text, code):
                    return
            except (StoreFull, StoreLocked, OSError) as error:
                self.message = f"the audit of the store could not be made: {error}"
                log.warning("store audit could not be made", reason=str(error))
            stop.wait(self.again_s)

    def _audit(self, stop: threading.Event) -> tuple[str, int]:
        """What the audit printed, and its exit code; cut off when the node stops."""
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
                break
        end_threads(output)
        self._close_input()
        return "".join(reader), self._process.returncode

    def _close_input(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def _read(self) -> str:
        if self._process is None or self._process.stdout is None:
            return ""
        with self._process.stdout as pipe:
            return pipe.read()

    def _conclude(self, text: str, code: int) -> bool:
        """Take the answer over; False where it is not the last word."""
        try:
            document = json.loads(text)
        except ValueError:
            self.message = "the audit of the store could not run; see the log"
            log.error("store audit could not run", exit_code=code)
            return False
        checks: list[dict[str, Any]] = document["checks"]
        failed = [check for check in checks if check["status"] == CheckStatus.FAIL]
        for check in failed:
            with self.db.write() as conn:
                self.book.open(conn, cls="node.store-tampered", detail=f"{check['name']}: {check['detail']}"[:1000])
            log.error("store audit failed", part=check["name"], detail=check["detail"])
        self.checks = checks
        if failed:
            self.status, self.message, self.since = "fail", f"{failed[0]['name']}: {failed[0]['detail']}", self.clock()
            return True
        if document["verdict"] == Verdict.VERIFIED:
            self.status, self.message, self.since = "ok", "", self.clock()
            log.info("store was audited", parts=len(checks))
            return True
        skipped = next((f"{check['name']}: {check['detail']}" for check in checks if check["status"] == CheckStatus.SKIP), "")
        self.message = document.get("error") or skipped or "the audit of the store did not finish"
        log.warning("store audit is incomplete", reason=self.message)
        return False
