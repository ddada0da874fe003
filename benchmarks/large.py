"""P5 on a table of ten million rows: the peak memory of a node's process while it records, verifies and rolls.

    python -m benchmarks.large [--rows N] [--json FILE]

The node runs in a process of its own, so that only it is measured: its peak resident size (VmHWM, set back before each step),
and that of it together with the process that hashes for it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.setting import Setting, machine, setting
from witnz.config import load_config
from witnz.node.node import Node

LIMIT_MIB = 300
POLL_S = 0.2


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--json", type=Path, help="also write the document to this file")
    arguments = parser.parse_args()
    taken: dict[str, object] = {"schema": "witnz.benchmarks/1", "machine": machine()}
    with setting() as place:
        taken["P5"] = large(place, arguments.rows)
    text = json.dumps(taken, indent=2)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n")
    print(text)
    return 0


def large(place: Setting, rows: int) -> dict[str, object]:
    """The figures of one table of that size; every step must be VERIFIED."""
    step = 1_000_000
    for first in range(1, rows + 1, step):
        place.insert(first, min(rows, first + step - 1))
    place.sql("VACUUM ANALYZE t")
    config = place.initialise()
    child = multiprocessing.get_context("spawn")
    told = child.SimpleQueue()
    process = child.Process(target=_node, args=(str(config.path), told))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise AssertionError(f"the node ended with {process.exitcode}")
    return {"rows": rows, "limit_mib": LIMIT_MIB, **told.get()}


def _node(config: str, told: Any) -> None:
    """In the process that is measured."""
    node = Node(load_config(Path(config), {}))
    taken: dict[str, object] = {}

    def baseline() -> None:
        node.start(chores=False, schedule=False)
        node.wait_ready(3600)

    def snapshot() -> None:
        verified = node.verify_table("public.t")
        if verified.verdict != "VERIFIED":
            raise AssertionError(verified.to_json())
        taken["snapshot_rows"] = verified.result.rows

    def rolling() -> None:
        verified = node.roll("public.t")
        if verified.verdict != "VERIFIED" or verified.result.rows != taken["snapshot_rows"]:
            raise AssertionError(verified.to_json())
        taken["rolling_ranges"] = verified.to_json()["ranges"]

    for name, work in (("baseline", baseline), ("snapshot", snapshot), ("rolling", rolling)):
        taken[name] = _measured(work)
        print(name, taken[name], file=sys.stderr, flush=True)
    node.stop()
    told.put(taken)


def _measured(work: Callable[[], None]) -> dict[str, object]:
    """Seconds and peak memory of a step: of this process, and of it together with the processes that it started."""
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): set the peak back
    stop, together = threading.Event(), [0]

    def watch() -> None:
        while not stop.wait(POLL_S):
            together[0] = max(together[0], sum(_kib(pid, "VmRSS") for pid in (os.getpid(), *_children(os.getpid()))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.monotonic()
    try:
        work()
    finally:
        seconds = time.monotonic() - started
        stop.set()
        watcher.join()
    peak = _kib(os.getpid(), "VmHWM")
    return {
        "seconds": round(seconds, 1),
        "peak_mib": round(peak / 1024, 1),
        "peak_with_children_mib": round(max(peak, together[0]) / 1024, 1),
    }


def _kib(pid: int, name: str) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{name}:")), 0)


def _children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


if __name__ == "__main__":
    sys.exit(main())
