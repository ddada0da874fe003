"""Which rows a finding is about, what was found there, and what was recorded: all from the store.

    about one entry     the entry's key; found is what the entry's transaction left under it
    a flood             every further entry of the transaction (the finding without a key)
    a truncate          every row accepted before it; found is no row, or what the same transaction put there again
    seen by a scan      the key; found is what the finding says

What was recorded is the accepted row (formats.md 3): its hash from the log, its line from the encrypted image of that entry.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from witnz.core.entry import Entry, parse_entry
from witnz.core.finding import CLASSES, Finding
from witnz.core.keyplan import key_text, state_key_of_entry
from witnz.core.rowline import escape, unescape
from witnz.errors import UsageError
from witnz.node.images import ImageBox
from witnz.node.table_state import TableState
from witnz.store import entries, images, live
from witnz.store.versions import row_hashes

MAX_ROWS: Final = 100_000
MAX_LOOK_AHEAD: Final = 10_000  # entries of one transaction that are searched for what it did to one row afterwards
REPAIRABLE: Final = frozenset(
    {
        *("row.modified", "row.deleted", "row.inserted", "change.unapproved"),
        *("violation.update", "violation.delete", "violation.reinsert", "violation.truncate"),
    }
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One row a finding is about: its state key, how people call it, and the hash of what was found (None: no row).

    ``unresolved``: there was a row, but without a hash (an unchanged TOAST value), so any row counts as found.
    """

    key: bytes
    name: str
    found: bytes | None
    unresolved: bool = False


@dataclass(frozen=True, slots=True)
class Recorded:
    """The accepted row of a key: the seq of its entry (negative: an operator granted it) and its hash (None: unresolved)."""

    seq: int
    row: bytes | None


class FindingRows:
    """The rows of findings about one table, in one read of the store; of one finding at most ``max_rows``."""

    def __init__(self, conn: sqlite3.Connection, state: TableState, box: ImageBox, max_rows: int = MAX_ROWS) -> None:
        self._conn, self._state, self._box, self._log = conn, state, box, state.head.id
        self._max_rows = max_rows

    def wanted(self, finding: Finding) -> list[Wanted]:
        """Raises UsageError where there are too many, and for one that no repair can settle."""
        if finding.xid is None:
            return [_scanned(finding)]
        rows = list(islice(self._streamed(finding), self._max_rows + 1))
        if len(rows) > self._max_rows:
            raise UsageError(
                f"finding {finding.id} is about more rows than one repair takes ({self._max_rows})",
                hint="restore the table from a backup in a transaction with a signed intent, then verify it",
            )
        return rows

    def recorded(self, keys: list[bytes]) -> dict[bytes, Recorded]:
        """The accepted rows of these keys; a key without one is absent."""
        accepted = live.accepted_many(self._conn, self._log, keys)
        hashes = row_hashes(self._conn, self._log, accepted)
        return {key: Recorded(seq, hashes[key]) for key, seq in accepted.items()}

    def line(self, seq: int, row: bytes | None) -> bytes | None:
        """The retained row line of an entry; None if none is kept.  Raises StoreCorrupt if it is not what was recorded."""
        if seq < 0 or row is None:
            return None
        sealed = images.get(self._conn, self._log, seq)
        head = self._state.head
        return None if sealed is None else self._box.open(head.origin, head.secret, row, sealed)

    def found_line(self, key: bytes) -> bytes | None:
        """The retained line of what the stream left under a key."""
        seq = live.applied_many(self._conn, self._log, [key]).get(key)
        return None if seq is None or seq < 0 else self.line(seq, entries.row_hash_at(self._conn, self._log, seq))

    def is_written_over(self, finding: Finding, recorded: Recorded | None) -> bool:
        """Whether the recorded row of a finding about an old row is gone: the write that showed it was itself accepted.

        Then the accepted row may carry on what somebody changed behind the stream's back, and nothing here can tell.
        """
        if finding.cls != "row.modified" or finding.xid is None:
            return False
        return recorded is None or recorded.row is None or recorded.row.hex() != finding.recorded

    # -- rows of the stream ---------------------------------------------------------------------------------------------------

    def _streamed(self, finding: Finding) -> Iterator[Wanted]:
        first = finding.entry_seq or 0
        line = entries.entry_at(self._conn, self._log, first)
        start = parse_entry(line)
        if start.op == "truncate":
            before = (key for key, seq in live.accepted_items(self._conn, self._log) if seq < first)
            for key in before:
                yield self._left(key, start)
            return
        last: dict[bytes, Entry] = {}
        only = self._key(line, start) if finding.key is not None else None
        for line in entries.entries(self._conn, self._log, first, None if only is None else first + MAX_LOOK_AHEAD):
            entry = parse_entry(line)
            if entry.lsn != start.lsn or len(last) > self._max_rows:
                break
            if entry.op == "truncate":
                last = dict.fromkeys(last, entry)
            elif entry.op != "schema" and only in (None, key := self._key(line, entry)):
                last[key] = entry
        for key, entry in last.items():
            yield self._left(key, entry)

    def _left(self, key: bytes, entry: Entry) -> Wanted:
        """What the transaction of an entry left under a key, if that still is what is applied; else what the entry made."""
        seq = live.applied_many(self._conn, self._log, [key]).get(key)
        if seq is not None and seq > 0:
            applied = parse_entry(entries.entry_at(self._conn, self._log, seq))
            if applied.lsn == entry.lsn:
                entry = applied
        wrote = entry.op in ("insert", "update")
        return Wanted(key, _name_of(key), entry.row if wrote else None, unresolved=wrote and entry.row is None)

    def _key(self, line: bytes, entry: Entry) -> bytes:
        return state_key_of_entry(line, entry.seq, entry.row, keyed=True)


def with_restored(wanted: list[Wanted], names: Iterable[str]) -> list[Wanted]:
    """The rows, and those that a repair says it restored; of these nothing else than the recorded row may be there."""
    known = {row.name for row in wanted}
    return wanted + [Wanted(_key_of(name), name, None) for name in names if name not in known]


def _scanned(finding: Finding) -> Wanted:
    found = bytes.fromhex(finding.found) if finding.found else None
    return Wanted(_key_of(finding.key or ""), finding.key or "", found)


def _key_of(name: str) -> bytes:
    """The state key of what people call a key; the inverse of :func:`_name_of`."""
    text = name.encode()
    return text if text.startswith(b"\\H") else unescape(text)


def _name_of(key: bytes) -> str:
    return key_text(key if key.startswith(b"\\H") else escape(key)) or ""


def check_repairable(finding: Finding) -> None:
    """Raises UsageError for a finding that is not about rows."""
    if finding.cls not in REPAIRABLE or finding.table is None or finding.generation is None:
        raise UsageError(
            f"finding {finding.id} ({finding.cls}) is not about rows, so there is nothing to restore",
            hint=CLASSES[finding.cls].action,
        )
