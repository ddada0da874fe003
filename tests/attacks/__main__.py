"""The table of attacks, made by running them: ``make attacks``, or ``python -m tests.attacks [--json FILE] [ID …]``.

One line for each attack of docs/threat-model.md: whether all its tests held, who catches it, and how long after the deed the
finding was seen (an upper bound, see tests/support/sightings.py; a scan's time contains the scan).  Attacks on files and on
evidence are refused by whoever reads them: there is no time to tell.  Exits 1 where an attack was not caught.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from tests.support.threat_page import Line, listed

HERE = Path(__file__).parent


@dataclass(slots=True)
class Attack:
    """What running the tests of one attack came to."""

    line: Line
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: int = 0
    seen: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def caught(self) -> bool:
        """All its tests ran to the end and held; an attack of which nothing ran is not caught."""
        return self.passed > 0 and not self.failed and not self.skipped

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.line.id,
            "attack": self.line.attack,
            "caught": self.caught,
            "by": self.line.by,
            "found": self.line.found,
            "tests": {"passed": self.passed, "failed": self.failed, "skipped": self.skipped},
            "seen": {
                cls: {"times": len(after), "median_s": round(statistics.median(after), 3), "max_s": round(max(after), 3)}
                for cls, after in sorted(self.seen.items())
            },
        }


class Collector:
    """A pytest plugin: outcomes and sightings by attack."""

    def __init__(self, lines: dict[str, Line]) -> None:
        self.attacks = {name: Attack(line) for name, line in lines.items()}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        attack = self.attacks.get(Path(report.fspath).name[5:8])
        if attack is None:
            return
        if report.failed:
            attack.failed.append(f"{report.nodeid.rpartition('::')[2]} ({report.when})")
        elif report.skipped:
            attack.skipped += 1
        elif report.when == "call":
            attack.passed += 1
        if report.when == "teardown":
            for cls, after_s in dict(report.user_properties).get("sightings", []):
                attack.seen[cls].append(after_s)


def show(attacks: list[Attack], console: Console) -> None:
    table = Table(
        "id", "attack", "caught", "by", "found", "seen after, median (most)", title="What an attacker can do", box=None
    )
    for attack in attacks:
        seen = [
            f"{cls} {statistics.median(after):.2f} s ({max(after):.2f})" for cls, after in sorted(attack.seen.items(), key=str)
        ]
        caught = "[green]yes[/]" if attack.caught else "[bold red]NO[/]" if attack.failed else "[yellow]not run whole[/]"
        table.add_row(attack.line.id, attack.line.attack, caught, attack.line.by, attack.line.found, "\n".join(seen) or "–")
    console.print(table)
    console.print(f"{sum(attack.caught for attack in attacks)} of {len(attacks)} attacks caught")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="make attacks ARGS=…", description="Run the attacks and show what catches them.")
    parser.add_argument("ids", nargs="*", metavar="ID", help="attacks to run, A01 to F07; all without one")
    parser.add_argument("--json", type=Path, help="also write the table to this file as JSON")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    lines = listed()
    if unknown := set(options.ids) - lines.keys():
        parser.error(
            f"no such attack: {', '.join(sorted(unknown))}; docs/threat-model.md lists them, {min(lines)} to {max(lines)}"
        )
    chosen = {name: line for name, line in lines.items() if name in options.ids or not options.ids}
    collector = Collector(chosen)
    files = [str(path) for name in chosen for path in sorted(HERE.glob(f"test_{name}_*.py"))]
    parallel = ["-n", str(options.workers), "--dist", "loadfile"] if options.workers > 1 else []
    pytest.main(["-q", "-p", "no:cacheprovider", *parallel, *files], plugins=[collector])
    attacks = list(collector.attacks.values())
    show(attacks, Console(width=None if sys.stdout.isatty() else 200))
    if options.json:
        machine = {"python": platform.python_version(), "system": platform.system(), "cores": os.cpu_count()}
        document = {"machine": machine, "attacks": [attack.to_json() for attack in attacks]}
        options.json.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return 0 if all(attack.caught for attack in attacks) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
