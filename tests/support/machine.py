"""What applies commands in tests of engines: a list that stands for a durable store, and outlives the engine.

Like the journal it knows a command that it has seen: an engine may order one again when its proposer was in doubt, as on a busy
machine it is (witnz/cluster/engine.py, 3).
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from witnz.errors import Inconclusive, StoreFull


class Machine:
    """Applied commands with their indexes; ``peers`` are the machines of other members, from which it restores."""

    def __init__(self, peers: Mapping[str, Machine] | None = None) -> None:
        self.applied: list[tuple[int, bytes]] = []
        self.index = 0
        self.peers: Mapping[str, Machine] = peers or {}
        self.restored = 0
        self.full = threading.Event()
        self.on_command: Callable[[int, bytes], None] | None = None

    @property
    def commands(self) -> list[bytes]:
        return [command for _, command in self.applied]

    def apply(self, index: int, command: bytes) -> None:
        if self.full.is_set():
            raise StoreFull("no space left")
        assert index > self.index, f"{index} after {self.index}"
        self.index = index
        if command in self.commands:
            return
        self.applied.append((index, command))
        self._told(index, command)

    def _told(self, index: int, command: bytes) -> None:
        """Who changes the members by a command does so however it came here: any member may miss the end of an epoch."""
        if self.on_command is not None:
            self.on_command(index, command)

    def applied_index(self) -> int:
        return self.index

    def snapshot(self) -> tuple[int, bytes]:
        applied = list(self.applied)
        return (applied[-1][0] if applied else 0), _digest(applied)

    def restore(self, index: int, snapshot: bytes) -> None:
        for peer in self.peers.values():
            have = [item for item in list(peer.applied) if item[0] <= index]
            if peer is not self and have and _digest(have) == snapshot:
                before = len(self.applied)
                self.applied, self.index = have, index
                self.restored += 1
                for at, command in have[before:]:
                    self._told(at, command)
                return
        raise Inconclusive("no peer has that state now")


def _digest(applied: list[tuple[int, bytes]]) -> bytes:
    return hashlib.sha256(repr(applied).encode()).digest()


def until(condition: Callable[[], Any], timeout_s: float = 60.0) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)
