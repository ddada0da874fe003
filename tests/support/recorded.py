"""What a table log must hold, told without the node: rows as PostgreSQL prints them, transactions from a slot of the test.

Hashes are computed here with hashlib alone, from formats.md 1 and 2.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from tests.support.node import Protected
from tests.support.postgres import Database
from witnz.core.canonical import canonical
from witnz.core.entry import Entry, parse_entry
from witnz.core.record import Record, parse_record
from witnz.core.timestamp import PG_EPOCH_US
from witnz.core.verdict import CheckStatus
from witnz.postgres.publication import publication_names
from witnz.postgres.session import Conninfo, connect
from witnz.store import entries, logs
from witnz.store import journal as stored
from witnz.store.logs import LogRow
from witnz.verify.store import audit_store

JUDGE = "judge"


def hash_of(secret: bytes, line: bytes) -> bytes:
    """The row hash of a line (formats.md 1)."""
    return hashlib.sha256(hashlib.sha256(secret + line).digest() + line).digest()


# -- the database's side -------------------------------------------------------------------------------------------------------


def copy_lines(connection: psycopg.Connection[Any], query: str) -> list[bytes]:
    """The lines that COPY prints for a query, without their newlines."""
    with connection.cursor().copy(f"COPY ({query}) TO STDOUT".encode()) as copy:
        data = b"".join(bytes(part) for part in copy)
    assert data == b"" or data.endswith(b"\n")
    return data.split(b"\n")[:-1]


@contextmanager
def reader(database: Database) -> Iterator[psycopg.Connection[Any]]:
    """A superuser's connection with the settings of formats.md 1, but for a search path that finds the tests' tables."""
    with connect(Conninfo.from_conninfo(database.admin_dsn), scan=True) as connection:
        connection.execute("SET search_path = public")
        yield connection


@dataclass(frozen=True, slots=True)
class Rows:
    """What a table shows: its row lines in physical order, and their key lines (None: the table has no key)."""

    lines: list[bytes]
    keys: list[bytes] | None

    def line(self, key: bytes) -> bytes:
        """The one line of a key."""
        assert self.keys is not None
        (at,) = [i for i, other in enumerate(self.keys) if other == key]
        return self.lines[at]


def read_rows(connection: psycopg.Connection[Any], table: str, columns: str, key: str | None) -> Rows:
    """``table``, ``columns`` and ``key`` are SQL."""
    lines = copy_lines(connection, f"SELECT {columns} FROM ONLY {table} ORDER BY ctid")
    keys = copy_lines(connection, f"SELECT {key} FROM ONLY {table} ORDER BY ctid") if key else None
    return Rows(lines, keys)


@dataclass(frozen=True, slots=True)
class Committed:
    """A transaction as PostgreSQL's own decoding tells it."""

    final_lsn: int
    at: int
    """Microseconds since the Unix epoch."""
    xid: int


class Judge:
    """A second slot on the node's publications, read by the server's own SQL function."""

    def __init__(self, protected: Protected) -> None:
        self._database = protected.database
        self._publications = ",".join(publication_names(protected.config.publication))
        self._database.sql(f"SELECT pg_create_logical_replication_slot('{JUDGE}', 'pgoutput')", user="postgres")

    def transactions(self) -> dict[int, Committed]:
        """By xid, everything committed since this was made and published."""
        return {committed.xid: committed for committed, _ in self._told()}

    def changes(self, oid: int) -> list[tuple[Committed, bytes]]:
        """The row messages of a table in stream order, each as its letter and the kind of its first tuple: IN, UN, UK, UO …"""
        return [(at, kind) for at, messages in self._told() for kind, about in messages if about == oid]

    def _told(self) -> list[tuple[Committed, list[tuple[bytes, int]]]]:
        """(transaction, [(letters, OID of the table)]) in stream order."""
        out: list[tuple[Committed, list[tuple[bytes, int]]]] = []
        messages = ", 'messages', 'true'" if self._database.server.version >= 14 else ""
        for (data,) in self._database.sql(
            f"SELECT data FROM pg_logical_slot_peek_binary_changes('{JUDGE}', NULL, NULL, 'proto_version', '1',"
            f" 'publication_names', '{self._publications}'{messages})",
            user="postgres",
        ):
            message = bytes(data)
            if message[:1] == b"B":
                _, lsn, at, xid = struct.unpack(">cQqI", message)
                out.append((Committed(lsn, at + PG_EPOCH_US, xid), []))
            elif message[:1] in (b"I", b"U", b"D"):
                out[-1][1].append((message[:1] + message[5:6], int.from_bytes(message[1:5])))
        return out


def expected_schema_hint(connection: psycopg.Connection[Any], oid: int, columns: Sequence[str] | None = None) -> str:
    """The hint of the first ``schema`` entry, from the catalog; ``columns``: names, if not all that are not generated."""
    (identity,) = connection.execute("SELECT relreplident::text FROM pg_class WHERE oid = %s", [oid]).fetchone() or ("",)
    found = connection.execute(
        """SELECT a.attname::text, a.atttypid, a.atttypmod, a.attgenerated::text,
                  coalesce((SELECT a.attnum = ANY (i.indkey::int2[]) FROM pg_index i WHERE i.indrelid = a.attrelid
                            AND CASE c.relreplident WHEN 'i' THEN i.indisreplident WHEN 'd' THEN i.indisprimary
                                     ELSE false END AND i.indimmediate), false)
           FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
           WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum""",
        [oid],
    ).fetchall()
    described = [
        {"key": identity == "f" or key, "name": name, "typmod": typmod, "typoid": typoid}
        for name, typoid, typmod, generated, key in found
        if (name in columns if columns is not None else not generated)
    ]
    return canonical({"columns": described, "identity": identity, "oid": oid}).decode()


# -- the node's side -----------------------------------------------------------------------------------------------------------


def log_row(protected: Protected, table: str, generation: int | None = None) -> LogRow:
    """The register's row of a log, the newest generation unless told otherwise."""
    with protected.node.db.read() as conn:
        row = logs.find_log(conn, table, generation)
    assert row is not None, f"{table} has no log"
    return row


def recorded(protected: Protected, table: str, generation: int | None = None) -> list[Entry]:
    """Every entry of a log, parsed from the line that is hashed."""
    row = log_row(protected, table, generation)
    with protected.node.db.read() as conn:
        return [parse_entry(line) for line in entries.entries(conn, row.id)]


def records(protected: Protected, record_type: str | None = None, table: str | None = None) -> list[Record]:
    """The journal's records, of one type and about one table if that is asked for."""
    with protected.node.db.read() as conn:
        found = [parse_record(leaf) for leaf in stored.records(conn)]
    return [
        record
        for record in found
        if (record_type is None or record.type == record_type) and (table is None or record.body.get("table") == table)
    ]


def replayed(found: Sequence[Entry], *, keyed: bool) -> Counter[bytes | None]:
    """The row hashes that a log under ``record`` replays to, one entry after another."""
    rows: dict[bytes | str | int, bytes | None] = {}
    for entry in found:
        if entry.op == "truncate":
            rows.clear()
        elif entry.op == "delete":
            gone = _row_name(entry) if keyed else next(seq for seq, row in rows.items() if row == entry.row)
            assert gone in rows, f"entry {entry.seq} deletes a row that is not there"
            del rows[gone]
        elif entry.op != "schema":
            name = _row_name(entry) if keyed else entry.seq
            assert name not in rows or entry.op == "update", f"entry {entry.seq} doubles a row"
            rows[name] = entry.row
    return Counter(rows.values())


def _row_name(entry: Entry) -> bytes | str:
    assert entry.key is not None or entry.hidden_key is not None
    return entry.key if entry.key is not None else entry.hidden_key or ""


def audit_problems(protected: Protected) -> list[str]:
    """What the audit of the node's store finds wrong or cannot check; the node may run meanwhile."""
    audit = audit_store(protected.directory / "data" / "witnz.db")
    assert audit.checks
    return [f"{check.name}: {check.detail}" for check in audit.checks if check.status is not CheckStatus.OK]
