"""``verify: all``: every member verifies a table in the very same snapshot, and the results are compared (architecture.md 7).

    the member whose turn it is          the others
    asks all to hold                     keep the values before unsettled transactions
    opens a scan in S and exports it
    verify.join  ----------------------> import S, answer, and verify in it as if it were their own
    reads, judges, journals              read, judge, journal
    verify.outcome (now and then) -----> say how far they are
    lets all go

Each member journals its own ``verify`` record, so nobody's word stands for another's, and one that dies half-way takes nothing
with it: whoever has imported S goes on.  The comparison is a function of the journal (and of what was asked for a vote on),
made by every member alike:

*   Records of one snapshot say what each member *found*.  Where a quorum agrees, whoever says something else is named.
*   What was to be *expected* is voted on.  Whoever asked for votes on another state than the one that a quorum then confirmed
    for the same snapshot is named, too: its store is not what the cluster recorded.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import psycopg
import structlog

from witnz.core.canonical import canonical, parse_json
from witnz.core.names import parse_table_name
from witnz.core.record import Record
from witnz.core.shape import hex_bytes, integer, members, one_of, spelled, text
from witnz.ending import end_threads
from witnz.errors import Inconclusive, WitnzError
from witnz.node.confirming import HOLD_S, Confirming
from witnz.node.journal import Journal
from witnz.node.scanning import Scanning
from witnz.node.table_state import ACTIVE, TableState
from witnz.node.verification import Verification, Verified
from witnz.postgres.scan import SnapshotScan
from witnz.postgres.xid import parse_snapshot
from witnz.verify.live import Progress, Scan, Target

if TYPE_CHECKING:
    from witnz.cluster.peers import Peers

log = structlog.get_logger(__name__)

JOIN, OUTCOME = "verify.join", "verify.outcome"
JOIN_TIMEOUT_S: Final = 10.0
IMPORT_S: Final = 8.0  # below the asker's timeout
CALL_TIMEOUT_S: Final = 2.0
POLL_S: Final = 0.2
RECORD_WAIT_S: Final = 10.0  # for the records of those that are done
RECORD_POLL_S: Final = 0.02
WAIT_LEAST_S: Final = 30.0  # for the slower members; and three times what this one took
KEPT: Final = 64
CONFIRMED: Final = "a quorum of members has confirmed in the same snapshot"

_JOIN = members(
    {
        "table": spelled(parse_table_name),
        "generation": integer(1),
        "token": hex_bytes(16),
        "exported": text(100, min_bytes=1),
        "snapshot": spelled(parse_snapshot),
    }
)
_OUTCOME = members({"token": hex_bytes(16)})
_ANSWER = members({"state": one_of("reading", "done", "failed"), "detail": text()})

Name = Callable[[str, str, int, str], None]
"""Opens the finding about a node: (its id, table, generation, why)."""


@dataclass(frozen=True, slots=True)
class _Said:
    """What a member says of one snapshot: rows and state root found."""

    rows: int
    found: str


@dataclass(slots=True)
class _Snapshot:
    """What is known of one snapshot of one generation: what was found, by node; what was to be expected; claims of others."""

    found: dict[str, _Said] = field(default_factory=dict)
    expected: dict[str, int] = field(default_factory=dict)  # state root -> journal_size, as confirmed by a quorum
    claimed: dict[str, tuple[str, int]] = field(default_factory=dict)  # node -> root and journal_size that were refused


class Comparison:
    """Compares what members say of one snapshot.  ``name`` is called once a quorum contradicts one of them."""

    def __init__(self, journal: Journal, name: Name) -> None:
        self._journal, self._name = journal, name
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, int, str], _Snapshot] = OrderedDict()

    def followed(self, record: Record) -> None:
        """A ``verify`` record, which a quorum confirmed as far as the state expected goes."""
        body = record.body
        if body["mode"] != "snapshot":
            return
        with self._lock:
            known = self._of(body)
            known.found[record.node] = _Said(body["rows"], body["state_found"])
            known.expected[body["state_expected"]] = body["journal_size"]
            self._judge(body, known)

    def refused(self, node: str, body: Mapping[str, Any]) -> None:
        """This node was asked to confirm a state expected that is not its own."""
        if body["mode"] == "snapshot":
            with self._lock:
                known = self._of(body)
                known.claimed[node] = body["state_expected"], body["journal_size"]
                self._judge(body, known)

    def said_of(self, table: str, generation: int, snapshot: str, node: str) -> _Said | None:
        """What a node's record says that it found in a snapshot."""
        with self._lock:
            known = self._known.get((table, generation, snapshot))
            return None if known is None else known.found.get(node)

    def _of(self, body: Mapping[str, Any]) -> _Snapshot:
        place = body["table"], body["generation"], body["snapshot"]
        known = self._known.setdefault(place, _Snapshot())
        self._known.move_to_end(place)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        return known

    def _judge(self, body: Mapping[str, Any], known: _Snapshot) -> None:
        table, generation = body["table"], body["generation"]
        accepted = [row.accepted_at for row in self._journal.state.accepts(table, generation)]
        for node, (root, at) in known.claimed.items():
            for expected, confirmed_at in known.expected.items():
                low, high = sorted((at, confirmed_at))
                if root != expected and not any(low < seq <= high for seq in accepted):
                    self._name(node, table, generation, f"its store expects another state than {CONFIRMED}")
        for usual, count in Counter(known.found.values()).most_common(1):
            for node, said in known.found.items():
                if count >= self._journal.state.quorum and said != usual:
                    detail = f"in snapshot {body['snapshot']} it says that it found another state than {count} others"
                    self._name(node, table, generation, detail)


class Together:
    """One node's part in verifications of all members."""

    def __init__(
        self,
        node_id: str,
        journal: Journal,
        peers: Peers,
        confirming: Confirming,
        verification: Verification,
        scanning: Scanning,
        comparison: Comparison,
        states: Callable[[], list[TableState]],
        target: Callable[[TableState], Target],
    ) -> None:
        self._node_id, self._journal, self._peers, self._confirming = node_id, journal, peers, confirming
        self._verification, self._scanning, self._comparison = verification, scanning, comparison
        self._states, self._target = states, target
        self._lock = threading.Lock()
        self._outcomes: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._threads: list[threading.Thread] = []
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="together")
        peers.serve(JOIN, self._answer_join, 4096)
        peers.serve(OUTCOME, self._answer_outcome, 4096)

    def close(self) -> None:
        self._stopped.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        end_threads(*self._threads)

    # -- whose turn it is -----------------------------------------------------------------------------------------------------

    def verify(self, state: TableState, progress: Progress = lambda rows: None) -> Verified:
        """Verify a table here and on all members that come along; this node's result, and what became of the others'."""
        token = os.urandom(16).hex()
        joined: dict[str, str] = {}
        target = replace(self._target(state), open_first=lambda: self._exporting(state, token, joined))
        with ExitStack() as hold:
            hold.enter_context(self._confirming.held(state.name, state.generation, shared=token))
            verified = self._verification.run(target, progress, alone=False)
            waiting = {node for node, said in joined.items() if not said}
            self._await(token, waiting, joined, max(WAIT_LEAST_S, 3 * verified.result.seconds))
            if waiting:  # they need the hold until they have been confirmed, and nobody else needs to wait for them
                self._in_background(partial(self._hold_on, token, waiting, hold.pop_all()))
        self._compare(verified, joined)
        return replace(verified, members=dict(sorted(joined.items())))

    def _compare(self, verified: Verified, joined: dict[str, str]) -> None:
        """What the members' records say beside this node's; that of one that is done comes here a moment later."""
        result, mine = verified.result, _Said(verified.result.rows, verified.found_root_b64)
        deadline = time.monotonic() + RECORD_WAIT_S
        for node in sorted(joined):
            while True:
                said = self._comparison.said_of(result.table, result.generation, result.snapshot, node)
                if said is not None:
                    joined[node] = "the same" if said == mine else "another state"
                elif not joined[node] and time.monotonic() < deadline and not self._stopped.wait(RECORD_POLL_S):
                    continue
                break
            joined[node] = joined[node] or "is done; its result is compared when it comes"

    def _hold_on(self, token: str, waiting: set[str], hold: ExitStack) -> None:
        with hold:
            self._await(token, waiting, {}, HOLD_S)

    def _in_background(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name="verify along", daemon=True)
        self._threads = [*(one for one in self._threads if one.is_alive()), thread]
        thread.start()

    @contextmanager
    def _exporting(self, state: TableState, token: str, joined: dict[str, str]) -> Iterator[Scan]:
        with self._scanning.recorded(state) as scan:
            if isinstance(scan, SnapshotScan):  # a partitioned root has no rows of its own to read
                told = {"table": state.name, "generation": state.generation, "token": token}
                joined |= self._invite({**told, "exported": scan.export(), "snapshot": scan.snapshot_text})
            yield scan

    def _invite(self, told: Mapping[str, Any]) -> dict[str, str]:
        """The other members: "" where one has imported the snapshot, else why not.  Waits for all, each a few seconds."""
        body = canonical(dict(told))
        others = [node for node in self._journal.state.members if node != self._node_id]
        asked = {node: self._pool.submit(self._peers.call, node, JOIN, body, JOIN_TIMEOUT_S) for node in others}
        answers: dict[str, str] = {}
        for node, future in asked.items():
            try:
                future.result()
            except WitnzError as error:
                answers[node] = f"did not come along: {error.message}"[:500]
                log.info("member does not verify along", peer=node, table=told["table"], reason=error.message)
            else:
                answers[node] = ""
        return answers

    def _await(self, token: str, waiting: set[str], joined: dict[str, str], limit_s: float) -> None:
        """Until every member that came along has ended, does not answer any more, or takes too long."""
        body, deadline = canonical({"token": token}), time.monotonic() + limit_s
        unheard: Counter[str] = Counter()
        while waiting and time.monotonic() < deadline and not self._stopped.is_set():
            for node in sorted(waiting):
                try:
                    answer = parse_json(self._peers.call(node, OUTCOME, body, CALL_TIMEOUT_S), what=OUTCOME, max_bytes=8192)
                    _ANSWER(answer, OUTCOME)
                except WitnzError as error:
                    unheard[node] += 1
                    if unheard[node] >= 5:
                        waiting.discard(node)
                        joined[node] = f"was lost: {error.message}"[:500]
                else:
                    unheard[node] = 0
                    if answer["state"] != "reading":
                        waiting.discard(node)
                        joined[node] = answer["detail"]
            if waiting:
                self._stopped.wait(POLL_S)
        for node in waiting:
            joined[node] = "is still reading; its result is compared when it comes"

    # -- along with another ---------------------------------------------------------------------------------------------------

    def _answer_join(self, node: str, data: bytes) -> bytes:
        told = parse_json(data, what=JOIN, max_bytes=4096)
        _JOIN(told, JOIN)
        if not self._confirming.holds_for(told["token"], node):
            raise Inconclusive("this node was not asked in time to keep what the snapshot needs")
        state = self._state(told["table"], told["generation"])
        imported = threading.Event()
        target = replace(self._target(state), open_first=lambda: self._importing(state, told, imported))
        with self._lock:
            self._outcomes[told["token"]] = ("reading", "")
            while len(self._outcomes) > KEPT:
                self._outcomes.popitem(last=False)
        self._in_background(partial(self._along, target, told["token"]))
        deadline = time.monotonic() + IMPORT_S
        while not imported.wait(0.05):
            with self._lock:
                outcome, detail = self._outcomes[told["token"]]
            if outcome != "reading":
                raise Inconclusive(detail)
            if time.monotonic() > deadline:
                raise Inconclusive("the snapshot could not be imported in time")
        return b"{}"

    def _state(self, table: str, generation: int) -> TableState:
        for state in self._states():
            if (state.name, state.generation, state.status) == (table, generation, ACTIVE):
                return state
        raise Inconclusive(f"{table}, generation {generation}, is not recorded here")

    @contextmanager
    def _importing(self, state: TableState, told: Mapping[str, Any], imported: threading.Event) -> Iterator[Scan]:
        with self._scanning.recorded(state, import_snapshot=told["exported"]) as scan:
            if parse_snapshot(scan.snapshot_text) != parse_snapshot(told["snapshot"]):
                raise Inconclusive("the imported snapshot is not the one that was announced")
            imported.set()
            yield scan

    def _along(self, target: Target, token: str) -> None:
        """On a thread of its own: this node's own verification, in the snapshot of another."""
        try:
            verified = self._verification.run(target, alone=False, patience_s=IMPORT_S)
        except (WitnzError, psycopg.Error) as error:
            outcome, detail = "failed", str(error).strip()
        else:
            outcome = "done" if verified.journal_seq is not None else "failed"
            detail = "" if outcome == "done" else "; ".join(verified.not_checked) or "its result could not be journalled"
        with self._lock:
            self._outcomes[token] = outcome, detail[:1000]

    def _answer_outcome(self, node: str, data: bytes) -> bytes:
        told = parse_json(data, what=OUTCOME, max_bytes=4096)
        _OUTCOME(told, OUTCOME)
        with self._lock:
            outcome, detail = self._outcomes.get(told["token"], ("failed", "it does not know of this verification"))
        return canonical({"state": outcome, "detail": detail})
