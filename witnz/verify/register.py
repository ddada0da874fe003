"""What the audit of a store asks of the register of logs: each column follows from the journal, or from the log's entries.

origin, oid, key columns, snapshot, lsn     as the ``table`` record of the generation has them
secret                                      what that record commits to
columns, schema_seq                         the newest ``schema`` entry
status                                      a generation is over only where the journal has ended it
final_lsn                                   the L of the generation that followed
mode                                        the node's notes: they contradict neither the columns that the entries describe,
                                            nor the journal; what nobody else knows of (numbers of columns, names left out) is
                                            held to that alone

Whoever can edit the file would otherwise have a node skip what it receives, scan another table, or compare with other columns.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from witnz.core.entry import Entry, Schema, parse_schema_hint
from witnz.core.journal import JournalState
from witnz.core.journal_facts import TableRecord
from witnz.core.lsn import format_lsn
from witnz.core.names import log_origin
from witnz.core.record import Record
from witnz.core.rowline import secret_commitment
from witnz.errors import FormatError, ProofError
from witnz.store.logs import LogRow

_OVER: Final = ("ended", "pruned")
_NOTES: Final[Mapping[str, tuple[type, ...]]] = {
    "attnums": (list,),
    "excluded": (list,),
    "root": (str, type(None)),
    "skip_until": (int,),
    "settled_xid": (int,),
}
_MAX_ATTNUM: Final = 1600


@dataclass(slots=True)
class Described:
    """What the ``schema`` entries of a log say: the first and the newest hint, and where that stands."""

    first: str = ""
    newest: str = ""
    newest_seq: int = 0

    def take(self, entry: Entry) -> None:
        if entry.op == "schema":
            self.first = self.first or entry.hint or ""
            self.newest, self.newest_seq = entry.hint or "", entry.seq


def record_of(records: Iterable[Record], row: LogRow) -> TableRecord | None:
    """The ``table`` record that adopted this log."""
    for record in records:
        if record.type == "table" and (record.body["table"], record.body["generation"]) == (row.table, row.generation):
            return TableRecord.from_record(record)
    return None


def check_register(row: LogRow, record: TableRecord | None, state: JournalState, cluster: str, reached_lsn: int) -> None:
    """Hold a row of the register against the journal.  ``reached_lsn``: up to where this node has recorded the stream.

    Raises ProofError for the first column that does not fit.
    """
    if row.origin != log_origin(cluster, row.table, row.generation):
        raise ProofError(f"the register gives it the origin {row.origin[:120]!r}")
    if row.keyed != bool(row.key_columns):
        raise ProofError("the register contradicts itself on whether its rows have a key")
    if record is None:
        if row.status != "provisional":
            raise ProofError("no table record of the journal adopted it")
    else:
        _check_adopted(row, record)
    current = state.current_table(row.table)
    if row.status in _OVER and current is not None and current.generation == row.generation:
        raise ProofError(f"the register says that it is {row.status}, and in the journal it is the current generation")
    _check_notes(row, record, state, reached_lsn)


def _check_adopted(row: LogRow, record: TableRecord) -> None:
    if row.secret and record.secret_sha256 != secret_commitment(row.secret):
        raise ProofError("its secret is not the one that its table record commits to")
    said: list[tuple[str, object, object]] = [
        ("key columns", row.key_columns, record.key_columns),
        ("OID", row.oid, record.oid),
        ("LSN", format_lsn(row.lsn), format_lsn(record.lsn)),
        ("snapshot", row.snapshot or "", record.snapshot),
    ]
    for what, here, there in said:
        if here != there:
            raise ProofError(f"the register has another {what} than its table record: {here!r}, not {there!r}")


def check_followed(row: LogRow, following: TableRecord | None) -> None:
    """Where a generation is over and the next one followed it, that one's L is where its transactions end."""
    if row.status in _OVER and following is not None and row.final_lsn not in (None, following.lsn):
        raise ProofError(
            f"the register ends it at {format_lsn(row.final_lsn or 0)}, the generation that followed begins at"
            f" {format_lsn(following.lsn)}"
        )


def check_described(row: LogRow, described: Described) -> None:
    """Hold what the register says of a log's columns against the log's own entries.  Raises ProofError."""
    if (row.columns, row.schema_seq) != (described.newest, described.newest_seq):
        raise ProofError(
            f"the register describes other columns (entry {row.schema_seq}) than the newest schema entry"
            f" ({described.newest_seq})"
        )
    first, newest = _schema(described.first), _schema(described.newest)
    if first is None or newest is None:
        return
    if first.oid != row.oid:
        raise ProofError(f"the register says OID {row.oid}, its first entry {first.oid}")
    notes = _notes(row)
    numbers = notes.get("attnums", [])
    if len(numbers) not in (0, len(first.columns), len(newest.columns)):
        raise ProofError(f"the register numbers {len(numbers)} columns, its first entry describes {len(first.columns)}")
    left_out = {column.name for column in newest.columns}.intersection(notes.get("excluded", []))
    if left_out:
        raise ProofError(f"the register leaves out column {min(left_out)!r}, which the newest schema entry describes")


def _check_notes(row: LogRow, record: TableRecord | None, state: JournalState, reached_lsn: int) -> None:
    notes = _notes(row)
    numbers = notes.get("attnums", [])
    if any(not isinstance(number, int) or not 0 < number <= _MAX_ATTNUM for number in numbers):
        raise ProofError("the register's numbers of columns are none")
    if any(one >= other for one, other in pairwise(numbers)):
        raise ProofError("the register's numbers of columns are not in the order in which a table has them")
    root = notes.get("root")
    if root is not None and state.newest_generation(root) is None:
        raise ProofError(f"the register says that it is a partition of {root!r}, which the journal does not know")
    if record is None and root is None:
        raise ProofError("it is provisional, and the register does not say of which table it is a partition")
    skip_until, settled_xid = notes.get("skip_until", 0), notes.get("settled_xid", 0)
    alone = all(len(period.members) <= 1 for period in state.periods.all)
    if alone and (skip_until or (settled_xid and not state.signers_changed())):
        raise ProofError("the register says that other members gave its entries, and there never were any")
    of_today = state.epoch is None or (record is not None and record.seq > state.epoch.seq)  # else LSNs were other ones
    if row.status == "active" and of_today and skip_until > max(reached_lsn, state.last_seal_lsn):
        raise ProofError(f"the register has this node skip its own stream up to {format_lsn(skip_until)}, where it never came")


def _notes(row: LogRow) -> dict[str, Any]:
    try:
        notes = json.loads(row.mode or "{}")
    except ValueError:
        notes = None
    if not isinstance(notes, dict) or not all(
        name in _NOTES and isinstance(value, _NOTES[name]) for name, value in notes.items()
    ):
        raise ProofError("the notes that the register keeps with it do not read back")
    return notes


def _schema(hint: str) -> Schema | None:
    """None for a description so long that the entry only has its hash."""
    try:
        return parse_schema_hint(hint)
    except FormatError:
        return None
