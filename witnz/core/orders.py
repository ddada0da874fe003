"""Orders of operators to erase rows and to prune generations, as the journal holds them (formats.md 2 and 4).

    erase     names rows of one generation of a table by their keys
    prune     names one generation, that has ended or is to end

Where the journal asks for more approvers than one (a ``config`` record whose ``changes`` set ``approvers``), an order takes
effect with the record that completes them: as many records of the same type, table, generation and keys, each signed by another
operator.  Lowering that number takes as many signatures as the number that it lowers.

An erasure lets one row go: it covers the first ``delete`` entry of each of its keys behind ``base``, the size that was sealed
when the order took effect, if the row was there at that size.  What is done to the key after that is judged like any other
change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from witnz.core.record import Record

Log = tuple[str, int]
"""(table, generation)"""

_Order = tuple[str, str, int, frozenset[str]]

APPROVERS: Final = "approvers"
"""The name in a ``config`` record's ``changes``."""
MAX_APPROVERS: Final = 8


@dataclass(frozen=True, slots=True)
class Erasure:
    """An erasure in effect.  ``keys`` as entries show them, ``seq``: of the record that completed it, ``at``: its time, µs."""

    table: str
    generation: int
    keys: tuple[str, ...]
    base: int
    seq: int
    at: int
    operators: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Pruning:
    """A pruning in effect."""

    table: str
    generation: int
    seq: int
    at: int
    operators: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """An order that too few operators have signed so far."""

    type: str
    table: str
    generation: int
    keys: tuple[str, ...]
    operators: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "type": self.type,
            "generation": self.generation,
            "keys": list(self.keys),
            "operators": list(self.operators),
        }


@dataclass(slots=True)
class Orders:
    """The orders of a journal up to some record; takes ``erase``, ``prune`` and ``config`` records in their order."""

    approvers: int = 1
    _erasures: dict[Log, list[Erasure]] = field(default_factory=dict)
    _prunings: dict[Log, Pruning] = field(default_factory=dict)
    _signed: dict[_Order, list[str]] = field(default_factory=dict)

    def take(self, record: Record, seq: int, base: int = 0) -> Erasure | Pruning | None:
        """The order that this record completes, if it does.  ``base``: the sealed size of the log that an ``erase`` names."""
        body = record.body
        if record.type == "config":
            self._configure(record)
            return None
        keys = tuple(dict.fromkeys(body["keys"])) if record.type == "erase" else ()
        operators = self._approved((record.type, body["table"], body["generation"], frozenset(keys)), body["auth"]["operator"])
        if operators is None:
            return None
        log = body["table"], body["generation"]
        if record.type == "prune":
            pruning = Pruning(*log, seq, record.at, operators, body["reason"])
            return self._prunings.setdefault(log, pruning)
        erasure = Erasure(*log, keys, base, seq, record.at, operators, body["reason"])
        self._erasures.setdefault(log, []).append(erasure)
        return erasure

    def erasures(self, table: str, generation: int) -> Sequence[Erasure]:
        """The erasures in effect that name rows of this generation, oldest first."""
        return tuple(self._erasures.get((table, generation), ()))

    def erasure(self, seq: int) -> Erasure | None:
        """The erasure that the record with this seq completed; None where it still waits for another approver."""
        return next((one for some in self._erasures.values() for one in some if one.seq == seq), None)

    def all_erasures(self) -> list[Erasure]:
        """Every erasure in effect, oldest first."""
        return sorted((one for some in self._erasures.values() for one in some), key=lambda one: one.seq)

    def pruning(self, table: str, generation: int) -> Pruning | None:
        """The order to prune this generation, None if there is none in effect."""
        return self._prunings.get((table, generation))

    def prunings(self) -> list[Pruning]:
        """Every pruning in effect, oldest first."""
        return sorted(self._prunings.values(), key=lambda one: one.seq)

    def all_waiting(self) -> list[Waiting]:
        """The orders that still wait for other approvers."""
        found = [(order, signed) for order, signed in self._signed.items() if order[0] in ("erase", "prune")]
        return [Waiting(*order[:3], tuple(sorted(order[3])), tuple(signed)) for order, signed in found]

    def _approved(self, order: _Order, operator: str) -> tuple[str, ...] | None:
        """Everybody who signed an order, once they are enough; it has to be signed anew after that."""
        signed = self._signed.setdefault(order, [])
        if operator not in signed:
            signed.append(operator)
        if len(signed) < self.approvers:
            return None
        return tuple(self._signed.pop(order))

    def _configure(self, record: Record) -> None:
        change = record.body["changes"].get(APPROVERS)
        wished = parse_approvers(None if change is None else change["to"])
        if wished is None:
            return
        lowers = wished < self.approvers
        if not lowers or self._approved((APPROVERS, str(wished), 0, frozenset()), record.body["auth"]["operator"]) is not None:
            self.approvers = wished


def parse_approvers(text: str | None) -> int | None:
    """The number of approvers that a ``config`` record sets; None for a text that sets none."""
    if text is None or not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_APPROVERS:
        return None
    return int(text)
