"""Editing the heap file of a stopped server, tuple by tuple: what somebody with the disk and no password can do.

Page layout (PostgreSQL documentation, "Database Page Layout"; storage/bufpage.h, itemid.h, htup_details.h), little-endian::

    page          8192 bytes: 24 of header (pd_lower at 12, pd_upper at 14), then line pointers of 4 bytes up to pd_lower
    line pointer  lp_off 15 bits, lp_flags 2 bits (1: normal), lp_len 15 bits
    tuple         t_infomask, 2 bytes at 20; t_hoff, 1 byte at 22: where the values begin

Nothing here touches a checksum.  Programs that run as the server's account are not needed: the caller may write the files.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.postgres import Database

PAGE_BYTES = 8192
NORMAL = 1
XMIN_COMMITTED, XMIN_INVALID = 0x0100, 0x0200


@dataclass(frozen=True, slots=True)
class Tuple:
    """One stored row version; ``offset`` is where it begins in the file."""

    path: Path
    page: int
    item: int
    offset: int
    data: bytes

    @property
    def values(self) -> bytes:
        return self.data[self.data[22] :]

    def write(self, data: bytes) -> None:
        """Put other bytes of the same length in its place."""
        assert len(data) == len(self.data) and data != self.data
        with self.path.open("r+b") as file:
            file.seek(self.offset)
            file.write(data)


def heap_file(database: Database, table: str) -> Path:
    """The file of a table, with everything that is committed written to it."""
    database.server.sql("CHECKPOINT")
    ((path,),) = database.sql(f"SELECT pg_relation_filepath('{table}'::regclass)", user="postgres")
    return database.server.data_dir / str(path)


def tuples(path: Path) -> Iterator[Tuple]:
    """The tuples that line pointers lead to, dead versions among them."""
    content = path.read_bytes()
    assert len(content) % PAGE_BYTES == 0, "a heap file is whole pages"
    for page in range(len(content) // PAGE_BYTES):
        begin = page * PAGE_BYTES
        (lower,) = struct.unpack_from("<H", content, begin + 12)
        for item, at in enumerate(range(begin + 24, begin + lower, 4), 1):
            (pointer,) = struct.unpack_from("<I", content, at)
            offset, flags, length = pointer & 0x7FFF, pointer >> 15 & 3, pointer >> 17
            if flags == NORMAL:
                yield Tuple(path, page, item, begin + offset, content[begin + offset : begin + offset + length])


def find_tuple(path: Path, value: bytes) -> Tuple:
    """The one tuple whose values hold these bytes."""
    (found,) = [stored for stored in tuples(path) if value in stored.values]
    return found


def replace_value(path: Path, old: bytes, new: bytes) -> Tuple:
    """Overwrite a value by one of the same length; the tuple as it was."""
    found = find_tuple(path, old)
    header = found.data[22]
    found.write(found.data[:header] + found.values.replace(old, new, 1))
    return found


def hide_tuple(path: Path, value: bytes) -> Tuple:
    """Mark the tuple with this value as inserted by a transaction that rolled back; the tuple as it was."""
    found = find_tuple(path, value)
    (infomask,) = struct.unpack_from("<H", found.data, 20)
    hidden = struct.pack("<H", infomask & ~XMIN_COMMITTED | XMIN_INVALID)
    found.write(found.data[:20] + hidden + found.data[22:])
    return found


def show_tuple(found: Tuple) -> None:
    """Put a tuple back as it was when it was found."""
    (now,) = [stored for stored in tuples(found.path) if (stored.page, stored.item) == (found.page, found.item)]
    now.write(found.data)
