"""pgoutput messages built by hand, and a feed of decoded transactions from a real server."""

from __future__ import annotations

import secrets
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tests.support.postgres import Database
from witnz.postgres.pgoutput import Begin, Commit, Decoder, Event, LogicalMessage, Relation
from witnz.postgres.session import Conninfo
from witnz.postgres.slot import emit_marker
from witnz.postgres.stream import ReplicationStream

OID = 16403


class Unchanged:
    """Stands for an unchanged TOAST value."""


UNCHANGED_VALUE = Unchanged()
Value = bytes | None | Unchanged


def format_column(value: Value) -> bytes:
    if value is None:
        return b"n"
    if isinstance(value, Unchanged):
        return b"u"
    return b"t" + struct.pack(">I", len(value)) + value


def format_tuple(values: Sequence[Value]) -> bytes:
    return struct.pack(">H", len(values)) + b"".join(map(format_column, values))


def format_insert(values: Sequence[Value], oid: int = OID) -> bytes:
    return b"I" + struct.pack(">I", oid) + b"N" + format_tuple(values)


def format_update(values: Sequence[Value], old: Sequence[Value] | None = None, kind: bytes = b"O", oid: int = OID) -> bytes:
    before = b"" if old is None else kind + format_tuple(old)
    return b"U" + struct.pack(">I", oid) + before + b"N" + format_tuple(values)


def format_delete(old: Sequence[Value], kind: bytes = b"K", oid: int = OID) -> bytes:
    return b"D" + struct.pack(">I", oid) + kind + format_tuple(old)


def format_begin(final_lsn: int = 1000, time_us: int = 0, xid: int = 700) -> bytes:
    return b"B" + struct.pack(">QqI", final_lsn, time_us, xid)


def format_commit(commit_lsn: int = 1000, end_lsn: int = 1048, time_us: int = 0) -> bytes:
    return b"C" + struct.pack(">BQQq", 0, commit_lsn, end_lsn, time_us)


def format_relation(columns: int, keys: Sequence[int] = (0,), oid: int = OID, identity: bytes = b"d") -> bytes:
    described = b"".join(
        (b"\1" if i in keys else b"\0") + b"c%d\0" % i + struct.pack(">Ii", 25, -1) for i in range(columns)
    )  # fmt: skip
    return b"R" + struct.pack(">I", oid) + b"public\0t\0" + identity + struct.pack(">H", columns) + described


def open_decoder(columns: int, keys: Sequence[int] = (0,)) -> Decoder:
    """A decoder within a transaction that knows the relation OID."""
    decoder = Decoder()
    decoder.decode([format_begin(), format_relation(columns, keys)])
    return decoder


class Feed:
    """Decoded transactions of one publication, through one stream; ``relations`` are kept out of them."""

    def __init__(self, database: Database, stream: ReplicationStream) -> None:
        self.database = database
        self.stream = stream
        self.decoder = Decoder()
        self.payloads: list[bytes] = []
        self.relations: list[Relation] = []

    def take(self, timeout_s: float = 30.0) -> list[list[Event]]:
        """The transactions committed until now, each with its Begin and Commit; ours that marks the end is left out.

        They are decoded at once, so that rows of one kind are one event wherever the stream was cut into batches.
        """
        nonce = secrets.token_hex(8).encode()
        emit_marker(self.database.connect_witnz(), "test-mark", nonce)
        received = self._receive(nonce, timeout_s)
        self.payloads += received
        transactions: list[list[Event]] = []
        for event in self.decoder.decode(received):
            if isinstance(event, Relation):
                self.relations.append(event)
            elif isinstance(event, Begin):
                transactions.append([event])
            elif transactions and not isinstance(transactions[-1][-1], Commit):
                transactions[-1].append(event)
            else:
                transactions.append([event])  # a message outside of transactions
        assert _is_mark(transactions[-1], nonce)
        return transactions[:-1]

    def _receive(self, nonce: bytes, timeout_s: float) -> list[bytes]:
        """The messages up to the end of the transaction that carries the marker."""
        received: list[bytes] = []
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            received += self.stream.read(1000, 0.5).payloads
            marked = next((at for at, payload in enumerate(received) if payload[:1] == b"M" and payload.endswith(nonce)), None)
            if marked is not None and any(payload[:1] == b"C" for payload in received[marked:]):
                return received
        raise TimeoutError("the marker did not come back")

    def take_events(self) -> list[Event]:
        """The events of all transactions, without Begin and Commit."""
        return [event for events in self.take() for event in events if not isinstance(event, Begin | Commit)]


def _is_mark(transaction: list[Event], nonce: bytes) -> bool:
    return any(isinstance(event, LogicalMessage) and event.content == nonce for event in transaction)


def conninfo_of(database: Database, user: str = "witnz") -> Conninfo:
    return Conninfo.from_conninfo(database.server.dsn(user, database.name))


@contextmanager
def open_feed(database: Database, *tables: str, **keywords: Any) -> Iterator[Feed]:
    """Publish ``tables`` (SQL names), make a slot and read it."""
    database.create_publication("feed", *tables)
    slot = f"feed_{secrets.token_hex(4)}"
    database.create_slot(slot)
    with ReplicationStream(conninfo_of(database), slot, "feed", start_lsn=0, **keywords) as stream:
        yield Feed(database, stream)
