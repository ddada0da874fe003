"""Who dials a member's port and is none, or is a member and does not keep to the protocol: raw TLS, and what it sends."""

from __future__ import annotations

import pickle
import socket
import struct

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from OpenSSL import SSL

from witnz.cluster import frames
from witnz.cluster.tls import PROTOCOL, make_certificate

PICKLE = pickle.dumps(ValueError("run me"))  # what it says does not matter: nothing may load it


def client(key: Ed25519PrivateKey | None, name: str = "node1") -> SSL.Context:
    """A client that would accept any server; with the certificate of a key of its own choice."""
    made = SSL.Context(SSL.TLS_METHOD)
    made.set_verify(SSL.VERIFY_NONE, lambda *_: True)
    made.set_alpn_protos([PROTOCOL])
    if key is not None:
        made.use_certificate(make_certificate(name, key))
        made.use_privatekey(key)
    return made


def talk(port: int, tls: SSL.Context, data: bytes, *, wait_s: float = 10.0) -> bytes:
    """Connect, send, and everything that comes back until the other side hangs up.  TimeoutError where it does not."""
    with socket.create_connection(("127.0.0.1", port), wait_s) as raw:
        connection = SSL.Connection(tls, None)
        connection.set_connect_state()
        raw.settimeout(wait_s)
        answer, sent = b"", False
        while True:
            try:
                if not sent:
                    connection.do_handshake()
                    connection.sendall(data)
                    sent = True
                answer += connection.recv(65536)
            except SSL.WantReadError:
                pass
            except SSL.Error:
                return answer
            try:
                while True:
                    raw.sendall(connection.bio_read(65536))
            except SSL.WantReadError:
                pass
            except OSError:
                return answer
            try:
                received = raw.recv(65536)
            except ConnectionError:
                return answer
            if not received:
                return answer
            connection.bio_write(received)


def shout(port: int, data: bytes) -> bytes:
    """The same without TLS."""
    with socket.create_connection(("127.0.0.1", port), 10) as raw:
        raw.settimeout(20)
        raw.sendall(data)
        raw.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := raw.recv(65536):
            answer += chunk
    return answer


def hello(cluster: str) -> bytes:
    return frames.format_frame(frames.HELLO, frames.format_hello(cluster))


def malformed(cluster: str) -> dict[str, bytes]:
    """What ends the connection of whoever sends it, members included."""
    first = hello(cluster)
    return {
        "no hello": frames.format_frame(frames.PING, b""),
        "a hello of another cluster": hello("other.example/app"),
        "a hello too long": struct.pack(">IB", 5000, frames.HELLO),
        "a frame too long": first + struct.pack(">IB", frames.MAX_FRAME + 1, frames.ENGINE),
        "the longest length": first + b"\xff\xff\xff\xff" + b"\x03",
        "no length": first + b"\x00\x00\x00\x00",
        "an unknown kind": first + frames.format_frame(99, b""),
        "two hellos": first + first,
        "a ping with a body": first + frames.format_frame(frames.PING, b"x"),
        "a short request": first + frames.format_frame(frames.REQUEST, b"\x00" * 5),
        "a request without a method": first + frames.format_frame(frames.REQUEST, struct.pack(">QIB", 1, 0, 0)),
        "a method that is not text": first + frames.format_frame(frames.REQUEST, struct.pack(">QIB", 1, 0, 2) + b"\xff\xfe"),
        "a chunk that is longer than said": first
        + frames.format_frame(frames.REQUEST, struct.pack(">QIB", 1, 3, 4) + b"echolonger"),
        "more than was announced": first
        + frames.format_request(1, "echo", bytes(70_000))[0]
        + frames.format_frame(frames.MORE, struct.pack(">QB", 1, 0) + bytes(60_000)),
        "a call id twice": first + frames.format_request(1, "echo", bytes(70_000))[0] * 2,
        "a cancel of nothing": first + frames.format_frame(frames.CANCEL, b""),
        "a response of a third kind": first + frames.format_frame(frames.RESPONSE, struct.pack(">QBI", 1, 7, 0)),
        "a pickle": first + frames.format_frame(42, PICKLE),
    }
