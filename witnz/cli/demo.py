"""``witnz demo``: a real PostgreSQL, real tampering, every detection, told as it happens."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from witnz.cli.command import SET_UP, add_command
from witnz.cli.invocation import invocation
from witnz.cli.output import Output
from witnz.cli.text import columns, count, duration, printable

if TYPE_CHECKING:
    from witnz.demo.summary import Outcome, Summary


class Tamper(StrEnum):
    """Which tampering is done."""

    SQL = "sql"
    FILE = "file"
    ALL = "all"


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    add_command(app, "demo", "witnz demo", "witnz demo --tamper file --keep demo-files", section=SET_UP)(demo)


def demo(
    context: typer.Context,
    *,
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="DIR", help="Leave everything in this new directory afterwards.")
    ] = None,
    tamper: Annotated[Tamper, typer.Option("--tamper", help="By SQL, in the server's files, or both.")] = Tamper.ALL,
    no_cluster: Annotated[bool, typer.Option("--no-cluster", help="One node; this version has no more.")] = False,
) -> int:
    """Tamper with a throw-away PostgreSQL as its DBA could, and see every tampering caught.

    A live workload, tampering by SQL, round the publication and in the heap file of the stopped server; then repair, a bundle,
    and its verification offline.  Exit code 0 only if everything that was expected was seen.  Under two minutes.
    """
    output = invocation(context).output
    invocation(context).log_to_stderr()
    from witnz.demo.run import Options, run_demo

    summary = run_demo(Options(keep, tamper.value), Teller(output))
    output.answer(summary.to_json(), _summary_lines(output, summary))
    return summary.exit_code


class Teller:
    """Tells the person in front of the screen what happens; beside a JSON document on stderr."""

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
        """What came of it."""
        word = self._output.word("ok" if outcome.ok else "FAIL")
        seen = (
            printable(outcome.seen) if outcome.ok else f"expected {printable(outcome.expected)}, seen {printable(outcome.seen)}"
        )
        padding = "  " if outcome.ok else ""
        self._tell(f"  {word}{padding}  {seen}  {self._output.dim(f'({outcome.detector}, {duration(outcome.seconds)})')}")


def _summary_lines(output: Output, summary: Summary) -> Iterator[str]:
    yield ""
    yield "Summary"
    rows = [
        [
            "  " + output.word("ok" if outcome.ok else "FAIL"),
            printable(outcome.scene),
            printable(outcome.seen if outcome.ok else f"expected {outcome.expected}, seen {outcome.seen}"),
            duration(outcome.seconds),
        ]
        for outcome in summary.outcomes
    ]
    yield from columns(rows)
    if summary.kept:
        yield "kept"
        yield from (f"  {line}" for line in columns([[name, printable(path)] for name, path in summary.kept.items()]))
    expected, missed = len(summary.outcomes), len(summary.missed)
    took = f"PostgreSQL {summary.postgres}, {duration(summary.seconds)}"
    if missed or not expected:
        yield f"{output.word('FAIL')}: {count(missed, 'expectation')} of {expected} not met; {took}"
    else:
        yield f"{output.word('ok')}: all {count(expected, 'expectation')} met; {took}"
