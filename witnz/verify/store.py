"""The audit of a node's own store: everything it holds, derived anew from its entries and records (``witnz verify --store``).

In this order, each part only believing what the parts before it established:

    journal      every record parses, is valid, and hashes into the chain, the tiles and every checkpoint's root
    checkpoints  every note is signed by the log key and by the cosigner in force, and kept as what it is
                 (:mod:`witnz.verify.checkpoints`)
    register     of every log, each column follows from the journal or the entries (:mod:`witnz.verify.register`)
    logs         every entry parses and hashes into the chain, the tiles and every seal's root and chain head; what an order
                 had forgotten was to be forgotten (:mod:`witnz.verify.pruned`); no log of the journal is missing
    state        the accepted and applied state equal what the entries and the journal's decisions lead to
    findings     what the journal says was found and decided is what the store shows

The first thing that is wrong is named to the entry, record or byte.  Nothing here needs the database or the keys.
"""

from __future__ import annotations

import base64
import sqlite3
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from witnz.core.checkpoint import parse_checkpoint
from witnz.core.classify import Rules
from witnz.core.decisive import decisive
from witnz.core.entry import chain_hash, content_hash, first_parent, parse_entry
from witnz.core.journal import JournalState
from witnz.core.journal_facts import LogHead
from witnz.core.lsn import parse_lsn
from witnz.core.note import parse_note
from witnz.core.record import Record, parse_record, recall_record
from witnz.core.tiles import TILE, FullTile, Tree
from witnz.core.verdict import Check, CheckStatus, Verdict
from witnz.errors import FormatError, ProofError, StoreCorrupt, StoreError, StoreFull, StoreLocked
from witnz.store import checkpoints, entries, findings, granted, live, logs, meta, nonces
from witnz.store import journal as stored
from witnz.store.checkpoints import StoredCheckpoint
from witnz.store.database import Database
from witnz.store.logs import LogRow
from witnz.store.schema import check_shape
from witnz.verify.checkpoints import check_checkpoints
from witnz.verify.pruned import check_forgotten, check_pruned
from witnz.verify.register import Described, check_described, check_followed, check_register, record_of
from witnz.verify.replay import BATCH, Decisions, Intents, batches, decisions_of, held_entries
from witnz.verify.scratch import replayed
from witnz.verify.sealed import Sealed, Seals

JOURNAL_LOG = 0
Progress = Callable[[str, int], None]


@dataclass(slots=True)
class StoreAudit:
    """The checks made, and what they come to."""

    checks: list[Check] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        if any(check.status is CheckStatus.FAIL for check in self.checks):
            return Verdict.TAMPERED
        if not self.checks or any(check.status is CheckStatus.SKIP for check in self.checks):
            return Verdict.INCONCLUSIVE
        return Verdict.VERIFIED


class _Wrong(Exception):
    """Something is not what it must be; the text names it."""


def audit_store(path: Path, *, progress: Progress = lambda what, done: None, spill_dir: Path | None = None) -> StoreAudit:
    """Audit the store at ``path``, read-only and beside a running node.

    Raises NotInitialised where there is none; a file that SQLite itself can not read is a failed check.
    """
    audit = StoreAudit()
    try:
        with Database.open(path, read_only=True) as db, db.read() as conn:
            _Audit(conn, audit, progress, spill_dir or path.parent).run()
    except StoreCorrupt as error:
        audit.checks.append(Check("store", CheckStatus.FAIL, error.message))
    return audit


class _Audit:
    def __init__(self, conn: sqlite3.Connection, audit: StoreAudit, progress: Progress, spill_dir: Path) -> None:
        self.conn, self.audit, self.progress, self.spill_dir = conn, audit, progress, spill_dir
        self.state = JournalState()
        self.times = array("q")  # of every record
        self.records: list[Record] = []  # those that say something still
        self.seals: dict[tuple[str, int], array[int]] = {}  # of each log the seqs of those that name it

    def run(self) -> None:
        self._check("pages", self._pages)
        if not self._check("journal", self._journal):
            return  # nothing below could be held against it
        self._check("checkpoints", self._checkpoints)
        decisions = decisions_of(self._followed())
        for row in logs.list_logs(self.conn):
            label = f"{row.table}/{row.generation}"
            if row.status == "open":
                continue  # not evidence yet: it is being read, or will be taken back
            if row.status == "pruned":
                self._check(f"log {label}", lambda row=row: self._pruned(row))  # type: ignore[misc]
            elif self._check(f"log {label}", lambda row=row: self._log(row)):  # type: ignore[misc]
                made = decisions.get((row.table, row.generation), Decisions())
                self._check(f"state {label}", lambda row=row, made=made: self._state(row, made))  # type: ignore[misc]
        self._check("register", self._missing)
        self._check("findings", self._findings)

    def _check(self, name: str, look: Callable[[], str]) -> bool:
        """Run one part; its answer is a sentence on what was compared.

        What this machine has no room for now, or what another process holds, is no fault of the store, and not in order either.
        """
        try:
            self.audit.checks.append(Check(name, CheckStatus.OK, look()))
        except (StoreFull, StoreLocked, OSError) as error:
            self.audit.checks.append(Check(name, CheckStatus.SKIP, f"could not be checked: {error}"))
            return False
        except (_Wrong, FormatError, ProofError, StoreError) as error:
            self.audit.checks.append(Check(name, CheckStatus.FAIL, str(error)))
            return False
        return True

    def _pages(self) -> str:
        problems = [row[0] for row in self.conn.execute("PRAGMA integrity_check(3)")]  # all of it: that of indexes, too
        if problems != ["ok"]:
            raise _Wrong(f"SQLite finds the file damaged: {problems[0]}")
        check_shape(self.conn)
        return "SQLite finds every page and every index in order"

    # -- journal --------------------------------------------------------------------------------------------------------------

    def _journal(self) -> str:
        cluster = meta.load_value(self.conn, "cluster") or ""
        notes = checkpoints.iter_all(self.conn)
        self.records = list(decisive(self._judged(cluster, notes)))
        if not self.times:
            raise _Wrong("it is empty: not even genesis is there")
        if self.records[0].body["cluster"] != cluster or self.state.cluster_id != meta.load_value(self.conn, "cluster_id"):
            raise _Wrong("its genesis is of another cluster than the store says")
        count, newest = checkpoints.count_and_newest(self.conn)
        if newest > len(self.times):
            raise _Wrong(f"there is a checkpoint of size {newest}, and only {len(self.times)} records are left")
        return f"{len(self.times)} records are valid and hash into chain, tiles and {count} checkpoints"

    def _judged(self, cluster: str, notes: Iterator[StoredCheckpoint]) -> Iterator[Record]:
        """Every record, once it was found valid and in its place."""
        tree, chain, note = Tree(), first_parent(cluster), next(notes, None)
        if note is not None and note.size < 1:
            raise _Wrong(f"there is a checkpoint of size {note.size}, which no journal has")
        for seq, leaf in enumerate(stored.records(self.conn), 1):
            record = parse_record(leaf)
            if record.seq != seq:
                raise _Wrong(f"record {seq} says that it is {record.seq}")
            self.state.apply(record)
            self.times.append(record.at)
            for head in record.body["tables"] if record.type == "seal" else ():
                self.seals.setdefault((head["table"], head["generation"]), array("Q")).append(seq)
            content = content_hash(leaf)
            chain = chain_hash(chain, content)
            if stored.chain_at(self.conn, seq) != chain:
                raise _Wrong(f"the stored chain head after record {seq} is not that of its records")
            self._tiles(JOURNAL_LOG, tree.append([content]), f"record {seq}")
            if note is not None and note.size == seq:
                if parse_checkpoint(parse_note(note.note).text).root != tree.root():
                    raise _Wrong(f"the records up to {seq} do not have the root of the checkpoint of that size")
                note = next(notes, None)
            self.progress("journal", seq)
            yield record

    def _checkpoints(self) -> str:
        return check_checkpoints(self.conn, self.state.periods, self.times)

    # -- logs -----------------------------------------------------------------------------------------------------------------

    def _log(self, row: LogRow) -> str:
        self._register(row)
        told = "" if row.secret else f"; {check_forgotten(self.state, row)}"
        described = Described()
        seals = Seals(self._seals(row))
        tree, chain, done = Tree(), first_parent(row.origin), 0
        for lines in batches(entries.entries(self.conn, row.id), TILE):
            contents = []
            for line in lines:
                done += 1
                entry = parse_entry(line)
                if entry.seq != done:
                    raise _Wrong(f"entry {done} says that it is another one")
                described.take(entry)
                content = content_hash(line)
                contents.append(content)
                chain = chain_hash(chain, content)
                for sealed in seals.up_to(done):
                    self._seal(tree, contents, chain, sealed)
            self._tiles(row.id, tree.append(contents), f"entry {done}")
            if done % TILE == 0 and entries.chain_at(self.conn, row.id, done) != chain:
                raise _Wrong(f"the stored chain head after entry {done} is not that of its entries")
            self.progress(f"{row.table}/{row.generation}", done)
        if (done, chain) != (row.size, row.chain):
            raise _Wrong(
                f"the register says {row.size} entries with chain head {row.chain[:16]}, found {done} with {chain[:16]}"
            )
        if (beyond := seals.beyond()) is not None:
            raise _Wrong(f"a seal covers {beyond} entries, and only {done} are left")
        if row.status != "fetching":
            check_described(row, described)
        return f"{done} entries hash into chain, tiles and {seals.met} seals{told}"

    def _register(self, row: LogRow) -> None:
        reached = max(meta.load_number(self.conn, name) or 0 for name in ("acked", "position"))
        record = record_of(self.records, row)
        check_register(row, record, self.state, meta.load_value(self.conn, "cluster") or "", reached)
        check_followed(row, record_of(self.records, replace(row, generation=row.generation + 1)))

    def _missing(self) -> str:
        """Of several nodes, one that has just learnt of a generation may still have to fetch it from the others."""
        there = {_name(row) for row in logs.list_logs(self.conn)}
        named = {(r.body["table"], r.body["generation"]) for r in self.records if r.type == "table"}
        missing = sorted(named - there) if len(self.state.members) == 1 else []
        if missing:
            raise _Wrong("the log of {}, generation {}, is in the journal and not in the store".format(*missing[0]))
        return f"{len(there)} logs"

    def _pruned(self, row: LogRow) -> str:
        self._register(row)
        linked = (r for r in self.records if r.type == "table" and (r.body["table"], r.body["generation"] - 1) == _name(row))
        ends = [LogHead.from_body(r.body["previous"]) for r in linked if r.body["previous"] is not None]
        return check_pruned(self.conn, self.state, row, [*self._seals(row), *((e.size, e.root, e.chain) for e in ends)])

    def _seals(self, row: LogRow) -> Iterator[Sealed]:
        # Of several nodes one may have the journal's newest seals before its own stream has come there.
        reached = meta.load_number(self.conn, "last_final_lsn") or 0
        epoch = self.state.epoch.seq if self.state.epoch is not None else 0
        seqs = self.seals.get(_name(row), array("Q"))
        for seq, leaf in zip(seqs, stored.records_at(self.conn, seqs), strict=True):
            body = recall_record(leaf).body
            if len(self.state.members) == 1 or seq < epoch or parse_lsn(body["lsn"]) <= reached:
                for head in body["tables"]:
                    if (head["table"], head["generation"]) == _name(row):
                        yield head["size"], base64.b64decode(head["root"]), head["chain"]

    def _seal(self, tree: Tree, pending: list[bytes], chain: str, sealed: Sealed) -> None:
        now = tree.copy()
        now.append(pending)
        size, root, head = sealed
        if chain != head or now.root() != root:
            raise _Wrong(f"the entries up to {size} are not the ones that were sealed at that size")

    def _tiles(self, log: int, completed: list[FullTile], where: str) -> None:
        """Every complete tile as it is stored, to the byte."""
        for tile in completed:
            row = self.conn.execute(
                "SELECT hashes FROM tiles WHERE log = ? AND level = ? AND n = ?", (log, tile.level, tile.n)
            ).fetchone()
            if row is None:
                raise _Wrong(f"tile {tile.level}/{tile.n} is missing (up to {where})")
            if row[0] != tile.hashes:
                at = next((i for i, (a, b) in enumerate(zip(row[0], tile.hashes, strict=False)) if a != b), len(row[0]))
                first = tile.n * TILE + at // 32 + 1
                what = (
                    f"entry {first} and its leaf hash differ"
                    if tile.level == 0
                    else f"a node over the leaves up to {where} differs"
                )
                raise _Wrong(f"tile {tile.level}/{tile.n}, byte {at}: {what}")

    # -- state ----------------------------------------------------------------------------------------------------------------

    def _state(self, row: LogRow, made: Decisions) -> str:
        adopted = record_of(self.records, row)
        if adopted is None:
            return "not adopted yet, so nothing is accepted"
        followed = self._followed_to()
        try:
            return self._replay(row, adopted.rules, made, self.state)
        except _Wrong:
            if all(record.type != "key" or (record.seq or 0) <= followed for record in self.records):
                raise
        # A key that the node knows of, while what it signed is still to be judged anew.
        return self._replay(row, adopted.rules, made, stored.load_state(self.conn, followed))

    def _replay(self, row: LogRow, rules: Rules, made: Decisions, keys: JournalState) -> str:
        counted = nonces.all_counted(self.conn)
        lines = held_entries(self.conn, row, self.state)
        with replayed(row, rules, Intents(keys, counted), made, lines, self.spill_dir) as (out, log):
            return self._compare(row, out, log)

    def _compare(self, row: LogRow, out: sqlite3.Connection, log: int) -> str:
        stored_flags, derived = live.live_flags(self.conn, row.id), live.live_flags(out, log)
        if stored_flags != derived:
            seq = next(i for i, (a, b) in enumerate(zip(stored_flags, derived, strict=True)) if a != b)
            was = "accepted" if stored_flags[seq] else "not accepted"
            raise _Wrong(f"the live state shows the row of entry {seq} as {was}; its entries and decisions say otherwise")
        mine, theirs = _granted(self.conn, row.id), _granted(out, log)
        if mine != theirs:
            raise _Wrong("the rows that operators granted are not the ones that the journal's accept records name")
        for items in batches(live.accepted_items(self.conn, row.id), BATCH):
            derived_seqs = live.accepted_many(out, log, [key for key, _ in items])
            for key, seq in items:
                if derived_seqs.get(key) != seq:
                    raise _Wrong(f"the live state files entry {seq} under another key than its entry has")
        if list(live.overlay_items(self.conn, row.id)) != list(live.overlay_items(out, log)):
            raise _Wrong("the changes that nobody accepted are not the ones that the entries show")
        return f"{derived.count(1) + len(mine)} accepted rows follow from the entries and the journal"

    # -- findings -------------------------------------------------------------------------------------------------------------

    def _followed_to(self) -> int:
        """Up to where the journal has taken effect here; of several nodes one may have records that it has not carried out."""
        if len(self.state.members) == 1:
            return self.state.size
        return min(self.state.size, meta.load_number(self.conn, "followed") or 0)

    def _followed(self) -> list[Record]:
        """Of the records up to there, those that say something still: what was decided, and how far a log was sealed then."""
        followed = self._followed_to()
        return [record for record in self.records if (record.seq or 0) <= followed]

    def _findings(self) -> str:
        shown = {finding.id: finding for finding in findings.list_findings(self.conn)}
        journalled: dict[str, list[Record]] = {}
        for record in self._followed():
            if record.type == "finding":
                journalled.setdefault(record.body["id"], []).append(record)
        for name, records in journalled.items():
            finding, seq = shown.get(name), records[0].seq
            if finding is None:
                raise _Wrong(f"finding {name} is in the journal (record {seq}) and hidden in the store")
            if all(finding.to_body() != record.body for record in records):
                raise _Wrong(f"finding {name} does not say what record {seq} of the journal says")
        for finding in shown.values():
            known = self.state.finding_state(finding.id)
            decided = known is not None and known.closed
            if finding.state == "approved" and not decided:
                raise _Wrong(f"finding {finding.id} is shown as approved, and no operator's accept stands in the journal")
        return f"{len(shown)} findings are as the journal has them"


def _name(row: LogRow) -> tuple[str, int]:
    return row.table, row.generation


def _granted(conn: sqlite3.Connection, log: int) -> list[tuple[int, bytes]]:
    return [(seq, granted.get(conn, log, seq)[1]) for seq in live.granted_seqs(conn, log)]
