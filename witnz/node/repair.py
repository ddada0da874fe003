"""Repairs: putting recorded rows back without becoming a violation oneself.

    plan     the rows that a finding is about, as they are now, as they were found and as they were recorded: statements for
             those that are still as found, a reason for each other one
    apply    :mod:`witnz.node.repair_apply`: one transaction under an intent signed by a key in force
    settle   the stream has recorded it; the rows are read once more; where all are as recorded the finding is closed, the
             journal says so, and the whole table is verified

The accepted state follows by itself: each write is an entry under a valid intent, so it is accepted, and its row hash is the
one that was accepted before.  Who may close a finding this way is decided by a signature as well: :meth:`Repairs.settle` wants
the intent, whose text names the finding; a plan with nothing left to write is settled with one, too.

Findings about the same rows are closed with it: what they reported is undone, by the same signature.  A finding about the
repair's own write means that its intent did not count; then nothing is closed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
import structlog

from witnz.core.finding import Finding
from witnz.core.keys import Signer
from witnz.core.message import Intent, check_intent, parse_intent
from witnz.errors import Inconclusive, KeyProblem, UsageError
from witnz.node.approval import Approvals
from witnz.node.findings import CLOSED, REPAIRED, FindingBook
from witnz.node.images import ImageBox
from witnz.node.journal import Journal
from witnz.node.repair_apply import Applied, apply_plan
from witnz.node.repair_plan import RepairPlan
from witnz.node.repair_planner import MAX_PLAN_BYTES, Planner
from witnz.node.repair_rows import MAX_ROWS, REPAIRABLE, FindingRows, check_repairable, with_restored
from witnz.node.table_state import TableState
from witnz.node.verification import Verified
from witnz.postgres.session import Conninfo, classify_error
from witnz.store import findings
from witnz.store.database import Database
from witnz.verify.live import Scan
from witnz.verify.stream import PATIENCE, Patience

log = structlog.get_logger(__name__)

_XID_MASK: Final = 0xFFFFFFFF
_REPAIRED: Final = "repaired"  # the result that closes a finding in the journal


@dataclass(frozen=True, slots=True)
class Parts:
    """What repairs need of the running node; ``connect`` gives a connection that may read, pinned like a scan's."""

    db: Database
    journal: Journal
    book: FindingBook
    box: ImageBox
    approvals: Approvals
    state: Callable[[str], TableState]
    connect: Callable[[], psycopg.Connection[Any]]
    open_scan: Callable[[TableState], AbstractContextManager[Scan]]
    await_mark: Callable[[bytes, Patience], None]
    verify_table: Callable[[str], Verified]


@dataclass(frozen=True, slots=True)
class RepairResult:
    """What came of a repair.  ``closed``: the findings that it closed, the asked one first; empty where a row is left over.

    ``restored``: keys; ``left``: sentences about rows that are not as recorded; ``verified``: the table afterwards.
    """

    finding: Finding
    repaired: bool
    sql_sha256: str
    closed: tuple[str, ...] = ()
    restored: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    verified: Verified | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        """``witnz.repair/1``; no row contents."""
        return {
            "schema": "witnz.repair/1",
            "finding": self.finding.to_json(),
            "repaired": self.repaired,
            "sql_sha256": self.sql_sha256,
            "closed": list(self.closed),
            "restored": list(self.restored),
            "left": list(self.left),
            "notes": list(self.notes),
            "verified": self.verified.to_json() if self.verified is not None else None,
        }


class Repairs:
    """Plans, carries out and settles the repairs of one node; each of at most ``max_rows`` rows and a plan of so many bytes."""

    def __init__(self, parts: Parts, *, max_rows: int = MAX_ROWS, max_plan_bytes: int = MAX_PLAN_BYTES) -> None:
        self.parts, self._max_rows, self._max_plan_bytes = parts, max_rows, max_plan_bytes

    # -- plan -----------------------------------------------------------------------------------------------------------------

    def plan(self, finding_id: str) -> RepairPlan:
        """What would restore the rows of an open finding.

        Raises UsageError for a finding that is closed, not about rows, of a table that keeps no images or has no key;
        StoreCorrupt for an image that is not what was recorded; Inconclusive or DatabaseError where the table cannot be read.
        """
        return self._plan(self._open_one(finding_id))

    def _plan(self, finding: Finding, restored: Iterable[str] = ()) -> RepairPlan:
        """``restored``: keys that have to be as recorded, too (of a truncate, restored rows are no longer those before it)."""
        state = self._state_of(finding)
        with self.parts.db.read() as conn:
            rows = FindingRows(conn, state, self.parts.box, self._max_rows)
            wanted = with_restored(rows.wanted(finding), restored)
            recorded = rows.recorded([row.key for row in wanted])
            heap_only = finding.xid is None
            try:
                with self.parts.connect() as pg:
                    planner = Planner(
                        finding, state, rows, pg, self._scan_for, heap_only=heap_only, max_bytes=self._max_plan_bytes
                    )
                    planner.run(wanted, recorded)
            except psycopg.Error as error:
                raise classify_error(error, doing=f"reading {state.name} for a repair") from None
        return RepairPlan(
            finding=finding.id,
            cls=finding.cls,
            table=state.name,
            generation=state.generation,
            oid=state.oid,
            cluster_id=self.parts.journal.state.cluster_id,
            columns=planner.shape.names,
            heap_only=heap_only,
            signers=self.signers(),
            statements=tuple(planner.statements),
            refused=tuple(planner.refused),
            unchanged=tuple(planner.unchanged),
        )

    def signers(self) -> dict[str, bytes]:
        """The keys in force that may sign a repair, by name; as the intents are judged, an intent key before an operator's."""
        journal = self.parts.journal.state
        return {**journal.keys_in_force("operator"), **journal.keys_in_force("intent")}

    # -- apply ----------------------------------------------------------------------------------------------------------------

    def apply(
        self, finding_id: str, admin: Conninfo, operator: str, signer: Signer, reason: str, *, by: str | None = None
    ) -> RepairResult:
        """Plan, write and settle.  Raises what :meth:`plan`, ``apply_plan`` and :meth:`settle` raise."""
        plan = self.plan(finding_id)
        applied = apply_plan(plan, admin, operator=operator, signer=signer, reason=reason, by=by)
        return self.settle(finding_id, applied, plan.sql_sha256)

    # -- settle ---------------------------------------------------------------------------------------------------------------

    def settle(self, finding_id: str, applied: Applied, sql_sha256: str) -> RepairResult:
        """Close the finding if its rows are as recorded now, and verify the table.

        Raises KeyProblem unless ``applied.intent`` is signed by a key in force for this finding and table, Inconclusive where
        the stream does not get that far in time; then nothing is lost, and the same repair can be asked for again.
        """
        finding = self._open_one(finding_id)
        intent = self._check_intent(finding, applied.intent)
        try:
            self.parts.await_mark(os.urandom(16).hex().encode(), PATIENCE)
        except Inconclusive as error:
            raise Inconclusive(
                f"the repair is written, but not recorded yet: {error.message}",
                hint=f"run `witnz repair apply {finding_id}` again when the node has caught up",
            ) from error
        rest = self._plan(finding, applied.restored)
        near = self._near(finding, rest)
        own = [other.id for other in near if other.xid == str(intent.xid & _XID_MASK)]
        done = rest.nothing_left and not own
        closed = [finding_id] if done else []
        if not own:
            closed += [other.id for other in near]
        for name in closed:
            self._close(name, sql_sha256)
        left = _left(applied, rest, own)
        if not done:
            self.note(finding, f"{len(left)} row(s) left: {left[0]}"[:1000], sql_sha256)
        return RepairResult(
            finding=self.get(finding_id),
            repaired=done,
            sql_sha256=sql_sha256,
            closed=tuple(closed),
            restored=applied.restored,
            left=() if done else left,
            notes=applied.notes,
            verified=self.parts.verify_table(rest.table),
        )

    def get(self, finding_id: str) -> Finding:
        """Raises UsageError if there is no such finding."""
        return self.parts.approvals.get(finding_id)

    def note(self, finding: Finding, result: str, sql_sha256: str | None = None) -> None:
        """Journal what became of a repair; any other result than ``repaired`` leaves the finding as it is."""
        self.parts.approvals.journal_finding(finding)
        body = {"finding": finding.id, "target": finding.table or "", "sql_sha256": sql_sha256, "result": result}
        self.parts.journal.propose("repair", body)

    def resume(self) -> None:
        """Close what the journal calls repaired and a crash left open here."""
        with self.parts.db.read() as conn:
            still_open = [finding for finding in findings.list_findings(conn) if finding.state not in CLOSED]
        for finding in still_open:
            known = self.parts.journal.state.finding_state(finding.id)
            if known is not None and known.status == _REPAIRED:
                with self.parts.db.write() as conn:
                    self.parts.book.set_state(conn, finding.id, REPAIRED)

    def _close(self, finding_id: str, sql_sha256: str) -> None:
        finding = self.get(finding_id)
        self.note(finding, _REPAIRED, sql_sha256)
        with self.parts.db.write() as conn:
            self.parts.book.set_state(conn, finding_id, REPAIRED)
        log.info("finding was repaired", finding=finding_id, table=finding.table)

    def _check_intent(self, finding: Finding, text: str) -> Intent:
        intent = parse_intent(text)
        journal = self.parts.journal.state
        public = self.signers().get(intent.key)
        if public is None or not check_intent(intent, journal.cluster_id, public):
            raise KeyProblem(
                f"the repair of {finding.id} is not signed by a key in force",
                hint="`witnz keys show` lists the operator and intent keys in force",
            )
        if finding.table not in intent.tables or not intent.hint.startswith(f"repair {finding.id}: "):
            raise KeyProblem(f"the signed intent is not for the repair of {finding.id}", hint="sign the repair of this finding")
        return intent

    def _near(self, finding: Finding, rest: RepairPlan) -> list[Finding]:
        """The other open findings about rows that are as recorded again."""
        state, names = self._state_of(finding), set(rest.unchanged)
        with self.parts.db.read() as conn:
            rows = FindingRows(conn, state, self.parts.box, self._max_rows)
            known = findings.list_findings(conn, table=finding.table)
            return [other for other in known if self._is_near(other, finding, names) and not _written_over(rows, other)]

    def _is_near(self, other: Finding, finding: Finding, names: set[str]) -> bool:
        same_log = (other.table, other.generation) == (finding.table, finding.generation)
        return (
            same_log and other.id != finding.id and other.state not in CLOSED and other.cls in REPAIRABLE and other.key in names
        )

    # -- what a finding stands on ---------------------------------------------------------------------------------------------

    def _open_one(self, finding_id: str) -> Finding:
        finding = self.get(finding_id)
        if finding.state in CLOSED:
            raise UsageError(f"finding {finding.id} is {finding.state} already")
        return finding

    def _state_of(self, finding: Finding) -> TableState:
        check_repairable(finding)
        state = self.parts.state(finding.table or "")
        if state.generation != finding.generation:
            raise UsageError(
                f"finding {finding.id} is about generation {finding.generation} of {state.name}, which is over",
                hint="a row that still differs is a finding of the new generation; approve this one",
            )
        if not state.rules.retain:
            raise UsageError(
                f"{state.name} keeps no images of its rows, so there is nothing to restore them from",
                hint="restore the row from a backup, then approve the finding; for later ones end the protection "
                f"with witnz unprotect, and begin it again: witnz protect {state.name} --mode {state.rules.mode} --retain-rows",
                code="repair.no-images",
            )
        if not state.plan.keyed:
            raise UsageError(
                f"{state.name} has no key: a row that is put back would be a new row beside the recorded one",
                hint="write the rows in a transaction with a signed intent, then approve the finding; or give the table a key",
            )
        return state

    def _scan_for(self, state: TableState, key: bytes) -> list[bytes]:
        """The row lines with a hidden key, of which only the digest is known."""
        found: list[bytes] = []
        with self.parts.open_scan(state) as scan:
            for lines in scan.lines():
                found += [line for line, at in zip(lines, state.plan.state_keys(lines)[0], strict=True) if at == key]
        return found


def _left(applied: Applied, rest: RepairPlan, own: list[str]) -> tuple[str, ...]:
    """Why a repair is not done, as sentences; each once."""
    rows = (f"key {statement.key}: the row is not as recorded" for statement in rest.statements)
    unauthorised = (f"finding {name} is about the repair itself: its intent did not count" for name in own)
    return tuple(dict.fromkeys((*unauthorised, *applied.skipped, *rest.refused, *rows)))


def _written_over(rows: FindingRows, finding: Finding) -> bool:
    if finding.cls != "row.modified" or finding.xid is None:
        return False
    (wanted,) = rows.wanted(finding)
    return rows.is_written_over(finding, rows.recorded([wanted.key]).get(wanted.key))
