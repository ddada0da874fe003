"""What a verification run leads to: findings for what the stream does not explain, a ``verify`` record, a line in the store.

A difference that the stream explains is not a second finding: the violation or unapproved change that is open for the row
stands.  A table with such an open finding is TAMPERED even where the rows equal the record again (changed and changed
back), and one with an open coverage gap is INCONCLUSIVE, until somebody has decided.
"""

from __future__ import annotations

import base64
import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from witnz.core.finding import CLASSES, Finding
from witnz.core.lsn import format_lsn
from witnz.core.timestamp import format_time
from witnz.core.verdict import Verdict
from witnz.errors import Inconclusive, ProofError, WitnzError
from witnz.node.findings import ACKNOWLEDGED, OPEN, FindingBook, last_good
from witnz.node.journal import Journal
from witnz.node.voting import TooFewVotes
from witnz.store import erasures, findings, logs, verifications, verified_states
from witnz.store.database import Database
from witnz.store.verified_states import VerifiedState
from witnz.verify.live import Difference, LiveVerifier, Progress, TableResult, Target

log = structlog.get_logger(__name__)

Body = Mapping[str, Any]

TAMPER_GROUPS = frozenset({"silent", "stream"})
COVERAGE = frozenset(
    {"slot.lost", "coverage.gap", "epoch.restored", "publication.changed", "visibility.changed", "schema.changed"}
)
REPLACED = frozenset({"table.replaced", "table.dropped"})
MAX_LISTED = 1000


@dataclass(frozen=True, slots=True)
class Verified:
    """A recorded run: the raw result, the verdict after open findings were weighed, and the findings it rests on.

    ``erased_rows``: how many rows of the table have gone by order of an operator, over all of its generations.
    """

    result: TableResult
    verdict: Verdict
    findings: tuple[Finding, ...]
    not_checked: tuple[str, ...]
    journal_seq: int | None
    at: int
    erased_rows: int = 0
    members: Mapping[str, str] = field(default_factory=dict)
    """What became of the other members that were asked to verify in the same snapshot."""
    rolling: Mapping[str, Any] | None = None
    """Of a round of ranges, which has no root of its own: mode, ranges and how often every row is read."""

    @property
    def found_root_b64(self) -> str:
        return _b64(self.result.found_root)

    def to_json(self) -> dict[str, Any]:
        """The per-table part of ``witnz.verify/1``."""
        result = self.result
        return {
            "table": result.table,
            "generation": result.generation,
            "verdict": self.verdict.value,
            "snapshot": result.snapshot,
            "snapshot_lsn": format_lsn(result.lsn),
            "rows": result.rows,
            "unresolved": result.unresolved,
            "erased_rows": self.erased_rows,
            "expected_root": _b64(result.expected_root),
            "found_root": _b64(result.found_root),
            "seconds": round(result.seconds, 3),
            "findings": [finding.id for finding in self.findings],
            "not_checked": list(self.not_checked),
            "journal_seq": self.journal_seq,
            "at": format_time(self.at),
            **({"members": dict(self.members)} if self.members else {}),
            **({} if self.rolling is None else {"expected_root": None, "found_root": None, **self.rolling}),
        }


class Verification:
    """Runs and records verifications of one node, one at a time."""

    def __init__(self, db: Database, verifier: LiveVerifier, journal: Journal, book: FindingBook, clock: Callable[[], int]):
        self._db, self._verifier, self._journal, self._book, self._clock = db, verifier, journal, book, clock
        self._lock = threading.Lock()
        self.around: Callable[[str, int], AbstractContextManager[None]] = lambda table, generation: nullcontext()
        """What a verification is done within: other members keep what they need to confirm it."""
        self.disputed: Callable[[str, Body], bool] = lambda record_type, body: False
        """Whether a quorum of other members says that the state expected is another one than this node's store has."""
        self.diverged: Callable[[str, int, str], None] = lambda table, generation, detail: None

    def run(
        self,
        target: Target,
        progress: Progress = lambda rows: None,
        *,
        alone: bool = True,
        patience_s: float = -1,
    ) -> Verified:
        """Verify and record.  ``alone``: the others are asked here to hold; else whoever calls has done that.

        Raises Inconclusive where another verification of this node goes on for longer than ``patience_s`` (-1: for ever).
        """
        if not self._lock.acquire(timeout=patience_s):
            raise Inconclusive("another verification is under way on this node")
        try:
            with self.around(target.table, target.generation) if alone else nullcontext():
                result = self._verifier.verify(target, progress)
                self._doubt(result)
                return self._record(self._weigh(result))
        finally:
            self._lock.release()

    def _doubt(self, result: TableResult) -> None:
        """Rows that differ from a store which the others say is false accuse the store, not the rows."""
        if not result.differences or not self.disputed("verify", _body(_raw(result, self._clock()))):
            return
        detail = "the state that its store expects is not the one that the other members expect"
        log.error("own store is disputed", table=result.table, differences=len(result.differences))
        self.diverged(result.table, result.generation, detail)
        result.differences.clear()
        result.not_checked.append(f"{detail}; see the finding about this node")
        result.verdict = Verdict.INCONCLUSIVE

    def _weigh(self, result: TableResult) -> Verified:
        """Open what is new, gather what is open, and say what it all means for the table."""
        with self._db.write() as conn:
            window = (last_good(conn, result.table), format_time(self._clock()))
            erased = erasures.erased_rows(conn, result.table)
            for difference in result.differences:
                if not difference.explained:
                    self._open(conn, result, difference, window)
            every_open = findings.list_findings(conn, states=(OPEN, ACKNOWLEDGED))
        still_open = [finding for finding in every_open if finding.table == result.table]
        cluster_wide = [finding for finding in every_open if finding.table is None]
        tampering = [f for f in still_open if CLASSES[f.cls].group in TAMPER_GROUPS or f.cls in REPLACED]
        coverage = [f for f in (*still_open, *cluster_wide) if f.cls in COVERAGE and f.explained_by is None]
        verdict, not_checked = result.verdict, list(result.not_checked)
        if tampering:
            verdict = Verdict.TAMPERED
        elif coverage and verdict is Verdict.VERIFIED:
            verdict = Verdict.INCONCLUSIVE
        elif verdict is Verdict.VERIFIED and self._journal.state.ended_at(result.table, result.generation) is not None:
            verdict = Verdict.INCONCLUSIVE
            not_checked.append(f"a new generation of {result.table} is being opened, as a restore ended this one; run again")
        if coverage:
            not_checked += [f"{f.cls} {f.id} is open: {f.detail}" for f in coverage]
        listed = tuple((*tampering, *coverage)[:MAX_LISTED])
        return Verified(result, verdict, listed, tuple(not_checked), None, self._clock(), erased)

    def _open(
        self, conn: sqlite3.Connection, result: TableResult, difference: Difference, window: tuple[str | None, str | None]
    ) -> None:
        self._book.open(
            conn,
            cls=difference.cls,
            table=result.table,
            generation=result.generation,
            key=difference.key,
            seq=difference.seq,
            lsn=format_lsn(result.lsn),
            recorded=difference.recorded.hex() if difference.recorded else None,
            found=difference.found.hex() if difference.found else None,
            window=window,
            detail="no event in the replication stream explains what the scan found",
        )

    def _record(self, verified: Verified) -> Verified:
        """Journal and keep the run; the same with the seq of its record."""
        result, seq = verified.result, None
        if result.snapshot:
            try:
                seq = self._propose(_body(verified))
            except TooFewVotes as error:
                verified = _unconfirmed(verified, error)
                log.warning("verification was not confirmed", table=result.table, reason=error.message)
            except WitnzError as error:
                log.warning("verification was not journalled", table=result.table, reason=error.message)
        verified = replace(verified, journal_seq=seq)
        with self._db.write() as conn:
            row = logs.find_log(conn, result.table, result.generation)
            if row is not None and seq is not None and result.alive is not None and verified.verdict is Verdict.VERIFIED:
                verified_states.save(conn, row.id, VerifiedState(seq, *result.alive))
            if result.key_range is None:  # of ranges the round is kept, when it has ended
                save_run(conn, verified)
        log.info(
            "table was verified" if result.key_range is None else "range was verified",
            table=result.table,
            verdict=verified.verdict.value,
            rows=result.rows,
            seconds=round(result.seconds, 2),
        )
        return verified

    def _propose(self, body: dict[str, Any]) -> int:
        """Journal a body; where another member has said exactly the same already, as of the journal that holds that.

        The other members may do the same at the same time, so it is tried as often as there are members.
        """
        journal = self._journal
        for _ in journal.state.members:
            try:
                return journal.propose("verify", body)
            except ProofError:
                accepted = journal.state.accepts(body["table"], body["generation"])
                if any(row.accepted_at > body["journal_size"] for row in accepted) or journal.size == body["journal_size"]:
                    raise
                body = {**body, "journal_size": journal.size}
        return journal.propose("verify", body)


def save_run(conn: sqlite3.Connection, verified: Verified) -> None:
    """Keep what was found of a whole table."""
    verifications.save(
        conn,
        table=verified.result.table,
        generation=verified.result.generation,
        at=verified.at,
        verdict=verified.verdict.value,
        journal_seq=verified.journal_seq,
        doc=verified.to_json(),
    )


def _raw(result: TableResult, at: int) -> Verified:
    """A result before anything was weighed: what others can say about the state expected needs no more."""
    return Verified(result, Verdict.INCONCLUSIVE, (), (), None, at)


def _unconfirmed(verified: Verified, error: TooFewVotes) -> Verified:
    """Others expect another state, or could not be asked: only the first casts doubt on what this node has looked at."""
    verdict = verified.verdict
    if not error.may_change and verdict is Verdict.VERIFIED:
        verdict = Verdict.INCONCLUSIVE
    return replace(verified, verdict=verdict, not_checked=(*verified.not_checked, f"not confirmed: {error.message}"[:1000]))


def _body(verified: Verified) -> dict[str, Any]:
    result = verified.result
    return {
        "table": result.table,
        "generation": result.generation,
        "size": result.size,
        "journal_size": result.journal_size,
        "snapshot": result.snapshot,
        "lsn": format_lsn(result.lsn),
        "rows": result.rows,
        "unresolved": result.unresolved,
        "state_expected": _b64(result.expected_root),
        "state_found": _b64(result.found_root),
        "verdict": verified.verdict.value,
        "findings": [finding.id for finding in verified.findings],
        "not_checked": [text[:1000] for text in verified.not_checked[:20]],
        "mode": "snapshot" if result.key_range is None else "rolling",
        "range": None if result.key_range is None else result.key_range.to_body(),
        "seconds": round(result.seconds),
    }


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
