"""Catching up from the other members: a node that joins, was away for too long, lost its slot, or fell into the minority.

    journal        validated from genesis, held against cosigned checkpoints          :mod:`witnz.node.journal_fetch`
    keys           the log key and the generations' secrets, sealed to this node      :mod:`witnz.node.handover`
    table logs     block by block against the seals                                   :mod:`witnz.node.log_fetch`
    state          derived from entries and journal                                   :mod:`witnz.node.derive`

Each step is safe to stop after, or in, and to begin again.  While table logs are fetched nothing records into them.
"""

from __future__ import annotations

import json
import time
from base64 import b64decode
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import psycopg
import structlog

from witnz.core.canonical import parse_canonical
from witnz.core.entry import parse_schema_hint
from witnz.core.journal import JournalState
from witnz.core.journal_facts import TableRecord
from witnz.core.keyplan import state_key_of_text
from witnz.core.lsn import format_lsn
from witnz.core.record import Record
from witnz.core.rowline import row_hash
from witnz.core.shape import base64_bytes, integer, list_of, members, refuse
from witnz.core.tiles import TILE
from witnz.errors import ProofError, StoreError
from witnz.node import handover
from witnz.node.derive import adopt_findings, derive
from witnz.node.handover import Log
from witnz.node.images import ImageBox
from witnz.node.journal import INDEX, MEMBERSHIP
from witnz.node.journal_fetch import JournalFetch
from witnz.node.keyring import KeptSigner
from witnz.node.log_fetch import Diverged, LogFetch, Target, await_tail, targets_of
from witnz.node.log_key import fetch_handed, save_log_key
from witnz.node.log_notes import LogNotes
from witnz.node.reopening import is_kept_out
from witnz.node.sources import NotFetched, Sources
from witnz.postgres import catalog
from witnz.store import entries, erasures, images, importing, logs, meta, spool
from witnz.store import journal as stored
from witnz.store.database import Database
from witnz.store.datadir import save_file
from witnz.store.logs import LogRow

log = structlog.get_logger(__name__)

UNSEALED_WAIT_S: Final = 5.0  # how long members may take to agree on what no seal covers; then the newest seal is looked for
MAX_IMAGES_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Home:
    """The store and keys of the node that catches up.  ``clock``: µs since the Unix epoch."""

    db: Database
    cluster: str
    node_id: str
    identity: KeptSigner
    keys_dir: Path
    evidence_dir: Path
    box: ImageBox
    clock: Callable[[], int]


class CatchUp:
    """Catches one node up.  ``connect`` opens a connection to the database, whose catalog says how columns are numbered."""

    def __init__(
        self,
        home: Home,
        sources: Sources,
        connect: Callable[[], psycopg.Connection[Any]],
        *,
        stopped: Callable[[], bool] = lambda: False,
        unsealed_wait_s: float = UNSEALED_WAIT_S,
    ) -> None:
        self._home, self._sources, self._connect, self._stopped = home, sources, connect, stopped
        self._unsealed_wait_s = unsealed_wait_s
        self._journal = JournalFetch(home.db, sources, home.cluster, home.clock)
        self._logs = LogFetch(home.db, sources, home.cluster, home.node_id)

    # -- journal --------------------------------------------------------------------------------------------------------------

    def journal(self) -> JournalState:
        """As far as the other members are; saves the engine's index that belongs to it, and who orders the journal from there.

        Only before an engine applies here.
        """
        state, head = self._journal.newest()
        with self._home.db.write() as conn:
            meta.save_value(conn, INDEX, head.index)
            meta.save_value(conn, MEMBERSHIP, json.dumps([head.epoch, head.since_index]))
        return state

    def journal_to(self, size: int, chain: str) -> JournalState:
        """Exactly so many records, which lead to this chain head: what an engine's snapshot names."""
        return self._journal.up_to(size, chain)

    # -- keys -----------------------------------------------------------------------------------------------------------------

    def keys(self, state: JournalState, wanted: Sequence[Log], commitments: dict[Log, str]) -> dict[Log, bytes]:
        """Have the log key handed over and saved, and the secrets of these generations, each compared with the journal."""
        secrets: dict[Log, bytes] = {}
        for at in range(0, max(1, len(wanted)), handover.MAX_LOGS):
            part = wanted[at : at + handover.MAX_LOGS]

            optional = {log for log in part if _may_be_forgotten(state, log)}
            handed = fetch_handed(self._home.identity, self._home.node_id, state, self._sources, part, commitments, optional)
            save_log_key(self._home.keys_dir, self._home.cluster, handed, state)
            secrets |= {log: handed.secrets.get(log, b"") for log in part}
        return secrets

    # -- table logs -----------------------------------------------------------------------------------------------------------

    def all_logs(self, position: int, besides: Collection[Log] = ()) -> int:
        """Every generation that the journal knows, the current ones up to ``position``; how many entries were added.

        ``besides``: what this node was just opening itself; it is given up, and then fetched like any other that is missing.

        A leaf that was attached beyond ``position`` is left out where the own stream would not tell of it: it is fetched
        when that has been opened anew (:mod:`witnz.node.refilling`).

        Where that can not be, logs that gained nothing are what they were.  They would else wait for each other: two members
        that lost their slots at once have both what the quorum sealed, and neither gives of a log that it fetches.
        """
        records, state = self._now()
        targets = targets_of(records, state)
        tables = _tables(records)
        missing = [key for key in targets if self._secret(key) is None]
        secrets = self.keys(state, missing, {key: record.secret_sha256 for key, record in tables.items()})
        with self._home.db.read() as conn:
            before = {row.id: row for row in logs.list_logs(conn)}
        added = 0
        try:
            for key in sorted(targets.keys() - set(besides)):
                if self._is_pruned(state, key):
                    self._take_pruned(state, tables[key], targets[key])
                    continue
                if self._is_attached_beyond(state, tables[key], position):
                    continue
                added += self._one(state, tables[key], targets[key], secrets.get(key) or self._secret(key) or b"", position)
        except BaseException:
            with self._home.db.write() as conn:
                for row in logs.list_logs(conn, "fetching"):
                    if (was := before.get(row.id)) is not None and was.size == row.size:
                        logs.set_status(conn, row.id, was.status)
            raise
        self._finish(state, records)
        return added

    def log(self, table: str, generation: int, position: int) -> None:
        """One generation: one that this node could not read itself, or that it has only in part."""
        records, state = self._now()
        key = table, generation
        record = _tables(records)[key]
        if self._is_pruned(state, key):
            self._take_pruned(state, record, targets_of(records, state)[key])
            return
        secret = self._secret(key) or self.keys(state, [key], {key: record.secret_sha256})[key]
        self._one(state, record, targets_of(records, state)[key], secret, position)
        self._finish(state, records)

    def restore(self, table: str, generation: int, position: int) -> Path | None:
        """Take back what of a log is not what the quorum sealed, keep it as evidence, and fetch it anew.

        The file that the evidence went to; None where nothing differed.
        """
        kept = None
        while True:
            try:
                self.log(table, generation, position)
                return kept
            except Diverged as diverged:
                if kept is not None:
                    raise
                kept = self._set_aside(diverged)

    def _is_pruned(self, state: JournalState, key: Log) -> bool:
        """Whether nobody is to have the entries of a generation any more."""
        current = state.current_table(key[0])
        return state.orders.pruning(*key) is not None and (current is None or current.generation != key[1])

    def _take_pruned(self, state: JournalState, record: TableRecord, target: Target) -> None:
        """Of a pruned generation its hashes; what this node has of it in part goes, what it has whole it prunes itself."""
        with self._home.db.read() as conn:
            row = logs.find_log(conn, record.table, record.generation)
        if row is not None and row.status in ("ended", "pruned"):
            return
        if row is not None:
            with self._home.db.write() as conn:
                logs.drop_log(conn, row.id)
        notes = LogNotes(*self._columns(record), root=self._root(state, record))
        log_id = self._logs.pruned(record, target.head, notes.to_json())
        with self._home.db.write() as conn:
            for order in state.orders.erasures(record.table, record.generation):
                keys = [(state_key_of_text(key), erasures.NOTHING) for key in order.keys]
                erasures.add(conn, log_id, order.seq, order.base, keys)
        log.info("hashes of a pruned log were fetched", table=record.table, generation=record.generation)

    def _one(self, state: JournalState, record: TableRecord, target: Target, secret: bytes, position: int) -> int:
        """Fetch one generation; the own stream goes on where it ends."""
        notes = LogNotes(*self._columns(record), root=self._root(state, record))
        row = self._logs.begin(record, secret, notes.to_json())
        added = 0 if target.head is None else self._logs.sealed(row, target.head)
        row = self._row(row.id)
        skip_until = target.lsn
        if not target.final and target.lsn < position:
            more = await_tail(self._logs, row, position, state.quorum, self._unsealed_wait_s, self._stopped)
            if more is None:
                raise NotFetched(
                    f"nobody has sealed what happened to {record.table} before {format_lsn(position)},"
                    " and too few members tell it alike",
                    hint="it goes on by itself with the next seal; are the other members running and connected?",
                )
            added, skip_until = added + more, position - 1
        self._note(row.id, record, skip_until)
        log.info("log was fetched", table=record.table, generation=record.generation, entries=added)
        return added

    def _finish(self, state: JournalState, records: list[Record]) -> None:
        """Derive what follows from the fetched logs, and let them count."""
        with self._home.db.read() as conn:
            fetched = logs.list_logs(conn, "fetching")
        derive(self._home.db, fetched, records, state)
        newest = self._newest_xid()
        for row in fetched:
            current = state.current_table(row.table)
            active = current is not None and current.generation == row.generation
            with self._home.db.write() as conn:
                logs.set_mode(conn, row.id, replace(LogNotes.of(logs.get_log(conn, row.id)), settled_xid=newest).to_json())
                logs.set_final_lsn(conn, row.id, None)
                spool.clear(conn, row.id)  # what waited there, for an opening that is given up now, is part of what was fetched
                logs.set_status(conn, row.id, "active" if active else "ended")
            if active and current is not None and current.rules.retain:
                self._images(self._row(row.id))
        with self._home.db.write() as conn:
            adopt_findings(conn, records, state)

    def _note(self, log_id: int, record: TableRecord, skip_until: int) -> None:
        """How the columns are numbered, and where the own stream goes on.

        What this node noted when it began the log itself holds: a column that the catalog has since is not one left out.
        """
        attnums, excluded = self._columns(record)
        with self._home.db.write() as conn:
            notes = LogNotes.of(logs.get_log(conn, log_id))
            if not notes.attnums:
                notes = replace(notes, attnums=attnums, excluded=excluded)
            notes = replace(notes, skip_until=skip_until)
            logs.set_mode(conn, log_id, notes.to_json())

    # -- the catalog ----------------------------------------------------------------------------------------------------------

    def _columns(self, record: TableRecord) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """(numbers of the recorded columns, names of those left out) as the catalog has them; empty where it has changed."""
        with self._home.db.read() as conn:
            row = logs.find_log(conn, record.table, record.generation)
        names = [] if row is None or not row.columns else [column.name for column in parse_schema_hint(row.columns).columns]
        with self._connect() as conn:
            info = catalog.table_by_oid(conn, record.oid)
        if info is None or not names:
            return (), ()
        numbers = {column.name: column.attnum for column in info.replicated_columns}
        if any(name not in numbers for name in names):
            return (), ()
        return tuple(numbers[name] for name in names), tuple(sorted(set(numbers) - set(names)))

    def _is_attached_beyond(self, state: JournalState, record: TableRecord, position: int) -> bool:
        """Whether a stream that begins at ``position`` may leave out a leaf that nothing was recorded of here yet."""
        if record.lsn < position or state.current_table(record.table) != record:
            return False
        with self._home.db.read() as reader:
            if logs.find_log(reader, record.table, record.generation) is not None:
                return False
        with self._connect() as conn:
            info = catalog.table_by_oid(conn, record.oid)
            return info is not None and is_kept_out(conn, info)

    def _root(self, state: JournalState, record: TableRecord) -> str | None:
        """The partitioned table that a leaf belongs to, if that one is protected."""
        with self._connect() as conn:
            info = catalog.table_by_oid(conn, record.oid)
            root = catalog.table_by_oid(conn, info.partition_root) if info is not None and info.partition_root else None
        return root.witnz_name if root is not None and state.newest_generation(root.witnz_name) is not None else None

    def _newest_xid(self) -> int:
        """Below this id every transaction has ended whose entries were fetched, once a snapshot's xmin reaches it."""
        with self._connect() as conn:
            row = conn.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text").fetchone()
        return int(row[0]) if row else 0

    # -- parts ----------------------------------------------------------------------------------------------------------------

    def _now(self) -> tuple[list[Record], JournalState]:
        """The journal at one moment, in both shapes; the records are those that say something still.

        A node that runs goes on meanwhile; a log taken up to one seal, with the stream skipped up to a later one, would lack
        what lies between.
        """
        with self._home.db.read() as conn:
            return stored.decisive_records(conn), stored.load_state(conn)

    def _row(self, log_id: int) -> LogRow:
        with self._home.db.read() as conn:
            return logs.get_log(conn, log_id)

    def _secret(self, key: Log) -> bytes | None:
        with self._home.db.read() as conn:
            row = logs.find_log(conn, *key)
        return None if row is None else row.secret

    def _set_aside(self, diverged: Diverged) -> Path:
        """Move the entries that differ to the evidence, and the log back to the blocks that do not."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._home.clock() / 1_000_000))
        path = self._home.evidence_dir / f"{stamp}-{diverged.table}-{diverged.generation}-from-{diverged.blocks * TILE + 1}.tsv"
        with self._home.db.read() as conn:
            row = logs.find_log(conn, diverged.table, diverged.generation)
            if row is None:
                raise StoreError(f"there is no log of {diverged.table}, generation {diverged.generation}")
            save_file(path, (line + b"\n" for line in entries.entries(conn, row.id, diverged.blocks * TILE + 1)))
        with self._home.db.write() as conn:
            importing.truncate_log(conn, row.id, diverged.blocks)
        log.error("diverging entries were set aside", table=diverged.table, file=str(path), entries=row.size)
        return path

    def _images(self, row: LogRow) -> None:
        """The retained rows that other members have; what nobody gives is restored by those who have it."""
        for n in range((row.size + TILE - 1) // TILE):
            request = {"table": row.table, "generation": row.generation, "n": n}
            try:
                rows = self._sources.first("retained rows", lambda node, r=request: self._image_rows(node, row, r))  # type: ignore[misc]
            except NotFetched as error:
                log.warning("retained rows were not fetched", table=row.table, reason=error.message)
                return
            with self._home.db.write() as conn:
                images.put_many(conn, row.id, rows)

    def _image_rows(self, node: str, row: LogRow, request: dict[str, Any]) -> list[tuple[int, bytes]]:
        answer = self._sources.ask(node, "join.images", request)
        document = parse_canonical(answer, what="join.images", max_bytes=MAX_IMAGES_BYTES)
        _IMAGES(document, "images")
        lines = {seq: b64decode(line) for seq, line in document["rows"]}
        first = request["n"] * TILE + 1
        if any(not first <= seq < first + TILE or seq > row.size for seq in lines):
            raise ProofError(f"retained rows of block {request['n']}: expected entries of that block")
        with self._home.db.read() as conn:
            hashes = entries.row_hashes_at(conn, row.id, lines)
        for seq, line in lines.items():
            if row_hash(row.secret, line) != hashes[seq]:
                raise ProofError(f"retained row of entry {seq}: expected the recorded hash, found another")
        return [(seq, self._home.box.seal(row.origin, hashes[seq] or b"", line)) for seq, line in lines.items()]


def _image(value: Any, path: str) -> None:
    if not isinstance(value, list) or len(value) != 2:
        raise refuse(path, "a seq and a row line", value)
    integer(1)(value[0], path)
    base64_bytes(max_bytes=MAX_IMAGES_BYTES)(value[1], path)


_IMAGES = members({"rows": list_of(_image, high=TILE)})


def _may_be_forgotten(state: JournalState, log: Log) -> bool:
    """Whether an order may have had the other members forget the secret of a generation, or of a partition derived from it."""
    current = state.current_table(log[0])
    ended = current is None or current.generation != log[1]
    return ended and (state.orders.pruning(*log) is not None or bool(state.orders.all_erasures()))


def _tables(records: Iterable[Record]) -> dict[Log, TableRecord]:
    return {
        (record.body["table"], record.body["generation"]): TableRecord.from_record(record)
        for record in records
        if record.type == "table"
    }
