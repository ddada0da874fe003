"""What is kept of any number of rows: all are counted, and the first of them named, however they came."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.evidence import PaperStore
from tests.support.journal_maker import TABLE
from witnz.core.classify import Rules
from witnz.core.journal_facts import TableRecord
from witnz.errors import StoreFull
from witnz.node.losses import MAX_NAMED, Differences, First, Names
from witnz.node.rewinding import Extent, rewind
from witnz.store import entries, logs
from witnz.store.tally import tally
from witnz.verify.live import MAX_DIFFERENCES, Difference
from witnz.verify.replay import Intents, Replay, decisions_of
from witnz.verify.scratch import replayed


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(-1, 4)), max_size=60), st.integers(1, 7))
def test_as_many_as_may_be_are_kept_and_all_are_counted(items: list[tuple[int, int]], most: int) -> None:
    first = First(most, lambda item: item)
    for item, number in items:
        first.add(item, number)
    every = sorted(item for item, number in items for _ in range(number))
    assert (first.count, first.taken()) == (len(every), tuple(every[:most]))
    first.add(-1)
    assert first.taken()[0] == -1, "it goes on after it was looked at"


def test_names_come_in_the_order_of_numbers_whatever_order_they_were_found_in() -> None:
    keys = list(range(1, 5_000))
    random.Random(7).shuffle(keys)
    names = Names()
    for key in keys:
        names.add(str(key))
    rows = names.rows()
    assert (rows.count, rows.names) == (4_999, tuple(map(str, range(1, MAX_NAMED + 1))))
    assert str(rows).endswith(f"{MAX_NAMED} and {4_999 - MAX_NAMED} more)")


def test_foreign_rows_beyond_the_first_are_counted_and_it_is_said_that_they_are_not_listed() -> None:
    differences = Differences()
    for key in range(MAX_DIFFERENCES + 5, 0, -1):
        differences.add(Difference("row.inserted", str(key), b"%d" % key, None, None, bytes(32), explained=False))
    foreign = differences.foreign()
    assert [row.key for row in foreign.rows] == [str(key) for key in range(1, MAX_DIFFERENCES + 1)]
    assert str(foreign) == "1005 row(s) that were never recorded (of the first 1000 there are findings)"


ROWS = 12_000
KEPT = 2_000
BOUND_BYTES = 4 << 20  # as much as some hundred bytes a row would take twice over


def test_a_restore_that_lost_many_rows_is_counted_without_holding_their_names(tmp_path: Path) -> None:
    store = PaperStore(tmp_path / "store", nodes=1).start()
    for first in range(1, KEPT + ROWS, 2_000):
        store.change([(b"insert", b"%d" % key) for key in range(first, first + 2_000)])
    with store.db.write() as conn:
        row = logs.require_log(conn, TABLE, 1)
        record = TableRecord.from_record(next(each for each in store.cluster.records if each.type == "table"))
        decided = decisions_of([])[TABLE, 1]
        replay = Replay(conn, row.id, TABLE, record.rules, Intents(store.cluster.state, {}), decided, keyed=True)
        replay.run(entries.entries(conn, row.id))
        extent = Extent(1 + KEPT, row.size, row.size)
        tracemalloc.start()
        try:
            loss = rewind(conn, row, extent, record, store.cluster.records, store.cluster.state, tmp_path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    store.db.close()
    assert (loss.lost.count, loss.regained.count, loss.earlier.count) == (ROWS, 0, 0)
    assert loss.lost.names == tuple(str(key) for key in range(KEPT + 1, KEPT + 1 + MAX_NAMED))
    assert peak < BOUND_BYTES, f"{peak / 2**20:.1f} MiB for {ROWS} rows"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"], "nothing is left of what was counted on disk"


def test_where_nothing_can_be_counted_on_disk_it_is_said_as_of_any_other_write(tmp_path: Path) -> None:
    with pytest.raises(StoreFull, match="gone cannot be written: No such file"), tally(tmp_path / "gone"):
        pass
    row = logs.LogRow(1, TABLE, 1, "", 0, None, b"", "ended", True, ("id",), "", 1, None, 0, None, 0, "0" * 64)
    intents = Intents(PaperStore(tmp_path / "store").cluster.state, {})
    state = replayed(row, Rules("append_only"), intents, decisions_of([])[TABLE, 1], [], tmp_path / "gone")
    with pytest.raises(StoreFull, match="gone cannot be written: No such file"), state:
        pass


def test_counts_on_disk_add_up_and_come_back_in_order(tmp_path: Path) -> None:
    with tally(tmp_path) as counts:
        assert not counts and counts.find([b"a"]) == {}
        keys = [b"%05d" % number for number in range(10_000)]
        counts.add((key, None, 1, 0) for key in reversed(keys))
        counts.add((key, key * 2, 0, 2) for key in keys[::2])
        counts.add((key, None, 0, 1) for key in keys[:1])
        counts.mark([keys[1], b"not there"])
        every = [item for batch in counts.batches() for item in batch]
        assert [key for key, _ in every] == keys and counts
        first, second = (counts.find(keys[:2])[key] for key in keys[:2])
        assert (first.value, first.before, first.after, first.marked) == (keys[0] * 2, 1, 3, False)
        assert (second.value, second.before, second.after, second.marked) == (None, 1, 0, True)
        assert list(tmp_path.iterdir()) == [], "a kill would leave nothing"
