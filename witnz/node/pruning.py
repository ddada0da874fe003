"""Which generations of a table an order to prune would name: those that ended before a date, the current one if that is now.

A generation lasts from its ``table`` record to that of the next one, or to the end of protection.  Pruning the current one
begins a new one first, from the rows as they are then; nothing of what is recorded later is lost.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from witnz.core.journal import JournalState
from witnz.core.record import parse_record
from witnz.core.timestamp import format_time
from witnz.errors import UsageError
from witnz.store import journal, logs
from witnz.store.database import Database

NOW = "now"


@dataclass(frozen=True, slots=True)
class Span:
    """A generation: when it began and ended (µs since the Unix epoch; None: it is the current one), and what it holds."""

    generation: int
    begun: int
    ended: int | None
    entries: int
    pruned: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "generation": self.generation,
            "from": format_time(self.begun),
            "to": None if self.ended is None else format_time(self.ended),
            "entries": self.entries,
            "pruned": self.pruned,
        }


def parse_before(text: str, now: int) -> int:
    """A date, a time of UTC, or ``now``: µs since the Unix epoch.  Raises UsageError."""
    if text == NOW:
        return now
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"--before: expected a date YYYY-MM-DD, a time or {NOW}, found {text[:40]!r}", hint="dates and times are UTC"
        ) from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return round(moment.timestamp() * 1_000_000)


def plan(db: Database, state: JournalState, table: str, before: int, now: int) -> dict[str, Any]:
    """``witnz.pruning/1``: the generations that an order before that time names, and those that stay.

    Raises UsageError for a table that was never protected, and where nothing qualifies, with the reason.
    """
    with db.read() as conn:
        spans = _spans(conn, state, table)
    if not spans:
        raise UsageError(f"{table} was never protected", hint="`witnz status` lists the protected tables")
    chosen = [span for span in spans if not span.pruned and _is_over(span, before, now)]
    if not chosen:
        raise UsageError(f"nothing of {table} is left that ended before {format_time(before)}", hint=_hint(spans))
    kept = [span for span in spans if span not in chosen]
    return {
        "schema": "witnz.pruning/1",
        "table": table,
        "before": format_time(before),
        "prune": [span.to_json() for span in chosen],
        "keep": [span.to_json() for span in kept],
    }


def _is_over(span: Span, before: int, now: int) -> bool:
    return span.ended <= before if span.ended is not None else before >= now


def _hint(spans: list[Span]) -> str:
    current = next((span for span in spans if span.ended is None), None)
    if current is None:
        return "`witnz prune TABLE --before now --dry-run` lists what there is"
    return (
        f"its current generation began at {format_time(current.begun)} and goes on; "
        f"`--before {NOW}` ends it, begins a new one with the rows as they are, and prunes everything before"
    )


def _spans(conn: sqlite3.Connection, state: JournalState, table: str) -> list[Span]:
    """Every generation of a table, oldest first."""
    begun: list[tuple[int, int]] = []
    ends: dict[int, int] = {}
    for _, leaf in journal.records_of(conn, "table", "unprotect", naming=table):
        record = parse_record(leaf)
        if record.body["table"] != table:
            continue
        if begun and begun[-1][0] not in ends:
            ends[begun[-1][0]] = record.at
        if record.type == "table":
            begun.append((record.body["generation"], record.at))
    found = []
    for generation, at in begun:
        row = logs.find_log(conn, table, generation)
        pruned = state.orders.pruning(table, generation) is not None
        found.append(Span(generation, at, ends.get(generation), 0 if row is None else row.size, pruned))
    return found
