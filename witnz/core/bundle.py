"""Bundles: one file from which anybody verifies a checkpoint, rows or tables offline (formats.md 6).

    bundle = RFC 8785 JSON of exactly the members below, and one newline; at most 64 MiB

    format       "witnz-bundle/1"
    created tool                a time and a text, claims of the maker
    sha256                      hex SHA-256 of the canonical JSON without this member
    checkpoint                  a C2SP signed note, verbatim
    records      [{record, proof}]                      journal records, each with its inclusion proof in the checkpoint
    rows         [{table, generation, seal, schema, schema_proof, entry, proof, line, blind, state}]
    tables       [{table, generation, secret, verify}]
    consistency  [{checkpoint, proof}]                  older notes of the same log
    anchors      [receipt]                              formats.md 7
    policy                      a C2SP policy, as the maker claims it: never trusted

``seal`` and both ``verify`` are positions in ``records``, from 0.  The parser believes nothing: it refuses whatever is not of
this form, and leaves every proof, signature and link to :mod:`witnz.verify.bundle`.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from witnz.core.bundle_document import FORMAT, format_document, parse_document
from witnz.core.checkpoint import Checkpoint, parse_checkpoint
from witnz.core.entry import Entry, parse_entry
from witnz.core.note import Note, format_note, parse_note
from witnz.core.policy import Policy, parse_policy
from witnz.core.receipt import Receipt, parse_receipt
from witnz.core.record import Record, record_from_json, record_to_json
from witnz.core.shape import refuse
from witnz.core.timestamp import format_time, parse_time
from witnz.errors import FormatError

MEDIA_TYPE: Final = "application/vnd.witnz.bundle.v1+json"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Proven:
    """A journal record and its claimed inclusion proof (32-byte hashes, the leaf's sibling first)."""

    record: Record
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class RowState:
    """The claim that a row was part of a verified state: the whole bucket (raw row hashes) and its proof in the state root."""

    verify: int
    bucket: tuple[bytes, ...]
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class BundledRow:
    """One entry with its schema entry, as lines; with ``line`` and ``blind`` the row itself.  Make it with :func:`bundle_row`.

    ``schema`` and ``entry`` are what the lines say.
    """

    table: str
    generation: int
    seal: int
    schema_line: bytes
    schema: Entry
    schema_proof: tuple[bytes, ...]
    entry_line: bytes
    entry: Entry
    proof: tuple[bytes, ...]
    line: bytes | None
    blind: bytes | None
    state: RowState | None


@dataclass(frozen=True, slots=True)
class BundledTable:
    """What the bundle says of one generation: its 32-byte secret, where shown, and the record that verified it."""

    table: str
    generation: int
    secret: bytes | None
    verify: int | None


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A note and the checkpoint that its text is; ``proof`` leads from it to the bundle's own checkpoint (empty there)."""

    note: Note
    checkpoint: Checkpoint
    proof: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose grammar holds and whose digest fits.  ``created`` (µs since 1970), ``tool`` and ``policy`` are claims."""

    created: int
    tool: str
    sha256: str
    head: SignedCheckpoint
    records: tuple[Proven, ...]
    rows: tuple[BundledRow, ...]
    tables: tuple[BundledTable, ...]
    consistency: tuple[SignedCheckpoint, ...]
    anchors: tuple[Receipt, ...]
    policy: Policy


def parse_bundle(data: bytes) -> Bundle:
    """The bundle of a file.

    Raises :class:`FormatError` (exit code 2) for a file over 64 MiB, not canonical, with members missing or unknown, whose
    ``sha256`` is wrong, or with any member, note, entry, row line, record, receipt or policy that is not of its grammar.
    """
    return _read(parse_document(data))


def format_bundle(bundle: Bundle) -> bytes:
    """The file of a bundle, its ``sha256`` computed anew; the inverse of :func:`parse_bundle`."""
    value = {
        "format": FORMAT,
        "created": format_time(bundle.created),
        "tool": bundle.tool,
        "checkpoint": format_note(bundle.head.note),
        "records": [
            {"record": record_to_json(proven.record), "proof": _base64_list(proven.proof)} for proven in bundle.records
        ],
        "rows": [_format_row(row) for row in bundle.rows],
        "tables": [
            {
                "table": table.table,
                "generation": table.generation,
                "secret": _base64(table.secret),
                "verify": table.verify,
            }
            for table in bundle.tables
        ],
        "consistency": [
            {"checkpoint": format_note(older.note), "proof": _base64_list(older.proof)} for older in bundle.consistency
        ],
        "anchors": [dict(receipt.members) for receipt in bundle.anchors],
        "policy": bundle.policy.text,
    }
    return format_document(value)


def build_bundle(
    *,
    checkpoint: str,
    records: Sequence[tuple[Record, Sequence[bytes]]],
    policy: str,
    created: int,
    tool: str,
    rows: Sequence[BundledRow] = (),
    tables: Sequence[BundledTable] = (),
    consistency: Sequence[tuple[str, Sequence[bytes]]] = (),
    anchors: Sequence[Mapping[str, Any]] = (),
) -> bytes:
    """The file of a new bundle: notes and policy as texts, records and older notes with their proofs, receipts as objects.

    Raises :class:`FormatError` where the result would be refused by :func:`parse_bundle`, so that nobody is handed a file that
    nobody can read.  Whether it verifies is for :mod:`witnz.verify.bundle`.
    """
    bundle = Bundle(
        created=created,
        tool=tool,
        sha256="",
        head=_read_note(checkpoint, (), "checkpoint"),
        records=tuple(Proven(record, tuple(proof)) for record, proof in records),
        rows=tuple(rows),
        tables=tuple(tables),
        consistency=tuple(_read_note(note, proof, "older checkpoint") for note, proof in consistency),
        anchors=tuple(parse_receipt(dict(receipt)) for receipt in anchors),
        policy=parse_policy(policy),
    )
    data = format_bundle(bundle)
    parse_bundle(data)
    return data


def bundle_row(
    *,
    table: str,
    generation: int,
    seal: int,
    schema_line: bytes,
    schema_proof: Sequence[bytes],
    entry_line: bytes,
    proof: Sequence[bytes],
    line: bytes | None = None,
    blind: bytes | None = None,
    state: RowState | None = None,
) -> BundledRow:
    """A row of a bundle.  Raises :class:`FormatError` for lines that are no entries, and for a line without its blind."""
    if (line is None) != (blind is None):
        raise FormatError("row: expected line and blind both null or neither")
    return BundledRow(
        table=table,
        generation=generation,
        seal=seal,
        schema_line=schema_line,
        schema=parse_entry(schema_line),
        schema_proof=tuple(schema_proof),
        entry_line=entry_line,
        entry=parse_entry(entry_line),
        proof=tuple(proof),
        line=line,
        blind=blind,
        state=state,
    )


def _read(value: Mapping[str, Any]) -> Bundle:
    """The bundle of a value whose outer shape holds; here everything inside is parsed."""
    return Bundle(
        created=parse_time(value["created"]),
        tool=value["tool"],
        sha256=value["sha256"],
        head=_read_note(value["checkpoint"], (), "bundle.checkpoint"),
        records=_read_each(value["records"], "bundle.records", _read_record),
        rows=_read_each(value["rows"], "bundle.rows", _read_row),
        tables=_read_each(value["tables"], "bundle.tables", _read_table),
        consistency=_read_each(value["consistency"], "bundle.consistency", _read_older),
        anchors=_read_each(value["anchors"], "bundle.anchors", parse_receipt),
        policy=_named("bundle.policy", lambda: parse_policy(value["policy"])),
    )


def _read_each(items: Sequence[Any], path: str, read: Callable[[Any, str], T]) -> tuple[T, ...]:
    return tuple(read(item, f"{path}[{index}]") for index, item in enumerate(items))


def _named(path: str, parse: Callable[[], T]) -> T:
    """What ``parse`` returns; its refusals name the ``path`` in the bundle."""
    try:
        return parse()
    except FormatError as error:
        raise FormatError(f"{path}: {error.message}") from None


def _read_note(note_text: str, proof: Sequence[bytes], path: str) -> SignedCheckpoint:
    note = _named(path, lambda: parse_note(note_text))
    checkpoint = _named(path, lambda: parse_checkpoint(note.text))
    if checkpoint.extensions:
        raise refuse(path, "a checkpoint without extension lines", checkpoint.extensions[0])
    return SignedCheckpoint(note, checkpoint, tuple(proof))


def _read_older(item: Mapping[str, Any], path: str) -> SignedCheckpoint:
    return _read_note(item["checkpoint"], _bytes_list(item["proof"]), path)


def _read_record(item: Mapping[str, Any], path: str) -> Proven:
    record = _named(path, lambda: record_from_json(item["record"]))
    return Proven(record, _bytes_list(item["proof"]))


def _read_row(item: Mapping[str, Any], path: str) -> BundledRow:
    state = item["state"]
    return _named(
        path,
        lambda: bundle_row(
            table=item["table"],
            generation=item["generation"],
            seal=item["seal"],
            schema_line=item["schema"].encode(),
            schema_proof=_bytes_list(item["schema_proof"]),
            entry_line=item["entry"].encode(),
            proof=_bytes_list(item["proof"]),
            line=None if item["line"] is None else item["line"].encode(),
            blind=None if item["blind"] is None else b64decode(item["blind"]),
            state=None if state is None else _read_state(state),
        ),
    )


def _read_state(state: Mapping[str, Any]) -> RowState:
    return RowState(state["verify"], tuple(bytes.fromhex(member) for member in state["bucket"]), _bytes_list(state["proof"]))


def _read_table(item: Mapping[str, Any], path: str) -> BundledTable:
    secret = None if item["secret"] is None else b64decode(item["secret"])
    return BundledTable(item["table"], item["generation"], secret, item["verify"])


def _format_row(row: BundledRow) -> dict[str, Any]:
    state = row.state
    return {
        "table": row.table,
        "generation": row.generation,
        "seal": row.seal,
        "schema": row.schema_line.decode(),
        "schema_proof": _base64_list(row.schema_proof),
        "entry": row.entry_line.decode(),
        "proof": _base64_list(row.proof),
        "line": None if row.line is None else _text(row.line),
        "blind": _base64(row.blind),
        "state": None
        if state is None
        else {
            "verify": state.verify,
            "bucket": [member.hex() for member in state.bucket],
            "proof": _base64_list(state.proof),
        },
    }


def _text(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError("row line: expected UTF-8, as a database in UTF8 sends it") from None


def _base64(data: bytes | None) -> str | None:
    return None if data is None else b64encode(data).decode("ascii")


def _base64_list(items: Sequence[bytes]) -> list[str]:
    return [b64encode(item).decode("ascii") for item in items]


def _bytes_list(items: Sequence[str]) -> tuple[bytes, ...]:
    return tuple(b64decode(item) for item in items)
