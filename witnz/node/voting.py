"""Votes: nothing that a quorum of nodes has not computed itself enters the journal (formats.md 4, votes).

Whoever proposes asks the other members, side by side, and goes on with the first quorum.  A member answers with its signature
on exactly these bytes, or says why not:

    later     it cannot say yet: its stream or its journal is behind, or its own opening has not come so far
    differs   it has looked, and its own log says something else: somebody's log is false, and both are told so
    other     it has voted for something else at this place before, or does not take part in such a thing at all

What a member voted for is durable before its vote leaves, and for one LSN it never votes for two seals.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

import structlog

from witnz.core.canonical import canonical, parse_json
from witnz.core.journal import FORGED
from witnz.core.keys import verify_signature
from witnz.core.lsn import parse_lsn
from witnz.core.record import MAX_RECORD_BYTES, vote_bytes
from witnz.core.record_bodies import VOTED, check_body
from witnz.core.shape import base64_bytes, integer, members, nullable, one_of, text
from witnz.errors import FormatError, NoQuorum, WitnzError
from witnz.logging import Seldom
from witnz.node.journal import Journal
from witnz.store import meta
from witnz.store.database import Database

if TYPE_CHECKING:
    from witnz.cluster.peers import Peers

log = structlog.get_logger(__name__)

VOTE = "vote"
CALL_TIMEOUT_S = 5.0
LINGER_S = 0.1  # how long a quorum waits for the votes of the rest
MAX_REQUEST_BYTES = 2 * MAX_RECORD_BYTES
VOTED_FOR = "votes"
REFUSALS_A_MINUTE = 60  # in the log; a member can ask for anything

Kind = Literal["later", "differs", "other"]
Judge = Callable[[str, Mapping[str, Any], int, Mapping[str, Any]], None]
"""(who asks, body, time of the record in µs, context): returns where this node's own data say the same; raises Refused."""

_REQUEST = members(
    {
        "type": text(32, min_bytes=1),
        "body": lambda value, path: None,
        "at": integer(),
        "context": lambda value, path: None,
    }
)
_ANSWER = members(
    {"vote": nullable(base64_bytes(64)), "refused": nullable(one_of("later", "differs", "other")), "reason": text()}
)


class Refused(WitnzError):
    """This node does not vote for that."""

    code = "vote.refused"

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(reason[:1000])
        self.kind = kind


@dataclass(slots=True)
class Ballot:
    """One vote under way: who gave one, who refused and how."""

    votes: dict[str, str] = field(default_factory=dict)
    refused: dict[str, Refused] = field(default_factory=dict)
    unreachable: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        said = [f"{node}: {refusal.kind}, {refusal.message}" for node, refusal in sorted(self.refused.items())]
        return "; ".join([*said, *(f"{node} does not answer" for node in sorted(self.unreachable))])


class TooFewVotes(NoQuorum):
    """Fewer members than the quorum voted; ``ballot`` says why."""

    def __init__(self, what: str, ballot: Ballot, quorum: int) -> None:
        super().__init__(f"{len(ballot.votes)} of {quorum} votes for the {what} ({ballot})", hint="`witnz cluster status`")
        self.ballot = ballot

    @property
    def may_change(self) -> bool:
        """Whether asking again may give another answer by itself: nobody looked and saw something else."""
        return not any(refusal.kind == "differs" for refusal in self.ballot.refused.values())


class Ballots:
    """Collects and gives the votes of one node.  ``judges`` by record type; ``context`` of what is asked, likewise."""

    def __init__(self, db: Database, journal: Journal, peers: Peers, node_id: str) -> None:
        self._db, self._journal, self._peers, self._node_id = db, journal, peers, node_id
        self._lock = threading.Lock()
        self._lines = Seldom(REFUSALS_A_MINUTE)
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="votes")
        self.judges: dict[str, Judge] = {}
        self.context: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {}
        self.on_forged: Callable[[str, str, str], None] = lambda node, record_type, reason: None
        peers.serve(VOTE, self._answer, MAX_REQUEST_BYTES)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    # -- asking ---------------------------------------------------------------------------------------------------------------

    def collect(self, record_type: str, body: Mapping[str, Any], at: int) -> Mapping[str, str]:
        """The votes of at least a quorum, this node's among them.  Raises TooFewVotes."""
        state = self._journal.state
        context = self.context[record_type](body) if record_type in self.context else {}
        context.setdefault("journal_size", self._journal.size)
        request = canonical({"type": record_type, "body": dict(body), "at": at, "context": context})
        ballot = Ballot()
        try:
            self._bind(record_type, body)
            ballot.votes[self._node_id] = self._journal.vote(record_type, body)
        except Refused as refusal:
            ballot.refused[self._node_id] = refusal
        ballot_bytes = vote_bytes(body, state.cluster_id, record_type)
        others = [member for member in state.members.values() if member.id != self._node_id]
        asked = {
            self._pool.submit(self._ask, member.id, member.identity, request, ballot_bytes): member.id for member in others
        }
        pending: set[Future[str | Refused]] = set(asked)
        while pending:
            enough = len(ballot.votes) >= state.quorum
            done, pending = wait(pending, LINGER_S if enough else CALL_TIMEOUT_S + 1, FIRST_COMPLETED)
            for future in done:
                self._count(ballot, asked[future], future)
            if enough and not done:
                break
        if len(ballot.votes) < state.quorum:
            raise TooFewVotes(record_type, ballot, state.quorum)
        return ballot.votes

    def _count(self, ballot: Ballot, node: str, future: Future[str | Refused]) -> None:
        try:
            answer = future.result()
        except WitnzError as error:
            log.debug("no vote", peer=node, reason=error.message)
            ballot.unreachable.append(node)
            return
        if isinstance(answer, Refused):
            ballot.refused[node] = answer
        else:
            ballot.votes[node] = answer

    def _ask(self, node: str, identity: bytes, request: bytes, ballot_bytes: bytes) -> str | Refused:
        answer = parse_json(self._peers.call(node, VOTE, request, CALL_TIMEOUT_S), what="vote", max_bytes=MAX_RECORD_BYTES)
        _ANSWER(answer, "vote")
        if answer["vote"] is None:
            return Refused(answer["refused"] or "other", answer["reason"])
        if not verify_signature(identity, base64.b64decode(answer["vote"]), ballot_bytes):
            return Refused("other", "its vote is not by its identity key")
        return str(answer["vote"])

    # -- answering ------------------------------------------------------------------------------------------------------------

    def _answer(self, node: str, data: bytes) -> bytes:
        request = parse_json(data, what="vote request", max_bytes=MAX_REQUEST_BYTES)
        _REQUEST(request, "vote request")
        if not isinstance(request["body"], dict) or not isinstance(request["context"], dict):
            raise FormatError("vote request: expected objects as body and context")
        try:
            vote = self._judge(node, request["type"], request["body"], request["at"], request["context"])
        except Refused as refusal:
            left_out = self._lines.next()
            if left_out is not None:
                what = {"type": request["type"], "kind": refusal.kind, "reason": refusal.message}
                log.info("vote was refused", peer=node, **what, left_out=left_out)
            return canonical({"vote": None, "refused": refusal.kind, "reason": refusal.message})
        return canonical({"vote": vote, "refused": None, "reason": ""})

    def _judge(self, node: str, record_type: str, body: Mapping[str, Any], at: int, context: Mapping[str, Any]) -> str:
        judge = self.judges.get(record_type)
        if record_type not in VOTED or judge is None:
            raise Refused("other", f"this node does not vote on {record_type[:40]} records")
        check_body(record_type, {**body, "votes": {self._node_id: base64.b64encode(bytes(64)).decode()}})
        try:
            judge(node, body, at, context)
        except Refused as refusal:
            if refusal.code == FORGED:
                self.on_forged(node, record_type, refusal.message)
            raise
        self._bind(record_type, body)
        return self._journal.vote(record_type, body)

    # -- remembering ----------------------------------------------------------------------------------------------------------

    def _bind(self, record_type: str, body: Mapping[str, Any]) -> None:
        """Note durably what this node votes for at an LSN; refuse a second, other seal there."""
        if record_type != "seal":
            return
        place = f"{body['lsn']}/{body.get('part', 1)}"
        digest = sha256(canonical(dict(body))).hexdigest()
        with self._lock, self._db.write() as conn:
            voted: dict[str, str] = json.loads(meta.load_value(conn, VOTED_FOR) or "{}")
            if voted.get(place, digest) != digest:
                raise Refused("other", f"this node voted for another seal at {body['lsn']}")
            if place not in voted:
                sealed = self._journal.state.last_seal_lsn
                kept = {where: what for where, what in voted.items() if parse_lsn(where.rsplit("/", 1)[0]) >= sealed}
                meta.save_value(conn, VOTED_FOR, json.dumps(kept | {place: digest}))
