"""Is this file the table as it was recorded?  Offline, from an auditor package (``checkpoint export --with-logs``).

    bundle.witnz.json                        checkpoint, seals, verifications, and the secret of each generation
    journal/tile/entries/…                   every record up to the checkpoint
    logs/<table>/<generation>/tile/entries/… every entry up to the newest seal

The file holds row lines (formats.md 1), one a line.  Their hashes under the secret make a state root:

1.  it is that of a verification that found nothing: VERIFIED, and nothing else is needed;
2.  it is that of the accepted state at the newest seal, replayed from the log: VERIFIED;
3.  otherwise the rows are compared by key with everything that was ever recorded and accepted, and named.  A row of a known
    key that never stood so is TAMPERED; rows of keys that the log does not know may be newer than the checkpoint, and so may
    changes that come with them in a table that allows changes: INCONCLUSIVE.  If all rows were recorded, and together at one
    moment of the log, the file is of another snapshot than those two: INCONCLUSIVE.  If at no one moment, the rows that differ
    from the moment that fits best are named: TAMPERED where the change that parts them lies more than ten minutes off,
    INCONCLUSIVE within (a transaction may wait so long for a standby between its commit record and its being seen, so no
    snapshot needs to be a prefix of the log).

Memory is bounded: hashes are partitioned, everything by key lies in a scratch file of SQLite.
"""

from __future__ import annotations

import sqlite3
import tempfile
from array import array
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, Final

from witnz.core import hashing
from witnz.core.bundle import Bundle
from witnz.core.entry import Entry, parse_entry, parse_schema_hint
from witnz.core.journal import JournalState
from witnz.core.journal_facts import TableRecord
from witnz.core.keyplan import KeyPlan, key_text, state_key_of_entry
from witnz.core.merkle import leaf_hash
from witnz.core.record import Record, parse_record
from witnz.core.rowline import escape, secret_commitment
from witnz.core.tiles import MAX_BUNDLE_BYTES, TILE, Tree, parse_entry_bundle, tile_path
from witnz.core.verdict import Check
from witnz.errors import FormatError, UsageError
from witnz.store import granted, live, logs
from witnz.store.database import Database
from witnz.verify.bundle_rows import fail, ok, skip
from witnz.verify.partition import Partitions, state_tree
from witnz.verify.replay import Decisions, Intents, Replay, decisions_of

BATCH_ROWS: Final = 8192
MAX_LINE_BYTES: Final = 1 << 30
MAX_NAMED: Final = 20
IN_FLIGHT_US: Final = 600_000_000
"""How long a committed transaction may stay unseen."""


@dataclass(frozen=True, slots=True)
class TableLog:
    """One generation as the bundle shows it: its record, secret, newest seal (size and root)."""

    record: Record
    secret: bytes
    size: int
    root: bytes

    @property
    def table(self) -> str:
        return str(self.record.body["table"])

    @property
    def generation(self) -> int:
        return int(self.record.body["generation"])


def check_table_data(bundle: Bundle, table: str, data: BinaryIO, log_dir: Path | None, spill_dir: Path) -> Check:
    """One check of a file's rows, named after the table.  The bundle must have been verified: its records are believed here.

    ``log_dir``: the auditor package's folder.  Raises FormatError for a file or tiles that are not of their format.
    """
    name = f"table-data[{table}]"
    log = _log_of(bundle, table)
    if isinstance(log, str):
        return skip(name, log)
    found = Partitions(spill_dir)
    try:
        for lines in _lines(data):
            found.add_all(row for row in hashing.row_hashes(log.secret, lines) if row is not None)
        root = state_tree(found).root()
        for proven in bundle.records:
            if _verified(proven.record, log) == root:
                body = proven.record.body
                return ok(name, f"its {found.rows} rows are the table as verified at {body['lsn']}, record {proven.record.seq}")
        if log_dir is None:
            return skip(
                name, f"its {found.rows} rows are no state of a verification shown; with the logs (--log) they can be named"
            )
        return _compare(bundle, log, data, log_dir, spill_dir, name)
    finally:
        found.close()


def _log_of(bundle: Bundle, table: str) -> TableLog | str:
    """The newest generation of the table in the bundle, or why its rows cannot be compared."""
    records = [proven.record for proven in bundle.records]
    tables = [record for record in records if record.type == "table" and record.body["table"] == table]
    if not tables:
        return "the bundle shows no record of this table"
    record = max(tables, key=lambda one: one.body["generation"])
    generation = record.body["generation"]
    secrets = [item.secret for item in bundle.tables if (item.table, item.generation) == (table, generation) and item.secret]
    if not secrets or secret_commitment(secrets[0]) != record.body["secret_sha256"]:
        return "the bundle does not show the table's secret; an auditor package does (witnz checkpoint export --with-logs)"
    size, root = 0, b""
    for one in records:
        for head in one.body["tables"] if one.type == "seal" else ():
            if (head["table"], head["generation"]) == (table, generation) and head["size"] > size:
                size, root = head["size"], b64decode(head["root"])
    if not size:
        return "the bundle shows no seal of this table"
    return TableLog(record, secrets[0], size, root)


def _verified(record: Record, log: TableLog) -> bytes | None:
    """The state root of a verification of this generation that found nothing, None for any other record."""
    body = record.body
    if record.type != "verify" or (body["table"], body["generation"]) != (log.table, log.generation):
        return None
    clean = body["verdict"] == "VERIFIED" and body["mode"] == "snapshot" and not body["unresolved"] and not body["findings"]
    return b64decode(body["state_found"]) if clean and body["state_found"] == body["state_expected"] else None


def _lines(data: BinaryIO) -> Iterator[list[bytes]]:
    """The row lines of a file, some thousands at a time."""
    data.seek(0)
    held: list[bytes] = []
    while line := data.readline(MAX_LINE_BYTES):
        if not line.endswith(b"\n"):
            raise FormatError("table data: expected every row line to end in a newline, found the last one cut off")
        held.append(line[:-1])
        if len(held) >= BATCH_ROWS:
            yield held
            held = []
    if held:
        yield held


# -- the logs of the package --------------------------------------------------------------------------------------------------


def read_log(folder: Path, size: int, root: bytes, what: str) -> Iterator[bytes]:
    """The first ``size`` entries in a folder of tiles; raises FormatError, at the end, unless their root is ``root``.

    So nothing that comes out counts before the last has come out.
    """
    tree = Tree()
    for number in range(-(-size // TILE)):
        width = min(TILE, size - number * TILE)
        path = folder / tile_path("entries", number, width)
        try:
            with path.open("rb") as stream:
                entries = parse_entry_bundle(stream.read(MAX_BUNDLE_BYTES + 1))
        except OSError as error:
            raise UsageError(
                f"{path} cannot be read: {error.strerror}", hint="name the folder of an auditor package"
            ) from error
        if len(entries) != width:
            raise FormatError(f"{path}: expected {width} entries, found {len(entries)}")
        tree.append([leaf_hash(entry) for entry in entries])
        yield from entries
    if tree.root() != root:
        raise FormatError(f"{what}: its tiles are not those under the sealed root")


class _Recording(Replay):
    """A replay that notes which entries were accepted, as of the moment that they came."""

    accepted: bytearray

    def _accepts(self, entry: Entry, op: bytes, known: bool, *, erased: bool = False) -> bool:
        fine = super()._accepts(entry, op, known, erased=erased)
        self.accepted[entry.seq] = fine
        return fine


def _compare(bundle: Bundle, log: TableLog, data: BinaryIO, log_dir: Path, spill_dir: Path, name: str) -> Check:
    """Steps 2 and 3."""
    checkpoint = bundle.head.checkpoint
    state = JournalState()
    records = []
    for leaf in read_log(log_dir / "journal", checkpoint.size, checkpoint.root, "the journal"):
        record = parse_record(leaf)
        state.apply(record)
        records.append(record)
    folder = log_dir / "logs" / log.table / str(log.generation)
    decided = decisions_of(records).get((log.table, log.generation), Decisions())
    del records
    with tempfile.TemporaryDirectory(dir=spill_dir) as scratch_dir:
        scratch = Database.create(Path(scratch_dir) / "scratch.db")
        with scratch, scratch.write() as conn:
            return _Comparison(conn, log, name).run(lambda: read_log(folder, log.size, log.root, name), state, decided, data)


class _Comparison:
    """The log, its accepted history and the file, side by side in a scratch store."""

    def __init__(self, conn: sqlite3.Connection, log: TableLog, name: str) -> None:
        self.conn, self.log, self.name = conn, log, name
        self.keyed = bool(log.record.body["keys"]["columns"])
        self.times = array("q", bytes(8 * (log.size + 1)))
        conn.execute("CREATE TABLE version (k BLOB NOT NULL, seq INTEGER NOT NULL, hash BLOB, fine INTEGER NOT NULL)")
        conn.execute("CREATE TABLE here (k BLOB NOT NULL, hash BLOB NOT NULL)")
        conn.execute("CREATE TABLE now (k BLOB NOT NULL, hash BLOB NOT NULL)")

    def run(self, entries: Any, state: JournalState, decided: Decisions, data: BinaryIO) -> Check:
        columns, accepted = self._replay(entries, state, decided)
        self._load(data, columns)
        if not self._differ("here", "now") and not self._differ("now", "here"):
            rows = self.conn.execute("SELECT count(*) FROM here").fetchone()[0]
            return ok(self.name, f"its {rows} rows are the accepted state as sealed after entry {self.log.size}")
        del accepted
        return self._strange() or self._moment()

    def _replay(self, entries: Any, state: JournalState, decided: Decisions) -> tuple[tuple[str, ...], bytearray]:
        """Everything that was recorded, what was accepted of it, and what is accepted at the end."""
        conn, log, keyed = self.conn, self.log, self.keyed
        nonces: dict[str, int] = {}
        columns: tuple[str, ...] = ()
        rows = []
        for line in entries():
            entry = parse_entry(line)
            self.times[entry.seq] = entry.at
            if entry.op == "schema":
                schema = parse_schema_hint(entry.hint or "")
                if schema.sha256 is not None:
                    raise FormatError(f"{self.name}: the columns are too many to be described in the log; not supported here")
                columns = tuple(column.name for column in schema.columns)
                continue
            if entry.intent is not None:
                from witnz.core.message import parse_intent

                nonces.setdefault(parse_intent(entry.intent).nonce, entry.lsn)
            key = b"" if entry.op == "truncate" else self._key(line, entry)
            gone = entry.op in ("delete", "truncate")
            rows.append((key, entry.seq, None if gone else entry.row, entry.op == "truncate"))
            if len(rows) >= BATCH_ROWS:
                conn.executemany("INSERT INTO version VALUES (?, ?, ?, ?)", rows)
                rows = []
        conn.executemany("INSERT INTO version VALUES (?, ?, ?, ?)", rows)
        number = logs.insert_log(
            conn, table=log.table, generation=log.generation, origin="audited", oid=log.record.body["oid"], secret=log.secret,
            keyed=keyed, key_columns=list(log.record.body["keys"]["columns"]), chain="0" * 64,
        )  # fmt: skip
        conn.execute("UPDATE logs SET size = ? WHERE id = ?", (log.size, number))
        rules = TableRecord.from_record(log.record).rules
        replay = _Recording(conn, number, log.table, rules, Intents(state, nonces), decided, keyed=keyed)
        replay.accepted = bytearray(log.size + 1)
        replay.run(entries())
        flags = live.live_flags(conn, number)
        self._settle(flags, replay.accepted, number)
        return columns, replay.accepted

    def _key(self, line: bytes, entry: Entry) -> bytes:
        return state_key_of_entry(line, entry.seq, entry.row, keyed=True) if self.keyed else entry.row or b""

    def _settle(self, flags: bytearray, accepted: bytearray, number: int) -> None:
        """Mark what was accepted; fill the accepted state at the end."""
        conn = self.conn
        conn.create_function("fine", 1, lambda seq: accepted[seq], deterministic=True)
        conn.create_function("alive", 1, lambda seq: flags[seq], deterministic=True)
        conn.execute("INSERT INTO now SELECT k, hash FROM version WHERE hash IS NOT NULL AND alive(seq)")
        for seq in live.granted_seqs(conn, number):
            key, row_hash = granted.get(conn, number, seq)
            conn.execute("INSERT INTO now VALUES (?, ?)", (key if self.keyed else row_hash, row_hash))
            conn.execute("INSERT INTO version VALUES (?, ?, ?, 0)", (key if self.keyed else row_hash, self.log.size, row_hash))
        conn.execute("DELETE FROM version WHERE seq <= ? AND NOT fine(seq) AND NOT alive(seq)", (self.log.size,))
        conn.execute("CREATE INDEX version_k ON version (k, seq)")

    def _load(self, data: BinaryIO, columns: tuple[str, ...]) -> None:
        keys = self.log.record.body["keys"]
        plan = KeyPlan.of(keys["columns"], columns, self.log.secret, hidden=keys["form"] == "hidden")
        for lines in _lines(data):
            hashes = [row or b"" for row in hashing.row_hashes(self.log.secret, lines)]
            if self.keyed:
                for cells in {line.count(b"\t") + 1 for line in lines} - {len(columns)}:
                    raise FormatError(f"table data: expected rows of {len(columns)} columns, found one of {cells}")
            states = plan.state_keys(lines)[0] if self.keyed else hashes
            self.conn.executemany("INSERT INTO here VALUES (?, ?)", zip(states, hashes, strict=True))
        self.conn.execute("CREATE INDEX here_k ON here (k)")
        self.conn.execute("CREATE INDEX now_k ON now (k)")

    def _differ(self, left: str, right: str) -> bool:
        """Whether a table holds what the other does not, counting equal rows."""
        counted = "SELECT k, hash, count(*) FROM {} GROUP BY k, hash"
        query = f"{counted.format(left)} EXCEPT {counted.format(right)} LIMIT 1"  # names of our own
        return self.conn.execute(query).fetchone() is not None

    def _strange(self) -> Check | None:
        """Rows of the file that were never an accepted version of their key."""
        never = "NOT EXISTS (SELECT 1 FROM version v WHERE v.k = here.k AND v.hash = here.hash)"
        known = "EXISTS (SELECT 1 FROM version v WHERE v.k = here.k)"
        changed = self._named(f"FROM here WHERE {never} AND {known}")
        new = self._named(f"FROM here WHERE {never} AND NOT {known}")
        twice = self._named("FROM (SELECT k FROM here GROUP BY k HAVING count(*) > 1)") if self.keyed else (0, "")
        if twice[0]:
            return fail(self.name, f"{twice[0]} keys stand in the file twice: {twice[1]}")
        if changed[0] and (self.log.record.body["mode"] == "append_only" or not new[0]):
            return fail(self.name, f"{changed[0]} rows are not as they were ever accepted up to the checkpoint: {changed[1]}")
        if changed[0] or new[0]:
            many, named = changed[0] + new[0], "; ".join(filter(None, (changed[1], new[1])))
            return skip(self.name, f"{many} rows are not in the log up to the checkpoint, so newer or never recorded: {named}")
        return None

    def _named(self, query: str) -> tuple[int, str]:
        """How many rows a query of ours gives, and the keys of the first."""
        many = self.conn.execute(f"SELECT count(*) {query}").fetchone()[0]
        keys = [self._text(bytes(key)) for (key,) in self.conn.execute(f"SELECT k {query} ORDER BY k LIMIT {MAX_NAMED}")]
        return many, "; ".join(keys)

    def _text(self, key: bytes) -> str:
        if not self.keyed:
            return f"row hash {key.hex()}"
        hidden = key.startswith(b"\\H")
        return f"key {key_text(key if hidden else escape(key))}"

    def _moment(self) -> Check:
        """All rows were accepted once: at one moment together?"""
        if not self.keyed:
            return skip(self.name, "every row was recorded once, but together they are neither a verified nor the sealed state")
        size = self.log.size
        steps = array("q", bytes(8 * (size + 2)))
        total = 0
        for _, spans in self._spans():
            total += 1
            for first, end in spans:
                steps[first] += 1
                steps[end] -= 1
        best, at, running = -1, 0, 0
        for seq in range(size + 1):
            running += steps[seq]
            if running >= best:
                best, at = running, seq
        if best == total:
            return skip(
                self.name, f"its rows are the table as recorded after entry {at}: another snapshot than verified or sealed"
            )
        return self._torn(at, total - best)

    def _torn(self, at: int, many: int) -> Check:
        named: list[str] = []
        far = False
        for key, spans in self._spans():
            if any(first <= at < end for first, end in spans):
                continue
            edges = [min(max(edge, 1), self.log.size) for span in spans for edge in span]
            nearest = min((abs(self.times[edge] - self.times[max(at, 1)]) for edge in edges), default=IN_FLIGHT_US + 1)
            far |= nearest > IN_FLIGHT_US
            if len(named) < MAX_NAMED:
                named.append(f"{self._text(key)} {'is of another time' if self._is_here(key) else 'is missing'}")
        detail = f"{many} rows are not of the moment of the others (entry {at}): {'; '.join(named)}"
        return (
            fail(self.name, detail)
            if far
            else skip(self.name, f"{detail}; a transaction that had just committed may explain it")
        )

    def _is_here(self, key: bytes) -> bool:
        return self.conn.execute("SELECT 1 FROM here WHERE k = ?", (key,)).fetchone() is not None

    def _spans(self) -> Iterator[tuple[bytes, list[tuple[int, int]]]]:
        """Of every key ever recorded: during which sizes of the log it was as the file has it, as half-open ranges."""
        size = self.log.size
        emptied = [
            seq for (seq,) in self.conn.execute("SELECT seq FROM version WHERE k = ? AND hash IS NULL ORDER BY seq", (b"",))
        ]
        query = """
            SELECT v.k, v.seq, v.hash, (SELECT h.hash FROM here h WHERE h.k = v.k)
            FROM version v WHERE v.k <> ? ORDER BY v.k, v.seq
        """
        for key, group in groupby(self.conn.execute(query, (b"",)), key=lambda row: bytes(row[0])):
            rows = list(group)
            wanted = rows[0][3]
            events: list[tuple[int, Any]] = [(0, None), *((row[1], row[2]) for row in rows), *((seq, None) for seq in emptied)]
            events.sort(key=lambda event: event[0])
            ends = [*(seq for seq, _ in events[1:]), size + 1]
            yield key, [(seq, end) for (seq, value), end in zip(events, ends, strict=True) if value == wanted and seq < end]
