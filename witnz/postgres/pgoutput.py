"""Decoding PostgreSQL's logical replication messages (plugin ``pgoutput``, protocol version 1, text values) to events.

    B final_lsn(8) commit_time(8) xid(4)                 C flags(1) commit_lsn(8) end_lsn(8) commit_time(8)
    R oid(4) schema\\0 name\\0 identity(1) n(2) n*column    column = flags(1) name\\0 typoid(4) typmod(4)
    I oid(4) N tuple        U oid(4) [K tuple | O tuple] N tuple        D oid(4) (K tuple | O tuple)
    T n(4) flags(1) n*oid(4)    M flags(1) lsn(8) prefix\\0 n(4) n bytes    O lsn(8) name\\0    Y oid(4) schema\\0 name\\0

(PostgreSQL documentation 55.9 "Logical Replication Message Formats".)  Transactions come whole, in the order of their commit
records, none of them nested, subtransactions that were rolled back left out.  Rules of this decoder:

* Every length is bounded by its message and nothing may follow it; messages of protocol 2 and later are unknown.
* Relations are kept by oid for one connection: the server describes each before its first row, and again when it may have
  changed.  A new connection needs a new decoder.
* Rows, truncations, relations and transactional messages belong to a transaction.  Begin and Commit must agree.
* Whatever is refused raises :class:`FormatError` that names the type and the transaction; the decoder is of no use afterwards.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Final, NoReturn, cast

from witnz.core.entry import SchemaColumn
from witnz.core.lsn import format_lsn
from witnz.core.timestamp import PG_EPOCH_US
from witnz.errors import FormatError
from witnz.postgres.events import Begin, Commit, Event, LogicalMessage, Origin, Relation, Rows, Truncate
from witnz.postgres.tuples import HEAD_BYTES, UNCHANGED, PairReader, TupleReader, tuple_reader

__all__ = [
    "UNCHANGED",
    "Begin",
    "Commit",
    "Decoder",
    "Event",
    "LogicalMessage",
    "Origin",
    "Relation",
    "Rows",
    "Truncate",
]


_ROWS: Final = {b"I": (b"insert", b"N"), b"U": (b"update", b"NKO"), b"D": (b"delete", b"KO")}
_BEGIN: Final = struct.Struct(">cQqI")
_COMMIT: Final = struct.Struct(">cBQQq")
_RELATION: Final = struct.Struct(">cI")
_COLUMN: Final = struct.Struct(">Ii")
_TRUNCATE: Final = struct.Struct(">cIB")
_MESSAGE: Final = struct.Struct(">cBQ")
_ORIGIN: Final = struct.Struct(">cQ")
_UINT16: Final = struct.Struct(">H")
_UINT32: Final = struct.Struct(">I")
_head = itemgetter(slice(0, HEAD_BYTES))


class Decoder:
    """The state of one replication connection: its relations, and the transaction that is open."""

    def __init__(self) -> None:
        self.relations: dict[int, Relation] = {}
        self._final_lsn: int | None = None  # of the transaction that is open
        self._after_lsn = 0  # where the last one ended
        self._tuples: dict[bytes, TupleReader] = {}
        self._pairs: dict[bytes, PairReader] = {}
        self._parsers: dict[bytes, Callable[[bytes], Event | None]] = {
            b"B": self._parse_begin,
            b"C": self._parse_commit,
            b"R": self._parse_relation,
            b"Y": self._parse_type,
            b"T": self._parse_truncate,
            b"M": self._parse_message,
            b"O": self._parse_origin,
        }

    def decode(self, payloads: Sequence[bytes | memoryview]) -> list[Event]:
        """The events of consecutive messages (what follows the XLogData header), in order.

        A run of row messages that agree in table, operation and kind of tuple becomes one :class:`Rows`; a run ends with the
        batch.  Raises :class:`FormatError`.
        """
        plain = set(map(type, payloads)) == {bytes}
        messages = cast("Sequence[bytes]", payloads) if plain else list(map(bytes, payloads))
        events: list[Event] = []
        for head, group in groupby(messages, _head):
            try:
                if head[:1] in _ROWS:
                    events.append(self._parse_rows(head, list(group)))
                else:
                    events.extend(self._parse_others(head, group))
            except FormatError as error:
                self._refuse(head, error)
        return events

    def _parse_others(self, head: bytes, group: Iterable[bytes]) -> list[Event]:
        parse = self._parsers.get(head[:1])
        if parse is None:
            raise FormatError("expected a message of protocol version 1, found an unknown type")
        return [event for event in map(parse, group) if event is not None]

    def _refuse(self, head: bytes, error: FormatError) -> NoReturn:
        kind = head[:1].decode("latin-1") if head else "empty"
        if self._final_lsn is not None:
            where = f"in the transaction committed at {format_lsn(self._final_lsn)}"
        else:
            where = f"after the transaction that ended at {format_lsn(self._after_lsn)}"
        raise FormatError(
            f"pgoutput message {kind} {where}: {error.message}",
            hint="the connection does not lead to a PostgreSQL server of a supported version, or something altered the stream",
        ) from error

    def _inside(self) -> int:
        if self._final_lsn is None:
            raise FormatError("expected it within a transaction, found it outside")
        return self._final_lsn

    # -- transactions ----

    def _parse_begin(self, payload: bytes) -> Begin:
        _, final_lsn, time, xid = _unpack(_BEGIN, payload)
        if self._final_lsn is not None:
            raise FormatError("expected the Commit of the transaction before, found a Begin")
        self._final_lsn = final_lsn
        return Begin(final_lsn, time + PG_EPOCH_US, xid)

    def _parse_commit(self, payload: bytes) -> Commit:
        _, flags, commit_lsn, end_lsn, time = _unpack(_COMMIT, payload)
        if flags:
            raise FormatError(f"expected flags 0, found {flags}")
        if commit_lsn != self._inside() or end_lsn <= commit_lsn:
            raise FormatError(
                f"expected the LSN that Begin named and a later end, found {format_lsn(commit_lsn)} and {format_lsn(end_lsn)}"
            )
        self._final_lsn, self._after_lsn = None, end_lsn
        return Commit(commit_lsn, end_lsn, time + PG_EPOCH_US)

    def _parse_origin(self, payload: bytes) -> Origin:
        self._inside()
        lsn = _unpack_first(_ORIGIN, payload)[1]
        name, at = _cstring(payload, _ORIGIN.size)
        _check_end(payload, at)
        return Origin(lsn, name)

    def _parse_message(self, payload: bytes) -> LogicalMessage:
        _, flags, lsn = _unpack_first(_MESSAGE, payload)
        if flags > 1:
            raise FormatError(f"expected flags 0 or 1, found {flags}")
        if flags:
            self._inside()
        prefix, at = _cstring(payload, _MESSAGE.size)
        (size,) = _unpack_first(_UINT32, payload, at)
        at += _UINT32.size
        _check_end(payload, at + size)
        return LogicalMessage(bool(flags), lsn, prefix, payload[at:])

    # -- tables ----

    def _parse_relation(self, payload: bytes) -> Relation:
        self._inside()
        oid = _unpack_first(_RELATION, payload)[1]
        schema, at = _cstring(payload, _RELATION.size)
        name, at = _cstring(payload, at)
        identity = payload[at : at + 1]
        if identity not in (b"d", b"f", b"i", b"n"):
            raise FormatError(f"expected a replica identity d, f, i or n, found {identity!r}")
        (count,) = _unpack_first(_UINT16, payload, at + 1)
        at += 1 + _UINT16.size
        columns = []
        for _ in range(count):
            flags = payload[at : at + 1]
            if flags not in (b"\0", b"\1"):
                raise FormatError(f"expected column flags 0 or 1, found {flags!r}")
            column, at = _cstring(payload, at + 1)
            typoid, typmod = _unpack_first(_COLUMN, payload, at)
            at += _COLUMN.size
            columns.append(SchemaColumn(column, typoid, typmod, flags == b"\1"))
        _check_end(payload, at)
        relation = self.relations[oid] = Relation(oid, schema, name, identity.decode(), tuple(columns))
        # What was learned of its rows is not worth keeping, and which columns are its key may have changed.
        mark = payload[1:5]
        for readers in (self._tuples, self._pairs):
            for head in [head for head in readers if head[1:5] == mark]:
                del readers[head]
        return relation

    def _parse_type(self, payload: bytes) -> None:
        """Checked and forgotten: type names differ between connections (formats.md 2)."""
        self._inside()
        _unpack_first(_RELATION, payload)
        _, at = _cstring(payload, _RELATION.size)
        _, at = _cstring(payload, at)
        _check_end(payload, at)

    def _parse_truncate(self, payload: bytes) -> Truncate:
        self._inside()
        _, count, flags = _unpack_first(_TRUNCATE, payload)
        if flags > 3:
            raise FormatError(f"expected flags 0 to 3, found {flags}")
        _check_end(payload, _TRUNCATE.size + _UINT32.size * count)
        oids = struct.unpack_from(f">{count}I", payload, _TRUNCATE.size)
        for oid in oids:
            self._relation(oid)
        return Truncate(oids, bool(flags & 1), bool(flags & 2))

    # -- rows ----

    def _parse_rows(self, head: bytes, run: list[bytes]) -> Rows:
        self._inside()
        op, kinds = _ROWS[head[:1]]
        if len(head) < HEAD_BYTES or head[5] not in kinds:
            raise FormatError(f"expected a relation and a tuple of kind {', '.join(kinds.decode())}, found {head[1:]!r}")
        (oid,) = _UINT32.unpack_from(head, 1)
        relation = self._relation(oid)
        kind = head[5:6]
        if op == b"update" and kind != b"N":
            new, before, unresolved = self._pair_reader(head, relation).lines(run)
            return Rows(oid, op, new, list(before), kind == b"O", unresolved)
        lines, unresolved = self._tuple_reader(head, relation).lines(run)
        if op == b"update":
            return Rows(oid, op, lines, [None] * len(lines), False, unresolved)
        if op == b"insert":
            return Rows(oid, op, lines, [], False, unresolved)
        if unresolved:
            raise FormatError("expected an old tuple with all its values, found an unchanged TOAST value")
        return Rows(oid, op, [], list(lines), kind == b"O", ())

    def _relation(self, oid: int) -> Relation:
        relation = self.relations.get(oid)
        if relation is None:
            raise FormatError(f"expected a relation that was described before, found {oid}")
        return relation

    def _tuple_reader(self, head: bytes, relation: Relation) -> TupleReader:
        reader = self._tuples.get(head)
        if reader is None:
            reader = self._tuples[head] = tuple_reader(len(relation.columns))
        return reader

    def _pair_reader(self, head: bytes, relation: Relation) -> PairReader:
        reader = self._pairs.get(head)
        if reader is None:
            whole = head[5:6] == b"O"
            reader = self._pairs[head] = PairReader([whole or column.key for column in relation.columns])
        return reader


def _unpack(form: struct.Struct, payload: bytes) -> tuple[int, ...]:
    if len(payload) != form.size:
        raise FormatError(f"expected {form.size} bytes, found {len(payload)}")
    return form.unpack(payload)


def _unpack_first(form: struct.Struct, payload: bytes, at: int = 0) -> tuple[int, ...]:
    """The fields at offset ``at``; more may follow."""
    if len(payload) < at + form.size:
        raise FormatError(f"expected {form.size} bytes from {at} on, found the message's end after {len(payload)}")
    return form.unpack_from(payload, at)


def _cstring(payload: bytes, at: int) -> tuple[str, int]:
    """The string that ends with a NUL byte, and the offset behind that."""
    end = payload.find(b"\0", at)
    if end < 0:
        raise FormatError(f"expected a string with its NUL byte from {at} on, found none")
    try:
        return payload[at:end].decode(), end + 1
    except UnicodeDecodeError:
        raise FormatError(f"expected a UTF-8 string from {at} on, found other bytes") from None


def _check_end(payload: bytes, end: int) -> None:
    if len(payload) != end:
        raise FormatError(f"expected the message's end after {end} bytes, found it after {len(payload)}")
