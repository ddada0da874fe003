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


def pack_partitions(hashes: Sequence[bytes], buffers: list[bytearray]) -> None:
    """Append each hash to the one of 256 ``buffers`` that its first byte names."""
    for row in hashes:
        buffers[row[0]] += row
