"""The engine's messages: one spelling, every field of its type, and nothing that could run."""

from __future__ import annotations

import pickle
import struct

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from witnz.cluster.engine import MAX_COMMAND_BYTES
from witnz.cluster.raft.codec import decode, encode
from witnz.cluster.raft.messages import NO_OP, format_command, format_frame, parse_command, parse_frame
from witnz.errors import FormatError

COMMAND = format_command(0, "node1/7", b"body")
GOOD = {
    "hello": {"type": "hello", "incarnation": b"i" * 16, "standing": 1, "term": 3},
    "welcome": {"type": "welcome", "incarnation": b"i" * 16, "forgotten": False},
    "pre_vote": {"type": "pre_vote", "term": 3, "last_log_index": 9, "last_log_term": 2},
    "pre_vote_granted": {"type": "pre_vote_granted", "term": 3},
    "request_vote": {"type": "request_vote", "term": 3, "last_log_index": 9, "last_log_term": 2},
    "response_vote": {"type": "response_vote", "term": 3},
    "append_entries": {
        "type": "append_entries",
        "term": 3,
        "commit_index": 9,
        "prevLogIdx": 9,
        "prevLogTerm": 2,
        "entries": ((COMMAND, 10, 3), (NO_OP, 11, 3)),
    },
    "next_node_idx": {
        "type": "next_node_idx",
        "next_node_idx": 4,
        "try_from": 2,
        "reset": True,
        "success": False,
        "term": 3,
        "voter": True,
    },
    "snapshot": {"type": "snapshot", "term": 3, "before_term": 2, "last": (COMMAND, 10, 3), "data": b"state"},
    "stale": {"type": "stale", "term": 3},
    "apply_command": {"type": "apply_command", "command": COMMAND},
}


@pytest.mark.parametrize("message", GOOD.values(), ids=list(GOOD))
def test_every_message_is_read_as_it_was_written(message) -> None:
    assert parse_frame(format_frame(5, message)) == (5, message)


WRONG = (None, True, -1, 1 << 62, 1.5, "text", b"bytes", (), (1,), {"a": 1}, [[b"\0x", 1, 1]])


@pytest.mark.parametrize("message", GOOD.values(), ids=list(GOOD))
def test_every_field_is_held_to_its_type(message) -> None:
    for name, right in message.items():
        for wrong in WRONG:
            if (
                type(wrong) is type(right)
                and name not in ("type", "command", "last", "incarnation")
                and wrong not in (-1, 1 << 62)
            ):
                continue
            if wrong == () and name == "entries":
                continue
            with pytest.raises(FormatError):
                parse_frame(msgpack.packb((5, {**message, name: wrong})))
        with pytest.raises(FormatError):
            parse_frame(msgpack.packb((5, {key: value for key, value in message.items() if key != name})))
    with pytest.raises(FormatError):
        parse_frame(msgpack.packb((5, {**message, "more": 1})))


def test_entries_that_do_not_follow_each_other_are_refused() -> None:
    message = {**GOOD["append_entries"], "entries": ((COMMAND, 10, 3), (COMMAND, 12, 3))}
    with pytest.raises(FormatError):
        parse_frame(format_frame(0, message))


@pytest.mark.parametrize("kind", [b"\2", b"\3", b"\4", b"", b"\1\1", b"\0"])
def test_membership_and_version_commands_do_not_exist(kind: bytes) -> None:
    """pysyncobj would obey them, and unpickle what is in them."""
    for body in (b"", pickle.dumps(["add", "evil:1"])):
        with pytest.raises(FormatError):
            parse_command(kind + body)
        with pytest.raises(FormatError):
            parse_frame(format_frame(0, {"type": "apply_command", "command": kind + body}))


def test_commands_have_bounds() -> None:
    assert parse_command(format_command(0, "k", bytes(MAX_COMMAND_BYTES))) is not None
    assert parse_command(NO_OP) is None
    for key, body in (("k", bytes(MAX_COMMAND_BYTES + 1)), ("k" * 201, b""), ("", b"")):
        with pytest.raises(FormatError):
            parse_command(format_command(0, key, body))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        pickle.dumps((5, GOOD["stale"])),
        b"\x80\x04\x95",
        msgpack.packb(msgpack.ExtType(1, b"x")),
        msgpack.packb(msgpack.Timestamp(1, 0)),
        msgpack.packb((5, msgpack.ExtType(5, b"abcd"))),
        msgpack.packb({1: 2}),
        encode((5, GOOD["stale"])) + b"\0",
        b"\x92\xcc\x05" + encode(GOOD["stale"]),  # 5 in two bytes instead of one
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 2000,
        b"\xd9\x02\xff\xfe",
    ],
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_frame(data)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_or_mean_themselves(data: bytes) -> None:
    try:
        value = decode(data, what="test")
    except FormatError:
        return
    assert encode(value) == data


@given(st.sampled_from(sorted(GOOD)), st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_another_message_of_the_grammar(kind: str, at: int, change: int) -> None:
    data = bytearray(format_frame(5, GOOD[kind]))
    data[at % len(data)] ^= change
    try:
        epoch, message = parse_frame(bytes(data))
    except FormatError:
        return
    assert format_frame(epoch, message) == bytes(data)


def test_lengths_are_not_believed() -> None:
    with pytest.raises(FormatError):
        decode(b"\xc6" + struct.pack(">I", 1 << 31) + b"x", what="test")
    with pytest.raises(FormatError):
        decode(bytes((4 << 20) + 1), what="test")
