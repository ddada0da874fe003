"""What was covered: seals and checkpoints day by day, gaps, and the parts of the period that nothing covers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from witnz.core.journal_rules import COVERAGE_CLASSES
from witnz.core.timestamp import format_time
from witnz.report.facts import Facts, Rec
from witnz.report.period import Bounds, Period

DAY_US: Final = 86_400_000_000


@dataclass(slots=True)
class Pace:
    """Events of one kind as they pass by: how many a day, the first, the last, the longest time between two."""

    count: int = 0
    first: int | None = None
    last: int | None = None
    longest_us: int = 0
    by_day: Counter[str] = field(default_factory=Counter)

    def note(self, at: int, day: str = "") -> None:
        """One more event, at µs since the Unix epoch; ``day``: that day, where it is known."""
        if self.last is not None:
            self.longest_us = max(self.longest_us, at - self.last)
        self.first = at if self.first is None else self.first
        self.last = at
        self.count += 1
        self.by_day[day or day_of(at)] += 1

    def to_json(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "first_at": None if self.first is None else format_time(self.first),
            "last_at": None if self.last is None else format_time(self.last),
            "longest_interval_s": self.longest_us // 1_000_000,
        }


def day_of(at: int) -> str:
    """The day, UTC, of a time in µs since the Unix epoch."""
    return format_time(at)[:10]


def days_of(first: int, last: int) -> list[str]:
    """Every day from one time to another, both included."""
    return [day_of(day * DAY_US) for day in range(first // DAY_US, last // DAY_US + 1)]


def uncovered(period: Period, bounds: Bounds, genesis_at: int) -> list[dict[str, str]]:
    """The parts of the period before the journal began and after its last checkpoint."""
    out = []
    if genesis_at > period.begin:
        out.append(_span("before", period.begin, genesis_at, "the cluster did not exist yet: nothing was recorded"))
    if bounds.closing.at < period.end:
        out.append(_span("after", bounds.closing.at, period.end, "after the last checkpoint of the period: nothing is sealed"))
    return out


def _span(kind: str, begin: int, end: int, reason: str) -> dict[str, str]:
    return {"kind": kind, "from": format_time(begin), "to": format_time(end), "reason": reason}


def open_gaps(facts: Facts) -> dict[str, int]:
    """Tables with a gap that nobody has accepted and no new generation has bridged: the seq of the record that says so."""
    gaps: dict[str, int] = {}
    accepts: dict[str, str | None] = {}
    protected: set[str] = set()
    for record in (*facts.before, *facts.records):
        if record.type == "gap":
            gaps |= dict.fromkeys(record.body["tables"], record.seq)
        elif record.type == "epoch":
            gaps |= dict.fromkeys(protected, record.seq)
        elif record.type in ("table", "unprotect"):
            gaps.pop(record.body["table"], None)
            (protected.add if record.type == "table" else protected.discard)(record.body["table"])
        elif record.type == "finding" and record.body["class"] in COVERAGE_CLASSES:
            accepts[record.body["id"]] = record.body["table"]
        elif record.type == "accept" and record.body["finding"] in accepts:
            table = record.body["table"] or accepts[record.body["finding"]]
            gaps = {name: seq for name, seq in gaps.items() if table is not None and name != table}
    return gaps


def gap_items(facts: Facts) -> list[dict[str, Any]]:
    """Each gap, epoch and dissent of the period with its positions."""
    return [_gap(record) for record in facts.of("gap", "epoch", "dissent")]


def _gap(record: Rec) -> dict[str, Any]:
    body = record.body
    tables = body.get("tables") or body.get("final") or []
    return {
        "seq": record.seq,
        "at": record.at_text,
        "type": record.type,
        "node": record.node,
        "from_lsn": body.get("from_lsn"),
        "to_lsn": body.get("to_lsn") or body.get("switch_lsn") or body.get("lsn"),
        "tables": [table if isinstance(table, str) else table["table"] for table in tables],
        "reason": body.get("reason"),
    }


def by_day(
    first: int,
    last: int,
    paces: Mapping[str, Pace],
    changes: Mapping[tuple[str, str], int],
    verdicts: Mapping[tuple[str, str], int],
) -> list[dict[str, Any]]:
    """A line for each day from one time to another, and for any other on which something happened: events of each kind,
    changes by operation, verifications by verdict."""
    out = []
    eventful = {day for pace in paces.values() for day in pace.by_day} | {day for day, _ in (*changes, *verdicts)}
    for day in sorted({*days_of(first, last), *eventful}):
        line: dict[str, Any] = {"day": day}
        line |= {name: pace.by_day[day] for name, pace in paces.items()}
        line["changes"] = {op: number for (on, op), number in sorted(changes.items()) if on == day}
        line["verdicts"] = {verdict: number for (on, verdict), number in sorted(verdicts.items()) if on == day}
        out.append(line)
    return out
