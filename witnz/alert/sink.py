"""A place that messages are sent to, and what came of sending one.

Not being able to deliver is nothing exceptional here, so it is a value: :class:`Outcome`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from witnz.alert.message import Message


@dataclass(frozen=True, slots=True)
class Outcome:
    """``error`` is empty where the message arrived, and otherwise one line without any secret.

    ``refused``: it is this message that the receiver will not have (others may pass); otherwise nothing gets through now.
    ``retry_after_s``: how long the receiver asked to be left alone.
    """

    error: str = ""
    refused: bool = False
    retry_after_s: float = 0.0

    @property
    def delivered(self) -> bool:
        return not self.error


DELIVERED = Outcome()


class Sink(Protocol):
    """One place.  ``name`` is what tables call it under ``alert``; ``max_per_minute`` bounds the messages sent to it.

    ``summarises_closing``: whether many closings may be told in one message, or each has to arrive (it closes an incident).
    """

    @property
    def name(self) -> str: ...

    @property
    def max_per_minute(self) -> int: ...

    @property
    def summarises_closing(self) -> bool: ...

    def deliver(self, message: Message, now_s: float) -> Outcome:
        """Try once, within the sink's own timeout.  ``now_s``: Unix time."""
        ...
