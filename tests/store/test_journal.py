from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator

import pytest

from tests.support.journal_maker import CLUSTER, PaperCluster, head_body, seal_body, verify_body
from witnz.core import merkle
from witnz.core.entry import chain_hash, content_hash, first_parent
from witnz.core.record import format_record
from witnz.core.tiles import consistency_proof, inclusion_proof
from witnz.errors import FormatError, StoreCorrupt, StoreError
from witnz.store import journal, meta
from witnz.store.database import Database
from witnz.store.schema import MIGRATIONS, migrate

LEAVES = [b'{"n":%d,"pad":"%s"}' % (n, b"x" * (n % 50)) for n in range(1, 700)]


def fresh_store() -> sqlite3.Connection:
    conn = sqlite3.connect(":memory:", isolation_level=None)
    migrate(conn)
    meta.save_value(conn, meta.CLUSTER, "local/app")
    return conn


@pytest.fixture(scope="module")
def filled() -> Iterator[sqlite3.Connection]:
    conn = fresh_store()
    head = journal.load_head(conn)
    for leaf in LEAVES:
        journal.append_record(conn, head, leaf)
    yield conn
    conn.close()


def test_a_journal_begins_empty_and_knows_its_first_parent() -> None:
    head = journal.load_head(fresh_store())
    assert (head.size, head.chain.decode(), head.root()) == (0, first_parent("local/app"), merkle.EMPTY_ROOT)


def test_records_of_a_type_are_told_by_their_end_and_never_by_what_stands_inside() -> None:
    conn = fresh_store()
    head = journal.load_head(conn)
    leaves = [
        b'{"body":{"reason":"\\"type\\":\\"seal\\"}"},"sig":"s","type":"ack"}',
        b'{"body":{"receipt":{"size":1,"type":"seal"}},"sig":"s","type":"anchor"}',
        b'{"body":{"table":"public.t"},"sig":"s","type":"seal"}',
        b'{"body":{},"sig":"s","type":"unseal"}',
        b'{"body":{"table":"public.u"},"sig":"s","type":"seal"}',
        b'{"body":{},"sig":"s","type":"report"}',
    ]
    for leaf in leaves:
        journal.append_record(conn, head, leaf)
    assert [seq for seq, _ in journal.records_of(conn, "seal")] == [3, 5]
    assert list(journal.records_of(conn, "seal", "ack", to_seq=3)) == [(1, leaves[0]), (3, leaves[2])]
    assert [seq for seq, _ in journal.records_of(conn, "seal", "report", newest_first=True)] == [6, 5, 3]
    assert [seq for seq, _ in journal.records_of(conn, "seal", from_seq=4)] == [5]
    assert [seq for seq, _ in journal.records_of(conn, "seal", naming="public.t")] == [3]
    assert list(journal.records_of(conn)) == []


def test_records_from_the_end_on_come_in_stretches_without_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    conn = fresh_store()
    head = journal.load_head(conn)
    for number in range(1, 24):
        journal.append_record(conn, head, b'{"n":%d,"type":"%s"}' % (number, b"seal" if number % 3 else b"ack"))
    monkeypatch.setattr(journal, "_STRETCH", 5)
    for first, last in ((1, 23), (1, 5), (6, 10), (4, 17), (1, 99), (9, 8)):
        found = [seq for seq, _ in journal.records_of(conn, "seal", from_seq=first, to_seq=last, newest_first=True)]
        assert found == [seq for seq in range(min(last, 23), first - 1, -1) if seq % 3]
        for newest_first in (False, True):
            rare = [seq for seq, _ in journal.records_of(conn, "ack", from_seq=first, to_seq=last, newest_first=newest_first)]
            assert sorted(rare, reverse=newest_first) == rare
            assert set(rare) == {seq for seq in range(first, min(last, 23) + 1) if not seq % 3}
    conn.execute("DELETE FROM journal WHERE seq = 12")
    for newest_first in (False, True):
        with pytest.raises(StoreCorrupt, match="record 12 is missing"):
            list(journal.records_of(conn, "seal", newest_first=newest_first))


def test_a_journal_of_before_the_index_gets_it_and_is_read_by_it() -> None:
    conn = sqlite3.connect(":memory:", isolation_level=None)
    migrate(conn, MIGRATIONS[:4])
    meta.save_value(conn, meta.CLUSTER, "local/app")
    head = journal.load_head(conn)
    for number in range(1, 40):
        kind = {0: b"gap", 1: b"verify"}.get(number % 4, b"seal")
        journal.append_record(conn, head, b'{"n":%d,"type":"%s"}' % (number, kind))
    migrate(conn)
    assert [seq for seq, _ in journal.records_of(conn, "gap")] == list(range(4, 40, 4))
    assert [seq for seq, _ in journal.records_of(conn, "gap", "verify", to_seq=9)] == [1, 4, 5, 8, 9]
    plan = " ".join(row[3] for row in conn.execute(f"EXPLAIN QUERY PLAN {journal._RARE}", (1, 39)))
    assert "journal_rare" in plan and "TEMP B-TREE" not in plan


def paper_store(*, seals: int = 20) -> tuple[sqlite3.Connection, PaperCluster]:
    """A store with the journal of a cluster on paper."""
    cluster = PaperCluster().start()
    for size in range(1, seals + 1):
        cluster.add("seal", seal_body(f"0/19500{size:02}", head_body(size)), node=f"node{size % 3 + 1}")
        if size % 5 == 0:
            cluster.add("verify", verify_body(size, cluster.state.size))
    cluster.add("finding", cluster.finding(), node="node2")
    conn = sqlite3.connect(":memory:", isolation_level=None)
    migrate(conn)
    meta.save_value(conn, meta.CLUSTER, CLUSTER)
    head = journal.load_head(conn)
    for record in cluster.records:
        journal.append_record(conn, head, format_record(record))
    return conn, cluster


def test_a_journal_that_is_loaded_says_what_it_said() -> None:
    conn, cluster = paper_store()
    loaded, state = journal.load_state(conn), cluster.state
    assert vars(loaded) == vars(state)
    assert journal.load_state(conn, 9).size == 9
    kept = journal.decisive_records(conn)
    assert [record.type for record in kept] == ["genesis", "table", "seal", "finding"]
    assert kept == [record for record in cluster.records if record in kept]


@pytest.mark.parametrize("seq", [2, 5, 11])
def test_a_record_that_changed_in_the_store_is_named_when_the_journal_is_loaded(seq: int) -> None:
    conn, _ = paper_store()
    (leaf,) = conn.execute("SELECT leaf FROM journal WHERE seq = ?", (seq,)).fetchone()
    damaged = {2: leaf.replace(b"append_only", b"append-only"), 5: leaf.replace(b'"tables":', b'"tablez":'), 11: leaf[:-9]}[seq]
    assert damaged != leaf
    conn.execute("UPDATE journal SET leaf = ? WHERE seq = ?", (damaged, seq))
    with pytest.raises(StoreCorrupt, match=r"record \d+ is damaged") as caught:
        journal.load_state(conn)
    named = int(re.findall(r"record (\d+) is damaged", caught.value.message)[0])
    assert seq <= named <= seq + 4  # itself, or the next of its node, which no longer follows on it
    if seq != 2:  # what is read without the others is only what it can not be read without
        with pytest.raises(StoreCorrupt, match=f"record {seq} is damaged"):
            journal.decisive_records(conn)


def test_a_store_that_belongs_to_no_cluster_has_no_journal() -> None:
    conn = fresh_store()
    meta.save_value(conn, meta.CLUSTER, None)
    with pytest.raises(StoreCorrupt, match="which cluster"):
        journal.load_head(conn)


def test_records_get_consecutive_seqs_and_come_back_verbatim() -> None:
    conn = fresh_store()
    head = journal.load_head(conn)
    assert [journal.append_record(conn, head, leaf) for leaf in LEAVES[:5]] == [1, 2, 3, 4, 5]
    assert list(journal.records(conn)) == LEAVES[:5]
    assert list(journal.records(conn, 2, 3)) == LEAVES[1:3]
    assert list(journal.records(conn, 4, 99)) == LEAVES[3:5]
    assert list(journal.records(conn, 6)) == []
    assert journal.record_at(conn, 5) == LEAVES[4]
    for seq in (0, -1, 6):
        with pytest.raises(StoreError, match="no record"):
            journal.record_at(conn, seq)


def test_chain_and_tree_are_those_of_the_formats(filled: sqlite3.Connection) -> None:
    chain = first_parent("local/app")
    assert journal.chain_at(filled, 0) == chain
    for size, leaf in enumerate(LEAVES, 1):
        chain = chain_hash(chain, content_hash(leaf))
        assert journal.chain_at(filled, size) == chain
    hashes = [content_hash(leaf) for leaf in LEAVES]
    head = journal.load_head(filled)
    assert (head.size, head.chain.decode(), head.root()) == (len(LEAVES), chain, merkle.root_of(hashes))


@pytest.mark.parametrize("size", [1, 2, 200, 255, 256, 257, 511, 512, 513, 699])
def test_proofs_from_tiles_are_those_of_the_reference(filled: sqlite3.Connection, size: int) -> None:
    hashes = [content_hash(leaf) for leaf in LEAVES[:size]]
    read = journal.tile_reader(filled, size)
    assert journal.root_at(filled, size) == merkle.root_of(hashes)
    for index in {0, size // 2, size - 1}:
        assert inclusion_proof(read, index, size) == merkle.inclusion_path(hashes, index)
    for old in {1, (size + 1) // 2, size}:
        assert consistency_proof(read, old, size) == merkle.consistency_path(hashes, old, size)
    for wrong in (-1, 700):
        with pytest.raises(StoreError):
            journal.tile_reader(filled, wrong)


def test_appending_goes_on_after_a_restart_and_a_lost_commit(database: Database) -> None:
    with database.write() as conn:
        meta.save_value(conn, meta.CLUSTER, "local/app")
        head = journal.load_head(conn)
        for leaf in LEAVES[:300]:
            journal.append_record(conn, head, leaf)
    attempt = head.copy()
    with pytest.raises(ZeroDivisionError), database.write() as conn:
        journal.append_record(conn, attempt, b"lost")
        raise ZeroDivisionError
    assert (head.size, attempt.size) == (300, 301)
    with database.write() as conn:
        loaded = journal.load_head(conn)
        assert (loaded.size, loaded.chain, loaded.tree.edge) == (head.size, head.chain, head.tree.edge)
        for leaf in LEAVES[300:]:
            journal.append_record(conn, loaded, leaf)
        assert loaded.root() == merkle.root_of([content_hash(leaf) for leaf in LEAVES])


def test_a_record_that_is_too_long_is_refused_and_nothing_is_changed() -> None:
    conn = fresh_store()
    head = journal.load_head(conn)
    with pytest.raises(FormatError, match="65535"):
        journal.append_record(conn, head, b"x" * 65_536)
    assert journal.append_record(conn, head, b"x" * 65_535) == 1


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM journal WHERE seq = 600",
        "DELETE FROM journal WHERE seq = 512",
        "UPDATE journal SET leaf = leaf || x'20' WHERE seq = 690",
        "UPDATE journal SET leaf = 'text' WHERE seq = 690",
        "UPDATE journal SET chain = randomblob(32) WHERE seq = 512",
        "UPDATE journal SET chain = randomblob(32) WHERE seq = 699",
        "UPDATE journal SET chain = x'00' WHERE seq = 699",
        "INSERT INTO journal SELECT 701, leaf, chain FROM journal WHERE seq = 1",
        "DELETE FROM tiles WHERE level = 1",
    ],
)
def test_a_journal_whose_end_does_not_fit_is_not_loaded(damage: str) -> None:
    conn = fresh_store()
    head = journal.load_head(conn)
    for leaf in LEAVES:
        journal.append_record(conn, head, leaf)
    assert conn.execute(damage).rowcount == 1
    with pytest.raises(StoreCorrupt):
        journal.load_head(conn)
    conn.close()


def test_a_missing_record_is_named() -> None:
    conn = fresh_store()
    head = journal.load_head(conn)
    for leaf in LEAVES[:10]:
        journal.append_record(conn, head, leaf)
    conn.execute("DELETE FROM journal WHERE seq = 4")
    with pytest.raises(StoreCorrupt, match="record 4"):
        list(journal.records(conn))
    with pytest.raises(StoreCorrupt, match="record 4"):
        journal.record_at(conn, 4)
