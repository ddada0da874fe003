"""State roots: one hash for a multiset, proofs of single buckets, and finding what differs."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from witnz.core.hashing import bucket_hashes, pack_partitions, sort_packed
from witnz.core.merkle import leaf_hash, root_of, verify_inclusion
from witnz.core.state import (
    BUCKETS,
    DEPTH,
    EMPTY_BUCKET,
    EMPTY_STATE_ROOT,
    SPARSE_SHARE,
    StateTree,
    bucket_hash,
    bucket_of,
    build_state_tree,
    differing_buckets,
    split_hashes,
    state_root,
    verify_bucket,
)
from witnz.errors import FormatError

VECTOR = json.loads((Path(__file__).parents[1] / "vectors" / "state.json").read_text())
DRAW = random.Random(20261121)
ROWS = [DRAW.randbytes(32) for _ in range(3000)]
TREE = build_state_tree(ROWS)
FEW_BYTES = st.sampled_from([0, 1, 127, 255])
CLOSE_HASHES = st.builds(lambda second, rest: bytes([0, second]) + rest, FEW_BYTES, st.binary(min_size=30, max_size=30))


def obvious_bucket_hashes(hashes: Sequence[bytes]) -> list[bytes]:
    members: dict[int, list[bytes]] = {}
    for row_hash in sorted(hashes):
        members.setdefault(int.from_bytes(row_hash[:2], "big"), []).append(row_hash)
    return [
        hashlib.sha256(b"\2" + len(members.get(b, [])).to_bytes(8, "big") + b"".join(members.get(b, []))).digest()
        for b in range(BUCKETS)
    ]


def test_the_published_rows_have_the_published_root() -> None:
    hashes = [bytes.fromhex(text) for text in VECTOR["row_hashes"]]
    assert state_root(hashes) == base64.b64decode(VECTOR["state_root"])
    assert state_root(reversed(hashes)) == base64.b64decode(VECTOR["state_root"])
    assert len(hashes) == VECTOR["rows"]


def test_the_root_of_no_rows_is_the_published_one() -> None:
    assert base64.b64decode(VECTOR["empty_state_root"]) == EMPTY_STATE_ROOT
    assert state_root([]) == EMPTY_STATE_ROOT
    assert bucket_hash([]) == EMPTY_BUCKET


def test_the_root_is_the_rfc_6962_root_over_the_bucket_hashes() -> None:
    buckets = obvious_bucket_hashes(ROWS)
    leaves = [leaf_hash(bucket) for bucket in buckets]
    assert TREE.root() == root_of(leaves)
    bucket = bucket_of(ROWS[0])
    assert verify_inclusion(bucket, BUCKETS, leaves[bucket], TREE.proof(bucket), TREE.root())


@given(st.integers(0, 255), st.lists(CLOSE_HASHES, max_size=30))
def test_a_partition_gives_the_bucket_hashes_of_the_definition(first_byte: int, hashes: list[bytes]) -> None:
    partition = sorted(bytes([first_byte]) + row_hash[1:] for row_hash in hashes)
    found = split_hashes(bucket_hashes(b"".join(partition)))
    assert found == [bucket_hash([row for row in partition if row[1] == second_byte]) for second_byte in range(256)]


def test_packed_partitions_one_after_another_give_all_bucket_hashes() -> None:
    buffers = [bytearray() for _ in range(256)]
    pack_partitions(b"".join(ROWS), buffers)
    buckets = b"".join([bucket_hashes(sort_packed(buffer)) for buffer in buffers])
    assert split_hashes(buckets) == obvious_bucket_hashes(ROWS)


def test_order_does_not_matter_and_every_row_does() -> None:
    shuffled = DRAW.sample(ROWS, len(ROWS))
    assert state_root(shuffled) == TREE.root()
    assert state_root(ROWS[1:]) != TREE.root()
    assert state_root([*ROWS, ROWS[0]]) != TREE.root()
    assert state_root([*ROWS[1:], ROWS[1]]) != TREE.root()


@pytest.mark.parametrize("prefix", ["0000", "00ff", "0100", "7fff", "8000", "ff00", "fffe", "ffff"])
def test_every_bucket_is_proved_by_sixteen_hashes(prefix: str) -> None:
    member = bytes.fromhex(prefix) + bytes(30)
    bucket = int(prefix, 16)
    assert bucket_of(member) == bucket
    tree = build_state_tree([*ROWS, member, member])
    members = sorted([row for row in ROWS if bucket_of(row) == bucket] + [member, member])
    proof = tree.proof(bucket)
    assert len(proof) == DEPTH
    assert verify_bucket(bucket, members, proof, tree.root())
    assert not verify_bucket(bucket, members[1:], proof, tree.root())


def test_an_empty_bucket_is_proved_too() -> None:
    empty = next(b for b in range(BUCKETS) if b not in {bucket_of(row) for row in ROWS})
    assert verify_bucket(empty, [], TREE.proof(empty), TREE.root())


def test_a_proof_that_does_not_fit_is_refused() -> None:
    by_bucket: dict[int, list[bytes]] = {}
    for row in ROWS:
        by_bucket.setdefault(bucket_of(row), []).append(row)
    bucket, members = next((b, sorted(rows)) for b, rows in by_bucket.items() if len(rows) > 1)
    proof, root = TREE.proof(bucket), TREE.root()
    assert verify_bucket(bucket, members, proof, root)
    sibling = (bucket ^ 1).to_bytes(2, "big") + bytes(30)
    refused = [
        (bucket ^ 1, members, proof, root),
        (-1, members, proof, root),
        (BUCKETS, members, proof, root),
        (bucket + BUCKETS, members, proof, root),
        (bucket, members[::-1], proof, root),
        (bucket, [*members, members[-1]], proof, root),
        (bucket, members[:-1], proof, root),
        (bucket, [], proof, root),
        (bucket, [b"".join(members)], proof, root),
        (bucket, [members[0][:31]], proof, root),
        (bucket, [b""], proof, root),
        (bucket, [sibling], proof, root),
        (bucket, members, proof[:-1], root),
        (bucket, members, [*proof, bytes(32)], root),
        (bucket, members, proof[::-1], root),
        (bucket, members, [], root),
        (bucket, members, [proof[0][:31], *proof[1:]], root),
        (bucket, members, [proof[0] + proof[1][:1], proof[1][1:], *proof[2:]], root),
        (bucket, members, proof, bytes(32)),
        (bucket, members, proof, b""),
        (bucket, members, proof, EMPTY_STATE_ROOT),
    ]
    for case in refused:
        assert not verify_bucket(*case), case
    for level in range(DEPTH):
        damaged = [*proof[:level], bytes([proof[level][0] ^ 1]) + proof[level][1:], *proof[level + 1 :]]
        assert not verify_bucket(bucket, members, damaged, root)


def test_a_root_over_members_out_of_order_proves_nothing() -> None:
    members = [bytes(31) + b"\1", bytes(32)]
    for order, proved in ((sorted(members), True), (members, False)):
        tree = StateTree(bucket_hash(order) + EMPTY_BUCKET * (BUCKETS - 1))
        assert verify_bucket(0, order, tree.proof(0), tree.root()) is proved


def test_a_root_built_for_the_purpose_proves_nothing_either() -> None:
    """Whoever makes up the root as well still cannot give a proof another shape or a member another bucket."""
    foreign = bytes([0, 5]) + bytes(30)
    tree = StateTree(bucket_hash([foreign]) + EMPTY_BUCKET * (BUCKETS - 1))
    assert not verify_bucket(0, [foreign], tree.proof(0), tree.root())
    short = StateTree(bucket_hash([bytes(31)]) + EMPTY_BUCKET * (BUCKETS - 1))
    assert not verify_bucket(0, [bytes(31)], short.proof(0), short.root())
    empty = StateTree(EMPTY_BUCKET * BUCKETS)
    proof = empty.proof(0)
    assert verify_bucket(BUCKETS - 1, [], proof, EMPTY_STATE_ROOT)
    assert not verify_bucket(-1, [], proof, EMPTY_STATE_ROOT)
    assert not verify_bucket(BUCKETS, [], proof, EMPTY_STATE_ROOT)
    assert not verify_bucket(0, [], proof[:-1], empty.node(DEPTH - 1, 0))
    assert not verify_bucket(0, [], [*proof, bytes(32)], hashlib.sha256(b"\1" + EMPTY_STATE_ROOT + bytes(32)).digest())
    long_sibling = hashlib.sha256(b"\1" + empty.node(DEPTH - 1, 0) + bytes(33)).digest()
    assert not verify_bucket(0, [], [*proof[:-1], bytes(33)], long_sibling)


@pytest.mark.parametrize(
    "changed", [[], [0], [65535], [0, 65535], [7, 8, 9], [255, 256, 32767, 32768], list(range(0, 65536, 999))]
)
def test_the_prefix_walk_names_exactly_the_buckets_that_differ(changed: list[int]) -> None:
    extra = [bucket.to_bytes(2, "big") + bytes(30) for bucket in changed]
    other = build_state_tree([*ROWS, *extra])
    assert differing_buckets(TREE, other) == changed
    assert differing_buckets(other, TREE) == changed


def test_all_buckets_may_differ() -> None:
    full = StateTree(b"".join([hashlib.sha256(b"%d" % b).digest() for b in range(BUCKETS)]))
    assert differing_buckets(full, StateTree(EMPTY_BUCKET * BUCKETS)) == list(range(BUCKETS))


def test_the_nodes_of_the_tree_are_roots_of_their_halves() -> None:
    for level in range(1, DEPTH + 1):
        index = (1 << (DEPTH - level)) - 1
        left, right = TREE.node(level - 1, 2 * index), TREE.node(level - 1, 2 * index + 1)
        assert TREE.node(level, index) == hashlib.sha256(b"\1" + left + right).digest()
    assert TREE.node(DEPTH, 0) == TREE.root()


@pytest.mark.parametrize("count", [0, 1, BUCKETS - 1, BUCKETS + 1])
def test_a_tree_over_another_number_of_buckets_is_refused(count: int) -> None:
    with pytest.raises(FormatError, match="65536 bucket hashes"):
        StateTree(EMPTY_BUCKET * count)


@pytest.mark.parametrize("filled", [BUCKETS // SPARSE_SHARE - 1, BUCKETS // SPARSE_SHARE, BUCKETS - 1])
def test_a_tree_is_the_same_whether_its_empty_parts_are_looked_at_or_not(filled: int) -> None:
    buckets = [EMPTY_BUCKET] * BUCKETS
    for bucket in DRAW.sample(range(BUCKETS), filled):
        buckets[bucket] = hashlib.sha256(b"%d" % bucket).digest()
    tree = StateTree(b"".join(buckets))
    assert tree.root() == root_of([leaf_hash(bucket) for bucket in buckets])
    assert tree._levels == StateTree._dense(b"".join(buckets)) == StateTree._sparse(b"".join(buckets))


@pytest.mark.parametrize("bucket", [-1, BUCKETS])
def test_there_is_no_proof_of_a_bucket_out_of_range(bucket: int) -> None:
    with pytest.raises(FormatError, match="bucket"):
        TREE.proof(bucket)


def test_packed_hashes_cut_off_in_the_middle_are_refused() -> None:
    assert split_hashes(b"".join(ROWS[:3])) == ROWS[:3]
    with pytest.raises(FormatError, match="multiple of 32"):
        split_hashes(bytes(33))
