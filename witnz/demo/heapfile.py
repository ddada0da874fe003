"""Editing a value in the heap file of a stopped server: what somebody with the disk, and no password, can do to a table.

Page layout (PostgreSQL documentation, "Database Page Layout"; storage/bufpage.h, itemid.h, htup_details.h), little-endian::

    page, 8192 bytes    pd_lsn 8, pd_checksum 2, pd_flags 2, pd_lower 2, pd_upper 2, pd_special 2, size 2, prune_xid 4
    line pointer n      4 bytes at 24 + 4 (n - 1): lp_off in the low 15 bits, then lp_flags 2 bits (1: normal), lp_len 15 bits
    tuple               23 bytes of header, of which the last, t_hoff, says where the values begin

Where the page carries a checksum it is made anew (storage/checksum_impl.h), as an intruder would: checksums notice
broken disks, not people.  The server keeps pages in memory, so a page is edited only while it is stopped, and the row is
found by its ``ctid`` before.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from witnz.demo.server import PostgresServer
from witnz.errors import DatabaseError, UsageError

PAGE_BYTES: Final = 8192
SEGMENT_PAGES: Final = 131_072
_HEADER_BYTES: Final = 24
_CHECKSUM_AT: Final = 8
_NORMAL: Final = 1
_HOFF_AT: Final = 22

_PLACE = "SELECT pg_relation_filepath('{table}'::regclass), ctid::text FROM ONLY {table} WHERE {condition}"


@dataclass(frozen=True, slots=True)
class RowPlace:
    """Where a row's newest version lies: page (from 0) and item (from 1), its ctid, of the relation that begins in ``path``."""

    path: Path
    page: int
    item: int

    @property
    def segment(self) -> Path:
        """The file that holds the page: every 131,072 pages a new one begins."""
        number = self.page // SEGMENT_PAGES
        return self.path if number == 0 else self.path.with_name(f"{self.path.name}.{number}")

    @property
    def offset(self) -> int:
        """Where the page begins in that file."""
        return self.page % SEGMENT_PAGES * PAGE_BYTES


def find_row(server: PostgresServer, dbname: str, table: str, condition: str, parameters: Sequence[Any] = ()) -> RowPlace:
    """Where the one row of ``table`` (an SQL name) lies that meets ``condition``, written out to its file by a checkpoint.

    Raises DatabaseError unless it is exactly one.
    """
    rows = server.sql(_PLACE.format(table=table, condition=condition), parameters or None, dbname=dbname)
    if len(rows) != 1:
        raise DatabaseError(f"{table} where {condition}: expected one row, found {len(rows)}", code="demo.heap")
    server.sql("CHECKPOINT")
    path, ctid = rows[0]
    page, item = ctid.strip("()").split(",")
    return RowPlace(server.data_dir / path, int(page), int(item))


def replace_value(place: RowPlace, old: bytes, new: bytes) -> int:
    """Write ``new`` over ``old`` in the values of a row of a stopped server; the offset in :attr:`RowPlace.segment`.

    Raises UsageError unless both are of one length and differ, DatabaseError unless ``old`` stands in the row exactly once.
    """
    if len(old) != len(new) or old == new:
        raise UsageError("expected another value of the same length", hint="a heap tuple cannot grow in its place")
    number = os.open(place.segment, os.O_RDWR | os.O_NOFOLLOW)
    with os.fdopen(number, "r+b", buffering=0) as file:
        file.seek(place.offset)
        page = bytearray(file.read(PAGE_BYTES))
        if len(page) != PAGE_BYTES:
            raise DatabaseError(f"{place.segment}: page {place.page} is not there", code="demo.heap")
        at = _find(page, place, old)
        page[at : at + len(new)] = new
        if any(page[_CHECKSUM_AT : _CHECKSUM_AT + 2]):
            struct.pack_into("<H", page, _CHECKSUM_AT, page_checksum(page, place.page))
        file.seek(place.offset)
        file.write(page)
        os.fsync(number)
    return place.offset + at


def _find(page: bytearray, place: RowPlace, old: bytes) -> int:
    """Where ``old`` stands in the page, among the values of the tuple."""
    last = (struct.unpack_from("<H", page, 12)[0] - _HEADER_BYTES) // 4
    if not 1 <= place.item <= last:
        raise DatabaseError(f"page {place.page}: expected items up to {place.item}, found {last}", code="demo.heap")
    pointer: int = struct.unpack_from("<I", page, _HEADER_BYTES + 4 * (place.item - 1))[0]
    begin, kind, length = pointer & 0x7FFF, pointer >> 15 & 3, pointer >> 17
    if kind != _NORMAL or begin + length > PAGE_BYTES:
        raise DatabaseError(f"page {place.page}, item {place.item}: expected a tuple", code="demo.heap")
    first = begin + page[begin + _HOFF_AT]
    values = bytes(page[first : begin + length])
    if values.count(old) != 1:
        raise DatabaseError(
            f"page {place.page}, item {place.item}: expected the value once in the row, found it {values.count(old)} times",
            hint="values over 2 kB may be compressed or lie in the TOAST table",
            code="demo.heap",
        )
    return first + values.index(old)


# -- the checksum -------------------------------------------------------------------------------------------------------------

_PRIME: Final = 16_777_619
_BASES: Final = (
    *(0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C),
    *(0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB),
    *(0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4),
    *(0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756),
)


def page_checksum(page: bytes | bytearray, number: int) -> int:
    """The checksum that PostgreSQL keeps in ``pd_checksum`` of page ``number``: 32 interleaved FNV-1a sums, folded."""
    zeroed = bytes(page[:_CHECKSUM_AT]) + b"\0\0" + bytes(page[_CHECKSUM_AT + 2 :])
    words: tuple[int, ...] = struct.unpack(f"<{PAGE_BYTES // 4}I", zeroed)
    sums = list(_BASES)
    for first in range(0, len(words), len(sums)):
        for lane in range(len(sums)):
            sums[lane] = _mix(sums[lane], words[first + lane])
    folded = 0
    for value in sums:
        folded ^= _mix(_mix(value, 0), 0)
    return (folded ^ number) % 65_535 + 1


def _mix(checksum: int, value: int) -> int:
    mixed = checksum ^ value
    return (mixed * _PRIME & 0xFFFFFFFF) ^ (mixed >> 17)
