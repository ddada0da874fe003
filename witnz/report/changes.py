"""How many entries of each kind every table log gained on each day of the period, counted from the entries themselves."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from witnz.core.entry import OPS
from witnz.errors import StoreCorrupt
from witnz.report.facts import Facts, Log
from witnz.store import entries, logs

COLUMNS: Final = ("item", "table", "generation", "day", *OPS, "entries", "first_seq", "last_seq")
PRUNED: Final = "pruned"
"""Stands in place of a day where the entries were removed by order, so that only their number is known."""
SOURCE: Final = "entries of each table log between the seals at either end of the period, by the day of their commit (UTC)"


def ranges(facts: Facts) -> Iterator[tuple[Log, int, int]]:
    """(log, first seq, last seq) of the entries that were sealed in the period."""
    for log, size in sorted(facts.sizes.items()):
        before = facts.sizes_before.get(log, 0)
        if size > before:
            yield log, before + 1, size


def count_changes(
    connection: sqlite3.Connection, facts: Facts, add: Callable[[Sequence[object]], None]
) -> Counter[tuple[str, str]]:
    """Write a row a log and day, one for the whole period of a log that was pruned since; entries by (day, op)."""
    total: Counter[tuple[str, str]] = Counter()
    for (table, generation), first, last in ranges(facts):
        row = logs.find_log(connection, table, generation)
        if row is None:
            raise StoreCorrupt(f"the journal seals {table}, generation {generation}, and the store has no such log")
        if row.status == "pruned":
            counted = [0] * len(OPS)
            add([f"{table}/{generation}/{PRUNED}", table, generation, PRUNED, *counted, last - first + 1, first, last])
            continue
        days: dict[str, Counter[str]] = {}
        spans: dict[str, tuple[int, int]] = {}
        for seq, line in enumerate(entries.entries(connection, row.id, first, last), first):
            cells = line.split(b"\t", 8)
            day, op = cells[7][:10].decode("ascii", "replace"), cells[2].decode("ascii", "replace")
            days.setdefault(day, Counter())[op] += 1
            spans[day] = (spans.get(day, (seq, seq))[0], seq)
        for day, ops in sorted(days.items()):
            counted = [ops[op] for op in OPS]
            add([f"{table}/{generation}/{day}", table, generation, day, *counted, sum(counted), *spans[day]])
            for op, number in ops.items():
                total[day, op] += number
    return total
