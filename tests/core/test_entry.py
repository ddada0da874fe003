"""Entries: eleven strict columns, keys in three forms, the chain, and descriptions of columns."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from witnz.core.entry import (
    MAX_ENTRY,
    MAX_KEY,
    MAX_SCHEMA,
    Entry,
    Schema,
    SchemaColumn,
    audit_id,
    chain_hash,
    content_hash,
    entry_suffix,
    first_parent,
    format_entry,
    hide_key,
    key_cell,
    key_field,
    parse_entry,
    parse_schema_hint,
    schema_hint,
    schema_text,
)
from witnz.core.message import MAX_BY, MAX_HINT, MAX_MESSAGE, Intent, format_intent
from witnz.core.rowline import escape, format_line
from witnz.errors import FormatError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "entries.json").read_text())
LINES = [vector["line"].encode() for vector in VECTORS]
INSERT = parse_entry(LINES[2])
COLUMN = SchemaColumn(name="id", typoid=20, typmod=-1, key=True)

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
KEY_LINES = st.lists(TEXTS.map(str.encode), min_size=1, max_size=3).map(format_line)
DIGESTS = st.binary(min_size=32, max_size=32)
ENTRIES = st.builds(
    Entry,
    seq=st.integers(1, 2**53 - 1),
    op=st.sampled_from(["insert", "update", "delete"]),
    key=st.none() | KEY_LINES,
    row=st.none() | DIGESTS,
    lsn=st.integers(0, 2**64 - 1),
    xid=st.integers(0, 2**32 - 1),
    at=st.integers(-(10**15), 10**17),
    by=st.none() | TEXTS,
    hint=st.none() | TEXTS,
)


def cells_of(line: bytes, **changed: bytes) -> bytes:
    """The line with some of its columns replaced."""
    names = ["version", "seq", "op", "key", "row", "lsn", "xid", "at", "by", "hint", "intent"]
    cells = dict(zip(names, line.split(b"\t"), strict=True)) | changed
    return b"\t".join(cells.values())


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["fields"][2])
def test_the_published_entries_parse_to_their_fields_and_back(vector: dict[str, Any]) -> None:
    line, fields = vector["line"].encode(), vector["fields"]
    entry = parse_entry(line)
    assert format_entry(entry) == line
    assert [entry.seq, entry.op, entry.xid, entry.by, entry.hint, entry.intent] == [
        *(int(fields[1]), fields[2], int(fields[6])),
        *fields[8:11],
    ]
    assert (entry.key and entry.key.decode(), entry.row and entry.row.hex()) == (fields[3], fields[4])
    assert entry.hidden_key is None


def test_the_published_chain_follows_from_the_lines() -> None:
    parent = first_parent(VECTORS[0]["origin"])
    for vector, line in zip(VECTORS, LINES, strict=True):
        assert parent == vector["parent_hash"]
        content = content_hash(line)
        assert content.hex() == vector["content_hash"]
        parent = chain_hash(parent, content)
        assert parent == vector["chain_hash"]
        assert audit_id(parent) == vector["audit_id"]


def test_the_chain_is_what_sha256sum_gives_for_128_hex_digits() -> None:
    parent, content = "ab" * 32, bytes(range(32))
    assert chain_hash(parent, content) == hashlib.sha256((parent + content.hex()).encode("ascii")).hexdigest()


@given(ENTRIES)
def test_every_entry_survives_writing_and_reading(entry: Entry) -> None:
    line = format_entry(entry)
    assert parse_entry(line) == entry
    assert line.count(b"\t") == 10
    assert b"\n" not in line


@given(st.sampled_from(LINES), st.integers(0, 400), st.integers(0, 255), st.sampled_from(["change", "insert", "delete", "cut"]))
def test_a_damaged_line_is_refused_or_is_another_entry(line: bytes, at: int, byte: int, how: str) -> None:
    at %= len(line)
    kept = line[at:] if how == "insert" else line[at + 1 :]
    damaged = line[:at] if how == "cut" else line[:at] + (b"" if how == "delete" else bytes([byte])) + kept
    try:
        entry = parse_entry(damaged)
    except FormatError:
        return
    assert format_entry(entry) == damaged
    assert (entry == parse_entry(line)) == (damaged == line)


BAD_COLUMNS = {
    "version": [b"", b"0", b"2", b"01", b"\\N"],
    "seq": [b"", b"0", b"-1", b"+1", b"01", b"1.0", b"\\N", b"9007199254740992", b"9" * 400, "３".encode()],
    "op": [b"", b"\\N", b"INSERT", b"insert ", b"upsert", b"\xff"],
    "key": [
        b"\\H",
        b"\\H" + b"a" * 63,
        b"\\H" + b"A" * 64,
        b"\\H" + b"a" * 65,
        b"\\x",
        b"a\\",
        b"\n",
        b"\xff",
        b"\\\\x",
        b"a\\n",
    ],
    "row": [b"", b"00", b"A" * 64, b"g" * 64, b"a" * 65, b"\\\\N"],
    "lsn": [b"", b"\\N", b"0/0A", b"0/a", b"1", b"0/100000000"],
    "xid": [b"", b"\\N", b"4294967296", b"-1", b"007"],
    "at": [b"", b"\\N", b"2026-11-21T18:09:41Z", b"2026-11-31T18:09:41.000001Z"],
    "by": [b"\\x", b"\xc3", b"a" * (MAX_BY + 1), b"\x00"],
    "hint": [b"\\H" + b"0" * 64, b"\xed\xa0\x80", b"a" * (MAX_HINT + 1)],
    "intent": [b"", b"{}", b"a", b'{"by":"x"}'],
}


@pytest.mark.parametrize(("column", "cell"), [(name, cell) for name, cells in BAD_COLUMNS.items() for cell in cells])
def test_a_column_out_of_its_grammar_is_refused(column: str, cell: bytes) -> None:
    with pytest.raises(FormatError) as refusal:
        parse_entry(cells_of(LINES[2], **{column: cell}))
    assert len(str(refusal.value)) < 250


@pytest.mark.parametrize("line", [b"", LINES[2] + b"\n", LINES[2] + b"\t", LINES[2] + b"\t\\N", LINES[2].rsplit(b"\t", 1)[0]])
def test_other_than_eleven_columns_are_refused(line: bytes) -> None:
    with pytest.raises(FormatError):
        parse_entry(line)


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        (LINES[0], {"key": b"1"}),
        (LINES[0], {"key": b"\\H" + b"0" * 64}),
        (LINES[0], {"row": b"0" * 64}),
        (LINES[0], {"by": b"x"}),
        (LINES[0], {"hint": b"\\N"}),
        (LINES[0], {"hint": b"text"}),
        (LINES[0], {"intent": LINES[3].rsplit(b"\t", 1)[1]}),
        (LINES[1], {"xid": b"7"}),
        (LINES[6], {"key": b"1"}),
        (LINES[6], {"key": b"\\H" + b"0" * 64}),
        (LINES[6], {"row": b"0" * 64}),
    ],
)
def test_columns_that_an_op_does_not_have_are_refused(line: bytes, changed: dict[str, bytes]) -> None:
    with pytest.raises(FormatError):
        parse_entry(cells_of(line, **changed))


def test_the_bounds_of_by_hint_and_seq_are_exact() -> None:
    longest = replace(INSERT, by="é" * (MAX_BY // 2), hint="\n" * MAX_HINT, seq=2**53 - 1, xid=2**32 - 1)
    assert parse_entry(format_entry(longest)) == longest
    for too_long in (replace(longest, by="é" * (MAX_BY // 2) + "x"), replace(longest, hint="\n" * MAX_HINT + "x")):
        with pytest.raises(FormatError, match=r"at most \d+ bytes"):
            parse_entry(format_entry(too_long))


def test_a_key_is_its_own_row_line_inside_the_cell() -> None:
    key = format_line([b"a\tb", b"c\\", "電".encode()])
    line = format_entry(replace(INSERT, key=key))
    assert line.split(b"\t")[3] == "a\\\\tb\\tc\\\\\\\\\\t電".encode()
    assert parse_entry(line).key == key


def test_a_key_over_1024_bytes_or_hidden_is_written_as_its_digest() -> None:
    secret, short, long = bytes(32), b"k" * MAX_KEY, b"k" * (MAX_KEY + 1)
    assert key_field(None, secret, hidden=False) == b"\\N"
    assert key_field(None, secret, hidden=True) == b"\\N"
    assert key_field(b"a\\tb", secret, hidden=False) == b"a\\\\tb"
    assert key_field(short, secret, hidden=False) == short
    digest = hashlib.sha256(secret + b"\0" + long).hexdigest()
    assert hide_key(long, secret) == digest
    assert key_field(long, secret, hidden=False) == b"\\H" + digest.encode()
    assert key_field(b"1", secret, hidden=True) == b"\\H" + hide_key(b"1", secret).encode()


def test_a_hidden_key_survives_and_a_readable_one_may_not_be_longer() -> None:
    hidden = replace(INSERT, key=None, hidden_key=hide_key(b"1", bytes(32)))
    line = format_entry(hidden)
    assert parse_entry(line) == hidden
    assert key_cell(hidden) == line.split(b"\t")[3]
    assert parse_entry(cells_of(LINES[2], key=b"k" * MAX_KEY)).key == b"k" * MAX_KEY
    with pytest.raises(FormatError, match="at most 1024 bytes"):
        parse_entry(cells_of(LINES[2], key=b"k" * (MAX_KEY + 1)))


def test_a_null_key_column_and_no_key_stay_apart() -> None:
    null_column = replace(INSERT, key=format_line([None]))
    assert key_cell(null_column) == b"\\\\N"
    assert key_cell(replace(INSERT, key=None)) == b"\\N"
    assert parse_entry(format_entry(null_column)) == null_column


def longest_intent() -> str:
    """An intent of exactly 8,192 bytes with as many characters as can be that an entry has to escape."""
    hint = '"' * ((MAX_HINT - MAX_BY) // 2)
    blank = Intent(by="\\" * MAX_BY, hint=hint, key="", nonce="0" * 32, sig=bytes(64), tables=(), xid=2**64 - 1)
    room = MAX_MESSAGE - len(format_intent(blank).encode())
    text = format_intent(replace(blank, key="\\" * (room // 2) + "k" * (room % 2)))
    assert len(text.encode()) == MAX_MESSAGE
    return text


def test_the_longest_possible_entry_fits_in_65535_bytes() -> None:
    worst = Entry(
        seq=2**53 - 1,
        op="insert",
        key=b"\\\\" * (MAX_KEY // 2),
        row=bytes(32),
        lsn=2**64 - 1,
        xid=2**32 - 1,
        at=0,
        by="\\" * MAX_BY,
        hint="\n" * MAX_HINT,
        intent=longest_intent(),
    )
    line = format_entry(worst)
    assert parse_entry(line) == worst
    # Even if every byte of every free column had to be escaped:
    assert len(line) <= 2 * (MAX_KEY + MAX_BY + MAX_HINT + MAX_MESSAGE) + 200 < MAX_ENTRY


def test_a_longer_line_is_neither_written_nor_read() -> None:
    assert (MAX_ENTRY, MAX_KEY, MAX_SCHEMA) == (65_535, 1_024, 60_000)
    with pytest.raises(FormatError, match="at most 65535 bytes"):
        format_entry(replace(INSERT, hint="x" * MAX_ENTRY))
    with pytest.raises(FormatError, match="at most 65535 bytes, found 65536"):
        parse_entry(b"1" * (MAX_ENTRY + 1))


def test_the_suffix_is_columns_six_to_eleven() -> None:
    suffix = entry_suffix(INSERT.lsn, INSERT.xid, INSERT.at, INSERT.by, INSERT.hint, INSERT.intent)
    assert LINES[2].endswith(suffix)
    assert suffix.count(b"\t") == 6


def test_the_published_description_reads_and_writes_alike() -> None:
    hint = VECTORS[0]["fields"][9]
    schema = parse_schema_hint(hint)
    assert [column.name for column in schema.columns] == ["id", "actor", "action", "detail", "at"]
    assert schema.columns[0] == COLUMN
    assert (schema.identity, schema.oid, schema.sha256) == ("d", 16384, None)
    assert schema_hint(schema.columns, schema.identity, schema.oid) == hint


@given(
    st.lists(
        st.builds(SchemaColumn, TEXTS, st.integers(0, 2**32 - 1), st.integers(-(2**31), 2**31 - 1), st.booleans()), max_size=6
    ),
    st.sampled_from("dfin"),
    st.integers(0, 2**32 - 1),
)
def test_every_description_survives_writing_and_reading(columns: list[SchemaColumn], identity: str, oid: int) -> None:
    hint = schema_hint(columns, identity, oid)
    assert parse_schema_hint(hint) == Schema(tuple(columns), identity, oid)
    entry = Entry(seq=1, op="schema", key=None, row=None, lsn=0, xid=0, at=0, hint=hint)
    assert parse_entry(format_entry(entry)) == entry


@pytest.mark.parametrize("character", ["a", '"', "\\", "é"])
def test_a_description_over_60000_bytes_as_written_becomes_its_digest(character: str) -> None:
    columns: list[SchemaColumn] = []
    while len(escape(schema_text(columns, "d", 1).encode())) <= MAX_SCHEMA:
        hint = schema_hint(columns, "d", 1)
        assert hint == schema_text(columns, "d", 1)
        fitting = Entry(seq=1, op="schema", key=None, row=None, lsn=0, xid=0, at=0, hint=hint)
        columns += [replace(COLUMN, name=character * 63)] * 20
    assert parse_entry(format_entry(fitting)) == fitting
    hint = schema_hint(columns, "d", 1)
    digest = hashlib.sha256(schema_text(columns, "d", 1).encode()).hexdigest()
    assert hint == f'{{"sha256":"{digest}"}}'
    assert parse_schema_hint(hint) == Schema((), "", 0, digest)
    entry = replace(fitting, hint=hint)
    assert parse_entry(format_entry(entry)) == entry


GOOD_HINT = schema_hint([COLUMN], "d", 16384)


@pytest.mark.parametrize(
    "hint",
    [
        "",
        "{}",
        "[]",
        "null",
        '{"sha256":"00"}',
        '{"sha256":null}',
        f'{{"oid":1,"sha256":"{"0" * 64}"}}',
        f'{{"sha256":"{"A" * 64}"}}',
        GOOD_HINT + " ",
        GOOD_HINT.replace(":", ": ", 1),
        GOOD_HINT.replace('"d"', '"x"'),
        GOOD_HINT.replace('"d"', "null"),
        GOOD_HINT.replace('"d"', "[]"),
        GOOD_HINT.replace("16384", '"16384"'),
        GOOD_HINT.replace("16384", "-1"),
        GOOD_HINT.replace("16384", "4294967296"),
        GOOD_HINT.replace("16384", "true"),
        GOOD_HINT.replace('"key":true', '"key":1'),
        GOOD_HINT.replace('"key":true,', ""),
        GOOD_HINT.replace('"name":"id"', '"name":1'),
        GOOD_HINT.replace('"name":"id"', '"name":"\\ud800"'),
        GOOD_HINT.replace('"name":"id"', '"name":"\ud800"'),
        GOOD_HINT.replace("-1", "-2147483649"),
        GOOD_HINT.replace("-1", "2147483648"),
        GOOD_HINT.replace(":20}", ":-20}"),
        GOOD_HINT.replace("[{", "{").replace("}]", "}"),
        GOOD_HINT.replace("[{", "[[{").replace("}]", "}]]"),
        '{"columns":null,"identity":"d","oid":1}',
        '{"columns":[1],"identity":"d","oid":1}',
    ],
)
def test_a_description_that_is_not_exactly_that_is_refused(hint: str) -> None:
    with pytest.raises(FormatError, match="schema hint"):
        parse_schema_hint(hint)
