"""HTTP over a Unix socket without any of witnz's own client: raw bytes, and as another user."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_AS_SOMEBODY = """
import http.client, json, os, socket, sys
path, uid, gid, groups, method, target, body = json.loads(sys.argv[1])
os.setgroups(groups); os.setgid(gid); os.setuid(uid)
connection = http.client.HTTPConnection("node")
connection.sock = socket.socket(socket.AF_UNIX)
try:
    connection.sock.connect(path)
except OSError as error:
    print(json.dumps([0, {}, type(error).__name__]))
    sys.exit()
try:
    connection.request(method, target, body.encode() if body is not None else None)
except BrokenPipeError:
    pass  # the node had heard enough
answer = connection.getresponse()
print(json.dumps([answer.status, dict(answer.getheaders()), answer.read().decode()]))
"""


@dataclass
class Answer:
    """Header names are in lower case; ``status`` 0: the socket could not be opened, ``text`` says why."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def ask(path: Path, method: str, target: str, body: bytes | None = None, **headers: str) -> Answer:
    """One request, as this process."""
    head = {"host": "node", "connection": "close", **{name.replace("_", "-"): value for name, value in headers.items()}}
    if body is not None:
        head.setdefault("content-length", str(len(body)))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items())]
    return parse(speak(path, "\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b"")))


def speak(path: Path, data: bytes, timeout_s: float = 10.0) -> bytes:
    """Send bytes, and read until the node closes the connection."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        connection.connect(str(path))
        answer = bytearray()
        with suppress(BrokenPipeError, ConnectionResetError):  # the node had heard enough; its answer is there to be read
            connection.sendall(data)
        with suppress(ConnectionResetError):
            while chunk := connection.recv(65_536):
                answer += chunk
        return bytes(answer)


def parse(data: bytes) -> Answer:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = _join_chunks(body)
    return Answer(int(first.split(" ")[1]), headers, body.decode())


def ask_as(
    path: Path, uid: int, gid: int, method: str, target: str, body: str | None = None, groups: Sequence[int] = ()
) -> Answer:
    """One request by a process of another user; only root can do that."""
    arguments = json.dumps([str(path), uid, gid, list(groups), method, target, body])
    done = subprocess.run(
        [sys.executable, "-I", "-c", _AS_SOMEBODY, arguments], capture_output=True, text=True, timeout=60, check=True
    )
    status, headers, text = json.loads(done.stdout)
    return Answer(status, {name.lower(): value for name, value in headers.items()}, text)


def _join_chunks(data: bytes) -> bytes:
    joined = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        count = int(size, 16)
        joined, data = joined + data[:count], data[count + 2 :]
        if count == 0:
            break
    return joined
