"""A table log from other members, up to where this node's own stream goes on.

    P   the position from which the own slot keeps everything: transactions with a final LSN at or beyond it come by the stream
    L   the final LSN that the newest seal of the log covers, with its size and root

1.  What the seal covers is fetched block by block, each checked against the seal's root (:mod:`witnz.node.sealed_tree`).  What
    the node has already must be a beginning of it; where it is not, :class:`Diverged` says from which block on.
2.  L >= P: the log is complete, and the stream's transactions up to L are skipped for this table.
3.  L < P: nobody has sealed what lies between.  It is taken only where as many other members as a quorum asks for (all of them,
    if there are fewer) tell byte for byte the same; otherwise a newer seal is awaited.  So one member alone can never make a
    newcomer vote for what only that member says.
4.  A generation that has ended is fetched to the end that the journal fixes.
"""

from __future__ import annotations

import time
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

from witnz.core.canonical import parse_canonical
from witnz.core.entry import MAX_ENTRY, parse_entry, parse_schema_hint
from witnz.core.hashing import leaf_hashes
from witnz.core.journal import JournalState
from witnz.core.journal_facts import LogHead, TableRecord
from witnz.core.lsn import format_lsn, parse_lsn
from witnz.core.merkle import HASH_BYTES
from witnz.core.names import log_origin
from witnz.core.record import Record
from witnz.core.shape import base64_bytes, boolean, list_of, members, spelled
from witnz.core.tiles import TILE, Tree, parse_entry_bundle
from witnz.errors import FormatError, ProofError, StoreError
from witnz.node.answers import TAIL_ENTRIES
from witnz.node.sealed_tree import SealedTree
from witnz.node.sources import NotFetched, Sources
from witnz.store import entries, forgetting, importing, logs, tablelog
from witnz.store.database import Database
from witnz.store.logs import LogRow
from witnz.store.treestore import save_tiles

log = structlog.get_logger(__name__)

MAX_TAIL: Final = 100_000  # entries that no seal covers
MAX_TAIL_BYTES: Final = 16 << 20
RETRY_S: Final = 0.5

_TAIL = members(
    {"entries": list_of(base64_bytes(max_bytes=MAX_ENTRY), high=TAIL_ENTRIES), "more": boolean, "passed": spelled(parse_lsn)}
)


class Diverged(StoreError):
    """This node's own log is not a beginning of the sealed one; ``blocks`` of it are."""

    code = "store.diverged"
    exit_code = 3

    def __init__(self, table: str, generation: int, blocks: int) -> None:
        super().__init__(
            f"the log of {table}, generation {generation}, is not what the quorum sealed, from entry {blocks * TILE + 1} on",
            hint="`witnz repair` keeps the evidence and fetches the rest from the other members",
        )
        self.table, self.generation, self.blocks = table, generation, blocks


@dataclass(frozen=True, slots=True)
class Target:
    """Where a log is to be fetched to: the sealed ``head`` (None: none yet) at ``lsn``; ``final``: it ends there."""

    head: LogHead | None
    lsn: int
    final: bool


@dataclass(frozen=True, slots=True)
class Fetched:
    """A log that is complete up to ``skip_until``, inclusive: the own stream adds what lies beyond."""

    log: int
    skip_until: int
    added: int


def targets_of(records: list[Record], state: JournalState) -> dict[tuple[str, int], Target]:
    """Every generation that the journal knows, and how far it can be checked."""
    found: dict[tuple[str, int], Target] = {}
    for record in records:
        if record.type == "table":
            key = record.body["table"], record.body["generation"]
            found[key] = Target(None, 0, final=False)
            previous = record.body["previous"]
            if previous is not None:
                before = key[0], key[1] - 1
                found[before] = Target(LogHead.from_body(previous), parse_lsn(record.body["lsn"]), final=True)
        elif record.type == "seal":
            lsn = parse_lsn(record.body["lsn"])
            for item in record.body["tables"]:
                found[item["table"], item["generation"]] = Target(LogHead.from_body(item), lsn, final=False)
    for (table, generation), target in list(found.items()):
        ended = state.ended_at(table, generation)
        current = state.current_table(table)
        if ended is not None and not target.final:
            found[table, generation] = Target(ended, target.lsn, final=True)
        elif current is None or current.generation != generation:
            found[table, generation] = Target(target.head, target.lsn, final=True)
        elif target.head is not None and table not in state.opened and state.split is None:
            # A seal lists every log that moved: one that it does not list had not moved up to its LSN.
            found[table, generation] = Target(target.head, max(target.lsn, state.last_seal_lsn), final=False)
    return found


class LogFetch:
    """Fetches logs into one store, into which nothing else records meanwhile."""

    def __init__(self, db: Database, sources: Sources, cluster: str, node_id: str) -> None:
        self._db, self._sources, self._cluster, self._node_id = db, sources, cluster, node_id

    # -- the register ---------------------------------------------------------------------------------------------------------

    def begin(self, record: TableRecord, secret: bytes, notes: str) -> LogRow:
        """The register's row of a generation, made if it is not there yet."""
        with self._db.write() as conn:
            row = logs.find_log(conn, record.table, record.generation)
            if row is None:
                tablelog.create_log(
                    conn, table=record.table, generation=record.generation,
                    origin=log_origin(self._cluster, record.table, record.generation), oid=record.oid, secret=secret,
                    key_columns=record.key_columns, mode=notes, status="fetching", snapshot=record.snapshot, lsn=record.lsn,
                )  # fmt: skip
            elif row.status != "fetching":
                logs.set_status(conn, row.id, "fetching")
            row = logs.find_log(conn, record.table, record.generation)
        if row is None:
            raise StoreError(f"the log of {record.table} was not made")
        return row

    def pruned(self, record: TableRecord, head: LogHead | None, notes: str) -> int:
        """Take the hashes of a log whose entries were removed by order, held against the root at its end; the log's id.

        Raises NotFetched, WrongAnswer.
        """
        return self._sources.first(f"the hashes of {record.table}", lambda node: self._pruned_from(node, record, head, notes))

    def _pruned_from(self, node: str, record: TableRecord, head: LogHead | None, notes: str) -> int:
        asked = {"table": record.table, "generation": record.generation}
        with self._db.write() as conn:
            before = logs.find_log(conn, record.table, record.generation)
            if before is not None:
                logs.drop_log(conn, before.id)
        row = self.begin(record, b"", notes)
        size, tree = (0 if head is None else head.size), Tree()
        for n in range((size + TILE - 1) // TILE):
            data = self._sources.ask(node, "join.tile", {**asked, "level": 0, "n": n, "size": size})
            if len(data) != min(TILE, size - n * TILE) * HASH_BYTES:
                raise ProofError(f"tile 0/{n} of {record.table}: expected another number of hashes")
            completed = tree.append([data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)])
            with self._db.write() as conn:
                save_tiles(conn, row.id, tree, completed)
        if head is not None and tree.root() != head.root:
            raise ProofError(f"the hashes of {record.table}, generation {record.generation}, do not lead to its last root")
        with self._db.write() as conn:
            forgetting.register_pruned(conn, row.id, tree, head.chain if head is not None else row.chain)
        return row.id

    # -- what a seal covers ---------------------------------------------------------------------------------------------------

    def sealed(self, row: LogRow, head: LogHead) -> int:
        """Fetch what the seal covers and is not here yet; how many entries.  Raises Diverged, NotFetched, WrongAnswer."""
        before = row.size
        while True:
            with self._db.read() as conn:
                size = logs.log_size(conn, row.id)
            done = self._sources.first(f"the log of {row.table}", lambda node: self._from(node, row.id, head))
            with self._db.read() as conn:
                grown = logs.log_size(conn, row.id)
            if done:
                return max(0, head.size - before)
            if grown == size:
                raise NotFetched(f"no member could give more of {row.table}")

    def _from(self, node: str, log_id: int, head: LogHead) -> bool:
        """Everything that one member gives rightly; what was right before a wrong block stays."""
        with self._db.read() as conn:
            row = logs.get_log(conn, log_id)
        asked = {"table": row.table, "generation": row.generation}
        tree = SealedTree.fetch(
            head, lambda level, n: self._sources.ask(node, "join.tile", {**asked, "level": level, "n": n, "size": head.size})
        )
        self._check_own(row, tree)
        while row.size < head.size:
            n = row.size // TILE
            lines = self._block(node, asked, n, min(head.size, (n + 1) * TILE))
            tree.check_block(n, lines)
            with self._db.write() as conn:
                own = tablelog.load_head(conn, log_id)
                held = own.size - n * TILE
                if own.tail != lines[:held]:
                    raise Diverged(row.table, row.generation, n)
                importing.append_lines(conn, own, lines[held:])
                _note_schema(conn, log_id, lines[held:], own.size - len(lines) + held + 1)
            with self._db.read() as conn:
                row = logs.get_log(conn, log_id)
        with self._db.read() as conn:
            if row.size >= head.size and entries.chain_at(conn, log_id, head.size) != head.chain:
                raise StoreError(f"the log of {row.table} has the sealed root and another chain head")
        return True

    def _block(self, node: str, asked: Mapping[str, Any], n: int, end: int) -> list[bytes]:
        """The entry lines of block n up to seq ``end``, in as many answers as their length takes."""
        lines: list[bytes] = []
        first = n * TILE + 1
        while first + len(lines) <= end:
            more = parse_entry_bundle(self._sources.ask(node, "join.entries", {**asked, "first": first + len(lines)}))
            lines += more
        return lines[: end - first + 1]

    def _check_own(self, row: LogRow, tree: SealedTree) -> None:
        """Raise Diverged unless the log here, cut to the sealed size, is a beginning of the sealed one."""
        size = min(row.size, tree.size)
        count = size // TILE
        with self._db.read() as conn:
            read = entries.tile_reader(conn, row.id, size)
            own: list[bytes] = []
            for at in range(0, count, TILE):
                width = min(TILE, count - at)
                data = read(1, at // TILE, width)
                own += [data[i : i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES)]
            last = leaf_hashes(list(entries.entries(conn, row.id, count * TILE + 1, size))) if size % TILE else []
        different = tree.first_difference(own, last)
        if different is not None:
            raise Diverged(row.table, row.generation, different)

    # -- what no seal covers --------------------------------------------------------------------------------------------------

    def tail(self, row: LogRow, below: int, quorum: int) -> int | None:
        """Fetch the entries behind the seal whose final LSN is below ``below``, as enough members tell them alike.

        How many there were; None where not enough members have passed that position or they do not agree.
        """
        asked = {"table": row.table, "generation": row.generation, "below": format_lsn(below)}
        told = self._sources.each(lambda node: self._tail_of(node, asked, row.size + 1, below))
        needed = min(quorum, len(self._sources.nodes))
        ready = {node: lines for node, lines in told.items() if lines is not None}
        if len(ready) < needed or not ready:
            return None
        versions: dict[tuple[bytes, ...], list[str]] = {}
        for node, lines in ready.items():
            versions.setdefault(tuple(lines), []).append(node)
        agreed, who = max(versions.items(), key=lambda item: len(item[1]))
        if len(who) < needed:
            log.warning("members do not agree on what no seal covers", table=row.table, members=sorted(ready))
            return None
        with self._db.write() as conn:
            own = tablelog.load_head(conn, row.id)
            importing.append_lines(conn, own, agreed)
            _note_schema(conn, row.id, agreed, own.size - len(agreed) + 1)
        return len(agreed)

    def _tail_of(self, node: str, asked: Mapping[str, Any], first: int, below: int) -> list[bytes] | None:
        lines: list[bytes] = []
        while True:
            answer = self._sources.ask(node, "join.tail", {**asked, "first": first + len(lines)})
            document = parse_canonical(answer, what="join.tail", max_bytes=MAX_TAIL_BYTES)
            _TAIL(document, "tail")
            if parse_lsn(document["passed"]) < below:
                return None
            more = [b64decode(item) for item in document["entries"]]
            for seq, line in enumerate(more, first + len(lines)):
                entry = parse_entry(line)
                if entry.seq != seq or entry.lsn >= below:
                    raise ProofError(f"entry {seq}: expected it below {format_lsn(below)}, found entry {entry.seq}")
            lines += more
            if not document["more"]:
                return lines
            if not more or len(lines) > MAX_TAIL:
                raise FormatError(f"entries behind the seal: expected at most {MAX_TAIL} and an end, found none")


def await_tail(
    fetch: LogFetch, row: LogRow, below: int, quorum: int, deadline_s: float, stopped: Callable[[], bool]
) -> int | None:
    """:meth:`LogFetch.tail` until it works or the time is over."""
    deadline = time.monotonic() + deadline_s
    while True:
        added = fetch.tail(row, below, quorum)
        if added is not None or time.monotonic() > deadline or stopped():
            return added
        time.sleep(RETRY_S)


def _note_schema(conn: Any, log_id: int, lines: Any, first: int) -> None:
    """Keep the newest description of the columns beside the log, as recording does."""
    for seq, line in reversed(list(enumerate(lines, first))):
        if line.split(b"\t", 3)[2] == b"schema":
            hint = parse_entry(line).hint or ""
            parse_schema_hint(hint)
            logs.set_schema(conn, log_id, hint, seq)
            return
