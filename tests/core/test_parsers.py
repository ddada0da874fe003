"""Every parser of bytes from outside refuses what it does not know with an error of its own, whatever it is given.

Inputs are valid ones from the vectors with pieces changed, cut, doubled and put elsewhere, and plain noise.  Longer:
``WITNZ_FUZZ=100000 python -m pytest tests/core/test_parsers.py`` takes that many examples of each.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from witnz.cluster import frames
from witnz.cluster.raft import messages
from witnz.core import (
    bundle,
    bundle_document,
    canonical,
    checkpoint,
    entry,
    keys,
    lsn,
    message,
    names,
    note,
    policy,
    receipt,
    record,
    rowline,
    tiles,
    timestamp,
    trust,
    witness,
)
from witnz.core.evm import block, transaction
from witnz.errors import WitnzError
from witnz.node import keytext
from witnz.postgres import xid

EXAMPLES = int(os.environ.get("WITNZ_FUZZ", "25"))
VECTORS = Path(__file__).parents[1] / "vectors"
BUNDLE = (VECTORS / "bundle-good.witnz.json").read_bytes()
JOURNAL = (VECTORS / "journal.json").read_bytes()[:4000]
POLICY = (VECTORS / "policy.txt").read_bytes()
NOTE = (
    "witnz.example/log\n7\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— node1 Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5\n"
)
RECORD = (VECTORS / "records" / "accept.json").read_bytes()

Parser = Callable[[bytes], object]


def text(parse: Callable[[str], object]) -> Parser:
    """The parser of a text, given bytes."""
    return lambda data: parse(data.decode("utf-8", "surrogateescape"))


PARSERS: dict[str, tuple[Parser, bytes]] = {
    "bundle": (bundle.parse_bundle, BUNDLE),
    "bundle document": (bundle_document.parse_document, BUNDLE),
    "JSON": (lambda data: canonical.parse_json(data, what="it", max_bytes=10_000), JOURNAL),
    "canonical JSON": (
        lambda data: canonical.parse_canonical(data, what="it", max_bytes=10_000),
        b'{"a":[1,"\\u0001",null],"b":-1}',
    ),
    "checkpoint": (text(checkpoint.parse_checkpoint), NOTE.partition("\n\n")[0].encode() + b"\n"),
    "note": (note.parse_note, NOTE.encode()),
    "policy": (policy.parse_policy, POLICY),
    "record": (record.parse_record, RECORD),
    "proposal": (record.parse_proposal, b'{"body":{},"by":"node1","type":"seal"}'),
    "row line": (rowline.parse_line, b"1\tab\\tc\t\\N\t\\\\"),
    "entry": (entry.parse_entry, b'["i","1","ab","0/1",7]'),
    "schema hint": (text(entry.parse_schema_hint), b'{"columns":[["id","int8"]]}'),
    "entry bundle": (tiles.parse_entry_bundle, b"\x00\x03abc\x00\x01x"),
    "trust": (trust.parse_trust, b"chain 1\nauthority abc\n"),
    "submission": (witness.parse_submission, b"old 3\nabc=\n\n" + NOTE.encode()),
    "verifier key": (text(keys.parse_verifier_key), b"node1+a1b2c3d4+AUqom/Xajj7h2fB2MPA3j2jxq2I="),
    "private key": (text(keys.parse_private_key), b"PRIVATE+KEY+node1+a1b2c3d4+AUqom/Xajj7h2fB2MPA3j2jxq2I="),
    "message": (message.parse_message, b'{"by":"alice","hint":"x","intent":null}'),
    "intent": (text(message.parse_intent), b"abc"),
    "LSN": (text(lsn.parse_lsn), b"16/B374D848"),
    "time": (text(timestamp.parse_time), b"2026-01-01T00:00:00.000000Z"),
    "table name": (text(names.parse_table_name), b'public."odd ""name"""'),
    "receipt": (
        lambda data: receipt.parse_receipt(canonical.parse_json(data, what="it", max_bytes=10_000)),
        b'{"type":"basic","v":1}',
    ),
    "EVM header": (block.parse_header, bytes.fromhex("f90200a0") + bytes(500)),
    "EVM transaction": (transaction.parse_transaction, bytes.fromhex("02f86c0180808080")),
    "request of a member": (frames.parse_request, b"\x85\xa1a\x01"),
    "response of a member": (frames.parse_response, b"\x85\xa1a\x01"),
    "more from a member": (frames.parse_more, b"\x85\xa1a\x01"),
    "cancelling by a member": (frames.parse_cancel, b"\x01"),
    "refusal of a member": (frames.parse_refusal, b"\x92\xa1a\xa1b"),
    "command of the engine": (messages.parse_command, b"\x92\x01\xa1b"),
    "frame of the engine": (messages.parse_frame, b"\x92\x01\xa1b"),
    "snapshot": (text(xid.parse_snapshot), b"10:20:10,14,15"),
    "key": (lambda data: keytext.parse_key(data.decode("utf-8", "surrogateescape"), ("id", "day")), b"1,2026-01-01"),
}


@st.composite
def mutated(draw: st.DrawFn, seed: bytes) -> bytes:
    """``seed`` with a few pieces replaced, removed, doubled or moved; now and then only noise."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 12)))
        new = draw(st.one_of(st.binary(max_size=6), st.sampled_from(PIECES), st.just(bytes(data[at:end]) * 2)))
        data[at:end] = new
    return bytes(data)


PIECES = (
    *(b"", b"\x00", b"\xff\xff\xff\xff", b"\x80", b"-1", b"1e400", b"NaN", b"9" * 25, b'"', b"\\", b"\\ud800", b"[" * 50),
    *(b"{}", b"null", b"true", b"\n", b"\r\n", b"\t", "é".encode(), "\u2028".encode(), b"+", b"/", b"=", b":", b"0x", b"\xc1"),
)


@pytest.mark.parametrize("name", PARSERS)
def test_whatever_comes_is_taken_or_refused_by_an_error_of_ours(name: str) -> None:
    parse, seed = PARSERS[name]

    @settings(max_examples=EXAMPLES, database=None)
    @given(mutated(seed))
    def check(data: bytes) -> None:
        try:
            parse(data)
        except WitnzError as error:
            assert error.message

    check()
