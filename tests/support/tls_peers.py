"""Real members' channels on the loopback interface, each with an identity key of its own."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from witnz.cluster.peers import Member
from witnz.cluster.transport import TlsPeers

CLUSTER = "test.example/app"
TIMEOUT_S = 30.0


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on now, below those that the kernel gives to outgoing connections."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def identity(seed: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(seed.to_bytes(32, "big"))


def make_members(nodes: Iterable[str], host: str = "127.0.0.1") -> dict[str, tuple[Member, Ed25519PrivateKey]]:
    """Members with keys and free ports."""
    made = {}
    for place, node in enumerate(nodes):
        key = identity(1000 + place)
        shown = f"[{host}]" if ":" in host else host
        made[node] = Member(node, f"{shown}:{free_port(host)}", key.public_key().public_bytes_raw()), key
    return made


def start_peers(node: str, made: Mapping[str, tuple[Member, Ed25519PrivateKey]], **changes: Any) -> TlsPeers:
    """The channel of one of them, running."""
    me, key = made[node]
    host, _, port = me.addr.rpartition(":")
    peers = TlsPeers(me, [member for member, _ in made.values()], key, CLUSTER, (host.strip("[]"), int(port)), **changes)
    peers.start()
    return peers


def until(condition: Callable[[], Any], timeout_s: float = TIMEOUT_S) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def connected(one: TlsPeers, other: str) -> bool:
    return other in one._links
