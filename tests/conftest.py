"""Fixtures of the whole suite: real PostgreSQL servers, one fresh database a test.

``WITNZ_TEST_PG=13|14|15|16|17|18`` chooses the server of ``pg_server``.  ``--matrix`` also runs what is marked ``matrix``.
Servers do not live below ``tmp_path``: as root they run as another account, which may not enter it.
"""

from __future__ import annotations

import faulthandler
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.support.postgres import Database, create_database, prepare_server
from witnz.demo.installation import find_installation
from witnz.demo.server import PostgresServer
from witnz.demo.storage import StorageServer
from witnz.errors import WitnzError

DEFAULT_VERSION = int(os.environ.get("WITNZ_TEST_PG", "16"))
OLDER = (13, 14, 15, 17)  # what no wheel brings: from npm or the distribution
SERVER_FIXTURES = {"pg_server", "database", "own_server", "every_server", "every_database", "older_server"}

for _name in [name for name in os.environ if name.startswith("PG")]:
    del os.environ[_name]  # a developer's own database never comes into play

# The stores of many nodes are synced to a disk thousands of times, only to be thrown away: where memory has room for the tests'
# files (1.5 GB in all), that takes a third of the time away.  PostgreSQL's own files stay where TMPDIR says; it does not sync.
MEMORY, ROOM = Path("/dev/shm"), 8 << 30
if (
    "TMPDIR" not in os.environ
    and os.access(MEMORY, os.W_OK)
    and shutil.disk_usage(MEMORY).free > ROOM
    and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

# Time limits say more about the neighbours on the machine than about the code.
hypothesis.settings.register_profile("witnz", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("witnz")

# pytest-timeout interrupts a test once; whoever then hangs in its own clean-up, or holds the interpreter's lock, would hold up
# the whole run.  This timer is a thread of C: it shows all stacks and ends the process whatever the interpreter does.
GRACE_S = 180
_report = pytest.StashKey[int]()


def pytest_sessionstart(session: pytest.Session) -> None:
    assert sys.__stderr__ is not None
    session.config.stash[_report] = os.dup(sys.__stderr__.fileno())  # while tests run, pytest has put a file of its own there


def _end_unless_over_within(seconds: float, config: pytest.Config) -> None:
    faulthandler.dump_traceback_later(seconds, exit=True, file=config.stash[_report])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    marker = item.get_closest_marker("timeout")
    limit_s = float(marker.args[0] if marker else item.config.getini("timeout"))
    _end_unless_over_within(limit_s + GRACE_S, item.config)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:  # a worker waits for the others
        _end_unless_over_within(GRACE_S, session.config)  # threads that somebody forgot keep a process alive


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--matrix", action="store_true", help="also run the tests of older servers, marked `matrix`")


def pytest_report_header() -> str:
    try:
        found = find_installation(DEFAULT_VERSION)
    except WitnzError as error:
        return f"PostgreSQL: {error} ({error.hint})"
    return f"PostgreSQL: {found.version} in {found.bin}"


def _needs(item: pytest.Item) -> str:
    """Why the server that tests share is too old for this test, or nothing."""
    for marker in item.iter_markers("since"):
        version, why = marker.args
        if version > DEFAULT_VERSION:
            return f"PostgreSQL {DEFAULT_VERSION}: {why} came with {version}"
    return ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if why := _needs(item):
            item.add_marker(pytest.mark.skip(reason=why))
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)  # whole files; several workers end at about the same time so
    for item in items:
        if SERVER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.postgres)
    if config.getoption("--matrix") or "matrix" in (config.getoption("markexpr") or ""):
        return
    left_out = [item for item in items if item.get_closest_marker("matrix")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("matrix")]


@pytest.fixture(scope="session")
def pg_server() -> Iterator[PostgresServer]:
    """The server that tests share; who restarts one or edits its files takes ``own_server``."""
    with PostgresServer(version=DEFAULT_VERSION) as server:
        prepare_server(server)
        yield server


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageServer]:
    """A real S3 server with Object Lock; a test makes buckets of its own on it."""
    with StorageServer.start(tmp_path_factory.mktemp("storage")) as server:
        yield server


@pytest.fixture
def database(pg_server: PostgresServer) -> Iterator[Database]:
    """A fresh database with the roles ``app_owner`` and ``witnz``."""
    created = create_database(pg_server)
    yield created
    created.drop()


@pytest.fixture(
    scope="session",
    params=[16, 18, *(pytest.param(version, marks=pytest.mark.matrix) for version in OLDER)],
    ids=lambda version: f"pg{version}",
)
def every_server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """Each supported version in turn: 16 and 18 always, others with ``--matrix``; the shared server where it is of that one."""
    if request.param == DEFAULT_VERSION:
        yield request.getfixturevalue("pg_server")
        return
    with PostgresServer(version=request.param) as server:
        prepare_server(server)
        yield server


@pytest.fixture
def every_database(every_server: PostgresServer) -> Iterator[Database]:
    """A fresh database on each version in turn."""
    created = create_database(every_server)
    yield created
    created.drop()


@pytest.fixture
def own_server() -> Iterator[Callable[..., PostgresServer]]:
    """``own_server(version=…, settings=…, …)`` starts a server for this test alone (PostgresServer's arguments).

    ``checksums=False``: none in its pages, for a test that edits them.
    """
    with ExitStack() as stack:

        def start(*, checksums: bool = True, **keywords: Any) -> PostgresServer:
            keywords.setdefault("version", DEFAULT_VERSION)
            if not checksums and keywords["version"] >= 18:  # where initdb makes them unless told otherwise
                keywords["initdb_args"] = [*keywords.get("initdb_args", ()), "--no-data-checksums"]
            return stack.enter_context(PostgresServer(**keywords))

        yield start
