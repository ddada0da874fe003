"""docs/threat-model.md and the tests of this directory say the same."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.support.threat_page import listed

ROOT = Path(__file__).parents[2]
FAMILIES = {"A": 14, "B": 13, "C": 8, "D": 4, "E": 12, "F": 7}


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
    assert {name: ROOT / line.test for name, line in listed().items()} == files()


def test_every_test_file_says_which_attack_it_is_and_every_line_who_catches_it() -> None:
    for name, path in files().items():
        tree = ast.parse(path.read_text())
        assert (ast.get_docstring(tree) or "").startswith(f"{name}: "), path.name
        assert any(isinstance(node, ast.FunctionDef) and node.name.startswith("test_") for node in tree.body), path.name
        line = listed()[name]
        assert line.by and line.found, f"{name}: caught by whom, found when?"
