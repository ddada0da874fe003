"""What verification needs of the running capture, and how patient it is with it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the stream is waited for: a busy one that lags is given time, one that stands still is not."""

    standstill_s: float = 30.0  # without any progress
    total_s: float = 600.0  # whatever it does: what waits keeps the horizon, and a lagging stream comes nearer between two runs


PATIENCE = Patience()


class Stream(Protocol):
    """One replication stream and what it recorded."""

    def hold(self) -> AbstractContextManager[None]:
        """While held, values before transactions that a snapshot taken now might not see are kept."""

    def await_mark(self, nonce: bytes, patience: Patience) -> None:
        """Emit the marker and wait until it is recorded durably.

        Raises Inconclusive, with how far the stream was, when it stands still, takes too long, or has ended.
        """
