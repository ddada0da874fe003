"""The batch hashing that the rest of witnz imports: the implementation chosen for this installation.

Today that is :mod:`witnz.core._pure`, which also documents the functions.
"""

from __future__ import annotations

from witnz.core._pure import chain_hashes, entry_lines, leaf_hashes, pack_partitions, row_hashes, subtree_root

IMPLEMENTATION = "pure"

__all__ = [
    "IMPLEMENTATION",
    "chain_hashes",
    "entry_lines",
    "leaf_hashes",
    "pack_partitions",
    "row_hashes",
    "subtree_root",
]
