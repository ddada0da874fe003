"""What follows from the records of a period, its checkpoints and the entries counted: every derived part of the evidence.

A report states these parts, and whoever checks a package derives them again from what its bundles show
(:mod:`witnz.report.recount`); so nothing here may look anywhere else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from witnz.core.checkpoint import parse_checkpoint
from witnz.core.note import parse_note
from witnz.report import coverage, lifecycle, sections
from witnz.report.coverage import Pace
from witnz.report.exceptions import exceptions
from witnz.report.facts import Facts
from witnz.report.lifecycle import Life
from witnz.report.period import Bounds, Period


@dataclass(frozen=True, slots=True)
class Counted:
    """What passed by while the lists were written: ``paces`` of ``checkpoints`` and ``seals``, how many checkpoints were not
    final, entries by (day, op)."""

    paces: Mapping[str, Pace]
    not_final: int
    changed: Mapping[tuple[str, str], int]


def derive(facts: Facts, bounds: Bounds, period: Period, standard: str, found: list[Life], counted: Counted) -> dict[str, Any]:
    """The members of the evidence by name.  ``standard``: its id; ``found``: the lives of the findings."""
    derived = {
        "period": {
            "opening": sections.checkpoint_json(bounds.opening),
            "closing": sections.checkpoint_json(bounds.closing),
            "records": bounds.closing.size - bounds.first_seq + 1,
            "by_type": dict(sorted(facts.by_type.items())),
        },
        "continuity": _continuity(standard, period, facts),
        "scope": sections.scope(facts),
        "verifications": sections.verifications(facts),
        "anchors": sections.anchors(facts),
        "keys": sections.key_custody(facts),
        "configuration": sections.configuration(facts),
        "operator_actions": sections.operator_actions(facts),
        "authorised_changes": sections.decisions(facts),
        "independence": sections.independence(facts),
        "drills": sections.drills(facts),
        "checkpoints": {**counted.paces["checkpoints"].to_json(), "not_final": counted.not_final, **_ends(bounds)},
        "coverage": _coverage(period, facts, bounds, counted),
        "findings": {**lifecycle.summary(found), "items": [life.to_json() for life in found[-sections.MAX_LISTED :]]},
        "clock": sections.clock_status(facts, bounds.closing),
    }
    derived["exceptions"] = exceptions(derived)
    derived["conclusion"] = _conclusion(derived)
    return derived


def _continuity(standard: str, period: Period, facts: Facts) -> dict[str, Any]:
    """How the period follows the one of the report before it, of the same standard."""
    every = (*facts.all_of("report"), *facts.later_reports)
    earlier = [record for record in every if record.body["standard"] == standard]
    earlier = [record for record in earlier if record.body["from"] < period.begin_text]
    if not earlier:
        return {"status": "first", "previous": None, "detail": "no earlier report of this standard stands in the journal"}
    previous = max(earlier, key=lambda record: (record.body["to"], record.seq))
    ended, begins = previous.body["to"], period.begin_text
    status = "continuous" if ended == begins else "gap" if ended < begins else "overlap"
    detail = {
        "continuous": "it begins where the report before it ended, so its opening checkpoint is that one's closing checkpoint",
        "gap": f"the report before it ended at {ended}: no report covers the time from then to {begins}",
        "overlap": f"the report before it ended at {ended}: the time from {begins} to then is in both",
    }[status]
    about = {name: previous.body[name] for name in ("standard", "from", "to", "sha256")}
    return {"status": status, "previous": {"seq": previous.seq, "at": previous.at_text, **about}, "detail": detail}


def _ends(bounds: Bounds) -> dict[str, Any]:
    return {
        "first_size": bounds.opening.size if bounds.opening is not None else 0,
        "last_size": bounds.closing.size,
        "cosigned_by": _cosigned(bounds.closing.note),
    }


def _cosigned(note: str) -> list[str]:
    parsed = parse_note(note)
    origin = parse_checkpoint(parsed.text).origin
    prefix = f"{origin}/nodes/"
    return [signature.name.removeprefix(prefix) for signature in parsed.signatures if signature.name.startswith(prefix)]


def _coverage(period: Period, facts: Facts, bounds: Bounds, counted: Counted) -> dict[str, Any]:
    findings, runs = Pace(), Counter[tuple[str, str]]()
    told: set[str] = set()
    for record in facts.of("finding"):
        if record.body["id"] not in told:  # two leaders may both have brought one in
            findings.note(record.at)
        told.add(record.body["id"])
    for record in facts.of("verify"):
        runs[coverage.day_of(record.at), record.body["verdict"]] += 1
    last = bounds.closing.at
    first = min(max(period.begin, facts.genesis.at), last)
    return {
        "uncovered": coverage.uncovered(period, bounds, facts.genesis.at),
        "gaps": coverage.gap_items(facts),
        "open_gaps": sorted(coverage.open_gaps(facts)),
        "seals": counted.paces["seals"].to_json(),
        "entries": sum(counted.changed.values()),
        "entries_by_op": _by_op(counted.changed),
        "days": coverage.by_day(first, last, {**counted.paces, "findings": findings}, counted.changed, runs),
    }


def _by_op(changed: Mapping[tuple[str, str], int]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for (_, op), number in changed.items():
        total[op] += number
    return dict(sorted(total.items()))


def _conclusion(predicate: Mapping[str, Any]) -> dict[str, Any]:
    """What can be said in one line, and how many kinds of exceptions there are."""
    listed = [item for item in predicate["exceptions"] if item["count"]]
    gaps, partial = predicate["coverage"]["open_gaps"], predicate["coverage"]["uncovered"]
    covered = "open gap" if gaps else "partial" if partial else "whole"
    return {"exceptions": len(listed), "kinds": [item["kind"] for item in listed], "coverage": covered}
