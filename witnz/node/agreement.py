"""Whether this node's own logs are the ones that the cluster sealed, and who is wrong where they are not (formats.md 4, 5).

Every seal in the journal is compared with what this node recorded itself, once its stream has passed it.  Where it differs a
quorum says something else than this node: it records a signed ``dissent`` that names the first differing entry, votes for and
cosigns nothing more of that, and everybody opens one finding that names it, until its store is restored from the majority.

The other way round: a member that asked for a seal which this node's logs contradicted is named once a quorum has sealed what
this node recorded.  Until then nobody can say which of the two is wrong.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import structlog

from witnz.core.canonical import canonical, parse_json
from witnz.core.journal_facts import LogHead
from witnz.core.lsn import parse_lsn
from witnz.core.names import parse_table_name
from witnz.core.record import Record, parse_record
from witnz.core.shape import hex_bytes, integer, list_of, members, spelled
from witnz.errors import WitnzError
from witnz.node.findings import FindingBook
from witnz.node.heads import Log, from_items, head_at, to_items
from witnz.node.journal import Journal
from witnz.store import entries, journal, logs, meta
from witnz.store.database import Database
from witnz.store.logs import LogRow

if TYPE_CHECKING:
    from witnz.cluster.peers import Peers

log = structlog.get_logger(__name__)

CHAINS = "log.chains"
AGREED, DIVERGED = "agreed", "diverged"
CALL_TIMEOUT_S = 5.0
MAX_CLAIMS = 64
MARK_S = 1.0
LOOK_S = 2.0
STRETCH = 256  # records looked at before the time is
SUBSTITUTE_S = 30.0
_QUESTION = members({"table": spelled(parse_table_name), "generation": integer(1), "sizes": list_of(integer(1), high=64)})
_ANSWER = members({"chains": list_of(hex_bytes(32), high=64)})


class Agreement:
    """Compares, dissents, names."""

    def __init__(self, db: Database, journal_: Journal, book: FindingBook, peers: Peers, node_id: str) -> None:
        self._db, self._journal, self._book, self._peers, self._node_id = db, journal_, book, peers, node_id
        self._lock = threading.Lock()
        self._claims: list[tuple[str, int, Log, LogHead]] = []
        self._unsealed: dict[Log, list[tuple[int, float]]] = {}
        self.substitute_until = 0.0
        with db.read() as conn:
            self._agreed = meta.load_number(conn, AGREED) or 0
            self._diverged: dict[str, int] = json.loads(meta.load_value(conn, DIVERGED) or "{}")
        peers.serve(CHAINS, self._answer_chains, 4096)

    @property
    def diverged(self) -> dict[str, int]:
        """The tables (and their generation) of which this node's log is not the one that was sealed."""
        return dict(self._diverged)

    # -- what others claim ----------------------------------------------------------------------------------------------------

    def accuse(self, node: str, body: Mapping[str, Any]) -> None:
        """A member asked for a seal that this node's logs contradict; this node will propose its own."""
        log.error("a seal was asked for that is not what this node recorded", peer=node, lsn=body["lsn"])
        with self._lock:
            for where, head in from_items(body["tables"]).items():
                self._claims.append((node, parse_lsn(body["lsn"]), where, head))
            del self._claims[:-MAX_CLAIMS]
            self.substitute_until = time.monotonic() + SUBSTITUTE_S

    def _judge_claims(self) -> None:
        """Name those whose claims are contradicted by what a quorum has sealed and this node recorded."""
        state = self._journal.state
        with self._lock:
            claims, self._claims = self._claims, []
        for node, lsn, where, head in claims:
            sealed = state.last_sealed(*where)
            if sealed is None or state.last_seal_lsn < lsn:
                with self._lock:
                    self._claims.append((node, lsn, where, head))
                continue
            with self._db.read() as conn:
                row = logs.find_log(conn, *where)
                if row is None or row.status == "pruned" or head.size > sealed.size:
                    continue
                if row.size < sealed.size:
                    with self._lock:
                        self._claims.append((node, lsn, where, head))
                    continue
                if head_at(conn, row, sealed.size) != sealed:
                    continue  # whose own log is not the sealed one has nobody to name but itself
                mine = head_at(conn, row, head.size)
            if mine != head:
                self.name(node, *where, f"it asked for a seal of {head.size} entries that are not those a quorum sealed")

    def name(self, node: str, table: str, generation: int, detail: str) -> None:
        """One finding about a node, whoever opens it first."""
        with self._db.write() as conn:
            opened = self._book.open(
                conn, cls="node.diverged", table=table, generation=generation, key=node, detail=f"{node}: {detail}"
            )
        if opened:
            log.error("node has diverged", peer=node, table=table, finding=opened, detail=detail)

    # -- what the cluster sealed ----------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Compare the seals that are still to be compared, as far as this node's stream has come.

        A member that has just joined has all of the journal's before it, maybe months; what else it does must not wait for
        that.  The next look goes on, and until it has come to the end nothing is cosigned.
        """
        ends = time.monotonic() + LOOK_S
        while self._look_on() and time.monotonic() < ends:
            pass
        self._judge_claims()

    def _look_on(self) -> bool:
        """Compare some; whether there may be more."""
        before = self._agreed
        with self._db.read() as conn:
            reached = meta.load_number(conn, "last_final_lsn") or 0
            fresh = list(journal.records(conn, before + 1, before + STRETCH))
        more = len(fresh) == STRETCH
        for seq, leaf in enumerate(fresh, before + 1):
            if leaf.endswith(b',"type":"seal"}') and not self._compare(parse_record(leaf), reached):
                more = False
                break
            self._agreed = seq
        if self._agreed // 64 > before // 64:
            with self._db.write() as conn:
                meta.save_value(conn, AGREED, self._agreed)
        return more

    def _compare(self, record: Record, reached: int) -> bool:
        """Whether a seal has been looked at; False while this node has not come so far."""
        epoch = self._journal.state.epoch
        before_epoch = epoch is not None and (record.seq or 0) < epoch.seq  # its LSN is of a course of history that was left
        if not before_epoch and parse_lsn(record.body["lsn"]) > reached:
            return False
        differing: dict[Log, tuple[LogRow, LogHead]] = {}
        with self._db.read() as conn:
            for where, head in from_items(record.body["tables"]).items():
                row = logs.find_log(conn, *where)
                if row is None or row.status in ("open", "fetching"):
                    if self._will_come(where):
                        return False
                    continue
                size = min(row.size, head.size)
                if row.status == "pruned" and size == head.size and entries.root_at(conn, row.id, size) == head.root:
                    continue  # its chain heads went with its entries
                if size != head.size or head_at(conn, row, size) != head:
                    differing[where] = (row, head)
        for where, (row, head) in differing.items():
            if self._diverged.get(where[0]) != where[1]:
                self._dissent(record, where, row, head)
        return True

    def _will_come(self, where: Log) -> bool:
        current = self._journal.state.current_table(where[0])
        return current is not None and current.generation == where[1]

    def _dissent(self, record: Record, where: Log, row: LogRow, head: LogHead) -> None:
        first = self._first_difference(where, row, head, record)
        with self._db.read() as conn:
            mine = head_at(conn, row, min(row.size, head.size))
        body = {"lsn": record.body["lsn"], "tables": to_items({where: mine}), "first_seq": first}
        self._journal.propose("dissent", body)
        self._diverged[where[0]] = where[1]
        with self._db.write() as conn:
            meta.save_value(conn, DIVERGED, json.dumps(self._diverged))
        self.name(self._node_id, *where, f"its log differs from the sealed one from entry {first} on")

    def followed(self, record: Record) -> None:
        """A ``dissent`` record: the node that signed it says that its log is not what a quorum sealed."""
        for table, generation in from_items(record.body["tables"]):
            detail = f"its log differs from the sealed one from entry {record.body['first_seq']} on"
            self.name(record.node, table, generation, detail)

    def restored(self, table: str) -> None:
        """The table's log was taken from the majority."""
        self._diverged.pop(table, None)
        with self._db.write() as conn:
            meta.save_value(conn, DIVERGED, json.dumps(self._diverged))

    # -- the first difference -------------------------------------------------------------------------------------------------

    def _first_difference(self, where: Log, row: LogRow, head: LogHead, record: Record) -> int:
        """The seq of the first entry that differs from the log of a member who voted for the seal, by its chain.

        Where none answers: the first that no seal before this one, and equal here, covers.
        """
        for voter in record.body["votes"]:
            if voter != self._node_id:
                try:
                    return self._search(voter, where, row, min(row.size, head.size))
                except WitnzError as error:
                    log.warning("peer did not say where the logs part", peer=voter, reason=error.message)
        return 1

    def _search(self, peer: str, where: Log, row: LogRow, size: int) -> int:
        """Equal up to ``low`` entries, different from ``high`` on; 16 steps at once."""
        low, high = 0, size + 1
        while high - low > 1:
            step = max(1, (high - low) // 17)
            sizes = list(range(low + step, high, step))[:60]
            theirs = self._chains(peer, where, sizes)
            with self._db.read() as conn:
                mine = [entries.chain_at(conn, row.id, at) for at in sizes]
            for at, one, other in zip(sizes, mine, theirs, strict=True):
                if one == other:
                    low = max(low, at)
                else:
                    high = min(high, at)
                    break
        return high

    def _chains(self, peer: str, where: Log, sizes: list[int]) -> list[str]:
        question = canonical({"table": where[0], "generation": where[1], "sizes": sizes})
        answer = parse_json(self._peers.call(peer, CHAINS, question, CALL_TIMEOUT_S), what="chains", max_bytes=1 << 16)
        _ANSWER(answer, "chains")
        if len(answer["chains"]) != len(sizes):
            raise WitnzError("expected a chain head for every size")
        return list(answer["chains"])

    def _answer_chains(self, node: str, data: bytes) -> bytes:
        question = parse_json(data, what="chains", max_bytes=4096)
        _QUESTION(question, "chains")
        with self._db.read() as conn:
            row = logs.find_log(conn, question["table"], question["generation"])
            if row is None:
                raise WitnzError("there is no such log here")
            return canonical({"chains": [entries.chain_at(conn, row.id, size) for size in question["sizes"]]})

    # -- what stays unsealed --------------------------------------------------------------------------------------------------

    def unsealed_s(self) -> float:
        """How long the oldest entry that no seal covers has been here, as far as this process knows."""
        now, state = time.monotonic(), self._journal.state
        oldest = now
        with self._db.read() as conn:
            rows = {(row.table, row.generation): row.size for row in logs.list_logs(conn, "active")}
        for where, size in rows.items():
            sealed = state.last_sealed(*where)
            marks = self._unsealed.setdefault(where, [])
            covered = sealed.size if sealed is not None else 0
            if size > covered and marks and now - marks[-1][1] < MARK_S:
                marks[-1] = (size, marks[-1][1])
            elif size > covered and (not marks or marks[-1][0] < size):
                marks.append((size, now))
            while marks and marks[0][0] <= covered:
                marks.pop(0)
            if marks and where[0] not in state.opened and state.ended_at(*where) is None:
                oldest = min(oldest, marks[0][1])
        for gone in [where for where in self._unsealed if where not in rows]:
            del self._unsealed[gone]
        return now - oldest

    def condition(self, size: int) -> str | None:
        """Why this node does not cosign a size (formats.md 5), as far as its tables are concerned."""
        self.look()
        if self._diverged:
            return f"its log of {min(self._diverged)} is not the sealed one"
        if self._agreed < size:
            return f"its own stream has not come to the seals after record {self._agreed}"
        return None
