"""What the journal says of a period, read once from the store; nothing is judged here.

The node that wrote the store checked each record when it was applied, so records are read as JSON and not parsed again: a
period of 30 days with a seal every five seconds has half a million of them.  Seals are handed out one by one and never kept.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from witnz.core.timestamp import parse_time
from witnz.errors import StoreCorrupt
from witnz.report.period import Bounds
from witnz.store import journal
from witnz.store.seals import newest_sealed

_KEPT_BEFORE: Final = (
    "genesis", "member", "key", "config", "table", "unprotect", "gap", "epoch", "finding", "ack", "accept", "repair", "report",
)  # fmt: skip

Log = tuple[str, int]
"""(table, generation)."""


@dataclass(frozen=True, slots=True)
class Rec:
    """One record of the journal; ``at``: µs since the Unix epoch, the proposing node's clock."""

    seq: int
    at: int
    at_text: str
    node: str
    type: str
    body: Mapping[str, Any]


@dataclass(slots=True)
class Facts:
    """``before``: the records up to the opening checkpoint that still mean something in the period; ``records``: all of the
    period but the seals; ``by_type``: how many there are of each type, seals included; ``sizes_before`` and ``sizes``: the
    sealed size of each table log at either end; ``sealed_before`` and ``sealed_by``: the newest seal of each there, by its seq;
    ``later_reports``: those journalled after the period, which may be about an earlier one.
    """

    genesis: Rec
    before: list[Rec]
    records: list[Rec] = field(default_factory=list)
    by_type: Counter[str] = field(default_factory=Counter)
    sizes_before: dict[Log, int] = field(default_factory=dict)
    sizes: dict[Log, int] = field(default_factory=dict)
    sealed_before: dict[Log, int] = field(default_factory=dict)
    sealed_by: dict[Log, int] = field(default_factory=dict)
    later_reports: list[Rec] = field(default_factory=list)

    def of(self, *types: str) -> list[Rec]:
        """The records of the period of these types."""
        return [record for record in self.records if record.type in types]

    def all_of(self, *types: str) -> list[Rec]:
        """The same, with those before the period."""
        return [record for record in (*self.before, *self.records) if record.type in types]


def genesis_of(connection: sqlite3.Connection) -> Rec:
    """The journal's first record."""
    return _record(1, journal.record_at(connection, 1))


def read_facts(connection: sqlite3.Connection, bounds: Bounds, on_seal: Callable[[Rec, int], None]) -> Facts:
    """Everything up to the closing checkpoint.  ``on_seal`` is given each seal of the period and the entries that it added."""
    first, last = bounds.first_seq, bounds.closing.size
    facts = Facts(genesis_of(connection), [])
    facts.before += [_record(*found) for found in journal.records_of(connection, *_KEPT_BEFORE, to_seq=first - 1)]
    _find_sizes(connection, first - 1, facts)
    facts.sizes, facts.sealed_by = dict(facts.sizes_before), dict(facts.sealed_before)
    for seq, leaf in enumerate(journal.records(connection, first, last), first):
        record = _record(seq, leaf)
        facts.by_type[record.type] += 1
        if record.type == "seal":
            on_seal(record, _note_sizes(facts, record))
        else:
            facts.records.append(record)
    facts.later_reports += [_record(*found) for found in journal.records_of(connection, "report", from_seq=last + 1)]
    return facts


def _note_sizes(facts: Facts, seal: Rec) -> int:
    """Take over the sizes of a seal; how many entries it added."""
    added = 0
    for head in seal.body["tables"]:
        log = (head["table"], head["generation"])
        added += head["size"] - facts.sizes.get(log, 0)
        facts.sizes[log] = head["size"]
        facts.sealed_by[log] = seal.seq
    return added


def _find_sizes(connection: sqlite3.Connection, size: int, facts: Facts) -> None:
    """The sealed sizes at a journal size: backwards, until every log that there was has been met."""
    known = {(record.body["table"], record.body["generation"]) for record in facts.before if record.type == "table"}
    for log, sealed in newest_sealed(connection, known, size).items():
        facts.sizes_before[log], facts.sealed_before[log] = sealed.size, sealed.seq


def _record(seq: int, leaf: bytes) -> Rec:
    try:
        value = json.loads(leaf)
        return Rec(seq, parse_time(value["at"]), value["at"], value["node"], value["type"], value["body"])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreCorrupt(f"journal record {seq} cannot be read: {error}", hint="run `witnz verify --store`") from None
