"""Finding seals in a journal that may hold millions: the newest of each log, and the first that covers an entry.

What is read here is what this node has checked before it stored it.  A seal is parsed only if it names a table that is asked
about, by JSON's own rules and no others.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from witnz.core.journal_view import JournalView
from witnz.store.journal import records_of

Log = tuple[str, int]
"""(table, generation)"""

_SEAL: Final = b',"type":"seal"}'
_NAMING: Final = (
    "SELECT seq, leaf FROM journal WHERE seq BETWEEN ? AND ? AND substr(leaf, -15) = ? AND instr(leaf, ?) ORDER BY seq DESC"
)


@dataclass(frozen=True, slots=True)
class Sealed:
    """That the seal with this ``seq`` covers ``size`` entries of a log."""

    seq: int
    size: int


def naming(tables: Iterable[str]) -> re.Pattern[bytes]:
    """Finds a seal that names one of these tables, before it is parsed; one that finds more does no harm."""
    return re.compile(b"|".join(re.escape(_named(table)) for table in sorted(tables)))


def _named(table: str) -> bytes:
    """What a record holds that names a table."""
    return f'"table":{json.dumps(table, ensure_ascii=False)}'.encode()


def heads_of(leaf: bytes) -> list[dict[str, Any]]:
    """The table heads of a seal."""
    heads: list[dict[str, Any]] = json.loads(leaf)["body"]["tables"]
    return heads


def newest_sealed(
    connection: sqlite3.Connection, wanted: Iterable[Log], to_seq: int, state: JournalView | None = None
) -> dict[Log, Sealed]:
    """How far these logs are sealed by the first ``to_seq`` records; a log that no seal names there is left out.

    ``state``: what the journal says by now, where somebody has it.  Of a log that was sealed long ago it knows without a search
    through all that came since.
    """
    missing, found = set(wanted), dict[Log, Sealed]()
    if state is not None and state.size >= to_seq:
        newest = {log: state.sealed_by(*log) for log in missing}
        found |= {log: Sealed(*sealed) for log, sealed in newest.items() if sealed is not None and sealed[0] <= to_seq}
        missing = {log for log, sealed in newest.items() if sealed is not None and sealed[0] > to_seq}
    tables = naming({table for table, _ in missing})
    for seq, leaf in records_of(connection, "seal", to_seq=to_seq, newest_first=True) if missing else ():
        if tables.search(leaf) is None:
            continue
        here = {(head["table"], head["generation"]): Sealed(seq, head["size"]) for head in heads_of(leaf)}
        found |= {log: here[log] for log in missing & here.keys()}
        if here.keys() & missing:
            missing -= here.keys()
            tables = naming({table for table, _ in missing})
        if not missing:
            break
    return found


def first_covering(
    connection: sqlite3.Connection, log: Log, entry: int, to_seq: int, state: JournalView | None = None
) -> Sealed | None:
    """The first seal of a log, among the first ``to_seq`` records, that covers an entry; None if none does.

    Sizes of one log only grow from seal to seal, so this is a search by halves.  ``state``: as for :func:`newest_sealed`.
    """
    low, found = 0, newest_sealed(connection, [log], to_seq, state).get(log)
    if found is None or found.size < entry:
        return None
    while (before := _newest_at(connection, log, found.seq - 1, low)) is not None and before.size >= entry:
        middle = (low + found.seq) // 2
        half = _newest_at(connection, log, middle, low)
        if half is None or half.size < entry:
            low, found = middle, before
        else:
            found = half
    return found


def _newest_at(connection: sqlite3.Connection, log: Log, seq: int, above: int) -> Sealed | None:
    """The newest seal of a log with ``above`` < its seq <= ``seq``.

    SQLite looks for the name: where a log is sealed seldom, most of a long journal is passed over.
    """
    for at, leaf in connection.execute(_NAMING, (above + 1, seq, _SEAL, _named(log[0]))):
        for head in heads_of(leaf):
            if (head["table"], head["generation"]) == log:
                return Sealed(at, head["size"])
    return None
