"""Bundles as files: reading, writing, and everything that is no bundle at all (exit code 2)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.bundle_maker import ROWS, SEAL_4, PaperBundle, edited
from tests.support.journal_maker import SECRET, TABLE
from tests.support.receipts import RECEIPTS
from tests.support.record_cases import paths
from witnz.core.bundle import BundledTable, RowState, build_bundle, bundle_row, format_bundle, parse_bundle
from witnz.core.bundle_document import MAX_BUNDLE_BYTES
from witnz.core.canonical import canonical
from witnz.core.rowline import format_line
from witnz.errors import FormatError

VECTORS = Path(__file__).parent.parent / "vectors"
GOOD = (VECTORS / "bundle-good.witnz.json").read_bytes()
PAPER = PaperBundle()


def test_the_published_bundle_reads_and_writes_the_same_bytes() -> None:
    bundle = parse_bundle(GOOD)
    assert format_bundle(bundle) == GOOD
    assert bundle.head.checkpoint.origin == "example.com/witnz/demo"
    assert bundle.head.checkpoint.size == 5
    assert [proven.record.type for proven in bundle.records] == ["genesis", "table", "seal", "verify", "seal"]
    first, second = bundle.rows
    assert (first.entry.op, first.entry.seq, first.seal, first.entry.by) == ("insert", 3, 2, "etl")
    assert first.line is not None
    assert first.state is not None
    assert len(first.state.proof) == 16
    assert (second.entry.op, second.line, second.blind, second.state) == ("delete", None, None, None)
    assert bundle.tables[0].verify == 3
    assert bundle.consistency[0].checkpoint.size == 3


def test_a_built_bundle_holds_what_it_was_built_from() -> None:
    parts = PAPER.parts
    bundle = parse_bundle(PAPER.build(anchors=[PAPER.receipt("s3"), PAPER.receipt("rekor", more={"a": [1]})]))
    assert [(proven.record, list(proven.proof)) for proven in bundle.records] == parts["records"]
    assert list(bundle.rows) == parts["rows"]
    assert list(bundle.tables) == parts["tables"]
    assert bundle.policy.text == parts["policy"]
    assert (bundle.created, bundle.tool) == (parts["created"], parts["tool"])
    assert bundle.anchors[1].members["more"] == {"a": [1]}


def test_nobody_is_handed_a_bundle_that_nobody_can_read() -> None:
    with pytest.raises(FormatError, match="policy"):
        PAPER.build(policy="")
    with pytest.raises(FormatError, match="tool"):
        PAPER.build(tool="x" * 257)
    with pytest.raises(FormatError, match="generation"):
        PAPER.build(tables=[BundledTable(TABLE, 0, None, None)])
    with pytest.raises(FormatError, match="32 bytes"):
        PAPER.build(tables=[BundledTable(TABLE, 1, SECRET[:31], None)])
    with pytest.raises(FormatError, match="extension"):
        PAPER.build(checkpoint=PAPER.cluster.note().replace("\n\n", "\nmore\n\n", 1))
    with pytest.raises(FormatError, match="expected only"):
        PAPER.build(anchors=[{**RECEIPTS["s3"], "more": 1}])


def test_a_row_needs_both_line_and_blind_and_an_entry_that_is_one() -> None:
    row = PAPER.parts["rows"][0]
    same = {"table": TABLE, "generation": 1, "seal": SEAL_4, "schema_line": row.schema_line, "schema_proof": [], "proof": []}
    with pytest.raises(FormatError, match="both null or neither"):
        bundle_row(**same, entry_line=row.entry_line, line=ROWS[0])
    with pytest.raises(FormatError, match="11 columns"):
        bundle_row(**same, entry_line=b"1\t2")


def test_a_row_line_that_is_not_utf8_cannot_be_written() -> None:
    with pytest.raises(FormatError, match="UTF-8"):
        PAPER.build(rows=[PAPER.row(3, b"2\t\xff\tx", state=None)])


def one_of_a_kind(document: Any) -> list[tuple[Any, ...]]:
    """The paths of the scalars of a bundle, one for each place in the format (items of a list are alike, but for records)."""
    kinds = {}
    for path in paths(document):
        kinds.setdefault((path[:2], *(step for step in path[2:] if isinstance(step, str))), path)
    return list(kinds.values())


def test_no_member_can_be_missing_or_added_anywhere() -> None:
    data = PAPER.build(anchors=[PAPER.receipt("s3")])
    named = [path for path in one_of_a_kind(json.loads(data)) if not isinstance(path[-1], int)]
    assert len(named) > 150
    for path in named:
        # How many votes there are is for the journal to judge; the digest is mended with every edit.
        if path[-2:-1] != ("votes",) and path != ("sha256",):
            with pytest.raises(FormatError):
                parse_bundle(edited(data, path, ...))
    for path in {path[:-1] for path in named}:
        with pytest.raises(FormatError):
            parse_bundle(edited(data, (*path, "Z"), 1))


@pytest.mark.parametrize("wrong", [{}, [[]], 1.5, -1])
def test_no_scalar_can_be_of_another_type_anywhere(wrong: Any) -> None:
    data = PAPER.build(anchors=[PAPER.receipt("s3")])
    for path in one_of_a_kind(json.loads(data)):
        if path != ("sha256",):
            with pytest.raises(FormatError):
                parse_bundle(edited(data, path, wrong))


def test_a_file_above_64_mib_is_refused_before_it_is_read() -> None:
    with pytest.raises(FormatError, match="at most 67108864 bytes"):
        parse_bundle(b"{" * (MAX_BUNDLE_BYTES + 1))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"{}\n",
        b"null\n",
        b'{"format":"witnz-bundle/1"}\n',
        b'{"format":"witnz-bundle/1","sha256":"' + b"0" * 64 + b'"}\n',
        canonical({"format": "witnz-bundle/1"}) + b"\n",
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"\n",
        b"[" * 1_000_000 + b"]" * 1_000_000 + b"\n",
        b'{"a":[' + b"[]," * 300_000 + b"[]]}\n",
        b'{"a":' + b"9" * 1_000_000 + b"}\n",
        b'{"a":"' + b"\\" * 1_000_001 + b'"}\n',
        b"\x00" * 1000 + b"}\n",
        b"PK\x03\x04" + b"}\n",
    ],
    ids=range(14),
)
def test_what_is_no_bundle_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_bundle(data)


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_no_bytes_make_the_parser_raise_anything_else(data: bytes) -> None:
    for candidate in (data, data + b"}\n", GOOD[: len(data) * 50] + data, b" " + data + GOOD):
        with pytest.raises(FormatError):
            parse_bundle(candidate)


HASHES = st.lists(st.binary(min_size=32, max_size=32), max_size=4)
TEXTS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=40)
VALUES = st.lists(st.none() | TEXTS, min_size=1, max_size=4)


@settings(max_examples=50)
@given(
    values=VALUES,
    proof=HASHES,
    bucket=HASHES,
    tool=TEXTS,
    secret=st.none() | st.binary(min_size=32, max_size=32),
    position=st.integers(0, (1 << 53) - 1),
)
def test_any_bundle_round_trips(
    values: list[str | None], proof: list[bytes], bucket: list[bytes], tool: str, secret: bytes | None, position: int
) -> None:
    line = format_line([None if value is None else value.encode() for value in values])
    row = PAPER.row(3, line, state=RowState(position, tuple(bucket), tuple(proof)))
    parts = {**PAPER.parts, "rows": [row], "tables": [BundledTable(TABLE, 1, secret, position)], "tool": tool}
    data = build_bundle(**parts)
    bundle = parse_bundle(data)
    assert bundle.rows == (row,)
    assert bundle.tool == tool
    assert bundle.tables[0].secret == secret
    assert format_bundle(bundle) == data
