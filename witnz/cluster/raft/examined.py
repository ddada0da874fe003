"""Loads the pysyncobj that was examined, and no other; with nothing in the place of its pickling.

The adapter rests on details of that version (docs/decisions/0011), so the files it uses are compared with the digests below
before one of them runs.  Every module of pysyncobj takes ``dumps`` and ``loads`` from ``pysyncobj.pickle``; that name is taken
here first, by functions that refuse, so that nothing can be unpickled even where this adapter should have overlooked a way.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NoReturn

from witnz.errors import ConfigError

VERSION: Final = "0.3.17"
FILES: Final = {
    "config.py": "fbbc7ff9f18e4d15a7fd563376e42f5bd192956879d4b810b056d5248b955698",
    "fast_queue.py": "8477fe5fdf36d9766df933310d3d66ee953d1afc195b1e6482b3a1498fc517bd",
    "monotonic.py": "d116df70e1f81bcab1fb89191fe2fe18486bc25187401d73fd6101cfe686e0a3",
    "node.py": "e4a3f027cd8291f558334bb9c977e952f6b6989e7e1fa1588d3005ef0b990e2c",
    "poller.py": "f69ac749fb410670282fd9520c5805ffc684c8a5f762a927127753d9be8551e6",
    "serializer.py": "4d39fde2f15000ad8f507ec229ebd4f6a86371b6f84d4dc1439a9cccd52857ee",
    "syncobj.py": "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4",
    "transport.py": "0c9d89f9c4781ec9772df8011d7975a1a4a1a5f541357e12eae85a813e92b50b",
}
PRIVATE: Final = (
    "applyLogEntries",
    "connectedToAnyone",
    "doApplyCommand",
    "loadDumpFile",
    "onMessageReceived",
    "sendAppendEntries",
    "tryLogCompaction",
)
_HINT = f"install witnz[node] as it is published: it needs pysyncobj=={VERSION}, unchanged"


@cache
def load() -> ModuleType:
    """The module ``pysyncobj.syncobj``, its pickling replaced.  Raises ConfigError for another version or altered files."""
    _check_files()
    replacement = sys.modules.get("pysyncobj.pickle")
    if replacement is None and "pysyncobj" not in sys.modules:
        replacement = ModuleType("pysyncobj.pickle")
        for name in ("to_bytes", "load", "loads", "dump", "dumps"):
            setattr(replacement, name, _refuse)
        sys.modules["pysyncobj.pickle"] = replacement
    if getattr(replacement, "loads", None) is not _refuse:
        raise ConfigError("pysyncobj was loaded before witnz could take its pickling away", hint="import witnz.cluster first")
    module = importlib.import_module("pysyncobj.syncobj")
    module.createJournal = _given  # type: ignore[attr-defined]
    module.PIPE_NOTIFIER_ENABLED = False  # type: ignore[attr-defined]
    missing = [name for name in PRIVATE if not hasattr(module.SyncObj, f"_SyncObj__{name}")]
    if missing or module.pickle is not replacement:
        raise ConfigError(f"pysyncobj lacks what the adapter rests on: {', '.join(missing) or 'pickle'}", hint=_HINT)
    return module


def _check_files() -> None:
    spec = importlib.util.find_spec("pysyncobj")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("a cluster of several nodes needs pysyncobj, which is not installed", hint="pip install witnz[node]")
    folder = Path(spec.submodule_search_locations[0])
    for name, expected in FILES.items():
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest() if (folder / name).is_file() else "nothing"
        if found != expected:
            raise ConfigError(f"pysyncobj/{name}: expected the file of version {VERSION}, found another", hint=_HINT)


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise TypeError("nothing is pickled or unpickled here")


def _given(journal: Any) -> Any:
    """pysyncobj makes its journal from a path; it is handed the journal itself."""
    return journal
