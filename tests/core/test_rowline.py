"""Row lines: COPY's text format, there and back, and the hashes over it."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from witnz.core.rowline import (
    escape,
    format_line,
    leaf_secret,
    parse_line,
    row_blind,
    row_hash,
    secret_commitment,
    split_cells,
    unescape,
)
from witnz.errors import FormatError

ROWS = json.loads((Path(__file__).parents[1] / "vectors" / "rows.json").read_text())
CELLS = st.binary(max_size=30).filter(lambda raw: 0 not in raw)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["values"][0])
def test_the_published_rows_give_their_line_blind_and_hash(row: dict[str, Any]) -> None:
    values = [None if value is None else value.encode() for value in row["values"]]
    line, secret = row["line"].encode(), base64.b64decode(row["secret"])
    assert format_line(values) == line
    assert parse_line(line) == values
    assert row_blind(secret, line) == base64.b64decode(row["row_blind"])
    assert row_hash(secret, line).hex() == row["row_hash"]


def test_exactly_the_bytes_that_copy_escapes_are_escaped() -> None:
    escaped = {byte: escape(bytes([byte])) for byte in range(1, 256) if escape(bytes([byte])) != bytes([byte])}
    assert escaped == {8: b"\\b", 9: b"\\t", 10: b"\\n", 11: b"\\v", 12: b"\\f", 13: b"\\r", 92: b"\\\\"}


@given(CELLS)
@example(b"\\N")
@example(b"\\")
@example(b"\b\t\n\v\f\r\\")
def test_every_value_survives_a_cell(value: bytes) -> None:
    cell = escape(value)
    assert unescape(cell) == value
    assert b"\t" not in cell
    assert b"\n" not in cell
    assert cell != b"\\N"


@given(st.lists(st.none() | CELLS, min_size=1, max_size=6))
def test_every_row_survives_a_line(values: list[bytes | None]) -> None:
    line = format_line(values)
    assert parse_line(line) == values
    assert len(split_cells(line)) == len(values)


@given(st.text("\\Nbtnvfrx.1\t\n\x00\x08 ", max_size=10).map(str.encode))
def test_whatever_is_read_is_written_back_as_it_was(line: bytes) -> None:
    try:
        values = parse_line(line)
    except FormatError:
        return
    assert format_line(values) == line


@pytest.mark.parametrize(
    "cell",
    [
        b"\\",
        b"a\\",
        b"\\N",
        b"\\Nx",
        b"\\x41",
        b"\\101",
        b"\\.",
        b"\\a",
        b"\\B",
        b"\\H" + b"0" * 64,
        b"\\\\\\",
        b"\x08",
        b"\t",
        b"\n",
        b"\v",
        b"\f",
        b"\r",
        b"\x00",
    ],
)
def test_escapes_and_bytes_that_copy_never_writes_are_refused(cell: bytes) -> None:
    with pytest.raises(FormatError, match="cell"):
        unescape(cell)
    if cell not in {b"\\N", b"\t"}:
        with pytest.raises(FormatError):
            parse_line(b"1\t" + cell + b"\t2")


def test_null_and_its_look_alikes_stay_apart() -> None:
    lines = {format_line([value]) for value in (None, b"\\N", b"", b"NULL", b"\\\\N", b"<nil>")}
    assert len(lines) == 6


def test_a_nul_byte_is_never_written() -> None:
    with pytest.raises(FormatError, match="NUL"):
        escape(b"a\0")


def test_a_line_with_one_empty_value_is_empty() -> None:
    assert format_line([b""]) == b""
    assert parse_line(b"") == [b""]
    assert format_line([]) == b""


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=80))
def test_the_hashes_are_those_of_the_definition(secret: bytes, line: bytes) -> None:
    blind = hashlib.sha256(secret + line).digest()
    assert row_blind(secret, line) == blind
    assert row_hash(secret, line) == hashlib.sha256(blind + line).digest()


def test_the_commitment_and_the_secret_of_a_leaf_are_those_of_the_definition() -> None:
    secret = bytes(range(32))
    assert secret_commitment(secret) == hashlib.sha256(b"witnz/secret/1\n" + secret).hexdigest()
    assert leaf_secret(secret, 16384) == hashlib.sha256(secret + b"leaf16384").digest()
