"""Strict JSON: reading what others wrote, and the one spelling (RFC 8785) of what is hashed or signed.

Refused everywhere: bytes that are not UTF-8, a byte order mark, duplicate keys, U+0000 and lone surrogates in any string or
key, NaN, infinities and numbers that round to them, a negative zero, integers beyond 2^53 - 1 (RFC 8785 3.2.2.3, RFC 7493),
nesting deeper than a bound.  formats.md, opening.
"""

from __future__ import annotations

import json
import math
import re
from functools import cache
from typing import Any, Final, NoReturn

import rfc8785

from witnz.errors import FormatError

MAX_INTEGER: Final = (1 << 53) - 1
"""The largest count, size or id that a witnz document holds as a JSON number."""

# A string, or the rest of the text where its end is missing: it always matches at a quotation mark, so one pass is linear.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_REFUSED = re.compile("[\0\ud800-\udfff]")
_NOT_BRACKETS = bytes(sorted(set(range(256)) - set(b"[]{}")))
_ONE_KIND = bytes.maketrans(b"{}", b"[]")


def canonical(value: Any) -> bytes:
    """The RFC 8785 bytes of a value made of dict, list or tuple, str, int, float, bool and None.

    Raises :class:`FormatError` for what such JSON cannot hold: see the module, and types that are none of these.
    """
    try:
        data = rfc8785.dumps(value)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"JSON to be written: expected what RFC 8785 can hold, found: {str(error)[:100]}") from None
    if b"\\u0000" in data:
        _check_strings(value, "JSON to be written")
    return data


def parse_json(data: bytes, *, what: str, max_bytes: int, max_depth: int = 32) -> Any:
    """The value of a JSON text of at most ``max_bytes`` bytes, nested at most ``max_depth`` deep (a scalar has depth 0).

    White space between tokens is allowed, anything after the value is not.  ``what`` names the document in the
    :class:`FormatError` that is raised for everything the module refuses.
    """
    if len(data) > max_bytes:
        raise FormatError(f"{what}: expected at most {max_bytes} bytes, found {len(data)}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{what}: expected UTF-8, found byte 0x{data[error.start]:02x} at {error.start}") from None
    _check_depth(data, what, max_depth)
    reader = _Reader(what)
    try:
        value = json.loads(
            text,
            object_pairs_hook=reader.read_object,
            parse_int=reader.read_int,
            parse_float=reader.read_float,
            parse_constant=reader.refuse_constant,
        )
    except json.JSONDecodeError as error:
        raise FormatError(f"{what}: expected JSON, found a fault at character {error.pos}: {error.msg}") from None
    if "\\u" in text:  # raw NULs and surrogates did not get past the decoders above; only escapes can still hold them
        _check_strings(value, what)
    return value


def parse_canonical(data: bytes, *, what: str, max_bytes: int, max_depth: int = 32) -> Any:
    """Like :func:`parse_json`, for a text that must be its own RFC 8785 form: no white space, sorted keys, one spelling."""
    value = parse_json(data, what=what, max_bytes=max_bytes, max_depth=max_depth)
    if canonical(value) != data:
        raise FormatError(f"{what}: expected canonical JSON (RFC 8785), found another spelling of it")
    return value


class _Reader:
    """What the JSON scanner calls for each object and number; ``what`` names the document in refusals."""

    __slots__ = ("what",)

    def __init__(self, what: str) -> None:
        self.what = what

    def read_object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            raise FormatError(f"{self.what}: expected each key once in an object, found a duplicate")
        return members

    def read_int(self, text: str) -> int:
        # 17 characters hold every integer allowed; longer ones are not converted, because that is quadratic.
        number = int(text) if len(text) <= 17 else MAX_INTEGER + 1
        if abs(number) > MAX_INTEGER or text == "-0":
            raise FormatError(f"{self.what}: expected integers within 2^53 - 1 and no -0, found {text[:24]}")
        return number

    def read_float(self, text: str) -> float:
        number = float(text)
        if not math.isfinite(number) or (number == 0 and text[0] == "-"):
            raise FormatError(f"{self.what}: expected finite numbers and no -0, found {text[:24]}")
        return number

    def refuse_constant(self, text: str) -> NoReturn:
        raise FormatError(f"{self.what}: expected finite numbers, found {text}")


def _check_depth(data: bytes, what: str, max_depth: int) -> None:
    """Refuse brackets outside strings that nest deeper than ``max_depth`` or do not pair, before any recursive reader runs."""
    brackets = _STRING.sub(b"", data).translate(_ONE_KIND, _NOT_BRACKETS)
    if _nesting(max_depth).fullmatch(brackets) is None:
        raise FormatError(f"{what}: expected brackets that pair and nest at most {max_depth} deep, found others")


@cache
def _nesting(max_depth: int) -> re.Pattern[bytes]:
    """Matches pairs of ``[]`` up to a depth.  Every repetition is possessive: one linear pass without backtracking or stack."""
    pattern = b""
    for _ in range(max_depth):
        pattern = rb"(?:\[" + pattern + rb"\])*+"
    return re.compile(pattern)


def _check_strings(value: Any, what: str) -> None:
    """Refuse U+0000 and lone surrogates in any string or key; iterative, though the depth is already bounded."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            refused = _REFUSED.search(item)
            if refused is not None:
                raise FormatError(f"{what}: expected strings of Unicode text, found U+{ord(refused[0]):04X} in one")
        elif isinstance(item, dict):
            pending += item
            pending += item.values()
        elif isinstance(item, list | tuple):
            pending += item
