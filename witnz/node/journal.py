"""The node's side of the journal: signing what it proposes, checking and storing what is applied (formats.md 4).

A proposal goes through the engine and comes back to :meth:`Journal._apply`, here as on every other node.  Only there it
gets its seq; a record that is not valid writes no leaf and takes no seq.

Several nodes, and a node that can die between any two steps, make these rules:

1.  A node has one proposal in flight.  Its signed bytes are durable before the engine sees them; when nobody knows what became
    of it, exactly those bytes are proposed again, before anything else, until they were applied or refused.  So a node never
    signs two records with one ``n`` of which both might still enter the journal.
2.  The same bytes may arrive twice; the second time they change nothing.
3.  A command is judged at its place and nowhere else: what a refused command asked for might be valid later.  The engine's
    index of the newest command is stored with what it did, and commands up to there are skipped.  A store whose records came
    from other nodes does not know that index; there commands are compared with the records until the last of them.

Votes of a cluster of one are its own; :attr:`Journal.collect` asks the other members where there are some.
"""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from witnz.cluster.engine import Engine, LocalEngine, Membership
from witnz.core.canonical import canonical, parse_json
from witnz.core.journal import FORGED
from witnz.core.keys import Signer
from witnz.core.record import (
    Record,
    format_proposal,
    format_record,
    operator_bytes,
    parse_proposal,
    parse_record,
    record_hash,
    sign_record,
    vote_bytes,
)
from witnz.core.record_bodies import VOTED
from witnz.core.shape import hex_bytes, integer, list_of, members
from witnz.errors import NoQuorum, ProofError, WitnzError
from witnz.logging import Seldom
from witnz.store import journal as stored
from witnz.store import meta
from witnz.store.database import Database

log = structlog.get_logger(__name__)

PROPOSE_TIMEOUT_S = 10.0
REFUSALS_A_MINUTE = 20  # in the log; a member can have anything ordered
SIGN_AGAIN = 3  # how often a record is signed anew because its place in the node's sequence was taken meanwhile
INDEX, IN_FLIGHT, MEMBERSHIP = "journal_index", "proposal", "membership"

_SNAPSHOT = members({"chain": hex_bytes(32), "membership": list_of(integer(), low=2, high=2), "size": integer()})

Body = Mapping[str, Any]
Collect = Callable[[str, Body, int], Mapping[str, str]]
"""Votes on a body (type, body without votes, time of the record in µs) by node id.  Raises NoQuorum where there are too few."""


class Journal:
    """The journal as this node knows it.  Thread-safe; ``state`` is read without a lock and only grows.

    ``on_record`` and ``on_refusal`` are told, on the applying thread and after the record is durable, what was applied and what
    was refused (the proposal is None where the command did not even parse); they must return at once.
    """

    def __init__(
        self,
        db: Database,
        engine: Engine,
        node_id: str,
        identity: Signer,
        clock: Callable[[], int],
        *,
        cluster: str,
        cluster_id: str,
    ) -> None:
        self._db, self._engine, self._node_id, self._identity, self._clock = db, engine, node_id, identity, clock
        self._cluster_id = cluster_id
        self._lock = threading.RLock()  # the journal's own state; never held while waiting for the engine or a peer
        self._turn = threading.Lock()  # one proposal at a time
        self._replicated = not isinstance(engine, LocalEngine)
        self._awaited = ""  # the hash of the proposal whose outcome somebody waits for
        self._outcome: tuple[Record | None, WitnzError | None] | None = None
        self.collect: Collect = lambda record_type, body, at: {self._node_id: self.vote(record_type, body)}
        self.later: Callable[[str, Body], None] | None = None
        """Among several nodes: stores, and proposes as often as it takes, what the recording thread must not wait for."""
        self.fetch: Callable[[int, str], None] = _nobody_to_ask
        """Gets the records up to a size and its chain head from other members, and calls :meth:`reload`."""
        self.on_record: list[Callable[[Record], None]] = []
        self.on_refusal: list[Callable[[Record | None, WitnzError], None]] = []
        with db.read() as conn:
            self.head = stored.load_head(conn)
            self.state = stored.load_state(conn)
            index = meta.load_number(conn, INDEX)
        if index is None and not self._replicated:
            with db.write() as conn:  # what one node orders alone comes before everything that it will order with others
                meta.save_value(conn, INDEX, 0)
        self._refused = Seldom(REFUSALS_A_MINUTE)
        self._index = index or 0
        self._compared = self.head.size if index is not None else min(1, self.head.size)
        engine.on_apply(self._apply, self if self._replicated else None)

    @property
    def size(self) -> int:
        return self.head.size

    def vote(self, record_type: str, body: Body) -> str:
        """This node's vote on a body; whether it may give it is for the caller to know."""
        return _b64(self._identity.sign(vote_bytes(body, self._cluster_id, record_type)))

    # -- proposing ------------------------------------------------------------------------------------------------------------

    def propose(self, record_type: str, body: Body, *, at: int | None = None, deadline_s: float = PROPOSE_TIMEOUT_S) -> int:
        """Sign a record, have it voted on where it needs votes, ordered and applied; its seq.

        Raises ProofError if the journal refuses it, NoQuorum if too few members answer: the record may then still be applied,
        and will be proposed again until it was applied or refused.
        """
        at = self._clock() if at is None else at
        if record_type in VOTED:
            body = {**body, "votes": dict(self.collect(record_type, body, at))}
        with self._turn:
            self._settle(deadline_s)
            for _ in range(SIGN_AGAIN):
                record = self._sign(record_type, body, at)
                self._check_authorised(record)
                applied, refusal = self._order(record, deadline_s)
                if applied is not None:
                    return applied.seq or 0
                if not self._overtaken(record):
                    raise refusal or ProofError(f"the {record_type} record was not applied")
            raise ProofError(f"the {record_type} record was overtaken by others of this node")

    def _check_authorised(self, record: Record) -> None:
        """What no honest node proposes is not proposed, whoever asked for it: the others would name this node for it."""
        try:
            with self._lock:
                self.state.check(record)
        except ProofError as error:
            if error.code == FORGED:
                raise ProofError(error.message, hint=self._who_may_sign(record), code=FORGED) from None

    def _who_may_sign(self, record: Record) -> str:
        """What to do where an operator's signature does not count: most often the key was rotated."""
        if not isinstance(record.body.get("auth"), dict):
            return ""
        names = ", ".join(sorted(self.state.keys_in_force("operator"))) or "nobody"
        return f"operators whose keys are in force: {names}; sign with the key file of one of them"

    def settle(self, deadline_s: float = PROPOSE_TIMEOUT_S) -> None:
        """Find out what became of a proposal that is in doubt, if there is one.  Raises NoQuorum if nobody can say."""
        if self.in_doubt and self._turn.acquire(blocking=False):
            try:
                self._settle(deadline_s)
            finally:
                self._turn.release()

    @property
    def in_doubt(self) -> bool:
        """Whether a proposal of this node was neither applied nor refused yet."""
        return self._in_flight() is not None

    def _in_flight(self) -> bytes | None:
        if not self._replicated:
            return None
        with self._db.read() as conn:
            text = meta.load_value(conn, IN_FLIGHT)
        return None if text is None else text.encode()

    def _settle(self, deadline_s: float) -> None:
        command = self._in_flight()
        if command is None:
            return
        record = parse_proposal(command)
        with self._lock:
            decided = record.n < self.state.next_n(self._node_id)
        if decided:
            with self._db.write() as conn:
                meta.save_value(conn, IN_FLIGHT, None)
            return
        applied, refusal = self._order(record, deadline_s)
        log.info(
            "proposal in doubt was decided",
            type=record.type,
            seq=None if applied is None else applied.seq,
            refused="" if refusal is None else refusal.message,
        )

    def _sign(self, record_type: str, body: Body, at: int) -> Record:
        with self._lock:
            return sign_record(
                self._identity,
                at=at,
                body=body,
                cluster=self._cluster_id,
                n=self.state.next_n(self._node_id),
                node=self._node_id,
                prev=self.state.prev_of(self._node_id),
                record_type=record_type,
            )

    def _order(self, record: Record, deadline_s: float) -> tuple[Record | None, WitnzError | None]:
        """Have a signed proposal ordered: the record as applied, or None and why not.  Raises NoQuorum where it is in doubt."""
        command, name = format_proposal(record), record_hash(record)
        with self._lock:
            self._outcome, self._awaited = None, name
        if self._replicated:
            with self._db.write() as conn:
                meta.save_value(conn, IN_FLIGHT, command.decode())
        self._engine.propose(command, f"{self._node_id}/{record.n}/{name}", deadline_s)
        with self._lock:
            if self._outcome is not None:
                return self._outcome
            if self.state.prev_of(self._node_id) == name:  # it came with records that were fetched from other members
                return record.at_seq(self.state.seq_of_newest(self._node_id)), None
            raise NoQuorum(f"what became of the {record.type} record is not known yet", hint="it is proposed again by itself")

    def _overtaken(self, record: Record) -> bool:
        """Whether another record of this node, long in doubt, took the place that this one was signed for."""
        with self._lock:
            return self.state.next_n(self._node_id) > record.n

    # -- where this node is, for the engine ----------------------------------------------------------------------------------

    def applied_index(self) -> int:
        """The engine's index that the stored journal reflects."""
        return self._index

    def snapshot(self) -> tuple[int, bytes]:
        """What stands for all commands up to an index: the journal's size and chain head, and since when its members order it.

        The index at which the members changed is known only to whoever applied that command, so it travels with the rest.
        """
        with self._lock, self._db.read() as conn:
            membership = load_membership(conn)
            return self._index, canonical({"chain": self.head.chain.decode(), "membership": membership, "size": self.head.size})

    def restore(self, index: int, snapshot: bytes) -> None:
        """Reach the journal that a snapshot names, with records from other members; durable when this returns.

        Raises a WitnzError where that did not work this time.
        """
        named = parse_json(snapshot, what="journal snapshot", max_bytes=1024)
        _SNAPSHOT(named, "journal snapshot")
        if self.head.size < named["size"]:
            self.fetch(named["size"], named["chain"])
        with self._lock:
            with self._db.write() as conn:
                if self.head.size < named["size"] or stored.chain_at(conn, named["size"]) != named["chain"]:
                    raise ProofError(f"the journal of this node is not the cluster's at size {named['size']}")
                meta.save_value(conn, INDEX, index)
                changed = named["membership"][0] > load_membership(conn)[0]
                if changed:
                    meta.save_value(conn, MEMBERSHIP, json.dumps(named["membership"]))
            self._index, self._compared = index, named["size"]
            if changed:
                epoch, since_index = named["membership"]
                self._engine.reconfigure(Membership(epoch, since_index, tuple(sorted(self.state.members))))

    def reload(self) -> None:
        """Take note of records that were written to the store from elsewhere, checked there; on the applying thread."""
        with self._lock, self._db.read() as conn:
            first = self.head.size + 1
            for leaf in stored.records(conn, first):
                self.state.apply(parse_record(leaf), verify_signatures=False)
            self.head = stored.load_head(conn)
            last = self.head.size
        for seq in range(first, last + 1):  # one by one: a member that was away for weeks has a hundred thousand of them
            with self._db.read() as conn:
                record = parse_record(stored.record_at(conn, seq))
            for listener in self.on_record:
                listener(record)

    # -- applying -------------------------------------------------------------------------------------------------------------

    def _apply(self, index: int, command: bytes) -> None:
        """One ordered command: a leaf if it is valid, nothing if it is not."""
        with self._lock:
            if self._replicated and (index <= self._index or self._stands_already(index, command)):
                return
            record: Record | None = None
            try:
                record = parse_proposal(command).at_seq(self.head.size + 1)
                if self._is_repeated(record):
                    self._note_index(index, record)
                    return
                self.state.check(record)
            except WitnzError as error:
                refusal: WitnzError | None = error
                self._note_index(index, record)
            else:
                refusal = None
                self._store(index, record)
            if record is not None and record_hash(record) == self._awaited:
                self._outcome = (None if refusal else record, refusal)
        if refusal is not None:
            left_out = self._refused.next()
            if left_out is not None:
                log.warning("journal command was refused", index=index, reason=refusal.message, left_out=left_out)
            for told in self.on_refusal:
                told(record, refusal)
        elif record is not None:
            for listener in self.on_record:
                listener(record)

    def _store(self, index: int, record: Record) -> None:
        """The record, its index and, where it changes the members, who orders from here on: all or nothing of it."""
        changes = record.type == "member" and self._replicated
        head, leaf = self.head.copy(), format_record(record)
        epoch = 0
        if changes:
            with self._db.read() as conn:
                epoch = load_membership(conn)[0] + 1
        try:
            with self._db.write() as conn:
                stored.append_record(conn, head, leaf)
                self._save_index(conn, index, record)
                if changes:
                    meta.save_value(conn, MEMBERSHIP, json.dumps([epoch, index]))
        except WitnzError:
            if not self._persisted(head.size, leaf):
                raise
            log.warning("commit failed and had persisted", seq=head.size)
        self.head, self._index = head, index
        self._compared = head.size
        self.state.apply(record, verify_signatures=False)
        if changes:  # the engine has to know before it goes on to the next command
            self._engine.reconfigure(Membership(epoch, index, tuple(sorted(self.state.members))))

    def _persisted(self, seq: int, leaf: bytes) -> bool:
        """Whether the record stands in the store, whatever its commit said: a disk may fail after it has written."""
        with self._db.read() as conn:
            return seq == self.head.size + 1 and stored.load_head(conn).size == seq and stored.record_at(conn, seq) == leaf

    def _note_index(self, index: int, record: Record | None) -> None:
        """A command that left no leaf; the engine must not offer it again either."""
        if self._replicated:
            with self._db.write() as conn:
                self._save_index(conn, index, record)
            self._index = index

    def _save_index(self, conn: Any, index: int, record: Record | None) -> None:
        if not self._replicated:
            return
        meta.save_value(conn, INDEX, index)
        if record is not None and meta.load_value(conn, IN_FLIGHT) == format_proposal(record).decode():
            meta.save_value(conn, IN_FLIGHT, None)

    def _is_repeated(self, record: Record) -> bool:
        """Whether exactly this record is in the journal already: proposed twice by a node that did not know."""
        return (
            self._replicated
            and record.n == self.state.next_n(record.node) - 1
            and record_hash(record) == self.state.prev_of(record.node)
        )

    def _stands_already(self, index: int, command: bytes) -> bool:
        """Whether a command is from before the end of records that this store got from other nodes (rule 3)."""
        if self._compared >= self.head.size:
            return False
        with self._db.read() as conn:
            expected = parse_record(stored.record_at(conn, self._compared + 1))
        if format_proposal(expected) == command:
            self._compared += 1
        if self._compared == self.head.size:
            self._note_index(index, None)
        return True


def load_membership(conn: sqlite3.Connection) -> list[int]:
    """Since when the present members order the journal: [epoch, the engine's index at which it began]."""
    known: list[int] = json.loads(meta.load_value(conn, MEMBERSHIP) or "[0, 0]")
    return known


def _nobody_to_ask(size: int, chain: str) -> None:
    raise NoQuorum(f"the journal up to record {size} has to come from other members, and none was asked")


def authorise(record_type: str, body: Body, cluster_id: str, operator: str, signer: Signer) -> dict[str, Any]:
    """The body with a fresh nonce and the operator's signature over what it decides (formats.md 4, auth)."""
    decided = {**body, "nonce": os.urandom(16).hex()}
    signature = signer.sign(operator_bytes(decided, cluster_id, record_type))
    return {**decided, "auth": {"operator": operator, "sig": _b64(signature)}}


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
