"""The narrow interface behind which journal records are ordered (architecture.md 3).

An engine takes opaque commands and gives every member the same commands in the same order.  It is never what makes evidence
trustworthy: each command is a signed envelope that every node checks when it is applied.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

Apply = Callable[[int, bytes], None]


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """``term`` and ``index`` as the engine counts them; ``leader`` is a node id, None while there is none."""

    leader: str | None
    term: int
    index: int
    has_quorum: bool


class Engine(Protocol):
    """What the node asks of an engine.  ``propose`` returns the command's index once it is applied on this node."""

    def on_apply(self, apply: Apply) -> None: ...

    def propose(self, command: bytes, key: str, deadline_s: float) -> int: ...

    def barrier(self, deadline_s: float) -> None: ...

    def leader(self) -> str | None: ...

    def status(self) -> EngineStatus: ...


class LocalEngine:
    """The engine of a cluster of one: the order of arrival is the order.  Durability is the applying store's."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._lock = threading.RLock()
        self._index = 0
        self._apply: Apply | None = None

    def on_apply(self, apply: Apply) -> None:
        self._apply = apply

    def propose(self, command: bytes, key: str, deadline_s: float) -> int:
        """Apply at once; ``key`` and ``deadline_s`` matter only where a command can be in doubt."""
        if self._apply is None:
            raise RuntimeError("propose() before on_apply()")
        with self._lock:
            self._index += 1
            self._apply(self._index, command)
            return self._index

    def barrier(self, deadline_s: float) -> None:
        with self._lock:
            return

    def leader(self) -> str | None:
        return self._node_id

    def status(self) -> EngineStatus:
        return EngineStatus(self._node_id, 1, self._index, has_quorum=True)
