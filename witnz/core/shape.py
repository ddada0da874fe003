"""Shapes: the grammar of JSON documents as data.

A shape is a callable that takes a parsed JSON value and the path under which to name it, returns nothing, and raises
:class:`FormatError` for whatever is not exactly that.  Objects hold exactly the members listed, never more and never fewer.
Spellings are those of the opening of formats.md: base64 with padding, lower-case hexadecimal, integers below 2^53.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from witnz.core.canonical import MAX_INTEGER
from witnz.core.keys import parse_base64
from witnz.errors import FormatError

Shape = Callable[[Any, str], None]

MAX_FREE_TEXT_BYTES: Final = 4096
"""Free text in journal records (formats.md 4)."""


def refuse(path: str, expected: str, value: Any) -> FormatError:
    """The error to raise: the path, what was expected, and a short glance at what was found."""
    found = repr(value) if isinstance(value, str | int | float | bool | None) else type(value).__name__
    return FormatError(f"{path}: expected {expected}, found {found[:60]}")


def text(max_bytes: int = MAX_FREE_TEXT_BYTES, *, min_bytes: int = 0) -> Shape:
    """A string of ``min_bytes`` to ``max_bytes`` bytes of UTF-8."""

    def check(value: Any, path: str) -> None:
        if not isinstance(value, str):
            raise refuse(path, "a string", value)
        # A lone surrogate is refused where the document is parsed or written; here only the length counts.
        if not min_bytes <= len(value.encode("utf-8", "surrogatepass")) <= max_bytes:
            raise refuse(path, f"a string of {min_bytes} to {max_bytes} bytes", value)

    return check


def matching(pattern: str, expected: str) -> Shape:
    """A string that ``pattern`` matches whole."""
    matches = re.compile(pattern).fullmatch

    def check(value: Any, path: str) -> None:
        if not isinstance(value, str) or matches(value) is None:
            raise refuse(path, expected, value)

    return check


def spelled(parse: Callable[[str], object]) -> Shape:
    """A string that the strict parser ``parse`` (raising :class:`FormatError`) accepts."""

    def check(value: Any, path: str) -> None:
        if not isinstance(value, str):
            raise refuse(path, "a string", value)
        try:
            parse(value)
        except FormatError as error:
            raise FormatError(f"{path}: {error.message}") from None

    return check


def integer(low: int = 0, high: int = MAX_INTEGER) -> Shape:
    """An integer from ``low`` to ``high``; never a boolean or a float."""

    def check(value: Any, path: str) -> None:
        if type(value) is not int or not low <= value <= high:
            raise refuse(path, f"an integer from {low} to {high}", value)

    return check


def boolean(value: Any, path: str) -> None:
    """``true`` or ``false``."""
    if not isinstance(value, bool):
        raise refuse(path, "true or false", value)


def one_of(*allowed: str) -> Shape:
    """One of the strings ``allowed``."""

    def check(value: Any, path: str) -> None:
        if not isinstance(value, str) or value not in allowed:
            raise refuse(path, " | ".join(allowed) if len(allowed) < 8 else f"one of {len(allowed)} known names", value)

    return check


def hex_bytes(size: int) -> Shape:
    """``size`` bytes as lower-case hexadecimal."""
    return matching(f"[0-9a-f]{{{2 * size}}}", f"{2 * size} lower-case hex digits")


def base64_bytes(size: int | None = None, *, max_bytes: int = MAX_INTEGER) -> Shape:
    """Standard base64 with padding and no stray bits, of exactly ``size`` bytes or of at most ``max_bytes``."""

    def check(value: Any, path: str) -> None:
        decode_base64(value, path, size=size, max_bytes=max_bytes)

    return check


def decode_base64(value: Any, path: str, *, size: int | None = None, max_bytes: int = MAX_INTEGER) -> bytes:
    """The bytes of a base64 string; refuses any other length and any spelling but the one ``b64encode`` gives."""
    expected = f"base64 of at most {max_bytes} bytes" if size is None else f"base64 of {size} bytes"
    if not isinstance(value, str):
        raise refuse(path, expected, value)
    data = parse_base64(value, what=path)
    if len(data) > max_bytes or (size is not None and len(data) != size):
        raise refuse(path, expected, value)
    return data


def nullable(shape: Shape) -> Shape:
    """``null`` or what ``shape`` accepts."""

    def check(value: Any, path: str) -> None:
        if value is not None:
            shape(value, path)

    return check


def list_of(shape: Shape, *, low: int = 0, high: int = MAX_INTEGER, unique: Callable[[Any], object] | None = None) -> Shape:
    """An array of ``low`` to ``high`` items; with ``unique``, no two with the same value of that function."""

    def check(value: Any, path: str) -> None:
        if not isinstance(value, list) or not low <= len(value) <= high:
            raise refuse(path, f"an array of at least {low}" if high == MAX_INTEGER else f"an array of {low} to {high}", value)
        for index, item in enumerate(value):
            shape(item, f"{path}[{index}]")
        if unique is not None and len({unique(item) for item in value}) != len(value):
            raise FormatError(f"{path}: expected each item once, found one twice")

    return check


def members(required: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None) -> Shape:
    """An object of exactly the members ``required``, and of ``optional`` those that are there."""
    every = {**required, **(optional or {})}

    def check(value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise refuse(path, "an object", value)
        for name in required:
            if name not in value:
                raise FormatError(f"{path}: expected a member {name!r}, found none")
        for name, item in value.items():
            shape = every.get(name)
            if shape is None:
                raise FormatError(f"{path}: expected only {' '.join(every)}, found a member {name[:60]!r}")
            shape(item, f"{path}.{name}")

    return check


def mapping(names: Shape, values: Shape, *, low: int = 0, high: int = MAX_INTEGER) -> Shape:
    """An object of ``low`` to ``high`` members whose names and values have these shapes."""

    def check(value: Any, path: str) -> None:
        if not isinstance(value, dict) or not low <= len(value) <= high:
            raise refuse(path, f"an object of {low} to {high} members", value)
        for name, item in value.items():
            names(name, f"{path}: name of a member")
            values(item, f"{path}.{name[:60]}")

    return check
