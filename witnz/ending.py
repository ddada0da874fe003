"""Waiting for threads, servers and processes to end, for a limited time: what does not end is named, with where it stands.

A join without a limit turns one thread that hangs into a node that never stops, and says nothing about which one it was.
"""

from __future__ import annotations

import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, wait
from typing import Any, Final

from witnz.errors import WitnzError

ENDING_S: Final = 120.0
"""More than the longest deadline of anything that a thread may be waiting for when it is told to stop."""
STUCK: Final = "stop.stuck"


def end_threads(*threads: threading.Thread, limit_s: float = ENDING_S) -> None:
    """Wait until these threads, which have been told to, have ended; the caller's own and unstarted ones are passed over.

    Raises WitnzError (``stop.stuck``) with the name and the line of each that goes on after ``limit_s`` seconds.
    """
    deadline = time.monotonic() + limit_s
    for thread in threads:
        if thread is not threading.current_thread() and thread.is_alive():
            thread.join(max(0.0, deadline - time.monotonic()))
    stuck = [thread for thread in threads if thread.is_alive() and thread is not threading.current_thread()]
    if stuck:
        raise _stuck([_where(thread) for thread in stuck], limit_s)


def end_futures(futures: Iterable[Future[Any]], what: str, limit_s: float = ENDING_S) -> None:
    """The same for work in a pool; how it ended does not matter here."""
    running = [future for future in futures if not future.done()]  # wait() does not see that one was cancelled
    if running and wait(running, limit_s).not_done:
        raise _stuck([what], limit_s)


def end_server(server: socketserver.BaseServer, *threads: threading.Thread, limit_s: float = ENDING_S) -> None:
    """Close a server of the standard library and wait for its loop, which one of ``threads`` runs, as in :func:`end_threads`.

    ``shutdown`` itself waits for the loop without a limit.
    """
    closing = threading.Thread(target=server.shutdown, name=f"closing {server.server_address!r}", daemon=True)
    closing.start()
    try:
        end_threads(*threads, closing, limit_s=limit_s)
    finally:
        server.server_close()


def end_process(process: subprocess.Popen[Any], limit_s: float = ENDING_S, *, what: str = "process") -> int:
    """Kill a process, called ``what`` where it does not end, and collect it; its exit code."""
    process.kill()
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        raise _stuck([f"{what} {process.pid}"], limit_s) from None


def _where(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None:
        return thread.name
    return f"{thread.name} at {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def _stuck(names: list[str], limit_s: float) -> WitnzError:
    return WitnzError(
        f"did not end within {limit_s:g} s: {'; '.join(names)}",
        hint="the process can be killed at any moment without loss; please report where it stood",
        code=STUCK,
    )
