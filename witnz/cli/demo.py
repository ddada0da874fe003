"""``witnz demo``: a real PostgreSQL, real tampering, every detection, told as it happens; nothing stays behind unless asked."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from witnz.cli.command import SET_UP, add_command
from witnz.cli.invocation import invocation
from witnz.cli.output import Output
from witnz.cli.text import columns, count, duration, printable
from witnz.errors import UsageError

if TYPE_CHECKING:
    from witnz.demo.summary import Outcome, Summary

HASHES: Final = ("recorded", "found")


class Tamper(StrEnum):
    """Which tampering is done."""

    SQL = "sql"
    FILE = "file"
    ALL = "all"


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    lines = ("witnz demo", "witnz demo --keep demo-files", "witnz demo --tamper file --json")
    add_command(app, "demo", *lines, section=SET_UP)(demo)


def demo(
    context: typer.Context,
    *,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="DIR", help="A new directory where database, store, keys, bundles and log stay."),
    ] = None,
    no_cluster: Annotated[
        bool, typer.Option("--no-cluster", help="One node in place of three; what only several can show is left out.")
    ] = False,
    tamper: Annotated[
        Tamper, typer.Option("--tamper", help="sql: as the DBA and round the publication; file: in the heap file.")
    ] = Tamper.ALL,
    leave_out: Annotated[list[str] | None, typer.Option("--leave-out", metavar="DEED", hidden=True)] = None,
    patience: Annotated[float, typer.Option("--patience", min=1.0, metavar="SECONDS", hidden=True)] = 60.0,
) -> int:
    """Tamper with a throw-away PostgreSQL, and see every tampering caught.

    Nothing is mocked: a server from a wheel, an application that writes all the time, `witnz init` and `witnz start` in
    processes of their own, on three nodes; their leader is killed, then lies; then UPDATE, DELETE and TRUNCATE as the DBA, a
    node's store rewritten, changes behind the publication, an edited heap file; then repair, a bundle, and its verification
    offline.  Exit code 0 only if everything that was expected was seen.  Under three minutes; needs the extra `demo`.
    """
    call = invocation(context)
    call.log_to_stderr()
    from witnz.demo import members, tampering
    from witnz.demo.run import Options, run_demo

    left_out = frozenset(leave_out or ())
    deeds = tampering.DEEDS | members.DEEDS
    if left_out - deeds:
        raise UsageError(f"--leave-out: expected one of {', '.join(sorted(deeds))}")
    nodes = 1 if no_cluster else 3
    summary = run_demo(Options(keep, nodes, tamper.value, left_out, patience), Teller(call.output))
    call.output.answer(summary.to_json(), _summary_lines(call.output, summary))
    return summary.exit_code


class Teller:
    """Tells the person in front of the screen what happens, line by line; beside a JSON document on stderr."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._tell = output.note if output.as_json else output.say

    def act(self, title: str) -> None:
        """A part begins."""
        self._tell("")
        self._tell(printable(title))

    def say(self, text: str) -> None:
        """What is being done."""
        for line in text.splitlines():
            self._tell(f"    {printable(line)}")

    def show(self, outcome: Outcome) -> None:
        """What came of it; of a finding also the hashes."""
        word = f"{self._output.word('ok')}  " if outcome.ok else self._output.word("FAIL")
        by = self._output.dim(f"({outcome.detector}, {outcome.seconds:.2f} s)" if outcome.seconds else f"({outcome.detector})")
        self._tell(f"  {word}  {_said(outcome)}  {by}")
        for finding in outcome.findings:
            for name in HASHES:
                if finding[name]:
                    self._tell(f"          {name:<8}  {finding[name]}")


def _said(outcome: Outcome) -> str:
    seen = " ".join(printable(outcome.seen).split())
    return seen if outcome.ok else f"expected {printable(outcome.expected)}, seen: {seen}"


def _summary_lines(output: Output, summary: Summary) -> Iterator[str]:
    yield ""
    heading = ["", "SCENE", "SEEN", "DETECTOR", "SECONDS"]
    rows = [
        [output.word("ok" if one.ok else "FAIL"), printable(one.scene), _cut(one), one.detector, f"{one.seconds:.2f}"]
        for one in summary.outcomes
    ]
    yield from columns([heading, *rows], right=(4,))
    yield ""
    work = summary.workload
    if work:
        yield f"meanwhile the application committed {work['rows']:,} rows, {work['signed']:,} of them signed changes of prices"
    yield from _kept_lines(summary.kept)
    expected, missed = len(summary.outcomes), len(summary.missed)
    took = f"PostgreSQL {summary.postgres}, {count(summary.nodes, 'node')}, {duration(summary.seconds)}"
    if missed or not expected:
        yield f"{output.word('FAIL')}: {count(missed, 'expectation')} of {expected} not met; {took}"
    else:
        yield f"{output.word('ok')}: all {count(expected, 'expectation')} met; {took}"


def _cut(outcome: Outcome) -> str:
    """What was seen, without the reason that a command gave where the code was the expected one."""
    return outcome.expected if outcome.ok and outcome.seen.startswith(f"{outcome.expected}:") else _said(outcome)


def _kept_lines(kept: Mapping[str, str]) -> Iterator[str]:
    if not kept:
        return
    yield "everything is kept; look at it with"
    yield f"  cd {shlex.quote(printable(kept['directory']))}"
    yield "  witnz findings list"
    yield "  witnz log show audit_logs --key 117"
    yield "  witnz verify --checkpoint row.witnz.json --policy policy.txt"
    yield "and find there"
    shown = [[name.replace("_", " "), printable(path)] for name, path in kept.items() if name != "directory"]
    yield from (f"  {line}" for line in columns(shown))
