"""The guard: one small process that cleans up after us, also when we cannot.

:func:`protect` and :func:`release` are for this process; the other half runs as a script (``python -I guard.py``, so this file
needs nothing but the standard library) and reads JSON lines on standard input::

    {"add": {"path": "/tmp/witnz-pg-x", "data": "/tmp/witnz-pg-x/data", "pg_ctl": "/…/bin/pg_ctl", "uid": 65534, "gid": 65534}}
    {"forget": "/tmp/witnz-pg-x/data"}
    {"add": {"process": "4711"}}

``data`` and ``pg_ctl`` may be null (a directory without a server), ``path`` may be null (a server whose directory stays); the
key is ``data``, else ``path``, or the ``process`` (one of our children, to be killed).  The pipe ends when the parent does,
however it ended (kill -9 included); the guard then stops every server that is left, kills every process and removes every
directory.  PR_SET_PDEATHSIG would not do: it follows the *thread* that forked, is lost on a change of uid, and removes no
directory.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CLEANING_S = 120.0

_lock = threading.Lock()
_process: subprocess.Popen[str] | None = None
_parent_pid = 0


def protect(
    *, path: Path | None = None, data: Path | None = None, pg_ctl: Path | None = None, uid: int = -1, gid: int = -1
) -> None:
    """Have the server in ``data`` stopped and ``path`` removed when this process is gone.  Returns at once."""
    texts = {"path": path and str(path), "data": data and str(data), "pg_ctl": pg_ctl and str(pg_ctl)}
    _tell({"add": {**texts, "uid": uid, "gid": gid}})


def release(key: Path) -> None:
    """Take back a :func:`protect`: ``key`` is its ``data``, or its ``path`` where it had no ``data``."""
    _tell({"forget": str(key)})


def protect_process(pid: int) -> None:
    """Have our child ``pid`` killed when this process is gone; to be released as soon as it has ended, since ids come again."""
    _tell({"add": {"process": str(pid)}})


def release_process(pid: int) -> None:
    """Take back a :func:`protect_process`."""
    _tell({"forget": str(pid)})


def _tell(command: dict[str, Any]) -> None:
    global _process, _parent_pid  # noqa: PLW0603 - one guard a process, started with the first thing to guard
    with _lock:
        if _process is None or _parent_pid != os.getpid():  # a forked child must not end its parent's servers
            _parent_pid = os.getpid()
            _process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(__file__).resolve())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                text=True,
                cwd="/",
                start_new_session=True,  # Ctrl-C is for the parent
            )
            atexit.register(_finish)
        assert _process.stdin is not None
        _process.stdin.write(json.dumps(command) + "\n")
        _process.stdin.flush()


def _finish() -> None:
    """At a normal end: let the guard do its work, and wait for it."""
    if _process is None or _parent_pid != os.getpid():
        return
    assert _process.stdin is not None
    with contextlib.suppress(OSError):
        _process.stdin.close()
    try:
        _process.wait(CLEANING_S)
    except subprocess.TimeoutExpired:  # it goes on without us
        sys.stderr.write(f"witnz: process {_process.pid} has not cleaned up within {CLEANING_S:g} s, and goes on\n")


def _follow(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Read commands until the pipe ends; return what is left to clean up, newest first."""
    left: dict[str, dict[str, Any]] = {}
    for line in lines:
        command = json.loads(line)
        if "add" in command:
            item = command["add"]
            left[item.get("process") or item["data"] or item["path"]] = item
        else:
            left.pop(command["forget"], None)
    return list(reversed(left.values()))


def _clean(item: dict[str, Any]) -> None:
    if "process" in item:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(item["process"]), signal.SIGKILL)
        return
    if item["pg_ctl"] and item["data"]:
        identity: dict[str, Any] = {"user": item["uid"], "group": item["gid"], "extra_groups": []} if os.geteuid() == 0 else {}
        with contextlib.suppress(OSError, subprocess.SubprocessError):  # gone already is as good as stopped
            subprocess.run(
                [item["pg_ctl"], "stop", "-D", item["data"], "-m", "immediate", "-t", "20"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=30,
                check=False,
                cwd="/",
                **identity,
            )
    if item["path"]:
        shutil.rmtree(item["path"], ignore_errors=True)


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the end of the pipe is the only reason to act
    for item in _follow(sys.stdin):
        _clean(item)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
