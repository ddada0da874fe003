"""The house stands as it is drawn, and the contracts in pyproject.toml notice when it does not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", program, "--no-logo", "--cache-dir", str(folder / ".cache")]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("house")
    shutil.copytree(REPOSITORY / "witnz", folder / "witnz", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    return folder


def test_every_import_keeps_to_the_layers(copy: Path) -> None:
    done = lint_imports(copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("core/lsn.py", "import witnz.config"),
        ("core/lsn.py", "def late() -> None:\n    import sqlite3"),
        ("postgres/__init__.py", "import witnz.alert"),
        ("store/__init__.py", "import witnz.node"),
        ("verify/bundle.py", "import psycopg"),
        ("unheard_of.py", "import witnz.core"),
    ],
)
def test_an_import_against_the_layers_is_noticed(copy: Path, module: str, line: str) -> None:
    path = copy / "witnz" / module
    before = path.read_bytes() if path.exists() else None
    path.write_bytes((before or b"") + f"\n{line}\n".encode())
    try:
        done = lint_imports(copy)
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout
