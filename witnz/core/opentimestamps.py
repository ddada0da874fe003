"""OpenTimestamps proofs: reading an ``.ots`` file and what it attests, strictly and with nothing but SHA-256.

    file      = magic, version 1, 0x08 (SHA-256), the 32-byte digest, timestamp
    timestamp = zero or more of (0xff item), then one item          an item's result is what the next timestamp is about
    item      = 0x00 attestation | operation timestamp
    operation = 0x08 (SHA-256) | 0xf0 bytes (append) | 0xf1 bytes (prepend)
    attestation = tag of 8 bytes, payload of at most 8,192           bytes = varuint length and that many; varuint = LEB128

Two attestations count: *pending* (a calendar promises to put the commitment into a block; its address) and *bitcoin* (the
message is the Merkle root of the block at a height).  Others are shown by their tag.  Operations beside the three above exist
in the format and in no proof that a calendar makes; they are refused.  Source: the reference implementation,
python-opentimestamps, against which tests hold this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from witnz.errors import FormatError

MAGIC: Final = b"\x00OpenTimestamps\x00\x00Proof\x00\xbf\x89\xe2\xe8\x84\xe8\x92\x94"
MAX_PROOF_BYTES: Final = 1 << 16
MAX_DEPTH: Final = 256
MAX_MESSAGE_BYTES: Final = 4096
MAX_PAYLOAD_BYTES: Final = 8192
MAX_ADDRESS_BYTES: Final = 1000
PENDING: Final = bytes.fromhex("83dfe30d2ef90c8e")
BITCOIN: Final = bytes.fromhex("0588960d73d71901")

_SHA256, _APPEND, _PREPEND, _ATTESTATION, _FORK = 0x08, 0xF0, 0xF1, 0x00, 0xFF


@dataclass(frozen=True, slots=True)
class Attestation:
    """One leaf of a proof: ``message`` is what is attested; ``calendar`` of a pending one, ``height`` of a Bitcoin one."""

    tag: bytes
    message: bytes
    calendar: str | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class BlockHeader:
    """What a proof needs of an 80-byte Bitcoin block header; ``hash`` in the order in which explorers show it."""

    hash: bytes
    merkle_root: bytes
    time_s: int


def read_proof(data: bytes) -> tuple[bytes, list[Attestation]]:
    """The digest that an ``.ots`` file is about, and its attestations.  Raises FormatError for anything not of the form
    above.
    """
    if len(data) > MAX_PROOF_BYTES:
        raise FormatError(f"OpenTimestamps proof: expected at most {MAX_PROOF_BYTES} bytes, found {len(data)}")
    reader = _Reader(data)
    if reader.take(len(MAGIC)) != MAGIC or reader.varuint() != 1 or reader.byte() != _SHA256:
        raise FormatError("OpenTimestamps proof: expected a file of version 1 over a SHA-256 digest")
    digest = reader.take(32)
    found: list[Attestation] = []
    reader.timestamp(digest, found, 0)
    if reader.rest():
        raise FormatError(f"OpenTimestamps proof: {reader.rest()} bytes after its end")
    return digest, found


def heights(attestations: Sequence[Attestation]) -> list[int]:
    """The heights of the Bitcoin blocks that are attested; none while a proof is pending."""
    return sorted({one.height for one in attestations if one.height is not None})


def read_block_header(header: bytes) -> BlockHeader:
    """Version, previous block, Merkle root, time, bits, nonce: 80 bytes, little-endian.  Raises FormatError for another
    size.
    """
    if len(header) != 80:
        raise FormatError(f"Bitcoin block header: expected 80 bytes, found {len(header)}")
    digest = sha256(sha256(header).digest()).digest()
    return BlockHeader(digest[::-1], header[36:68], int.from_bytes(header[68:72], "little"))


class _Reader:
    """A cursor over the proof; everything raises FormatError at its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def rest(self) -> int:
        return len(self._data) - self._place

    def take(self, size: int) -> bytes:
        if size > self.rest():
            raise FormatError(f"OpenTimestamps proof: expected {size} bytes at {self._place}, found {self.rest()}")
        self._place += size
        return self._data[self._place - size : self._place]

    def byte(self) -> int:
        return self.take(1)[0]

    def varuint(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift:
                    raise FormatError("OpenTimestamps proof: a number is not in its only form")
                return value
            shift += 7
            if shift > 56:
                raise FormatError("OpenTimestamps proof: a number is too large")

    def varbytes(self, limit: int, low: int = 0) -> bytes:
        size = self.varuint()
        if not low <= size <= limit:
            raise FormatError(f"OpenTimestamps proof: expected {low} to {limit} bytes, found {size}")
        return self.take(size)

    def timestamp(self, message: bytes, found: list[Attestation], depth: int) -> None:
        if depth > MAX_DEPTH:
            raise FormatError(f"OpenTimestamps proof: expected at most {MAX_DEPTH} operations in a row")
        tag = self.byte()
        while tag == _FORK:
            self._item(self.byte(), message, found, depth)
            tag = self.byte()
        self._item(tag, message, found, depth)

    def _item(self, tag: int, message: bytes, found: list[Attestation], depth: int) -> None:
        if tag == _ATTESTATION:
            found.append(self._attestation(message))
            return
        if tag == _SHA256:
            result = sha256(message).digest()
        elif tag == _APPEND:
            result = message + self.varbytes(MAX_MESSAGE_BYTES, 1)
        elif tag == _PREPEND:
            result = self.varbytes(MAX_MESSAGE_BYTES, 1) + message
        else:
            raise FormatError(f"OpenTimestamps proof: expected SHA-256, append or prepend, found operation {tag:#04x}")
        if len(result) > MAX_MESSAGE_BYTES:
            raise FormatError(f"OpenTimestamps proof: expected messages of at most {MAX_MESSAGE_BYTES} bytes")
        self.timestamp(result, found, depth + 1)

    def _attestation(self, message: bytes) -> Attestation:
        tag = self.take(8)
        payload = _Reader(self.varbytes(MAX_PAYLOAD_BYTES))
        if tag == PENDING:
            address = payload.varbytes(MAX_ADDRESS_BYTES)
            if payload.rest() or not address.isascii():
                raise FormatError("OpenTimestamps proof: a pending attestation holds more than an address")
            return Attestation(tag, message, calendar=address.decode("ascii"))
        if tag == BITCOIN:
            height = payload.varuint()
            if payload.rest():
                raise FormatError("OpenTimestamps proof: a Bitcoin attestation holds more than a height")
            return Attestation(tag, message, height=height)
        return Attestation(tag, message)
