"""RLP, the encoding of everything that an EVM chain hashes (Ethereum Yellow Paper, appendix B).

An item is a byte string or a list of items.  Every item has exactly one encoding; the decoder refuses all others (a length with
leading zeros or in the long form without need, a single byte below 0x80 with a prefix), trailing bytes, and nesting beyond
:data:`MAX_DEPTH`.  An integer is its big-endian bytes without leading zeros, zero is the empty string.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from witnz.errors import FormatError

MAX_DEPTH: Final = 16
"""Of lists in lists: a transaction with access and authorization lists has four."""

Item = bytes | list["Item"]
Encodable = bytes | int | Sequence["Encodable"]


def encode(item: Encodable) -> bytes:
    """The encoding of bytes, of a non-negative integer, or of a sequence of such."""
    if isinstance(item, int):
        item = integer_bytes(item)
    if isinstance(item, bytes):
        return item if len(item) == 1 and item[0] < 0x80 else _prefix(0x80, len(item)) + item
    payload = b"".join(encode(member) for member in item)
    return _prefix(0xC0, len(payload)) + payload


def decode(data: bytes) -> Item:
    """The one item that ``data`` encodes, whole.  Raises :class:`FormatError` for anything but its only encoding."""
    item, end = _item(data, 0, len(data), 0)
    if end != len(data):
        raise FormatError(f"RLP: expected one item, found {len(data) - end} bytes after it")
    return item


def decode_list(data: bytes, what: str) -> list[Item]:
    """The members of the list that ``data`` encodes; FormatError, naming ``what``, where it is none."""
    item = decode(data)
    if isinstance(item, bytes):
        raise FormatError(f"{what}: expected an RLP list, found a string of {len(item)} bytes")
    return item


def integer_bytes(value: int) -> bytes:
    """The big-endian bytes of an integer from 0 on, without leading zeros."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def as_bytes(item: Item, what: str, size: int | None = None) -> bytes:
    """``item`` as a string, of exactly ``size`` bytes where given; FormatError, naming ``what``, otherwise."""
    if not isinstance(item, bytes):
        raise FormatError(f"{what}: expected a string, found a list")
    if size is not None and len(item) != size:
        raise FormatError(f"{what}: expected {size} bytes, found {len(item)}")
    return item


def as_integer(item: Item, what: str, max_bytes: int = 32) -> int:
    """``item`` as an integer of at most ``max_bytes`` bytes; FormatError, naming ``what``, otherwise."""
    data = as_bytes(item, what)
    if len(data) > max_bytes or data[:1] == b"\0":
        raise FormatError(f"{what}: expected an integer of at most {max_bytes} bytes without leading zeros")
    return int.from_bytes(data, "big")


def _prefix(base: int, length: int) -> bytes:
    if length < 56:
        return bytes([base + length])
    length_bytes = integer_bytes(length)
    return bytes([base + 55 + len(length_bytes)]) + length_bytes


def _item(data: bytes, start: int, limit: int, depth: int) -> tuple[Item, int]:
    """The item that begins at ``start`` and ends at or before ``limit``, and where it ends."""
    if start >= limit:
        raise FormatError(f"RLP: expected an item at byte {start}, found the end")
    first = data[start]
    if first < 0x80:
        return data[start : start + 1], start + 1
    is_list = first >= 0xC0
    length, body = _length(data, start, limit, first - (0xC0 if is_list else 0x80))
    end = body + length
    if end > limit:
        raise FormatError(f"RLP: an item at byte {start} of {length} bytes goes beyond its end")
    if not is_list:
        if length == 1 and data[body] < 0x80:
            raise FormatError(f"RLP: the byte at {body} has a prefix that it must not have")
        return data[body:end], end
    if depth >= MAX_DEPTH:
        raise FormatError(f"RLP: expected lists nested at most {MAX_DEPTH} deep")
    members: list[Item] = []
    while body < end:
        member, body = _item(data, body, end, depth + 1)
        members.append(member)
    return members, end


def _length(data: bytes, start: int, limit: int, code: int) -> tuple[int, int]:
    """The payload's length for a prefix whose offset within its kind is ``code``, and where the payload begins."""
    if code < 56:
        return code, start + 1
    size = code - 55
    length_bytes = data[start + 1 : start + 1 + size]
    if start + 1 + size > limit or length_bytes[0] == 0 or (length := int.from_bytes(length_bytes, "big")) < 56:
        raise FormatError(f"RLP: the length at byte {start} is not in its only form")
    return length, start + 1 + size
