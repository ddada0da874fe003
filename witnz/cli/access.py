"""Where a command gets its documents: from the running node, or, where none answers, from the node's store on disk.

Both have the same methods (:class:`Documents`).  What changes something, or needs the database, goes through the running node
too, or through a node that this process starts for the purpose and stops again: there is one writer at a time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

from witnz.errors import ConfigError, DatabaseUnreachable, Inconclusive, ReplicationImpossible, UsageError, WitnzError

if TYPE_CHECKING:
    from witnz.cli.output import Output
    from witnz.cli.stored import StoredDocuments
    from witnz.config import Config
    from witnz.node.node import Node
    from witnz.store.database import Database
    from witnz.web.client import NodeClient

SLOT_WAIT_S: Final = 5.0
CONNECT_WAIT_S: Final = 30.0
POLL_S: Final = 0.25


class Documents(Protocol):
    """What both sources answer; see :class:`witnz.node.view.StoreView`."""

    def status(self) -> dict[str, Any]: ...

    def tables(self) -> list[dict[str, Any]]: ...

    def table(self, name: str) -> dict[str, Any]: ...

    def log_entries(
        self,
        table: str,
        from_seq: int = 1,
        to_seq: int | None = None,
        key: str | None = None,
        limit: int = 100,
        *,
        generation: int | None = None,
    ) -> dict[str, Any]: ...

    def orders(self, table: str) -> dict[str, Any]: ...

    def findings(self, state: str | None = None, table: str | None = None) -> list[dict[str, Any]]: ...

    def finding(self, finding_id: str) -> dict[str, Any]: ...

    def checkpoints(self, limit: int = 100) -> list[dict[str, Any]]: ...

    def checkpoint(self, size: int | None = None) -> dict[str, Any]: ...

    def anchors(self, limit: int = 100) -> dict[str, Any]: ...

    def checkpoint_bundle(self, size: int | None = None) -> bytes: ...

    def row_bundle(self, table: str, key: str | None = None, *, seq: int | None = None, with_row: bool = False) -> bytes: ...


@contextmanager
def running_client(config: Config) -> Iterator[NodeClient | None]:
    """The client of the running node, or None where no node answers.  Raises KeyProblem where this user may not ask it."""
    from witnz.web.client import NodeClient

    with NodeClient(config.socket_path) as client:
        yield client if client.is_running() else None


@contextmanager
def documents(config: Config) -> Iterator[Documents]:
    """The documents of the running node, else of its store."""
    with running_client(config) as client:
        if client is not None:
            yield client
            return
    with stored(config) as view:
        yield view


@contextmanager
def stored(config: Config) -> Iterator[StoredDocuments]:
    """The documents of the node's store, which nothing here changes; a node may run on it meanwhile.

    Raises NotInitialised where there is no store, ConfigError for that of another cluster or node.
    """
    from witnz.cli.stored import StoredDocuments
    from witnz.node.view import load_journal_state

    with open_store(config) as db:
        yield StoredDocuments(db, load_journal_state(db), config)


@contextmanager
def open_store(config: Config) -> Iterator[Database]:
    """The node's store, read-only."""
    from witnz.store.database import Database
    from witnz.store.datadir import DataDir

    data = DataDir(config.data_dir)
    data.check(writable=False)
    with Database.open(data.database, read_only=True) as db:
        check_owner(db, config)
        yield db


def check_owner(db: Database, config: Config) -> None:
    """Raise ConfigError unless the store is that of the configuration's cluster and node."""
    from witnz.store import meta

    with db.read() as conn:
        cluster, node_id = meta.load_value(conn, "cluster"), meta.load_value(conn, "node")
    if (cluster, node_id) != (config.cluster, config.node_id):
        raise ConfigError(
            f"{config.data_dir} belongs to node {node_id} of {cluster},"
            f" the configuration says {config.node_id} of {config.cluster}",
            hint="use the data directory that `witnz init` made for this configuration",
            code="store.foreign",
        )


# -- a node of our own --------------------------------------------------------------------------------------------------------


@contextmanager
def idle_node(config: Config) -> Iterator[Node]:
    """A node of this process that does not listen to the database: enough to decide about what is recorded already.

    Raises StoreLocked where another process holds the data directory.
    """
    from witnz.node.node import Node

    node = Node(config)
    try:
        yield node
        node.seal_now()
    finally:
        node.close()


@contextmanager
def own_node(config: Config, output: Output) -> Iterator[Node]:
    """A node of this process, connected and with every table active; stopped, sealed and closed at the end.

    Raises what a node's start raises, DatabaseUnreachable where the stream does not connect, Inconclusive where a table does
    not become active.
    """
    from witnz.node.node import Node

    node = Node(config)
    started = False
    try:
        check_slot_free(config)
        node.start(chores=False, schedule=False)
        started = True
        _await_ready(node, output)
        yield node
    finally:
        if started:
            node.stop()
        else:
            node.close()


def check_slot_free(config: Config, wait_s: float = SLOT_WAIT_S) -> None:
    """Wait a moment for whoever reads our slot to go.  Raises ReplicationImpossible if they stay.

    A node that was killed leaves a walsender behind until the server notices; a second node would leave one for ever.
    """
    from witnz.node.setup import conninfo_of
    from witnz.postgres.session import connect
    from witnz.postgres.slot import slot_state

    deadline = time.monotonic() + wait_s
    with connect(conninfo_of(config), application_name="witnz start") as conn:
        while True:
            state = slot_state(conn, config.slot_name)
            if state is None or state.active_pid is None:
                return
            if time.monotonic() > deadline:
                raise ReplicationImpossible(
                    f"replication slot {config.slot_name} is in use by server process {state.active_pid}",
                    hint="another node, or another program, reads it: stop it, or give this node a slot_name of its own",
                    code="database.slot-in-use",
                )
            time.sleep(POLL_S)


def _await_ready(node: Node, output: Output) -> None:
    """Until the node is ready, for as long as it gets on: a baseline of a large table takes its time."""
    silent_since, before, told = time.monotonic(), (-1, -1), 0.0
    while True:
        try:
            node.wait_ready(POLL_S)
            return
        except Inconclusive as reason:
            openings = node.generations.opening()
            now = (len(openings), sum(opening.rows for opening in openings))
            if now != before:
                silent_since, before = time.monotonic(), now
            elif time.monotonic() - silent_since > CONNECT_WAIT_S:
                raise _not_ready(node, reason) from None
            if openings and time.monotonic() - told > 2:
                told = time.monotonic()
                output.note("; ".join(f"recording {o.plan.name}: {o.phase}, {o.rows} rows" for o in openings))


def _not_ready(node: Node, reason: Inconclusive) -> WitnzError:
    status = node.capture.status
    if status.connected:
        return reason
    return DatabaseUnreachable(
        f"the replication stream does not connect: {status.error or 'no reason given'}", hint="`witnz doctor` says more"
    )


def table_name(text: str) -> str:
    """The name, as in formats.md, of a table that a person names.  Raises UsageError."""
    from witnz.config.types import parse_table_reference
    from witnz.core.names import format_table_name
    from witnz.errors import FormatError

    try:
        schema, table = parse_table_reference(text)
    except FormatError as error:
        raise UsageError(f"table {text[:80]!r} {error.message}") from None
    return format_table_name(schema or "public", table)
