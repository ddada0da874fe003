"""``witnz start``: the node in the foreground, until SIGTERM or SIGINT, or until it cannot go on.

Order: lock the data directory, wait for the slot, check the source, record, listen on the socket.  A signal that comes
meanwhile counts as soon as the node stands.  Stopping goes the other way: nobody is let in, what was received is committed,
sealed and signed, the lock is released.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from witnz.cli.access import check_slot_free
from witnz.cli.command import RUN, add_command
from witnz.cli.invocation import Invocation, invocation

if TYPE_CHECKING:
    from types import FrameType

    from witnz.config import Config
    from witnz.node.node import Node
    from witnz.node.peering import Fellows

LOOK_S = 0.2


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    add_command(app, "start", "witnz start", "witnz start -c /etc/witnz/witnz.yaml", section=RUN)(start)


def start(context: typer.Context) -> int:
    """Run the node in the foreground.

    It records every change of the protected tables, seals and signs what it recorded, verifies on schedule, sends alerts, and
    answers the other commands on its Unix socket.  SIGTERM or Ctrl-C drains and stops it.
    """
    call = invocation(context)
    config = call.startable_config()
    call.log_to_stderr(config.secrets(), least=config.log.level, fmt=config.log.format)
    with _signals() as stopping:
        _run(call, config, stopping)
    return 0


def _run(call: Invocation, config: Config, stopping: threading.Event) -> None:
    from witnz.node.node import Node
    from witnz.web.server import SocketServer

    node = Node(config, fellows=_fellows(config, stopping))
    try:
        check_slot_free(config)
        node.start()
    except BaseException:
        node.close()
        raise
    try:
        with SocketServer(node, config.socket_path, config.socket_group):
            call.output.answer(
                _document(config), [f"node {config.node_id} of {config.cluster} listens on {config.socket_path}"]
            )
            _wait(node, stopping)
    finally:
        node.stop()
    if node.capture.fatal is not None:
        raise node.capture.fatal


def _fellows(config: Config, stopping: threading.Event) -> Fellows | None:
    """What connects this node to the others, once it has joined them; None for a cluster of one."""
    if not config.is_one_of_several:
        return None
    from witnz.node.fellows import enter
    from witnz.node.node import now_us

    return enter(config, now_us, stopping)


def _wait(node: Node, stopping: threading.Event) -> None:
    """Until a signal comes, or nothing can be recorded any more."""
    while node.capture.fatal is None and not stopping.wait(LOOK_S):
        pass


def _document(config: Config) -> dict[str, Any]:
    return {
        "schema": "witnz.start/1",
        "node": config.node_id,
        "cluster": config.cluster,
        "socket": str(config.socket_path),
        "data_dir": str(config.data_dir),
        "pid": os.getpid(),
    }


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set."""
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
