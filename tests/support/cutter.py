"""TCP between members that can be cut, each direction of each pair by itself, and three nodes whose channels lead through it.

    cut        nothing passes and nobody is told: connections stay half open, new ones are accepted and then nothing comes
    delay      each piece takes this long
    trickle    so many bytes a second
    hang_up    every connection of a pair ends at once; new ones may be made

Sockets, TLS and engine are the real ones.  What was on its way when a link was cut arrives when it is healed, as TCP has it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.cluster import IDS, Tables, Trio, found_cluster, write_configs
from tests.support.links import Links
from tests.support.node import WATCH_S, wait
from tests.support.postgres import Database
from tests.support.tls_peers import free_port
from witnz.cluster.peers import Member
from witnz.cluster.transport import TlsPeers
from witnz.core.keys import parse_private_key
from witnz.node.fellows import connect
from witnz.node.node import Node, now_us
from witnz.store.datadir import load_key_file

PIECE_BYTES = 64 << 10
Address = tuple[str, int]


class Cutter(Links):
    """A way through for each pair of members; :meth:`through` makes one, and says where to dial."""

    def __init__(self) -> None:
        super().__init__()
        self._closing = False
        self._rates: dict[tuple[str, str], float] = {}
        self._listeners: list[socket.socket] = []
        self._ends: dict[frozenset[str], list[socket.socket]] = {}

    def through(self, one: str, other: str, target: Address) -> Address:
        """Where ``one`` dials so that it reaches ``other``, which listens at ``target``."""
        listener = socket.create_server(("127.0.0.1", 0))
        self._listeners.append(listener)
        threading.Thread(target=self._accept, args=(listener, one, other, target), daemon=True, name="cutter").start()
        return "127.0.0.1", listener.getsockname()[1]

    def trickle(self, one: str, other: str, bytes_s: float) -> None:
        """What goes from ``one`` to ``other`` comes at this rate."""
        with self.changed:
            self._rates[one, other] = bytes_s

    def hang_up(self, one: str, other: str) -> None:
        """End every connection between the two, in both directions."""
        with self.changed:
            ends = self._ends.pop(frozenset((one, other)), [])
        _end(ends)

    def heal(self) -> None:
        with self.changed:
            self._rates.clear()
            super().heal()

    def close(self) -> None:
        with self.changed:
            self._closing = True
            self.changed.notify_all()
            ends = [end for pair in self._ends.values() for end in pair]
        _end([*self._listeners, *ends])

    def _accept(self, listener: socket.socket, one: str, other: str, target: Address) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                try:
                    far = socket.create_connection(target, 5)
                except OSError:
                    near.close()  # nobody listens there now
                    continue
                far.settimeout(None)
                with self.changed:
                    self._ends.setdefault(frozenset((one, other)), []).extend((near, far))
                for source, sink, sender, receiver in ((near, far, one, other), (far, near, other, one)):
                    pump = (source, sink, sender, receiver)
                    threading.Thread(target=self._pump, args=pump, daemon=True, name="cutter").start()

    def _pump(self, source: socket.socket, sink: socket.socket, sender: str, receiver: str) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = source.recv(PIECE_BYTES)
                with self.changed:
                    self.changed.wait_for(lambda: self.up(sender, receiver) or self._closing)
                    rate = self._rates.get((sender, receiver))
                time.sleep(self.delay_s(sender, receiver) + (len(data) / rate if rate else 0.0))
                if not data:
                    break
                sink.sendall(data)
        _end([source, sink])


def _end(ends: Iterable[socket.socket]) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


class RoutedPeers(TlsPeers):
    """The members' channel, whose ways to the others lead through a cutter."""

    def __init__(self, routes: Mapping[str, str], *arguments: Any) -> None:
        self._routes = routes
        super().__init__(*arguments)

    def _set_members(self, members: Iterable[Member]) -> None:
        super()._set_members(replace(member, addr=self._routes.get(member.id, member.addr)) for member in members)


@dataclass
class CutTrio(Trio):
    """Nodes in this process, with the real engine on real sockets, the cutter in between."""

    cutter: Cutter = field(default_factory=Cutter)
    jumps_s: dict[str, float] = field(default_factory=dict)
    """How far a node's clock is off."""
    _routes: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def begin(cls, directory: Path, database: Database, tables: Tables, ids: Sequence[str] = IDS, **extra: Any) -> CutTrio:
        """Found and start a cluster; every table is active on every node when this returns."""
        addresses = {node: f"127.0.0.1:{free_port()}" for node in ids}
        configs = write_configs(directory, database, tables, ids, addresses=addresses, **extra)
        found_cluster(configs, database)
        trio = cls(database, configs, directory)
        trio._routes = {node: {} for node in ids}
        for one in ids:
            for other in ids:
                if one < other:  # the smaller id dials
                    host, _, port = addresses[other].rpartition(":")
                    way = trio.cutter.through(one, other, (host, int(port)))
                    trio._routes[one][other] = f"{way[0]}:{way[1]}"
        try:
            for node in ids:
                trio.run(node)
            trio.ready()
        except BaseException:
            trio.stop()
            raise
        return trio

    def run(self, node: str) -> Node:
        config = self.configs[node]
        members = [Member(m.id, m.addr, m.identity) for entry in config.nodes for m in [entry.member()]]
        me = next(member for member in members if member.id == node)
        key = parse_private_key(load_key_file(config.data_dir / "keys" / "identity.key"))
        host, _, port = me.addr.rpartition(":")
        private = Ed25519PrivateKey.from_private_bytes(key.seed)
        channel = RoutedPeers(self._routes[node], me, members, private, config.cluster, (host, int(port)))
        clock = lambda: now_us() + round(self.jumps_s.get(node, 0.0) * 1e6)  # noqa: E731
        self.nodes[node] = Node(config, fellows=connect(config, channel), clock=clock, watch_s=WATCH_S)
        self.nodes[node].start(schedule=False)
        return self.nodes[node]

    @property
    def leader(self) -> str:
        """Who leads in the eyes of a majority."""
        return wait(lambda: self.leader_among(*self.nodes), "a leader")

    def leader_among(self, *ids: str) -> str | None:
        """Who leads a quorum, if these nodes can say so, and is one of them."""
        said = [status.leader for node in ids if (status := self.nodes[node].engine.status()).has_quorum]
        return next((node for node in ids if said.count(node) * 2 > len(self.configs)), None)

    def stop(self) -> None:
        self.cutter.heal()
        try:
            super().stop()
        finally:
            self.cutter.close()
