"""Reading witnz.yaml: bounds, strictness, and no line of the file in any message; and the grammars of its values."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from witnz.config.sources import MAX_CONFIG_BYTES, expand, format_path, parse_document, read_document
from witnz.config.types import (
    format_duration,
    format_size,
    parse_address,
    parse_duration,
    parse_size,
    parse_table_reference,
)
from witnz.errors import ConfigError, FormatError

FILE = Path("witnz.yaml")
SECRET = "hunter2"

REFUSED = {
    "deep flow lists": ("a: " + "[" * 100_000, "at most 32 levels"),
    "deep flow mappings": ("{a: " * 100_000, "at most 32 levels"),
    "deep block lists": ("- " * 50_000, "at most 32 levels"),
    "deep block keys": ("? " * 50_000, "at most 32 levels"),
    "many values": ("a: [" + "1," * 30_000 + "1]", "at most 20000 values"),
    "an alias": ("a: &x [1]\nb: *x", "line 2: aliases"),
    "a recursive alias": ("a: &x [*x]", "line 1: aliases"),
    "a billion laughs": ("a: &a [x]\nb: &b [*a,*a]\nc: [*b,*b]", "line 2: aliases"),
    "a tag": ("a: !!python/object/apply:os.system [ls]", "tags"),
    "a tag on a text": ("a: !!binary aGk=", "tags"),
    "a merge key": ("a: {<<: {b: 1}}", "plain key"),
    "a list as key": ("? [a]\n: b", "plain key"),
    "a key twice": ("a: 1\nb:\n  c: 1\n  c: 2", "line 4: b.c is given twice, first in line 3"),
    "two documents": ("a: 1\n---\nb: 2", "not valid YAML"),
    "nothing": ("", "found nothing"),
    "comments only": ("# a\n", "found nothing"),
    "a list": ("- a", "expected keys"),
    "a text": ("a", "expected keys"),
    "a tab as indentation": ("a:\n\tb: 1", "line 2, column 1"),
    "a control character": ("a: \x01", "a character that YAML does not allow"),
    "an open quote": (f"password: '{SECRET}\nx: y", "not valid YAML: line"),
    "a second colon": (f"password: {SECRET}: x", "not valid YAML: line 1"),
    "a reserved character": (f"password: @{SECRET}", "not valid YAML: line 1"),
    "an unknown escape": (f'password: "{SECRET}\\q"', "not valid YAML: line 1"),
    "an unknown directive": (f"%YAML {SECRET}\n---\na: 1", "not valid YAML: line 1"),
    "an unknown tag handle": (f"a: !{SECRET}!x b", "not valid YAML: line 1"),
}


@pytest.mark.parametrize(("text", "expected"), REFUSED.values(), ids=REFUSED.keys())
def test_a_file_outside_the_grammar_is_refused_without_repeating_it(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_document(text, FILE)
    assert expected in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None
    assert len(str(caught.value)) < 200


def test_a_file_too_large_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "witnz.yaml"
    path.write_bytes(b"#" * (MAX_CONFIG_BYTES + 1))
    with pytest.raises(ConfigError, match="at most 1048576 bytes"):
        read_document(path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "witnz.yaml"
    path.write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match="expected UTF-8, found another byte at offset 3"):
        read_document(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a regular file"):
        read_document(tmp_path)


def test_scalars_stay_text_and_only_null_is_nothing() -> None:
    tree = parse_document("a: 0123\nb: yes\nc: 1:30\nd: 2021-99-99\ne: ~\nf:\ng: 'null'\nh: 1e5\n2: x\n", FILE).tree
    assert tree == {
        "a": "0123", "b": "yes", "c": "1:30", "d": "2021-99-99", "e": None, "f": None, "g": "null", "h": "1e5", "2": "x",
    }  # fmt: skip


def test_every_path_has_its_line() -> None:
    lines = parse_document("a: 1\nb:\n  - c: 2\n    d: 3\n", FILE).lines
    assert lines[("b",)] == 2
    assert lines[("b", 0, "d")] == 4
    assert format_path(("b", 0, "d")) == "b[0].d"


def test_expansion_reports_every_variable_that_is_not_set() -> None:
    tree, problems = expand({"a": "${X}${Y}", "b": ["${Z}", "$${X}", "$X"]}, {"X": "1"})
    assert [(format_path(problem.path), problem.message) for problem in problems] == [
        ("a", "the environment variable Y is not set"),
        ("b[0]", "the environment variable Z is not set"),
    ]
    assert tree == {"a": "1${Y}", "b": ["${Z}", "${X}", "$X"]}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", 300),
        ("30s", 30),
        ("24h", 86400),
        ("400d", 34560000),
        ("250ms", 0.25),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("2w", 1209600),
    ],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "5 m", "-5m", "5M", "5mm", "٥m", "1e3s", "5m\n", ".5s", "99999999999s"])
def test_a_text_that_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**9))
def test_a_duration_survives_being_written(milliseconds: int) -> None:
    text = format_duration(milliseconds / 1000)
    assert round(parse_duration(text) * 1000) == milliseconds


@pytest.mark.parametrize(
    ("text", "size"), [("4096", 4096), ("16MB", 16 << 20), ("10 GB", 10 << 30), ("1GiB", 1 << 30), ("8kB", 8192), ("0", 0)]
)
def test_a_size_is_read_as_postgresql_reads_it(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "1.5GB", "-1", "10gb", "1PB", "1 0", "0x10"])
def test_a_text_that_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        parse_size(text)


@given(st.integers(min_value=0, max_value=1 << 50))
def test_a_size_survives_being_written(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "address"), [("a.b:1", ("a.b", 1)), ("[::1]:65535", ("::1", 65535)), ("10.0.0.1:80", ("10.0.0.1", 80))]
)
def test_an_address_is_read(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "a", "a:", ":1", "a:0", "a:65536", "::1:80", "a b:1", "a:1 ", "http://a:1"])
def test_a_text_that_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("t", (None, "t")),
        ("Mixed Case", (None, "Mixed Case")),
        ("s.t", ("s", "t")),
        ('"a.b".t', ("a.b", "t")),
        ('"a""b"', (None, 'a"b')),
        ("public.a%2Eb", ("public", "a.b")),
        ("100%", (None, "100%")),
        ("größe.表", ("größe", "表")),
    ],
)
def test_a_table_is_read_as_people_write_it(text: str, reference: tuple[str | None, str]) -> None:
    assert parse_table_reference(text) == reference


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a.b.c", '"', '""', 'a"b', '"a"b', "a\0b", "x" * 2000])
def test_a_text_that_names_no_table_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        parse_table_reference(text)
