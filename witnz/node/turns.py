"""Whose turn a scheduled verification is, among several nodes: they rotate, and a turn that is not taken is taken over.

Time is cut into slots of one interval, counted from the Unix epoch; in each slot one member is first in line, the next one in
the slot after it.  Whoever is n-th behind it begins n graces after the slot did, unless the journal has a verification of the
table since then, or another member has said that one is under way.  So a member that is gone costs a grace, not a turn.
Whoever is first in line lets nobody's word keep it from looking itself.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterable
from typing import Final

MAX_GRACE_S: Final = 60.0
LEAST_INTERVAL_S: Final = 1.0


class Turns:
    """The turns of one node.

    ``members``: the ids of all in force; ``under_way``: whether another member verifies a table now.
    """

    def __init__(
        self, node_id: str, members: Callable[[], Iterable[str]], under_way: Callable[[str], bool] = lambda table: False
    ) -> None:
        self._node_id, self._members, self._under_way = node_id, members, under_way
        self._lock = threading.Lock()
        self._taken: dict[str, float] = {}  # when the slot began that this node has taken last
        self._verified: dict[str, float] = {}

    def verified(self, table: str, at_s: float) -> None:
        """The journal holds a verification of a table, made at this moment (seconds since the Unix epoch)."""
        with self._lock:
            self._verified[table] = max(at_s, self._verified.get(table, 0.0))

    def take(self, table: str, interval_s: float, now_s: float) -> bool:
        """Whether this node verifies the table now; once in a slot.  ``now_s``: seconds since the Unix epoch."""
        interval_s = max(interval_s, LEAST_INTERVAL_S)
        nodes = sorted(self._members())
        if self._node_id not in nodes:
            return False
        slot = int(now_s // interval_s)
        began, first = slot * interval_s, (slot + zlib.crc32(table.encode())) % len(nodes)
        place = (nodes.index(self._node_id) - first) % len(nodes)
        grace_s = min(interval_s / (2 * len(nodes)), MAX_GRACE_S)
        with self._lock:
            if now_s < began + place * grace_s or self._taken.get(table) == began:
                return False
            if place and (self._verified.get(table, -1.0) >= began or self._under_way(table)):
                return False
            self._taken[table] = began
            return True
