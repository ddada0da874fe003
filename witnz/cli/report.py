"""``witnz report``: the signed evidence package of a period, and samples from its populations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from witnz.cli.access import idle_node, running_client
from witnz.cli.command import MANAGE, SETTINGS, Group, add_command, examples
from witnz.cli.files import write_output
from witnz.cli.invocation import invocation
from witnz.cli.text import count, printable, size
from witnz.errors import UsageError, WitnzError

if TYPE_CHECKING:
    from witnz.config import Config

Fetch = Callable[[str], bytes]

From = Annotated[str | None, typer.Option("--from", metavar="DATE", help="First day, or a time, in UTC.")]
To = Annotated[str | None, typer.Option("--to", metavar="DATE", help="First day, or time, that no longer belongs to it.")]
Directory = Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="A new or empty folder for the package.")]

EXAMPLES: Final = (
    "witnz report --standard soc2 --from 2026-10-01 --to 2026-11-01 -o evidence-2026-10",
    "witnz report sample --n 25 --seed 'drawn by the auditor' --from 2026-10-01 --to 2026-11-01 -o sample",
    "witnz report drill --attack 'restored the last backup' --result 'verified, all rows as recorded'",
)


MAX_TEXT_BYTES: Final = 4096


def register(app: typer.Typer) -> None:
    """Add the group to the program."""
    group = typer.Typer(
        cls=Group,
        name="report",
        help="The signed evidence package of a period, for auditors; samples from it.",
        epilog=examples(*EXAMPLES),
        rich_markup_mode=None,
        rich_help_panel=MANAGE,
        add_completion=False,
        invoke_without_command=True,
        context_settings=dict(SETTINGS),
    )
    group.callback()(report)
    add_command(group, "sample", EXAMPLES[1])(sample)
    add_command(group, "drill", EXAMPLES[2])(drill)
    app.add_typer(group, rich_help_panel=MANAGE)


def report(
    context: typer.Context,
    *,
    standard: Annotated[
        str | None,
        typer.Option("--standard", metavar="NAME", help="soc2, iso27001, pcidss4, hipaa, sec17a4, cfr11 or jsox."),
    ] = None,
    begin: From = None,
    end: To = None,
    output: Directory = None,
    lang: Annotated[str, typer.Option("--lang", metavar="LANG", help="Language of the PDF: en or ja.")] = "en",
) -> int:
    """Write the evidence of a period: a signed PDF, the same as JSON, complete lists as CSV, proofs, and verifiers.

    The package supports controls of the standard and satisfies none. Anybody checks it offline under a policy of their own:
    witnz verify --report DIR --policy FILE. Exceptions do not change the exit code: they are what a report is for.
    """
    if context.invoked_subcommand is not None:
        return 0
    call = invocation(context)
    chosen = _needed("--standard", standard)
    period = _needed("--from", begin), _needed("--to", end)
    directory = _new_directory(_needed("-o", None if output is None else str(output)))
    config = call.load_config()
    with _made(config, lambda maker: maker.report(chosen, *period, lang)) as (made, fetch):
        _save(directory, made, fetch)
    document = {**made, "directory": str(directory)}
    del document["id"]
    call.output.answer(document, _lines(document))
    return 0


def sample(
    context: typer.Context,
    *,
    n: Annotated[int, typer.Option("--n", metavar="N", help="How many items.")] = 25,
    seed: Annotated[
        str | None, typer.Option("--seed", metavar="TEXT", help="The auditor's own text; it decides the items.")
    ] = None,
    population: Annotated[
        str,
        typer.Option(
            "--population", metavar="NAME", help="changes, checkpoints, verifications, findings, anchors, decisions …"
        ),
    ] = "changes",
    begin: From = None,
    end: To = None,
    output: Directory = None,
) -> int:
    """Draw items by a seed, one bundle each.

    The items with the smallest SHA-256 of the seed, a newline and the item's name are taken, so that anybody can recompute the
    selection with sha256sum.
    """
    call = invocation(context)
    period = _needed("--from", begin), _needed("--to", end)
    text = _needed("--seed", seed)
    directory = _new_directory(_needed("-o", None if output is None else str(output)))
    config = call.load_config()
    with _made(config, lambda maker: maker.sample(population, n, text, *period)) as (made, fetch):
        _save(directory, made, fetch)
    document = {**made, "directory": str(directory)}
    del document["id"]
    call.output.answer(document, _sample_lines(document))
    return 0


def drill(
    context: typer.Context,
    *,
    attack: Annotated[
        str, typer.Option("--attack", metavar="TEXT", help="What was done: a restore, a change by a superuser …")
    ],
    result: Annotated[str, typer.Option("--result", metavar="TEXT", help="What came of it.")],
    detected_s: Annotated[
        int | None,
        typer.Option("--detected-s", min=0, metavar="N", help="After how many seconds it was noticed, if it was to be."),
    ] = None,
) -> int:
    """Journal an exercise, so that reports show it.

    It is your word, in the journal under your name: nothing here checks it.
    """
    call = invocation(context)
    for name, text in (("--attack", attack), ("--result", result)):
        if not text.strip() or len(text.encode()) > MAX_TEXT_BYTES:
            raise UsageError(f"{name}: expected a text of at most {MAX_TEXT_BYTES} bytes")
    config = call.load_config()
    with running_client(config) as client:
        if client is not None:
            seq = client.drill(attack, result, detected_s)
        else:
            with idle_node(config) as node:
                seq = node.journal.propose("drill", {"attack": attack, "result": result, "detected_s": detected_s})
    call.output.answer({"schema": "witnz.drill/1", "seq": seq}, [f"journalled as record {seq}"])
    return 0


class _OwnNode:
    """The same questions as a running node's client, put to a node of this process."""

    def __init__(self, reports: Any) -> None:
        self._reports = reports

    def report(self, standard: str, begin: str, end: str, lang: str) -> dict[str, Any]:
        from witnz.node.reporting import Asked

        made: dict[str, Any] = self._reports.make(Asked(standard, begin, end, lang))
        return made

    def sample(self, population: str, n: int, seed: str, begin: str, end: str) -> dict[str, Any]:
        made: dict[str, Any] = self._reports.sample(population, n, seed, begin, end)
        return made


@contextmanager
def _made(config: Config, ask: Callable[[Any], dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Fetch]]:
    """What the running node, or one of this process, made, and how to get its files."""
    with running_client(config) as client:
        if client is not None:
            made = ask(client)
            yield made, lambda name: client.report_file(made["id"], name)
            return
    with idle_node(config) as node:
        made = ask(_OwnNode(node.reports))
        yield made, lambda name: node.reports.file(made["id"], name).read_bytes()


def _needed(name: str, value: str | None) -> str:
    if not value:
        raise UsageError(f"{name} is missing", hint="`witnz report --help` shows how it is used")
    return value


def _new_directory(name: str) -> Path:
    directory = Path(name)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise UsageError(f"{directory} is not empty", hint="a package is never mixed with other files; name a new folder")
    except OSError as error:
        raise UsageError(f"{directory} cannot be written: {(error.strerror or 'failed').lower()}") from None
    return directory


def _save(directory: Path, made: Mapping[str, Any], fetch: Fetch) -> None:
    """Fetch every file; names from a node are taken only if they stay below the folder.

    Where one cannot be fetched or written, nothing of it stays in the folder, so that the same can be asked again.
    """
    saved: list[Path] = []
    try:
        for file in made["files"]:
            name = PurePosixPath(file["name"])
            if name.is_absolute() or ".." in name.parts or len(name.parts) > 2:
                raise UsageError(f"the node names a file outside the folder: {printable(str(name))}", code="report.file-name")
            path = directory / name
            saved.append(path)
            path.parent.mkdir(exist_ok=True)
            write_output(str(path), fetch(file["name"]))
    except (WitnzError, OSError) as error:
        for path in saved:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        for folder in {path.parent for path in saved} - {directory}:
            with suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise UsageError(f"{directory} cannot be written: {(error.strerror or 'failed').lower()}") from None
        raise


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    about, conclusion, counts = document["report"], document["conclusion"], document["counts"]
    total = sum(file["bytes"] for file in document["files"])
    files, pages = count(len(document["files"]), "file"), count(document["pages"], "page")
    yield f"wrote {document['directory']} ({files}, {size(total)}; {pages})"
    yield f"  period      {about['from']} to {about['to']}"
    yield f"  coverage    {conclusion['coverage']}; continuity: {document['continuity']}"
    yield (
        f"  figures     {counts['checkpoints']:,} checkpoints, {counts['verifications']:,} verifications,"
        f" {counts['findings']:,} findings, {counts['anchors']:,} anchors"
    )
    yield f"  exceptions  {count(conclusion['exceptions'], 'kind')}"
    yield from (f"    {item['count']:>6,}  {item['text']}" for item in document["exceptions"])
    yield f"  time stamp  {document['time_stamp']}"
    yield f"  journalled  as record {document['journal_seq']}, under the checkpoint of size {document['checkpoint_size']}"
    yield f"anyone can check it:  witnz verify --report {document['directory']} --policy FILE"


def _sample_lines(document: Mapping[str, Any]) -> Iterator[str]:
    drawn = f"{document['n']} of {document['size']:,} {document['population']}"
    yield f"wrote {document['directory']}: {drawn}, seed {printable(document['seed'])}"
    yield from (f"  {one['rank']:>4}  {printable(one['item'])}  {one['bundle']}" for one in document["items"])
