"""Which simulated members can reach each other: the switches that the simulated engine and the simulated peers share."""

from __future__ import annotations

import threading


class Links:
    """Directed links between node ids, all up until they are cut.  ``changed`` is notified with every change."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.disturbed = False  # whether anything was ever cut, or a member stopped: a quorum may have been missed then
        self._cut: set[tuple[str, str]] = set()
        self._down: set[str] = set()
        self._delay_s: dict[tuple[str, str], float] = {}

    def cut(self, one: str, other: str, *, one_way: bool = False) -> None:
        """Nothing gets from ``one`` to ``other`` any more; nor back, unless ``one_way``."""
        with self.changed:
            self.disturbed = True
            self._cut |= {(one, other)} if one_way else {(one, other), (other, one)}
            self.changed.notify_all()

    def isolate(self, node: str) -> None:
        """``node`` reaches nobody and nobody reaches it."""
        with self.changed:
            self.disturbed = True
            self._down.add(node)
            self.changed.notify_all()

    def delay(self, one: str, other: str, seconds: float) -> None:
        """What goes from ``one`` to ``other`` takes this long."""
        with self.changed:
            self.disturbed = True
            self._delay_s[one, other] = seconds

    def heal(self) -> None:
        """Everybody reaches everybody, at once."""
        with self.changed:
            self._cut.clear()
            self._down.clear()
            self._delay_s.clear()
            self.changed.notify_all()

    def up(self, one: str, other: str) -> bool:
        """Whether something sent by ``one`` reaches ``other``."""
        with self.changed:
            return one == other or ((one, other) not in self._cut and one not in self._down and other not in self._down)

    def both_ways(self, one: str, other: str) -> bool:
        return self.up(one, other) and self.up(other, one)

    def delay_s(self, one: str, other: str) -> float:
        with self.changed:
            return self._delay_s.get((one, other), 0.0)
