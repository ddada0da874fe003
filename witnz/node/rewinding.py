"""Taking a log's state back to what a restored database holds, and naming the rows that this loses or brings back.

The log says it all, so nothing here reads the database.  What the stream left at the end of the log is compared with what it
had left at the place where the restored database left that course of history; from there on a scan must find the latter, and
whatever it finds else is no work of the restore.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from witnz.core.entry import parse_entry
from witnz.core.journal import JournalState
from witnz.core.journal_facts import TableRecord
from witnz.core.journal_view import JournalView
from witnz.core.keyplan import state_key_of_entry
from witnz.core.record import Record
from witnz.core.tiles import TILE
from witnz.node.losses import Loss, Losses, row_name
from witnz.store import entries, images, importing, live, nonces
from witnz.store.logs import LogRow, get_log
from witnz.store.tally import BATCH, Tally, tally
from witnz.store.versions import row_hashes
from witnz.verify.replay import Intents, Replay, batches, decisions_of, held_size, held_until


@dataclass(frozen=True, slots=True)
class Extent:
    """What of a log a restored database holds: entries 1 to ``held``, and those behind ``final`` up to ``kept``.

    ``final`` is where the generation ends (formats.md 4, ``epoch``); entries between ``held`` and ``final`` are history that
    the database has lost, those beyond ``kept`` were never sealed and go to the evidence.
    """

    held: int
    final: int
    kept: int


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
    conn: sqlite3.Connection,
    row: LogRow,
    extent: Extent,
    record: TableRecord,
    records: Sequence[Record],
    state: JournalState,
    folder: Path,
) -> Loss:
    """Take the log back to its ``extent`` and derive its state anew; what that changed.  ``records``: the whole journal;
    ``folder``: where there is room for the keys of what changed."""
    gone = chain(entries.entries(conn, row.id, extent.held + 1, extent.final), entries.entries(conn, row.id, extent.kept + 1))
    with tally(folder) as rows:
        every = _note_touched(rows, gone, keyed=row.keyed)
        if not every and not rows and extent.kept == row.size:
            return Loss(row.table)
        _note_applied(conn, row, rows, every=every)
        if extent.kept < row.size:
            cut(conn, row, extent.kept)
        derive_state(conn, get_log(conn, row.id), extent, record, records, state)
        return _changed(conn, row, rows, every=every)


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


def _note_touched(rows: Tally, lines: Iterable[bytes], *, keyed: bool) -> bool:
    """Note the state keys that these entries are about; True where they may be about every row, whatever is noted then."""
    for some in batches(lines, BATCH):
        keys = []
        for line in some:
            entry = parse_entry(line)
            if entry.op == "truncate" or (not keyed and entry.op != "schema"):
                return True
            if entry.op != "schema":
                keys.append(state_key_of_entry(line, entry.seq, entry.row, keyed=keyed))
        rows.add((key, None, 0, 0) for key in keys)
    return False


def _note_applied(conn: sqlite3.Connection, row: LogRow, rows: Tally, *, every: bool) -> None:
    """Note what the stream left before anything is taken back: row hashes by state key, rows without a key under their hash."""
    if not row.keyed:
        for some in batches(live.applied_items(conn, row.id), BATCH):
            rows.add((key[:32], None, 1, 0) for key, _ in some)
        return
    touched = (live.applied_many(conn, row.id, [key for key, _ in some]) for some in rows.batches())
    for seqs in map(dict, batches(live.applied_items(conn, row.id), BATCH)) if every else touched:
        rows.add((key, found, 1, 0) for key, found in row_hashes(conn, row.id, seqs).items())


def _changed(conn: sqlite3.Connection, row: LogRow, rows: Tally, *, every: bool) -> Loss:
    """What the stream leaves now, against what was noted."""
    losses = Losses()
    if not row.keyed:
        for some in batches(live.applied_items(conn, row.id), BATCH):
            rows.add((key[:32], None, 0, 1) for key, _ in some)
        for counts in rows.batches():
            for row_hash, count in counts:
                losses.lost.add(row_hash.hex(), count.before - count.after)
                losses.regained.add(row_hash.hex(), count.after - count.before)
        return losses.of(row.table)
    for counts in rows.batches():
        now = row_hashes(conn, row.id, live.applied_many(conn, row.id, [key for key, _ in counts]))
        for key, was in counts:
            if was.before and key not in now:
                losses.lost.add(row_name(key))
            elif was.before and now[key] != was.value:
                losses.earlier.add(row_name(key))
            elif not was.before and key in now:
                losses.regained.add(row_name(key))
    for some in batches(live.applied_items(conn, row.id), BATCH) if every else ():
        noted = rows.find([key for key, _ in some])
        for key, _ in some:
            if key not in noted:
                losses.regained.add(row_name(key))
    return losses.of(row.table)
