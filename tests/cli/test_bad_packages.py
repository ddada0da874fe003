"""Folders that are no evidence package, or none that holds: one verdict or one line, and the exit code, of both programs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cli import Cli
from tests.support.package_cases import FOLDER
from tests.support.standalone import VERIFY_PY

MIB = 1 << 20


def _sparse(name: str, size: int) -> Callable[[Path], None]:
    return lambda folder: os.truncate(_put(name, b"")(folder), size)


def _put(name: str, data: bytes) -> Callable[[Path], Path]:
    def spoil(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return spoil


def _change(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        data = (folder / name).read_bytes()
        assert old in data
        (folder / name).write_bytes(data.replace(old, new, 1))

    return spoil


def _cut(folder: Path) -> None:
    path = folder / "bundles/period.witnz.json"
    path.write_bytes(path.read_bytes()[:-100])


PERIOD, DEEP = "bundles/period.witnz.json", 100_000
MORE = "bundles/more.witnz.json"
CASES: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "no files at all": (lambda folder: (shutil.rmtree(folder), folder.mkdir()), 2, "found no report.json"),
    "larger than a package may be": (_sparse("populations/more.csv", 1100 * MIB), 2, "10000 files and 1073741824 bytes"),
    "a bundle larger than one may be": (_sparse(MORE, 65 * MIB), 2, "more.witnz.json: bundle: expected at most"),
    "a named pipe": (lambda folder: os.mkfifo(folder / "pipe"), 2, "expected files and folders only, found pipe"),
    "a link": (lambda folder: (folder / "link").symlink_to("/dev/zero"), 2, "expected files and folders only, found link"),
    "a name in no encoding": (_put(os.fsdecode(b"\xff"), b"x"), 2, "names of files in UTF-8"),
    "a bundle that is nested deep": (_put(PERIOD, b"[" * DEEP + b"]" * DEEP + b"\n"), 2, PERIOD),
    "evidence that is nested deep": (_put("evidence.json", b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"\n"), 2, "nest"),
    "a key twice": (_change(PERIOD, b'{"anchors":', b'{"anchors":[],"anchors":'), 2, "found a duplicate"),
    "a bundle that is cut": (_cut, 2, PERIOD),
    "a file that nobody signed": (_put("notes\n\x1b[31m.txt", b"x"), 3, "report.files"),
    "no report.pdf": (lambda folder: (folder / "report.pdf").unlink(), 3, "report.pdf"),
}


@pytest.mark.parametrize("name", CASES)
def test_both_programs_give_one_clear_answer(name: str, tmp_path: Path) -> None:
    spoil, code, why = CASES[name]
    folder, policy = Path(shutil.copytree(FOLDER / "good", tmp_path / "package")), FOLDER / "policy.txt"
    spoil(folder)
    said = Cli(tmp_path).run("verify", "--report", folder, "--policy", policy, "--json").expect(code)
    if code == 2:
        assert (said.out, why in said.error["message"], len(said.err) < 600) == ("", True, True), said.err
    else:
        assert why in {check["name"] for check in said.document["checks"] if check["status"] == "fail"}
    alone = [sys.executable, "-I", "-S", VERIFY_PY, folder, "--policy", policy]
    done = subprocess.run(alone, capture_output=True, check=False, timeout=120)
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"\x1b" not in done.stdout + done.stderr
    assert done.stdout.startswith(b"" if code == 2 else b"TAMPERED\n")


def test_a_package_of_somebody_else_is_tampering_under_our_policy(tmp_path: Path) -> None:
    """Well formed, and signed by keys that nobody here trusts."""
    words = "verify", "--report", FOLDER / "good", "--policy", FOLDER / "policy-foreign.txt"
    assert Cli(tmp_path).run(*words).expect(3).out.startswith("TAMPERED")
