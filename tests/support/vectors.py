"""Where third-party vectors are: beside the checkout, never in it; a clone without them skips what needs them."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED_VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors"

needs_shared_vectors = pytest.mark.skipif(
    not SHARED_VECTORS.is_dir(), reason="no third-party vectors: ../shared/vectors does not exist beside this checkout"
)
