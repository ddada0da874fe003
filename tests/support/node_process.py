"""A node in a process of its own, to be killed: ``python -m tests.support.node_process CONFIG``.

Prints "ready" once every table is active, and ends cleanly on SIGTERM.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def spawn(config: Path, *, log: Path) -> subprocess.Popen[str]:
    """Start one and return at once."""
    with log.open("a") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.support.node_process", str(config)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        )


def await_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == "ready\n", f"the node ended with {process.poll()}"


def main(config_path: str) -> None:
    from witnz.config import load_config
    from witnz.node.node import Node

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    node = Node(load_config(Path(config_path), {}))
    node.start()
    node.wait_ready(120)
    print("ready", flush=True)
    stop.wait()
    node.stop()


if __name__ == "__main__":
    main(sys.argv[1])
