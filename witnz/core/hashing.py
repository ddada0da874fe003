"""The batch hashing that the rest of witnz imports: the implementation chosen for this installation.

:mod:`witnz.core._pure` is the reference and documents the functions.  Its compiled twin is there where the package was
installed with a C compiler; both give the same bytes (``tests/core/test_pure.py``), and nothing else depends on which it is.
"""

from __future__ import annotations

try:
    from witnz.core._fast import (
        bucket_hashes,
        chain_hashes,
        entry_lines,
        hash_slices,
        leaf_hashes,
        pack_partitions,
        packed_row_hashes,
        pick_slices,
        row_hashes,
        sort_packed,
        subtree_root,
    )

    IMPLEMENTATION = "compiled"
except ImportError:
    from witnz.core._pure import (
        bucket_hashes,
        chain_hashes,
        entry_lines,
        hash_slices,
        leaf_hashes,
        pack_partitions,
        packed_row_hashes,
        pick_slices,
        row_hashes,
        sort_packed,
        subtree_root,
    )

    IMPLEMENTATION = "pure"

__all__ = [
    "IMPLEMENTATION",
    "bucket_hashes",
    "chain_hashes",
    "entry_lines",
    "hash_slices",
    "leaf_hashes",
    "pack_partitions",
    "packed_row_hashes",
    "pick_slices",
    "row_hashes",
    "sort_packed",
    "subtree_root",
]
