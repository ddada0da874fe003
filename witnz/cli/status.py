"""``witnz status``: is it watching, is it in step, is anything wrong."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final

import typer

from witnz.cli.access import documents
from witnz.cli.anchor import anchor_lines, history_lines
from witnz.cli.checks_text import check_lines
from witnz.cli.command import RUN, add_command
from witnz.cli.invocation import Invocation, invocation
from witnz.cli.output import Output, is_terminal
from witnz.cli.text import age, columns, count, printable, short, size
from witnz.errors import UsageError

CHECK_FAILED: Final = 6
DEGRADED: Final = 5


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    add_command(app, "status", "witnz status", "witnz status --watch", "witnz status --check --json", section=RUN)(status)


def status(
    context: typer.Context,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again, until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option("--interval", min=0.2, metavar="SECONDS", help="How often, with --watch.")] = 2.0,
    check: Annotated[bool, typer.Option("--check", help="Exit code 6 if a check failed or the node does not run.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 5 if anything is not as it should be.")] = False,
) -> int:
    """Show whether it is watching, in step, and whether anything is wrong.

    Node, source, newest checkpoint, tables, open findings; beside a running node, or from its store.
    """
    call = invocation(context)
    if watch and (call.output.as_json or check or strict):
        raise UsageError("--watch shows text until it is stopped", hint="leave out --json, --check and --strict")
    config = call.load_config()
    if watch:
        with documents(config) as source:
            _watch(call, source, interval)
    with documents(config) as source:
        document = source.status()
    call.output.answer(document, status_lines(call.output, document))
    return exit_code(document, check=check, strict=strict)


def exit_code(document: Mapping[str, Any], *, check: bool, strict: bool) -> int:
    """0, or what was asked for: 6 where a check failed or nobody is there to make it, 5 where anything is not ok."""
    statuses = {one["status"] for one in document["checks"]}
    if check and ("fail" in statuses or document["node"]["state"] in ("stopped", "failed")):
        return CHECK_FAILED
    return DEGRADED if strict and statuses - {"ok"} else 0


def _watch(call: Invocation, source: Any, interval: float) -> None:
    """Until Ctrl-C; on a terminal in the same place."""
    while True:
        text = "\n".join(status_lines(call.output, source.status()))
        if is_terminal(sys.stdout):
            sys.stdout.write("\x1b[H\x1b[2J")  # cursor home, clear
        call.output.say(text)
        time.sleep(interval)


# -- text ---------------------------------------------------------------------------------------------------------------------


def status_lines(output: Output, document: Mapping[str, Any]) -> Iterator[str]:
    """The sentence, the facts, the tables, the checks that are not ok."""
    node, cluster = document["node"], document["cluster"]
    yield sentence(document)
    role = f", {node['role']}" if node["role"] else ""
    yield f"node         {node['id']} of {cluster['origin']}: {output.word(node['state'])}{role}, witnz {node['version']}"
    yield f"source       {_source(document['source'])}"
    yield f"checkpoint   {_checkpoint(document['checkpoint'])}"
    yield from anchor_lines(document["anchors"])
    yield from history_lines(document["history"])
    yield from _tables(output, document["tables"])
    open_findings = document["findings_open"]
    hint = "; `witnz findings list` shows them" if open_findings else ""
    yield f"findings     {count(open_findings, 'finding')} open{hint}"
    good = [check["name"] for check in document["checks"] if check["status"] == "ok"]
    yield f"checks       {output.word('ok')}: {', '.join(good) or 'none'}"
    yield from check_lines(output, [check for check in document["checks"] if check["status"] != "ok"], indent="  ")


def sentence(document: Mapping[str, Any]) -> str:
    """What all of it comes to."""
    tables, state = document["tables"], document["node"]["state"]
    tampered = [table["name"] for table in tables if table["verdict"] == "TAMPERED"]
    if tampered:
        return f"NOT AS RECORDED: {', '.join(printable(name) for name in tampered)}"
    if document["findings_open"]:
        return f"{count(document['findings_open'], 'finding')} open: somebody has to decide"
    if state == "stopped":
        return "The node is not running, so nothing is being recorded here."
    if state != "running":
        return f"The node is {state}."
    if not tables:
        return "No table is protected."
    unverified = sum(table["verdict"] != "VERIFIED" for table in tables)
    if unverified:
        return f"Recording; {count(unverified, 'table')} of {len(tables)} not verified yet."
    return f"All {count(len(tables), 'table')} as recorded, when last verified."


def _source(source: Mapping[str, Any]) -> str:
    if source["connected"] is None:
        return f"not being read, slot {source['slot'] or 'unknown'}"
    state = "connected" if source["connected"] else "NOT CONNECTED"
    lag = f"{size(source['lag_bytes'])} behind, last event {age(source['last_event_s'])}"
    return f"{state}, slot {source['slot']}, {lag}, {size(source['retained_bytes'])} of WAL retained"


def _checkpoint(checkpoint: Mapping[str, Any] | None) -> str:
    if checkpoint is None:
        return "none yet"
    by = ", ".join(checkpoint["cosigned_by"]) or "nobody"
    final = "final" if checkpoint["final"] else "not final"
    size_and_root = f"size {checkpoint['size']:,}, root {short(checkpoint['root'])}"
    return f"{size_and_root}, {final}, {age(checkpoint['age_s'])}, cosigned by {by}"


def _tables(output: Output, tables: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not tables:
        yield "tables       none"
        return
    rows = [["  TABLE", "MODE", "VERDICT", "VERIFIED", "ROWS", "ENTRIES", "OPEN"]]
    for table in tables:
        verdict = table["verdict"] or ("opening" if table["status"] == "open" else "pending")
        rows.append(
            [
                f"  {printable(table['name'])}",
                table["mode"] or "-",
                output.word(verdict),
                age(table["last_verified_s"]),
                count(table["live_rows"]),
                count(table["entries"]),
                count(table["findings_open"]),
            ]
        )
    yield "tables"
    yield from columns(rows, right=(4, 5, 6))
