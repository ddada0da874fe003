"""A gap: a stretch of the write-ahead log of which nobody can say what it did to some tables (formats.md 4, ``gap``).

It stands in the journal until an operator accepts the finding that goes with it; until then no new generation of these tables
begins by itself, and none of them is VERIFIED.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

import structlog

from witnz.core.journal_rules import COVERAGE_CLASSES
from witnz.core.lsn import format_lsn
from witnz.errors import ProofError
from witnz.node.findings import CLOSED
from witnz.node.journal import Journal
from witnz.store import findings

log = structlog.get_logger(__name__)

MAX_REASON_BYTES = 1000
TABLES = 200  # names that surely fit into one record


def undecided_tables(conn: sqlite3.Connection) -> set[str | None]:
    """The tables that findings about a gap name of which nobody has decided yet; None among them stands for all tables."""
    known = findings.list_findings(conn, classes=sorted(COVERAGE_CLASSES))
    return {finding.table for finding in known if finding.state not in CLOSED}


def journal_gap(journal: Journal, tables: Iterable[str], from_lsn: int, to_lsn: int, reason: str) -> None:
    """Journal that what happened to these tables between two positions was not, or not wholly, seen."""
    names = sorted(tables)
    span = {"from_lsn": format_lsn(min(from_lsn, to_lsn)), "to_lsn": format_lsn(to_lsn)}
    for some in _parts(names):
        if journal.later is not None:
            journal.later("gap", {**span, "reason": _cut(reason), "tables": some})
            continue
        try:
            journal.propose("gap", {**span, "reason": _cut(reason), "tables": some})
        except ProofError:
            if any(journal.state.open_gap(table) is None for table in some):
                raise  # refused for another reason than that it stands there already, from before a crash
    log.error("coverage has a gap", reason=reason, tables=len(names), **span)


def _parts(names: Sequence[str]) -> list[list[str]]:
    return [list(names[i : i + TABLES]) for i in range(0, len(names), TABLES)]


def _cut(text: str) -> str:
    """At most MAX_REASON_BYTES of UTF-8."""
    return text.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
