"""What a member tells another one that catches up: records, entries, tiles, and, sealed, the secrets (``docs/decisions/0014``).

Requests are canonical JSON; answers are bounded.  Only a member in force is answered.  Nothing in an answer has to be believed:
the asker holds it against roots that a quorum signed or voted on (:mod:`witnz.node.catchup`).

    join.genesis      {}                                   the leaf of record 1
    join.head         {}                                   {"acked","checkpoint","index","membership","size"}
    join.journal      {"from"}                             records from that seq, as an entry bundle (c2sp.org/tlog-tiles)
    join.consistency  {"new","old"}                        {"proof":[b64,…]} between two sizes of the journal
    join.tile         {"generation","level","n","size","table"}    hashes of a tile of a log of that size
    join.entries      {"first","generation","table"}       entries from that seq to the end of its block at most, as a bundle
    join.tail         {"below","first","generation","table"}       {"entries":[b64,…],"more","passed"}: entries below an LSN
    join.images       {"generation","n","table"}           {"rows":[[seq,b64],…]}: retained row lines of block n
    join.keys         a signed request (:mod:`witnz.node.handover`)
"""

from __future__ import annotations

import sqlite3
from base64 import b64encode
from collections.abc import Callable
from typing import Any, Final

import structlog

from witnz.cluster.peers import Peers
from witnz.core.canonical import canonical, parse_canonical
from witnz.core.entry import parse_entry
from witnz.core.journal import JournalState
from witnz.core.lsn import format_lsn, parse_lsn
from witnz.core.names import parse_table_name
from witnz.core.shape import Shape, integer, members, spelled
from witnz.core.tiles import TILE, consistency_proof, format_entry_bundle, tile_widths
from witnz.errors import UsageError
from witnz.node import handover
from witnz.node.handover import Handed
from witnz.node.images import ImageBox
from witnz.node.journal import INDEX, load_membership
from witnz.node.keyring import Keyring
from witnz.store import checkpoints, entries, images, logs, meta
from witnz.store import journal as stored
from witnz.store.database import Database
from witnz.store.logs import LogRow

log = structlog.get_logger(__name__)

MAX_REQUEST_BYTES: Final = 4096
ANSWER_BYTES: Final = 4 << 20  # an answer ends before it is longer, but has at least one item
RECORDS: Final = 256
TAIL_ENTRIES: Final = 4096

_TABLE = {"table": spelled(parse_table_name), "generation": integer(1)}
_REQUESTS: dict[str, Shape] = {
    "join.genesis": members({}),
    "join.head": members({}),
    "join.journal": members({"from": integer(1)}),
    "join.consistency": members({"old": integer(1), "new": integer(1)}),
    "join.tile": members({**_TABLE, "level": integer(0, 8), "n": integer(), "size": integer(1)}),
    "join.entries": members({**_TABLE, "first": integer(1)}),
    "join.tail": members({**_TABLE, "first": integer(1), "below": spelled(parse_lsn)}),
    "join.images": members({**_TABLE, "n": integer()}),
}


class Answers:
    """Answers from one node's store.  ``state``: the journal as of now; ``box`` opens the retained rows, if there is one.

    ``opens``: whether a generation is being opened here.
    """

    def __init__(
        self,
        db: Database,
        state: Callable[[], JournalState],
        keys: Keyring,
        node_id: str,
        box: ImageBox | None,
        opens: Callable[[str, int], bool] = lambda table, generation: False,
    ) -> None:
        self._db, self._state, self._keys, self._node_id, self._box = db, state, keys, node_id, box
        self._opens = opens

    def register(self, peers: Peers) -> None:
        """Serve every method."""
        for method, answer in (
            ("join.genesis", self._genesis),
            ("join.head", self._head),
            ("join.journal", self._journal),
            ("join.consistency", self._consistency),
            ("join.tile", self._tile),
            ("join.entries", self._entries),
            ("join.tail", self._tail),
            ("join.images", self._images),
        ):
            peers.serve(method, self._handler(method, answer), MAX_REQUEST_BYTES)
        peers.serve("join.keys", self._hand_over, handover.MAX_REQUEST_BYTES)

    def _handler(
        self, method: str, answer: Callable[[sqlite3.Connection, dict[str, Any]], bytes]
    ) -> Callable[[str, bytes], bytes]:
        def handle(caller: str, body: bytes) -> bytes:
            self._check_member(caller)
            request = parse_canonical(body, what=method, max_bytes=MAX_REQUEST_BYTES)
            _REQUESTS[method](request, method)
            with self._db.read() as conn:
                return answer(conn, request)

        return handle

    def _check_member(self, caller: str) -> None:
        if caller not in self._state().members:
            raise UsageError(f"{caller} is no member of this cluster", code="peer.stranger")

    # -- journal --------------------------------------------------------------------------------------------------------------

    def _genesis(self, conn: sqlite3.Connection, request: dict[str, Any]) -> bytes:
        return stored.record_at(conn, 1)

    def _head(self, conn: sqlite3.Connection, request: dict[str, Any]) -> bytes:
        final = checkpoints.latest(conn, final=True)
        return canonical(
            {
                "acked": format_lsn(meta.load_number(conn, "acked") or 0),
                "checkpoint": None if final is None else final.note,
                "index": meta.load_number(conn, INDEX) or 0,
                "membership": load_membership(conn),
                "size": stored.journal_size(conn),
            }
        )

    def _journal(self, conn: sqlite3.Connection, request: dict[str, Any]) -> bytes:
        first = request["from"]
        return _bundle(list(stored.records(conn, first, first + RECORDS - 1)), f"the journal has no record {first}")

    def _consistency(self, conn: sqlite3.Connection, request: dict[str, Any]) -> bytes:
        new = request["new"]
        proof = consistency_proof(stored.tile_reader(conn, new), request["old"], new)
        return canonical({"proof": [b64encode(node).decode() for node in proof]})

    # -- logs -----------------------------------------------------------------------------------------------------------------

    def _tile(self, conn: sqlite3.Connection, request: dict[str, Any]) -> bytes:
        row, level, n = self._log(conn, request), request["level"], request["n"]
        full, partial = tile_widths(request["size"], level)
        width = TILE if n < full else partial if n == full else 0
        if not width:
            raise UsageError(f"there is no tile {n} of level {level} in a tree of {request['size']} leaves")
        return entries.tile_reader(conn, row.id, request["size"])(level, n, width)

    def _entries(self, conn: sqlite3.Connection, request: dict[str, Any]) -> bytes:
        row, first = self._log(conn, request), request["first"]
        last = (first - 1) // TILE * TILE + TILE
        return _bundle(list(entries.entries(conn, row.id, first, last)), f"the log has no entry {first}")

    def _tail(self, conn: sqlite3.Connection, request: dict[str, Any]) -> bytes:
        row, below = self._log(conn, request), parse_lsn(request["below"])
        passed = meta.load_number(conn, "acked") or 0
        if row.final_lsn is not None and not self._opens(row.table, row.generation + 1):
            passed = min(passed, row.final_lsn)  # the opening was given up: what was spooled since comes back in a moment
        lines: list[bytes] = []
        more, size = False, 0
        if passed >= below and request["first"] <= row.size:
            for line in entries.entries(conn, row.id, request["first"], request["first"] + TAIL_ENTRIES):
                if parse_entry(line).lsn >= below:
                    break
                if len(lines) == TAIL_ENTRIES or (lines and size + len(line) > ANSWER_BYTES):
                    more = True
                    break
                lines.append(line)
                size += len(line)
        shown = [b64encode(line).decode() for line in lines]
        return canonical({"entries": shown, "more": more, "passed": format_lsn(passed)})

    def _images(self, conn: sqlite3.Connection, request: dict[str, Any]) -> bytes:
        row, first = self._log(conn, request), request["n"] * TILE + 1
        rows: list[list[Any]] = []
        size = 0
        for seq in range(first, min(first + TILE, row.size + 1)):
            sealed = None if self._box is None else images.get(conn, row.id, seq)
            row_hash = None if sealed is None else entries.row_hash_at(conn, row.id, seq)
            if self._box is None or sealed is None or row_hash is None:
                continue
            line = self._box.open(row.origin, row.secret, row_hash, sealed)
            size += len(line)
            if size > ANSWER_BYTES:
                break  # what is left out is restored by the members that have it
            rows.append([seq, b64encode(line).decode()])
        return canonical({"rows": rows})

    def _log(self, conn: sqlite3.Connection, request: dict[str, Any]) -> LogRow:
        row = logs.find_log(conn, request["table"], request["generation"])
        if row is None or row.status == "fetching":
            raise UsageError(f"{request['table']}, generation {request['generation']}, is not recorded here")
        return row

    # -- secrets --------------------------------------------------------------------------------------------------------------

    def _hand_over(self, caller: str, body: bytes) -> bytes:
        self._check_member(caller)
        state = self._state()
        wanted = handover.parse_request(body, state.members[caller], state.cluster_id)
        secrets = {}
        with self._db.read() as conn:
            for table, generation in wanted:
                row = logs.find_log(conn, table, generation)
                if row is not None and row.secret:  # what was forgotten by order is nobody's any more
                    secrets[table, generation] = row.secret
        lines = tuple(self._keys.log.lines())
        log.info("keys were handed over", to=caller, generations=len(secrets))
        return handover.seal(body, Handed(lines, secrets), self._keys.identity, self._node_id, caller)


def _bundle(items: list[bytes], otherwise: str) -> bytes:
    """As many of the items as fit into an answer, at least the first.  Raises UsageError where there is none."""
    if not items:
        raise UsageError(otherwise)
    size, count = 0, 0
    for item in items:
        size += len(item)
        if count and size > ANSWER_BYTES:
            break
        count += 1
    return format_entry_bundle(items[:count])
