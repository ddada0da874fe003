"""A real HTTP server on this machine that records what it is sent and answers as it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from witnz.ending import end_threads

Behaviour = Callable[["_Handler"], None]


@dataclass(frozen=True)
class Received:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """``behave`` answers each request; what came is in ``received``, also when the answer was none."""

    url: str
    behave: Behaviour
    received: list[Received] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def wait_for(self, count: int, timeout_s: float = 10.0) -> list[Received]:
        deadline = time.monotonic() + timeout_s
        while len(self.received) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.received


class _Handler(BaseHTTPRequestHandler):
    receiver: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.receiver.received.append(Received(self.path, {key.lower(): value for key, value in self.headers.items()}, body))
        self.receiver.behave(self)

    def do_GET(self) -> None:
        self.receiver.received.append(Received(self.path, {"method": "GET"}, b""))
        self.receiver.behave(self)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def answer(status: int, body: bytes = b"ok", **headers: str) -> Behaviour:
    """Answer with this; header names are written with ``_`` for ``-``."""

    def behave(handler: _Handler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return behave


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """The first request gets the first behaviour, and so on; the last one holds for all that follow."""
    lock, left = threading.Lock(), list(behaviours)

    def behave(handler: _Handler) -> None:
        with lock:
            chosen = left.pop(0) if len(left) > 1 else left[0]
        chosen(handler)

    return behave


def hang(handler: _Handler) -> None:
    """Never answer."""
    handler.receiver.stopping.wait(30)


def trickle(handler: _Handler) -> None:
    """Answer a byte at a time, for ever."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while not handler.receiver.stopping.wait(0.05):
        try:
            handler.wfile.write(b"X")
        except OSError:
            return


def endless(handler: _Handler) -> None:
    """Say yes and then never stop talking."""
    handler.send_response(200)
    handler.end_headers()
    while not handler.receiver.stopping.is_set():
        try:
            handler.wfile.write(b"x" * 65536)
        except OSError:
            return


def hang_up(handler: _Handler) -> None:
    """Close the connection without an answer."""
    handler.close_connection = True


@contextmanager
def receiver(behave: Behaviour | None = None) -> Iterator[Receiver]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.block_on_close = False
    made = Receiver(f"http://127.0.0.1:{server.server_address[1]}/hook/secret-path", behave or answer(200))
    server.RequestHandlerClass = type("Handler", (_Handler,), {"receiver": made})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield made
    finally:
        made.stopping.set()
        server.shutdown()
        end_threads(thread)
        server.server_close()
