"""Row hashes beyond memory: the same multiset, the same state root, whatever is spilled and wherever it is hashed."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from witnz.core.hashing import packed_row_hashes
from witnz.core.rowline import row_hash
from witnz.core.state import EMPTY_STATE_ROOT, split_hashes, state_root
from witnz.errors import FormatError, Inconclusive
from witnz.verify.hash_process import HashProcess
from witnz.verify.partition import PARTITIONS, PIECE_BYTES, Partitions, state_tree, state_trees

SECRET = bytes(range(32))
# Few first bytes and few tails, so that buckets collide and hashes repeat.
HASHES = st.builds(
    lambda first, second, tail: bytes((first, second)) + tail * 30,
    st.sampled_from([0, 1, 7, 254, 255]),
    st.sampled_from([0, 1, 255]),
    st.sampled_from([b"\0", b"\x01", b"\xff"]),
)
BATCHES = st.lists(st.lists(HASHES, max_size=12), max_size=12)


def filled(spill_dir: Path, batches: list[list[bytes]], max_held: int) -> Partitions:
    made = Partitions(spill_dir, max_held)
    for batch in batches:
        made.add_all(batch)
    return made


def all_of(partitions: Partitions) -> list[list[bytes]]:
    return [split_hashes(partitions.sorted(partition)) for partition in range(PARTITIONS)]


@given(BATCHES, st.integers(0, 20))
def test_what_is_spilled_comes_back_as_what_is_held(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[bytes]], max_held: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    spilled, held = filled(folder, batches, max_held), filled(folder, batches, 1_000_000)
    every = [row for batch in batches for row in batch]
    try:
        assert all_of(spilled) == all_of(held)
        assert [row for partition in all_of(spilled) for row in partition] == sorted(every)
        assert spilled.rows == held.rows == len(every)
    finally:
        spilled.close()
        held.close()


@settings(max_examples=12)
@given(BATCHES, BATCHES)
def test_two_multisets_have_one_root_exactly_if_they_are_equal(
    tmp_path_factory: pytest.TempPathFactory, one: list[list[bytes]], other: list[list[bytes]]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    left, right = filled(folder, one, 3), filled(folder, other, 3)
    first, second = ([row for batch in batches for row in batch] for batches in (one, other))
    trees = state_trees(left, right)
    alone = state_tree(left).root()
    left.close()
    right.close()
    assert [tree.root() for tree in trees] == [state_root(first), state_root(second)]
    assert alone == trees[0].root()
    assert (trees[0].root() == trees[1].root()) == (Counter(first) == Counter(second))


def test_nothing_has_the_empty_root_and_reads_back_as_nothing(tmp_path: Path) -> None:
    nothing = Partitions(tmp_path)
    assert state_trees(nothing, nothing)[0].root() == EMPTY_STATE_ROOT
    assert all_of(nothing) == [[]] * PARTITIONS


def test_the_spill_file_has_no_name_and_is_gone_with_its_multiset(tmp_path: Path) -> None:
    """Nothing is left behind even by a kill -9."""
    made = filled(tmp_path, [[os.urandom(32) for _ in range(100)] for _ in range(10)], 50)
    assert list(tmp_path.iterdir()) == []
    assert made._file is not None
    made.close()


def test_at_most_so_many_hashes_are_held(tmp_path: Path) -> None:
    made = Partitions(tmp_path, max_held=1000)
    for _ in range(100):
        made.add(os.urandom(32 * 250))
        assert sum(map(len, made._buffers)) + made._waiting_bytes <= 32 * 2250
    assert made.rows == sum(len(part) for part in all_of(made)) == 25_000
    assert all(row[0] == partition for partition, rows in enumerate(all_of(made)) for row in rows)
    made.close()


def test_bytes_that_are_no_hashes_are_refused_before_anything_is_added(tmp_path: Path) -> None:
    made = Partitions(tmp_path)
    with pytest.raises(FormatError, match="multiple of 32"):
        made.add(bytes(33))
    assert (made.rows, all_of(made)) == (0, [[]] * PARTITIONS)


def test_more_can_be_added_after_a_partition_was_read(tmp_path: Path) -> None:
    made = Partitions(tmp_path)
    made.add(bytes(PIECE_BYTES))
    assert len(made.sorted(0)) == PIECE_BYTES
    made.add(bytes(32))
    assert len(made.sorted(0)) == PIECE_BYTES + 32


# -- hashed on another core -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "batches",
    [
        [[b"1\tone", b"2\ttwo"], [b"3\tthree"]],
        [[b""]],
        [[b"", b""], [b""], [b"x"], [b""]],
        [[b"row %d" % i for i in range(n, n + 500)] for n in range(0, 5000, 500)],
        [],
    ],
    ids=["rows", "one empty row", "empty rows among others", "many rows", "no row"],
)
def test_another_process_gives_the_hashes_that_this_one_would(tmp_path: Path, batches: list[list[bytes]]) -> None:
    far, near = HashProcess(SECRET, tmp_path), Partitions(tmp_path)
    try:
        for batch in batches:
            lines = b"".join([line + b"\n" for line in batch])
            far.add_lines(lines)
            near.add(packed_row_hashes(SECRET, lines))
        far.finish()
        found = [split_hashes(far.sorted(partition)) for partition in range(PARTITIONS)]
        assert far.rows == near.rows
        assert found == all_of(near)
        assert sorted(row for part in found for row in part) == sorted(
            row_hash(SECRET, line) for batch in batches for line in batch
        )
    finally:
        far.close()
        near.close()


def test_a_hashing_process_that_dies_is_a_scan_that_could_not_finish(tmp_path: Path) -> None:
    far = HashProcess(SECRET, tmp_path)
    far.add_lines(b"1\n")
    far._process.kill()
    far._process.wait()
    with pytest.raises(Inconclusive, match="ended early"):
        for _ in range(100):
            far.add_lines(b"x" * 100_000 + b"\n")
        far.finish()
        far.sorted(0)
    far.close()
