"""The vectors of whole packages: the files of each case by name, as ``tests/vectors/packages.py`` wrote what differs."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "vectors/packages"
POLICIES = {"good": "policy.txt", "foreign": "policy-foreign.txt", "two-logs": "policy-two-logs.txt"}

Files = dict[str, bytes]


@dataclass(frozen=True)
class PackageCase:
    """A package, the policy it is verified under (None: none is given), the anchors asked for, the exit code it must give."""

    files: Files
    policy: bytes | None
    anchors: tuple[str, ...]
    code: int


@cache
def package_cases() -> dict[str, PackageCase]:
    """Every case by its name."""
    paths = [path for path in (FOLDER / "good").rglob("*") if path.is_file()]
    good = {path.relative_to(FOLDER / "good").as_posix(): path.read_bytes() for path in paths}
    cases = json.loads((FOLDER / "cases.json").read_text())
    return {name: _case(_files(name, cases, good), case) for name, case in cases.items()}


def _files(name: str, cases: dict[str, Any], good: Files) -> Files:
    """The files of a case: those of the case that it is ``of``, or the good ones, with what differs."""
    case = cases[name]
    base = _files(case["of"], cases, good) if "of" in case else good
    files = dict(base)
    for file, change in case["files"].items():
        if change is None:
            del files[file]
        elif "edits" in change:
            files[file] = _edited(base[file], change["edits"])
        else:
            files[file] = base64.b64decode(change["base64"]) if "base64" in change else change["text"].encode("latin-1")
    return files


def _case(files: Files, case: dict[str, Any]) -> PackageCase:
    policy = case.get("policy", "good")
    trusted = None if policy == "none" else (FOLDER / POLICIES[policy]).read_bytes()
    return PackageCase(files, trusted, tuple(case.get("anchors", ())), case["code"])


def _edited(data: bytes, edits: list[tuple[int, int, str]]) -> bytes:
    out, at = b"", 0
    for position, left_out, text in edits:
        out += data[at:position] + text.encode("latin-1")
        at = position + left_out
    return out + data[at:]


def write(files: Files, folder: Path) -> Path:
    """The package as a folder."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder
