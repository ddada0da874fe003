"""A node of real parts behind a real socket."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.served import Shared, StandingNode
from witnz.web.client import NodeClient
from witnz.web.server import SocketServer


@pytest.fixture
def node(tmp_path: Path) -> Iterator[StandingNode]:
    tmp_path.chmod(0o700)
    standing = StandingNode(tmp_path)
    yield standing
    standing.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a name short enough for sockets, that others can enter."""
    made = Path(tempfile.mkdtemp(prefix="wz-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def socket_path(node: StandingNode, folder: Path) -> Iterator[Path]:
    with SocketServer(node, folder / "witnz.sock") as server:
        yield server.path


@pytest.fixture
def client(socket_path: Path) -> Iterator[NodeClient]:
    with NodeClient(socket_path) as made:
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    standing = StandingNode(tmp_path_factory.mktemp("shared"))
    standing.add_table(rows=300)
    standing.seal()
    with tempfile.TemporaryDirectory(prefix="wz-") as made, SocketServer(standing, Path(made) / "s") as server:
        yield Shared(standing, server.path, standing.find())
    standing.close()
