"""The batch hashing that the rest of witnz imports: the implementation chosen for this installation.

:mod:`witnz.core._pure` is the reference and documents the functions.  Its compiled twin is there where the package was
installed with a C compiler; both give the same bytes (``tests/core/test_pure.py``), and nothing else depends on which it is.
"""

from __future__ import annotations

try:
    from witnz.core._fast import chain_hashes, entry_lines, leaf_hashes, pack_partitions, row_hashes, subtree_root

    IMPLEMENTATION = "compiled"
except ImportError:
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
