"""``witnz checkpoint``: what the cluster signed, and the bundles from which anybody verifies it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from witnz.cli.access import documents, open_store
from witnz.cli.command import LOOK, add_command, add_group
from witnz.cli.files import STANDARD, write_output
from witnz.cli.invocation import Invocation, invocation
from witnz.cli.text import age, columns, count, short, size
from witnz.errors import UsageError

Size = Annotated[
    int | None, typer.Argument(min=1, metavar="[N]", show_default=False, help="Its size; the newest, if not given.")
]


def register(app: typer.Typer) -> None:
    """Add the group to the program."""
    group = add_group(
        app,
        "checkpoint",
        "Signed checkpoints: list, show, export.",
        "witnz checkpoint export -o bundle.witnz.json",
        section=LOOK,
    )
    add_command(group, "list", "witnz checkpoint list --limit 5")(list_)
    add_command(group, "show", "witnz checkpoint show", "witnz checkpoint show 41 --json")(show)
    add_command(group, "export", "witnz checkpoint export -o bundle.witnz.json", "witnz checkpoint export --with-logs audit/")(
        export
    )


def list_(
    context: typer.Context,
    *,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, metavar="N", help="At most so many.")] = 20,
) -> int:
    """List the newest checkpoints, newest first."""
    call = invocation(context)
    with documents(call.load_config()) as source:
        found = source.checkpoints(limit)
    rows = [["SIZE", "ROOT", "FINAL", "COSIGNED BY", "MADE"]]
    for one in found:
        final = "final" if one["final"] else "not final"
        rows.append(
            [f"{one['size']:,}", short(one["root"]), final, ", ".join(one["cosigned_by"]) or "nobody", age(one["age_s"])]
        )
    lines = columns(rows, right=(0,)) if found else ["no checkpoint yet"]
    call.output.answer({"schema": "witnz.checkpoints/1", "checkpoints": found}, lines)
    return 0


def show(context: typer.Context, number: Size = None) -> int:
    """Show a checkpoint with its note and who cosigned it when."""
    call = invocation(context)
    with documents(call.load_config()) as source:
        found = source.checkpoint(number)
    call.output.answer({"schema": "witnz.checkpoint/1", **found}, _lines(found))
    return 0


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"checkpoint of {found['origin']}: {count(found['size'], 'record')}, {'final' if found['final'] else 'not final'}"
    yield f"  root      {found['root']}"
    yield f"  digest    {found['digest']}"
    yield f"  made      {found['at']} ({age(found['age_s'])})"
    yield f"  judged    {found['detail']}"
    for one in found["cosignatures"]:
        yield f"  cosigned  by {one['node']} at {one['at']}"
    yield ""
    yield from (f"  {line}" for line in found["note"].rstrip("\n").splitlines())


def export(
    context: typer.Context,
    number: Size = None,
    *,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="The file to write; - is stdout.")
    ] = None,
    with_logs: Annotated[
        Path | None,
        typer.Option("--with-logs", metavar="DIR", help="Instead, a new directory with the bundle, the secrets and the logs."),
    ] = None,
) -> int:
    """Write the bundle of a checkpoint: with it and your policy anybody verifies it offline.

    With --with-logs an auditor package: whoever has its secrets can tell every recorded row from a guess, and check whole
    tables (witnz verify --table-data).
    """
    call = invocation(context)
    if (output is None) == (with_logs is None):
        raise UsageError(
            "expected one of -o FILE and --with-logs DIR", hint="the first is for anybody, the second for auditors"
        )
    if with_logs is not None:
        return _export_with_logs(call, number, with_logs)
    with documents(call.load_config()) as source:
        data = source.checkpoint_bundle(number)
    deliver_bundle(call, data, output or STANDARD, {"schema": "witnz.checkpoint-export/1"})
    return 0


def _export_with_logs(call: Invocation, number: int | None, directory: Path) -> int:
    from witnz.node.evidence import Evidence
    from witnz.node.view import now_us

    with open_store(call.load_config()) as db:
        written = Evidence(db, now_us).auditor_package(directory, number)
    entries = sum(log["size"] for log in written["logs"])
    said = (
        f"{count(written['size'], 'record')} and {count(entries, 'entry', 'entries')} of {count(len(written['logs']), 'table')}"
    )
    document = {"schema": "witnz.auditor-package/1", "directory": str(directory), **written}
    bundle = directory / written["bundle"]
    hint = f"check a table with it:  witnz verify --checkpoint {bundle} --policy FILE --log {directory} --table-data TABLE=FILE"
    call.output.answer(document, [f"wrote {directory}: the bundle, {said}; it holds the tables' secrets", hint])
    return 0


def deliver_bundle(call: Invocation, data: bytes, name: str, document: Mapping[str, Any]) -> None:
    """Write a bundle where it was asked for, and say how to verify it.  Raises UsageError where two answers would mix."""
    if name == STANDARD and call.output.as_json:
        raise UsageError("the bundle and --json cannot both go to stdout", hint="name a file with -o")
    write_output(name, data)
    hint = f"anyone can check it:  witnz verify --checkpoint {name} --policy FILE"
    if name == STANDARD:
        return
    call.output.answer({**document, "file": name, "bytes": len(data)}, [f"wrote {name} ({size(len(data))})", hint])
