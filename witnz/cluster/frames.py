"""The frames of the members' channel, inside TLS.

    frame       length of the rest (uint32, big-endian), kind (uint8), body

    HELLO       "witnz-peer/1\\n" and the cluster's name: the first frame, once, in both directions
    PING        empty; whoever has nothing else to say sends it every second
    ENGINE      what the ordering engines say to each other, opaque here
    REQUEST     call id (uint64), total length of the request (uint32), length of the method's name (uint8), name, first chunk
    RESPONSE    call id, 0 for an answer or 1 for a refusal (uint8), total length (uint32), first chunk
    MORE        call id, 0 for a request's and 1 for a response's next chunk (uint8), chunk
    CANCEL      call id: the caller no longer waits

A refusal is the error's code and message, each UTF-8 with its length before it (uint16).  Call ids are the caller's own, so
those of the two directions do not meet.  Whatever does not follow this ends the connection.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from witnz.errors import FormatError

HELLO, PING, ENGINE, REQUEST, RESPONSE, MORE, CANCEL = range(1, 8)
MAX_FRAME: Final = 4 << 20
MAX_HELLO: Final = 1024
CHUNK_BYTES: Final = 64 << 10
MAX_METHOD_BYTES: Final = 64
ANSWER, REFUSAL = 0, 1
_MAGIC = b"witnz-peer/1\n"
_HEAD = struct.Struct(">IB")
_REQUEST = struct.Struct(">QIB")
_RESPONSE = struct.Struct(">QBI")
_MORE = struct.Struct(">QB")
_CALL = struct.Struct(">Q")
_TEXT = struct.Struct(">H")


@dataclass(frozen=True, slots=True)
class Request:
    call: int
    total: int
    method: str
    chunk: bytes


@dataclass(frozen=True, slots=True)
class Response:
    call: int
    kind: int
    total: int
    chunk: bytes


@dataclass(frozen=True, slots=True)
class More:
    call: int
    of_response: bool
    chunk: bytes


class FrameReader:
    """Cuts a stream of bytes into frames; holds at most one that is not complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.limit = _HEAD.size + MAX_HELLO
        """The longest frame accepted now, in bytes: a HELLO, until whoever reads says otherwise."""

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> tuple[int, bytes] | None:
        """(kind, body) of the next complete frame, None where more bytes are needed.  Raises FormatError for one too long."""
        if len(self._buffer) < _HEAD.size:
            return None
        length, kind = _HEAD.unpack_from(self._buffer)
        if not 1 <= length <= self.limit:
            raise FormatError(f"frame: expected a length from 1 to {self.limit}, found {length}")
        if len(self._buffer) < 4 + length:
            return None
        body = bytes(self._buffer[_HEAD.size : 4 + length])
        del self._buffer[: 4 + length]
        return kind, body


def format_frame(kind: int, body: bytes) -> bytes:
    return _HEAD.pack(1 + len(body), kind) + body


def format_hello(cluster: str) -> bytes:
    return _MAGIC + cluster.encode()


def check_hello(body: bytes, cluster: str) -> None:
    """Raises FormatError where the peer speaks another protocol or is of another cluster."""
    if body != format_hello(cluster):
        raise FormatError(f"hello: expected that of cluster {cluster}, found {body[:80]!r}")


def format_request(call: int, method: str, body: bytes) -> list[bytes]:
    """The frames of a request."""
    name = method.encode()
    head = _REQUEST.pack(call, len(body), len(name)) + name
    return _chunked(REQUEST, head, body, call, of_response=False)


def format_response(call: int, kind: int, body: bytes) -> list[bytes]:
    """The frames of an answer or a refusal."""
    return _chunked(RESPONSE, _RESPONSE.pack(call, kind, len(body)), body, call, of_response=True)


def _chunked(kind: int, head: bytes, body: bytes, call: int, *, of_response: bool) -> list[bytes]:
    frames = [format_frame(kind, head + body[:CHUNK_BYTES])]
    for start in range(CHUNK_BYTES, len(body), CHUNK_BYTES):
        frames.append(format_frame(MORE, _MORE.pack(call, of_response) + body[start : start + CHUNK_BYTES]))
    return frames


def format_cancel(call: int) -> bytes:
    return format_frame(CANCEL, _CALL.pack(call))


def parse_request(body: bytes) -> Request:
    if len(body) < _REQUEST.size:
        raise FormatError("request: too short")
    call, total, name_bytes = _REQUEST.unpack_from(body)
    name, chunk = body[_REQUEST.size : _REQUEST.size + name_bytes], body[_REQUEST.size + name_bytes :]
    if not 1 <= name_bytes <= MAX_METHOD_BYTES or len(name) != name_bytes or not name.isascii():
        raise FormatError("request: expected the name of a method")
    _check_chunk(chunk, total, first=True)
    return Request(call, total, name.decode("ascii"), chunk)


def parse_response(body: bytes) -> Response:
    if len(body) < _RESPONSE.size:
        raise FormatError("response: too short")
    call, kind, total = _RESPONSE.unpack_from(body)
    if kind not in (ANSWER, REFUSAL):
        raise FormatError(f"response: expected kind 0 or 1, found {kind}")
    chunk = body[_RESPONSE.size :]
    _check_chunk(chunk, total, first=True)
    return Response(call, kind, total, chunk)


def parse_more(body: bytes) -> More:
    if len(body) <= _MORE.size:
        raise FormatError("chunk: too short")
    call, of_response = _MORE.unpack_from(body)
    chunk = body[_MORE.size :]
    if of_response not in (0, 1) or len(chunk) > CHUNK_BYTES:
        raise FormatError("chunk: malformed")
    return More(call, bool(of_response), chunk)


def parse_cancel(body: bytes) -> int:
    if len(body) != _CALL.size:
        raise FormatError("cancel: expected a call id")
    return int(_CALL.unpack(body)[0])


def format_refusal(code: str, message: str) -> bytes:
    parts = [text.encode(errors="replace")[:2000] for text in (code, message)]
    return b"".join(_TEXT.pack(len(part)) + part for part in parts)


def parse_refusal(body: bytes) -> tuple[str, str]:
    """(code, message), control characters replaced; raises FormatError for anything else."""
    texts = []
    for _ in range(2):
        if len(body) < _TEXT.size:
            raise FormatError("refusal: too short")
        (length,) = _TEXT.unpack_from(body)
        raw, body = body[_TEXT.size : _TEXT.size + length], body[_TEXT.size + length :]
        if len(raw) != length:
            raise FormatError("refusal: too short")
        text = raw.decode(errors="replace")
        texts.append("".join(char if char.isprintable() else "?" for char in text))
    if body:
        raise FormatError("refusal: too long")
    return texts[0], texts[1]


def _check_chunk(chunk: bytes, total: int, *, first: bool) -> None:
    if first and len(chunk) != min(total, CHUNK_BYTES):
        raise FormatError(f"first chunk: expected {min(total, CHUNK_BYTES)} bytes, found {len(chunk)}")
