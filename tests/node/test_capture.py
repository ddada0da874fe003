"""The capture takes whatever a read of the stream brings, however little that is, and stands for all that it has passed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from witnz.node.capture import ACK_IDLE_S, Capture, Hooks
from witnz.postgres.pgoutput import Decoder, Event
from witnz.postgres.session import Conninfo
from witnz.postgres.stream import Batch
from witnz.store import meta
from witnz.store.database import Database

BEGIN = b"B" + (1 << 20).to_bytes(8, "big") + bytes(8) + (700).to_bytes(4, "big")
TYPE_NAME = b"Y" + (16384).to_bytes(4, "big") + b"public\x00mood\x00"


class NothingRecorded:
    """A recorder that keeps what it is given."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def apply(self, events: list[Event]) -> None:
        self.events += events


class Acknowledged:
    """A stream that keeps what was acknowledged."""

    def __init__(self) -> None:
        self.lsns: list[int] = []

    def ack(self, lsn: int, *, force: bool = False) -> None:
        self.lsns.append(lsn)


class Resting:
    """A recorder whose state between two reads is what the test says."""

    def __init__(self) -> None:
        self.dirty = self.in_transaction = False

    def reconnected(self) -> None:
        pass


def test_a_read_that_brings_nothing_but_the_name_of_a_type_changes_nothing(tmp_path: Path) -> None:
    """PostgreSQL sends it before a table with columns of other than built-in types, and the next message may come later."""
    recorder: Any = NothingRecorded()
    nothing: Any = None
    hooks = Hooks(between=nothing, recorded=nothing, connected=nothing, unreachable=nothing)
    with Database.create(tmp_path / "witnz.db") as db:
        capture = Capture(db, Conninfo.from_conninfo("user=witnz"), "s", ("p",), lambda: recorder, hooks)
        decoder = Decoder()
        assert len(decoder.decode([BEGIN])) == 1
        events = decoder.decode([TYPE_NAME])
        assert not events
        capture._take(nothing, nothing, events)
    assert recorder.events == []


@pytest.fixture
def resting(tmp_path: Path) -> Iterator[tuple[Any, Any, Any]]:
    """(a capture that acknowledged 100 long ago, its recorder, its stream)."""
    recorder: Any = Resting()
    nothing: Any = None
    hooks = Hooks(between=lambda _: False, recorded=nothing, connected=nothing, unreachable=nothing)
    with Database.create(tmp_path / "witnz.db") as db:
        with db.write() as conn:
            meta.save_value(conn, "acked", "100")
        capture = Capture(db, Conninfo.from_conninfo("user=witnz"), "s", ("p",), lambda: recorder, hooks)
        capture._acked_at -= 2 * ACK_IDLE_S
        yield capture, recorder, Acknowledged()


def acked(capture: Any) -> int:
    with capture._db.read() as conn:
        return meta.load_number(conn, "acked") or 0


def test_what_a_quiet_server_says_only_once_is_stood_for_soon(resting: tuple[Any, Any, Any]) -> None:
    """It may not say it again for ten seconds, and members that lost their slots wait for this one to have passed there."""
    capture, _, stream = resting
    capture._settle_down(stream, Batch([], 200))
    assert (acked(capture), stream.lsns) == (200, [200])
    capture._settle_down(stream, Batch([], 300))
    assert (acked(capture), stream.lsns) == (200, [200]), "at most once within ACK_IDLE_S"
    capture._acked_at -= ACK_IDLE_S
    capture._settle_down(stream, Batch([], None))
    assert (acked(capture), stream.lsns) == (300, [200, 300])
    capture._acked_at -= ACK_IDLE_S
    capture._settle_down(stream, Batch([], None))
    assert stream.lsns == [200, 300], "nothing new was said"


def test_a_word_that_came_behind_a_transaction_counts_once_that_one_is_committed(resting: tuple[Any, Any, Any]) -> None:
    capture, recorder, stream = resting
    recorder.dirty = True
    capture._committed_at = float("inf")  # it is not committed yet
    capture._settle_down(stream, Batch([b"C"], 200))
    assert (acked(capture), stream.lsns) == (100, [])
    recorder.dirty = False
    capture._settle_down(stream, Batch([], None))
    assert (acked(capture), stream.lsns) == (200, [200])


def test_a_word_from_within_a_transaction_does_not_count(resting: tuple[Any, Any, Any]) -> None:
    capture, recorder, stream = resting
    recorder.in_transaction = True
    capture._settle_down(stream, Batch([b"I"], 200))
    recorder.in_transaction = False
    capture._settle_down(stream, Batch([], None))
    assert (acked(capture), stream.lsns) == (100, [])


def test_a_word_of_a_lost_connection_does_not_count(resting: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What had come before it is given up with the connection, if it was not durable."""
    capture, recorder, stream = resting
    recorder.dirty = True
    capture._committed_at = float("inf")
    capture._settle_down(stream, Batch([b"C"], 200))
    recorder.dirty = False  # it was abandoned
    monkeypatch.setattr(stream, "read", lambda *_: capture._stop.set() or Batch([], None), raising=False)
    monkeypatch.setattr(capture, "_between", lambda _: None)
    capture._loop(stream, None)
    assert (acked(capture), stream.lsns) == (100, [])
