"""Claims and intents: two grammars, and everything else says nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from witnz.core.canonical import canonical
from witnz.core.keys import Ed25519Signer
from witnz.core.message import (
    MAX_BY,
    MAX_HINT,
    MAX_MESSAGE,
    NO_MESSAGE,
    Intent,
    Message,
    check_intent,
    format_intent,
    intent_signing_bytes,
    parse_intent,
    parse_message,
    sign_intent,
)
from witnz.errors import FormatError

VECTOR = json.loads((Path(__file__).parents[1] / "vectors" / "intent.json").read_text())
CLUSTER, TEXT = VECTOR["cluster"], VECTOR["message"]
PUBLIC = base64.b64decode(VECTOR["public_key"])
INTENT = parse_intent(TEXT)
SIGNER = Ed25519Signer("deploy-1", bytes(range(32)))

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
TABLES = ["public.audit_logs", "billing.%E9%9B%BB", "a.b"]


def test_the_published_intent_reads_signs_the_published_bytes_and_verifies() -> None:
    assert parse_message(TEXT.encode()) == Message("ops@example", "CHG-1042", TEXT)
    assert (INTENT.key, INTENT.nonce, INTENT.tables, INTENT.xid) == ("deploy-1", "0f" * 16, ("public.audit_logs",), 742)
    assert intent_signing_bytes(INTENT, CLUSTER) == VECTOR["signed_bytes"].encode()
    assert check_intent(INTENT, CLUSTER, PUBLIC)
    assert format_intent(INTENT) == TEXT


@pytest.mark.parametrize(
    "changed",
    [
        {"by": "ops@exampl"},
        {"hint": ""},
        {"key": "deploy-2"},
        {"nonce": "1f" * 16},
        {"tables": ("public.audit_logs", "public.t")},
        {"tables": ()},
        {"xid": 743},
        {"xid": 742 + (1 << 32)},
        {"sig": bytes(64)},
        {"sig": bytes([INTENT.sig[0] ^ 1]) + INTENT.sig[1:]},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_the_signature_holds_every_member(changed: dict[str, Any]) -> None:
    assert not check_intent(replace(INTENT, **changed), CLUSTER, PUBLIC)


def test_an_intent_is_for_one_cluster_and_one_key() -> None:
    assert not check_intent(INTENT, CLUSTER[::-1], PUBLIC)
    assert not check_intent(INTENT, CLUSTER, SIGNER.public)


@given(TEXTS, TEXTS, TEXTS, st.binary(min_size=16, max_size=16), st.lists(st.sampled_from(TABLES)), st.integers(0, 2**64 - 1))
def test_every_signed_intent_survives_writing_and_reading(
    by: str, hint: str, key: str, nonce: bytes, tables: list[str], xid: int
) -> None:
    intent = sign_intent(SIGNER, CLUSTER, by=by, hint=hint, key=key, nonce=nonce.hex(), tables=tables, xid=xid)
    text = format_intent(intent)
    assert parse_intent(text) == intent
    assert parse_message(text.encode()) == Message(by, hint, text)
    assert check_intent(intent, CLUSTER, SIGNER.public)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"by":"etl","hint":"JE-001"}', Message("etl", "JE-001", None)),
        (' { "hint" : "x" , "by" : "y" }\n', Message("y", "x", None)),
        ('{"by":"etl"}', Message("etl", None, None)),
        ('{"hint":"電 \\u0001\\t"}', Message(None, "電 \x01\t", None)),
        ('{"by":""}', Message("", None, None)),
        ("{}", Message(None, None, None)),
    ],
)
def test_a_claim_says_who_and_why(content: str, message: Message) -> None:
    assert parse_message(content.encode()) == message


NOTHING = [
    b"",
    b"text",
    b"null",
    b"[]",
    b'"by"',
    b"1",
    b'{"by":"a"',
    b'{"by":"a"} x',
    b'{"by":"a","who":"b"}',
    b'{"By":"a"}',
    b'{"by":"a","by":"a"}',
    b'{"by":null}',
    b'{"by":1}',
    b'{"by":["a"]}',
    b'{"by":{"a":"b"}}',
    b'{"by":"a","hint":null}',
    b'{"by":"\\u0000"}',
    b'{"by":"\\ud800"}',
    b'{"by":"\xff"}',
    b"\xef\xbb\xbf{}",
    b"\x00\x01\x02",
    b"[" * 5000,
]


@pytest.mark.parametrize("content", NOTHING)
def test_what_is_neither_claim_nor_intent_says_nothing(content: bytes) -> None:
    assert parse_message(content) is NO_MESSAGE


@given(st.binary(max_size=60))
def test_no_content_ever_raises(content: bytes) -> None:
    assert parse_message(content).intent is None


@pytest.mark.parametrize(("member", "limit"), [("by", MAX_BY), ("hint", MAX_HINT)])
@pytest.mark.parametrize("character", ["a", "é", "🦔", "\x7f"])
def test_the_bounds_of_by_and_hint_are_exact_in_bytes_of_utf_8(member: str, limit: int, character: str) -> None:
    longest = character * (limit // len(character.encode()))
    claim = parse_message(json.dumps({member: longest}, ensure_ascii=False).encode())
    assert getattr(claim, member) == longest
    assert parse_message(json.dumps({member: longest + "a"}, ensure_ascii=False).encode()) is NO_MESSAGE


def test_the_bound_of_the_whole_message_is_exact() -> None:
    assert (MAX_BY, MAX_HINT, MAX_MESSAGE) == (256, 4096, 8192)
    claim = b'{"by":"a"}'
    assert parse_message(claim.ljust(MAX_MESSAGE)) == Message("a", None, None)
    assert parse_message(claim.ljust(MAX_MESSAGE + 1)) is NO_MESSAGE


def edited(**members: Any) -> str:
    return canonical({**json.loads(TEXT), **members}).decode()


BAD_INTENTS = {
    "white space": TEXT.replace(",", ", ", 1),
    "a newline": TEXT + "\n",
    "unsorted": json.dumps(dict(reversed(json.loads(TEXT).items())), separators=(",", ":")),
    "an escape that is not canonical": TEXT.replace("ops", "\\u006fps"),
    "one member more": edited(cluster=CLUSTER),
    "one member less": canonical({name: value for name, value in json.loads(TEXT).items() if name != "xid"}).decode(),
    "a duplicate": TEXT.replace('"xid":"742"', '"xid":"742","xid":"742"'),
    "no object": "[]",
    "by null": edited(by=None),
    "by too long": edited(by="a" * (MAX_BY + 1)),
    "hint number": edited(hint=1),
    "hint too long": edited(hint="a" * (MAX_HINT + 1)),
    "key null": edited(key=None),
    "nonce short": edited(nonce="0" * 31),
    "nonce long": edited(nonce="0" * 33),
    "nonce upper case": edited(nonce="0F" * 16),
    "sig of 63 bytes": edited(sig=base64.b64encode(bytes(63)).decode()),
    "sig of 65 bytes": edited(sig=base64.b64encode(bytes(65)).decode()),
    "sig without padding": edited(sig=json.loads(TEXT)["sig"].rstrip("=")),
    "sig of the URL alphabet": edited(sig=base64.urlsafe_b64encode(b"\xff" * 64).decode()),
    "sig with bits left over": edited(sig="A" * 85 + "B=="),
    "sig not ASCII": edited(sig="é" * 44),
    "sig null": edited(sig=None),
    "tables text": edited(tables="public.audit_logs"),
    "tables null": edited(tables=None),
    "a table without schema": edited(tables=["audit_logs"]),
    "a table that is no text": edited(tables=[None]),
    "a table in a list": edited(tables=[["public.audit_logs"]]),
    "xid number": edited(xid=742),
    "xid padded": edited(xid="0742"),
    "xid signed": edited(xid="+742"),
    "xid too large": edited(xid=str(1 << 64)),
    "xid in other digits": edited(xid="７４２"),
    "U+0000": TEXT.replace("CHG", "\\u0000"),
    "a lone surrogate": TEXT.replace("CHG", "\\ud800"),
    "a raw surrogate": TEXT.replace("CHG", "\ud800"),
}


@pytest.mark.parametrize("text", BAD_INTENTS.values(), ids=BAD_INTENTS)
def test_an_intent_that_is_not_exactly_one_is_refused_and_says_nothing(text: str) -> None:
    with pytest.raises(FormatError):
        parse_intent(text)
    assert parse_message(text.encode("utf-8", "surrogatepass")) is NO_MESSAGE


def test_an_intent_of_8192_bytes_is_read_and_one_more_is_not() -> None:
    room = MAX_MESSAGE - len(edited(key="").encode())
    longest = edited(key="k" * room)
    assert parse_message(longest.encode()).intent == longest
    assert parse_message(edited(key="k" * (room + 1)).encode()) is NO_MESSAGE


@pytest.mark.parametrize(
    "wrong",
    [{"by": "a" * 257}, {"nonce": "x"}, {"tables": ["t"]}, {"xid": -1}, {"xid": 1 << 64}, {"hint": "\0"}, {"key": "\ud800"}],
)
def test_nothing_is_signed_that_would_say_nothing(wrong: dict[str, Any]) -> None:
    members: dict[str, Any] = {"by": "a", "hint": "b", "key": "k", "nonce": "0" * 32, "tables": ["a.b"], "xid": 1}
    sign: Callable[..., Intent] = sign_intent
    assert check_intent(sign(SIGNER, CLUSTER, **members), CLUSTER, SIGNER.public)
    with pytest.raises(FormatError):
        sign(SIGNER, CLUSTER, **{**members, **wrong})
