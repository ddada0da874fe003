"""A TCP proxy that can be made narrow: what the server sends passes in small pieces with a pause between them.

Or it falls silent: behind certain bytes nothing more of that connection's answers passes, and the connection stands.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

PIECE_BYTES = 16 << 10
WHOLE_BYTES = 1 << 20


class NarrowProxy:
    """Forwards ``127.0.0.1:port`` to ``target``; while ``pause_s`` is set, 16 KiB at a time of each connection's answers.

    ``silent_after``: the bytes behind which an answer ends.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.pause_s = 0.0
        self.silent_after = b""
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ends: list[socket.socket] = []
        self._closing = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closing.set()
        for end in (self._listener, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._ends += [near, far]
                threading.Thread(target=self._forward, args=(near, far), daemon=True).start()
                threading.Thread(target=self._forward, args=(far, near, True), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, narrow: bool = False) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(PIECE_BYTES if narrow and self.pause_s else WHOLE_BYTES):
                if narrow and self.silent_after and self.silent_after in data:
                    sink.sendall(data[: data.index(self.silent_after) + len(self.silent_after)])
                    self._closing.wait()
                    break
                sink.sendall(data)
                if narrow and self.pause_s:
                    self._closing.wait(self.pause_s)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
