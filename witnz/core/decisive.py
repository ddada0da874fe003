"""What of a journal still says something: all its records but verifications and the seals that later ones have overtaken.

Where tables change all the time nearly every record is a seal, one every few seconds for years; and nearly all that is asked of
a journal as a whole is what was decided, and how far each log was sealed when that was.  That is in these records, which are
few enough to be held in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

Log = tuple[str, int]


class Said(Protocol):
    """What is asked of a record here.  Of most seals nothing else is ever asked, so that they need not be parsed in full."""

    @property
    def type(self) -> str: ...

    @property
    def seq(self) -> int | None: ...

    @property
    def body(self) -> Mapping[str, Any]: ...


AnyRecord = TypeVar("AnyRecord", bound=Said)


def decisive(records: Iterable[AnyRecord]) -> Iterator[AnyRecord]:
    """Of these consecutive records, in their order: all that are neither a ``seal`` nor a ``verify``, and before each of them,
    and at the end, the newest seal of every log that was sealed since the one before.

    So the newest seal of a log before any record that is given is the newest that it had there.
    """
    newest: dict[Log, AnyRecord] = {}
    for record in records:
        if record.type == "seal":
            newest.update({(head["table"], head["generation"]): record for head in record.body["tables"]})
        elif record.type != "verify":
            yield from _in_order(newest)
            newest.clear()
            yield record
    yield from _in_order(newest)


def _in_order(seals: dict[Log, AnyRecord]) -> list[AnyRecord]:
    """Each seal once."""
    return [by_seq for _, by_seq in sorted({record.seq or 0: record for record in seals.values()}.items())]
