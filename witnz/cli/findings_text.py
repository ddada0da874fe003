"""Findings as lines of text: one line in a list, a paragraph where the finding is what somebody came for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from witnz.cli.output import Output
from witnz.cli.text import columns, count, printable

MAX_SHOWN: Final = 50
"""Findings shown in full below a verdict; the rest is counted."""


def finding_rows(output: Output, found: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each finding, aligned, under a heading."""
    heading = ["ID", "SEVERITY", "CLASS", "TABLE", "KEY", "STATE", "DETECTED"]
    rows = [
        [
            finding["id"],
            output.word(finding["severity"]),
            finding["class"],
            printable(finding["table"] or "-"),
            _shortened(printable("-" if finding["key"] is None else finding["key"])),
            output.word(finding["state"]),
            finding["detected_at"],
        ]
        for finding in found
    ]
    return columns([heading, *rows])


def finding_lines(output: Output, finding: Mapping[str, Any], *, indent: str = "  ") -> Iterator[str]:
    """What one finding says: the row, recorded and found, the window, and whether the stream explains it."""
    about = f"key {printable(finding['key'])}" if finding["key"] is not None else printable(finding["detail"])
    where = f"  {printable(finding['table'])}" if finding["table"] else ""
    yield f"{indent}{finding['id']}  {output.word(finding['severity'])}  {finding['class']}{where}  {about}"
    inner = indent + "    "
    if finding["recorded"] or finding["found"]:
        by_entry = finding["entry_seq"] is not None and not finding["explained_by"]
        entry = f"  (entry {finding['entry_seq']:,})" if by_entry else ""
        yield f"{inner}recorded  {printable(finding['recorded'] or 'no such row')}{entry}"
        yield f"{inner}found     {printable(finding['found'] or 'no such row')}"
    window = finding["window"]
    last_good = f"last verified {window['last_good']}" if window["last_good"] else "never verified before"
    yield f"{inner}window    {last_good}; first seen wrong {window['first_bad'] or finding['detected_at']}"
    if finding["explained_by"]:
        place = f", transaction {finding['xid']}" if finding["xid"] else ""
        yield f"{inner}stream    {printable(finding['explained_by'])}{place}, LSN {finding['lsn']}"
    elif finding["class"].startswith("row."):
        yield f"{inner}stream    nothing in it explains this"
    if finding["key"] is not None and finding["detail"]:
        yield f"{inner}detail    {printable(finding['detail'])}"


def listed(output: Output, found: Sequence[Mapping[str, Any]], *, indent: str = "  ") -> Iterator[str]:
    """The first findings in full, and how many more there are."""
    for finding in found[:MAX_SHOWN]:
        yield from finding_lines(output, finding, indent=indent)
    if len(found) > MAX_SHOWN:
        yield f"{indent}and {count(len(found) - MAX_SHOWN, 'more finding')}: `witnz findings list` shows them all"


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"
