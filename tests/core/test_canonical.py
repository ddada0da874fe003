"""Strict JSON: everything that two readers could read differently is refused, and nothing hostile costs more than its size."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from witnz.core.canonical import MAX_INTEGER, canonical, parse_canonical, parse_json
from witnz.errors import FormatError

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
SCALARS = st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=20
)


def read(data: bytes, **bounds: int) -> Any:
    return parse_json(data, what="document", **{"max_bytes": 1 << 20, **bounds})


@given(VALUES)
def test_every_value_survives_writing_and_reading(value: Any) -> None:
    data = canonical(value)
    assert parse_canonical(data, what="document", max_bytes=1 << 20) == value
    assert json.loads(data) == value


def test_rfc_8785_sorts_keys_by_utf_16_and_escapes_as_little_as_it_may() -> None:
    value = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\u0080": 6, "\u00f6": 7, "a": ' "\\\u000f\n/é'}
    expected = '{"\\r":2,"1":4,"a":" \\"\\\\\\u000f\\n/é","\u0080":6,"ö":7,"€":1,"😀":5,"\ufb33":3}'
    assert canonical(value) == expected.encode()


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e21", "1e+21"), ("1E-7", "1e-7"), ("0.000001", "0.000001"), ("4.50", "4.5"), ("2e-3", "0.002"), ("1.0", "1")],
)
def test_numbers_are_written_as_ecmascript_does(text: str, number: str) -> None:
    assert canonical(read(text.encode())) == number.encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"{",
        b'{"a":1,}',
        b"[1,]",
        b"01",
        b"+1",
        b".5",
        b"1.",
        b"'a'",
        b'"a',
        b'"\\x"',
        b'"\n"',
        b'"\x00"',
        b"tru",
        b"1 2",
        b"{} x",
        b"{}\x00",
        b"[}",
        b"\xef\xbb\xbf1",
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\xc0\x80"',
        b"\xff\xfe1\x00",
        b"\xa0 1",
        '"a"\u00a0'.encode(),
    ],
)
def test_what_is_not_json_in_utf_8_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match="document"):
        read(data)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"\\u0061":2}',
        b'[{"b":{"a":1,"c":2,"a":3}}]',
        b'"\\u0000"',
        b'{"\\u0000":1}',
        b'["\\ud800"]',
        b'"\\udc00\\ud800"',
        b'{"a":[{"\\uDFFF":null}]}',
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1e999",
        b"-1e999",
        b"-0",
        b"-0.0",
        b"-0e5",
        b"-1e-999",
        b"9007199254740992",
        b"-9007199254740992",
        b"1" * 500,
    ],
)
def test_json_that_readers_disagree_about_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match="document"):
        read(data)


def test_the_last_integers_and_a_pair_of_surrogates_are_read() -> None:
    assert read(b"[9007199254740991,-9007199254740991]") == [MAX_INTEGER, -MAX_INTEGER]
    assert read(b' \t\r\n"\\ud83e\\udd94 \\u001f \\\\u0000" ') == "🦔 \x1f \\u0000"


def test_the_size_is_judged_before_anything_else() -> None:
    assert read(b'"abc"', max_bytes=5) == "abc"
    with pytest.raises(FormatError, match="at most 5 bytes, found 6"):
        read(b"\xff" * 6, max_bytes=5)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_nesting_is_bounded_exactly(opening: bytes) -> None:
    closing = b"]" if opening == b"[" else b"1}"
    deepest = opening * 32 + closing + (b"]" if opening == b"[" else b"}") * 31
    assert read(deepest) is not None
    with pytest.raises(FormatError, match="32 deep"):
        read(opening + deepest + closing[-1:])
    assert read(b"[[]]", max_depth=2) == [[]]
    with pytest.raises(FormatError, match="1 deep"):
        read(b"[[]]", max_depth=1)
    assert read(b"1", max_depth=0) == 1


HOSTILE = {
    "arrays that only open": b"[" * 900_000,
    "objects that only open": b'{"a":' * 200_000,
    "arrays that open and close": b"[" * 400_000 + b"]" * 400_000,
    "brackets that only close": b"]" * 900_000,
    "a value, then arrays": b'["]"]' + b"[" * 9999,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_million_brackets_are_refused_without_recursion(data: bytes) -> None:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(200)
    try:
        with pytest.raises(FormatError):
            read(data)
    finally:
        sys.setrecursionlimit(before)


def test_brackets_inside_strings_do_not_count() -> None:
    text = "[" * 1000 + '"' + "{\\" * 1000
    assert read(json.dumps([text, {text: text}]).encode()) == [text, {text: text}]


ENDLESS = {
    "escaped quotation marks": b'"' + b'\\"' * 400_000,
    "a quotation mark too many": b'["' + b'a"' * 400_001,
    "an odd number of backslashes": b'"' + b"\\" * 800_001,
}


@pytest.mark.parametrize("data", ENDLESS.values(), ids=ENDLESS)
def test_strings_without_an_end_cost_one_pass(data: bytes) -> None:
    with pytest.raises(FormatError):
        read(data)


@given(st.binary(max_size=40) | st.text('[]{}",:\\u0dEe1-. \n', max_size=40).map(str.encode))
def test_any_bytes_are_read_as_the_standard_reader_does_or_refused(data: bytes) -> None:
    try:
        value = read(data)
    except FormatError:
        return
    assert value == json.loads(data)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1}',
        b' {"a":1}',
        b'{"a":1}\n',
        b'{"b":1,"a":2}',
        b'"\\u00e9"',
        b'"\\/"',
        b"1.0",
        b"1e2",
        b'"\\u000A"',
        b'"\\u000f "\t',
    ],
)
def test_any_but_the_canonical_spelling_is_refused_where_it_is_asked_for(data: bytes) -> None:
    read(data)
    with pytest.raises(FormatError, match="canonical"):
        parse_canonical(data, what="document", max_bytes=1 << 20)


@pytest.mark.parametrize(
    "value",
    [
        MAX_INTEGER + 1,
        float("nan"),
        float("inf"),
        "\ud800",
        {"\ud800": 1},
        "\0",
        ["\0"],
        {"\0": 1},
        b"a",
        {1: 2},
        {None: 1},
        {1, 2},
    ],
)
def test_what_strict_json_cannot_hold_is_not_written(value: Any) -> None:
    with pytest.raises(FormatError):
        canonical(value)


def test_an_integer_too_long_to_print_is_not_written() -> None:
    with pytest.raises(FormatError):
        canonical(10**5000)


def test_a_value_that_contains_itself_is_not_written() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(FormatError):
        canonical(value)


def test_a_backslash_before_u0000_is_text_and_written() -> None:
    assert canonical("\\u0000") == b'"\\\\u0000"'


def test_refusals_do_not_repeat_the_document() -> None:
    secret = b"password" * 1000
    for data in (b'"' + secret, b'"' + secret + b'" x', secret, b"1" * 9000):
        with pytest.raises(FormatError) as refusal:
            read(data)
        assert len(str(refusal.value)) < 200
        assert "password" not in str(refusal.value)
