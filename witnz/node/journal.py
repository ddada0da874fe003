"""The node's side of the journal: signing what it proposes, checking and storing what is applied (formats.md 4).

A proposal goes through the engine and comes back to :meth:`Journal._apply`, here as on every other node.  Only there it
gets its seq; a record that is not valid writes no leaf and takes no seq.  Votes of a cluster of one are its own.
"""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

from witnz.cluster.engine import Engine
from witnz.core.journal import JournalState
from witnz.core.keys import Signer
from witnz.core.record import (
    Record,
    format_proposal,
    format_record,
    operator_bytes,
    parse_proposal,
    parse_record,
    sign_record,
    vote_bytes,
)
from witnz.core.record_bodies import VOTED
from witnz.errors import ProofError, WitnzError
from witnz.store import journal as stored
from witnz.store.database import Database

PROPOSE_TIMEOUT_S = 10.0

Body = Mapping[str, Any]


class Journal:
    """The journal as this node knows it.  Thread-safe; ``state`` is read without a lock and only grows."""

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
        self._lock = threading.RLock()
        self._applied: tuple[Record, WitnzError | None] | None = None
        with db.read() as conn:
            self.head = stored.load_head(conn)
            self.state = JournalState()
            for leaf in stored.records(conn):
                self.state.apply(parse_record(leaf), verify_signatures=False)
        engine.on_apply(self._apply)

    @property
    def size(self) -> int:
        return self.head.size

    def propose(self, record_type: str, body: Body, *, at: int | None = None) -> int:
        """Sign a record, have it ordered and applied; its seq.  Raises ProofError if the journal refuses it."""
        with self._lock:
            if record_type in VOTED:
                body = {
                    **body,
                    "votes": {self._node_id: _b64(self._identity.sign(vote_bytes(body, self._cluster_id, record_type)))},
                }
            record = sign_record(
                self._identity,
                at=self._clock() if at is None else at,
                body=body,
                cluster=self._cluster_id,
                n=self.state.next_n(self._node_id),
                node=self._node_id,
                prev=self.state.prev_of(self._node_id),
                record_type=record_type,
            )
            self._applied = None
            self._engine.propose(format_proposal(record), f"{self._node_id}/{record.n}", PROPOSE_TIMEOUT_S)
            if self._applied is None:
                raise ProofError(f"the {record_type} record was not applied")
            applied, refusal = self._applied
            if refusal is not None:
                raise refusal
            return applied.seq or 0

    def _apply(self, index: int, command: bytes) -> None:
        """One ordered command: a leaf if it is valid, nothing if it is not."""
        with self._lock:
            proposal = parse_proposal(command)
            record = proposal.at_seq(self.head.size + 1)
            try:
                self.state.check(record)
            except WitnzError as refusal:
                self._applied = (record, refusal)
                return
            with self._db.write() as conn:
                head = stored.JournalHead(self.head.size, self.head.chain, self.head.tree.copy())
                stored.append_record(conn, head, format_record(record))
            self.head = head
            self.state.apply(record, verify_signatures=False)
            self._applied = (record, None)


def authorise(record_type: str, body: Body, cluster_id: str, operator: str, signer: Signer) -> dict[str, Any]:
    """The body with a fresh nonce and the operator's signature over what it decides (formats.md 4, auth)."""
    decided = {**body, "nonce": os.urandom(16).hex()}
    signature = signer.sign(operator_bytes(decided, cluster_id, record_type))
    return {**decided, "auth": {"operator": operator, "sig": _b64(signature)}}


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
