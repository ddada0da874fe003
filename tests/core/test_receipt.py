"""Receipts: the members of each known type, and what stays of unknown ones."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from tests.support.journal_maker import DIGEST, PaperCluster
from tests.support.receipts import RECEIPTS
from witnz.core.receipt import KNOWN_TYPES, Receipt, check_receipt, parse_receipt
from witnz.errors import FormatError

NOTE = PaperCluster().start().note()
KNOWN = {**RECEIPTS, "basic": {"type": "basic", "digest": DIGEST, "size": 2, "note": NOTE}}


def test_there_is_a_receipt_here_for_every_known_type() -> None:
    assert set(KNOWN) == KNOWN_TYPES


@pytest.mark.parametrize("kind", sorted(KNOWN))
def test_a_receipt_of_a_known_type_is_read(kind: str) -> None:
    receipt = parse_receipt(KNOWN[kind])
    assert receipt == Receipt(kind, bytes.fromhex(KNOWN[kind]["digest"]), KNOWN[kind]["size"], KNOWN[kind])
    assert receipt.known


@pytest.mark.parametrize("kind", sorted(KNOWN))
def test_a_known_type_has_exactly_its_members(kind: str) -> None:
    for name in KNOWN[kind]:
        with pytest.raises(FormatError):
            parse_receipt(
                {member: value for member, value in KNOWN[kind].items() if member != name} | {"type": kind, "more": 1}
            )
        with pytest.raises(FormatError):
            parse_receipt({**KNOWN[kind], name: {"an": "object"}})
    with pytest.raises(FormatError, match="found a member 'more'"):
        parse_receipt({**KNOWN[kind], "more": 1})


def test_an_unknown_type_keeps_whatever_else_it_carries() -> None:
    value = {"type": "rekor", "digest": DIGEST, "size": 0, "log_index": 7, "body": {"a": [1, None]}}
    receipt = parse_receipt(deepcopy(value))
    assert receipt.members == value
    assert not receipt.known


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("s3", "digest", DIGEST.upper().replace("0", "A")),
        ("s3", "size", -1),
        ("s3", "size", 2.0),
        ("s3", "mode", "compliance"),
        ("s3", "retain_until", "2027-11-21"),
        ("s3", "version_id", ""),
        ("s3", "sha256", "0" * 63),
        ("evm", "from", "0x" + "0" * 40),
        ("evm", "tx", "0" * 62),
        ("evm", "chain_id", 0),
        ("evm", "header", "abc"),
        ("evm", "proof", []),
        ("evm", "block_time", "yesterday"),
        ("rfc3161", "response", "!!!!"),
        ("rfc3161", "roots", "PEM"),
        ("basic", "note", "no note"),
    ],
)
def test_what_a_receipt_must_not_hold(kind: str, name: str, value: Any) -> None:
    with pytest.raises(FormatError, match=name):
        check_receipt({**KNOWN[kind], name: value}, "anchors[0]")


@pytest.mark.parametrize("value", [None, [], "s3", {}, {"type": "S3", "digest": DIGEST, "size": 1}, {"type": 1}])
def test_what_is_no_receipt_is_refused(value: Any) -> None:
    with pytest.raises(FormatError):
        check_receipt(value, "receipt")


def test_the_block_time_may_be_seconds_or_a_time() -> None:
    for block_time in (1_795_284_600, "2026-11-21T18:10:00.000000Z"):
        assert parse_receipt({**KNOWN["evm"], "block_time": block_time}).members["block_time"] == block_time
