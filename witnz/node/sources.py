"""Whom a node that catches up asks: one member after another, until an answer holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol, TypeVar

import structlog

from witnz.core.canonical import canonical
from witnz.errors import FormatError, Inconclusive, PeerError, ProofError

log = structlog.get_logger(__name__)

TIMEOUT_S: Final = 30.0
T = TypeVar("T")


class Channel(Protocol):
    """What is needed of :class:`witnz.cluster.peers.Peers`."""

    def call(self, node: str, method: str, body: bytes, timeout_s: float) -> bytes: ...


class NotFetched(Inconclusive):
    """No member gave what was asked for; the message says what each one answered."""

    code = "peer.not-fetched"


class WrongAnswer(NotFetched):
    """Members answered, and what they gave does not fit what was signed."""

    code = "peer.wrong-answer"


class Sources:
    """The other members.  One whose answer did not hold is not asked again by this object, and is named with the reason."""

    def __init__(self, channel: Channel, nodes: Iterable[str], timeout_s: float = TIMEOUT_S) -> None:
        self._channel, self._timeout_s = channel, timeout_s
        self.nodes = list(nodes)
        self.distrusted: dict[str, str] = {}

    def ask(self, node: str, method: str, request: Mapping[str, Any] | bytes) -> bytes:
        """The answer of one member.  Raises PeerError."""
        body = request if isinstance(request, bytes) else canonical(request)
        return self._channel.call(node, method, body, self._timeout_s)

    def first(self, what: str, take: Callable[[str], T]) -> T:
        """What ``take(node)`` makes of the first member for whom it raises nothing.

        A PeerError, or NotFetched, means that this member cannot help now; FormatError and ProofError that it gave something
        that does not fit: it is not asked again.  Raises NotFetched where nobody helped, WrongAnswer if that was one of the
        reasons.
        """
        failures = dict(self.distrusted)
        for node in [node for node in self.nodes if node not in self.distrusted]:
            try:
                return take(node)
            except (PeerError, NotFetched) as error:
                failures[node] = error.message
            except (FormatError, ProofError) as error:
                self.distrust(node, f"{what}: {error.message}")
                failures[node] = error.message
        said = "; ".join(f"{node}: {reason}" for node, reason in failures.items()) or "there is no other member"
        kind = WrongAnswer if self.distrusted else NotFetched
        raise kind(
            f"{what} could not be fetched: {said}", hint="start the other members, or look at what they say in their logs"
        )

    def each(self, take: Callable[[str], T]) -> dict[str, T]:
        """What ``take(node)`` makes of every member that answers rightly, by node."""
        taken: dict[str, T] = {}
        for node in [node for node in self.nodes if node not in self.distrusted]:
            try:
                taken[node] = take(node)
            except (PeerError, NotFetched) as error:
                log.info("member did not help", member=node, reason=error.message)
            except (FormatError, ProofError) as error:
                self.distrust(node, error.message)
        return taken

    def distrust(self, node: str, reason: str) -> None:
        """Note that a member gave something that does not fit what was signed."""
        self.distrusted[node] = reason
        log.error("member gave what does not fit", member=node, reason=reason)
