from __future__ import annotations

import random
import sqlite3

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.stores import make_columns, make_log
from witnz.core.keyplan import keyless_state_key
from witnz.errors import StoreCorrupt
from witnz.store import granted, live, undo
from witnz.store.runs import MIN_KEYS
from witnz.store.schema import migrate

LOG = 1
Item = tuple[bytes, int]


def fresh_store(size: int = 0) -> sqlite3.Connection:
    """A store whose log 1 says that it has ``size`` entries, with another log beside it."""
    conn = sqlite3.connect(":memory:", isolation_level=None)
    migrate(conn)
    make_log(conn)
    make_log(conn, "public.other")
    conn.execute("UPDATE logs SET size = ?", (size,))
    live.insert_fresh(conn, 2, [(b"%d" % i, i + 1) for i in range(500)])
    return conn


def number_items(first: int, count: int, seq: int) -> list[Item]:
    return [(b"%d" % (first + i), seq + i) for i in range(count)]


def rows_of(conn: sqlite3.Connection, table: str) -> int:
    return int(conn.execute(f"SELECT count(*) FROM {table} WHERE log = ?", (LOG,)).fetchone()[0])


@pytest.fixture
def store() -> sqlite3.Connection:
    return fresh_store(100_000)


def test_growing_keys_are_packed_and_found_again(store: sqlite3.Connection) -> None:
    items = number_items(1, 12_000, 2)  # past 9, 99, 999 and 9999: numbers grow where texts do not
    for at in range(0, 12_000, 1_500):
        assert live.insert_fresh(store, LOG, items[at : at + 1_500])
    assert rows_of(store, "live") == 0
    assert rows_of(store, "runs") < 60
    assert live.accepted_many(store, LOG, [key for key, _ in items]) == dict(items)
    assert live.accepted_many(store, LOG, [b"0", b"12001", b"", b"1x", b"01", b"10000000"]) == {}
    assert live.count(store, LOG) == 12_000
    flags = live.live_flags(store, LOG)
    assert (sum(flags), flags[1], flags[2], flags[12_001], flags[12_002]) == (12_000, 0, 1, 1, 0)
    assert sorted(live.accepted_items(store, LOG)) == sorted(items)


def test_what_concurrent_transactions_shuffle_a_little_is_packed_all_the_same(store: sqlite3.Connection) -> None:
    items = number_items(1_000, 1_000, 2)
    for at in range(5, 1_000, 50):
        items[at], items[at + 1] = (items[at][0], items[at + 1][1]), (items[at + 1][0], items[at][1])
    items.sort(key=lambda item: item[1])
    assert live.insert_fresh(store, LOG, items)
    assert rows_of(store, "live") == 0
    assert live.accepted_many(store, LOG, [key for key, _ in items]) == dict(items)
    assert sum(live.live_flags(store, LOG)) == 1_000


def test_a_late_key_between_the_packed_ones_goes_beside_them(store: sqlite3.Connection) -> None:
    assert live.insert_fresh(store, LOG, [item for item in number_items(1_000, 1_000, 2) if item[0] != b"1500"])
    assert live.insert_fresh(store, LOG, [(b"1500", 2_000), *number_items(2_000, 600, 2_001)])
    assert rows_of(store, "live") == 1
    assert live.accepted_many(store, LOG, [b"1499", b"1500", b"1501", b"2599"]) == {
        b"1499": 501, b"1500": 2_000, b"1501": 503, b"2599": 2_600,
    }  # fmt: skip


@pytest.mark.parametrize("known", [b"1000", b"1001", b"1234", b"1499"])
@pytest.mark.parametrize("count", [1, 20, 400])
def test_one_known_key_among_new_ones_changes_nothing(store: sqlite3.Connection, known: bytes, count: int) -> None:
    assert live.insert_fresh(store, LOG, number_items(1_000, 500, 2))
    before = list(store.iterdump())
    items = [(known, 900), *number_items(5_000, count - 1, 901)]
    assert not live.insert_fresh(store, LOG, items)
    assert not live.insert_fresh(store, LOG, items[::-1])
    assert list(store.iterdump()) == before


@pytest.mark.parametrize("count", [2, 200])
def test_a_key_that_occurs_twice_in_a_batch_is_not_new_twice(store: sqlite3.Connection, count: int) -> None:
    items = number_items(1_000, count, 2)
    items[-1] = (items[0][0], items[-1][1])
    before = list(store.iterdump())
    assert not live.insert_fresh(store, LOG, items)
    ordered = sorted(items)
    assert not live.insert_fresh(store, LOG, ordered)
    assert list(store.iterdump()) == before


def test_a_known_key_among_many_unordered_ones_changes_nothing(store: sqlite3.Connection) -> None:
    rng = random.Random(4)
    items = [(rng.randbytes(16).hex().encode(), seq) for seq in range(2, 1_002)]
    assert live.insert_fresh(store, LOG, items)
    assert (rows_of(store, "live"), rows_of(store, "runs")) == (1_000, 0)
    before = list(store.iterdump())
    more = [(rng.randbytes(16).hex().encode(), seq) for seq in range(1_002, 1_502)]
    assert not live.insert_fresh(store, LOG, [*more, (items[500][0], 1_502)])
    assert list(store.iterdump()) == before
    assert live.insert_fresh(store, LOG, more)
    assert live.accepted_many(store, LOG, [key for key, _ in items + more]) == dict(items + more)


def test_a_key_that_is_applied_but_not_accepted_is_not_new(store: sqlite3.Connection) -> None:
    live.set_overlay(store, LOG, [(b"1200", 5)])
    assert not live.insert_fresh(store, LOG, number_items(1_000, 400, 10))
    live.clear_overlay(store, LOG, [b"1200"])
    assert live.insert_fresh(store, LOG, number_items(1_000, 400, 10))


def test_a_key_that_was_deleted_is_for_the_caller_to_decide(store: sqlite3.Connection) -> None:
    live.insert_fresh(store, LOG, number_items(1_000, 400, 2))
    live.set_accepted(store, LOG, [(b"1100", None)])
    assert not live.insert_fresh(store, LOG, [(b"1100", 500)])
    live.set_accepted(store, LOG, [(b"1100", 500)])
    assert live.accepted_many(store, LOG, [b"1100"]) == {b"1100": 500}
    assert live.count(store, LOG) == 400


def test_what_happens_to_packed_keys_later_goes_before_the_pack(store: sqlite3.Connection) -> None:
    live.insert_fresh(store, LOG, number_items(1_000, 400, 2))
    live.set_accepted(store, LOG, [(b"1000", 900), (b"1001", None), (b"1399", 901), (b"77", 902), (b"78", None)])
    assert live.accepted_many(store, LOG, [b"1000", b"1001", b"1002", b"1399", b"77", b"78"]) == {
        b"1000": 900, b"1002": 4, b"1399": 901, b"77": 902,
    }  # fmt: skip
    assert live.count(store, LOG) == 400
    flags = live.live_flags(store, LOG)
    assert [flags[seq] for seq in (2, 3, 4, 401, 900, 901, 902)] == [0, 0, 1, 0, 1, 1, 1]
    assert sum(flags) == 400


def test_of_a_key_that_is_set_twice_the_last_counts(store: sqlite3.Connection) -> None:
    live.set_accepted(store, LOG, [(b"a", 2), (b"a", None), (b"b", None), (b"b", 3)])
    assert live.accepted_many(store, LOG, [b"a", b"b"]) == {b"b": 3}


def test_the_overlay_goes_before_the_accepted_state(store: sqlite3.Connection) -> None:
    live.insert_fresh(store, LOG, [(b"a", 2), (b"b", 3)])
    live.set_overlay(store, LOG, [(b"a", None), (b"c", 9)])
    assert live.accepted_many(store, LOG, [b"a", b"b", b"c"]) == {b"a": 2, b"b": 3}
    assert live.applied_many(store, LOG, [b"a", b"b", b"c"]) == {b"b": 3, b"c": 9}
    assert list(live.overlay_items(store, LOG)) == [(b"a", None), (b"c", 9)]
    live.clear_overlay(store, LOG)
    assert live.applied_many(store, LOG, [b"a", b"b", b"c"]) == {b"a": 2, b"b": 3}


def test_thousands_of_keys_are_looked_up_at_once(store: sqlite3.Connection) -> None:
    rng = random.Random(9)
    items = [(rng.randbytes(8).hex().encode(), seq) for seq in range(2, 3_002)]
    live.insert_fresh(store, LOG, items)
    for count in (0, 1, 7, 8, 9, 64, 65, 512, 513, 3_000):
        some = rng.sample(items, count)
        assert live.accepted_many(store, LOG, [key for key, _ in some] + [b"none"]) == dict(some)


def test_granted_rows_are_told_apart_from_entries(store: sqlite3.Connection) -> None:
    assert live.granted_seqs(store, LOG) == []
    live.insert_fresh(store, LOG, number_items(1_000, 400, 2))
    first = granted.grant(store, LOG, b"1000", b"h" * 32)
    second = granted.grant(store, LOG, b"", b"i" * 32)
    assert second < first < 0
    assert granted.get(store, LOG, first) == (b"1000", b"h" * 32)
    with pytest.raises(StoreCorrupt):
        granted.get(store, LOG, -1)
    with pytest.raises(StoreCorrupt):
        granted.get(store, 2, first)
    live.set_accepted(store, LOG, [(b"1000", first), (keyless_state_key(b"i" * 32, -second), second)])
    assert live.granted_seqs(store, LOG) == [second, first]
    assert live.accepted_many(store, LOG, [b"1000"]) == {b"1000": first}
    assert (live.count(store, LOG), sum(live.live_flags(store, LOG))) == (401, 399)


def test_rows_without_a_key_are_told_apart_by_hash_and_seq(store: sqlite3.Connection) -> None:
    same, other, gone = b"\x0a" * 32, b"\x0b" * 32, b"\xff" * 32
    items = [(keyless_state_key(row, seq), seq) for seq, row in enumerate([same, other, same, same, gone], 2)]
    assert live.insert_fresh(store, LOG, items)
    assert live.keyless_count(store, LOG, same) == 3
    assert live.keyless_find(store, LOG, same) == keyless_state_key(same, 2)
    live.set_overlay(store, LOG, [(keyless_state_key(same, 2), None), (keyless_state_key(other, 9), 9)])
    assert live.keyless_find(store, LOG, same) == keyless_state_key(same, 2)
    assert live.keyless_find(store, LOG, same, applied=True) == keyless_state_key(same, 4)
    assert live.keyless_count(store, LOG, same, applied=True) == 2
    assert live.keyless_count(store, LOG, other, applied=True) == 2
    assert live.keyless_find(store, LOG, other, applied=True) == keyless_state_key(other, 3)
    live.set_accepted(store, LOG, [(keyless_state_key(gone, 6), None)])
    assert live.keyless_find(store, LOG, gone) is live.keyless_find(store, LOG, gone, applied=True) is None
    assert live.keyless_count(store, LOG, gone) == 0
    assert live.keyless_find(store, LOG, b"\0" * 32) is None


def test_a_seq_beyond_the_log_is_corrupt(store: sqlite3.Connection) -> None:
    live.insert_fresh(store, LOG, [(b"a", 100_001)])
    with pytest.raises(StoreCorrupt, match="does not have"):
        live.live_flags(store, LOG)
    store.execute("DELETE FROM live")
    live.insert_fresh(store, LOG, number_items(1_000, 400, 99_800))
    with pytest.raises(StoreCorrupt, match="does not have"):
        live.live_flags(store, LOG)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE runs SET keys = substr(keys, 1, 20)",
        "UPDATE runs SET count = count + 1",
        "UPDATE runs SET last = x'0004'",
        "UPDATE runs SET seqs = x'00'",
    ],
)
def test_a_damaged_run_is_corrupt(store: sqlite3.Connection, damage: str) -> None:
    live.insert_fresh(store, LOG, number_items(1_000, 400, 2))
    store.execute(damage)
    with pytest.raises(StoreCorrupt, match="log 1"):
        live.accepted_many(store, LOG, [b"1001"])
    with pytest.raises(StoreCorrupt, match="log 1"):
        list(live.accepted_items(store, LOG))


def test_runs_of_a_real_log_agree_with_its_entries(store: sqlite3.Connection) -> None:
    head = make_log(store, "public.real")
    for first in range(0, 3_000, 500):
        made = make_columns(500, first=first)
        seq = made.append_to(store, head)
        assert live.insert_fresh(store, head.id, list(zip(made.keys, range(seq, seq + 500), strict=True)))
    assert live.live_flags(store, head.id) == b"\0" + b"\1" * 3_000


def fill_for_truncate(store: sqlite3.Connection) -> tuple[dict[bytes, int], dict[bytes, tuple[int | None, int | None]]]:
    """Packed, overridden, deleted, plain and overlaid keys: the accepted state, and what each key has, accepted and applied."""
    live.insert_fresh(store, LOG, number_items(1_000, 400, 2))
    live.set_accepted(store, LOG, [(b"1000", 900), (b"1001", None), (b"1002", None), (b"77", 902), (b"78", 903)])
    live.set_overlay(store, LOG, [(b"1003", None), (b"1002", 904), (b"77", 905), (b"99", 906), (b"98", None)])
    accepted = {key: seq for key, seq in number_items(1_000, 400, 2) if key not in (b"1001", b"1002")}
    accepted |= {b"1000": 900, b"77": 902, b"78": 903}
    both: dict[bytes, tuple[int | None, int | None]] = {key: (seq, seq) for key, seq in accepted.items()}
    both |= {b"1003": (5, None), b"1002": (None, 904), b"77": (902, 905), b"99": (None, 906)}
    return accepted, both


@pytest.mark.parametrize("xid", [None, 5_000_000_000])
def test_a_truncate_that_is_not_accepted_leaves_no_row_applied_and_every_row_accepted(
    store: sqlite3.Connection, xid: int | None
) -> None:
    accepted, both = fill_for_truncate(store)
    live.truncate_applied(store, LOG, xid, 1_000)
    assert dict(live.accepted_items(store, LOG)) == accepted
    assert dict(live.overlay_items(store, LOG)) == dict.fromkeys(accepted)
    assert live.applied_many(store, LOG, list(both)) == {}
    assert undo.invisible(store, LOG, lambda _: False) == (both if xid else {})
    assert live.count(store, LOG) == sum(live.live_flags(store, LOG)) == len(accepted)
    assert live.count(store, 2) == 500


@pytest.mark.parametrize("xid", [None, 5_000_000_000])
def test_a_truncate_that_is_accepted_leaves_nothing_and_the_keys_may_come_anew(
    store: sqlite3.Connection, xid: int | None
) -> None:
    _, both = fill_for_truncate(store)
    live.truncate_accepted(store, LOG, xid, 1_000)
    assert list(live.accepted_items(store, LOG)) == list(live.overlay_items(store, LOG)) == []
    assert undo.invisible(store, LOG, lambda _: False) == (both if xid else {})
    assert live.insert_fresh(store, LOG, number_items(1_000, 400, 1_001))
    assert (rows_of(store, "runs") > 0, rows_of(store, "live")) == (True, 0)
    assert live.count(store, 2) == 500


numbers = st.integers(1, 1_500)


class AcceptedState(RuleBasedStateMachine):
    """Accepted and applied state against two dictionaries, whatever is packed, overridden, truncated and undone."""

    def __init__(self) -> None:
        super().__init__()
        self.conn = fresh_store(40_000)
        self.accepted: dict[bytes, int] = {}
        self.over: dict[bytes, int | None] = {}
        self.undone: dict[bytes, tuple[int | None, int | None]] = {}
        self.seq = 1
        self.next_key = 1

    def applied_of(self, key: bytes) -> int | None:
        return self.over[key] if key in self.over else self.accepted.get(key)

    def take_seq(self, count: int = 1) -> int:
        first, self.seq = self.seq + 1, self.seq + count
        return first

    @rule(count=st.sampled_from([1, 5, MIN_KEYS - 1, MIN_KEYS, 400]), gap=st.integers(0, 30), shuffle=st.booleans())
    def insert_growing(self, count: int, gap: int, shuffle: bool) -> None:
        keys = [b"%d" % (self.next_key + gap + i) for i in range(count)]
        if shuffle:
            for at in range(0, count - 1, 40):
                keys[at], keys[at + 1] = keys[at + 1], keys[at]
        self.next_key += gap + count
        self.insert(keys)

    @rule(chosen=st.lists(numbers, min_size=1, max_size=200))
    def insert_any(self, chosen: list[int]) -> None:
        self.insert([b"%d" % number for number in chosen])

    def insert(self, keys: list[bytes]) -> None:
        first = self.take_seq(len(keys))
        items = list(zip(keys, range(first, first + len(keys)), strict=True))
        if live.insert_fresh(self.conn, LOG, items):
            assert len(set(keys)) == len(keys)
            assert not set(keys) & (self.accepted.keys() | self.over.keys())
            self.accepted.update(items)
        else:
            ever = self.conn.execute("SELECT 1 FROM live WHERE log = 1 AND seq IS NULL").fetchone()
            assert ever or len(set(keys)) < len(keys) or set(keys) & (self.accepted.keys() | self.over.keys())

    @rule(chosen=st.lists(numbers, max_size=20), remove=st.booleans())
    def accept(self, chosen: list[int], remove: bool) -> None:
        items = {b"%d" % number: None if remove and number % 3 else self.take_seq() for number in chosen}
        live.set_accepted(self.conn, LOG, items.items())
        for key, seq in items.items():
            if seq is None:
                self.accepted.pop(key, None)
            else:
                self.accepted[key] = seq

    @rule(chosen=st.lists(numbers, max_size=20))
    def apply(self, chosen: list[int]) -> None:
        items = {b"%d" % number: None if number % 3 else self.take_seq() for number in chosen}
        live.set_overlay(self.conn, LOG, items.items())
        self.over.update(items)

    @rule(chosen=st.lists(numbers, max_size=20))
    def clear(self, chosen: list[int]) -> None:
        keys = [b"%d" % number for number in chosen]
        live.clear_overlay(self.conn, LOG, keys)
        for key in keys:
            self.over.pop(key, None)

    @precondition(lambda self: len(self.accepted) > 300)
    @rule(accepted=st.booleans(), settled=st.booleans())
    def truncate(self, accepted: bool, settled: bool) -> None:
        seq, xid = self.take_seq(), self.seq + 1_000_000
        before = {
            key: (self.accepted.get(key), self.applied_of(key))
            for key in self.accepted.keys() | self.over.keys()
            if self.accepted.get(key) is not None or self.applied_of(key) is not None
        }
        (live.truncate_accepted if accepted else live.truncate_applied)(self.conn, LOG, None if settled else xid, seq)
        if not settled:
            assert undo.invisible(self.conn, LOG, lambda other: other != xid) == before
        if accepted:
            self.accepted, self.over = {}, {}
        else:
            self.over = dict.fromkeys(self.accepted)

    @invariant()
    def the_store_says_the_same(self) -> None:
        keys = [b"%d" % number for number in range(1, max(1_500, self.next_key) + 50)]
        assert live.accepted_many(self.conn, LOG, keys) == self.accepted
        applied = {key: self.applied_of(key) for key in self.accepted.keys() | self.over.keys()}
        assert live.applied_many(self.conn, LOG, keys) == {key: seq for key, seq in applied.items() if seq is not None}
        assert live.count(self.conn, LOG) == len(self.accepted)
        assert dict(live.accepted_items(self.conn, LOG)) == self.accepted
        assert dict(live.overlay_items(self.conn, LOG)) == self.over
        flags = live.live_flags(self.conn, LOG)
        assert {seq for seq in range(self.seq + 1) if flags[seq]} == set(self.accepted.values())
        assert live.count(self.conn, 2) == 500

    def teardown(self) -> None:
        self.conn.close()


AcceptedState.TestCase.settings = settings(max_examples=20, stateful_step_count=15, deadline=None)
TestAcceptedState = AcceptedState.TestCase
