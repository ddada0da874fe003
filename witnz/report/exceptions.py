"""The exceptions of a report: each kind is listed with its number, none included, so that nothing passes by absence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

KINDS: Final[Mapping[str, str]] = {
    "period.uncovered": "parts of the period that no checkpoint covers",
    "continuity": "the period does not begin where the report before it ended",
    "gaps": "gaps in what was captured, restored databases, nodes that dissented",
    "gaps.open": "tables with a gap that nobody has accepted at the end of the period",
    "findings": "findings opened in the period or carried over into it",
    "findings.open": "findings that nobody has approved or repaired at the end of the period",
    "findings.unacknowledged": "findings that nobody has acknowledged at the end of the period",
    "verifications.tampered": "verification runs that found tampering",
    "verifications.inconclusive": "verification runs that could not check everything",
    "verifications.none": "protected tables without a VERIFIED run in the period",
    "checkpoints.not-final": "checkpoints without a quorum of cosignatures",
    "anchors.none": "no checkpoint of the period was anchored outside (1: none was)",
    "configuration.weakened": "changes that protect less: each needed an operator's key",
    "clock": "findings about clocks",
    "drills.none": "no drill was journalled in the period (1: none was)",
}


def exceptions(evidence: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One item a kind, from the other members of the evidence."""
    coverage, found = evidence["coverage"], evidence["findings"]
    verdicts = evidence["verifications"]["by_verdict"]
    current = [table for table in evidence["scope"]["tables"] if table["protected_until"] is None]
    counted: dict[str, tuple[int, str]] = {
        "period.uncovered": (len(coverage["uncovered"]), "; ".join(_span(span) for span in coverage["uncovered"])),
        "continuity": (int(evidence["continuity"]["status"] in ("gap", "overlap")), evidence["continuity"]["detail"]),
        "gaps": (len(coverage["gaps"]), ""),
        "gaps.open": (len(coverage["open_gaps"]), " ".join(coverage["open_gaps"])),
        "findings": (found["count"], ", ".join(f"{name}: {number}" for name, number in found["by_class"].items())),
        "findings.open": (found["open_at_end"], ""),
        "findings.unacknowledged": (found["by_state"].get("open", 0), ""),
        "verifications.tampered": (verdicts.get("TAMPERED", 0), ""),
        "verifications.inconclusive": (verdicts.get("INCONCLUSIVE", 0), ""),
        "verifications.none": _unverified(current),
        "checkpoints.not-final": (evidence["checkpoints"]["not_final"], ""),
        "anchors.none": (int(not evidence["anchors"]["count"]), ""),
        "configuration.weakened": (evidence["configuration"]["weakening"], ""),
        "clock": (evidence["clock"]["findings"], ""),
        "drills.none": (int(not evidence["drills"]), ""),
    }
    return [{"kind": kind, "text": text, "count": counted[kind][0], "detail": counted[kind][1]} for kind, text in KINDS.items()]


def _unverified(tables: list[Mapping[str, Any]]) -> tuple[int, str]:
    names = [table["table"] for table in tables if table["last_verified_at"] is None]
    return len(names), " ".join(names)


def _span(span: Mapping[str, str]) -> str:
    return f"{span['from'][:19]}Z to {span['to'][:19]}Z: {span['reason']}"
