"""Which software made a report: version, interpreter, libraries, and one digest over witnz's own files."""

from __future__ import annotations

import platform
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import witnz

LIBRARIES: Final = ("cryptography", "psycopg", "pyhanko", "pyyaml", "reportlab", "rfc8785", "sqlite-utils")


def software() -> dict[str, Any]:
    """The member ``software`` of the evidence."""
    return {
        "witnz": witnz.__version__,
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "source_sha256": source_digest(Path(witnz.__file__).parent),
    }


def source_digest(package: Path) -> str:
    """SHA-256 over ``<sha256 of file>  <relative path>`` lines, as sha256sum prints them, sorted by path; without caches."""
    lines = []
    for path in sorted(package.rglob("*"), key=lambda found: found.relative_to(package).as_posix()):
        if path.is_file() and path.suffix != ".pyc" and "__pycache__" not in path.parts:
            lines.append(f"{sha256(path.read_bytes()).hexdigest()}  {path.relative_to(package).as_posix()}\n")
    return sha256("".join(lines).encode()).hexdigest()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
