"""Verifications of several nodes: whose turn it is, and the others' word for what should have been found (formats.md 4).

The state that a scan must find follows from the log, so every member can compute it for the scan's snapshot and votes only for
its own.  To be able to, it keeps the values before unsettled transactions from before the scan on, as the scanning node does
itself (``verify.hold``); whoever was not asked in time cannot vote.  What was *found* is the scanning node's word alone, which
is why the scans take turns.
"""

from __future__ import annotations

import base64
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from witnz.core.canonical import canonical, parse_json
from witnz.core.entry import parse_schema_hint
from witnz.core.keyrange import KeyRange, key_kind
from witnz.core.lsn import parse_lsn
from witnz.core.names import parse_table_name
from witnz.core.shape import hex_bytes, integer, members, spelled
from witnz.errors import Inconclusive, WitnzError
from witnz.node.following import Following
from witnz.node.journal import Journal
from witnz.node.voting import Refused
from witnz.postgres.xid import parse_snapshot
from witnz.store import logs, meta
from witnz.store.database import Database
from witnz.store.logs import LogRow
from witnz.verify.expected import ExpectedState
from witnz.verify.partition import state_tree

if TYPE_CHECKING:
    from witnz.cluster.peers import Peers

log = structlog.get_logger(__name__)

HOLD, HOLD_ALL, RELEASE = "verify.hold", "verify.hold.all", "verify.release"
CALL_TIMEOUT_S = 2.0
HOLD_S = 1800.0  # a verification that takes longer is not confirmed
MAX_HOLDS = 16
PATIENCE_S = 3.0
_HOLD = members({"table": spelled(parse_table_name), "generation": integer(1), "token": hex_bytes(16)})
_RELEASE = members({"token": hex_bytes(16)})


def _range(row: LogRow, body: Mapping[str, Any]) -> KeyRange | None:
    """The keys that a rolling verification is about.  Raises Refused where there cannot be such a range."""
    if body["range"] is None:
        return None
    try:
        columns = parse_schema_hint(row.columns).columns
        return KeyRange.parse(key_kind(row.key_columns, columns, hidden=False), body["range"])
    except WitnzError as error:
        raise Refused("other", error.message) from None


@dataclass(frozen=True, slots=True)
class _Held:
    """For whom and until when (monotonic seconds) the horizon is held; ``shared``: for all who scan in one snapshot."""

    node: str
    table: str
    until: float
    stack: ExitStack
    shared: bool


class Confirming:
    """Holds for others, asks others to hold, and judges their verifications."""

    def __init__(
        self,
        db: Database,
        journal: Journal,
        following: Following,
        peers: Peers,
        node_id: str,
        spill_dir: Path,
        hold: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._db, self._journal, self._following, self._peers = db, journal, following, peers
        self._node_id, self._spill_dir, self._hold = node_id, spill_dir, hold
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}
        self.refused: Callable[[str, Mapping[str, Any]], None] = lambda node, body: None
        """Told of a member that asked to confirm another state than this node expects."""
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="confirming")
        peers.serve(HOLD, partial(self._answer_hold, shared=False), 4096)
        peers.serve(HOLD_ALL, partial(self._answer_hold, shared=True), 4096)
        peers.serve(RELEASE, self._answer_release, 4096)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            for held in self._held.values():
                held.stack.close()
            self._held.clear()

    def under_way(self, table: str) -> bool:
        """Whether another member verifies this table now, as far as it has said so here."""
        now = time.monotonic()
        with self._lock:
            return any(
                (held.table, held.node != self._node_id) == (table, True) and held.until > now for held in self._held.values()
            )

    # -- asking ---------------------------------------------------------------------------------------------------------------

    @contextmanager
    def held(self, table: str, generation: int, shared: str | None = None) -> Iterator[None]:
        """While this lasts the others keep what they need to confirm a scan that begins now.

        ``shared``: the token (16 bytes in hex) of a snapshot in which all of them scan; this node keeps it for them, too.
        """
        token = shared or os.urandom(16).hex()
        if shared is not None:
            self._keep(self._node_id, token, table, shared=True)
        self._tell(HOLD if shared is None else HOLD_ALL, {"table": table, "generation": generation, "token": token})
        try:
            yield
        finally:
            self._let_go(self._node_id, token)
            self._tell(RELEASE, {"token": token})

    def holds_for(self, token: str, node: str) -> bool:
        """Whether this node keeps what a snapshot of that node needs."""
        with self._lock:
            return token in self._held and self._held[token].node == node

    def sweep(self) -> None:
        """Let go of what nobody has let go of in time."""
        now = time.monotonic()
        with self._lock:
            for token in [token for token, held in self._held.items() if held.until < now]:
                self._held.pop(token).stack.close()

    def _tell(self, method: str, what: Mapping[str, Any]) -> None:
        body = canonical(dict(what))
        others = [node for node in self._journal.state.members if node != self._node_id]
        asked = {node: self._pool.submit(self._peers.call, node, method, body, CALL_TIMEOUT_S) for node in others}
        for node, future in asked.items():
            try:
                future.result()
            except WitnzError as error:
                log.info("member does not confirm verifications", peer=node, asked=method, reason=error.message)

    # -- answering ------------------------------------------------------------------------------------------------------------

    def _answer_hold(self, node: str, data: bytes, *, shared: bool) -> bytes:
        told = parse_json(data, what=HOLD, max_bytes=4096)
        _HOLD(told, HOLD)
        self._keep(node, told["token"], told["table"], shared=shared)
        return b"{}"

    def _keep(self, node: str, token: str, table: str, *, shared: bool) -> None:
        self.sweep()
        with self._lock:
            if len(self._held) >= MAX_HOLDS or token in self._held:
                raise Inconclusive("too many verifications are under way")
            stack = ExitStack()
            stack.enter_context(self._hold())
            self._held[token] = _Held(node, table, time.monotonic() + HOLD_S, stack, shared)

    def _let_go(self, node: str, token: str) -> None:
        with self._lock:
            held = self._held.get(token)
            if held is not None and held.node == node:
                self._held.pop(token).stack.close()

    def _answer_release(self, node: str, data: bytes) -> bytes:
        told = parse_json(data, what=RELEASE, max_bytes=4096)
        _RELEASE(told, RELEASE)
        self._let_go(node, told["token"])
        return b"{}"

    def judge(self, node: str, body: Mapping[str, Any], at: int, context: Mapping[str, Any]) -> None:
        """Vote for the state expected, if this node's log and journal say the same for the same snapshot."""
        with self._lock:
            if not any(held.node == node or held.shared for held in self._held.values()):
                raise Refused("later", "this node was not asked in time to keep what the snapshot needs")
        self._await(body)
        with self._db.read() as conn:
            row = logs.find_log(conn, body["table"], body["generation"])
            if row is None or row.size < body["size"] or row.status != "active":
                raise Refused("later", f"{body['table']} is not recorded here up to there")
            expected = ExpectedState(
                conn, row.id, body["size"], parse_snapshot(body["snapshot"]), keyed=row.keyed, key_range=_range(row, body)
            )
            hashes = expected.hashes(self._spill_dir)
            try:
                root = base64.b64encode(state_tree(hashes).root()).decode()
            finally:
                hashes.close()
        if self._following.done > body["journal_size"] and self._accepted_since(body):
            raise Refused("later", "an acceptance has changed the state meanwhile")
        if root != body["state_expected"] or expected.unresolved != body["unresolved"]:
            self.refused(node, body)
            raise Refused("differs", f"the state expected of {body['table']} is another one here")

    def _await(self, body: Mapping[str, Any]) -> None:
        deadline, lsn = time.monotonic() + PATIENCE_S, parse_lsn(body["lsn"])
        while True:
            with self._db.read() as conn:
                reached = meta.load_number(conn, "last_final_lsn") or 0
            if reached >= lsn and self._following.done >= body["journal_size"]:
                return
            if time.monotonic() > deadline:
                raise Refused("later", "its stream or journal is behind")
            time.sleep(0.02)

    def _accepted_since(self, body: Mapping[str, Any]) -> bool:
        accepted = self._journal.state.accepts(body["table"], body["generation"])
        ordered = self._journal.state.orders.erasures(body["table"], body["generation"])
        since = body["journal_size"]
        return any(row.accepted_at > since for row in accepted) or any(order.seq > since for order in ordered)
