"""How a block of up to 256 consecutive entries is kept: the row hashes as they are, everything else as compressed text.

An entry line is ``1 TAB seq TAB op TAB key TAB row TAB lsn TAB xid TAB at TAB by TAB hint TAB intent`` (formats.md 2).  Of a
block that starts at a known seq are stored

    hashes    32 raw bytes an entry; 32 zero bytes where the row is ``\\N``
    rest      zlib of the lines ``<op letter><key>[TAB lsn … intent]``, joined by newlines; the TAB and the six columns (the
              *suffix*) only where they differ from those of the entry before, so the first line has them always

which gives back the exact entry lines: cells of an entry never hold a raw TAB or newline, and no SHA-256 is all zeros.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from witnz.core.hashing import entry_lines
from witnz.core.tiles import MAX_ENTRY_BYTES, TILE
from witnz.errors import FormatError

HASH_BYTES = 32
NO_ROW = bytes(HASH_BYTES)
ZLIB_LEVEL = 1
MAX_REST_BYTES = TILE * MAX_ENTRY_BYTES

_LETTERS = {b"schema": b"s", b"baseline": b"b", b"insert": b"i", b"update": b"u", b"delete": b"d", b"truncate": b"t"}
_OPS = {letter[0]: op for op, letter in _LETTERS.items()}


def pack_hashes(hashes: Sequence[bytes | None]) -> bytes:
    """The row hashes of a block, 32 bytes an entry."""
    if None in hashes:
        return b"".join([NO_ROW if row is None else row for row in hashes])
    return b"".join(hashes)  # type: ignore[arg-type]  # no None is among them


def unpack_hashes(packed: bytes) -> list[bytes | None]:
    """The inverse of :func:`pack_hashes`; raises FormatError for a length that is no multiple of 32."""
    if len(packed) % HASH_BYTES:
        raise FormatError(f"row hashes: expected a multiple of {HASH_BYTES} bytes, found {len(packed)}")
    hashes = [packed[at : at + HASH_BYTES] for at in range(0, len(packed), HASH_BYTES)]
    return [None if row == NO_ROW else row for row in hashes]


def pack_rest(ops: Sequence[bytes], keys: Sequence[bytes], suffixes: Sequence[bytes]) -> bytes:
    """What at least one entry says beside seq and row hash; the arguments are those of ``entry_lines``."""
    letters = _LETTERS
    if ops.count(ops[0]) == len(ops) and suffixes.count(suffixes[0]) == len(suffixes):  # a bulk load: no loop
        letter = letters[ops[0]]
        return zlib.compress(letter + (b"\n" + letter).join([keys[0] + suffixes[0], *keys[1:]]), ZLIB_LEVEL)
    lines = []
    before = None
    for op, key, suffix in zip(ops, keys, suffixes, strict=True):
        if suffix is before or suffix == before:
            lines.append(letters[op] + key)
        else:
            lines.append(letters[op] + key + suffix)
            before = suffix
    return zlib.compress(b"\n".join(lines), ZLIB_LEVEL)


def unpack_entries(first_seq: int, count: int, hashes: bytes, rest: bytes) -> list[bytes]:
    """The entry lines of a block; raises FormatError for what :func:`pack_hashes` and :func:`pack_rest` do not write."""
    rows = unpack_hashes(hashes)
    if not 1 <= count <= TILE or len(rows) != count:
        raise FormatError(f"block: expected 1 to {TILE} entries and as many row hashes, found {count} and {len(rows)}")
    lines = unpack_rest(rest).split(b"\n")
    if len(lines) != count:
        raise FormatError(f"block: expected {count} entries, found {len(lines)}")
    ops, keys, suffixes = [], [], []
    suffix = b""
    for line in lines:
        head, tab, columns = line.partition(b"\t")
        if tab:
            if tab + columns == suffix:
                raise FormatError("block: expected columns only where they differ from those of the entry before")
            suffix = tab + columns
        if not suffix or not head or head[0] not in _OPS:
            raise FormatError("block: expected an op and a key, and the other columns of its first entry")
        ops.append(_OPS[head[0]])
        keys.append(head[1:])
        suffixes.append(suffix)
    return entry_lines(first_seq, ops, keys, rows, suffixes)


def unpack_rest(rest: bytes) -> bytes:
    """The text within ``rest``; raises FormatError for what is no single complete zlib stream or larger than a block can be."""
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(rest, MAX_REST_BYTES)
    except zlib.error as error:
        raise FormatError(f"block: expected zlib data: {error}") from None
    if not stream.eof or stream.unused_data:
        raise FormatError(f"block: expected one zlib stream of at most {MAX_REST_BYTES} bytes of text")
    return text


def split_entry(line: bytes) -> tuple[bytes, bytes, bytes | None, bytes]:
    """(op, key, row hash, suffix) of an entry line, the arguments that made it.  Raises FormatError if it has fewer columns."""
    try:
        _, _, op, key, row, suffix = line.split(b"\t", 5)
        return op, key, None if row == b"\\N" else bytes.fromhex(row.decode("ascii")), b"\t" + suffix
    except ValueError:
        raise FormatError("entry: expected eleven columns, the fifth of hex digits") from None
