"""The capture takes whatever a read of the stream brings, however little that is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from witnz.node.capture import Capture, Hooks
from witnz.postgres.pgoutput import Decoder, Event
from witnz.postgres.session import Conninfo
from witnz.store.database import Database

BEGIN = b"B" + (1 << 20).to_bytes(8, "big") + bytes(8) + (700).to_bytes(4, "big")
TYPE_NAME = b"Y" + (16384).to_bytes(4, "big") + b"public\x00mood\x00"


class NothingRecorded:
    """A recorder that keeps what it is given."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def apply(self, events: list[Event]) -> None:
        self.events += events


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
