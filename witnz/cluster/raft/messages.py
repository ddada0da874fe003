"""What members of the built-in engine say to each other, type by type, and nothing else.

    hello          who this journal is: its incarnation, drawn when it was made, its standing, its term
    welcome        the answer: whether the incarnation is the one that was known, or the first
    pre_vote       would you vote for me, in the term after mine?  (Raft dissertation 9.6: without it, one member that cannot
                   hear the leader makes everybody elect anew, again and again)
    pre_vote_granted
    request_vote, response_vote, append_entries, next_node_idx      as pysyncobj has them
    snapshot       instead of entries that the leader no longer has
    stale          you speak in a term that is over; mine is this
    apply_command  a member's proposal, to the leader

A frame is the pair (epoch, message).  Commands are one byte, 0 for a command and 1 for pysyncobj's own no-op, and for a command
the triple (kind, key, body): kind 0 is for the application, 1 is a barrier, for nobody.
"""

from __future__ import annotations

from typing import Any, Final

from witnz.cluster.engine import MAX_COMMAND_BYTES, MAX_SNAPSHOT_BYTES
from witnz.cluster.raft.codec import decode, encode
from witnz.errors import FormatError

Message = dict[str, Any]
Entry = tuple[bytes, int, int]
"""(command, index, term)"""

REGULAR, NO_OP = b"\0", b"\1"
COMMAND, BARRIER = 0, 1
MAX_KEY_CHARS: Final = 200
MAX_NUMBER: Final = 1 << 62
INCARNATION_BYTES: Final = 16
_MAX_ENTRY_BYTES = MAX_COMMAND_BYTES + 2048


def format_command(kind: int, key: str, body: bytes) -> bytes:
    """What is put into the Raft log."""
    return REGULAR + encode((kind, key, body))


def parse_command(command: bytes) -> tuple[int, str, bytes] | None:
    """(kind, key, body), or None for a no-op.  Raises FormatError for anything else, membership commands among it."""
    if command == NO_OP:
        return None
    if command[:1] != REGULAR or len(command) > _MAX_ENTRY_BYTES:
        raise FormatError(f"command: expected one of at most {_MAX_ENTRY_BYTES} bytes, found type {command[:1]!r}")
    value = decode(command[1:], what="command")
    if type(value) is not tuple or len(value) != 3:
        raise FormatError("command: expected kind, key and body")
    kind, key, body = value
    if kind not in (COMMAND, BARRIER) or type(kind) is not int or type(key) is not str or type(body) is not bytes:
        raise FormatError("command: expected kind, key and body")
    if not 0 < len(key) <= MAX_KEY_CHARS or len(body) > MAX_COMMAND_BYTES:
        raise FormatError("command: key or body is too long")
    return kind, key, body


def format_frame(epoch: int, message: Message) -> bytes:
    return encode((epoch, message))


def parse_frame(data: bytes) -> tuple[int, Message]:
    """(epoch, message), every field of its type and in its range; raises FormatError for anything else."""
    value = decode(data, what="engine frame")
    if type(value) is not tuple or len(value) != 2 or type(value[1]) is not dict:
        raise FormatError("engine frame: expected an epoch and a message")
    epoch, message = value
    _number(epoch, "epoch")
    kind = message.get("type")
    shape = _SHAPES.get(kind) if type(kind) is str else None
    if shape is None or message.keys() - {"type"} != shape.keys():
        raise FormatError(f"engine frame: unknown type or members of {str(kind)[:40]!r}")
    for name, check in shape.items():
        check(message[name], name)
    return epoch, message


def _number(value: Any, name: str) -> None:
    if type(value) is not int or not 0 <= value < MAX_NUMBER:
        raise FormatError(f"engine frame: {name} is no number in range")


def _flag(value: Any, name: str) -> None:
    if type(value) is not bool:
        raise FormatError(f"engine frame: {name} is neither true nor false")


def _incarnation(value: Any, name: str) -> None:
    if type(value) is not bytes or len(value) != INCARNATION_BYTES:
        raise FormatError(f"engine frame: {name} is no incarnation")


def _command(value: Any, name: str) -> None:
    if type(value) is not bytes:
        raise FormatError(f"engine frame: {name} is not bytes")
    parse_command(value)


def _entry(value: Any, name: str) -> None:
    if type(value) is not tuple or len(value) != 3:
        raise FormatError(f"engine frame: {name} is no entry")
    _command(value[0], name)
    _number(value[1], name)
    _number(value[2], name)


def _entries(value: Any, name: str) -> None:
    if type(value) is not tuple:
        raise FormatError(f"engine frame: {name} is no list")
    for entry in value:
        _entry(entry, name)
    if any(entry[1] != value[0][1] + place for place, entry in enumerate(value)):
        raise FormatError(f"engine frame: {name} do not follow each other")


def _snapshot_data(value: Any, name: str) -> None:
    if type(value) is not bytes or len(value) > MAX_SNAPSHOT_BYTES:
        raise FormatError(f"engine frame: {name} is no snapshot")


_SHAPES: Final = {
    "hello": {"incarnation": _incarnation, "standing": _number, "term": _number},
    "welcome": {"incarnation": _incarnation, "forgotten": _flag},
    "pre_vote": {"term": _number, "last_log_index": _number, "last_log_term": _number},
    "pre_vote_granted": {"term": _number},
    "request_vote": {"term": _number, "last_log_index": _number, "last_log_term": _number},
    "response_vote": {"term": _number},
    "append_entries": {
        "term": _number, "commit_index": _number, "prevLogIdx": _number, "prevLogTerm": _number, "entries": _entries,
    },
    "next_node_idx": {
        "next_node_idx": _number, "try_from": _number, "reset": _flag, "success": _flag, "term": _number, "voter": _flag,
    },
    "snapshot": {"term": _number, "before_term": _number, "last": _entry, "data": _snapshot_data},
    "stale": {"term": _number},
    "apply_command": {"command": _command},
}  # fmt: skip
