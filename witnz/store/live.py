"""Accepted and applied state of a table: which key has which live row, as the seq of the entry that brought it.

*Accepted* is what a scan must find (formats.md 3); *applied* is what the stream has made of the table, violations included.

    accepted    ``live``, and where that has no row for a key, :mod:`witnz.store.runs`
    applied     ``overlay``, and where that has no row for a key, the accepted state

    live(k, seq, was)    seq: the live row, NULL if there is none; was: the seq that a run has for this key, NULL if none has it
    overlay(k, seq)      seq: the applied row, NULL if there is none; rows only where applied and accepted differ
    live_edge            the highest key that ever was accepted, and the highest in a run: beyond it a key is new

Keys are state keys (:mod:`witnz.core.keyplan`); those of a table without a key are 32 bytes of row hash and 8 bytes of
big-endian seq.  A seq is an entry's, or negative for a row that an operator granted (:mod:`witnz.store.granted`).  Functions
for many keys cost some microseconds each; what names all keys of a log is SQL or a bounded loop.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from witnz.errors import StoreCorrupt
from witnz.store.logs import log_size
from witnz.store.runs import find_in_runs, iter_run_seqs, iter_runs, place_of, runs_between, save_runs, split_run

Item = tuple[bytes, int]
_LOOKUPS = (1, 8, 64, 512)  # few lengths of statements, so that SQLite's prepared ones are used again
_INSERTS = 128


def insert_fresh(connection: sqlite3.Connection, log_id: int, items: Sequence[Item]) -> bool:
    """Accept (key, seq) pairs whose keys are all new; False, with nothing changed, if one may be accepted or applied already.

    After False the caller looks the keys up and decides each.
    """
    if not items:
        return True
    if _any_overlay(connection, log_id) and _look_up(connection, "overlay", log_id, [key for key, _ in items]):
        return False
    highest, run_highest = _edge(connection, log_id)
    packed, others = split_run(items, highest)
    if run_highest is not None and _in_runs(connection, log_id, [key for key, _ in others], run_highest):
        return False
    if others and not _insert_all(connection, log_id, others):
        return False
    if packed:
        save_runs(connection, log_id, packed)
    _raise_edge(connection, log_id, [key for key, _ in others], place_of(packed[-1][0]) if packed else None)
    return True


def accepted_many(connection: sqlite3.Connection, log_id: int, keys: Iterable[bytes]) -> dict[bytes, int]:
    """The accepted row of each key that has one."""
    wanted = list(keys)
    found = _look_up(connection, "live", log_id, wanted)
    run_highest = _edge(connection, log_id)[1]
    if run_highest is not None and len(found) < len(wanted):
        found |= _in_runs(connection, log_id, [key for key in wanted if key not in found], run_highest)
    return {key: seq for key, seq in found.items() if seq is not None}


def applied_many(connection: sqlite3.Connection, log_id: int, keys: Iterable[bytes]) -> dict[bytes, int]:
    """The applied row of each key that has one."""
    wanted = list(keys)
    over = _look_up(connection, "overlay", log_id, wanted)
    applied = accepted_many(connection, log_id, [key for key in wanted if key not in over] if over else wanted)
    return applied | {key: seq for key, seq in over.items() if seq is not None}


def set_accepted(connection: sqlite3.Connection, log_id: int, items: Iterable[tuple[bytes, int | None]]) -> None:
    """Make these the accepted rows of their keys (None: no row); of a key named twice the last counts."""
    latest = dict(items)
    run_highest = _edge(connection, log_id)[1]
    packed = _in_runs(connection, log_id, latest, run_highest) if run_highest is not None else {}
    kept = [(log_id, key, seq, packed.get(key)) for key, seq in latest.items() if seq is not None or key in packed]
    connection.executemany(
        "INSERT INTO live (log, k, seq, was) VALUES (?, ?, ?, ?) ON CONFLICT (log, k) DO UPDATE SET seq = excluded.seq", kept
    )
    gone = [(log_id, key) for key, seq in latest.items() if seq is None and key not in packed]
    connection.executemany("DELETE FROM live WHERE log = ? AND k = ?", gone)
    _raise_edge(connection, log_id, [key for key, seq in latest.items() if seq is not None], None)


def set_overlay(connection: sqlite3.Connection, log_id: int, items: Iterable[tuple[bytes, int | None]]) -> None:
    """Make these the applied rows of their keys (None: no row), other than the accepted ones."""
    connection.executemany(
        "INSERT OR REPLACE INTO overlay (log, k, seq) VALUES (?, ?, ?)", [(log_id, key, seq) for key, seq in items]
    )


def clear_overlay(connection: sqlite3.Connection, log_id: int, keys: Iterable[bytes] | None = None) -> None:
    """Let the applied state of these keys, or of all, be the accepted one."""
    if keys is None:
        connection.execute("DELETE FROM overlay WHERE log = ?", (log_id,))
    else:
        connection.executemany("DELETE FROM overlay WHERE log = ? AND k = ?", [(log_id, key) for key in keys])


def overlay_items(connection: sqlite3.Connection, log_id: int) -> Iterator[tuple[bytes, int | None]]:
    """(key, applied row or None) wherever the applied state differs from the accepted one."""
    yield from connection.execute("SELECT k, seq FROM overlay WHERE log = ? ORDER BY k", (log_id,))


def accepted_items(connection: sqlite3.Connection, log_id: int) -> Iterator[Item]:
    """Every (key, seq) of the accepted state, a block at a time: those of runs first."""
    for run in iter_runs(connection, log_id):
        over = _look_up(connection, "live", log_id, [key for key, _ in run])
        yield from ((key, seq) for key, seq in run if key not in over)
    yield from connection.execute("SELECT k, seq FROM live WHERE log = ? AND seq IS NOT NULL", (log_id,))


def applied_items(connection: sqlite3.Connection, log_id: int) -> Iterator[Item]:
    """What the stream left of every row: its state key and seq."""
    accepted = accepted_items(connection, log_id)
    if not _any_overlay(connection, log_id):
        yield from accepted
        return
    while some := list(islice(accepted, _LOOKUPS[-1])):
        over = _look_up(connection, "overlay", log_id, [key for key, _ in some])
        yield from ((key, seq) for key, seq in some if key not in over)
    yield from ((key, seq) for key, seq in overlay_items(connection, log_id) if seq is not None)


def accepted_between(connection: sqlite3.Connection, log_id: int, low: bytes, high: bytes) -> Iterator[Item]:
    """Every (key, seq) of the accepted state from ``low`` to ``high``, which are of one length, and as long as they are."""
    for run in runs_between(connection, log_id, low, high):
        over = _look_up(connection, "live", log_id, [key for key, _ in run])
        yield from ((key, seq) for key, seq in run if key not in over)
    query = "SELECT k, seq FROM live WHERE log = ?1 AND k BETWEEN ?2 AND ?3 AND length(k) = length(?2) AND seq IS NOT NULL"
    yield from connection.execute(query, (log_id, low, high))


def count(connection: sqlite3.Connection, log_id: int) -> int:
    """How many rows are accepted; reads the whole of ``live`` for this log."""
    query = (
        "SELECT (SELECT coalesce(sum(count), 0) FROM runs WHERE log = ?1) + count(seq) - count(was) FROM live WHERE log = ?1"
    )
    return int(connection.execute(query, (log_id,)).fetchone()[0])


def live_flags(connection: sqlite3.Connection, log_id: int) -> bytearray:
    """One byte an entry, ``flags[seq]`` (``flags[0]`` is unused): 1 where the entry's row is accepted now, else 0.

    Raises StoreCorrupt for a seq that the log does not have.
    """
    size = log_size(connection, log_id)
    flags = bytearray(size + 1)
    try:
        for seqs in iter_run_seqs(connection, log_id):
            if isinstance(seqs, range) and 0 < seqs.start <= seqs.stop - 1 <= size:
                flags[seqs.start : seqs.stop] = b"\1" * len(seqs)
            else:
                for seq in seqs:
                    flags[seq] = 1
        overridden = connection.execute("SELECT was FROM live WHERE log = ? AND was IS NOT NULL", (log_id,))
        for (was,) in overridden:
            flags[was] = 0
        for (seq,) in connection.execute("SELECT seq FROM live WHERE log = ? AND seq > 0", (log_id,)):
            flags[seq] = 1
    except (IndexError, TypeError):
        raise StoreCorrupt(
            f"accepted state of log {log_id}: it names an entry that the log does not have",
            hint="keep a copy of the store as it is, and run `witnz verify --store`",
        ) from None
    return flags


def granted_seqs(connection: sqlite3.Connection, log_id: int) -> list[int]:
    """The seqs, all negative, of the accepted rows that no entry brought."""
    if connection.execute("SELECT 1 FROM granted WHERE log = ? LIMIT 1", (log_id,)).fetchone() is None:
        return []
    return [seq for (seq,) in connection.execute("SELECT seq FROM live WHERE log = ? AND seq < 0 ORDER BY seq", (log_id,))]


def truncate_accepted(connection: sqlite3.Connection, log_id: int, xid: int | None, seq: int) -> None:
    """An accepted TRUNCATE: no row is accepted or applied any more.

    ``xid``, 64 bits, if it is not settled yet: what was there goes to ``undo`` under the entry ``seq``.
    """
    if xid is not None:
        _undo_all(connection, log_id, xid, seq)
    for table in ("live", "runs", "live_edge", "overlay"):
        connection.execute(f"DELETE FROM {table} WHERE log = ?", (log_id,))  # noqa: S608  names from the line above


def truncate_applied(connection: sqlite3.Connection, log_id: int, xid: int | None, seq: int) -> None:
    """A TRUNCATE that is not accepted: no row is applied any more; arguments as for :func:`truncate_accepted`."""
    if xid is not None:
        _undo_all(connection, log_id, xid, seq)
    else:
        _unpack_runs(connection, log_id)
    connection.execute("DELETE FROM overlay WHERE log = ?", (log_id,))
    connection.execute("INSERT INTO overlay (log, k, seq) SELECT log, k, NULL FROM live WHERE log = ?", (log_id,))


def keyless_find(connection: sqlite3.Connection, log_id: int, row_hash: bytes, *, applied: bool = False) -> bytes | None:
    """The key of a live row with this hash in a table without a key, that of the smallest seq; None if there is none."""
    found = []
    for query in (_KEYLESS_STILL, _KEYLESS_OVER) if applied else (_KEYLESS_ACCEPTED,):
        first = f"{query} ORDER BY k LIMIT 1"
        found += connection.execute(first, (log_id, row_hash + bytes(8), row_hash + b"\xff" * 8)).fetchall()
    return min(found)[0] if found else None


def keyless_count(connection: sqlite3.Connection, log_id: int, row_hash: bytes, *, applied: bool = False) -> int:
    """How many live rows with this hash there are in a table without a key."""
    query = f"SELECT count(*) FROM ({_KEYLESS_APPLIED if applied else _KEYLESS_ACCEPTED})"  # noqa: S608  one of two constants
    return int(connection.execute(query, (log_id, row_hash + bytes(8), row_hash + b"\xff" * 8)).fetchone()[0])


_KEYLESS_ACCEPTED = "SELECT k FROM live WHERE log = ?1 AND k BETWEEN ?2 AND ?3 AND seq IS NOT NULL"
_KEYLESS_STILL = f"{_KEYLESS_ACCEPTED} AND NOT EXISTS (SELECT 1 FROM overlay o WHERE o.log = live.log AND o.k = live.k)"  # noqa: S608
_KEYLESS_OVER = "SELECT k FROM overlay WHERE log = ?1 AND k BETWEEN ?2 AND ?3 AND seq IS NOT NULL"
_KEYLESS_APPLIED = f"{_KEYLESS_STILL} UNION ALL {_KEYLESS_OVER}"


def _insert_all(connection: sqlite3.Connection, log_id: int, items: Sequence[Item]) -> bool:
    """Insert all or none of these rows into ``live``; whether it was all."""
    if len(items) == 1:
        one = connection.execute("INSERT OR IGNORE INTO live (log, k, seq) VALUES (?, ?, ?)", (log_id, *items[0]))
        return one.rowcount == 1
    before = connection.total_changes
    connection.execute("SAVEPOINT insert_fresh")
    ordered = sorted(items)  # neighbours of the tree one after the other
    for at in range(0, len(ordered) - _INSERTS + 1, _INSERTS):
        values = [value for item in ordered[at : at + _INSERTS] for value in item]
        connection.execute(_INSERT_MANY, (log_id, *values))
    rest = ordered[len(ordered) - len(ordered) % _INSERTS :]
    connection.executemany("INSERT OR IGNORE INTO live (log, k, seq) VALUES (?, ?, ?)", [(log_id, *item) for item in rest])
    whole = connection.total_changes - before == len(items)
    if not whole:
        connection.execute("ROLLBACK TO insert_fresh")
    connection.execute("RELEASE insert_fresh")
    return whole


_VALUES = ", ".join(f"(?1, ?{2 * i + 2}, ?{2 * i + 3})" for i in range(_INSERTS))
_INSERT_MANY = f"INSERT OR IGNORE INTO live (log, k, seq) VALUES {_VALUES}"  # noqa: S608  question marks only


def _any_overlay(connection: sqlite3.Connection, log_id: int) -> bool:
    return connection.execute("SELECT 1 FROM overlay WHERE log = ? LIMIT 1", (log_id,)).fetchone() is not None


def _look_up(connection: sqlite3.Connection, table: str, log_id: int, keys: Sequence[bytes]) -> dict[bytes, int | None]:
    """The rows that ``live`` or ``overlay`` has for these keys."""
    found: dict[bytes, int | None] = {}
    at = 0
    while at < len(keys):
        step = next((size for size in _LOOKUPS if size >= len(keys) - at), _LOOKUPS[-1])
        some = list(keys[at : at + step])
        some += some[-1:] * (step - len(some))
        marks = ", ".join("?" * step)
        query = f"SELECT k, seq FROM {table} WHERE log = ? AND k IN ({marks})"  # noqa: S608  one of two names
        found.update(connection.execute(query, (log_id, *some)))
        at += step
    return found


def _in_runs(connection: sqlite3.Connection, log_id: int, keys: Iterable[bytes], highest: bytes) -> dict[bytes, int]:
    """What runs that end at the place ``highest`` say of these keys."""
    return find_in_runs(connection, log_id, [key for key in keys if place_of(key) <= highest])


def _edge(connection: sqlite3.Connection, log_id: int) -> tuple[bytes | None, bytes | None]:
    """(place of the highest key that ever was accepted, of the highest in a run) of a log; None: there is none."""
    row = connection.execute("SELECT highest, run_highest FROM live_edge WHERE log = ?", (log_id,)).fetchone()
    return row or (None, None)


def _raise_edge(connection: sqlite3.Connection, log_id: int, keys: Sequence[bytes], run_highest: bytes | None) -> None:
    """Note the highest of these keys and the place where a new run ends, if they are beyond what is noted."""
    highest, run_before = _edge(connection, log_id)
    places = [place for place in (highest, run_highest, *map(place_of, keys)) if place is not None]
    if places and (max(places) != highest or run_highest is not None):
        connection.execute(
            "INSERT OR REPLACE INTO live_edge (log, highest, run_highest) VALUES (?, ?, ?)",
            (log_id, max(places), run_before if run_highest is None else run_highest),
        )


def _unpack_runs(connection: sqlite3.Connection, log_id: int) -> None:
    """Turn the runs of a log into rows of ``live``, so that SQL can go over all its keys."""
    for run in iter_runs(connection, log_id):
        rows = [(log_id, key, seq) for key, seq in run]
        connection.executemany("INSERT OR IGNORE INTO live (log, k, seq) VALUES (?, ?, ?)", rows)
    connection.execute("DELETE FROM live WHERE log = ? AND seq IS NULL", (log_id,))
    connection.execute("UPDATE live SET was = NULL WHERE log = ? AND was IS NOT NULL", (log_id,))
    connection.execute("DELETE FROM runs WHERE log = ?", (log_id,))
    connection.execute("UPDATE live_edge SET run_highest = NULL WHERE log = ?", (log_id,))


def _undo_all(connection: sqlite3.Connection, log_id: int, xid: int, seq: int) -> None:
    """Keep what is accepted and applied for every key of a log, as of before the entry ``seq`` of ``xid``."""
    _unpack_runs(connection, log_id)
    connection.execute(
        "INSERT INTO undo (xid, log, seq, k, prev_accepted, prev_applied)"
        " SELECT ?2, ?1, ?3, l.k, l.seq, CASE WHEN o.k IS NULL THEN l.seq ELSE o.seq END"
        " FROM live l LEFT JOIN overlay o ON o.log = l.log AND o.k = l.k WHERE l.log = ?1",
        (log_id, xid, seq),
    )
    connection.execute(
        "INSERT INTO undo (xid, log, seq, k, prev_accepted, prev_applied)"
        " SELECT ?2, ?1, ?3, o.k, NULL, o.seq FROM overlay o WHERE o.log = ?1 AND o.seq IS NOT NULL"
        " AND NOT EXISTS (SELECT 1 FROM live l WHERE l.log = o.log AND l.k = o.k)",
        (log_id, xid, seq),
    )
