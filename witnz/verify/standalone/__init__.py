"""The verifiers that stand alone: ``verify.py`` for a Python without anything installed, ``verify.html`` for a browser.

Both are written from the formats alone and share no code with witnz or with each other, so that a fault in one shows as a
difference (``tests/verify/test_three_verifiers.py``).  Nothing in witnz imports them; packages carry them as files.
"""

from __future__ import annotations

from importlib import resources
from typing import Final

NAMES: Final = ("verify.py", "verify.html")


def standalone(name: str) -> bytes:
    """The file of one of :data:`NAMES`."""
    return (resources.files(__name__) / name).read_bytes()
