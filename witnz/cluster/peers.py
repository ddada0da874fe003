"""The members' channel: request and response between nodes that know each other by key.

Who calls has been authenticated by its identity key before a byte of the request is read (:mod:`witnz.cluster.transport`).
That says who spoke, never that what it says is true: handlers parse strictly and believe nothing that is not signed and
checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

Handler = Callable[[str, bytes], bytes]
"""(node id of the authenticated peer, request) to response; a WitnzError that it raises is the caller's PeerRefused."""

MAX_REQUEST_BYTES = 16 << 20
MAX_RESPONSE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """A member as the journal lists it; ``identity`` is its 32-byte Ed25519 public key, ``addr`` is host:port or [v6]:port."""

    id: str
    addr: str
    identity: bytes


class Peers(Protocol):
    """What the node asks of the channel.  Thread-safe."""

    def start(self) -> None:
        """Listen and dial; returns once it listens, at once if it does.  Raises ConfigError where it cannot."""

    def close(self) -> None:
        """Drop every connection; calls that wait raise PeerUnreachable."""

    def call(self, node: str, method: str, body: bytes, timeout_s: float) -> bytes:
        """The response of one member.

        Raises PeerUnreachable where there is no connection or no answer in time (whether it acted is then unknown), PeerRefused
        where its handler refused, there is none, or it did not take the request.
        """

    def serve(self, method: str, handler: Handler, max_request_bytes: int) -> None:
        """Answer a method, from now on.

        ``handler`` runs on one of a few threads kept for that, several at once, never on a thread that the channel or the
        engine needs; longer requests are refused unread.
        """

    def members(self) -> tuple[Member, ...]:
        """All members, this node among them, by id."""

    def last_seen_s(self) -> Mapping[str, float | None]:
        """Seconds since something authentic arrived from each other member; None for never since the start."""

    def update_members(self, members: Iterable[Member]) -> None:
        """From now on these are the members; connections of others, or under another key or address, are dropped at once."""


class EngineListener(Protocol):
    """Who takes the frames that the built-in engines say to each other; called on the channel's own thread, so briefly."""

    def connected(self, node: str) -> None: ...

    def disconnected(self, node: str) -> None: ...

    def received(self, node: str, frame: bytes) -> None: ...


class EngineChannel(Protocol):
    """One-way frames between engines, in order while a connection stands; what was under way when it broke is lost."""

    def on_engine_frames(self, listener: EngineListener) -> None:
        """From now on; ``connected`` is called at once for every member that is."""

    def send_engine_frame(self, node: str, frame: bytes) -> bool:
        """Whether it was put on its way; False where there is no connection or too much is under way already."""
