"""One run of the benchmarks: its options, and what several figures share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.setting import Setting, setting

if TYPE_CHECKING:
    from benchmarks.three_nodes import Cluster
    from witnz.node.node import Node


@dataclass
class Bench:
    """``rows``: of the one table that one node captures and verifies.  ``large``: ten million rows where a figure knows that.

    What is shared is made at the first asking and gone after :meth:`end_group`; why it could not be made, all who ask are told.
    """

    rows: int = 1_000_000
    large: bool = False
    _group: ExitStack = field(default_factory=ExitStack)
    _made: dict[str, Any] = field(default_factory=dict)

    def end_group(self) -> None:
        group, self._group, self._made = self._group, ExitStack(), {}
        group.close()

    @contextmanager
    def alone(self) -> Iterator[Setting]:
        """A server for one figure."""
        with setting() as place:
            yield place

    def place(self) -> Setting:
        """The server of the group."""
        return self._shared("place", lambda: self._group.enter_context(setting()))

    def filled(self) -> tuple[Setting, Node, dict[str, Any]]:
        """The server, the node that has captured its rows, and how fast it did, beside its peer."""
        from benchmarks.one_node import filled

        place = self.place()
        node, figure = self._shared("filled", lambda: filled(place, self.rows, self._group))
        return place, node, figure

    def cluster(self) -> Cluster:
        """Three node processes beside the server of the group."""
        from benchmarks.three_nodes import Cluster

        place = self.place()
        return self._shared("cluster", lambda: self._group.enter_context(Cluster.running(place)))

    def _shared(self, name: str, make: Any) -> Any:
        if name not in self._made:
            try:
                self._made[name] = make()
            except Exception as error:
                self._made[name] = error
                raise
        made = self._made[name]
        if isinstance(made, Exception):
            raise RuntimeError(f"what it needs could not be made: {made}") from made
        return made
