"""The trust file: what is read, and what is refused with its line."""

from __future__ import annotations

import pytest

from witnz.core.trust import MAX_TRUST_BYTES, Trust, parse_trust
from witnz.errors import FormatError

TEXT = f"""\
# from the operator's letter of 21 November
account 1 0x{"AB" * 20}
account 137 {"cd" * 20}

block 1 21000000 0x{"12" * 32}   # looked up on an explorer
authority {"34" * 32}
bucket witnz-evidence
"""


def test_every_item_is_read() -> None:
    trust = parse_trust(TEXT.encode(), now_us=7)
    assert trust.accounts == {(1, b"\xab" * 20), (137, b"\xcd" * 20)}
    assert dict(trust.blocks) == {(1, 21_000_000): b"\x12" * 32}
    assert trust.authorities == {b"\x34" * 32}
    assert trust.buckets == {"witnz-evidence"}
    assert trust.now_us == 7


def test_an_empty_file_trusts_nothing() -> None:
    assert parse_trust(b"") == Trust()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("account 1", "line 1: expected account, block, authority, bitcoin-block or bucket"),
        ("account 0 " + "ab" * 20, "line 1: expected account <chain id>"),
        ("account 01 " + "ab" * 20, "line 1: expected account <chain id>"),
        ("account 1 0x" + "ab" * 19, "address of 40 hex digits"),
        ("\nblock 1 2 " + "ab" * 31, "line 2: expected block"),
        (f"block 1 2 {'ab' * 32}\nblock 1 2 {'ac' * 32}", "block 2 of chain 1 is given with two hashes"),
        (f"account 1 {'ab' * 20}\naccount 1 0x{'AB' * 20}", "line 2: it is given twice"),
        ("authority " + "zz" * 32, "expected authority <SHA-256"),
        ("bucket a b", "expected account, block, authority, bitcoin-block or bucket"),
        ("witness x", "found 'witness x'"),
    ],
)
def test_a_malformed_line_is_refused_with_its_number(text: str, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        parse_trust(f"{text}\n".encode())


@pytest.mark.parametrize("data", [b"bucket a", b"bucket \xff\n", b"#" * (MAX_TRUST_BYTES + 1)])
def test_a_file_that_is_no_text_of_lines_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_trust(data)
