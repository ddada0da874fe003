"""What is different on a terminal: progress, questions, the watched status in one place."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Site
from tests.support.cli import ROOT
from witnz.cli.output import Output
from witnz.cli.progress import progress

BAR = """
import time
from witnz.cli.output import Output
from witnz.cli.progress import progress
with progress(Output(), "public.t\\x1b[2J", 200) as advance:
    for done in range(0, 201, 20):
        advance(done)
        time.sleep(0.05)
print("done")
"""


def on_terminal(command: list[str], *, answer: bytes = b"", cwd: Path = ROOT) -> tuple[int, str]:
    """(exit code, everything shown) of a command whose streams are a terminal; ``answer`` is typed when a question is asked."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, env=environment)
    os.close(theirs)
    shown, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # the other side is closed
                break
            if answer and b"[y/N]" in shown:
                os.write(ours, answer)
                answer = b""
        elif process.poll() is not None:
            break
    os.close(ours)
    return process.wait(10), shown.decode()


def test_long_work_shows_a_bar_with_rate_and_time_left_and_clears_it() -> None:
    code, shown = on_terminal([sys.executable, "-c", BAR])
    assert code == 0
    assert "/s" in shown
    assert "/200" in shown
    assert "0:00:0" in shown
    assert "public.t\\x1b[2J" in shown
    assert shown.rstrip().endswith("done")


def test_beside_a_pipe_there_is_a_line_now_and_then_and_none_with_q(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(Output(), "public.t", 1000, line_every_s=0.0) as advance:
        advance(500)
    line = capsys.readouterr().err
    assert line.startswith("public.t: 500 rows of about 1,000, ")
    assert line.endswith("/s\n")
    with progress(Output(quiet=True), "public.t", 1000, line_every_s=0.0) as advance:
        advance(500)
    assert capsys.readouterr().err == ""


def test_a_signature_is_asked_for_on_a_terminal_and_a_no_signs_nothing(site: Site) -> None:
    site.cli.run("verify").expect(0)
    site.database.sql("UPDATE audit_logs SET amount = 1 WHERE id = 42")
    site.cli.run("verify").expect(3)
    name = site.findings()[0]["id"]
    command = [
        sys.executable,
        "-m",
        "witnz",
        "findings",
        "approve",
        name,
        "--reason",
        "ok",
        "--operator-key",
        "operator-alice.key",
    ]
    code, shown = on_terminal(command, answer=b"n\n", cwd=site.folder)
    assert code == 2
    assert "Sign this? [y/N]" in shown
    assert "nothing was signed" in shown
    assert site.findings()[0]["state"] == "open"
    code, shown = on_terminal(command, answer=b"y\n", cwd=site.folder)
    assert code == 0
    assert f"{name} is approved, signed by alice" in shown
    code, shown = on_terminal([sys.executable, "-m", "witnz", "status"], cwd=site.folder)
    assert "\x1b[33m\x1b[1mstopped\x1b[0m" in shown
