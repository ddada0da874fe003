"""The HTTP interface on a Unix socket: uvicorn in a thread of the node's process (interface.md 6).

Rules of this file:

1.  The socket never exists with wider permissions than it shall have: its mode is set on the descriptor before ``bind`` makes
    the file (Linux takes it from there, umask permitting), so no umask has to be changed, which would be the whole process's.
2.  A socket file on which nobody answers is left over and goes; one on which somebody answers is another node's and stays.
3.  Each connection carries the credentials that the kernel gave it (:mod:`witnz.web.peer`); requests find them in their state.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import threading
from pathlib import Path
from typing import Any, Final, NoReturn

import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from witnz.config.types import UNIX_PATH_MAX_BYTES
from witnz.ending import end_threads
from witnz.errors import ConfigError, KeyProblem, StoreError, StoreFull, StoreLocked, WitnzError
from witnz.web.app import Served, create_app
from witnz.web.peer import UNKNOWN, Doorman, read_peer

log = structlog.get_logger(__name__)

BACKLOG: Final = 128
MAX_CONNECTIONS: Final = 256
MAX_HEADER_BYTES: Final = 64 * 1024
STARTUP_S: Final = 10.0
GRACE_S: Final = 3  # for answers that are under way when the node stops
PROBE_S: Final = 2.0


class SocketServer:
    """Serves one node on one socket.  ``group``: whose members are auditors; None: only the owner and root get in."""

    def __init__(self, node: Served, path: Path, group: str | None = None) -> None:
        self.path = path
        self._doorman = Doorman.of(group)
        self._app = create_app(node, self._doorman)
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._inode: tuple[int, int] | None = None
        self._failure: BaseException | None = None

    def start(self) -> None:
        """Listen, and return once requests are answered.

        Raises ConfigError for a path that cannot be a socket, StoreLocked if another process answers there, StoreFull and
        KeyProblem where the file cannot be made.
        """
        listener = bind_socket(self.path, self._doorman.group)
        found = self.path.lstat()
        self._inode = (found.st_dev, found.st_ino)
        self._server = uvicorn.Server(_settings(self._app))
        self._thread = threading.Thread(target=self._run, args=(self._server, listener), name="http", daemon=True)
        self._thread.start()
        waited = threading.Event()
        for _ in range(int(STARTUP_S / 0.01)):
            if self._server.started:
                log.info("socket was opened", path=str(self.path))
                return
            if not self._thread.is_alive():
                break
            waited.wait(0.01)
        self.stop()
        raise WitnzError(f"the HTTP interface did not start on {self.path}: {self._failure or 'no answer'}")

    def stop(self) -> None:
        """Let answers that are under way finish for a moment, close, and remove the socket; a second call does nothing."""
        if self._server is None or self._thread is None:
            return
        self._app.state.stopping.set()
        self._app.state.long_work.close()
        self._app.state.node.events.close()
        self._server.should_exit = True
        end_threads(self._thread)
        self._server = self._thread = None
        self._remove()
        log.info("socket was closed", path=str(self.path))

    def __enter__(self) -> SocketServer:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _run(self, server: uvicorn.Server, listener: socket.socket) -> None:
        try:
            server.run(sockets=[listener])
        except (OSError, SystemExit, WitnzError) as error:
            self._failure = error
            log.error("HTTP interface ended", reason=str(error))
        finally:
            listener.close()

    def _remove(self) -> None:
        """Remove the socket file if it is still the one that this server made."""
        try:
            found = self.path.lstat()
            if (found.st_dev, found.st_ino) == self._inode:
                self.path.unlink()
        except FileNotFoundError:
            pass


class PeerProtocol(H11Protocol):
    """HTTP/1.1 of which every request's state names the peer of its connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        connection = transport.get_extra_info("socket")
        peer = UNKNOWN if connection is None else read_peer(connection)
        self.app_state = {**self.app_state, "peer": peer}
        super().connection_made(transport)


def _settings(app: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=PeerProtocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,  # witnz.logging decides what is shown
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_graceful_shutdown=GRACE_S,
    )


def bind_socket(path: Path, group: int | None) -> socket.socket:
    """A listening socket at ``path``: 0600, or 0660 for a group.  Raises as :meth:`SocketServer.start` says."""
    check_socket_path(path)
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(str(path))
        path.chmod(0o600)  # where the system does not take the mode from the descriptor
        if group is not None:
            os.chown(path, -1, group)
            path.chmod(0o660)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        _refuse(error, path)
    return listener


def check_socket_path(path: Path) -> None:
    """Raises ConfigError for a path that no Unix socket can have (sun_path of unix(7))."""
    if len(os.fsencode(path)) > UNIX_PATH_MAX_BYTES:
        raise ConfigError(
            f"socket {path}: expected a path of at most {UNIX_PATH_MAX_BYTES} bytes, found {len(os.fsencode(path))}",
            hint="set socket_path to a shorter one, for instance below /run/witnz",
        )


def _clear(path: Path) -> None:
    """Remove what a process that died left behind."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        _refuse(error, path)
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"socket {path}: a file that is no socket stands there", hint="set socket_path to a free path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ETIMEDOUT):  # a full backlog: somebody listens
                _refuse(error, path)
    raise StoreLocked(
        f"socket {path} is served by another process", hint="stop that node, or give this one a socket_path of its own"
    )


def _refuse(error: OSError, path: Path) -> NoReturn:
    """Raise what an operating system error on the socket's path amounts to."""
    if error.errno in (errno.EACCES, errno.EPERM):
        raise KeyProblem(
            f"socket {path} cannot be made: {error.strerror}",
            hint="run as the user that owns its folder and is in socket_group",
        ) from error
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        raise ConfigError(
            f"socket {path} cannot be made: its folder does not exist", hint=f"make {path.parent}, or set socket_path"
        ) from error
    if error.errno in (errno.ENOSPC, errno.EROFS, errno.EDQUOT):
        raise StoreFull(f"socket {path} cannot be made: {error.strerror}") from error
    raise StoreError(f"socket {path} cannot be made: {error.strerror}") from error
