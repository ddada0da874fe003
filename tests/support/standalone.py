"""verify.py, loaded as a file and not as a part of witnz."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType

import witnz.verify.standalone

FOLDER = Path(witnz.verify.standalone.__file__).parent
VERIFY_PY = FOLDER / "verify.py"
VERIFY_HTML = FOLDER / "verify.html"

Answer = tuple[int, list[tuple[str, str]], str | None]
"""(exit code, [(status, name of the check)], error)"""


@cache
def module() -> ModuleType:
    """The program as a module of its own."""
    spec = importlib.util.spec_from_file_location("verify_standalone", VERIFY_PY)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def verify(given: bytes | Mapping[str, bytes], policy: bytes | None, anchors: Sequence[str] = ()) -> Answer:
    """What verify.py says of a bundle, or of the files of a package by name."""
    program = module()
    checks: list[tuple[str, str]] = []

    def tell(status: str, name: str, detail: str) -> None:
        assert detail
        checks.append((status, name))

    try:
        trusted = None if policy is None else program.Policy(policy)
        program.verify_files(given, trusted, anchors, tell)
    except program.Refused as error:
        return 2, [], str(error)
    return program.CODES[program.judged([(status, name, "") for status, name in checks])], checks, None
