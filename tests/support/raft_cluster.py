"""Members of the built-in engine in one process, on real sockets and real files."""

from __future__ import annotations

from pathlib import Path

from tests.support.machine import Machine, until
from tests.support.tls_peers import make_members, start_peers
from witnz.cluster.engine import Membership
from witnz.cluster.raft.engine import COMPACT_BYTES, RaftEngine
from witnz.cluster.transport import TlsPeers


class RaftCluster:
    """Engines by node id; a stopped member keeps its directory and its machine."""

    def __init__(
        self, directory: Path, nodes: tuple[str, ...] = ("node1", "node2", "node3"), *, compact_bytes: int = COMPACT_BYTES
    ) -> None:
        self.compact_bytes = compact_bytes
        self.directory, self.nodes = directory, nodes
        self.members = make_members(nodes)
        self.machines: dict[str, Machine] = {}
        for node in nodes:
            self.machines[node] = Machine(self.machines)
        self.membership = Membership(0, 0, nodes)
        self.peers: dict[str, TlsPeers] = {}
        self.engines: dict[str, RaftEngine] = {}

    def start(self, *nodes: str) -> None:
        for node in nodes or self.nodes:
            machine = self.machines[node]
            self.peers[node] = start_peers(node, self.members)
            engine = RaftEngine(
                node, self.membership, self.directory / node, self.peers[node], compact_bytes=self.compact_bytes
            )
            engine.on_apply(machine.apply, machine)
            engine.start()
            self.engines[node] = engine

    def stop(self, *nodes: str) -> None:
        for node in nodes or tuple(self.engines):
            self.engines.pop(node).close()
            self.peers.pop(node).close()

    def lose_quorum(self) -> None:
        """Only node1 is left."""
        self.stop("node2", "node3")

    def regain_quorum(self) -> None:
        self.start("node2", "node3")

    def end(self) -> None:
        self.stop()

    def leader(self) -> str:
        """Who leads, once all that run agree on it."""
        until(lambda: len({engine.leader() for engine in self.engines.values()}) == 1 and self._any().leader() in self.engines)
        leader = self._any().leader()
        assert leader is not None
        return leader

    def _any(self) -> RaftEngine:
        return next(iter(self.engines.values()))
