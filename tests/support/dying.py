"""A node that kills itself with SIGKILL at a chosen moment: where exactly a crash comes decides what it leaves behind.

The child is forked from a server that has the node's modules loaded, so that it costs a moment and not seconds.  Moments:

    open.before, open.after         around the journal's ``open`` record of a later generation
    reading                         some rows of the baseline are stored; ``sql`` was executed, and recorded, before
    table.before, table.after       around the ``table`` record that adopts a generation; ``sql`` was executed before
    cancel.before, cancel.after     around the record that an opening was given up; ``sql`` as above, then the baseline breaks
    adopted                         the adoption is durable, nothing else happened yet
    rolling                         in the midst of a range, after others of 50 rows; ``sql`` names the table
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["witnz.node.node", "tests.support.dying"])


def die_at(moment: str, config: Path, *, sql: str = "", dsn: str = "", timeout_s: float = 60.0) -> None:
    """Run a node until it dies there.  Raises AssertionError if it does not."""
    run_until_it_dies(_live, (moment, str(config), sql, dsn), moment, timeout_s)


def run_until_it_dies(live: Callable[..., None], arguments: tuple[str, ...], moment: str, timeout_s: float) -> None:
    """Run this in a forked process, which is to end itself at the moment that the message names.

    Raises AssertionError if it ends in another way, or not at all within the time.
    """
    child = _forks.Process(target=live, args=arguments, daemon=True)
    child.start()
    child.join(timeout_s)
    if child.is_alive():
        child.kill()
        child.join()
        raise AssertionError(f"the node did not come to {moment}")
    assert child.exitcode == -signal.SIGKILL, f"the node ended with {child.exitcode}"


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _live(moment: str, config: str, sql: str, dsn: str) -> None:
    from witnz.config import load_config
    from witnz.node import opening
    from witnz.node.node import Node
    from witnz.node.table_state import ACTIVE
    from witnz.verify.stream import PATIENCE

    opening.BASELINE_ROWS = 64  # so that a small table is not stored in one go
    node = Node(load_config(Path(config), {}))
    propose = node.journal.propose
    done: list[str] = []

    def write(*, recorded: bool) -> None:
        """Rows of the application that come while the generation is being opened."""
        if sql and not done:
            done.append(sql)
            _execute(dsn, sql)
            if recorded:
                node.capture.await_mark(b"dying", PATIENCE)

    def progress(table: str, rows: int) -> None:
        if moment == "reading" or moment.startswith("cancel"):
            write(recorded=True)
        if moment == "reading":
            _die()
        if moment.startswith("cancel"):
            _execute(
                dsn, "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'witnz baseline'"
            )

    def dying_propose(record_type: str, body: Any, **keywords: Any) -> int:
        if record_type == "table":
            write(recorded=False)  # this is the capture thread
        if moment == f"{record_type}.before":
            _die()
        seq = propose(record_type, body, **keywords)
        if moment == f"{record_type}.after":
            _die()
        return seq

    node.generations._around.progress = progress
    node.journal.propose = dying_propose  # type: ignore[method-assign]
    node.start(schedule=False)
    if moment == "rolling":
        from witnz.node import rolling

        rolling.RANGE_ROWS = 50  # type: ignore[misc]
        node.wait_ready(60)
        node.roll(sql, lambda rows: _die() if rows > 130 else None)
    before = {state.head.id for state in node.states()}
    while True:
        if moment == "adopted" and any(s.status == ACTIVE and s.head.id not in before for s in node.states()):
            _die()
        time.sleep(0.005)


def _execute(dsn: str, sql: str) -> None:
    import psycopg

    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql.encode())
