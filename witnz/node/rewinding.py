"""Taking a log's state back to what a restored database holds, and naming the rows that this loses or brings back.

The log says it all, so nothing here reads the database.  What the stream left at the end of the log is compared with what it
had left at the place where the restored database left that course of history; from there on a scan must find the latter, and
whatever it finds else is no work of the restore.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from witnz.core.entry import parse_entry
from witnz.core.journal import JournalState
from witnz.core.journal_facts import TableRecord
from witnz.core.journal_view import JournalView
from witnz.core.keyplan import key_text, state_key_of_entry
from witnz.core.record import Record
from witnz.core.rowline import escape
from witnz.core.tiles import TILE
from witnz.store import entries, granted, images, importing, live, nonces
from witnz.store.logs import LogRow, get_log
from witnz.verify.replay import Intents, Replay, decisions_of, held_size, held_until

MAX_NAMED = 200  # rows of one kind and table that are named; all are counted


@dataclass(frozen=True, slots=True)
class Extent:
    """What of a log a restored database holds: entries 1 to ``held``, and those behind ``final`` up to ``kept``.

    ``final`` is where the generation ends (formats.md 4, ``epoch``); entries between ``held`` and ``final`` are history that
    the database has lost, those beyond ``kept`` were never sealed and go to the evidence.
    """

    held: int
    final: int
    kept: int


@dataclass(frozen=True, slots=True)
class Rows:
    """So many rows, and the names (keys as findings have them, or row hashes) of the first MAX_NAMED, in order."""

    count: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        more = f" and {self.count - len(self.names)} more" if self.count > len(self.names) else ""
        return f"{self.count} ({', '.join(self.names)}{more})"


NONE = Rows(0, ())


@dataclass(frozen=True, slots=True)
class Loss:
    """How what a table holds after a restore differs from what was recorded before it."""

    table: str
    lost: Rows
    regained: Rows
    earlier: Rows

    def __bool__(self) -> bool:
        return bool(self.lost.count or self.regained.count or self.earlier.count)

    def __str__(self) -> str:
        kinds = (("lost", self.lost), ("regained", self.regained), ("in an earlier version", self.earlier))
        return f"{self.table}: " + ", ".join(f"{name} {rows}" for name, rows in kinds if rows.count)


def extent_of(conn: sqlite3.Connection, row: LogRow, state: JournalState, switch_lsn: int | None) -> Extent:
    """What a database holds that left at ``switch_lsn`` (None: that is no place in this log, :func:`place_in`)."""
    sealed, ended, before = (
        state.last_sealed(row.table, row.generation),
        state.ended_at(row.table, row.generation),
        state.switched_at(row.table, row.generation),
    )
    if ended is not None:  # restored once more before anybody accepted the restore of before
        if switch_lsn is None or before is None:
            kept = row.size if before is None else ended.size  # what came after a switch that is no place in this log any more
            return Extent(kept, ended.size, kept)
        if switch_lsn >= before:
            return Extent(held_size(conn, row, state), ended.size, _kept(conn, row, ended.size, switch_lsn))
        return Extent(held_until(conn, row, switch_lsn, ended.size), ended.size, ended.size)
    if switch_lsn is None:
        size = sealed.size if sealed is not None else row.size
        return Extent(size, size, size)
    held = held_until(conn, row, switch_lsn, row.size)
    final = max(held, sealed.size if sealed is not None else 0)
    return Extent(held, final, final)


def place_in(state: JournalView, row: LogRow, switch_lsn: int) -> int | None:
    """Where in a log a restored database left (an LSN), None where the log does not reach back so far.

    That is so for another system, whose positions are other ones (``switch_lsn`` 0), and before the log's baseline.
    """
    record = state.current_table(row.table)
    began = record.lsn if record is not None and record.generation == row.generation else row.lsn
    return switch_lsn if switch_lsn and switch_lsn >= began else None


def _kept(conn: sqlite3.Connection, row: LogRow, final: int, switch_lsn: int) -> int:
    kept = final
    for line in entries.entries(conn, row.id, final + 1):
        entry = parse_entry(line)
        if entry.lsn > switch_lsn:
            break
        kept = entry.seq
    return kept


def beyond(conn: sqlite3.Connection, row: LogRow, extent: Extent) -> Iterator[bytes]:
    """The entries that :func:`rewind` takes out of the log."""
    return entries.entries(conn, row.id, extent.kept + 1)


def rewind(
    conn: sqlite3.Connection, row: LogRow, extent: Extent, record: TableRecord, records: Sequence[Record], state: JournalState
) -> Loss:
    """Take the log back to its ``extent`` and derive its state anew; what that changed.  ``records``: the whole journal."""
    gone = chain(entries.entries(conn, row.id, extent.held + 1, extent.final), entries.entries(conn, row.id, extent.kept + 1))
    touched = _touched(gone, keyed=row.keyed)
    if touched is not None and not touched and extent.kept == row.size:
        return loss_of(row.table, {}, {})
    before = _applied(conn, row, touched)
    if extent.kept < row.size:
        cut(conn, row, extent.kept)
    derive_state(conn, get_log(conn, row.id), extent, record, records, state)
    return loss_of(row.table, before, _applied(conn, row, touched))


def cut(conn: sqlite3.Connection, row: LogRow, size: int) -> None:
    """Take the entries beyond ``size`` out of a log."""
    first = size // TILE * TILE + 1
    left = list(entries.entries(conn, row.id, first, size)) if first <= size else []
    kept = [(seq, sealed) for seq in range(first, size + 1) if (sealed := images.get(conn, row.id, seq)) is not None]
    head = importing.truncate_log(conn, row.id, size // TILE)
    importing.append_lines(conn, head, left)
    images.put_many(conn, row.id, kept)


def derive_state(
    conn: sqlite3.Connection, row: LogRow, extent: Extent, record: TableRecord, records: Sequence[Record], state: JournalState
) -> None:
    """The accepted and applied state that follows from what the database holds of a log."""
    importing.clear_state(conn, row.id)
    counted = nonces.all_counted(conn)
    made = decisions_of(records)[row.table, row.generation]
    replay = Replay(conn, row.id, row.table, record.rules, Intents(state, counted), made, keyed=row.keyed)
    replay.run(
        chain(entries.entries(conn, row.id, 1, extent.held), entries.entries(conn, row.id, max(extent.held, extent.final) + 1))
    )


def _touched(lines: Iterable[bytes], *, keyed: bool) -> set[bytes] | None:
    """The state keys that these entries are about; None for all of them."""
    keys: set[bytes] = set()
    for line in lines:
        entry = parse_entry(line)
        if entry.op == "truncate" or (not keyed and entry.op != "schema"):
            return None
        if entry.op != "schema":
            keys.add(state_key_of_entry(line, entry.seq, entry.row, keyed=keyed))
    return keys


def _applied(conn: sqlite3.Connection, row: LogRow, keys: set[bytes] | None) -> dict[str, Counter[bytes | None]]:
    """What the stream left, by the rows' names; rows without a key under their hash."""
    seqs = dict(live.applied_items(conn, row.id)) if keys is None else live.applied_many(conn, row.id, keys)
    hashes = entries.row_hashes_at(conn, row.id, [seq for seq in seqs.values() if seq > 0])
    found: dict[str, Counter[bytes | None]] = {}
    for key, seq in seqs.items():
        row_hash = hashes[seq] if seq > 0 else granted.get(conn, row.id, seq)[1]
        name = row_name(key) if row.keyed else (row_hash or key[:32]).hex()
        found.setdefault(name, Counter())[row_hash] += 1
    return found


def loss_of(table: str, before: dict[str, Counter[bytes | None]], after: dict[str, Counter[bytes | None]]) -> Loss:
    """The difference between two states of a table, each the hashes of its rows by the rows' names."""
    lost, regained, earlier = [], [], []
    for name in before.keys() | after.keys():
        then, now = before.get(name, Counter()), after.get(name, Counter())
        fewer, more = then.total() - now.total(), now.total() - then.total()
        lost += [name] * fewer
        regained += [name] * more
        if fewer == 0 and then != now:
            earlier.append(name)
    return Loss(table, rows_of(lost), rows_of(regained), rows_of(earlier))


def rows_of(names: Iterable[str]) -> Rows:
    """Rows by their names, numbers in the order of numbers."""
    ordered = sorted(names, key=lambda name: (len(name), name))
    return Rows(len(ordered), tuple(ordered[:MAX_NAMED]))


def row_name(key: bytes) -> str:
    """What findings call the row under a state key."""
    return key_text(key if key.startswith(b"\\H") else escape(key)) or ""
