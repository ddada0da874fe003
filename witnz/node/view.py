"""The node's store as documents: what ``status``, ``log``, ``findings``, ``checkpoint`` and the HTTP interface show.

Everything is read from the store in one moment, changes nothing, and is plain JSON with the members of interface.md 4.  A view
works inside the running node, beside it (on the same files, opened read-only), and on the store of a node that has stopped.
Row contents are nowhere in it: keys, hashes and what was said about a change are.
"""

from __future__ import annotations

import base64
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from witnz.config import Config
from witnz.core.checkpoint import checkpoint_digest, parse_checkpoint
from witnz.core.entry import first_parent, parse_entry
from witnz.core.finding import CLASSES, STATES, Finding
from witnz.core.journal import JournalState
from witnz.core.lsn import format_lsn
from witnz.core.merkle import EMPTY_ROOT
from witnz.core.names import log_origin
from witnz.core.note import cosignature_time, parse_note
from witnz.core.timestamp import format_time
from witnz.errors import UsageError
from witnz.node.anchor_status import anchor_documents, history, receipt_documents
from witnz.node.export import export_log, log_summary
from witnz.node.keytext import recorded_key
from witnz.node.logpage import log_page
from witnz.node.ordered import orders_document
from witnz.node.status import CLOSED, Live, Moment, checkpoint_summary, judged, vitals_document
from witnz.node.wishes import known_interval
from witnz.store import checkpoints, entries, findings, journal, live, logs, verifications
from witnz.store.database import Database
from witnz.store.logs import LogRow
from witnz.store.verifications import StoredVerification

if TYPE_CHECKING:
    from witnz.node.opening import Opening

MAX_LISTED: Final = 10_000
MAX_ENTRIES: Final = 1_000
NOT_FOUND: Final = "not-found"
SLOW_COUNT_S: Final = 0.1
COUNT_SHARE: Final = 20  # watching a large table's rows costs a twentieth of one processor at most


def now_us() -> int:
    """Microseconds since the Unix epoch."""
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True)
class _Count:
    """A number of rows, when it was counted (monotonic), and how long that took."""

    rows: int
    at: float
    seconds: float


class StoreView:
    """Documents of one store.  ``journal_state``: the journal in it, the running node's own or :func:`load_journal_state`.

    ``clock``: µs since the Unix epoch.  Every method raises UsageError, with the code ``not-found``, for what is not there.
    """

    def __init__(
        self, db: Database, journal_state: JournalState, config: Config | None, *, clock: Callable[[], int] = now_us
    ) -> None:
        self._db, self._state, self._config, self._clock = db, journal_state, config, clock
        self._counts: dict[int, _Count] = {}

    @classmethod
    def of_store(cls, db: Database, config: Config | None) -> StoreView:
        """The view of a store that no node of this process runs on."""
        return cls(db, load_journal_state(db), config)

    @contextmanager
    def _moment(self, live_node: Live | None = None) -> Iterator[Moment]:
        with self._db.read() as conn:
            yield Moment(conn, self._state, self._config, self._clock(), live_node)

    # -- status and tables ----------------------------------------------------------------------------------------------------

    def status(self, live_node: Live | None = None) -> dict[str, Any]:
        """``witnz.status/1``; without the running node its state is "stopped" and what only it knows is null."""
        openings = _openings(live_node)
        with self._moment(live_node) as moment:
            return vitals_document(moment) | {"tables": self._tables(moment, openings)}

    def vitals(self, live_node: Live | None = None) -> dict[str, Any]:
        """The status without its tables but for their open findings: cheap enough to be asked for every few seconds."""
        with self._moment(live_node) as moment:
            names = [row.table for row in self._current_logs(moment.conn)]
            counts = {name: findings.count_open(moment.conn, name) for name in names}
            total = findings.count_open(moment.conn)
            return vitals_document(moment) | {"findings_open_by_table": counts | {"": total - sum(counts.values())}}

    def tables(self, live_node: Live | None = None) -> list[dict[str, Any]]:
        """The protected tables, and those whose first generation is being opened, by name.

        Of an opening that has not begun yet only the running node knows: without it a table just asked for would seem not to be
        protected at all, and `witnz verify --all` would pass over it.
        """
        openings = _openings(live_node)
        with self._moment() as moment:
            return self._tables(moment, openings)

    def _tables(self, moment: Moment, openings: Sequence[Opening]) -> list[dict[str, Any]]:
        """``openings``: as they were before the moment, so that one that ends meanwhile has its log in it."""
        found = {row.table: self._table(moment, row) for row in self._current_logs(moment.conn)}
        for opening in openings:
            if opening.plan.name not in found:
                found[opening.plan.name] = self._queued(moment, opening)
        return [found[name] for name in sorted(found)]

    def table(self, name: str) -> dict[str, Any]:
        """One table with its rules, columns and generations; also one that is protected no longer."""
        with self._moment() as moment:
            row = self._log(moment.conn, name)
            generations = [r for r in logs.list_logs(moment.conn) if r.table == row.table]
            newest = verifications.latest(moment.conn, row.table)
            return self._table(moment, row) | {
                "origin": row.origin,
                "oid": row.oid,
                "key_columns": list(row.key_columns),
                "schema_seq": row.schema_seq,
                "verify_interval_s": known_interval(moment.conn, row.table),
                "generations": [_generation(moment, r) for r in generations],
                "last_verification": None if newest is None else _verification(newest),
            }

    def _current_logs(self, conn: sqlite3.Connection) -> list[LogRow]:
        """The newest log of each table that is protected or about to be."""
        rows = [row for row in logs.list_logs(conn) if row.status != "ended"]
        current = {row.table: row for row in rows} | {row.table: row for row in rows if row.status != "open"}
        protected = self._state.tables()
        return [row for name, row in sorted(current.items()) if name in protected or row.status in ("open", "provisional")]

    def _log(self, conn: sqlite3.Connection, name: str, generation: int | None = None) -> LogRow:
        """The log of a table: of this generation, or of the newest that is decided."""
        rows = [row for row in logs.list_logs(conn) if row.table == name]
        if generation is not None:
            rows = [row for row in rows if row.generation == generation]
        if not rows:
            what = f"{name[:200]} was never protected" if generation is None else f"{name[:200]} has no generation {generation}"
            raise UsageError(what, hint="`witnz status` lists the protected tables", code=NOT_FOUND)
        return next((row for row in reversed(rows) if row.status != "open"), rows[-1])

    def _table(self, moment: Moment, row: LogRow) -> dict[str, Any]:
        record = moment.state.newest_generation(row.table)
        newest = verifications.latest(moment.conn, row.table)
        rules = None if record is None else asdict(record.rules)
        return {
            "name": row.table,
            "generation": row.generation,
            "status": row.status,
            "protected": moment.state.current_table(row.table) is not None,
            "mode": None if record is None else record.rules.mode,
            "rules": rules,
            "entries": row.size,
            "live_rows": self._live_rows(moment.conn, row),
            "root": base64.b64encode(entries.root_at(moment.conn, row.id, row.size)).decode(),
            "chain": row.chain,
            "lsn": _newest_lsn(moment.conn, row),
            "sealed": _sealed_size(moment, row),
            "last_verified_s": None if newest is None else moment.age_s(newest.at),
            "verdict": None if newest is None else newest.verdict,
            "findings_open": findings.count_open(moment.conn, row.table),
        }

    def _queued(self, moment: Moment, opening: Opening) -> dict[str, Any]:
        """A table whose first log is not there yet: as it is shown once that is, and empty."""
        name, generation = opening.plan.name, opening.plan.generation
        newest = verifications.latest(moment.conn, name)
        return {
            "name": name,
            "generation": generation,
            "status": "open",
            "protected": False,
            "mode": None,
            "rules": None,
            "entries": 0,
            "live_rows": 0,
            "root": base64.b64encode(EMPTY_ROOT).decode(),
            "chain": first_parent(log_origin(moment.state.cluster, name, generation)),
            "lsn": format_lsn(0),
            "sealed": 0,
            "last_verified_s": None if newest is None else moment.age_s(newest.at),
            "verdict": None if newest is None else newest.verdict,
            "findings_open": findings.count_open(moment.conn, name),
        }

    def _live_rows(self, conn: sqlite3.Connection, row: LogRow) -> int:
        """How many rows are accepted; where counting takes long, what it was a little while ago."""
        known, now = self._counts.get(row.id), time.monotonic()
        if known is not None and known.seconds > SLOW_COUNT_S and now - known.at < COUNT_SHARE * known.seconds:
            return known.rows
        rows = live.count(conn, row.id)
        self._counts[row.id] = _Count(rows, now, time.monotonic() - now)
        return rows

    # -- findings -------------------------------------------------------------------------------------------------------------

    def findings(self, state: str | None = None, table: str | None = None) -> list[dict[str, Any]]:
        """Findings, the newest first, at most 10,000; ``state``: open, acknowledged, approved, repaired."""
        if state is not None and state not in STATES:
            raise UsageError(f"state: expected {', '.join(STATES)}, found {state[:40]!r}")
        states = None if state is None else [state]
        with self._db.read() as conn:
            found = findings.list_findings(conn, states=states, table=table, limit=MAX_LISTED)  # type: ignore[arg-type]
        return [finding.to_json() for finding in found]

    def finding(self, finding_id: str) -> dict[str, Any]:
        """One finding with what its class means, what to do first, and its journal record."""
        with self._db.read() as conn:
            finding = findings.get(conn, finding_id)
        if finding is None:
            raise UsageError(f"no finding {finding_id[:40]}", hint="`witnz findings list` shows them all", code=NOT_FOUND)
        return self._explained(finding)

    def _explained(self, finding: Finding) -> dict[str, Any]:
        about, recorded = CLASSES[finding.cls], self._state.finding_state(finding.id)
        return finding.to_json() | {
            "meaning": about.meaning,
            "action": about.action,
            "closed": finding.state in CLOSED,
            "journal_seq": None if recorded is None else recorded.seq,
        }

    # -- checkpoints and verifications ----------------------------------------------------------------------------------------

    def checkpoints(self, limit: int = 100) -> list[dict[str, Any]]:
        """The newest checkpoints, newest first."""
        with self._moment() as moment:
            stored = checkpoints.list_checkpoints(moment.conn, limit=_bounded(limit, MAX_ENTRIES))
            return [checkpoint_summary(moment, one) for one in stored]

    def checkpoint(self, size: int | None = None) -> dict[str, Any]:
        """The checkpoint of a size, or the newest, with its note and who signed it when."""
        with self._moment() as moment:
            conn = moment.conn
            stored = checkpoints.latest(conn) if size is None else checkpoints.get(conn, size)
            if stored is None:
                what = "there is no checkpoint yet" if size is None else f"there is no checkpoint of size {size}"
                raise UsageError(what, hint="`witnz checkpoint list` shows those there are", code=NOT_FOUND)
            note, result = parse_note(stored.note), judged(self._state, stored)
            times = {signature.name: cosignature_time(signature) for signature in note.signatures}
            cosigners = {member.id: member.cosigner.split("+", 1)[0] for member in self._state.members.values()}
            at = {name: times.get(cosigners[name]) for name in result.cosigned_by}
            return checkpoint_summary(moment, stored) | {
                "origin": parse_checkpoint(note.text).origin,
                "digest": checkpoint_digest(note.text).hex(),
                "log_signed": result.log_ok,
                "cosignatures": [
                    {"node": name, "at": None if when is None else format_time(when * 1_000_000)} for name, when in at.items()
                ],
                "detail": result.detail,
                "note": stored.note,
            }

    def verifications(self, table: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """Results of verifications, newest first."""
        with self._db.read() as conn:
            found = verifications.list_verifications(conn, table=table, limit=_bounded(limit, MAX_ENTRIES))
        return [_verification(one) for one in found]

    # -- anchors --------------------------------------------------------------------------------------------------------------

    def anchors(self, limit: int = 100) -> dict[str, Any]:
        """``witnz.anchors/1``: the configured anchors, the newest receipts, and who would have to collude."""
        with self._moment() as moment:
            return {
                "schema": "witnz.anchors/1",
                "anchors": anchor_documents(moment.conn, moment.state, self._config, moment.now_us),
                "history": history(moment.conn, moment.state),
                "receipts": list(receipt_documents(moment.conn, moment.state, _bounded(limit, MAX_LISTED))),
            }

    # -- entries --------------------------------------------------------------------------------------------------------------

    def log_entries(
        self,
        table: str,
        from_seq: int = 1,
        to_seq: int | None = None,
        key: str | None = None,
        limit: int = 100,
        *,
        generation: int | None = None,
    ) -> dict[str, Any]:
        """Entries of a table log, oldest first, at most ``limit``; ``next_seq`` is where the next ones begin, null at the end.

        ``key``: only those of a row, named as :func:`witnz.node.keytext.parse_key` reads it.  Without a key every entry comes
        with its chain hash and audit id.
        """
        limit = _bounded(limit, MAX_ENTRIES)
        if from_seq < 1:
            raise UsageError(f"from: expected a seq from 1 on, found {from_seq}")
        with self._db.read() as conn:
            row = self._log(conn, table, generation)
            last = row.size if to_seq is None else min(to_seq, row.size)
            state_key = None if key is None else self.state_key(row, key)
            shown, next_seq = log_page(conn, row, from_seq, last, state_key, limit)
        return {
            "schema": "witnz.log/1",
            "table": row.table,
            "generation": row.generation,
            "origin": row.origin,
            "size": row.size,
            "entries": shown,
            "next_seq": next_seq,
        }

    def state_key(self, row: LogRow, key: str) -> bytes:
        """The state key under which a row named by people is recorded; of a long or hidden key its hash."""
        record = self._state.newest_generation(row.table)
        hidden = record is not None and record.hidden_keys
        return recorded_key(row, key, hidden=hidden)

    def key_of(self, table: str, key: str) -> bytes:
        """:meth:`state_key` of the current generation of a table."""
        with self._db.read() as conn:
            return self.state_key(self._log(conn, table), key)

    def orders(self, table: str) -> dict[str, Any]:
        """``witnz.orders/1``: what was ordered to be erased and to be pruned of a table."""
        with self._db.read() as conn:
            return orders_document(conn, self._state, self._log(conn, table).table)

    def export_log(self, table: str, directory: Path, fmt: str, generation: int | None = None) -> dict[str, Any]:
        """Write a log's entries below a directory (:mod:`witnz.node.export`); tiles up to the newest seal, if there is one."""
        with self._db.read() as conn:
            row = self._log(conn, table, generation)
            sealed = self._state.last_sealed(row.table, row.generation)
            size = min(sealed.size, row.size) if fmt == "tiles" and sealed is not None else row.size
            files = export_log(conn, row, size, directory, fmt)
            return {"schema": "witnz.log-export/1", **log_summary(conn, row, size), "format": fmt, "files": files}


def _openings(live_node: Live | None) -> list[Opening]:
    return [] if live_node is None else live_node.generations.opening()


def load_journal_state(db: Database) -> JournalState:
    """The journal in a store, its records taken as valid: the node that wrote them checked each one."""
    with db.read() as conn:
        return journal.load_state(conn)


def _newest_lsn(conn: sqlite3.Connection, row: LogRow) -> str:
    """The final LSN of the newest transaction recorded in a log; that of its baseline's snapshot while it is empty."""
    return format_lsn(parse_entry(entries.entry_at(conn, row.id, row.size)).lsn if row.size else row.lsn)


def _generation(moment: Moment, row: LogRow) -> dict[str, Any]:
    return {
        "generation": row.generation,
        "status": row.status,
        "origin": row.origin,
        "entries": row.size,
        "chain": row.chain,
        "sealed": _sealed_size(moment, row),
    }


def _sealed_size(moment: Moment, row: LogRow) -> int:
    sealed = moment.state.last_sealed(row.table, row.generation)
    return 0 if sealed is None else sealed.size


def _verification(stored: StoredVerification) -> dict[str, Any]:
    return {"id": stored.id, **stored.doc, "journal_seq": stored.journal_seq}


def _bounded(limit: int, most: int) -> int:
    if not 1 <= limit <= most:
        raise UsageError(f"limit: expected 1 to {most}, found {limit}")
    return limit
