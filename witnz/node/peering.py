"""This node among the others of its cluster: everything it does only because it is not alone (architecture.md 3 and 5).

Threads: *members* settles proposals in doubt, carries out the journal, compares seals and shows heads; *engine* applies.  What
waits for a peer never runs on the thread that records.  Without a quorum the node goes on recording, detecting and alerting by
itself; the journal and the seals catch up when the others are back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import psycopg
import structlog

from witnz.core.finding import CLASSES
from witnz.core.journal import FORGED
from witnz.core.record import Record, check_record_signature
from witnz.core.timestamp import parse_time
from witnz.ending import end_threads
from witnz.errors import FormatError, WitnzError
from witnz.node.abreast import BARRIER_S, Abreast
from witnz.node.agreement import Agreement
from witnz.node.companions import LeadersSide, MembersSide
from witnz.node.confirming import Confirming
from witnz.node.delivery import Deliveries
from witnz.node.gossip import Gossip
from witnz.node.journalled_finding import journalled_finding
from witnz.node.judges import Judges
from witnz.node.misdeeds import Misdeeds
from witnz.node.owed_gaps import OwedGaps
from witnz.node.refilling import Refilling
from witnz.node.together import Comparison, Together
from witnz.node.turns import Turns
from witnz.node.voting import Ballots, TooFewVotes
from witnz.postgres.catalog import TableInfo
from witnz.postgres.scan import SnapshotScan
from witnz.postgres.session import connect
from witnz.store import findings

if TYPE_CHECKING:
    from witnz.cluster.engine import Engine
    from witnz.cluster.peers import Peers
    from witnz.node.node import Node

log = structlog.get_logger(__name__)

ROUND_S: Final = 0.1
EXCHANGE_S: Final = 1.0
TEND_S: Final = 2.0
QUORUM_LOST_S: Final = 10.0
OTHERS_JOURNAL_AFTER_S: Final = 5.0
LATE_SEALS: Final = 3  # intervals; then anybody seals
LATE_SLACK_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Fellows:
    """What connects a node to the others: the order of the journal, and the members' channel."""

    engine: Engine
    peers: Peers


class Peering:
    """One node's part in a cluster of several."""

    def __init__(self, node: Node, fellows: Fellows) -> None:
        self._node, self.engine, self.peers = node, fellows.engine, fellows.peers
        self._id = node.config.node_id
        self._stop = threading.Event()
        self._woken = threading.Event()
        self._threads: list[threading.Thread] = []
        self._without_quorum_since: float | None = time.monotonic()
        self._exchanged = self._tended = 0.0
        self._stood_in_at = 0.0
        journal, db = node.journal, node.db
        self.ballots = Ballots(db, journal, self.peers, self._id)
        self.agreement = Agreement(db, journal, node.book, self.peers, self._id)
        self.gossip = Gossip(
            db, journal, node.cosigner, node.book, self.peers, self._id,
            node.data.path / "evidence", lambda: self.agreement.diverged,
        )  # fmt: skip
        self.companions = LeadersSide(journal, self.peers, self._id)
        self.deliveries = Deliveries(db, journal, self.leads)
        node.alerts.hold_s = self.deliveries.hold_s
        self.abreast = Abreast(self.engine, node.following, lambda: journal.size)
        node.alerts.ready, node.approvals.caught_up = self.abreast.may_alert, self.abreast.caught_up
        node.cosigner.conditions += [self.agreement.condition, self._late_condition, self._asked_condition]
        journal.collect = self.ballots.collect
        self.gaps = OwedGaps(db, journal, self.leads)
        journal.later = self.gaps.owe
        node.bridging.leads = self.leads
        journal.on_record.append(lambda record: self._woken.set())
        journal.on_refusal.append(self._refused)
        self.misdeeds = Misdeeds(db, node.book, node.alerts.wake)
        self.ballots.on_forged = self._misbehaved
        node.following.handlers |= {
            "finding": self._follow_finding,
            "dissent": self.agreement.followed,
            "operator": self.deliveries.followed,
        }

    def wire(self) -> None:
        """What needs the parts that are made after this one."""
        node = self._node
        judges = Judges(node.db, node.journal, node.generations, node.states, self.agreement.accuse, self._misbehaved)
        self.ballots.judges |= {"seal": judges.seal, "table": judges.table, "gap": judges.gap}
        self.ballots.context |= {"table": judges.table_context, "seal": lambda body: {"journal_size": node.sealer.journal_size}}
        self.confirming = Confirming(
            node.db, node.journal, node.following, self.peers, self._id, node.data.spill_dir, node.capture.hold
        )
        self.ballots.judges |= {"verify": self.confirming.judge, "epoch": node.restores.judge}
        node.restores.alone, node.restores.leads = False, self.leads
        node.restores.catch_up = lambda: self.engine.barrier(
            BARRIER_S
        )  # for the newest seals, before what lies beyond them is given up
        node.verification.around = self.confirming.held
        node.verification.disputed = self._disputed
        node.verification.diverged = partial(self.agreement.name, self._id)
        self.comparison = Comparison(node.journal, self.agreement.name)
        self.confirming.refused = self.comparison.refused
        node.following.handlers["verify"] = self._follow_verify
        self.turns = Turns(self._id, lambda: node.journal.state.members, self.confirming.under_way)
        self.together = Together(
            self._id, node.journal, self.peers, self.confirming, node.verification, node.scanning, self.comparison,
            node.states, node.target,
        )  # fmt: skip
        self.refilling = Refilling(node, self.peers, self._stop)
        node.source.refill = self.refilling.refill
        MembersSide(
            node.journal, node.generations, node.states, self._connect, _import_scan, self.engine.leader
        ).register(self.peers)  # fmt: skip
        node.following.handlers["unprotect"] = self._follow_unprotect

    def _connect(self) -> psycopg.Connection[Any]:
        return connect(self._node.conninfo, scan=True, application_name="witnz baseline")

    # -- life -----------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take part; the engine begins to apply."""
        self.peers.start()
        self.engine.start()
        thread = threading.Thread(target=self._run, name="members", daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        """Take no part any more."""
        self._stop.set()
        self._woken.set()
        end_threads(*self._threads)
        self.engine.close()
        try:
            self.misdeeds.tell()
        except WitnzError as error:
            log.warning("what members did last was not written down", reason=error.message)
        self.peers.close()
        self.companions.close()
        self.together.close()  # what still waits there for a slow member lets go of what it holds through the next
        self.confirming.close()
        self.gossip.close()
        self.ballots.close()

    # -- who does what --------------------------------------------------------------------------------------------------------

    def leads(self) -> bool:
        """Whether this node leads the cluster, as far as it knows."""
        status = self.engine.status()
        return status.has_quorum and status.leader == self._id

    @property
    def has_quorum(self) -> bool:
        return self.engine.status().has_quorum

    def seals(self) -> bool:
        """Whether it is for this node to seal now: it leads, or who leads has not, or has asked for a false seal."""
        if not self.has_quorum:
            return False
        if self.leads() and not self.agreement.diverged:
            return True
        return self.substitutes()

    def substitutes(self) -> bool:
        """Whether this node does what the leader should have done; one after another, not in each other's way."""
        if self.agreement.diverged:
            return False
        late = self.agreement.unsealed_s() > self._late_s()
        if not late and time.monotonic() > self.agreement.substitute_until:
            return False
        others = sorted(node for node in self._node.journal.state.members if node != self.engine.leader())
        turn = int(time.time() / (2 * self._node.config.seal_interval_s + 0.2)) % max(1, len(others))
        return bool(others) and others[turn] == self._id

    def is_my_turn(self, table: str, interval_s: float) -> bool:
        """Whether a scheduled verification is for this node now: they rotate, and a turn not taken is taken over."""
        return self.turns.take(table, interval_s, self._node.clock() / 1e6)

    def _follow_verify(self, record: Record) -> None:
        self.turns.verified(record.body["table"], record.at / 1e6)
        self.comparison.followed(record)

    def _disputed(self, record_type: str, body: Mapping[str, Any]) -> bool:
        """Whether so many members see something else in their own logs that this node alone is wrong."""
        try:
            self.ballots.collect(record_type, body, self._node.clock())
        except TooFewVotes as failed:
            others = [refusal for node, refusal in failed.ballot.refused.items() if node != self._id]
            return sum(refusal.kind == "differs" for refusal in others) >= self._node.journal.state.quorum
        except WitnzError:
            return False
        return False

    def _late_s(self) -> float:
        return LATE_SEALS * self._node.config.seal_interval_s + LATE_SLACK_S

    def journal_after_s(self) -> float:
        """How old a finding has to be before this node journals it."""
        return 0.0 if self.leads() else OTHERS_JOURNAL_AFTER_S

    # -- the round ------------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            self._woken.wait(ROUND_S)
            self._woken.clear()
            for chore in (self._settle, self._node.following.follow, self.agreement.look, self._exchange, self._tend,
                self._propose_gaps,
            ):  # fmt: skip
                if self._stop.is_set():
                    return
                try:
                    chore()
                except (WitnzError, psycopg.Error) as error:
                    log.warning("chore among members failed", reason=str(error).strip())

    def _settle(self) -> None:
        if self.has_quorum:
            self._node.journal.settle()

    def _exchange(self) -> None:
        now = time.monotonic()
        if now - self._exchanged >= EXCHANGE_S:
            self._exchanged = now
            self.gossip.exchange()

    def _tend(self) -> None:
        """What is due now and then: notice a lost quorum; as the leader, open what is wished for and clear away the rest."""
        now = time.monotonic()
        if now - self._tended < TEND_S:
            return
        self._tended = now
        self.misdeeds.tell()
        self._watch_quorum(now)
        self.refilling.look()
        self.confirming.sweep()
        if self.leads():
            self._node.generations.cancel_orphans()
            self._node.protection.open_what_is_due()
        if self.has_quorum:
            self.deliveries.journal_sent()

    def _watch_quorum(self, now: float) -> None:
        if self.has_quorum or self._id not in self._node.journal.state.members:  # whoever was taken away misses nobody
            self._without_quorum_since = None
            return
        if self._without_quorum_since is None:
            self._without_quorum_since = now
        elif now - self._without_quorum_since > QUORUM_LOST_S:
            with self._node.db.write() as conn:
                opened = self._node.book.open(
                    conn,
                    cls="quorum.lost",
                    detail="fewer members than the quorum answer; recording, detection and alerts go on, seals wait",
                )
            if opened:
                self._node.alerts.wake()
                log.error("quorum was lost", finding=opened)

    def _propose_gaps(self) -> None:
        """The gaps that this node has seen are for the cluster's journal once a quorum has seen them."""
        if self.has_quorum and self.gaps.due():
            self._node.errands.start("gaps", self.gaps.step)

    # -- cosigning ------------------------------------------------------------------------------------------------------------

    def _late_condition(self, size: int) -> str | None:
        late = self.agreement.unsealed_s()
        return f"entries of this node have not been sealed for {late:.0f} s" if late > self._late_s() else None

    def _asked_condition(self, size: int) -> str | None:
        others = set(self._node.journal.state.members) - {self._id}
        return None if others <= self.gossip.asked else "the other members were not asked yet what they know"

    # -- what is refused ------------------------------------------------------------------------------------------------------

    def _refused(self, record: Record | None, error: WitnzError) -> None:
        """On the engine's thread: a command that no honest node proposes is told about, by somebody who may wait."""
        if error.code == FORGED and record is not None:
            member = self._node.journal.state.members.get(record.node)
            signed = member is not None and check_record_signature(record, member.identity)
            who = record.node if signed else ""  # whoever only claims to be a node accuses nobody
            self._misbehaved(who, record.type, error.message)
        elif isinstance(error, FormatError):
            self._misbehaved("", "command", error.message)

    def _misbehaved(self, node: str, record_type: str, reason: str) -> None:
        """Returns at once; the round tells of what an errand under way does not take along."""
        if self.misdeeds.note(node, record_type, reason):
            self._node.errands.start("misdeeds", self.misdeeds.tell)

    # -- what others found ----------------------------------------------------------------------------------------------------

    def _follow_finding(self, record: Record) -> None:
        """A finding that another node has journalled is known here as well, and alerted if nobody else does."""
        if record.node == self._id:
            return
        finding = journalled_finding(record, self._node.journal.state, status="open")
        with self._node.db.write() as conn:
            adopted = self._node.book.adopt(conn, finding)
        if adopted:
            self._node.events.publish("finding", finding.to_json())

    def _follow_unprotect(self, record: Record) -> None:
        """Protection has ended; what this node saw of the table after that, before it knew, is no finding."""
        table = record.body["table"]
        self._node.generations.end(table)
        with self._node.db.write() as conn:
            for finding in findings.list_findings(conn, table=table):
                late = finding.window.first_bad is not None and parse_time(finding.window.first_bad) > record.at
                about = finding.cls == "table.dropped" or CLASSES[finding.cls].group == "stream"
                if late and about and self._node.journal.state.finding_state(finding.id) is None:
                    self._node.book.take_back(conn, finding, f"its protection was ended by record {record.seq}")
                    log.info("finding was taken back: protection had ended", finding=finding.id, record=record.seq)


def _import_scan(conn: psycopg.Connection[Any], info: TableInfo, excluded: frozenset[str], exported: str) -> SnapshotScan:
    columns = [column.name for column in info.replicated_columns if column.name not in excluded]
    return SnapshotScan(conn, info, columns=columns, import_snapshot=exported)
