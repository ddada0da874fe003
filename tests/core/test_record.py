"""Journal records: bytes, hashes, signatures, and the body grammar of every type."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.journal_maker import CLUSTER_ID, TABLE, signer
from tests.support.record_cases import BODIES, PAPER, WRONG, changed, paths
from witnz.core.canonical import canonical
from witnz.core.keys import verify_signature
from witnz.core.record import (
    MAX_RECORD_BYTES,
    NO_PREVIOUS,
    check_record_signature,
    format_proposal,
    format_record,
    operator_bytes,
    parse_proposal,
    parse_record,
    recall_record,
    record_from_json,
    record_hash,
    record_leaf_bytes,
    record_leaf_hash,
    record_to_json,
    record_vote_bytes,
    sign_record,
    signed_bytes,
    vote_bytes,
)
from witnz.core.record_bodies import RECORD_TYPES, VOTED, check_body
from witnz.errors import FormatError

VECTORS = Path(__file__).parent.parent / "vectors"
JOURNAL = json.loads((VECTORS / "journal.json").read_text())


@pytest.fixture(params=[item["record"]["seq"] for item in JOURNAL])
def published(request: pytest.FixtureRequest) -> dict[str, Any]:
    item: dict[str, Any] = JOURNAL[request.param - 1]
    return item


def test_published_records_read_and_write_the_same_bytes(published: dict[str, Any]) -> None:
    data = published["canonical"].encode()
    record = parse_record(data)
    assert record_to_json(record) == published["record"]
    assert format_record(record) == record_leaf_bytes(record) == data
    assert record_leaf_hash(record).hex() == published["leaf"]
    assert parse_proposal(format_proposal(record)).at_seq(record.seq or 0) == record


def test_published_records_are_signed_by_their_identity_and_nobody_else(published: dict[str, Any]) -> None:
    record = parse_record(published["canonical"].encode())
    assert check_record_signature(record, b64decode(published["identity"]))
    assert not check_record_signature(record, signer("somebody-else").public)


def test_published_votes_verify_over_the_body_without_them(published: dict[str, Any]) -> None:
    record = parse_record(published["canonical"].encode())
    identities = {item["id"]: b64decode(item["identity"]) for item in JOURNAL[0]["record"]["body"]["members"]}
    assert ("votes" in record.body) == (record.type in VOTED)
    for node, vote in record.body.get("votes", {}).items():
        assert verify_signature(identities[node], b64decode(vote), vote_bytes(record.body, record.cluster, record.type))


def test_the_published_chain_of_a_node_is_the_hash_without_seq() -> None:
    first, second, third = (parse_record(JOURNAL[index]["canonical"].encode()) for index in range(3))
    assert first.prev == NO_PREVIOUS
    assert second.prev == record_hash(first) == record_hash(parse_proposal(format_proposal(first)))
    assert third.prev == record_hash(second)


def test_a_signature_covers_neither_seq_nor_itself() -> None:
    record = PAPER.make("operator", BODIES["operator"])
    value = record_to_json(record)
    del value["seq"], value["sig"]
    assert signed_bytes(record) == b"witnz/journal/1\n" + canonical(value)
    assert record.at_seq(99).sig == record.sig


def test_there_is_a_body_here_for_every_type() -> None:
    assert set(BODIES) == RECORD_TYPES


@pytest.mark.parametrize("record_type", sorted(BODIES))
def test_every_type_round_trips(record_type: str) -> None:
    record = PAPER.make(record_type, BODIES[record_type])
    assert parse_record(format_record(record)) == record
    assert record_from_json(json.loads(format_record(record))) == record
    assert canonical(record_to_json(record)) == format_record(record)


@pytest.mark.parametrize("record_type", sorted(BODIES))
def test_a_stored_record_that_is_recalled_is_the_record_that_was_parsed(record_type: str) -> None:
    leaf = format_record(PAPER.make(record_type, BODIES[record_type]))
    recalled, parsed = recall_record(leaf), parse_record(leaf)
    assert recalled == parsed
    assert (recalled.body_json, record_hash(recalled)) == (parsed.body_json, record_hash(parsed))
    assert (format_record(recalled), signed_bytes(recalled)) == (leaf, signed_bytes(parsed))


def test_text_that_looks_like_the_members_of_a_record_does_not_confuse_the_recall() -> None:
    reason = '","cluster":"x","n":1,"seq":9,"sig":"","type":"seal"}'
    leaf = format_record(PAPER.make("ack", {"finding": "F-0123456789ab", "reason": reason}))
    assert recall_record(leaf) == parse_record(leaf)
    assert record_hash(recall_record(leaf)) == record_hash(parse_record(leaf))


@given(st.data())
def test_damaged_records_are_refused_or_hash_to_something_else(data: st.DataObject) -> None:
    leaf = format_record(PAPER.make("gap", BODIES["gap"]))
    at = data.draw(st.integers(0, len(leaf) - 1))
    damaged = leaf[:at] + bytes([data.draw(st.integers(0, 255).filter(lambda byte: byte != leaf[at]))]) + leaf[at + 1 :]
    try:
        recalled = recall_record(damaged)
    except FormatError as refused:
        assert "damaged bytes" in refused.message
    else:
        same_proposal = leaf[:at].count(b'"seq":') > 0 and recalled.seq != PAPER.state.size + 1
        assert record_hash(recalled) != record_hash(parse_record(leaf)) or same_proposal


@pytest.mark.parametrize("record_type", sorted(VOTED))
def test_the_ballot_out_of_the_bytes_at_hand_is_the_ballot_built_anew(record_type: str) -> None:
    record = PAPER.make(record_type, BODIES[record_type], operator="alice" if record_type == "table" else None)
    assert record_vote_bytes(record) == vote_bytes(record.body, CLUSTER_ID, record_type)


def test_a_vote_covers_the_auth_and_an_auth_does_not_cover_the_votes() -> None:
    body = {**BODIES["table"], "nonce": "0" * 32, "auth": {"operator": "alice", "sig": "x"}, "votes": {}}
    assert b'"auth"' in vote_bytes(body, CLUSTER_ID, "table")
    assert b'"votes"' not in vote_bytes(body, CLUSTER_ID, "table")
    assert b'"auth"' not in operator_bytes(body, CLUSTER_ID, "table")
    assert b'"votes"' not in operator_bytes(body, CLUSTER_ID, "table")
    assert b'"nonce"' in operator_bytes(body, CLUSTER_ID, "table")


@pytest.mark.parametrize("record_type", sorted(BODIES))
def test_no_body_member_can_be_missing_or_added(record_type: str) -> None:
    body = PAPER.make(record_type, BODIES[record_type]).body
    for name in body:
        with pytest.raises(FormatError):
            check_body(record_type, {member: value for member, value in body.items() if member != name})
    with pytest.raises(FormatError, match="found a member 'more'"):
        check_body(record_type, {**body, "more": None})


@pytest.mark.parametrize("record_type", sorted(BODIES))
@pytest.mark.parametrize("wrong", [[], {}, 1.5, -1])
def test_no_scalar_of_a_body_can_be_of_another_type(record_type: str, wrong: Any) -> None:
    body = PAPER.make(record_type, BODIES[record_type]).body
    open_ended = ("receipt",)  # a receipt of a type that is not known may hold anything more
    for path in paths(body):
        if path[0] not in open_ended:
            with pytest.raises(FormatError):
                check_body(record_type, changed(body, path, wrong))


@pytest.mark.parametrize(("record_type", "path", "value"), WRONG)
def test_what_a_body_must_not_hold(record_type: str, path: tuple[Any, ...], value: Any) -> None:
    body = PAPER.make(record_type, BODIES[record_type]).body
    check_body(record_type, body)
    with pytest.raises(FormatError):
        check_body(record_type, changed(body, path, value))


FINDING = "F-0123456789ab"
ROW = {"key": "2", "row": None, "seq": 3}


@pytest.mark.parametrize(
    ("table", "generation", "rows", "finding", "good"),
    [
        (TABLE, 1, [ROW], FINDING, True),
        (TABLE, 1, [], None, True),
        (None, None, [], FINDING, True),
        (None, 1, [], FINDING, False),
        (TABLE, None, [], FINDING, False),
        (None, None, [ROW], FINDING, False),
        (None, None, [], None, False),
    ],
)
def test_an_accept_names_a_table_or_else_only_a_finding(
    table: str | None, generation: int | None, rows: list[Any], finding: str | None, good: bool
) -> None:
    body = {**BODIES["accept"], "table": table, "generation": generation, "rows": rows, "finding": finding}
    full = {**body, "nonce": "0" * 32, "auth": {"operator": "alice", "sig": "A" * 86 + "=="}}
    if good:
        check_body("accept", full)
    else:
        with pytest.raises(FormatError, match="accept: expected"):
            check_body("accept", full)


@pytest.mark.parametrize("record_type", ["seal", "epoch"])
def test_a_long_list_may_be_split_over_parts(record_type: str) -> None:
    body = PAPER.make(record_type, {**BODIES[record_type], "part": 2, "parts": 2}).body
    for parts in ({"part": 3}, {"parts": 1}, {"part": 0}):
        with pytest.raises(FormatError):
            check_body(record_type, {**body, **parts})
    with pytest.raises(FormatError, match="part together with parts"):
        check_body(record_type, {name: value for name, value in body.items() if name != "part"})


def test_a_finding_may_be_of_no_table_and_then_of_no_generation() -> None:
    check_body("finding", {**BODIES["finding"], "table": None, "generation": None})
    check_body("finding", {**BODIES["finding"], "generation": None})


@pytest.mark.parametrize("snapshot", ["3:3:", "3:9:3", "3:9:3,5,8", "1:18446744073709551615:"])
def test_a_snapshot_is_what_postgresql_prints(snapshot: str) -> None:
    check_body("table", PAPER.make("table", {**BODIES["table"], "snapshot": snapshot}).body)


def test_a_report_covers_days_or_times() -> None:
    check_body("report", {**BODIES["report"], "from": "2026-01-01T00:00:00.000000Z"})
    for wrong in ("2026-01-01T00:00", "20260101..", 20260101):
        with pytest.raises(FormatError):
            check_body("report", {**BODIES["report"], "from": wrong})


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(FormatError, match="known type"):
        check_body("vote", {})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda value: {**value, "more": 1}, "found a member 'more'"),
        (lambda value: {name: item for name, item in value.items() if name != "seq"}, "expected a member 'seq'"),
        (lambda value: {**value, "seq": 0}, "seq: expected an integer"),
        (lambda value: {**value, "n": "1"}, "n: expected an integer"),
        (lambda value: {**value, "at": "2026-11-21T18:09:40Z"}, "time"),
        (lambda value: {**value, "cluster": "A" * 32}, "cluster: expected 32"),
        (lambda value: {**value, "prev": "0" * 63}, "prev: expected 64"),
        (lambda value: {**value, "node": "Node1"}, "node id"),
        (lambda value: {**value, "sig": "AAAA"}, "sig: expected base64 of 64 bytes"),
        (lambda value: {**value, "sig": None}, "sig: expected base64 of 64 bytes"),
        (lambda value: {**value, "type": "seal"}, "seal: expected a member 'lsn'"),
        (lambda value: {**value, "type": None}, "type: expected a string"),
        (lambda value: {**value, "body": []}, "expected an object"),
        (lambda value: [value], "expected an object"),
    ],
)
def test_what_an_envelope_must_not_hold(edit: Callable[[Any], Any], message: str) -> None:
    value = record_to_json(PAPER.make("operator", BODIES["operator"]))
    assert parse_record(canonical(value))
    with pytest.raises(FormatError, match=message):
        parse_record(canonical(edit(value)))


def test_a_record_is_read_in_its_canonical_spelling_only() -> None:
    data = format_record(PAPER.make("operator", BODIES["operator"]))
    value = json.loads(data)
    swapped = {name: value[name] for name in reversed(value)}
    for spelling in (
        data + b"\n",
        b" " + data,
        json.dumps(value, sort_keys=True).encode(),
        json.dumps(swapped, separators=(",", ":")).encode(),
        data.replace(b"checkpoint", b"check\\u0070oint"),
        data.replace(b'"n":3', b'"n":3.0'),
        data.replace(b'"n":3', b'"n":3,"n":3'),
    ):
        assert spelling != data
        with pytest.raises(FormatError):
            parse_record(spelling)


def test_a_proposal_has_no_seq_and_a_record_has_one() -> None:
    record = PAPER.make("operator", BODIES["operator"], seq=None)
    with pytest.raises(FormatError, match="expected a seq"):
        format_record(record)
    with pytest.raises(FormatError, match="expected a member 'seq'"):
        parse_record(format_proposal(record))
    with pytest.raises(FormatError, match="found a member 'seq'"):
        parse_proposal(format_record(record.at_seq(3)))
    with pytest.raises(FormatError, match="another spelling"):
        parse_proposal(format_proposal(record).replace(b":", b": ", 1))


def test_a_record_of_65535_bytes_is_read_and_one_more_byte_is_refused() -> None:
    keys = ["k" * 4096] * 15

    def make(last: int) -> bytes:
        body = {"table": TABLE, "generation": 1, "keys": [*keys, "k" * last], "reason": ""}
        return format_record(PAPER.make("erase", {**body, "nonce": "0" * 32}))

    longest = MAX_RECORD_BYTES - len(make(0))
    assert len(make(longest)) == MAX_RECORD_BYTES
    assert parse_record(make(longest))
    with pytest.raises(FormatError, match="at most 65535 bytes"):
        make(longest + 1)
    with pytest.raises(FormatError, match="at most 65535 bytes"):
        parse_record(make(longest)[:-1] + b" }")


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 60_000, b'{"a":' * 10_000 + b"1" + b"}" * 10_000])
def test_what_is_no_record_at_all_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_record(data)


@given(
    at=st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999),
    n=st.integers(1, (1 << 53) - 1),
    seq=st.integers(1, (1 << 53) - 1),
    action=st.text(max_size=100),
    detail=st.text(max_size=100),
)
def test_any_record_round_trips(at: int, n: int, seq: int, action: str, detail: str) -> None:
    def make() -> bytes:
        record = sign_record(
            PAPER.identity("node1"),
            at=at,
            body={"action": action, "detail": detail},
            cluster=CLUSTER_ID,
            n=n,
            node="node1",
            prev="ab" * 32,
            record_type="operator",
            seq=seq,
        )
        assert check_record_signature(record, PAPER.identity("node1").public)
        assert parse_record(format_record(record)) == record
        assert parse_proposal(format_proposal(record)).at_seq(seq) == record
        return format_record(record)

    if "\0" in action + detail:
        with pytest.raises(FormatError, match="U\\+0000"):
            make()
    else:
        assert canonical(json.loads(make())) == make()


@given(st.integers(0, len(JOURNAL) - 1), st.data())
def test_no_changed_byte_of_a_record_keeps_its_signature_and_hash(index: int, data: st.DataObject) -> None:
    item = JOURNAL[index]
    original = item["canonical"].encode()
    position = data.draw(st.integers(0, len(original) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != original[position]))
    spoilt = original[:position] + bytes([other]) + original[position + 1 :]
    try:
        record = parse_record(spoilt)
    except FormatError:
        return
    assert record_leaf_hash(record).hex() != item["leaf"]
    signature_held = check_record_signature(record, b64decode(item["identity"]))
    assert not signature_held or record.seq != item["record"]["seq"]
