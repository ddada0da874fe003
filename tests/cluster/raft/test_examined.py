"""Only the pysyncobj that was examined runs, nothing of it unpickles, and a single node loads none of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from witnz.cluster.raft import examined

ROOT = Path(__file__).parents[3]


def run(program: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": ":".join(map(str, [*paths, ROOT])), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_cluster_of_one_loads_neither_raft_nor_tls() -> None:
    done = run(
        """
import sys
from witnz.cluster.engine import LocalEngine
engine = LocalEngine("node1")
engine.on_apply(lambda index, command: print(index, command))
engine.start()
engine.propose(b"x", "key", 1)
print([name for name in sys.modules if name.split(".")[0] in ("pysyncobj", "OpenSSL", "ssl", "_ssl", "msgpack", "asyncio")])
"""
    )
    assert done.stdout == "1 b'x'\n[]\n", done.stderr


def test_pysyncobj_gets_functions_that_refuse_instead_of_pickle() -> None:
    module = examined.load()
    for name in ("load", "loads", "dump", "dumps", "to_bytes"):
        with pytest.raises(TypeError, match="nothing is pickled"):
            getattr(module.pickle, name)(b"\x80\x04.")


def test_no_module_of_pysyncobj_reaches_the_real_pickle() -> None:
    done = run(
        """
import pickle, sys
from witnz.cluster.raft import core
modules = [module for name, module in sys.modules.items() if name.split(".")[0] == "pysyncobj"]
found = [module.__name__ for module in modules for value in vars(module).values()
         if value is pickle or value in (pickle.loads, pickle.load, pickle.dumps, pickle.dump)]
print(len(modules) > 5, found)
"""
    )
    assert done.stdout == "True []\n", done.stderr


def test_altered_files_of_pysyncobj_are_not_loaded(tmp_path: Path) -> None:
    import pysyncobj

    folder = Path(pysyncobj.__file__).parent
    copy = tmp_path / "pysyncobj"
    copy.mkdir()
    for path in folder.glob("*.py"):
        (copy / path.name).write_bytes(path.read_bytes())
    with (copy / "syncobj.py").open("a") as out:
        out.write("\n# a patch\n")
    program = """
from witnz.errors import ConfigError
from witnz.cluster.raft.examined import load
try:
    load()
except ConfigError as error:
    print(error.message)
"""
    done = run(program, tmp_path)
    assert "syncobj.py: expected the file of version 0.3.17" in done.stdout, done.stderr


def test_pysyncobj_loaded_by_somebody_else_first_is_refused() -> None:
    program = """
import pysyncobj
from witnz.errors import ConfigError
from witnz.cluster.raft.examined import load
try:
    load()
except ConfigError as error:
    print(error.message)
"""
    assert "was loaded before" in run(program).stdout
