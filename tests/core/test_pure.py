"""The batch functions, plain and compiled, against the one-at-a-time definitions of the other modules."""

from __future__ import annotations

import base64
import hashlib
import importlib
import importlib.util
import inspect
import json
import random
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from witnz.core import _pure, hashing
from witnz.core.entry import chain_hash, content_hash, entry_suffix, first_parent, format_entry, key_field, parse_entry
from witnz.core.rowline import row_hash

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
    batch.pack_partitions(hashes[:20], buffers)
    batch.pack_partitions(hashes[20:], buffers)
    for first_byte, buffer in enumerate(buffers):
        assert bytes(buffer) == b"".join(row for row in hashes if row[0] == first_byte)


LENGTHS = [*range(140), 951, 952, 983, 984, 1014, 1015, 1016, 1047, 1048, 5000, 100_000]


@pytest.mark.skipif(not COMPILED, reason="no C compiler was there at install")
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 33])
def test_both_implementations_give_the_same_for_every_length(count: int) -> None:
    fast, rng = importlib.import_module("witnz.core._fast"), random.Random(count)
    for start in range(0, len(LENGTHS), 5):
        sizes = [LENGTHS[(start + i) % len(LENGTHS)] for i in range(count)]
        lines = [rng.randbytes(size) for size in sizes]
        secret = rng.randbytes(32)
        assert fast.row_hashes(secret, [None, *lines]) == _pure.row_hashes(secret, [None, *lines])
        assert fast.leaf_hashes(lines) == _pure.leaf_hashes(lines)


@pytest.mark.skipif(not COMPILED, reason="no C compiler was there at install")
def test_the_compiled_functions_refuse_what_is_no_hash_and_no_bytes() -> None:
    fast = importlib.import_module("witnz.core._fast")
    for hashes in ([b"short"], [bytes(33)], ["text" * 8]):
        with pytest.raises(ValueError, match="hash of 32 bytes"):
            fast.chain_hashes(b"0" * 64, hashes)
        with pytest.raises(ValueError, match="hash of 32 bytes"):
            fast.subtree_root(hashes)
        with pytest.raises(ValueError, match="hash of 32 bytes"):
            fast.pack_partitions(hashes, [bytearray() for _ in range(256)])
    for lines in (["text"], [bytearray(3)]):
        with pytest.raises(TypeError, match="expected bytes"):
            fast.row_hashes(bytes(32), lines)
        with pytest.raises(TypeError, match="expected bytes"):
            fast.leaf_hashes(lines)
    with pytest.raises(ValueError, match="64 hex digits"):
        fast.chain_hashes(b"0", [])
    with pytest.raises(ValueError, match="256 buffers"):
        fast.pack_partitions([], [])


def test_the_chosen_implementation_offers_every_batch_function() -> None:
    public = {name for name, value in vars(_pure).items() if inspect.isfunction(value) and not name.startswith("_")}
    assert public == set(hashing.__all__) - {"IMPLEMENTATION"}
    assert ("compiled" if COMPILED else "pure") == hashing.IMPLEMENTATION
