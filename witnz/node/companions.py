"""Opening a generation together: what the leader asks of the other members, and what a member does when it is asked.

    open.prepare   record into the spool from now on, under this secret; answered once the recorder does
    open.still     hold the stream still until the leader has taken S and L; answered once it stands
    open.moveon    there is no S yet
    open.read      import S and read the baseline in it; answered once S is imported, so that the leader may let go
    open.forget    the leader gave it up

All of it is only help to read the same rows: what was read is compared when the ``table`` record is voted on.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import structlog

from witnz.core.canonical import canonical, parse_json
from witnz.core.classify import Rules
from witnz.core.entry import schema_hint
from witnz.core.lsn import format_lsn, parse_lsn
from witnz.core.names import parse_table_name
from witnz.core.rowline import secret_commitment
from witnz.core.shape import base64_bytes, boolean, integer, list_of, members, nullable, one_of, spelled, text
from witnz.errors import Inconclusive, NoQuorum, WitnzError
from witnz.node.generations import Generations
from witnz.node.journal import Journal
from witnz.node.opening import Opening
from witnz.node.plan import Invitation, Plan
from witnz.node.rootscan import RootScan
from witnz.node.succession import Predecessor
from witnz.node.table_state import ACTIVE, TableState
from witnz.postgres.catalog import TableInfo, find_table, schema_columns
from witnz.postgres.scan import SnapshotScan
from witnz.postgres.xid import parse_snapshot

if TYPE_CHECKING:
    from witnz.cluster.peers import Peers

log = structlog.get_logger(__name__)

PREPARE, STILL, MOVE_ON, READ, FORGET = "open.prepare", "open.still", "open.moveon", "open.read", "open.forget"
MAX_BYTES = 256 << 10
PREPARE_TIMEOUT_S, READ_TIMEOUT_S = 10.0, 15.0
STAND_S = 2.0

_WHICH = {"table": spelled(parse_table_name), "generation": integer(1)}
_PREPARE = members(
    {
        **_WHICH,
        "mode": one_of("append_only", "state_integrity"),
        "on_change": one_of("alert", "record"),
        "rules": members({"inserts_only": boolean, "require_intent": boolean, "retain": boolean}),
        "hidden": boolean,
        "excluded": list_of(text(255)),
        "root": nullable(spelled(parse_table_name)),
        "hint": text(1 << 17),
        "secret": base64_bytes(32),
        "reason": text(),
        "compare": boolean,
    }
)
_READ = members(
    {
        **_WHICH,
        "exported": text(100),
        "snapshot": spelled(parse_snapshot),
        "lsn": spelled(parse_lsn),
        "at": integer(),
    }
)
_WHICH_ONLY = members(_WHICH)

Import = Callable[[psycopg.Connection[Any], TableInfo, frozenset[str], str], SnapshotScan]


class LeadersSide:
    """:class:`witnz.node.opening.Companions` over the members' channel."""

    def __init__(self, journal: Journal, peers: Peers, node_id: str) -> None:
        self._journal, self._peers, self._node_id = journal, peers, node_id
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="companions")
        self._lock = threading.Lock()
        self._along: dict[int, set[str]] = {}

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def prepare(self, opening: Opening) -> None:
        self.remind(opening)
        state = self._journal.state
        along = self._members_along(opening)
        if len(along) + 1 < state.quorum:
            raise NoQuorum(f"{len(along) + 1} of {state.quorum} nodes can open {opening.plan.name}")

    def remind(self, opening: Opening) -> None:
        ready = self._ask_all(self._others(), PREPARE, _invitation(opening), PREPARE_TIMEOUT_S)
        with self._lock:
            self._along.setdefault(id(opening), set()).update(ready)

    def hold_still(self, opening: Opening) -> None:
        self._ask_all(self._members_along(opening), STILL, _which(opening), STAND_S)

    def move_on(self, opening: Opening) -> None:
        self._ask_all(self._members_along(opening), MOVE_ON, _which(opening), STAND_S)

    def read(self, opening: Opening, exported: str, snapshot: str, lsn: int, at: int) -> None:
        told = {**_which(opening), "exported": exported, "snapshot": snapshot, "lsn": format_lsn(lsn), "at": at}
        self._ask_all(self._members_along(opening), READ, told, READ_TIMEOUT_S)

    def forget(self, opening: Opening) -> None:
        self._ask_all(self._others(), FORGET, _which(opening), STAND_S)
        with self._lock:
            self._along.pop(id(opening), None)

    def _others(self) -> list[str]:
        return [node for node in self._journal.state.members if node != self._node_id]

    def _members_along(self, opening: Opening) -> list[str]:
        with self._lock:
            return sorted(self._along.get(id(opening), ()))

    def _ask_all(self, nodes: list[str], method: str, told: Mapping[str, Any], timeout_s: float) -> list[str]:
        """Those that said yes."""
        body = canonical(dict(told))
        asked = {node: self._pool.submit(self._peers.call, node, method, body, timeout_s) for node in nodes}
        agreed = []
        for node, future in asked.items():
            try:
                future.result()
            except WitnzError as error:
                log.info("member does not open along", peer=node, asked=method, table=told["table"], reason=error.message)
            else:
                agreed.append(node)
        return agreed


class MembersSide:
    """Answers a leader.  ``leader``: who leads, as this node sees it."""

    def __init__(
        self,
        journal: Journal,
        generations: Generations,
        states: Callable[[], list[TableState]],
        connect: Callable[[], psycopg.Connection[Any]],
        import_scan: Import,
        leader: Callable[[], str | None],
    ) -> None:
        self._journal, self._generations, self._states = journal, generations, states
        self._connect, self._import, self._leader = connect, import_scan, leader

    def register(self, peers: Peers) -> None:
        """Answer from now on."""
        for method, answer in (
            (PREPARE, self._prepare),
            (STILL, self._still),
            (MOVE_ON, self._move_on),
            (READ, self._read),
            (FORGET, self._forget),
        ):
            peers.serve(method, self._for_leader(answer), MAX_BYTES)

    def _for_leader(self, answer: Callable[[str, Any], None]) -> Callable[[str, bytes], bytes]:
        def handle(node: str, data: bytes) -> bytes:
            if node != self._leader():
                raise Inconclusive(f"{node} does not lead the cluster as this node sees it")
            answer(node, parse_json(data, what="opening", max_bytes=MAX_BYTES))
            return b"{}"

        return handle

    def _prepare(self, node: str, told: Any) -> None:
        _PREPARE(told, "opening")
        opening = self._generations.find(told["table"], told["generation"])
        secret = base64.b64decode(told["secret"])
        if opening is not None and opening.invitation is not None and opening.secret != secret:
            opening.phase, opening.error = "failed", "the leader began anew"
            raise Inconclusive("the opening of before has to end first")
        if opening is None:
            newest = self._journal.state.newest_generation(told["table"])
            if newest is not None and newest.generation >= told["generation"]:
                return  # it is adopted already
            self._check_announced(told, secret)
            opening = self._generations.open(self._plan(told), Invitation(node, secret))
        if opening is None or opening.invitation is None:
            raise Inconclusive(f"another opening of {told['table']} is under way here")
        opening.heard = time.monotonic()
        _await(lambda: opening.phase not in ("queued",), PREPARE_TIMEOUT_S - 1, "the recorder does not come to it")
        if opening.phase == "failed":
            raise Inconclusive(opening.error)

    def _check_announced(self, told: Any, secret: bytes) -> None:
        if told["generation"] == 1:
            return
        expected = (told["generation"], secret_commitment(secret))
        state = self._journal.state
        _await(lambda: state.opened.get(told["table"]) == expected, 4.0, "its open record has not arrived here")

    def _plan(self, told: Any) -> Plan:
        with self._connect() as conn:
            info = find_table(conn, *parse_table_name(told["table"]))
        if info is None:
            raise Inconclusive(f"{told['table']} does not exist as this node sees it")
        excluded = frozenset(told["excluded"])
        columns = tuple(column for column in schema_columns(info) if column.name not in excluded)
        if schema_hint(columns, info.identity, info.oid) != told["hint"]:
            raise Inconclusive(f"the definition of {told['table']} is another one here")
        predecessor = None
        if told["generation"] > 1:
            wanted = (told["table"], told["generation"] - 1, ACTIVE)
            old = [s for s in self._states() if (s.name, s.generation, s.status) == wanted]
            if not old:
                raise Inconclusive(f"generation {told['generation'] - 1} of {told['table']} is not being recorded here")
            projection = self._generations.projection(old[0], info) if told["compare"] else None
            predecessor = Predecessor(old[0], projection)
        rules = Rules(mode=told["mode"], on_change=told["on_change"], **told["rules"])
        return Plan(
            told["table"], info, rules, told["hidden"], told["generation"], told["reason"], excluded, predecessor, told["root"]
        )

    def _opening(self, told: Any) -> Opening:
        opening = self._generations.find(told["table"], told["generation"])
        if opening is None or opening.invitation is None:
            raise Inconclusive(f"{told['table']} is not being opened here")
        return opening

    def _still(self, node: str, told: Any) -> None:
        _WHICH_ONLY(told, "opening")
        if not self._opening(told).ask_still(STAND_S - 0.2):
            raise Inconclusive("the stream does not stand still")

    def _move_on(self, node: str, told: Any) -> None:
        _WHICH_ONLY(told, "opening")
        self._opening(told).move_on()

    def _read(self, node: str, told: Any) -> None:
        _READ(told, "opening")
        opening = self._opening(told)
        conn = self._connect()
        try:
            scan: SnapshotScan | RootScan = RootScan(conn)
            if opening.plan.info.relkind != "p":
                scan = self._import(conn, opening.plan.info, opening.plan.excluded, told["exported"])
            scan.__enter__()
            snapshot, lsn = told["snapshot"], parse_lsn(told["lsn"])
            if isinstance(scan, SnapshotScan) and parse_snapshot(scan.snapshot_text) != parse_snapshot(snapshot):
                raise Inconclusive("the imported snapshot is not the one that was announced")
            if not opening.give(conn, scan, snapshot, lsn, told["at"]):
                raise Inconclusive("S could not be read in time")
        except (WitnzError, psycopg.Error) as error:
            conn.close()
            opening.phase, opening.error = "failed", str(error).strip()
            raise Inconclusive(opening.error) from error

    def _forget(self, node: str, told: Any) -> None:
        _WHICH_ONLY(told, "opening")
        opening = self._opening(told)
        if not self._stands(told):
            opening.error, opening.phase = "the leader gave it up", "failed"

    def _stands(self, told: Any) -> bool:
        newest = self._journal.state.newest_generation(told["table"])
        return newest is not None and newest.generation >= told["generation"]


def _invitation(opening: Opening) -> dict[str, Any]:
    plan, rules = opening.plan, opening.plan.rules
    columns = tuple(column for column in schema_columns(plan.info) if column.name not in plan.excluded)
    return {
        **_which(opening),
        "mode": rules.mode,
        "on_change": rules.on_change,
        "rules": {"inserts_only": rules.inserts_only, "require_intent": rules.require_intent, "retain": rules.retain},
        "hidden": plan.hidden_keys,
        "excluded": sorted(plan.excluded),
        "root": plan.root,
        "hint": schema_hint(columns, plan.info.identity, plan.info.oid),
        "secret": base64.b64encode(opening.secret).decode(),
        "reason": plan.reason,
        "compare": plan.predecessor is not None and plan.predecessor.projection is not None,
    }


def _which(opening: Opening) -> dict[str, Any]:
    return {"table": opening.plan.name, "generation": opening.plan.generation}


def _await(look: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not look():
        if time.monotonic() > deadline:
            raise Inconclusive(otherwise)
        time.sleep(0.02)
