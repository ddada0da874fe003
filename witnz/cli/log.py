"""``witnz log``: the entries of a table log, to look at and as files for other programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from witnz.cli.access import Documents, documents, stored, table_name
from witnz.cli.command import LOOK, add_command, add_group
from witnz.cli.invocation import invocation
from witnz.cli.text import columns, count, printable, short

PAGE: Final = 1_000

Table = Annotated[str, typer.Argument(metavar="TABLE", help="schema.table, or table for public.")]
Generation = Annotated[
    int | None, typer.Option("--generation", min=1, metavar="N", help="An earlier generation; the newest, if not given.")
]


class Format(StrEnum):
    """How a log is exported."""

    TILES = "tiles"
    AUDIT_LOG = "audit-log"
    TSV = "tsv"


def register(app: typer.Typer) -> None:
    """Add the group to the program."""
    group = add_group(app, "log", "The entries of a table log: show, export.", "witnz log show audit_logs", section=LOOK)
    add_command(group, "show", "witnz log show audit_logs --key 417", "witnz log show billing.prices --from 100 --to 120")(show)
    add_command(group, "export", "witnz log export audit_logs -o audit_logs.log --format audit-log")(export)


def show(
    context: typer.Context,
    table: Table,
    *,
    key: Annotated[
        str | None, typer.Option("--key", metavar="KEY", help="Only those of a row: text of the key, or col=value,col=value.")
    ] = None,
    from_seq: Annotated[int, typer.Option("--from", min=1, metavar="SEQ", help="The first entry.")] = 1,
    to_seq: Annotated[int | None, typer.Option("--to", min=1, metavar="SEQ", help="The last entry.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="N", help="At most so many.")] = 100,
    generation: Generation = None,
) -> int:
    """Show what was recorded of a table, or of one row of it, oldest first: who, when, what, and the row's hash."""
    call = invocation(context)
    with documents(call.load_config()) as source:
        document = _page(source, table_name(table), key, from_seq, to_seq, limit, generation)
    call.output.answer(document, _lines(document))
    if document["next_seq"] is not None:
        call.output.note(f"there are more: --from {document['next_seq']}, or a larger --limit")
    return 0


def _page(
    source: Documents, name: str, key: str | None, first: int, last: int | None, limit: int, generation: int | None
) -> dict[str, Any]:
    """As many pages as ``limit`` asks for, as one."""
    entries: list[dict[str, Any]] = []
    at: int | None = first
    document: dict[str, Any] = {}
    while at is not None and len(entries) < limit:
        wanted = min(PAGE, limit - len(entries))
        document = source.log_entries(name, from_seq=at, to_seq=last, key=key, limit=wanted, generation=generation)
        entries += document["entries"]
        at = document["next_seq"]
    return {**document, "schema": "witnz.log/1", "entries": entries, "next_seq": at}


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    yield f"{printable(document['table'])}, generation {document['generation']}: {count(document['size'], 'entry', 'entries')}"
    shown: Sequence[Mapping[str, Any]] = document["entries"]
    if not shown:
        yield "no entry"
        return
    rows = [["SEQ", "OP", "KEY", "ROW", "LSN", "XID", "AT", "BY", "HINT"]]
    for entry in shown:
        said = entry["hint"] if entry["op"] != "schema" else None  # a schema entry's is the definition, for machines
        rows.append(
            [
                f"{entry['seq']:,}",
                entry["op"],
                printable("-" if entry["key"] is None else entry["key"]),
                short(entry["row"]) if entry["row"] else "-",
                entry["lsn"],
                str(entry["xid"]),
                entry["at"],
                printable(entry["by"] or "-"),
                printable(said or "-") + (" (intent)" if entry["intent"] else ""),
            ]
        )
    yield from columns(rows, right=(0,))


def export(
    context: typer.Context,
    table: Table,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="A new directory.")],
    fmt: Annotated[
        Format,
        typer.Option("--format", help="C2SP tiles; the two tables of an audit log as JSON lines; or the entries as TSV."),
    ] = Format.TILES,
    generation: Generation = None,
) -> int:
    """Write a table log as files that other programs read; what exists is never overwritten.

    It reads the node's data directory, whether a node runs on it or not.
    """
    call = invocation(context)
    name = table_name(table)
    with stored(call.load_config()) as view:
        document = view.export_log(name, output, fmt.value, generation)
    document["directory"] = str(output)
    written = f"{document['size']:,} entries of {printable(name)}, generation {document['generation']}"
    call.output.answer(document, [f"wrote {written}, to {output}: {', '.join(document['files'])}"])
    return 0
