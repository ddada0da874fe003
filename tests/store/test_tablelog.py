from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.stores import Columns, make_columns, make_log
from witnz.core import merkle
from witnz.core.entry import chain_hash, content_hash, first_parent
from witnz.core.tiles import consistency_proof, inclusion_proof
from witnz.errors import FormatError, StoreCorrupt, StoreError
from witnz.store import entries, logs, tablelog
from witnz.store.database import Database
from witnz.store.schema import migrate
from witnz.store.tablelog import LogHead

ORIGIN = "local/app/public.t/1"
SIZES = [1, 2, 3, 255, 256, 257, 300, 511, 512, 513, 777, 1023, 1024, 1025, 1281]


def fresh_store() -> sqlite3.Connection:
    conn = sqlite3.connect(":memory:", isolation_level=None)
    migrate(conn)
    return conn


def reference_chain(lines: list[bytes]) -> str:
    chain = first_parent(ORIGIN)
    for line in lines:
        chain = chain_hash(chain, content_hash(line))
    return chain


def check_log(conn: sqlite3.Connection, head: LogHead, lines: list[bytes]) -> None:
    """Everything that a log says about itself, against the slow obvious way."""
    leaves = [content_hash(line) for line in lines]
    row = logs.get_log(conn, head.id)
    assert (head.size, row.size) == (len(lines), len(lines))
    assert head.chain.decode() == row.chain == reference_chain(lines)
    assert head.root() == entries.root_at(conn, head.id, head.size) == merkle.root_of(leaves)
    assert list(entries.entries(conn, head.id)) == lines
    assert head.tail == lines[len(lines) - len(lines) % 256 :]
    assert conn.execute("SELECT count(*) FROM tail WHERE log = ?", (head.id,)).fetchone() == (len(head.tail),)
    loaded = tablelog.load_head(conn, head.id)
    assert (loaded.size, loaded.chain, loaded.tail, loaded.tree.edge) == (head.size, head.chain, head.tail, head.tree.edge)


@settings(max_examples=25)
@given(st.lists(st.one_of(st.integers(0, 5), st.integers(0, 700)), max_size=8))
def test_however_entries_are_batched_the_log_is_the_same(batches: list[int]) -> None:
    conn = fresh_store()
    head = make_log(conn)
    for count in batches:
        first = head.size
        assert make_columns(count, first=first).append_to(conn, head) == first + 1
    check_log(conn, head, make_columns(sum(batches)).lines())
    conn.close()


def test_appending_goes_on_after_loading_the_head_as_if_it_had_never_stopped() -> None:
    conn = fresh_store()
    head = make_log(conn)
    lines = make_columns(1_300).lines()
    for end in SIZES:
        make_columns(end - head.size, first=head.size).append_to(conn, head)
        head = tablelog.load_head(conn, head.id)
        check_log(conn, head, lines[:end])
    conn.close()


@pytest.fixture(scope="module")
def filled() -> Iterator[tuple[sqlite3.Connection, LogHead, list[bytes]]]:
    """A log of 1,300 entries beside another one, so that nothing works only because there is one log."""
    conn = fresh_store()
    head, other = make_log(conn), make_log(conn, "public.other")
    for first in range(0, 1_300, 100):
        make_columns(100, first=first).append_to(conn, head)
        make_columns(77, first=5_000 + first).append_to(conn, other)
    yield conn, head, make_columns(1_300).lines()
    conn.close()


def test_entries_come_in_any_range(filled: tuple[sqlite3.Connection, LogHead, list[bytes]]) -> None:
    conn, head, lines = filled
    for start, end in [(1, 1), (1, 256), (2, 256), (256, 257), (257, 512), (250, 1_290), (1_281, 1_300), (1_300, 1_300)]:
        assert list(entries.entries(conn, head.id, start, end)) == lines[start - 1 : end]
    assert list(entries.entries(conn, head.id, 1_299, 9_999)) == lines[1_298:]
    assert list(entries.entries(conn, head.id, 1_301)) == []
    assert list(entries.entries(conn, head.id, 5, 4)) == []
    with pytest.raises(StoreError):
        list(entries.entries(conn, head.id, 0))
    assert [entries.entry_at(conn, head.id, seq) for seq in (1, 700, 1_300)] == [lines[0], lines[699], lines[1_299]]
    with pytest.raises(StoreError, match="no entry 1301"):
        entries.entry_at(conn, head.id, 1_301)


def test_row_hashes_are_those_of_the_entries(filled: tuple[sqlite3.Connection, LogHead, list[bytes]]) -> None:
    conn, head, _ = filled
    expected = make_columns(1_300).hashes
    assert entries.row_hashes_at(conn, head.id, [1_300, 14, 256, 257, 1_281, 14]) == {
        seq: expected[seq - 1] for seq in (14, 256, 257, 1_281, 1_300)
    }
    assert entries.row_hash_at(conn, head.id, 14) is None
    for seq in (0, 1_301):
        with pytest.raises(StoreError):
            entries.row_hash_at(conn, head.id, seq)
    blocks = list(entries.iter_hash_blocks(conn, head.id))
    assert [(first, count) for first, count, _ in blocks] == [(n * 256 + 1, 256) for n in range(5)] + [(1_281, 20)]
    assert b"".join(data for _, _, data in blocks) == b"".join(row or bytes(32) for row in expected)


def test_all_entries_of_a_key_are_found_and_no_others(filled: tuple[sqlite3.Connection, LogHead, list[bytes]]) -> None:
    conn, head, lines = filled
    for index in (0, 300, 1_299):
        assert list(entries.entries_with_key(conn, head.id, b"%d" % (100_000 + index))) == [lines[index]]
    assert list(entries.entries_with_key(conn, head.id, b"0")) == []
    assert list(entries.entries_with_key(conn, head.id, b"10000")) == []


@pytest.mark.parametrize("size", [*SIZES, 1_300])
def test_proofs_from_tiles_are_those_of_the_reference(
    filled: tuple[sqlite3.Connection, LogHead, list[bytes]], size: int
) -> None:
    conn, head, lines = filled
    leaves = [content_hash(line) for line in lines[:size]]
    read = entries.tile_reader(conn, head.id, size)
    root = merkle.root_of(leaves)
    assert entries.root_at(conn, head.id, size) == root
    assert entries.chain_at(conn, head.id, size) == reference_chain(lines[:size])
    for index in {0, 1, size // 2, size - 1, max(0, size - 256)} & set(range(size)):
        proof = inclusion_proof(read, index, size)
        assert proof == merkle.inclusion_path(leaves, index)
        assert merkle.verify_inclusion(index, size, leaves[index], proof, root)
    for old in {1, size // 3, size - 1, size} & set(range(1, size + 1)):
        assert consistency_proof(read, old, size) == merkle.consistency_path(leaves, old, size)


def test_the_tree_of_a_size_has_only_its_own_tiles(filled: tuple[sqlite3.Connection, LogHead, list[bytes]]) -> None:
    conn, head, _ = filled
    read = entries.tile_reader(conn, head.id, 600)
    assert len(read(0, 2, 88)) == 88 * 32
    for level, n, width in [(0, 2, 89), (0, 3, 1), (1, 0, 3), (2, 0, 1), (0, -1, 1), (0, 0, 0), (0, 0, 257), (64, 0, 1)]:
        with pytest.raises(StoreError):
            read(level, n, width)
    for size in (-1, 1_301):
        with pytest.raises(StoreError):
            entries.tile_reader(conn, head.id, size)
        with pytest.raises(StoreError):
            entries.chain_at(conn, head.id, size)


def test_a_restart_reads_the_tail_and_the_right_edge_and_nothing_else(database: Database) -> None:
    with database.write() as conn:
        head = make_log(conn)
        for first in range(0, 100_000, 10_000):
            make_columns(10_000, first=first).append_to(conn, head)
    statements: list[str] = []
    with database.write() as conn:
        edge = 100_000 // 256 - 1
        conn.execute("DELETE FROM bundles WHERE n < ?", (edge,))
        conn.execute("DELETE FROM tiles WHERE level = 0 OR (level = 1 AND n < ?)", (100_000 >> 16,))
        conn.set_trace_callback(statements.append)
        loaded = tablelog.load_head(conn, head.id)
        conn.set_trace_callback(None)
    assert (loaded.chain, loaded.root(), loaded.tail) == (head.chain, head.root(), head.tail)
    assert len(statements) <= 6
    assert all(" WHERE " in statement.upper() for statement in statements)


def test_one_entry_costs_the_same_few_statements_however_long_the_log_is(database: Database) -> None:
    def statements_of_one(conn: sqlite3.Connection, head: LogHead) -> list[str]:
        seen: list[str] = []
        conn.set_trace_callback(seen.append)
        make_columns(1, first=head.size).append_to(conn, head)
        conn.set_trace_callback(None)
        return [statement.split(" ", 3)[0] for statement in seen]

    with database.write() as conn:
        head = make_log(conn)
        few = statements_of_one(conn, head)
        make_columns(70_000, first=head.size).append_to(conn, head)
        assert statements_of_one(conn, head) == few == ["INSERT", "UPDATE"]


def test_an_entry_that_is_too_long_is_refused_and_nothing_is_changed(conn: sqlite3.Connection) -> None:
    head = make_log(conn)
    make_columns(10).append_to(conn, head)
    long = Columns([b"insert"], [b"k" * 65_536], [None], make_columns(1).suffixes)
    with pytest.raises(FormatError, match="65535"):
        long.append_to(conn, head)
    check_log(conn, head, make_columns(10).lines())


def test_appending_nothing_changes_nothing(conn: sqlite3.Connection) -> None:
    head = make_log(conn)
    assert Columns([], [], [], []).append_to(conn, head) == 1
    check_log(conn, head, [])


def test_a_copy_of_a_head_is_where_to_go_back_to(database: Database) -> None:
    with database.write() as conn:
        head = make_log(conn)
        make_columns(255).append_to(conn, head)
    before = head.copy()
    with pytest.raises(ZeroDivisionError), database.write() as conn:
        make_columns(300, first=255).append_to(conn, head)
        raise ZeroDivisionError
    with database.write() as conn:
        check_log(conn, before, make_columns(255).lines())
        make_columns(300, first=255).append_to(conn, before)
        check_log(conn, before, make_columns(555).lines())


def test_the_register_finds_logs_by_id_name_and_status(conn: sqlite3.Connection) -> None:
    first = make_log(conn, generation=1)
    second = make_log(conn, generation=2)
    other = make_log(conn, "public.a")
    with pytest.raises(StoreError, match="generation 2"):
        make_log(conn, generation=2)
    assert logs.find_log(conn, "public.t") == logs.get_log(conn, second.id)
    assert logs.find_log(conn, "public.t", 1) == logs.get_log(conn, first.id)
    assert logs.find_log(conn, "public.t", 3) is logs.find_log(conn, "public.x") is None
    logs.set_status(conn, first.id, "ended")
    logs.set_final_lsn(conn, first.id, 77)
    logs.set_schema(conn, second.id, '{"columns":[]}', 5)
    logs.set_snapshot(conn, second.id, "7:9:8", 4_711)
    logs.set_mode(conn, second.id, "{}")
    ended = logs.get_log(conn, first.id)
    assert (ended.status, ended.final_lsn, ended.keyed, ended.key_columns) == ("ended", 77, True, ("id",))
    logs.set_final_lsn(conn, first.id, None)
    assert logs.get_log(conn, first.id).final_lsn is None
    active = logs.get_log(conn, second.id)
    assert (active.columns, active.schema_seq, active.snapshot, active.lsn, active.mode) == (
        '{"columns":[]}',
        5,
        "7:9:8",
        4_711,
        "{}",
    )
    assert [row.id for row in logs.list_logs(conn)] == [other.id, first.id, second.id]
    assert [row.id for row in logs.list_logs(conn, "active")] == [other.id, second.id]
    for call in (logs.get_log, logs.log_size, tablelog.load_head):
        with pytest.raises(StoreError, match="no log 99"):
            call(conn, 99)


def test_dropping_a_log_leaves_nothing_of_it_and_all_of_the_others(conn: sqlite3.Connection) -> None:
    kept, dropped = make_log(conn), make_log(conn, "public.gone")
    for head in (kept, dropped):
        make_columns(600).append_to(conn, head)
    logs.drop_log(conn, dropped.id)
    for (table,) in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        names = [column[1] for column in conn.execute(f"PRAGMA table_info({table})")]
        if "log" in names:
            assert conn.execute(f"SELECT count(*) FROM {table} WHERE log = ?", (dropped.id,)).fetchone() == (0,), table
    check_log(conn, kept, make_columns(600).lines())


Damage = Callable[[sqlite3.Connection], object]
LOAD: dict[str, str] = {
    "an entry of the tail is gone": "DELETE FROM tail WHERE seq = 1290",
    "the newest entry of the tail is gone": "DELETE FROM tail WHERE seq = 1300",
    "an entry of the tail is another": "UPDATE tail SET entry = replace(entry, 'insert', 'update') WHERE seq = 1290",
    "an entry of the tail is text": "UPDATE tail SET entry = 'x' WHERE seq = 1290",
    "there is one entry too many": "INSERT INTO tail SELECT log, 1301, entry FROM tail WHERE seq = 1300",
    "the register says less": "UPDATE logs SET size = 1299",
    "the register says more": "UPDATE logs SET size = 1301",
    "the register says a block less": "UPDATE logs SET size = 1044",
    "the chain head is another": f"UPDATE logs SET chain = '{'0' * 64}'",
    "the chain head is no hash": "UPDATE logs SET chain = 'zz'",
    "the status is none": "UPDATE logs SET status = 'lost'",
    "the last block is gone": "DELETE FROM bundles WHERE n = 4",
    "the last block's chain is another": "UPDATE bundles SET chain = randomblob(32) WHERE n = 4",
    "the last block's chain is short": "UPDATE bundles SET chain = x'00' WHERE n = 4",
    "the tile of the right edge is gone": "DELETE FROM tiles WHERE level = 1",
    "the tile of the right edge is short": "UPDATE tiles SET hashes = substr(hashes, 33) WHERE level = 1",
}
READ: dict[str, str] = {
    "a block is gone": "DELETE FROM bundles WHERE n = 2",
    "the first block is gone": "DELETE FROM bundles WHERE n = 0",
    "a block says another count": "UPDATE bundles SET count = 255 WHERE n = 2",
    "a block's hashes are short": "UPDATE bundles SET hashes = substr(hashes, 33) WHERE n = 2",
    "a block's hashes are no multiple": "UPDATE bundles SET hashes = substr(hashes, 2) WHERE n = 2",
    "a block's hashes are text": "UPDATE bundles SET hashes = 'text' WHERE n = 2",
    "a block's text is cut": "UPDATE bundles SET rest = substr(rest, 1, 50) WHERE n = 2",
    "a block's text is another's": "UPDATE bundles SET rest = x'00' WHERE n = 2",
    "an entry of the tail is gone": "DELETE FROM tail WHERE seq = 1290",
}


def damaged(sql: str) -> tuple[sqlite3.Connection, int]:
    conn = fresh_store()
    head = make_log(conn)
    make_columns(1_300).append_to(conn, head)
    assert conn.execute(sql).rowcount >= 1
    return conn, head.id


@pytest.mark.parametrize("sql", LOAD.values(), ids=LOAD.keys())
def test_a_head_that_does_not_fit_its_log_is_not_loaded(sql: str) -> None:
    conn, log_id = damaged(sql)
    with pytest.raises(StoreCorrupt, match=f"log {log_id}"):
        tablelog.load_head(conn, log_id)
    conn.close()


@pytest.mark.parametrize("sql", READ.values(), ids=READ.keys())
def test_readers_name_the_block_that_does_not_parse(sql: str) -> None:
    conn, log_id = damaged(sql)
    block = {"n = 2": 2, "n = 0": 0, "1290": 5}[next(part for part in ("n = 2", "n = 0", "1290") if part in sql)]
    with pytest.raises(StoreCorrupt, match=f"log {log_id}, block {block} "):
        list(entries.entries(conn, log_id))
    if "rest" not in sql and "count" not in sql:
        with pytest.raises(StoreCorrupt, match=f"block {block} "):
            list(entries.iter_hash_blocks(conn, log_id))
        with pytest.raises(StoreCorrupt, match=f"block {block} "):
            entries.row_hashes_at(conn, log_id, range(1, 1_301))
    with pytest.raises(StoreCorrupt):
        list(entries.entries_with_key(conn, log_id, b"100600"))
    conn.close()


def test_a_missing_tile_is_corrupt_and_never_made_up(filled: tuple[sqlite3.Connection, LogHead, list[bytes]]) -> None:
    conn, log_id = damaged("DELETE FROM tiles WHERE level = 0 AND n = 1")
    with pytest.raises(StoreCorrupt, match="tile 1 of level 0"):
        inclusion_proof(entries.tile_reader(conn, log_id, 1_300), 300, 1_300)
    conn.close()
