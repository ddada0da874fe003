"""The one encoding of the engine's messages and of its journal: a strict subset of MessagePack.

Values are None, booleans, integers, text, bytes, tuples, and mappings with text keys; which of them belongs where, the callers
check.  No extension types, and no second spelling: what does not encode to the same bytes again is refused.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

from witnz.errors import FormatError

MAX_BYTES: Final = 4 << 20
MAX_ITEMS: Final = 100_000


def encode(value: Any) -> bytes:
    """The bytes of a value; TypeError for anything that has no place in it."""
    data: bytes = msgpack.packb(value, use_bin_type=True, strict_types=False)
    return data


def decode(data: bytes, *, what: str) -> Any:
    """The value of some bytes; raises FormatError, naming ``what``, for bytes that :func:`encode` does not make."""
    if len(data) > MAX_BYTES:
        raise FormatError(f"{what}: expected at most {MAX_BYTES} bytes, found {len(data)}")
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            use_list=False,
            strict_map_key=True,
            ext_hook=_refuse,
            timestamp=0,
            max_array_len=MAX_ITEMS,
            max_map_len=64,
            max_ext_len=0,
        )
        same = encode(value) == data
    except (ValueError, TypeError, RecursionError) as error:
        raise FormatError(f"{what}: expected MessagePack of the strict subset, found {type(error).__name__}") from None
    if not same:
        raise FormatError(f"{what}: expected the one spelling of its value")
    return value


def _refuse(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code}")
