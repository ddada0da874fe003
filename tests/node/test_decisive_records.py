"""What is asked of a whole journal, asked of its decisive records alone: random valid journals, every answer the same."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from contextlib import closing
from typing import Any

import pytest

from tests.support.journal_maker import CLUSTER, PaperCluster, head_body, open_body, seal_body, table_body, verify_body
from witnz.core.decisive import decisive
from witnz.core.journal import JournalState
from witnz.core.lsn import format_lsn
from witnz.core.record import Record, format_record, recall_record
from witnz.errors import FormatError, ProofError
from witnz.node.evidence import _Journal
from witnz.node.log_fetch import targets_of
from witnz.store import journal as stored
from witnz.store import meta, seals
from witnz.store.schema import migrate
from witnz.store.seals import newest_sealed
from witnz.verify.replay import decisions_of

TABLES = ("public.a", "public.b", "public.c%20d")
RECORDS = 260
SEEN: Counter[str] = Counter()
KINDS = {
    "seal": 30, "verify": 6, "split": 5, "table": 6, "open": 3, "cancel": 1, "unprotect": 1, "finding": 7, "accept": 12,
    "erase": 8, "prune": 2, "approvers": 2, "epoch": 1, "gap": 1, "operator": 2,
}  # fmt: skip


class Journal:
    """A cluster on paper to which things happen at random; what its journal refuses has not happened."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.cluster = PaperCluster(1, operators=("alice", "bob"))
        self.cluster.add("genesis", self.cluster.genesis_body())
        self.lsn = 0x1_000_000
        self.findings = 0

    def grow(self) -> None:
        kinds, weights = zip(*KINDS.items(), strict=True)
        while len(self.cluster.records) < RECORDS:
            kind = self.dice.choices(kinds, weights)[0]
            try:
                getattr(self, f"_{kind}")()
            except (ProofError, FormatError):
                continue
            SEEN[kind] += 1

    def _add(self, record_type: str, body: dict[str, Any]) -> None:
        operator = self.dice.choice(self.cluster.operators) if record_type in ("accept", "erase", "prune", "config") else None
        self.cluster.add(record_type, body, operator=operator)

    def _next_lsn(self) -> str:
        self.lsn += self.dice.randint(1, 900)
        return format_lsn(self.lsn)

    def _grown(self, table: str, generation: int, least: int = 1) -> dict[str, Any]:
        sealed = self.cluster.state.last_sealed(table, generation)
        return head_body((0 if sealed is None else sealed.size) + self.dice.randint(least, 4), table, generation)

    def _log(self) -> tuple[str, int]:
        """A generation that there was, mostly the newest."""
        table = self.dice.choice(TABLES)
        newest = self.cluster.state.newest_generation(table)
        if newest is None:
            raise ProofError("it was never protected")
        return table, self.dice.choice([newest.generation, newest.generation, self.dice.randint(1, newest.generation)])

    def _heads(self) -> list[dict[str, Any]]:
        state = self.cluster.state
        there = [(t.table, t.generation) for t in state.tables().values() if t.table not in state.opened]
        going_on = [log for log in there if state.ended_at(*log) is None]
        if not going_on:
            raise ProofError("nothing goes on")
        return [self._grown(*log) for log in self.dice.sample(going_on, self.dice.randint(1, len(going_on)))]

    def _seal(self) -> None:
        self._add("seal", seal_body(self._next_lsn(), *self._heads()))

    def _split(self) -> None:
        """A seal of two records, or the first of them alone: others come in between, or instead."""
        heads, lsn = self._heads(), self._next_lsn()
        for part, some in enumerate((heads[:1], heads[1:]), 1):
            if some and self.dice.random() < 0.9:
                self._add("seal", seal_body(lsn, *some, part=part, parts=2))
            if self.dice.random() < 0.5:
                self._accept()

    def _verify(self) -> None:
        table, generation = self._log()
        self._add("verify", verify_body(3, self.cluster.state.size, table=table, generation=generation))

    def _open(self) -> None:
        table = self.dice.choice(TABLES)
        newest = self.cluster.state.newest_generation(table)
        self._add("open", open_body(1 if newest is None else newest.generation + 1, table=table))

    def _cancel(self) -> None:
        if self.cluster.state.opened:
            table, (generation, _) = self.dice.choice(sorted(self.cluster.state.opened.items()))
            self._add("cancel", {"table": table, "generation": generation, "reason": ""})

    def _table(self) -> None:
        state, table = self.cluster.state, self.dice.choice(TABLES)
        generation, _ = state.opened.get(table, (1, ""))
        previous = None
        if generation > 1:
            ended = state.ended_at(table, generation - 1)
            head = self._grown(table, generation - 1) if ended is None else head_body(ended.size, table, generation - 1)
            previous = {name: head[name] for name in ("size", "root", "chain")}
        body = table_body(generation, previous, table=table, lsn=self._next_lsn())
        self.cluster.add("table", body, operator=None if state.open_gap(table) is None else "alice")

    def _unprotect(self) -> None:
        self._add("unprotect", {"table": self.dice.choice(TABLES), "reason": ""})

    def _finding(self) -> None:
        (table, generation), self.findings = self._log(), self.findings + 1
        cls = self.dice.choice(["row.modified", "violation.update", "change.unapproved"])
        body = self.cluster.finding(
            cls, key=str(self.findings), seq=self.dice.choice([None, 3]), table=table, generation=generation
        )
        self._add("finding", body)

    def _accept(self) -> None:
        table, generation = self._log()
        finding = self.dice.choice([None, *self.cluster.state.findings])
        rows = [
            {"key": str(n), "row": "0" * 64, "seq": self.dice.choice([None, n + 1])} for n in range(self.dice.randint(1, 2))
        ]
        self._add("accept", {"table": table, "generation": generation, "rows": rows, "finding": finding, "reason": ""})

    def _erase(self) -> None:
        table, generation = self._log()
        self._add("erase", {"table": table, "generation": generation, "keys": [self.dice.choice("12")], "reason": ""})

    def _prune(self) -> None:
        table, generation = self._log()
        self._add("prune", {"table": table, "generation": generation, "reason": ""})

    def _approvers(self) -> None:
        self._add("config", {"changes": {"approvers": {"from": None, "to": self.dice.choice("12")}}, "weakens": False})

    def _epoch(self) -> None:
        state, final = self.cluster.state, []
        for table in state.tables().values():
            ended = state.ended_at(table.table, table.generation)
            final.append(
                self._grown(table.table, table.generation)
                if ended is None
                else head_body(ended.size, table.table, table.generation)
            )
        system, timeline = self.dice.choice([state.system, "7123456789012345679"]), state.timeline + 1
        at = {"system": system, "timeline": timeline, "switch_lsn": format_lsn(self.lsn - 500), "reason": ""}
        self._add("epoch", {**at, "final": final[:1], "part": 1, "parts": 2} if len(final) > 1 else {**at, "final": final})
        if len(final) > 1:
            self._add("epoch", {**at, "final": final[1:], "part": 2, "parts": 2})

    def _gap(self) -> None:
        at = {"from_lsn": format_lsn(self.lsn), "to_lsn": self._next_lsn()}
        self._add("gap", {**at, "reason": "", "tables": [self.dice.choice(TABLES)]})

    def _operator(self) -> None:
        self._add("operator", {"action": "looked", "detail": '"type":"seal"}'})


def newest_of(state: JournalState, table: str) -> int:
    newest = state.newest_generation(table)
    return 0 if newest is None else newest.generation


def compare(records: list[Record], every: list[Record], bound: int) -> None:
    """``every``: the decisive ones of a journal that goes on behind ``bound``."""
    whole = records[:bound]
    kept = list(decisive(whole))
    assert [r for r in kept if r.type != "seal"] == [r for r in whole if r.type not in ("seal", "verify")]
    state = JournalState()
    for record in whole:
        state.apply(record, verify_signatures=False)
    made = decisions_of(whole)
    assert decisions_of(kept) == made
    assert decisions_of(record for record in every if (record.seq or 0) <= bound) == made
    assert targets_of(kept, state) == targets_of(whole, state)
    for decisions in made.values():
        SEEN["row behind a seal"] += any(decisions.rows[size] for size in decisions.rows if size)
        SEEN["row after an end"] += bool(decisions.after)
        SEEN["erasure behind a seal"] += any(decisions.erasures[size] for size in decisions.erasures if size)
        SEEN["erasure of two"] += any(len(one.operators) == 2 for some in decisions.erasures.values() for one in some)
    SEEN["split open"] += state.split is not None


def test_the_newest_seal_of_each_table_is_known_to_whoever_has_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a search through the seals, and without: for each size that a checkpoint may have, and a state that went on."""
    journal, looked = Journal(3), 0
    journal.grow()
    records, state = journal.cluster.records, journal.cluster.state
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as conn:
        migrate(conn)
        meta.save_value(conn, meta.CLUSTER, CLUSTER)
        head = stored.load_head(conn)
        for record in records:
            stored.append_record(conn, head, format_record(record))
        earlier = stored.load_state(conn, len(records) // 2)
        generations = {(t, g) for t in TABLES for g in range(1, newest_of(state, t) + 1)}
        for size in (*range(1, len(records), 3), len(records)):
            searched = _Journal("", size, conn).newest_of_tables()
            for known in (state, earlier):
                found = _Journal("", size, conn, known).newest_of_tables()
                assert (found.heads, found.tables) == (searched.heads, searched.tables)
                assert newest_sealed(conn, generations, size, known) == newest_sealed(conn, generations, size)
            looked += len(searched.heads)
            assert stored.decisive_records(conn, size) == list(decisive(records[:size]))
        assert looked > 100
        monkeypatch.setattr(seals, "records_of", None)
        _Journal("", len(records), conn, state).newest_of_tables()  # and where the state is of that size, nothing is searched


def test_decisions_and_targets_follow_from_the_decisive_records_alone() -> None:
    SEEN.clear()
    for seed in range(8):
        journal = Journal(seed)
        journal.grow()
        records = [recall_record(format_record(record)) for record in journal.cluster.records]
        assert records == journal.cluster.records
        every = list(decisive(records))
        assert len(every) < len(records)
        for bound in sorted({len(records), *journal.dice.sample(range(1, len(records)), 25)}):
            compare(records, every, bound)
    missed = [kind for kind in (*KINDS, "row behind a seal", "row after an end", "erasure behind a seal", "erasure of two",
        "split open") if not SEEN[kind]]  # fmt: skip
    assert not missed
