"""The life of each finding that stood in the period: opened, acknowledged, approved or repaired, when and by whom."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from witnz.report.facts import Facts, Rec

COLUMNS: Final = (
    *("id", "opened_seq", "opened_at", "class", "severity", "table", "generation", "key", "entry_seq", "lsn", "xid"),
    *("last_good", "first_bad", "recorded", "found", "state", "acknowledged_at", "acknowledged_s", "acknowledged_reason"),
    *("settled_at", "settled_s", "settled_by", "settled_reason", "carried_over", "bundle"),
)


REPAIRED: Final = "repaired"
"""``result`` of the ``repair`` record that ends a finding."""


@dataclass(slots=True)
class Life:
    """One finding.  ``state`` as of the end of the period: open, acknowledged, approved or repaired; ``settled_by``: the
    operator who approved, or ``repair``.
    """

    opened: Rec
    carried_over: bool
    acknowledged: Rec | None = None
    settled: Rec | None = None

    @property
    def id(self) -> str:
        return str(self.opened.body["id"])

    @property
    def state(self) -> str:
        if self.settled is not None:
            return "repaired" if self.settled.type == "repair" else "approved"
        return "open" if self.acknowledged is None else "acknowledged"

    @property
    def is_open(self) -> bool:
        """Nobody has approved or repaired it."""
        return self.settled is None

    @property
    def acknowledged_s(self) -> int | None:
        """Seconds from its record to the first acknowledgement, or to the decision where nobody acknowledged it before."""
        seen = self.acknowledged or self.settled
        return None if seen is None else max(0, seen.at - self.opened.at) // 1_000_000

    @property
    def settled_s(self) -> int | None:
        return None if self.settled is None else max(0, self.settled.at - self.opened.at) // 1_000_000

    @property
    def settled_by(self) -> str | None:
        if self.settled is None:
            return None
        return "repair" if self.settled.type == "repair" else str(self.settled.body["auth"]["operator"])

    @property
    def settled_reason(self) -> str | None:
        if self.settled is None:
            return None
        return str(self.settled.body["target" if self.settled.type == "repair" else "reason"])

    def row(self, bundle: str) -> list[object]:
        """The cells of :data:`COLUMNS`."""
        body, window = self.opened.body, self.opened.body["window"]
        seen, settled = self.acknowledged, self.settled
        return [
            self.id, self.opened.seq, self.opened.at_text,
            *(body[name] for name in ("class", "severity", "table", "generation", "key", "seq", "lsn", "xid")),
            window["last_good"], window["first_bad"], body["recorded"], body["found"], self.state,
            seen and seen.at_text, self.acknowledged_s, seen and seen.body["reason"],
            settled and settled.at_text, self.settled_s, self.settled_by, self.settled_reason, self.carried_over, bundle,
        ]  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """What the evidence says of it."""
        body = self.opened.body
        return {
            "id": self.id,
            "seq": self.opened.seq,
            "opened_at": self.opened.at_text,
            "class": body["class"],
            "severity": body["severity"],
            "table": body["table"],
            "key": body["key"],
            "state": self.state,
            "acknowledged_s": self.acknowledged_s,
            "settled_at": self.settled.at_text if self.settled is not None else None,
            "settled_by": self.settled_by,
            "reason": self.settled_reason,
            "carried_over": self.carried_over,
        }


def lives(facts: Facts) -> list[Life]:
    """Every finding that stood open at any time of the period, the oldest first."""
    found: dict[str, Life] = {}
    for record in facts.before:
        _live_on(found, record, carried_over=True)
    over = {name for name, life in found.items() if not life.is_open}
    for record in facts.records:
        if record.body.get("id") not in over:  # a node may say again what was settled meanwhile
            _live_on(found, record, carried_over=False)
    return [life for name, life in found.items() if name not in over]


def _live_on(found: dict[str, Life], record: Rec, *, carried_over: bool) -> None:
    if record.type == "finding":
        found.setdefault(record.body["id"], Life(record, carried_over))
        return
    life = found.get(record.body.get("finding") or "") if record.type in ("ack", "accept", "repair") else None
    if life is None:
        return
    if record.type == "ack":
        life.acknowledged = life.acknowledged or record
    elif record.type == "accept" or record.body["result"] == REPAIRED:
        life.settled = life.settled or record


def summary(found: Iterable[Life]) -> dict[str, Any]:
    """The figures of the findings."""
    items = list(found)
    seen = [life.acknowledged_s for life in items if life.acknowledged_s is not None]
    settled = [life.settled_s for life in items if life.settled_s is not None]
    return {
        "count": len(items),
        "opened_in_period": sum(not life.carried_over for life in items),
        "carried_over": sum(life.carried_over for life in items),
        "open_at_end": sum(life.is_open for life in items),
        "by_class": _tally(str(life.opened.body["class"]) for life in items),
        "by_severity": _tally(str(life.opened.body["severity"]) for life in items),
        "by_state": _tally(life.state for life in items),
        "time_to_acknowledge_s": _spread(seen),
        "time_to_settle_s": _spread(settled),
    }


def _tally(values: Iterable[str]) -> dict[str, int]:
    out: dict[str, int] = {}
    for value in values:
        out[value] = out.get(value, 0) + 1
    return dict(sorted(out.items()))


def _spread(seconds: list[int]) -> Mapping[str, int | None]:
    return {
        "count": len(seconds),
        "median": int(median(seconds)) if seconds else None,
        "longest": max(seconds, default=None),
    }
