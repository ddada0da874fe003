from __future__ import annotations

import sqlite3

import pytest

from witnz.errors import ProofError
from witnz.store import checkpoints
from witnz.store.checkpoints import Cosigned, StoredCheckpoint


def test_checkpoints_are_listed_newest_first_and_found_by_size(conn: sqlite3.Connection) -> None:
    assert checkpoints.latest(conn) is None
    for size in (3, 7, 12):
        checkpoints.save_checkpoint(conn, size, f"note {size}", 1_000 * size, final=size != 12)
    assert checkpoints.get(conn, 7) == StoredCheckpoint(7, "note 7", 7_000, True)
    assert checkpoints.get(conn, 8) is None
    newest, final = checkpoints.latest(conn), checkpoints.latest(conn, final=True)
    assert newest is not None and newest.size == 12 and not newest.final
    assert final is not None and final.size == 7
    assert [one.size for one in checkpoints.list_checkpoints(conn)] == [12, 7, 3]
    assert [one.size for one in checkpoints.list_checkpoints(conn, limit=1, below=12)] == [7]
    assert [one.size for one in checkpoints.list_checkpoints(conn, final=True)] == [7, 3]


def test_a_fuller_note_replaces_and_a_lesser_one_does_not(conn: sqlite3.Connection) -> None:
    checkpoints.save_checkpoint(conn, 5, "one signature", 10, final=False)
    checkpoints.save_checkpoint(conn, 5, "a quorum", 20, final=True)
    assert checkpoints.get(conn, 5) == StoredCheckpoint(5, "a quorum", 10, True)
    checkpoints.save_checkpoint(conn, 5, "one signature", 30, final=False)
    assert checkpoints.get(conn, 5) == StoredCheckpoint(5, "a quorum", 10, True)


def test_a_cosigner_never_goes_back_and_never_signs_a_fork(conn: sqlite3.Connection) -> None:
    assert checkpoints.load_cosigned(conn) is None
    checkpoints.save_cosigned(conn, 5, b"a" * 32, "five")
    checkpoints.save_cosigned(conn, 5, b"a" * 32, "five again")
    for size, root in [(4, b"a" * 32), (0, b"b" * 32), (5, b"b" * 32)]:
        with pytest.raises(ProofError, match="cosigned already at size 5") as refused:
            checkpoints.save_cosigned(conn, size, root, "fork")
        assert refused.value.exit_code == 3
    assert checkpoints.load_cosigned(conn) == Cosigned(5, b"a" * 32, "five again")
    checkpoints.save_cosigned(conn, 6, b"b" * 32, "six")
    assert checkpoints.load_cosigned(conn) == Cosigned(6, b"b" * 32, "six")
