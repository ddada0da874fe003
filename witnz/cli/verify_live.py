"""``witnz verify TABLE…`` and ``--all``: tables against their log, by the running node or by one that this call starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from witnz.cli.access import own_node, running_client, table_name
from witnz.cli.checks_text import not_checked_lines
from witnz.cli.findings_text import listed
from witnz.cli.invocation import Invocation
from witnz.cli.output import Output
from witnz.cli.progress import Advance, progress
from witnz.cli.text import count, duration, printable
from witnz.errors import UsageError, WitnzError

if TYPE_CHECKING:
    from witnz.config import Config

Table = Mapping[str, Any]
Tables = Callable[[], list[dict[str, Any]]]
"""The protected tables, as ``status`` shows them."""
Status = Callable[[], Mapping[str, Any]]
"""``witnz.status/1``."""
Ask = Callable[[str, Advance], dict[str, Any]]
"""Verify one table, told by its name; ``witnz.verify/1`` of it."""

TAMPERED: Final = 3
OPENING: Final = "open"
NEVER: Final = "0/0"
"""The position of a snapshot that was never taken."""
OPENING_WAIT_S: Final = 30.0
POLL_S: Final = 0.2


def verify_tables(call: Invocation, asked: Sequence[str], how: str = "") -> int:
    """Verify the named tables, or all that are protected; the exit code of the verdict on all of them.

    ``how``: as one snapshot where it is empty, ``rolling`` in ranges of keys, ``N/T`` a sample of ranges.
    """
    from witnz.core.verdict import Verdict, exit_code

    config = call.startable_config()
    names = list(dict.fromkeys(table_name(text) for text in asked))
    with _asking(call, config, how) as (ask, protected, status):
        known = _settled(call.output, protected, names)
        unrecorded = {table.name for table in config.protected_tables} - known.keys()
        for name in names:
            if name not in known and name not in unrecorded:
                raise UsageError(f"{name} is not protected", hint="`witnz status` lists the protected tables")
        why = _why_unrecorded(status()) if unrecorded else ""
        parts = [
            _not_looked_at(name, why) if name in unrecorded else _one(call.output, ask, name, known[name])
            for name in names or sorted(known.keys() | unrecorded)
        ]
    document = combine(parts)
    call.output.answer(document, _lines(call.output, document))
    return exit_code(Verdict(document["verdict"]))


@contextmanager
def _asking(call: Invocation, config: Config, how: str) -> Iterator[tuple[Ask, Tables, Status]]:
    """How to verify a table, the protected tables, and how the node is."""
    with running_client(config) as client:
        if client is not None:
            yield lambda name, advance: client.verify(name, advance, how), client.tables, client.status
            return
    from witnz.cli.stored import StoredDocuments
    from witnz.web.streams import verify_work

    with own_node(config, call.output) as node:
        view = StoredDocuments(node.db, node.journal.state, config)
        yield lambda name, advance: verify_work(node, name, how)(advance), view.tables, lambda: view.status(node)


def _settled(output: Output, protected: Tables, names: Sequence[str]) -> dict[str, Table]:
    """The protected tables by name, once those that matter are no longer read for the first time, or that takes too long."""
    deadline, told = time.monotonic() + OPENING_WAIT_S, False
    while True:
        known: dict[str, Table] = {table["name"]: table for table in protected()}
        opening = [name for name in names or known if name in known and known[name]["status"] == OPENING]
        if not opening or time.monotonic() > deadline:
            return known
        if not told:
            output.note(f"recording {', '.join(printable(name) for name in opening)} for the first time")
            told = True
        time.sleep(POLL_S)


def _why_unrecorded(status: Mapping[str, Any]) -> str:
    """Why a table that the configuration names cannot be looked at: with what keeps the node from recording, if it is that."""
    text = "it is configured and is not being recorded"
    broken = [one["message"] for one in status["checks"] if one["name"] == "capture" and one["status"] == "fail"]
    return "; ".join([text, *broken])


def _one(output: Output, ask: Ask, name: str, table: Table) -> dict[str, Any]:
    """The document of one table; that it could not be looked at is a document, too."""
    if table["status"] == OPENING:
        return _not_looked_at(name, "it is being recorded for the first time; verify it when that is done")
    with progress(output, name, table["live_rows"]) as advance:
        try:
            return ask(name, advance)
        except WitnzError as error:
            if error.exit_code == TAMPERED or isinstance(error, UsageError):
                raise
            return _not_looked_at(name, error.message)  # what other tables say must not be lost with it


def _not_looked_at(name: str, reason: str) -> dict[str, Any]:
    return {
        "checks": [{"name": name, "status": "skip", "detail": reason}],
        "verdict": "INCONCLUSIVE",
        "findings": [],
        "not_checked": [f"{name}: {reason}"],
        "tables": [],
    }


def combine(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One ``witnz.verify/1`` of several; of none it is INCONCLUSIVE, because nothing was checked."""
    from witnz.core.verdict import Verdict

    whole: dict[str, Any] = {
        "schema": "witnz.verify/1",
        "verdict": Verdict.combine(Verdict(part["verdict"]) for part in parts).value,
        "checks": [check for part in parts for check in part["checks"]],
        "findings": list({finding["id"]: finding for part in parts for finding in part["findings"]}.values()),
        "not_checked": list(dict.fromkeys(text for part in parts for text in part["not_checked"])),
        "tables": [table for part in parts for table in part["tables"]],
    }
    if not parts:
        whole["not_checked"].append("no table is protected, so there was nothing to verify")
    return whole


# -- text ---------------------------------------------------------------------------------------------------------------------


def _lines(output: Output, document: Mapping[str, Any]) -> Iterator[str]:
    found = {finding["id"]: finding for finding in document["findings"]}
    tables = {table["table"]: table for table in document["tables"]}
    for check in document["checks"]:
        table = tables.get(check["name"])
        if table is None:
            yield f"{printable(check['name'])}  {output.word('INCONCLUSIVE')}  {printable(check['detail'])}"
            continue
        yield _table_line(output, table)
        own = [found.pop(name) for name in table["findings"] if name in found]
        yield from listed(output, own)
    yield from not_checked_lines(document["not_checked"])
    yield _verdict_line(output, document)


def _table_line(output: Output, table: Mapping[str, Any]) -> str:
    seconds = table["seconds"]
    rate = f", {table['rows'] / seconds:,.0f}/s" if seconds > 0.5 else ""
    erased = f", {count(table['erased_rows'], 'row')} erased by order" if table.get("erased_rows") else ""
    if table.get("mode") in ("rolling", "sample"):
        of = f" of {table['of_ranges']:,}" if "of_ranges" in table else ""
        read = f"{count(table['rows'], 'row')} in {table['ranges']:,}{of} ranges in {duration(seconds)}{rate}{erased}"
        again = f"; every row is read again within {duration(table['reread_s'])}" if "reread_s" in table else ""
        return f"{printable(table['table'])}  {output.word(table['verdict'])}  {read}{again}"
    if table["snapshot_lsn"] == NEVER and not table["rows"]:
        return f"{printable(table['table'])}  {output.word(table['verdict'])}  not read{_with_members(table)}"
    read = f"{count(table['rows'], 'row')} as of {table['snapshot_lsn']} in {duration(seconds)}{rate}{erased}"
    return f"{printable(table['table'])}  {output.word(table['verdict'])}  {read}{_with_members(table)}"


def _with_members(table: Table) -> str:
    """What the other members found in the same snapshot."""
    return "".join(f"; {printable(node)}: {printable(said)}" for node, said in table.get("members", {}).items())


def _verdict_line(output: Output, document: Mapping[str, Any]) -> str:
    checks = document["checks"]
    good = sum(check["status"] == "ok" for check in checks)
    if not checks:
        return f"{output.word(document['verdict'])}: no table is protected"
    wrong = sum(check["status"] == "fail" for check in checks)
    said = f"{good} of {count(len(checks), 'table')} as recorded"
    return f"{output.word(document['verdict'])}: {said}" + (f", {wrong} not" if wrong else "")
