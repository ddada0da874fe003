"""The evidence of the run itself: a report as an auditor gets it, verified by two programs that share no code, and one spoilt.

The third verifier, ``verify.html``, is in the package too; it wants a browser and a person.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from witnz.demo.play import TAMPERED, VERIFIED, Play
from witnz.demo.proving import POLICY
from witnz.demo.stage import AUDIT, COMMAND_S

PACKAGE, SPOILT = "evidence", "evidence-spoilt"
FIGURES: Final = "populations/findings.csv"


def report(play: Play) -> None:
    """Make the package beside any of the running nodes, verify it, change one figure of a copy, and see that refused."""
    play.begin("report", "The evidence of this run, for an auditor")
    today = datetime.now(UTC)
    period = [(today + timedelta(days=days)).strftime("%Y-%m-%d") for days in (-1, 1)]
    package, anybody = play.stage.directory / PACKAGE, list(play.stage.nodes.values())[-1]
    place = os.path.relpath(package, anybody.folder)
    if anybody.folder != play.stage.directory:  # the founding node has one from its `witnz init`
        operator = os.path.relpath(play.stage.operator_key, anybody.folder)
        key = ("keys", "new", "report", anybody.id, "--operator-key", operator, "-o", "node/keys/report.key")
        if not play.expect_command("report.key", play.run(*key, at=anybody)):
            return
    words = ("report", "--standard", "soc2", "--from", period[0], "--to", period[1], "-o", place)
    if not play.expect_command("report.make", play.run(*words, at=anybody)):
        return
    for scene, name, code in (("report.verify", PACKAGE, VERIFIED), ("report.spoilt", SPOILT, TAMPERED)):
        if name == SPOILT:
            _spoil(package, play.stage.directory / SPOILT)
        verdict = "VERIFIED" if code == VERIFIED else "TAMPERED"
        ran = play.run("verify", "--report", name, "--policy", POLICY)
        play.expect_command(scene, ran, code=code, verdict=verdict, detector="offline")
        _verify_alone(play, f"{scene}.py", name, code)
    drawn = play.run("report", "sample", "--n", "5", "--seed", "demo", "--from", period[0], "--to", period[1], "-o", "sample")
    play.expect_command("report.sample", drawn)


def _verify_alone(play: Play, scene: str, name: str, code: int) -> None:
    """The single file of the package itself, with nothing of ours on its path."""
    import subprocess

    play.narrator.say(f"auditor$ python3 {PACKAGE}/verify.py --policy {POLICY} {name}")
    begun = time.monotonic()
    words = [sys.executable, "-I", f"{PACKAGE}/verify.py", "--policy", POLICY, name]
    done = subprocess.run(
        words, cwd=play.stage.directory, capture_output=True, stdin=subprocess.DEVNULL, check=False, timeout=COMMAND_S
    )
    seconds, seen = time.monotonic() - begun, f"exit code {done.returncode}"
    play.note(scene, f"exit code {code}", seen, ok=done.returncode == code, detector="offline", seconds=seconds)


def _spoil(package: Path, target: Path) -> None:
    """A copy in which one table's name is another in one list: what somebody with an editor can do."""
    shutil.copytree(package, target)
    path = target / FIGURES
    path.write_bytes(path.read_bytes().replace(AUDIT.encode(), b"public.audit_l0gs", 1))
