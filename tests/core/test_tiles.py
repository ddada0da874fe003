"""Tiles, the growing right edge and proofs from tiles, against the slow reference of witnz.core.merkle."""

from __future__ import annotations

import base64
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.vectors import SHARED_VECTORS, needs_shared_vectors
from witnz.core.merkle import (
    EMPTY_ROOT,
    consistency_path,
    inclusion_path,
    leaf_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from witnz.core.tiles import (
    FullTile,
    Tree,
    consistency_proof,
    format_entry_bundle,
    inclusion_proof,
    parse_entry_bundle,
    root_at,
    tile_path,
    tile_widths,
)
from witnz.errors import FormatError, UsageError

WORDS = b"one two three four five six seven eit nain ten ileven".split()
LEAVES = [i.to_bytes(32, "big") for i in range(66_000)]
BOUNDARIES = [1, 2, 3, 127, 128, 129, 255, 256, 257, 511, 512, 513, 65_535, 65_536, 65_537, 65_792, 66_000]


class TileStore:
    """What a store keeps: full tiles and the newest version of each partial one; ``reads`` counts what it was asked."""

    def __init__(self, leaves: list[bytes], *, cut: bool = True) -> None:
        self.tree = Tree()
        self.tiles = {(tile.level, tile.n): tile.hashes for tile in self.tree.append(leaves)}
        for level in range(len(self.tree.edge)):
            if partial := self.tree.partial(level):
                self.tiles[level, tile_widths(self.tree.size, level)[0]] = partial
        self.cut = cut
        self.reads: list[tuple[int, int, int]] = []

    def read(self, level: int, n: int, width: int) -> bytes:
        self.reads.append((level, n, width))
        data = self.tiles[level, n]
        assert len(data) >= 32 * width
        return data[: 32 * width] if self.cut else data


@pytest.fixture(scope="module")
def big() -> TileStore:
    return TileStore(LEAVES)


@pytest.fixture(scope="module")
def roots() -> dict[int, bytes]:
    return {size: root_of(LEAVES[:size]) for size in BOUNDARIES}


def test_the_root_after_every_leaf_is_that_of_the_definition() -> None:
    tree = Tree()
    assert tree.root() == EMPTY_ROOT
    for size in range(1, 301):
        tree.append([LEAVES[size - 1]])
        assert tree.size == size
        assert tree.root() == root_of(LEAVES[:size]), size


def test_roots_around_whole_tiles_are_those_of_the_definition(big: TileStore, roots: dict[int, bytes]) -> None:
    tree, start = Tree(), 0
    for size in BOUNDARIES:
        tree.append(LEAVES[start:size])
        start = size
        assert tree.root() == roots[size], size
        assert root_at(big.read, size) == roots[size], size
    assert root_at(big.read, 0) == EMPTY_ROOT


def test_tiles_hold_the_subtree_roots_that_the_standard_names() -> None:
    tiles = {(tile.level, tile.n): tile.hashes for tile in Tree().append(LEAVES)}
    assert sorted(tiles) == [(0, n) for n in range(257)] + [(1, 0)]
    for n in (0, 1, 255, 256):
        assert tiles[0, n] == b"".join(LEAVES[n * 256 : (n + 1) * 256])
    for i in (0, 1, 128, 255):
        assert tiles[1, 0][32 * i : 32 * i + 32] == root_of(LEAVES[i * 256 : (i + 1) * 256])


def test_partial_tiles_are_as_wide_as_the_standard_says_and_empty_ones_do_not_exist(big: TileStore) -> None:
    assert [tile_widths(70_000, level) for level in range(4)] == [(273, 112), (1, 17), (0, 1), (0, 0)]
    assert [tile_widths(256, level) for level in range(3)] == [(1, 0), (0, 1), (0, 0)]
    assert [len(big.tree.partial(level)) // 32 for level in range(-1, 5)] == [0, 208, 1, 1, 0, 0]
    assert big.tree.partial(2) == root_of(LEAVES[:65_536])
    assert Tree().partial(0) == b""


@given(st.lists(st.integers(0, 900), max_size=8))
def test_tiles_and_root_do_not_depend_on_how_leaves_were_batched(counts: list[int]) -> None:
    tree, tiles, start = Tree(), list[FullTile](), 0
    for count in counts:
        tiles += tree.append(LEAVES[start : start + count])
        start += count
    at_once = Tree()
    assert sorted(tiles, key=lambda tile: (tile.level, tile.n)) == at_once.append(LEAVES[:start])
    assert (tree.size, tree.edge, tree.root()) == (start, at_once.edge, at_once.root())


@pytest.mark.parametrize("size", BOUNDARIES)
def test_a_tree_rebuilt_from_size_and_edge_grows_on_as_if_nothing_had_happened(big: TileStore, size: int) -> None:
    before = Tree()
    before.append(LEAVES[:size])
    after = Tree(before.size, before.edge)
    tiles = after.append(LEAVES[size:])
    assert (after.size, after.edge, after.root()) == (66_000, big.tree.edge, big.tree.root())
    assert all(big.tiles[tile.level, tile.n] == tile.hashes for tile in tiles)
    assert len(tiles) == sum(tile_widths(66_000, level)[0] - tile_widths(size, level)[0] for level in range(3))


def test_a_copy_grows_apart_from_its_original() -> None:
    tree = Tree()
    tree.append(LEAVES[:300])
    twin = tree.copy()
    twin.append(LEAVES[300:600])
    assert (tree.size, tree.root()) == (300, root_of(LEAVES[:300]))
    assert (twin.size, twin.root()) == (600, root_of(LEAVES[:600]))
    twin.edge[0].clear()
    assert twin.root() == root_of(LEAVES[:600])


def test_leaves_of_a_wrong_length_are_refused_and_change_nothing() -> None:
    tree = Tree()
    tree.append(LEAVES[:5])
    with pytest.raises(FormatError, match="leaf hashes: expected 32 bytes"):
        tree.append([LEAVES[5], b"short"])
    assert (tree.size, tree.root()) == (5, root_of(LEAVES[:5]))


@pytest.mark.parametrize(
    ("size", "edge", "message"),
    [
        (-1, [], "tree size"),
        (2**64, [], "tree size"),
        (3, [LEAVES[:2]], "level 0: expected 3 hashes for size 3, found 2"),
        (3, [], "level 0: expected 3 hashes for size 3, found 0"),
        (0, [LEAVES[:1]], "level 0: expected 0 hashes for size 0, found 1"),
        (256, [LEAVES[:256]], "level 0: expected 0 hashes for size 256, found 256"),
        (256, [[]], "level 1: expected 1 hashes for size 256, found 0"),
        (1, [[b"x"]], "expected hashes of 32 bytes"),
        (1, [LEAVES[:1], LEAVES[:1]], "level 1: expected 0"),
    ],
)
def test_an_edge_that_does_not_belong_to_its_size_is_refused(size: int, edge: list[list[bytes]], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        Tree(size, edge)


def test_every_proof_of_every_small_tree_is_that_of_the_definition() -> None:
    store = TileStore(LEAVES[:70])
    for size in range(1, 71):
        for index in range(size):
            assert inclusion_proof(store.read, index, size) == inclusion_path(LEAVES[:size], index), (index, size)
            old = index + 1
            assert consistency_proof(store.read, old, size) == consistency_path(LEAVES, old, size), (old, size)


@pytest.mark.parametrize("size", [255, 256, 257, 511, 512, 513, 600])
def test_proofs_across_tiles_are_those_of_the_definition(big: TileStore, size: int) -> None:
    for index in {0, 1, 127, 128, 254, 255, 256, 257, 510, 511, 512, size - 2, size - 1}:
        if index < size:
            assert inclusion_proof(big.read, index, size) == inclusion_path(LEAVES[:size], index), index
            assert consistency_proof(big.read, index + 1, size) == consistency_path(LEAVES, index + 1, size), index


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 65_792, 66_000])
def test_proofs_of_older_and_newer_trees_verify_from_the_newest_tiles_alone(
    big: TileStore, roots: dict[int, bytes], size: int
) -> None:
    for index in {0, 255, 256, 40_000, 65_279, 65_280, 65_534, 65_535, 65_536, size - 1}:
        if index < size:
            assert verify_inclusion(index, size, LEAVES[index], inclusion_proof(big.read, index, size), roots[size]), index
    for old in BOUNDARIES[: bisect_left(BOUNDARIES, size) + 1]:
        assert verify_consistency(old, size, roots[old], roots[size], consistency_proof(big.read, old, size)), old


def test_proofs_read_few_tiles_and_none_twice(big: TileStore) -> None:
    for index in (0, 255, 256, 30_000, 65_279, 65_999):
        big.reads.clear()
        inclusion_proof(big.read, index, 66_000)
        assert len(set(big.reads)) == len(big.reads) <= 6, (index, big.reads)
        big.reads.clear()
        consistency_proof(big.read, index + 1, 66_000)
        assert len(set(big.reads)) == len(big.reads) <= 6, (index, big.reads)


def test_tiles_are_asked_for_in_the_width_that_the_tree_of_that_size_has(big: TileStore) -> None:
    big.reads.clear()
    root_at(big.read, 300)
    inclusion_proof(big.read, 299, 300)
    assert set(big.reads) == {(0, 1, 44), (1, 0, 1)}


def test_a_reader_may_return_a_wider_tile_than_it_was_asked_for(big: TileStore) -> None:
    whole = TileStore(LEAVES, cut=False)
    for size in (300, 65_537):
        assert root_at(whole.read, size) == root_at(big.read, size)
        assert inclusion_proof(whole.read, 200, size) == inclusion_proof(big.read, 200, size)
        assert consistency_proof(whole.read, 257, size) == consistency_proof(big.read, 257, size)


@pytest.mark.parametrize("length", [0, 31, 32 * 43, 32 * 44 + 1, 32 * 257])
def test_a_tile_of_a_wrong_length_is_refused(length: int) -> None:
    with pytest.raises(FormatError, match=f"tile 1 of level 0: expected 44 hashes of 32 bytes, found {length} bytes"):
        inclusion_proof(lambda level, n, width: bytes(length), 299, 300)


def test_proofs_that_do_not_exist_cannot_be_asked_for(big: TileStore) -> None:
    for index, size in ((-1, 3), (3, 3), (0, 0)):
        with pytest.raises(UsageError, match="no inclusion proof"):
            inclusion_proof(big.read, index, size)
    for old, new in ((0, 3), (4, 3), (-1, 3)):
        with pytest.raises(UsageError, match="no consistency proof"):
            consistency_proof(big.read, old, new)
    with pytest.raises(UsageError, match="tree size"):
        root_at(big.read, -1)


def test_tile_paths_are_those_of_the_standard() -> None:
    assert tile_path(0, 1_234_067) == "tile/0/x001/x234/067"
    assert tile_path(3, 0) == "tile/3/000"
    assert tile_path(63, 999, 255) == "tile/63/999.p/255"
    assert tile_path("entries", 1_000, 1) == "tile/entries/x001/000.p/1"
    assert tile_path("entries", 256_000_000, 256) == "tile/entries/x256/x000/000"


@pytest.mark.parametrize(("level", "n", "width"), [(-1, 0, 1), (64, 0, 1), (0, -1, 1), (0, 0, 0), (0, 0, 257)])
def test_paths_of_impossible_tiles_are_refused(level: int, n: int, width: int) -> None:
    with pytest.raises(UsageError):
        tile_path(level, n, width)


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=256))
def test_entry_bundles_read_back(entries: list[bytes]) -> None:
    data = format_entry_bundle(entries)
    assert parse_entry_bundle(data) == entries
    assert format_entry_bundle(parse_entry_bundle(data)) == data


def test_the_largest_bundle_reads_back() -> None:
    entries = [bytes([i]) * 65_535 for i in range(256)]
    assert parse_entry_bundle(format_entry_bundle(entries)) == entries


@pytest.mark.parametrize("entries", [[], [b""] * 257, [b"x" * 65_536]])
def test_impossible_bundles_are_not_written(entries: list[bytes]) -> None:
    with pytest.raises(FormatError):
        format_entry_bundle(entries)


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"\0\1", b"\0\2x", b"\0\1xy", b"\0\1x\0", b"\0\0" * 257, b"\xff\xff" + b"x" * 65_534, b"\0" * 16_777_473],
    ids=lambda data: f"{len(data)} bytes",
)
def test_damaged_bundles_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"entry bundle: expected"):
        parse_entry_bundle(data)


@needs_shared_vectors
def test_the_log_of_words_is_reproduced_byte_for_byte() -> None:
    folder, tree = SHARED_VECTORS / "tessera-log", Tree()
    for size in range(1, 11):
        assert tree.append([leaf_hash(WORDS[size - 1])]) == []
        assert tree.partial(0) == (folder / tile_path(0, 0, size)).read_bytes()
        bundle = (folder / tile_path("entries", 0, size)).read_bytes()
        assert parse_entry_bundle(bundle) == WORDS[:size]
        assert format_entry_bundle(WORDS[:size]) == bundle
        claimed_root = (folder / f"checkpoint.{size}").read_text().split("\n")[2]
        assert base64.b64encode(tree.root()).decode() == claimed_root


@needs_shared_vectors
def test_the_tiles_of_300_leaves_give_the_published_root() -> None:
    folder = SHARED_VECTORS / "tiles-300"
    root = base64.b64decode("gw31yQrqZZCcEOPrzX+bpy3nJ6QgngTKn8G1m0i62uU=")

    def read(level: int, n: int, width: int) -> bytes:
        return (folder / tile_path(level, n, width)).read_bytes()

    assert root_at(read, 300) == root
    packed = read(0, 0, 256) + read(0, 1, 44)
    leaves = [packed[at : at + 32] for at in range(0, len(packed), 32)]
    tree = Tree()
    assert tree.append(leaves) == [FullTile(0, 0, read(0, 0, 256))]
    assert (tree.partial(0), tree.partial(1), tree.root()) == (read(0, 1, 44), read(1, 0, 1), root)
    for index in range(0, 300, 7):
        assert verify_inclusion(index, 300, leaves[index], inclusion_proof(read, index, 300), root)
