"""The rows and tables of a bundle: rules 4 to 6 of formats.md 6.

Everything here rests on the bundle's ``records``; that those stand under the checkpoint, and that the checkpoint is anybody's,
is checked in :mod:`witnz.verify.bundle`.  Nothing raises: what does not fit is a check that failed, what cannot be checked one
that was skipped.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from witnz.core.bundle import Bundle, BundledRow, BundledTable
from witnz.core.entry import MAX_KEY, content_hash, hide_key, parse_schema_hint
from witnz.core.merkle import verify_inclusion
from witnz.core.record import Record
from witnz.core.rowline import secret_commitment, split_cells
from witnz.core.state import bucket_of, verify_bucket
from witnz.core.timestamp import format_time
from witnz.core.verdict import Check, CheckStatus

ROW_OPS = ("baseline", "insert", "update")
"""Operations after which a row is there."""

NOT_CHECKED_LATER = "recorded; whether it was changed later: not checked"


@dataclass(frozen=True, slots=True)
class RowResult:
    """What a bundle shows of one entry, worth what the verdict on the whole bundle is worth.

    ``key`` is the text of the key line, or ``\\H`` and its hash; ``line_shown``: the row's own values are in the bundle;
    ``verified_lsn`` and ``verified_at`` (None: not shown): where and when a verification found the row in the table.
    """

    table: str
    generation: int
    seq: int
    op: str
    key: str | None
    line_shown: bool
    verified_lsn: str | None
    verified_at: str | None

    @property
    def statement(self) -> str:
        """One sentence for people."""
        row = "the row with its values" if self.line_shown else "the row's hash only"
        key = "a row" if self.key is None else "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in self.key)
        said = f"{self.op} of {key} as entry {self.seq} ({row})"
        if self.verified_lsn is None:
            return f"{said}: {NOT_CHECKED_LATER}"
        return f"{said}: recorded, and in the table as verified at {self.verified_lsn} ({self.verified_at})"

    def to_json(self) -> dict[str, Any]:
        """The row as a member of a JSON answer."""
        return {
            "table": self.table,
            "generation": self.generation,
            "seq": self.seq,
            "op": self.op,
            "key": self.key,
            "line_shown": self.line_shown,
            "verified_lsn": self.verified_lsn,
            "verified_at": self.verified_at,
            "statement": self.statement,
        }


def ok(name: str, detail: str) -> Check:
    """A check that passed."""
    return Check(name, CheckStatus.OK, detail)


def fail(name: str, detail: str) -> Check:
    """A check that found something that does not fit."""
    return Check(name, CheckStatus.FAIL, detail)


def skip(name: str, detail: str) -> Check:
    """A check that was asked for and could not be made."""
    return Check(name, CheckStatus.SKIP, detail)


@dataclass(frozen=True, slots=True)
class Shown:
    """A bundle's records by position, and by (table, generation) its ``table`` records and the secrets that fit them."""

    records: tuple[Record, ...]
    tables: Mapping[tuple[str, int], Record]
    secrets: Mapping[tuple[str, int], bytes]

    @classmethod
    def of(cls, bundle: Bundle) -> Shown:
        records = tuple(proven.record for proven in bundle.records)
        # The first of two claimed records of one generation: at most one of them can be in the checkpoint's tree.
        tables = {(r.body["table"], r.body["generation"]): r for r in reversed(records) if r.type == "table"}
        secrets = {}
        for table in bundle.tables:
            log = (table.table, table.generation)
            if table.secret is not None and log in tables and _fits(table.secret, tables[log]):
                secrets[log] = table.secret
        return cls(records, tables, secrets)

    def at(self, position: int) -> Record | None:
        """The record that ``seal`` or ``verify`` names, None where there is none."""
        return self.records[position] if position < len(self.records) else None


def _fits(secret: bytes, record: Record) -> bool:
    return bool(secret_commitment(secret) == record.body["secret_sha256"])


def check_row(shown: Shown, row: BundledRow, name: str) -> tuple[list[Check], RowResult]:
    """Rules 4 and 5 for one row of a bundle."""
    checks = [_check_log(shown, row, f"{name}.log")]
    checks += _check_line(shown, row, name)
    verified = None
    if row.state is not None:
        verified = shown.at(row.state.verify)
        checks.append(_check_state(verified, row, f"{name}.state"))
    in_state = verified is not None and checks[-1].status is CheckStatus.OK
    return checks, RowResult(
        table=row.table,
        generation=row.generation,
        seq=row.entry.seq,
        op=row.entry.op,
        key=_key_text(row),
        line_shown=row.line is not None,
        verified_lsn=verified.body["lsn"] if in_state and verified is not None else None,
        verified_at=format_time(verified.at) if in_state and verified is not None else None,
    )


def _key_text(row: BundledRow) -> str | None:
    if row.entry.hidden_key is not None:
        return f"\\H{row.entry.hidden_key}"
    return None if row.entry.key is None else row.entry.key.decode()


def _check_log(shown: Shown, row: BundledRow, name: str) -> Check:
    """The seal lists the log, and entry and schema entry are in its root."""
    seal = shown.at(row.seal)
    if seal is None or seal.type != "seal":
        return fail(name, f"records[{row.seal}] is no seal")
    heads = [head for head in seal.body["tables"] if (head["table"], head["generation"]) == (row.table, row.generation)]
    if len(heads) != 1:
        return fail(name, f"the seal in records[{row.seal}] does not list {row.table}/{row.generation} once")
    if row.schema.op != "schema" or row.schema.seq >= row.entry.seq:
        return fail(name, "its schema entry is no schema entry that stands before it")
    size, root = heads[0]["size"], b64decode(heads[0]["root"])
    if not verify_inclusion(row.entry.seq - 1, size, content_hash(row.entry_line), row.proof, root):
        return fail(name, f"entry {row.entry.seq} is not in the log of {row.table}/{row.generation} sealed at size {size}")
    if not verify_inclusion(row.schema.seq - 1, size, content_hash(row.schema_line), row.schema_proof, root):
        return fail(name, f"schema entry {row.schema.seq} is not in the log of {row.table}/{row.generation} at size {size}")
    return ok(name, f"entry {row.entry.seq} of {row.table}/{row.generation} is in the log sealed at size {size}")


def _check_line(shown: Shown, row: BundledRow, name: str) -> list[Check]:
    """The row's own values, where they are shown: hash, number of columns, key."""
    line_name = f"{name}.line"
    if row.entry.row is None and row.entry.op in ROW_OPS:
        return [skip(line_name, f"entry {row.entry.seq} is unresolved: its stream did not carry the whole row")]
    if row.line is None or row.blind is None:
        return []
    if sha256(row.blind + row.line).digest() != row.entry.row:
        return [fail(line_name, f"the row line shown is not the one recorded by entry {row.entry.seq}")]
    if row.schema.op != "schema" or row.schema.hint is None:
        return [fail(line_name, "there is no schema entry to read the row line by")]
    schema = parse_schema_hint(row.schema.hint)
    if schema.sha256 is not None:
        return [skip(line_name, "the columns are too many to be described in the log; their names are not in the bundle")]
    cells = split_cells(row.line)
    if len(cells) != len(schema.columns):
        return [fail(line_name, f"the row line has {len(cells)} columns, its schema entry {len(schema.columns)}")]
    values = dict(zip((column.name for column in schema.columns), cells, strict=True))
    hashed = ok(line_name, f"the row line is the one recorded by entry {row.entry.seq}")
    return [hashed, _check_key(shown, row, values, f"{name}.key")]


def _check_key(shown: Shown, row: BundledRow, values: Mapping[str, bytes], name: str) -> Check:
    """The entry's key is made of the cells that the generation's ``table`` record names."""
    record = shown.tables.get((row.table, row.generation))
    if record is None:
        return fail(name, f"the table record of {row.table}/{row.generation} is not among the records")
    keys = record.body["keys"]
    missing = [column for column in keys["columns"] if column not in values]
    if missing:
        return fail(name, f"the key column {missing[0]!r} is not in the schema entry")
    if not keys["columns"]:
        keyless = row.entry.key is None and row.entry.hidden_key is None
        return ok(name, "the table has no key columns") if keyless else fail(name, "a key stands where the table has none")
    key_line = b"\t".join(values[column] for column in keys["columns"])
    if keys["form"] == "plain" and len(key_line) <= MAX_KEY:
        fits = row.entry.key == key_line
        return ok(name, "the key is that of the row line") if fits else fail(name, "the key is not that of the row line")
    if row.entry.hidden_key is None:
        return fail(name, "the key stands in the open, or is missing, where it must be hidden")
    secret = shown.secrets.get((row.table, row.generation))
    if secret is None:
        return skip(name, "the key is hidden and the table's secret is not in the bundle")
    fits = hide_key(key_line, secret) == row.entry.hidden_key
    return ok(name, "the hidden key is that of the row line") if fits else fail(name, "the hidden key is another row's")


def _check_state(record: Record | None, row: BundledRow, name: str) -> Check:
    """Rule 5: a verification that found nothing wrong had this very row in the table."""
    state, entry = row.state, row.entry
    if state is None or record is None or not _is_verification(record, row.table, row.generation):
        return fail(name, f"the record named is no verification of {row.table}/{row.generation}")
    body = record.body
    if body["mode"] != "snapshot" or not _found_nothing(body):
        return fail(name, "the verification named is none of one snapshot that found everything as expected")
    if body["size"] < entry.seq:
        return fail(name, f"the verification named covers {body['size']} entries, not entry {entry.seq}")
    if entry.op not in ROW_OPS or entry.row is None:
        return fail(name, f"after a {entry.op} there is no row that could be part of a state")
    if entry.row not in state.bucket:
        return fail(name, "the row is not in the bucket of the state shown")
    if not verify_bucket(bucket_of(entry.row), state.bucket, state.proof, b64decode(body["state_found"])):
        return fail(name, "the bucket shown is not in the state root that was verified")
    return ok(name, f"the row was in the table as verified at {body['lsn']}, {format_time(record.at)}")


def _is_verification(record: Record, table: str, generation: int) -> bool:
    return record.type == "verify" and (record.body["table"], record.body["generation"]) == (table, generation)


def _found_nothing(body: Mapping[str, Any]) -> bool:
    agree = body["state_found"] == body["state_expected"] and not body["unresolved"] and not body["findings"]
    return bool(body["verdict"] == "VERIFIED" and agree)


def check_table(shown: Shown, table: BundledTable, name: str) -> list[Check]:
    """Rule 6 for one item of ``tables``."""
    record = shown.tables.get((table.table, table.generation))
    if record is None:
        return [fail(f"{name}.record", f"the table record of {table.table}/{table.generation} is not among the records")]
    rules = f"{record.body['mode']}, generation {table.generation}, recorded since {record.body['lsn']}"
    checks = [ok(f"{name}.record", f"{table.table}: {rules}")]
    if table.secret is not None:
        fits = _fits(table.secret, record)
        detail = "the secret is the one committed to" if fits else "the secret is not the one that the table record commits to"
        checks.append(ok(f"{name}.secret", detail) if fits else fail(f"{name}.secret", detail))
    if table.verify is not None:
        checks.append(_check_verification(shown.at(table.verify), table, f"{name}.verify"))
    return checks


def _check_verification(record: Record | None, table: BundledTable, name: str) -> Check:
    if record is None or not _is_verification(record, table.table, table.generation):
        return fail(name, f"the record named is no verification of {table.table}/{table.generation}")
    body = record.body
    when = f"{body['rows']} rows as of {body['lsn']}, {format_time(record.at)}"
    if body["verdict"] == "INCONCLUSIVE":
        return skip(name, f"the verification of {when} was itself inconclusive")
    if not _found_nothing(body):
        return fail(name, f"the verification of {when} found the table not as recorded")
    return ok(name, f"{table.table} was as recorded: {when}")
