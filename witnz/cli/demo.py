"""``witnz demo``: a real PostgreSQL, real tampering, every detection, and the proof offline; nothing stays behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from witnz.cli.command import SET_UP, add_command
from witnz.cli.invocation import invocation
from witnz.cli.output import Output
from witnz.cli.text import columns, printable
from witnz.errors import UsageError

if TYPE_CHECKING:
    from witnz.demo.summary import Outcome

MAX_SEEN: Final = 60


class Tamper(StrEnum):
    """Which tampering is done."""

    SQL = "sql"
    FILE = "file"
    ALL = "all"


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    add_command(app, "demo", "witnz demo", "witnz demo --keep demo-files", "witnz demo --tamper file --json", section=SET_UP)(
        demo
    )


def demo(
    context: typer.Context,
    *,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="DIR", help="A new directory where database, store, keys, bundles and log stay."),
    ] = None,
    no_cluster: Annotated[
        bool, typer.Option("--no-cluster", help="One node only; this version has no other cluster, so it is what runs anyway.")
    ] = False,
    tamper: Annotated[
        Tamper, typer.Option("--tamper", help="sql: as the DBA, and round the publication; file: in the heap file.")
    ] = Tamper.ALL,
    leave_out: Annotated[list[str] | None, typer.Option("--leave-out", metavar="SCENE", hidden=True)] = None,
    patience: Annotated[float, typer.Option("--patience", min=1.0, metavar="SECONDS", hidden=True)] = 30.0,
) -> int:
    """Start a throw-away PostgreSQL and a node, tamper with the database, and see every tampering caught.

    Nothing is mocked: a server from a wheel, an application that writes all the time, `witnz init` and `witnz start` in
    processes of their own; then UPDATE, DELETE and TRUNCATE as the DBA, changes behind the publication, and an edited heap
    file; then repair, and verification offline.  Exit code 0 only if everything that was expected was seen.  Under two minutes;
    needs the extra `demo`.
    """
    call = invocation(context)
    from witnz.demo.run import Options, run_demo

    unknown = set(leave_out or ()) - {"sql.update", "sql.delete", "sql.unsigned", "sql.truncate", "publication", "file.update"}
    if unknown:
        raise UsageError(f"--leave-out: there is no scene {min(unknown)!r}")
    options = Options(keep, tamper.value, frozenset(leave_out or ()), patience)
    summary = run_demo(options, Telling(call.output))
    document = summary.to_json()
    call.output.answer(document, _lines(call.output, document))
    return summary.exit_code


class Telling:
    """What happens, line by line as it happens: part of the answer, or, beside a JSON document, progress on stderr."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def act(self, title: str) -> None:
        self._tell("")
        self._tell(title)

    def say(self, text: str) -> None:
        self._tell(f"  {self._output.dim(printable(text))}")

    def show(self, outcome: Outcome) -> None:
        word = self._output.word("ok") + "  " if outcome.ok else self._output.word("FAIL")
        self._tell(f"    {word} {outcome.seconds:5.2f} s  {outcome.detector}: {_seen(outcome.to_json())}")
        if not outcome.ok:
            self._tell(f"            expected {printable(outcome.expected)}")
        for finding in outcome.findings:
            hashes = [f"{name} {finding[name]}" for name in ("recorded", "found") if finding[name]]
            for line in hashes:
                self._tell(f"            {line}")

    def _tell(self, text: str) -> None:
        if self._output.as_json:
            self._output.note(text)
        else:
            self._output.say(text)


def _seen(scene: Mapping[str, Any]) -> str:
    text = printable(" ".join(str(scene["seen"]).split()))
    return text if len(text) <= MAX_SEEN or not scene["ok"] else text[: MAX_SEEN - 1] + "…"


def _lines(output: Output, document: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield from _table(output, document["scenes"])
    yield ""
    work = document["workload"]
    yield (
        f"meanwhile the application committed {work['rows']:,} rows, {work['signed']:,} of them signed changes, in"
        f" {work['transactions']:,} transactions; none of them may raise a finding"
    )
    yield from _kept_lines(document["kept"])
    missed: Sequence[str] = document["missed"]
    yield from (f"{output.word('FAIL')}  {name}" for name in missed)
    verdict = output.word("FAIL" if missed else "ok")
    yield f"{verdict}: {document['seen']} of {document['expected']} expected things were seen, in {document['seconds']:.0f} s"


def _table(output: Output, scenes: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [["", "SCENE", "EXPECTED", "SEEN", "DETECTOR", "SECONDS"]]
    for scene in scenes:
        same = scene["ok"] and scene["seen"].split(":")[0] == scene["expected"]
        seen = "the same" if same else _seen(scene)
        word = output.word("ok" if scene["ok"] else "FAIL")
        rows.append([word, scene["scene"], printable(scene["expected"]), seen, scene["detector"], f"{scene['seconds']:.2f}"])
    return columns(rows, right=(5,))


def _kept_lines(kept: Mapping[str, str]) -> Iterator[str]:
    if not kept:
        return
    yield f"everything is kept in {printable(kept['directory'])}; look at it with"
    yield f"  cd {printable(kept['directory'])}"
    yield "  witnz findings list"
    yield "  witnz log show audit_logs --key 117"
    yield "  witnz verify --store"
    yield "  witnz verify --checkpoint row.witnz.json --policy policy.txt"
    yield f"  the database's files, of PostgreSQL 16, are in {printable(kept['database'])}; the node's log is node.log"
