"""docs/threat-model.md as the tests read it: the attacks it lists, by their ids."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/threat-model.md"
LINE = re.compile(r"\| ([A-F]\d\d) \| ([^|]+) \| ([^|]*)\| ([^|]*)\| `(tests/attacks/[^`|]+)` \|")


@dataclass(frozen=True, slots=True)
class Line:
    """One attack: who catches it (``by``), when (``found``), and the test file, below the root of the checkout."""

    id: str
    attack: str
    by: str
    found: str
    test: str


def listed() -> dict[str, Line]:
    """The lines of the page by their id; refuses a malformed line, an id given twice, and another order than theirs."""
    lines = [line for line in PAGE.read_text().splitlines() if re.match(r"\| [A-F]\d", line)]
    found = [(line, LINE.fullmatch(line)) for line in lines]
    assert all(match for _, match in found), f"malformed: {[line for line, match in found if not match]}"
    parsed = [Line(*(part.strip() for part in match.groups())) for _, match in found if match]
    ids = [line.id for line in parsed]
    assert ids == sorted(set(ids)), "each attack stands there once, in order"
    return {line.id: line for line in parsed}
