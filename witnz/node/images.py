"""Row images of tables with ``retain: rows``, encrypted at rest (AES-256-GCM), so that a repair has something to restore.

The key is a file of the node and leaves it never.  An image is bound to its log and to its row hash, so one image cannot be put
in the place of another; and what is opened is hashed again before anybody uses it.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from witnz.core.rowline import row_hash as hash_row
from witnz.errors import StoreCorrupt

NONCE = 12


class ImageBox:
    """Seals and opens row lines.  ``key``: 32 random bytes."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, origin: str, row_hash: bytes, line: bytes) -> bytes:
        """nonce || ciphertext of a row line of the log ``origin``."""
        nonce = os.urandom(NONCE)
        return nonce + self._cipher.encrypt(nonce, line, origin.encode() + row_hash)

    def open(self, origin: str, secret: bytes, row_hash: bytes, sealed: bytes) -> bytes:
        """The row line again.  Raises StoreCorrupt if it is not the line that was sealed for this row hash."""
        try:
            line = self._cipher.decrypt(sealed[:NONCE], sealed[NONCE:], origin.encode() + row_hash)
        except (InvalidTag, ValueError):
            raise StoreCorrupt(
                f"a retained row image of {origin} does not open",
                hint="the store or the key file retain.key was changed; run `witnz verify --store`",
            ) from None
        if hash_row(secret, line) != row_hash:
            raise StoreCorrupt(f"a retained row image of {origin} does not have the recorded hash")
        return line
