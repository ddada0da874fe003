"""What this node votes for: each kind of voted record, against its own logs and nothing else (formats.md 4, votes).

A judge returns where this node has derived the same, and raises :class:`Refused` where not.  "I cannot say yet" is told apart
from "I see something else", because only the second accuses somebody.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from witnz.core.journal import FORGED
from witnz.core.journal_facts import LogHead
from witnz.core.journal_rules import needs_auth
from witnz.core.keys import verify_signature
from witnz.core.lsn import parse_lsn
from witnz.core.record import operator_bytes
from witnz.core.shape import integer
from witnz.node.gaps import undecided_tables
from witnz.node.generations import Generations
from witnz.node.heads import from_items, head_at, moved_until, size_at
from witnz.node.journal import Journal
from witnz.node.leaves import leaf_body
from witnz.node.table_state import PROVISIONAL, TableState
from witnz.node.voting import Refused
from witnz.store import logs, meta
from witnz.store.database import Database

PATIENCE_S = 2.5  # how long a vote is held back for this node's own stream and journal; below the asker's timeout
POLL_S = 0.02

Misbehaved = Callable[[str, str, str], None]
"""What no honest node asks for: (its id, type of the record, why)."""
Accuse = Callable[[str, Mapping[str, Any]], None]
"""A member asked for a seal that this node's logs contradict: (its id, the body)."""


class Judges:
    """The judges of one node."""

    def __init__(
        self,
        db: Database,
        journal: Journal,
        generations: Generations,
        states: Callable[[], list[TableState]],
        accuse: Accuse,
        misbehaved: Misbehaved,
    ) -> None:
        self._db, self._journal, self._generations, self._states, self._accuse = db, journal, generations, states, accuse
        self._misbehaved = misbehaved

    # -- seal -----------------------------------------------------------------------------------------------------------------

    def seal(self, node: str, body: Mapping[str, Any], at: int, context: Mapping[str, Any]) -> None:
        lsn, listed = parse_lsn(body["lsn"]), from_items(body["tables"])
        self._await(lsn, _journal_size(context), {table for table, _ in listed})
        with self._db.read() as conn:
            size_before = self._journal.size
            moved = moved_until(conn, self._journal.state, lsn)
            rows = {log: logs.find_log(conn, *log) for log in listed}
            problem = None
            for (table, generation), head in listed.items():
                row = rows[table, generation]
                if row is None or table in moved.unsettled or row.status != "active":
                    raise Refused("later", f"{table} is not being recorded here yet")
                mine = head_at(conn, row, min(head.size, row.size))
                if mine != head or size_at(conn, row, lsn) != head.size:
                    problem = f"{table}/{generation} at size {head.size} is not what this node recorded up to {body['lsn']}"
                    break
        if problem is None and body.get("parts", 1) == body.get("part", 1):
            problem = self._left_out(body, moved.heads, set(listed), context, size_before)
            if problem is not None:
                self._misbehaved(node, "seal", problem)
        if problem is not None:
            self._accuse(node, body)
            raise Refused("differs", problem)

    def _left_out(
        self,
        body: Mapping[str, Any],
        moved: Mapping[tuple[str, int], LogHead],
        listed: set[tuple[str, int]],
        context: Mapping[str, Any],
        size_before: int,
    ) -> str | None:
        split = self._journal.state.split
        before = split.listed if split is not None and body.get("part", 1) > 1 else frozenset()
        missing = [table for table, generation in moved if (table, generation) not in listed and table not in before]
        if not missing:
            return None
        if self._journal.size != _journal_size(context) or size_before != self._journal.size:
            raise Refused("later", "the journals of the two nodes are not at the same record")
        return f"it leaves out {', '.join(sorted(missing)[:5])}, which moved up to {body['lsn']}"

    def _await(self, lsn: int, journal_size: int, tables: Collection[str] = ()) -> None:
        """Until this node's stream has passed the LSN, its journal the record, and it records these tables."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with self._db.read() as conn:
                reached = meta.load_number(conn, "last_final_lsn") or 0
                unsettled = moved_until(conn, self._journal.state, 0).unsettled
            if self._journal.size < journal_size:
                behind = "its journal"
            elif reached < lsn:
                behind = "its stream"
            elif late := [table for table in unsettled if table in tables]:
                behind = f"its recording of {late[0]}"
            else:
                return
            if time.monotonic() > deadline:
                raise Refused("later", f"{behind} is behind")
            time.sleep(POLL_S)

    # -- table ----------------------------------------------------------------------------------------------------------------

    def table(self, node: str, body: Mapping[str, Any], at: int, context: Mapping[str, Any]) -> None:
        self._check_auth(body)
        self._await(0, _journal_size(context))
        table, generation = body["table"], body["generation"]
        opening = self._generations.find(table, generation)
        if opening is None:
            self._leaf(body)
            return
        opening.heard = time.monotonic()
        if opening.phase != "ready" or opening.state is None:
            raise Refused("later", f"the baseline of {table} is not read here yet ({opening.error or opening.phase})")
        mine = opening.table_body(self._generations.previous(opening.plan))
        differing = [name for name in mine if mine[name] != body[name]]
        if differing or opening.at != at:
            raise Refused("differs", f"{', '.join(differing) or 'the time'} of {table}/{generation} is not what was agreed")
        with self._db.read() as conn:
            row = logs.find_log(conn, table, generation)
            head = None if row is None else head_at(conn, row, row.size)
        if head is None or context.get("baseline") != _head_item(head):
            raise Refused("differs", f"the baseline of {table}/{generation} is not what this node read in the same snapshot")

    def _leaf(self, body: Mapping[str, Any]) -> None:
        for state in self._states():
            if state.name == body["table"] and state.status == PROVISIONAL and state.head.size:
                mine = leaf_body(state)
                if all(mine[name] == body[name] for name in mine):
                    return
                raise Refused("differs", f"the partition {state.name} did not appear here like that")
        raise Refused("later", f"{body['table']}/{body['generation']} is not being opened here")

    def _check_auth(self, body: Mapping[str, Any]) -> None:
        """A ``table`` record that weakens protection, or follows a gap, needs an operator; nobody honest asks without."""
        state = self._journal.state
        reasons = needs_auth(state, body)
        if not reasons:
            return
        auth = body.get("auth")
        key = None if auth is None else state.operator_key(auth["operator"])
        signed = operator_bytes(body, state.cluster_id, "table")
        if auth is None or key is None or not verify_signature(key, base64.b64decode(auth["sig"]), signed):
            refusal = Refused("other", f"expected an operator's auth, because {', '.join(reasons)}")
            refusal.code = FORGED if not state.open_gap(body["table"]) else refusal.code
            raise refusal

    def table_context(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """What a proposer of a ``table`` record tells beside it: the head of the baseline."""
        with self._db.read() as conn:
            row = logs.find_log(conn, body["table"], body["generation"])
            provisional = row is None or row.status == "provisional"
            return {} if row is None or provisional else {"baseline": _head_item(head_at(conn, row, row.size))}

    # -- gap ------------------------------------------------------------------------------------------------------------------

    def gap(self, node: str, body: Mapping[str, Any], at: int, context: Mapping[str, Any]) -> None:
        """A gap of the cluster is one that this node has seen, too: it has an open finding about it."""
        self._await(0, _journal_size(context))
        with self._db.read() as conn:
            concerned = undecided_tables(conn)
        unseen = [table for table in body["tables"] if table not in concerned and None not in concerned]
        if unseen:
            raise Refused("later", f"this node has seen no gap of {unseen[0]}")


def _journal_size(context: Mapping[str, Any]) -> int:
    integer()(context.get("journal_size"), "context.journal_size")
    return int(context["journal_size"])


def _head_item(head: LogHead) -> dict[str, Any]:
    return {"size": head.size, "root": base64.b64encode(head.root).decode(), "chain": head.chain}
