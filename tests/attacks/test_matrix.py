"""docs/threat-model.md and the tests of this directory say the same."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FAMILIES = {"A": 14, "B": 13, "C": 8, "D": 4, "E": 12, "F": 7}
LATER = (
    {"B07", "B08", "B11", "B12", "B13", "C06", "C07", "C08", "D02", "D03", "D04", "E02"}
    | {f"E{number:02}" for number in range(4, 13)}
    | {f"F{number:02}" for number in range(1, 8)}
)
LINE = re.compile(r"\| ([A-F]\d\d) \| ([^|]+) \| ([^|]*)\| ([^|]*)\| (?:`(tests/attacks/[^`|]+)`|(not yet)) \|")


def listed() -> dict[str, re.Match[str]]:
    """The lines of the page by their id."""
    lines = [line for line in (ROOT / "docs/threat-model.md").read_text().splitlines() if re.match(r"\| [A-F]\d", line)]
    found = [LINE.fullmatch(line) for line in lines]
    assert all(found), f"malformed: {[line for line, match in zip(lines, found, strict=True) if not match]}"
    ids = [match[1] for match in found if match]
    assert ids == sorted(set(ids)), "each attack stands there once, in order"
    return {match[1]: match for match in found if match}


def files() -> dict[str, Path]:
    """The test files by their id."""
    paths = sorted((ROOT / "tests/attacks").glob("test_[A-F][0-9][0-9]_*.py"))
    by_id = {path.name[5:8]: path for path in paths}
    assert len(by_id) == len(paths), "one file for each attack"
    return by_id


def test_every_attack_of_the_matrix_has_its_line() -> None:
    expected = [f"{family}{number:02}" for family, last in FAMILIES.items() for number in range(1, last + 1)]
    assert list(listed()) == expected


def test_every_line_names_its_test_file_and_every_test_file_has_its_line() -> None:
    named = {name: ROOT / match[5] for name, match in listed().items() if match[5]}
    assert named == files()


def test_only_what_belongs_to_later_work_has_no_test_yet() -> None:
    assert {name for name, match in listed().items() if match[6]} == LATER - files().keys()


def test_every_test_file_says_which_attack_it_is_and_every_line_who_catches_it() -> None:
    for name, path in files().items():
        tree = ast.parse(path.read_text())
        assert (ast.get_docstring(tree) or "").startswith(f"{name}: "), path.name
        assert any(isinstance(node, ast.FunctionDef) and node.name.startswith("test_") for node in tree.body), path.name
        line = listed()[name]
        assert line[3].strip() and line[4].strip(), f"{name}: caught by whom, found when?"
