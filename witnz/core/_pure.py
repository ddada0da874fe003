"""Hashing of many rows, entries and nodes at a time, in plain Python: the hot path of capture and verification.

This module is the reference: a compiled one with the same signatures may stand beside it, tested against it; importers take
either through :mod:`witnz.core.hashing`.  Nothing is checked here; the arguments come from parsed streams and scans.  All
hashes are SHA-256 and 32 raw bytes, except where a name says hex.  formats.md 1 (row hash), 2 (entry, content, chain), 3
(state); RFC 6962 2.1 (leaf, node).

One list comprehension per function and one call per hash, because at about 0.9 µs for a SHA-256 the interpreter's own work is
half of the cost: string building stays inside C (``%``, ``+``, ``hexlify``) and no name is looked up twice per row.
"""

from __future__ import annotations

from binascii import hexlify
from collections.abc import Sequence
from hashlib import sha256
from itertools import compress
from struct import iter_unpack


def row_hashes(secret: bytes, lines: Sequence[bytes | None]) -> list[bytes | None]:
    """SHA256(SHA256(secret || line) || line) of each row line; ``None`` (no row, or unresolved) stays ``None``."""
    return [None if line is None else sha256(sha256(secret + line).digest() + line).digest() for line in lines]


def entry_lines(
    first_seq: int,
    ops: Sequence[bytes],
    keys: Sequence[bytes],
    hashes: Sequence[bytes | None],
    suffixes: Sequence[bytes],
) -> list[bytes]:
    """Entry lines with consecutive seqs from ``first_seq``; the other four arguments have one item per entry.

    ``keys`` are ready cells (:func:`witnz.core.entry.key_field`), ``hashes`` raw row hashes or ``None`` for ``\\N``,
    ``suffixes`` what :func:`witnz.core.entry.entry_suffix` gives for the transaction, with its leading TAB.
    """
    seqs = range(first_seq, first_seq + len(ops))
    return [
        b"1\t%d\t%b\t%b\t%b%b" % (seq, op, key, b"\\N" if row is None else hexlify(row), suffix)
        for seq, op, key, row, suffix in zip(seqs, ops, keys, hashes, suffixes, strict=True)
    ]


def leaf_hashes(lines: Sequence[bytes]) -> list[bytes]:
    """SHA256(0x00 || line) of each entry line: its content hash and its leaf in the tree."""
    return [sha256(b"\0" + line).digest() for line in lines]


def chain_hashes(parent_hex: bytes, leaves: Sequence[bytes]) -> bytes:
    """The last chain hash after ``leaves``, as 64 hex digits in ASCII; ``parent_hex`` (alike) where there are none."""
    chain = parent_hex
    for leaf in leaves:
        chain = hexlify(sha256(chain + hexlify(leaf)).digest())
    return chain


def subtree_root(hashes: Sequence[bytes]) -> bytes:
    """The root over 2^k node hashes, k ≥ 0: SHA256(0x01 || left || right) level by level."""
    level = hashes
    while len(level) > 1:
        level = [sha256(b"\1" + left + right).digest() for left, right in zip(level[::2], level[1::2], strict=True)]
    return level[0]


# -- hashes that stand one after another, 32 bytes each ---------------------------------------------------------------------


def packed_row_hashes(secret: bytes, lines: bytes) -> bytes:
    """The row hash of each row line; the lines have a newline behind each, and none inside.

    Raises ValueError where the last newline is missing, and for a secret that is not 32 bytes.
    """
    given = lines.split(b"\n")
    if given.pop():
        raise ValueError("expected row lines with a newline behind each")
    if len(secret) != 32:
        raise ValueError(f"expected a secret of 32 bytes, found {len(secret)}")
    return b"".join([sha256(sha256(secret + line).digest() + line).digest() for line in given])


def hash_slices(prefix: bytes, packed: bytes, width: int) -> bytes:
    """SHA256(prefix || slice) of each ``width`` bytes; ValueError where they do not come out even."""
    if width < 1 or len(packed) % width:
        raise ValueError(f"expected slices of {width} bytes, found {len(packed)} bytes")
    return b"".join([sha256(prefix + piece).digest() for (piece,) in iter_unpack(f"{width}s", packed)])


def pack_partitions(packed: bytes, buffers: list[bytearray]) -> None:
    """Append each hash to the one of 256 ``buffers`` that its first byte names."""
    if len(buffers) != 256:
        raise ValueError(f"expected 256 buffers, found {len(buffers)}")
    for row in _split(packed):
        buffers[row[0]] += row


def sort_packed(packed: bytes | bytearray) -> bytes:
    """The same hashes in ascending order."""
    return b"".join(sorted(_split(packed)))


def bucket_hashes(packed: bytes) -> bytes:
    """The 256 bucket hashes (formats.md 3, state root) of one partition: of ascending hashes that begin with one byte.

    The concatenation over the partitions 0 to 255 is what :class:`witnz.core.state.StateTree` takes.  Raises ValueError where
    second bytes do not ascend.
    """
    _check_even(packed)
    buckets = [_EMPTY_BUCKET] * 256
    seconds = packed[1::32]
    start = 0
    while start < len(seconds):
        second = seconds[start]
        end = start + seconds.count(second, start)
        if seconds[end - 1] != second or (start and seconds[start - 1] > second):
            raise ValueError("expected hashes in ascending order of their second bytes")
        buckets[second] = sha256(b"\2" + (end - start).to_bytes(8, "big") + packed[32 * start : 32 * end]).digest()
        start = end
    return b"".join(buckets)


def pick_slices(packed: bytes, flags: bytes | bytearray) -> bytes:
    """The hashes whose flag, one byte each, is not 0; ValueError for another number of flags."""
    rows = _split(packed)
    if len(flags) != len(rows):
        raise ValueError(f"expected {len(rows)} flags, found {len(flags)}")
    return b"".join(compress(rows, flags))


def _split(packed: bytes | bytearray) -> list[bytes]:
    _check_even(packed)
    return [row for (row,) in iter_unpack("32s", packed)]


def _check_even(packed: bytes | bytearray) -> None:
    if len(packed) % 32:
        raise ValueError(f"packed hashes: expected a multiple of 32 bytes, found {len(packed)}")


_EMPTY_BUCKET = sha256(b"\2" + bytes(8)).digest()
