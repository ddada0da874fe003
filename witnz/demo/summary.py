"""What the demo expected and what it saw: one outcome a line, and the document ``witnz.demo/1``.

The demo is good only if every outcome is, and only if nothing was found that no scene was about: a detection that was missed
and a finding that nobody caused count the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

SCHEMA: Final = "witnz.demo/1"
FAILED: Final = 1
"""The exit code of a demo in which something expected was not seen."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One line of the summary.  ``seconds``: from the deed to the moment when its detection could be read, or of the command.

    ``findings``: what was found, as in interface.md 4.  ``detector``: who noticed.
    """

    scene: str
    act: str
    expected: str
    seen: str
    ok: bool
    detector: str
    seconds: float
    findings: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "scene": self.scene,
            "act": self.act,
            "expected": self.expected,
            "seen": self.seen,
            "ok": self.ok,
            "detector": self.detector,
            "seconds": round(self.seconds, 3),
            "findings": [dict(finding) for finding in self.findings],
        }


@dataclass(frozen=True, slots=True)
class Summary:
    """The whole demo.  ``workload``: what the application did meanwhile.  ``nodes``: how many there were.  ``kept``: what
    stays, by name; empty if nothing."""

    outcomes: Sequence[Outcome]
    seconds: float
    tamper: str
    postgres: str
    nodes: int = 1
    workload: Mapping[str, int] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)

    @property
    def missed(self) -> list[Outcome]:
        """What was expected and not seen."""
        return [outcome for outcome in self.outcomes if not outcome.ok]

    @property
    def exit_code(self) -> int:
        """0 only if something was expected and all of it was seen."""
        return FAILED if self.missed or not self.outcomes else 0

    def to_json(self) -> dict[str, Any]:
        """``witnz.demo/1``."""
        return {
            "schema": SCHEMA,
            "ok": self.exit_code == 0,
            "tamper": self.tamper,
            "nodes": self.nodes,
            "postgres": self.postgres,
            "seconds": round(self.seconds, 1),
            "expected": len(self.outcomes),
            "seen": len(self.outcomes) - len(self.missed),
            "missed": [outcome.scene for outcome in self.missed],
            "scenes": [outcome.to_json() for outcome in self.outcomes],
            "workload": dict(self.workload),
            "kept": dict(self.kept),
        }
