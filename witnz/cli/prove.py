"""``witnz prove``: what was recorded of a row, as one file that anybody verifies."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from witnz.cli.access import Documents, documents, own_node, running_client, table_name
from witnz.cli.checkpoint import deliver_bundle
from witnz.cli.command import LOOK, OutputFile, add_command
from witnz.cli.invocation import Invocation, invocation
from witnz.errors import Inconclusive, UsageError

if TYPE_CHECKING:
    from witnz.config import Config

SEALS: Final = 2
"""Seal intervals for which a running node is given time to seal what was recorded a moment ago."""
POLL_S: Final = 0.2


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    add_command(
        app,
        "prove",
        "witnz prove audit_logs --key 417 -o row.witnz.json",
        "witnz prove billing.prices --key country=JP,product=7 --with-row -o row.witnz.json",
        section=LOOK,
    )(prove)


def prove(
    context: typer.Context,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="schema.table, or table for public.")],
    *,
    key: Annotated[str | None, typer.Option("--key", metavar="KEY", help="Text of the key, or col=value,col=value.")] = None,
    seq: Annotated[
        int | None, typer.Option("--seq", min=1, metavar="N", help="This entry, instead of the row's newest.")
    ] = None,
    with_row: Annotated[bool, typer.Option("--with-row", help="Show the row's own values, not only their hash.")] = False,
    output: OutputFile,
) -> int:
    """Write what was recorded of a row as a file that anybody verifies.

    It holds the entry under a signed checkpoint, and the row's place in a verified state of the table; with your policy it is
    verified offline.  Without --with-row it shows no values, only their hash.
    """
    call = invocation(context)
    if key is None and seq is None:
        raise UsageError(
            "expected the row's --key, or the number of an entry with --seq", hint="`witnz log show TABLE` lists them"
        )
    config, name = call.load_config(), table_name(table)
    data = _bundle(call, config, name, key, seq, with_row=with_row)
    deliver_bundle(call, data, output, {"schema": "witnz.prove/1", "table": name, "key": key, "seq": seq, "with_row": with_row})
    return 0


def _bundle(call: Invocation, config: Config, name: str, key: str | None, seq: int | None, *, with_row: bool) -> bytes:
    with running_client(config) as client:
        if client is not None:
            return _sealed(client, name, key, seq, with_row=with_row, wait_s=SEALS * config.seal_interval_s + 1)
    if not with_row:
        with documents(config) as source:
            return source.row_bundle(name, key, seq=seq)
    from witnz.cli.stored import StoredDocuments

    with own_node(config, call.output) as node:
        view = StoredDocuments(node.db, node.journal.state, config)
        view.row_line = node.row_line
        return view.row_bundle(name, key, seq=seq, with_row=True)


def _sealed(source: Documents, name: str, key: str | None, seq: int | None, *, with_row: bool, wait_s: float) -> bytes:
    """The bundle, once the next seal covers what was recorded a moment ago."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return source.row_bundle(name, key, seq=seq, with_row=with_row)
        except Inconclusive:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)
