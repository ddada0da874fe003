"""The README does what it says: its commands are run, in their order, on a real database, and must answer as it shows.

A block of ``console`` lines under ``<!-- run: N -->`` is run N-th, one of ``sql`` under ``<!-- sql: ROLE -->`` before them.
``$`` begins a command, which a backslash at the end of its line continues; ``# exit code N`` behind it is asserted.  The lines
below are what it answers: each must appear, in that order; … stands for lines or characters left out.  Ids of findings, hashes,
times, positions, sizes and durations differ from run to run; an id that was shown is used, as it is this time, further down.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from witnz.demo.server import PostgresServer

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PATIENCE_S = 60.0

BLOCK = re.compile(r"^<!-- (run|sql): (\S+) -->\n```(?:console|sql)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FINDING = r"F-[0-9a-f]{12}"
VOLATILE = {
    "id": FINDING,
    "hash": r"\b[0-9a-f]{64}\b",
    "time": r"\d{4}-\d\d-\d\dT[\d:.]+Z",
    "lsn": r"\b0/[0-9A-F]+",
    "amount": r"\b[\d.]+ (?:s|ms|kB)\b",
    "count": r"\b\d+ records?\b",
    "xid": r"\btransaction \d+",
    "size": r"\bsize \d+",
    "gap": r"\s+",
    "left_out": "…",
}
"""What may differ from run to run: the pattern both of what is shown and of what is taken for it."""
ACCEPTED = {"id": f"({FINDING})", "left_out": ".*", "amount": VOLATILE["amount"] + r"(?:, [\d,]+/s)?"}
"""What is taken where it is not the same pattern: of what took longer the rate is shown as well."""
ANY_OF = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in VOLATILE.items()))


@dataclass(frozen=True, slots=True)
class Step:
    """A command and what the README shows of its answer."""

    command: str
    code: int
    answer: tuple[str, ...]


def steps(block: str) -> Iterator[Step]:
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        lines = part.rstrip("\n").split("\n")
        end = next(i for i, line in enumerate(lines) if not line.endswith("\\"))
        command, said, code = "\n".join(lines[: end + 1]).partition("# exit code ")
        yield Step(command.strip(), int(code) if said else 0, tuple(lines[end + 1 :]))


def runnable() -> list[tuple[int, str]]:
    return sorted((int(name), text) for kind, name, text in BLOCK.findall(README) if kind == "run")


@dataclass(slots=True)
class Shell:
    """One bash for all blocks, so that variables and background jobs last."""

    folder: Path
    env: dict[str, str]
    process: subprocess.Popen[bytes] = field(init=False)
    count: int = 0

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            ["bash", "--norc", "-m"],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        return self

    def run(self, command: str) -> tuple[int, list[str]]:
        """The exit code and the lines that came."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.count += 1
        mark = f"@{self.count}@"
        self.process.stdin.write(f"{command}\nlast=$?; echo; echo {mark} $last\n".encode())
        self.process.stdin.flush()
        lines: list[str] = []
        while True:
            line = self.process.stdout.readline().decode()
            assert line, "\n".join(lines)
            if line.startswith(mark):
                return int(line.split()[1]), lines
            lines.append(line.rstrip("\n"))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        jobs = subprocess.run(["ps", "-o", "pid=", "-s", str(self.process.pid)], capture_output=True, text=True, check=False)
        for pid in map(int, jobs.stdout.split()):
            if pid != self.process.pid:
                os.kill(pid, signal.SIGTERM)
        self.process.wait(PATIENCE_S)
        self.process.stdout.close()


def test_every_command_of_the_readme_answers_as_it_shows(own_server: Callable[..., PostgresServer], tmp_path: Path) -> None:
    server = own_server()
    server.sql("CREATE ROLE app_owner LOGIN")
    server.sql("CREATE DATABASE app OWNER app_owner")
    for _, role, text in (found for found in BLOCK.findall(README) if found[0] == "sql"):
        server.sql(text, user=role, dbname="app")
    programs = f"{Path(sys.executable).parent}{os.pathsep}{server.bin('psql').parent}{os.pathsep}{os.environ['PATH']}"
    env = {"PATH": programs, "HOME": str(tmp_path), "PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PYTHONUNBUFFERED": "1"}
    blocks = runnable()
    assert [number for number, _ in blocks] == [1, 2, 3, 4, 5]
    known: dict[str, str] = {}
    with Shell(tmp_path, env) as shell:
        for _, block in blocks:
            for step in steps(block):
                follow(shell, step, known, server.port)
    assert len(known) == 2


def follow(shell: Shell, step: Step, known: dict[str, str], port: int) -> None:
    """Run a command and compare; what only looks is repeated until the node has got that far."""
    command = re.sub(FINDING, lambda match: known[match[0]], step.command.replace("localhost", f"127.0.0.1:{port}"))
    looks = re.match(r"witnz (status|findings list)", command) is not None
    deadline = time.monotonic() + PATIENCE_S
    while True:
        code, lines = shell.run(command)
        missing = compare(step.answer, lines, known)
        if (code == step.code and missing is None) or not looks or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    shown = "\n".join(lines)
    assert code == step.code, f"$ {command}\nexit code {code} instead of {step.code}\n{shown}"
    assert missing is None, f"$ {command}\nthe README says\n{missing}\nbut it answers\n{shown}"


def compare(expected: tuple[str, ...], lines: list[str], known: dict[str, str]) -> str | None:
    """The first line of the README that the answer lacks, or, where nothing is left out, that it has too much of."""
    rest, shortened = iter([line for line in lines if line.strip()]), False
    for wanted in expected:
        if wanted.strip() == "…":
            shortened = True
            continue
        if not wanted.strip():
            continue
        pattern = pattern_of(wanted)
        for line in rest:
            if found := pattern.fullmatch(line.strip()):
                known |= dict(zip(re.findall(FINDING, wanted), found.groups(), strict=True))
                break
            if not shortened:
                return wanted
        else:
            return wanted
        shortened = False
    left = [] if shortened or not expected else list(rest)
    return f"nothing more than that, found {left[0]!r}" if left else None


def pattern_of(line: str) -> re.Pattern[str]:
    """A shown line as a pattern: what differs from run to run may, everything else may not; a group for each id."""
    text, at, shown = "", 0, line.strip()
    for found in ANY_OF.finditer(shown):
        name = str(found.lastgroup)
        accepted = ACCEPTED.get(name, VOLATILE[name])
        text += re.escape(shown[at : found.start()]) + accepted
        at = found.end()
    return re.compile(text + re.escape(shown[at:]))


# -- the rest of the page -----------------------------------------------------------------------------------------------------


def test_every_link_leads_somewhere() -> None:
    targets = re.findall(r"\]\(([^)]+)\)", README)
    assert len(targets) > 15
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    }
    for target in targets:
        if target.startswith("#"):
            assert target[1:] in headings, target
        else:
            assert (REPOSITORY / target).exists(), target


def test_the_first_screen_shows_a_detection() -> None:
    first = README.split("\n")[:28]
    assert any("TAMPERED" in line for line in first) and any("row.modified" in line for line in first)


@pytest.mark.parametrize("line", [line for line in README.split("\n") if line.startswith("$ ")])
def test_every_shown_command_line_can_be_read_by_a_shell(line: str) -> None:
    assert shlex.split(line.rstrip("\\"), comments=True)[0] == "$"
