"""Bundles of a store: what a checkpoint covers, and what was recorded of a row, for people who trust nobody here
(formats.md 6).

Everything is read from the store in one moment and needs no running node.  The note of a bundle is the newest checkpoint that
has its quorum, or the one asked for; every record is proved under it, every entry under the seal that covers it, a row's hash
under the state root of a verification that found nothing.
"""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from witnz import __version__
from witnz.core.bundle import BundledRow, BundledTable, RowState, build_bundle, bundle_row
from witnz.core.checkpoint import parse_checkpoint
from witnz.core.entry import parse_entry
from witnz.core.journal_view import JournalView
from witnz.core.keyplan import key_text
from witnz.core.note import parse_note
from witnz.core.periods import KEY_RECORDS, periods_of
from witnz.core.receipt import Receipt, recall_receipt
from witnz.core.record import Record, parse_record, recall_record
from witnz.core.rowline import escape, row_blind
from witnz.core.state import bucket_of, split_hashes
from witnz.core.tiles import consistency_proof, inclusion_proof
from witnz.errors import Inconclusive, StoreCorrupt, StoreFull, UsageError
from witnz.store import checkpoints, entries, export, logs, verified_states
from witnz.store import journal as stored
from witnz.store.database import Database
from witnz.store.seals import first_covering, heads_of, naming, newest_sealed
from witnz.verify.expected import saved_state
from witnz.verify.partition import Partitions, state_tree

BUNDLE_FILE: Final = "bundle.witnz.json"
"""Of an auditor package."""

MAX_VERIFICATIONS: Final = 100
"""Of one table in an auditor package, the newest ones."""

RowLine = Callable[[sqlite3.Connection, int, int], bytes | None]
"""(conn, log, seq) -> the row line of an entry, from a retained image or from the live table; None if neither has it."""


@dataclass(frozen=True, slots=True)
class _Journal:
    """The journal up to a checkpoint, by what bundles look for."""

    note: str
    size: int
    conn: sqlite3.Connection
    state: JournalView | None = None

    def of(self, *types: str, naming: str = "") -> Iterator[Record]:
        """The records of these types, in order; with ``naming`` only those in which this text stands."""
        for _, leaf in stored.records_of(self.conn, *types, naming=naming, to_seq=self.size):
            yield parse_record(leaf)

    def newest_first(self, *types: str, naming: str = "") -> Iterator[Record]:
        """The same from the end on."""
        for _, leaf in stored.records_of(self.conn, *types, naming=naming, to_seq=self.size, newest_first=True):
            yield parse_record(leaf)

    def newest(self, record_type: str, **members: Any) -> Record | None:
        """The newest record of a type whose body has these members."""
        for record in self.newest_first(record_type, naming=members.get("table", "")):
            if all(record.body.get(name) == value for name, value in members.items()):
                return record
        return None

    def proof(self, record: Record) -> list[bytes]:
        read = stored.tile_reader(self.conn, self.size)
        return inclusion_proof(read, (record.seq or 1) - 1, self.size)

    def seal_of(self, table: str, generation: int, seq: int) -> tuple[Record, int] | None:
        """The first seal that covers an entry, and the log's size in it."""
        sealed = first_covering(self.conn, (table, generation), seq, self.size, self.state)
        return None if sealed is None else (parse_record(stored.record_at(self.conn, sealed.seq)), sealed.size)

    def newest_of_tables(self, *, verifications: int = 0) -> Newest:
        """The newest seal of each table, and its newest verifications that found nothing, in one walk from the end on.

        No walk for tables of which the state knows their newest seal, as long as no verifications are asked for.
        """
        tables = {record.body["table"]: record for record in self.of("table")}
        found = Newest(tables)
        if not verifications and self.state is not None:
            self._newest_known(found, self.state)
            return found
        missing, named = set(tables), naming(tables)
        wanted = ("seal", "verify") if verifications else ("seal",)
        for seq, leaf in stored.records_of(self.conn, *wanted, to_seq=self.size, newest_first=True) if tables else ():
            if not missing and not verifications:
                break
            if leaf.endswith(b'"verify"}'):
                found.add_verification(parse_record(leaf), verifications)
            elif missing and named.search(leaf):
                missing -= found.add_seal(heads_of(leaf), seq)
                named = naming(missing)
        return found

    def _newest_known(self, found: Newest, state: JournalView) -> None:
        """The newest seal of each table, of its newest generation or the last one before that was sealed."""
        left = {table: int(record.body["generation"]) for table, record in found.tables.items()}
        while left:
            sealed = newest_sealed(self.conn, left.items(), self.size, state)
            for (table, generation), head in sealed.items():
                found.heads[table] = (generation, head.size, head.seq)
            left = {table: generation - 1 for table, generation in left.items() if table not in found.heads and generation > 1}


@dataclass(slots=True)
class Newest:
    """What a checkpoint bundle shows of each table, by its name.

    ``tables``: its newest ``table`` record; ``heads``: generation, sealed size and seq of the newest seal that names it, which
    may still be of the generation before; ``clean``: seqs of verifications of the newest generation that found nothing.
    """

    tables: dict[str, Record]
    heads: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    clean: dict[str, list[int]] = field(default_factory=dict)

    def add_seal(self, heads: list[dict[str, Any]], seq: int) -> set[str]:
        """Take over what no later seal named; the tables that a seal names."""
        for head in heads:
            at = (head["generation"], head["size"], seq)
            have = self.heads.get(head["table"])
            if have is None or (have[2] == seq and have < at):
                self.heads[head["table"]] = at
        return {head["table"] for head in heads}

    def add_verification(self, record: Record, most: int) -> None:
        """Note a verification that found nothing, while there are fewer than ``most``."""
        body, known = record.body, self.tables.get(record.body["table"])
        seqs = self.clean.setdefault(body["table"], [])
        own = known is not None and body["generation"] == known.body["generation"]
        if own and len(seqs) < most and (body["verdict"], body["mode"]) == ("VERIFIED", "snapshot"):
            seqs.append(record.seq or 0)

    def seal_of(self, table: str) -> int | None:
        """The seq of the newest seal of a table's newest generation."""
        generation, _, seq = self.heads.get(table, (0, 0, 0))
        return seq if generation == self.tables[table].body["generation"] else None


class Evidence:
    """Builds bundles.  ``clock``: µs since the Unix epoch.  ``state``: what the journal says by now, where somebody has it, so
    that the seals in the bundle of a checkpoint need not be searched for."""

    def __init__(self, db: Database, clock: Callable[[], int], state: JournalView | None = None) -> None:
        self._db, self._clock, self._state_now = db, clock, state

    def checkpoint_bundle(self, size: int | None = None) -> bytes:
        """The bundle of a checkpoint: genesis, and of every table its ``table`` record and newest seal."""
        with self._db.read() as conn:
            journal = self._journal(conn, size)
            return self._checkpoint(journal, journal.newest_of_tables())

    def auditor_package(self, directory: Path, size: int | None = None) -> dict[str, Any]:
        """Write a checkpoint's bundle, with secrets and clean verifications, and the logs that it covers; what was written.

        ``bundle.witnz.json``, and as C2SP tiles ``journal/`` and ``logs/<table>/<generation>/``.

        Raises UsageError for a directory that holds something, StoreFull where nothing can be written.
        """
        if directory.exists() and any(directory.iterdir()):
            raise UsageError(f"{directory} is not empty", hint="name a new directory; nothing is overwritten")
        with self._db.read() as conn:
            journal = self._journal(conn, size)
            newest = journal.newest_of_tables(verifications=MAX_VERIFICATIONS)
            data = self._checkpoint(journal, newest, secrets=True)
            try:
                directory.mkdir(parents=True, exist_ok=True)
                directory.chmod(0o700)
                (directory / BUNDLE_FILE).write_bytes(data)
            except OSError as error:
                raise StoreFull(f"{directory} cannot be written: {error.strerror}") from error
            export.export_journal(conn, directory / "journal", journal.size)
            written = []
            for table, (generation, sealed, _) in sorted(newest.heads.items()):
                folder = directory / "logs" / table / str(generation)
                export.export_tiles(conn, self._log(conn, table, generation), folder, sealed)
                written.append({"table": table, "generation": generation, "size": sealed})
        return {"bundle": BUNDLE_FILE, "size": journal.size, "bytes": len(data), "logs": written}

    def _checkpoint(self, journal: _Journal, newest: Newest, *, secrets: bool = False) -> bytes:
        """The bundle of a checkpoint; with ``secrets``, those of the newest generations, and their verifications."""
        conn, bundled, chosen = journal.conn, [], {1}
        for table, record in newest.tables.items():
            chosen.add(record.seq or 0)
            seal, generation = newest.seal_of(table), record.body["generation"]
            if seal is None:
                continue
            chosen.add(seal)
            if secrets:
                chosen.update(newest.clean.get(table, ()))
                secret = logs.get_log(conn, self._log(conn, table, generation)).secret
                bundled.append(BundledTable(table, generation, secret or None, None))
        records = [parse_record(stored.record_at(conn, seq)) for seq in sorted(chosen)]
        return self._build(journal, records, tables=bundled)

    def row_bundle(self, table: str, key: bytes, *, seq: int | None = None, row_line: RowLine | None = None) -> bytes:
        """The bundle of what was recorded under a key: its newest entry, or the one with this seq."""
        with self._db.read() as conn:
            journal = self._journal(conn, None)
            record = journal.newest("table", table=table)
            if record is None:
                raise UsageError(f"{table} is not protected", hint="`witnz status` lists the protected tables")
            generation = record.body["generation"]
            log = self._log(conn, table, generation)
            found = seq if seq is not None else newest_of_key(conn, log, key)
            if found is None:
                raise UsageError(
                    f"nothing is recorded under key {key_text(key)!r} of {table}",
                    hint="give the key as PostgreSQL prints it; for several columns col=value,col=value; "
                    f"`witnz log show {table}` lists what is recorded",
                )
            return self._row(journal, record, log, found, row_line)

    # -- parts ----------------------------------------------------------------------------------------------------------------

    def _journal(self, conn: sqlite3.Connection, size: int | None) -> _Journal:
        """The journal under the newest checkpoint that has its quorum, or under the one of this size, which may lack it."""
        saved = checkpoints.latest(conn, final=True) if size is None else checkpoints.get(conn, size)
        if saved is None:
            what = "no checkpoint that has its quorum" if size is None else f"no checkpoint of size {size}"
            raise UsageError(
                f"there is {what} yet", hint="`witnz checkpoint list` shows those there are; one is made at each seal"
            )
        at = parse_checkpoint(parse_note(saved.note).text).size
        return _Journal(saved.note, at, conn, self._state_now)

    def _log(self, conn: sqlite3.Connection, table: str, generation: int) -> int:
        row = logs.find_log(conn, table, generation)
        if row is None:
            raise StoreCorrupt(f"the journal names {table}, generation {generation}, and the store has no such log")
        return row.id

    def _row(self, journal: _Journal, table: Record, log: int, seq: int, row_line: RowLine | None) -> bytes:
        name, generation = table.body["table"], table.body["generation"]
        sealed = journal.seal_of(name, generation, seq)
        if sealed is None:
            raise Inconclusive(f"entry {seq} of {name} is not under a checkpoint yet; try again after the next seal")
        seal, size = sealed
        conn = journal.conn
        entry_line = entries.entry_at(conn, log, seq)
        schema_seq = schema_seq_before(conn, log, seq)
        read = entries.tile_reader(conn, log, size)
        entry = parse_entry(entry_line)
        line = row_line(conn, log, seq) if row_line is not None and entry.row is not None else None
        secret = logs.get_log(conn, log).secret
        verify, state = self._state(journal, log, name, generation, seq, entry.row)
        records = [r for r in (journal.newest("genesis"), table, seal, verify) if r is not None]
        records = sorted({r.seq: r for r in records}.values(), key=lambda r: r.seq or 0)
        place = {record.seq: index for index, record in enumerate(records)}
        row = bundle_row(
            table=name,
            generation=generation,
            seal=place[seal.seq],
            schema_line=entries.entry_at(conn, log, schema_seq),
            schema_proof=inclusion_proof(read, schema_seq - 1, size),
            entry_line=entry_line,
            proof=inclusion_proof(read, seq - 1, size),
            line=line,
            blind=row_blind(secret, line) if line is not None else None,
            state=RowState(place[verify.seq], *state) if verify is not None and state is not None else None,
        )
        bundled = BundledTable(name, generation, None, place[verify.seq] if verify is not None else None)
        return self._build(journal, records, rows=[row], tables=[bundled])

    def _state(
        self, journal: _Journal, log: int, table: str, generation: int, seq: int, row_hash: bytes | None
    ) -> tuple[Record | None, tuple[tuple[bytes, ...], tuple[bytes, ...]] | None]:
        """The newest verification that found nothing and covers the entry, and the row's place in its state root.

        The store keeps which entries were alive in the newest such state; where the row is not among them, there is no place.
        """
        record = journal.newest("verify", table=table, generation=generation, verdict="VERIFIED", mode="snapshot")
        if record is None or record.body["size"] < seq:
            return None, None
        if row_hash is None:
            return record, None
        return record, self._place(journal.conn, log, record, row_hash)

    def _place(
        self, conn: sqlite3.Connection, log: int, verify: Record, row_hash: bytes
    ) -> tuple[tuple[bytes, ...], tuple[bytes, ...]] | None:
        """(bucket, proof) of a row hash in the state that a ``verify`` record names."""
        saved = verified_states.get(conn, log)
        if saved is None or saved.journal_seq != verify.seq:
            return None
        bucket, hashes = bucket_of(row_hash), Partitions(self._db.path.parent)
        try:
            for block in saved_state(conn, log, saved):
                hashes.add(block)
            members = tuple(member for member in split_hashes(hashes.sorted(row_hash[0])) if bucket_of(member) == bucket)
            tree = state_tree(hashes)
        finally:
            hashes.close()
        if base64.b64encode(tree.root()).decode() != verify.body["state_expected"] or row_hash not in members:
            return None
        return members, tuple(tree.proof(bucket))

    def _build(
        self,
        journal: _Journal,
        records: list[Record],
        *,
        rows: list[BundledRow] | None = None,
        tables: list[BundledTable] | None = None,
    ) -> bytes:
        receipts = newest_receipts(journal.conn, journal.size)
        return build_bundle(
            checkpoint=journal.note,
            records=[(record, journal.proof(record)) for record in records],
            rows=rows or [],
            tables=tables or [],
            consistency=_older(journal, {receipt["size"] for receipt in receipts}),
            anchors=receipts,
            policy=periods_of(journal.of(*KEY_RECORDS)).now.policy(),
            created=self._clock(),
            tool=f"witnz {__version__}",
        )


def newest_receipts(conn: sqlite3.Connection, size: int) -> list[dict[str, Any]]:
    """The newest receipt of each place for a checkpoint of at most ``size`` records whose note is here."""
    newest: dict[tuple[str, str], Receipt] = {}
    for _, leaf in stored.records_of(conn, "anchor"):
        receipt = recall_receipt(recall_record(leaf).body["receipt"])
        if receipt.size > size:
            continue
        before = newest.get((receipt.type, receipt.place))
        if before is None or receipt.size >= before.size:
            newest[receipt.type, receipt.place] = receipt
    return [dict(receipt.members) for receipt in newest.values() if checkpoints.get(conn, receipt.size) is not None]


def _older(journal: _Journal, sizes: set[int]) -> list[tuple[str, list[bytes]]]:
    """The older checkpoints that receipts are for, each with its proof."""
    read = stored.tile_reader(journal.conn, journal.size)
    notes = {size: checkpoints.get(journal.conn, size) for size in sorted(sizes) if size < journal.size}
    return [(saved.note, consistency_proof(read, size, journal.size)) for size, saved in notes.items() if saved is not None]


def newest_of_key(conn: sqlite3.Connection, log: int, key: bytes) -> int | None:
    """The seq of the newest entry under a state key; of a row that is gone, that of its deletion."""
    field = key if key.startswith(b"\\H") else escape(key)
    newest = None
    for line in entries.entries_with_key(conn, log, field):
        newest = parse_entry(line).seq
    return newest


def schema_seq_before(conn: sqlite3.Connection, log: int, seq: int) -> int:
    """The seq of the schema entry in force for an entry."""
    newest = logs.get_log(conn, log).schema_seq
    if newest < seq:
        return newest
    found = 1
    for line in entries.entries(conn, log, 1, seq - 1):
        if line.split(b"\t", 3)[2] == b"schema":
            found = parse_entry(line).seq
    return found
