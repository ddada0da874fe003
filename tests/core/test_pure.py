"""The batch functions, plain and compiled, against the one-at-a-time definitions of the other modules."""

from __future__ import annotations

import base64
import hashlib
import importlib
import importlib.util
import inspect
import json
import random
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from witnz.core import _pure, hashing
from witnz.core.entry import chain_hash, content_hash, entry_suffix, first_parent, format_entry, key_field, parse_entry
from witnz.core.rowline import row_hash
from witnz.core.state import bucket_hash, split_hashes

VECTORS = Path(__file__).parents[1] / "vectors"
ROWS = json.loads((VECTORS / "rows.json").read_text())
ENTRIES = json.loads((VECTORS / "entries.json").read_text())
HASHES = st.binary(min_size=32, max_size=32)
COMPILED = importlib.util.find_spec("witnz.core._fast") is not None


@pytest.fixture(scope="module", params=["_pure", "_fast"])
def batch(request: pytest.FixtureRequest) -> ModuleType:
    """Each implementation."""
    if request.param == "_fast" and not COMPILED:
        pytest.skip("no C compiler was there at install")
    return importlib.import_module(f"witnz.core.{request.param}")


def test_the_published_rows_hash_as_a_batch(batch: ModuleType) -> None:
    secret = base64.b64decode(ROWS[0]["secret"])
    lines = [row["line"].encode() for row in ROWS]
    found = batch.row_hashes(secret, [None, *lines, None])
    assert found == [None, *[bytes.fromhex(row["row_hash"]) for row in ROWS], None]


@given(st.binary(min_size=32, max_size=32), st.lists(st.none() | st.binary(max_size=99), max_size=9))
def test_row_hashes_are_the_row_hash_of_each(batch: ModuleType, secret: bytes, lines: list[bytes | None]) -> None:
    assert batch.row_hashes(secret, lines) == [None if line is None else row_hash(secret, line) for line in lines]


def test_the_published_entries_are_built_hashed_and_chained_as_a_batch(batch: ModuleType) -> None:
    lines = [entry["line"].encode() for entry in ENTRIES]
    parsed = [parse_entry(line) for line in lines]
    built = batch.entry_lines(
        1,
        [e.op.encode() for e in parsed],
        [key_field(e.key, b"", False) for e in parsed],
        [e.row for e in parsed],
        [entry_suffix(e.lsn, e.xid, e.at, e.by, e.hint, e.intent) for e in parsed],
    )
    assert built == lines
    leaves = batch.leaf_hashes(lines)
    assert [leaf.hex() for leaf in leaves] == [entry["content_hash"] for entry in ENTRIES]
    parent = first_parent(ENTRIES[0]["origin"]).encode()
    for count in range(len(leaves) + 1):
        expected = ENTRIES[count - 1]["chain_hash"] if count else ENTRIES[0]["parent_hash"]
        assert batch.chain_hashes(parent, leaves[:count]) == expected.encode()


@given(st.integers(1, 2**40), st.lists(st.tuples(st.sampled_from([b"insert", b"update"]), st.none() | HASHES), max_size=8))
def test_built_entries_parse_with_consecutive_seqs(
    batch: ModuleType, first_seq: int, rows: list[tuple[bytes, bytes | None]]
) -> None:
    suffix = entry_suffix(0x1949850, 741, 0, "by\t", None, None)
    lines = batch.entry_lines(
        first_seq, [op for op, _ in rows], [b"k"] * len(rows), [row for _, row in rows], [suffix] * len(rows)
    )
    for number, (line, (op, row)) in enumerate(zip(lines, rows, strict=True)):
        entry = parse_entry(line)
        assert (entry.seq, entry.op, entry.key, entry.row, entry.by) == (first_seq + number, op.decode(), b"k", row, "by\t")
        assert format_entry(entry) == line


def test_arguments_of_different_lengths_are_refused(batch: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        batch.entry_lines(1, [b"insert"], [b"1", b"2"], [None], [b"\t"])


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_leaves_and_chain_are_those_of_one_entry_after_another(batch: ModuleType, lines: list[bytes]) -> None:
    leaves = batch.leaf_hashes(lines)
    assert leaves == [content_hash(line) for line in lines]
    chain = "0" * 64
    for leaf in leaves:
        chain = chain_hash(chain, leaf)
    assert batch.chain_hashes(b"0" * 64, leaves) == chain.encode()


def obvious_root(hashes: list[bytes]) -> bytes:
    if len(hashes) == 1:
        return hashes[0]
    half = len(hashes) // 2
    return hashlib.sha256(b"\1" + obvious_root(hashes[:half]) + obvious_root(hashes[half:])).digest()


@pytest.mark.parametrize("height", range(9))
def test_a_subtree_root_is_the_rfc_6962_root_of_a_full_tree(batch: ModuleType, height: int) -> None:
    hashes = [hashlib.sha256(b"%d" % i).digest() for i in range(1 << height)]
    assert batch.subtree_root(hashes) == obvious_root(hashes)
    assert batch.subtree_root(tuple(hashes)) == obvious_root(hashes)


@pytest.mark.parametrize("count", [3, 5, 6, 7, 255])
def test_a_subtree_of_another_size_is_never_given_a_root(batch: ModuleType, count: int) -> None:
    with pytest.raises(ValueError, match=r"shorter|longer|power of two"):
        batch.subtree_root([bytes(32)] * count)


@given(st.lists(HASHES, max_size=40))
def test_partitions_hold_every_hash_once_by_its_first_byte_in_order(batch: ModuleType, hashes: list[bytes]) -> None:
    buffers = [bytearray() for _ in range(256)]
    batch.pack_partitions(b"".join(hashes[:20]), buffers)
    batch.pack_partitions(b"".join(hashes[20:]), buffers)
    for first_byte, buffer in enumerate(buffers):
        assert bytes(buffer) == b"".join(row for row in hashes if row[0] == first_byte)


LINES = st.lists(st.binary(max_size=120).filter(lambda line: b"\n" not in line), max_size=20)
CLOSE = st.binary(min_size=0, max_size=2).map(lambda head: b"\7" + (head + bytes(31))[:31])


@given(st.binary(min_size=32, max_size=32), LINES)
def test_the_row_hashes_of_lines_in_one_piece_are_those_of_each(batch: ModuleType, secret: bytes, lines: list[bytes]) -> None:
    packed = batch.packed_row_hashes(secret, b"".join([line + b"\n" for line in lines]))
    assert packed == b"".join([row_hash(secret, line) for line in lines])


@pytest.mark.parametrize("lines", [b"1", b"1\n2", b"\n2"])
def test_a_line_without_its_newline_is_refused(batch: ModuleType, lines: bytes) -> None:
    with pytest.raises(ValueError, match="newline behind each"):
        batch.packed_row_hashes(bytes(32), lines)
    with pytest.raises(ValueError, match="secret of 32 bytes"):
        batch.packed_row_hashes(bytes(31), b"1\n")


@given(st.binary(max_size=3), st.integers(1, 70), st.lists(st.integers(0, 255), max_size=9))
def test_slices_are_hashed_each_by_itself(batch: ModuleType, prefix: bytes, width: int, fills: list[int]) -> None:
    pieces = [bytes([fill]) * width for fill in fills]
    expected = b"".join([hashlib.sha256(prefix + piece).digest() for piece in pieces])
    assert batch.hash_slices(prefix, b"".join(pieces), width) == expected


@given(st.lists(HASHES | CLOSE, max_size=200))
def test_hashes_in_one_piece_are_sorted_as_hashes_are(batch: ModuleType, hashes: list[bytes]) -> None:
    packed = b"".join(hashes)
    assert batch.sort_packed(packed) == batch.sort_packed(bytearray(packed)) == b"".join(sorted(hashes))
    assert packed == b"".join(hashes), "what was given is as it was"


@pytest.mark.parametrize("kinds", [1, 2, 300, 5000])
def test_however_many_hashes_are_equal_they_are_sorted(batch: ModuleType, kinds: int) -> None:
    rng = random.Random(kinds)
    some = [bytes(rng.randrange(31)) + rng.randbytes(32) for _ in range(kinds)]
    hashes = [rng.choice(some)[:32] for _ in range(5000)]
    assert batch.sort_packed(b"".join(hashes)) == b"".join(sorted(hashes))


@given(st.lists(CLOSE | HASHES.map(lambda row: b"\7" + row[1:]), max_size=90))
def test_buckets_of_a_sorted_partition_are_hashed_as_the_definition_says(batch: ModuleType, hashes: list[bytes]) -> None:
    found = batch.bucket_hashes(b"".join(sorted(hashes)))
    assert split_hashes(found) == [bucket_hash(sorted(row for row in hashes if row[1] == second)) for second in range(256)]


def test_buckets_out_of_order_are_refused(batch: ModuleType) -> None:
    rows = [bytes([7, second]) + bytes(30) for second in (1, 0, 1)]
    for wrong in (rows[:2], rows, rows[::-1], [rows[0], rows[2], rows[1]]):
        with pytest.raises(ValueError, match="ascending order"):
            batch.bucket_hashes(b"".join(wrong))


@given(st.lists(st.tuples(HASHES, st.integers(0, 2)), max_size=20))
def test_flags_pick_hashes(batch: ModuleType, flagged: list[tuple[bytes, int]]) -> None:
    flags = bytes([flag for _, flag in flagged])
    expected = b"".join([row for row, flag in flagged if flag])
    assert batch.pick_slices(b"".join([row for row, _ in flagged]), flags) == expected
    with pytest.raises(ValueError, match="flags"):
        batch.pick_slices(b"".join([row for row, _ in flagged]), flags + b"\1")


@pytest.mark.parametrize("size", [1, 31, 33, 63])
def test_what_does_not_come_out_even_is_refused(batch: ModuleType, size: int) -> None:
    packed, buffers = bytes(size), [bytearray() for _ in range(256)]
    for refused in (
        lambda: batch.pack_partitions(packed, buffers),
        lambda: batch.sort_packed(packed),
        lambda: batch.bucket_hashes(packed),
        lambda: batch.pick_slices(packed, b"\1"),
        lambda: batch.hash_slices(b"", packed, 32),
    ):
        with pytest.raises(ValueError, match=r"multiple of 32 bytes|slices of 32 bytes"):
            refused()
    with pytest.raises(ValueError, match="slices of 0 bytes"):
        batch.hash_slices(b"", b"", 0)
    with pytest.raises(ValueError, match="256 buffers"):
        batch.pack_partitions(b"", [])
    assert not any(buffers)


LENGTHS = [*range(140), 951, 952, 983, 984, 1014, 1015, 1016, 1047, 1048, 5000, 100_000]


@pytest.fixture(params=[0, 8, 16], ids=["plain", "8 lanes", "16 lanes"])
def lanes(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The compiled functions with each of the ways of hashing that this processor has, one per width."""
    fast = importlib.import_module("witnz.core._fast")
    name = fast.use_lanes(request.param)
    if request.param and name not in {8: ("avx2",), 16: ("avx512",)}[request.param]:
        fast.use_lanes(16)
        pytest.skip(f"the processor has {name} at most")
    yield fast
    fast.use_lanes(16)


@pytest.mark.skipif(not COMPILED, reason="no C compiler was there at install")
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 17, 33])
def test_both_implementations_give_the_same_for_every_length_with_whatever_lanes(lanes: ModuleType, count: int) -> None:
    fast, rng = lanes, random.Random(count)
    for start in range(0, len(LENGTHS), 5):
        sizes = [LENGTHS[(start + i) % len(LENGTHS)] for i in range(count)]
        lines = [rng.randbytes(size) for size in sizes]
        secret = rng.randbytes(32)
        assert fast.row_hashes(secret, [None, *lines]) == _pure.row_hashes(secret, [None, *lines])
        assert fast.leaf_hashes(lines) == _pure.leaf_hashes(lines)
        whole = b"".join([line.replace(b"\n", b" ") + b"\n" for line in lines])
        assert fast.packed_row_hashes(secret, whole) == _pure.packed_row_hashes(secret, whole)
        assert fast.hash_slices(secret[:start], secret * count, 32) == _pure.hash_slices(secret[:start], secret * count, 32)


@pytest.mark.skipif(not COMPILED, reason="no C compiler was there at install")
def test_the_compiled_functions_refuse_what_is_no_hash_and_no_bytes() -> None:
    fast = importlib.import_module("witnz.core._fast")
    for hashes in ([b"short"], [bytes(33)], ["text" * 8]):
        with pytest.raises(ValueError, match="hash of 32 bytes"):
            fast.chain_hashes(b"0" * 64, hashes)
        with pytest.raises(ValueError, match="hash of 32 bytes"):
            fast.subtree_root(hashes)
    for lines in (["text"], [bytearray(3)]):
        with pytest.raises(TypeError, match="expected bytes"):
            fast.row_hashes(bytes(32), lines)
        with pytest.raises(TypeError, match="expected bytes"):
            fast.leaf_hashes(lines)
    with pytest.raises(ValueError, match="64 hex digits"):
        fast.chain_hashes(b"0", [])


def test_the_chosen_implementation_offers_every_batch_function() -> None:
    public = {name for name, value in vars(_pure).items() if inspect.isfunction(value) and not name.startswith("_")}
    assert public == set(hashing.__all__) - {"IMPLEMENTATION"}
    assert ("compiled" if COMPILED else "pure") == hashing.IMPLEMENTATION
