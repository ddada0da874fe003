from __future__ import annotations

import random
import sqlite3

from witnz.store import live, undo

LOG = 1


def test_per_key_the_first_invisible_entry_says_what_was_there(conn: sqlite3.Connection) -> None:
    undo.add_many(conn, [
        (10, LOG, 5, b"a", 1, 1), (11, LOG, 6, b"a", 5, 5), (12, LOG, 7, b"a", 6, None),
        (11, LOG, 8, b"b", None, 3), (12, 2, 5, b"a", 4, 4),
    ])  # fmt: skip
    assert undo.invisible(conn, LOG, lambda xid: True) == {}
    assert undo.invisible(conn, LOG, lambda xid: xid < 12) == {b"a": (6, None)}
    assert undo.invisible(conn, LOG, lambda xid: xid != 11) == {b"a": (5, 5), b"b": (None, 3)}
    assert undo.invisible(conn, LOG, lambda xid: xid < 10) == {b"a": (1, 1), b"b": (None, 3)}
    assert undo.invisible(conn, 2, lambda xid: False) == {b"a": (4, 4)}
    assert undo.invisible(conn, 3, lambda xid: False) == {}


def test_one_transaction_may_touch_a_key_many_times(conn: sqlite3.Connection) -> None:
    undo.add_many(conn, [(10, LOG, 9, b"a", 8, 8), (10, LOG, 7, b"a", 1, 2), (10, LOG, 8, b"a", 7, 7)])
    assert undo.invisible(conn, LOG, lambda xid: False) == {b"a": (1, 2)}


def test_settled_transactions_are_forgotten_and_no_others(conn: sqlite3.Connection) -> None:
    undo.add_many(conn, [(xid, LOG, xid, b"%d" % xid, None, None) for xid in (5, 9, 10, 11, 1 << 40)])
    assert undo.unsettled(conn) == [5, 9, 10, 11, 1 << 40]
    assert undo.settle(conn, 10) == 2
    assert undo.unsettled(conn) == [10, 11, 1 << 40]
    assert undo.count(conn) == 3
    assert undo.settle(conn, 10) == 0
    assert undo.settle(conn, 1 << 41) == 3
    assert undo.unsettled(conn) == []


def test_finding_the_transactions_does_not_read_their_rows(conn: sqlite3.Connection) -> None:
    undo.add_many(conn, ((xid, LOG, seq, b"k", None, None) for xid in range(3) for seq in range(20_000)))
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    conn.set_progress_handler(count, 1)
    assert undo.unsettled(conn) == [0, 1, 2]
    conn.set_progress_handler(None, 0)
    assert steps < 1_000


def test_any_snapshot_of_a_random_history_comes_out_of_the_undo(conn: sqlite3.Connection) -> None:
    """Serial transactions over few keys; every prefix of them must be what undoing the rest gives."""
    rng = random.Random(7)
    state: dict[bytes, int] = {}
    states = [dict(state)]
    seq = 0
    for xid in range(1, 40):
        for _ in range(rng.randrange(1, 8)):
            seq += 1
            key = b"%d" % rng.randrange(12)
            before = state.get(key)
            undo.add_many(conn, [(xid, LOG, seq, key, before, before)])
            if rng.random() < 0.4:
                live.set_accepted(conn, LOG, [(key, None)])
                state.pop(key, None)
            else:
                live.set_accepted(conn, LOG, [(key, seq)])
                state[key] = seq
        states.append(dict(state))
    for done, expected in enumerate(states):
        present = dict(live.accepted_items(conn, LOG))
        for key, (accepted, applied) in undo.invisible(conn, LOG, lambda xid, done=done: xid <= done).items():  # type: ignore[misc]
            assert accepted == applied
            present.pop(key, None)
            if accepted is not None:
                present[key] = accepted
        assert present == expected
