"""A restored database is a new epoch: where generations end, what was lost, what goes on (formats.md 4).

1.  The guard of the source finds the server on another timeline, or behind what was recorded.  Then this node takes the state
    of every log back to what such a database holds (:mod:`witnz.node.rewinding`), and opens one finding that names every row
    that was lost or came back.  All of it becomes durable together with the position that the stream goes on from.
2.  The ``epoch`` record fixes, with the votes of a quorum, where each generation ends: never below what was sealed.  What a
    minority recorded beyond that goes to the evidence.  Until the record stands nothing is sealed.
3.  From then on the stream and the scans go on against the state at the switch: a row that differs from it is a finding of its
    own.  An operator accepts the restore, and a new generation of every table begins, whose baseline must show that state.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import structlog

from witnz.core.finding import CLASSES
from witnz.core.journal_facts import LogHead, TableRecord
from witnz.core.journal_view import JournalView
from witnz.core.lsn import format_lsn, parse_lsn
from witnz.core.record import Record
from witnz.errors import StoreCorrupt, WitnzError
from witnz.node.comparing import compare
from witnz.node.findings import APPROVED, CLOSED, REPAIRED, FindingBook
from witnz.node.heads import PENDING, from_items, head_at, to_items
from witnz.node.journal import Journal
from witnz.node.looking_back import look_back
from witnz.node.losses import Compared, Loss
from witnz.node.rewinding import Extent, beyond, cut, derive_state, extent_of, place_in, rewind
from witnz.node.voting import Refused, TooFewVotes
from witnz.postgres.session import Identity
from witnz.store import findings, journal, logs, meta, undo
from witnz.store.database import Database
from witnz.store.datadir import save_file
from witnz.store.logs import LogRow
from witnz.verify.replay import held_size

log = structlog.get_logger(__name__)

TABLES = 200  # table heads that surely fit into one record
MAX_SAID_BYTES = 3900
PLAINLY_AFTER = 20  # refused attempts, until the record is proposed without the list of rows
SETTLED_BELOW = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Restore:
    """A restore that was noticed: which server it is now, and where it left the course of history that was recorded.

    ``switch_lsn``: 0 for another system than before, whose positions say nothing about the recorded ones.  ``said``: which rows
    were lost, of what is sealed.
    """

    system: str
    timeline: int
    switch_lsn: int
    reason: str
    said: str = ""

    @property
    def whole_reason(self) -> str:
        return f"{self.reason}; {self.said}"

    def to_json(self) -> str:
        return json.dumps([self.system, self.timeline, format_lsn(self.switch_lsn), self.reason, self.said])

    @classmethod
    def from_json(cls, text: str) -> Restore:
        """Raises StoreCorrupt for what does not read back."""
        try:
            system, timeline, switch_lsn, reason, said = json.loads(text)
            return cls(str(system), int(timeline), parse_lsn(switch_lsn), str(reason), str(said))
        except (ValueError, WitnzError):
            raise StoreCorrupt("the note of a restored database does not read back") from None


class Restores:
    """The restores of one node.

    ``seal`` fixes what was recorded before, where one node is all there is (``alone``); ``leads``: whether this node proposes
    the record; ``catch_up`` waits a moment for the cluster's newest seals, where there are others.
    """

    def __init__(
        self,
        db: Database,
        journal_: Journal,
        book: FindingBook,
        evidence_dir: Path,
        clock: Callable[[], int],
        *,
        seal: Callable[[], object],
        journal_finding: Callable[[Any], None],
    ) -> None:
        self._db, self._journal, self._book, self._evidence_dir, self._clock = db, journal_, book, evidence_dir, clock
        self._seal, self._journal_finding = seal, journal_finding
        self.alone = True
        self._stepping = threading.Lock()  # the capture thread of a node alone, and the chores
        self._refused = 0
        self.leads: Callable[[], bool] = lambda: True
        self.catch_up: Callable[[], object] = lambda: None

    @property
    def pending(self) -> Restore | None:
        """The restore that no ``epoch`` record says yet."""
        with self._db.read() as conn:
            text = meta.load_value(conn, PENDING)
        return None if text is None else Restore.from_json(text)

    # -- noticing -------------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Before a restore is noted: a node alone seals what it recorded, so that nothing of it is lost."""
        with suppress(WitnzError):
            if not self.alone:
                self.catch_up()
            elif self.pending is None:
                self._seal()

    def is_welcome(self, system: str) -> bool:
        """Whether an operator has said that this other system is the database from now on."""
        with self._db.read() as conn:
            found = findings.list_findings(conn, classes=["epoch.restored"])
        return any(finding.key == system and finding.state == APPROVED for finding in found)

    @property
    def undecided(self) -> bool:
        """Whether some table is not what its log describes, and nobody has accepted yet what it holds: the database is another
        system than before, or was restored to before a present generation began."""
        restore, state = self.pending, self._journal.state
        if restore is not None and self.reaches_behind(restore.switch_lsn):
            return True
        current = ((table, record.generation) for table, record in state.tables().items())
        return any(is_foreign(state, *log) and state.open_gap(log[0]) is not None for log in current)

    def reaches_behind(self, switch_lsn: int) -> bool:
        """Whether a restore to there leaves a table with what its present log does not describe (0: of another system)."""
        with self._db.read() as conn:
            return any(self._place(row, switch_lsn) is None for row in self._rows(conn))

    def compare(self, scanning: psycopg.Connection[Any], switch_lsn: int) -> list[Compared]:
        """What the database holds of every table whose present log does not describe it."""
        with self._db.read() as conn:
            records = journal.decisive_records(conn)
            rows = [row for row in self._rows(conn) if self._place(row, switch_lsn) is None]
            return [self._compare(scanning, conn, row, records, switch_lsn) for row in rows]

    def _compare(
        self,
        scanning: psycopg.Connection[Any],
        conn: sqlite3.Connection,
        row: LogRow,
        records: Sequence[Record],
        switch_lsn: int,
    ) -> Compared:
        record, folder = _table_record(records, row), self._db.path.parent
        if not switch_lsn:
            return compare(scanning, conn, row, records, folder)
        try:
            state = self._journal.state
            return look_back(scanning, conn, row, record, records, state, switch_lsn, folder)
        except (WitnzError, psycopg.Error) as error:
            # Said, not tried again: the server may go on until nothing shows any more that it went back.
            return Compared(Loss(row.table), problem=f"its rows were not compared: {str(error).strip()}")

    def begin(
        self,
        seen: Identity,
        switch_lsn: int,
        reason: str,
        confirmed: int,
        compared: Sequence[Compared] = (),
    ) -> None:
        """Take everything back to ``switch_lsn``; the stream goes on from ``confirmed``, where the new slot begins.

        ``compared``: what it holds of the tables that their present logs do not describe.
        """
        state = self._journal.state
        restore = Restore(seen.system, seen.timeline, switch_lsn, reason)
        known = self._is_journalled(restore)
        with self._db.write() as conn:
            records = journal.decisive_records(conn)
            rows = self._rows(conn)
            unsealed = [self._drop_unsealed(conn, row, restore, records) for row in rows]
            losses = [self._take_back(conn, logs.get_log(conn, row.id), restore, records) for row in rows]
            told = {each.loss.table: each for each in compared}
            said, at = _said([told.get(loss.table, loss) for loss in losses]), format_lsn(switch_lsn)
            for each in compared:
                self._open_foreign(conn, each)
            if not known:
                restore = replace(restore, said=said)
                detail = restore.whole_reason
                if any(unsealed):
                    detail += f"; of what only this node had recorded, never sealed: {_said(unsealed)}"
                self._book.open(conn, cls="epoch.restored", key=at, lsn=at, found=said, detail=detail)
                meta.save_value(conn, PENDING, restore.to_json())
            meta.save_value(conn, "system", seen.system)
            meta.save_value(conn, "timeline", str(seen.timeline))
            meta.save_value(conn, "acked", str(confirmed))
            meta.save_value(conn, "position", str(confirmed))
            meta.save_value(conn, "last_final_lsn", str(min(switch_lsn, meta.load_number(conn, "last_final_lsn") or 0)))
            undo.settle(conn, SETTLED_BELOW)  # whatever was unsettled there is settled, one way or the other
        log.error("server was restored", reason=reason, switch_lsn=at, system=seen.system, timeline=state.timeline, lost=said)
        if self.alone:
            self.step()

    def _open_foreign(self, conn: sqlite3.Connection, compared: Compared) -> None:
        table = compared.loss.table
        for row in compared.foreign.rows:
            self._book.open(
                conn,
                cls=row.cls,
                table=table,
                generation=self._journal.state.tables()[table].generation,
                key=row.key,
                seq=row.seq,
                recorded=row.recorded.hex() if row.recorded else None,
                found=row.found.hex() if row.found else None,
                detail=compared.why,
            )

    def _rows(self, conn: sqlite3.Connection) -> list[LogRow]:
        """The logs that are being recorded into, each of its table's current generation."""
        tables = self._journal.state.tables()
        active = logs.list_logs(conn, "active")
        return [row for row in active if row.table in tables and tables[row.table].generation == row.generation]

    def _place(self, row: LogRow, switch_lsn: int) -> int | None:
        """Where in a log a restored database left, None where it is nothing that this log describes."""
        state = self._journal.state
        return None if is_foreign(state, row.table, row.generation) else place_in(state, row, switch_lsn)

    def _drop_unsealed(self, conn: sqlite3.Connection, row: LogRow, restore: Restore, records: Sequence[Record]) -> Loss:
        """What this node alone knows and the database does not hold goes to the evidence; the rest is alike on every node."""
        state = self._journal.state
        extent = extent_of(conn, row, state, self._place(row, restore.switch_lsn))
        ended = state.ended_at(row.table, row.generation) is not None
        extent = replace(extent, held=held_size(conn, row, state) if ended else extent.final)
        self._keep_evidence(conn, row, extent)
        return rewind(conn, row, extent, _table_record(records, row), records, state, self._db.path.parent)

    def _take_back(self, conn: sqlite3.Connection, row: LogRow, restore: Restore, records: Sequence[Record]) -> Loss:
        state = self._journal.state
        extent = extent_of(conn, row, state, self._place(row, restore.switch_lsn))
        logs.set_final_lsn(conn, row.id, None)
        return rewind(conn, row, extent, _table_record(records, row), records, state, self._db.path.parent)

    def _keep_evidence(self, conn: sqlite3.Connection, row: LogRow, extent: Extent) -> None:
        """Entries that leave the log, in a file of the evidence."""
        if extent.kept >= row.size:
            return
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock() / 1_000_000))
        path = self._evidence_dir / f"{stamp}-{row.table}-{row.generation}-beyond-{extent.kept}.tsv"
        save_file(path, (line + b"\n" for line in beyond(conn, row, extent)))  # durable before they leave the log
        log.warning("entries of a course of history that was left were set aside", table=row.table, file=str(path))

    # -- the record -----------------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Have the ``epoch`` record written, if one is due here.  Raises what a proposal raises.

        One at a time: of two that propose the same epoch the second is refused, which would end the recording.
        """
        with self._stepping:
            restore = self.pending
            if restore is None:
                return
            if self.leads() and not self._is_journalled(restore):
                self._propose(restore)
            if self._is_journalled(restore):
                with self._db.write() as conn:
                    meta.save_value(conn, PENDING, None)
                self._settle_void()

    def _is_journalled(self, restore: Restore) -> bool:
        epoch, state = self._journal.state.epoch, self._journal.state
        said = None if epoch is None or state.split is not None else (epoch.system, epoch.timeline, epoch.switch_lsn)
        if said == (restore.system, restore.timeline, restore.switch_lsn):
            return True
        return not self._heads(restore)  # where nothing was recorded there is nothing to say

    def _heads(self, restore: Restore) -> dict[tuple[str, int], LogHead]:
        """Where each current generation ends, as far as this node knows."""
        state, found = self._journal.state, {}
        with self._db.read() as conn:
            for row in self._rows(conn):
                final = extent_of(conn, row, state, self._place(row, restore.switch_lsn)).final
                if final:
                    found[row.table, row.generation] = head_at(conn, row, final)
        return found

    def _propose(self, restore: Restore) -> None:
        items, split = to_items(self._heads(restore)), self._journal.state.split
        parts = [items[at : at + TABLES] for at in range(0, len(items), TABLES)]
        done = split.part if split is not None and split.type == "epoch" else 0
        for number, part in enumerate(parts[done:], done + 1):
            body: dict[str, Any] = {
                "system": restore.system,
                "timeline": restore.timeline,
                "switch_lsn": format_lsn(restore.switch_lsn),
                "final": part,
                "reason": restore.whole_reason if self._refused < PLAINLY_AFTER else restore.reason,
            }
            if len(parts) > 1:
                body |= {"part": number, "parts": len(parts)}
            try:
                self._journal.propose("epoch", body)
            except TooFewVotes:
                self._refused += 1
                raise

    def judge(self, node: str, body: Mapping[str, Any], at: int, context: Mapping[str, Any]) -> None:
        """Vote for an epoch that this node has noticed itself, and whose ends are those of its own logs."""
        mine = self.pending
        if mine is None:
            raise Refused("later", "this node has not noticed that the database was restored")
        asked = (body["system"], body["timeline"], parse_lsn(body["switch_lsn"]))
        if asked != (mine.system, mine.timeline, mine.switch_lsn) or body["reason"] not in (mine.reason, mine.whole_reason):
            raise Refused("later", f"this node has noticed another restore: {mine.whole_reason}")
        heads = self._heads(mine)
        for where, head in from_items(body["final"]).items():
            if where not in heads:
                raise Refused("later", f"{where[0]} is not being recorded here yet")
            if heads[where] != head:
                raise Refused("differs", f"{where[0]}/{where[1]} does not end at size {head.size} here")

    def _settle_void(self) -> None:
        """Findings about entries that the restored database does not have any more are repaired by the restore."""
        state = self._journal.state
        with self._db.read() as conn:
            extents = {
                (row.table, row.generation): extent_of(conn, row, state, state.switched_at(row.table, row.generation))
                for row in self._rows(conn)
            }
            found = [f for f in findings.list_findings(conn) if f.state not in CLOSED and f.entry_seq is not None]
        for finding in found:
            extent = extents.get((finding.table or "", finding.generation or 0))
            void = extent is not None and extent.held < (finding.entry_seq or 0) <= extent.final
            if not void or CLASSES[finding.cls].group != "stream" or not self.leads():
                continue
            with suppress(WitnzError):  # it stays open, for an operator to decide
                self._journal_finding(finding)
                body = {"finding": finding.id, "target": "restore", "sql_sha256": None, "result": "repaired"}
                self._journal.propose("repair", body)
                with self._db.write() as conn:
                    self._book.set_state(conn, finding.id, REPAIRED)

    # -- the generation after -------------------------------------------------------------------------------------------------

    def end(self, conn: sqlite3.Connection, log_id: int) -> None:
        """The next generation was adopted: what was recorded into the ended one since goes to the evidence."""
        row, state = logs.get_log(conn, log_id), self._journal.state
        ended = state.ended_at(row.table, row.generation)
        if ended is None or row.size <= ended.size:
            return
        held = extent_of(conn, row, state, state.switched_at(row.table, row.generation)).held
        extent = Extent(held, ended.size, ended.size)
        self._keep_evidence(conn, row, extent)
        cut(conn, row, extent.kept)
        records = journal.decisive_records(conn)
        derive_state(conn, logs.get_log(conn, log_id), extent, _table_record(records, row), records, state)


def _table_record(records: Sequence[Record], row: LogRow) -> TableRecord:
    for record in records:
        if record.type == "table" and (record.body["table"], record.body["generation"]) == (row.table, row.generation):
            return TableRecord.from_record(record)
    raise StoreCorrupt(f"the store records {row.table}/{row.generation}, and no table record of the journal adopted it")


def is_foreign(state: JournalView, table: str, generation: int) -> bool:
    """Whether a generation ended and says nothing of what the database holds: that is another system now, or was restored to
    before the generation began."""
    return state.ended_at(table, generation) is not None and state.switched_at(table, generation) is None


def _said(losses: Sequence[Loss | Compared]) -> str:
    """What a restore did, table by table, at most MAX_SAID_BYTES."""
    told = [str(loss) for loss in losses if loss]
    if not told:
        return "no recorded row was lost or regained"
    same = len(losses) - len(told)
    text = "; ".join(told) + (f"; {same} other table(s): nothing" if same else "")
    cut_off = text.encode()[:MAX_SAID_BYTES].decode(errors="ignore")
    return cut_off if cut_off == text else cut_off + " …"
