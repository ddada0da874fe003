"""What goes along the journal behind it reads some of it at a time, and of what waits only what it waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.journal_maker import CLUSTER, PaperCluster, head_body, open_body, seal_body, table_body
from witnz.core.lsn import format_lsn
from witnz.core.record import Record, format_record
from witnz.node import agreement, following
from witnz.node.agreement import Agreement
from witnz.node.following import Following, NotYet
from witnz.node.journal import Journal
from witnz.store import importing, journal, meta
from witnz.store.database import Database

SEALS = 600
NEXT = SEALS + 5  # the seal behind genesis, table, the seals of the first generation, and the next generation


@pytest.fixture(scope="module")
def cluster() -> PaperCluster:
    """Many seals of a generation that is over, and one of the next."""
    made = PaperCluster(1).start()
    for size in range(1, SEALS + 1):
        made.add("seal", seal_body(format_lsn(0x2_000_000 + size), head_body(size)))
    made.add("open", open_body(2))
    end = {name: head_body(SEALS)[name] for name in ("size", "root", "chain")}
    made.add("table", table_body(2, end, lsn=format_lsn(0x3_000_000)))
    made.add("seal", seal_body(format_lsn(0x3_000_001), head_body(1, generation=2)))
    return made


@pytest.fixture
def db(cluster: PaperCluster, tmp_path: Path) -> Iterator[Database]:
    with Database.create(tmp_path / "witnz.db") as made:
        with made.write() as conn:
            meta.save_value(conn, meta.CLUSTER, CLUSTER)
            meta.save_value(conn, "last_final_lsn", 0x3_000_001)
        append(made, cluster.records)
        yield made


def append(db: Database, records: Sequence[Record]) -> None:
    with db.write() as conn:
        head = journal.load_head(conn)
        for record in records:
            journal.append_record(conn, head, format_record(record))


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seqs of the records that were parsed."""
    seqs: list[int] = []

    def noted(parse: Callable[[bytes], Record]) -> Callable[[bytes], Record]:
        def parsing(leaf: bytes) -> Record:
            record = parse(leaf)
            seqs.append(record.seq or 0)
            return record

        return parsing

    for module in (following, agreement):
        monkeypatch.setattr(module, "parse_record", noted(module.parse_record))
    return seqs


def test_what_waits_is_looked_at_again_and_nothing_behind_it(cluster: PaperCluster, db: Database, parsed: list[int]) -> None:
    done: list[int] = []
    waits = {300, NEXT}

    def seal(record: Record) -> None:
        if record.seq in waits:
            raise NotYet(f"record {record.seq} has to wait")
        done.append(record.seq or 0)

    one = Following(db, {"seal": seal})
    one.follow(280)
    assert (one.done, one.waits_for) == (280, "")
    one.follow()
    assert (one.done, one.waits_for) == (299, "record 300 has to wait")
    parsed.clear()
    one.follow()
    assert parsed == [300]
    waits.discard(300)
    one.follow()
    assert (one.done, one.waits_for) == (NEXT - 1, f"record {NEXT} has to wait")
    with db.read() as conn:
        assert NEXT - following.SAVE_EVERY <= (meta.load_number(conn, following.FOLLOWED) or 0) < NEXT
    waits.clear()
    one.follow()
    assert one.done == NEXT == len(cluster.records)
    assert done == [record.seq for record in cluster.records if record.type == "seal"]


def test_seals_are_compared_some_at_a_time_and_the_first_that_waits_stops_it(
    cluster: PaperCluster, db: Database, parsed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    stub: Any = SimpleNamespace(state=cluster.state, serve=lambda *words: None)
    monkeypatch.setattr(agreement, "LOOK_S", 0.0)
    one = Agreement(db, stub, stub, stub, "node1")
    looked = []
    for _ in range(4):
        one.look()
        looked.append(one._agreed)
    # The log of the present generation is still to be fetched, and only then its seals are compared.
    assert looked == [agreement.STRETCH, 2 * agreement.STRETCH, NEXT - 1, NEXT - 1]
    assert sorted(set(parsed)) == [record.seq for record in cluster.records if record.type == "seal"]
    parsed.clear()
    assert one.condition(NEXT) == f"its own stream has not come to the seals after record {NEXT - 1}"
    assert parsed == [NEXT]


def test_whoever_listens_is_told_of_each_record_that_came_from_other_members(cluster: PaperCluster, db: Database) -> None:
    with db.write() as conn:
        importing.truncate_journal(conn, 400)
    stub: Any = SimpleNamespace(on_apply=lambda *words: None)
    identity = cluster.identity("node1")
    one = Journal(db, stub, "node1", identity, lambda: 0, cluster=CLUSTER, cluster_id=cluster.state.cluster_id)
    told: list[Record] = []
    one.on_record.append(told.append)
    one.reload()
    assert told == []
    append(db, cluster.records[400:])
    one.reload()
    assert told == cluster.records[400:]
    assert vars(one.state) == vars(cluster.state)
    assert one.size == NEXT
