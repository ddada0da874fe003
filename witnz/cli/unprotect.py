"""``witnz unprotect``: the end of protection, which takes an operator's signature.

The order keeps every step safe to stop after and to run again: the journal has the signature -> the file no longer lists the
table -> the publication lets it go.  The other way round it would be a finding, and rightly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import typer

from witnz.cli.access import documents, own_node, running_client, table_name
from witnz.cli.command import SET_UP, Reason, add_command
from witnz.cli.configfile import load_edited, read_text, remove_tables, replace_file
from witnz.cli.dba_sql import admin_conninfo
from witnz.cli.deciding import Operator, OperatorKey, Yes, check_reason, confirm
from witnz.cli.invocation import Invocation, invocation
from witnz.cli.protect import AdminUrl, Tables
from witnz.cli.text import printable
from witnz.errors import Inconclusive, UsageError

if TYPE_CHECKING:
    from psycopg import Connection

    from witnz.config import Config

ENDED_WAIT_S: Final = 30.0


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    add_command(
        app,
        "unprotect",
        'witnz unprotect audit_logs --operator-key operator-alice.key --reason "replaced by events, ticket 4711"',
        section=SET_UP,
    )(unprotect)


def unprotect(
    context: typer.Context,
    tables: Tables,
    *,
    operator_key: OperatorKey,
    reason: Reason,
    admin_url: AdminUrl = None,
    yes: Yes = False,
) -> int:
    """End the protection of tables, signed by an operator.

    What was recorded stays, and stays provable.
    """
    from witnz.node.setup import conninfo_of
    from witnz.postgres.session import connect

    call = invocation(context)
    config = call.startable_config()
    check_reason(reason)
    operator = Operator.load(operator_key)
    names = [table_name(text) for text in tables]
    with connect(conninfo_of(config), application_name="witnz unprotect") as conn:
        related = [name for asked in names for name in (asked, *leaves_of(conn, asked))]
        protected = _protected(config, names, related)
        if protected:
            listed = ", ".join(printable(name) for name in protected)
            confirm(call.output, f"End the protection of {listed}, signed by {operator.name}?", yes=yes)
            end_protection(call, config, operator, protected, reason)
        _forget(config, names)
        statements = unpublish(conn, call.load_config(), names, admin_url)
    document = {
        "schema": "witnz.unprotect/1",
        "tables": names,
        "ended": protected,
        "operator": operator.name,
        "config": str(config.path),
        "sql": statements,
    }
    lines = [f"{printable(name)}: no longer protected, signed by {operator.name}" for name in protected]
    lines += [] if protected else ["no protection was left to end"]
    if statements:
        lines += ["the publication still holds more than it must; its owner may run:", *(f"  {text};" for text in statements)]
    call.output.answer(document, lines)
    return 0


def leaves_of(conn: Connection[Any], name: str) -> list[str]:
    """The partitions of a table, which are protected under their own names."""
    from witnz.core.names import parse_table_name
    from witnz.postgres import catalog

    info = catalog.find_table(conn, *parse_table_name(name))
    if info is None or not info.is_partitioned:
        return []
    return [leaf.witnz_name for leaf in catalog.leaf_partitions(conn, info.oid)]


def _protected(config: Config, asked: Sequence[str], related: Sequence[str]) -> list[str]:
    """Those that the journal protects.  Raises UsageError for one that never was, and that the file does not list."""
    with documents(config) as source:
        in_force = {table["name"] for table in source.tables() if table["protected"]}
        for name in asked:
            if name not in in_force and config.table(name) is None:
                source.table(name)
    return [name for name in dict.fromkeys(related) if name in in_force]


def end_protection(call: Invocation, config: Config, operator: Operator, names: Sequence[str], reason: str) -> None:
    """Journal a signed ``unprotect`` for each, and wait until nothing more is recorded."""
    with running_client(config) as client:
        if client is not None:
            cluster = str(client.status()["cluster"]["id"])
            for name in names:
                client.decide("unprotect", operator.sign("unprotect", {"table": name, "reason": reason}, cluster))
            _await(lambda: {table["name"] for table in client.tables()}, set(names))
            return
    with own_node(config, call.output) as node:
        for name in names:
            node.decide("unprotect", operator.sign("unprotect", {"table": name, "reason": reason}, node.cluster_id))
        _await(lambda: {state.name for state in node.states()}, set(names))


def _await(recorded: Callable[[], set[str]], names: set[str]) -> None:
    """Until nothing more is recorded of these tables: one that left the publication before that would be a finding."""
    deadline = time.monotonic() + ENDED_WAIT_S
    while names & recorded():
        if time.monotonic() > deadline:
            raise Inconclusive("the end of protection is journalled, and the stream has not come to it yet")
        time.sleep(0.05)


def _forget(config: Config, names: Sequence[str]) -> None:
    """Take the tables out of the file."""
    places = [place for place, table in enumerate(config.protected_tables) if table.name in names]
    if not places or config.path is None:
        return
    text = remove_tables(read_text(config.path), places)
    left = [table.name for table in config.protected_tables if table.name not in names]
    load_edited(config, text, left, f"take {', '.join(names)} out of protected_tables by hand")
    replace_file(config.path, text)


def unpublish(conn: Connection[Any], config: Config, names: Sequence[str], admin_url: str | None) -> list[str]:
    """Take the tables out of the publications as their owner, or the SQL that does."""
    from witnz.core.names import parse_table_name
    from witnz.node.setup import configured_tables
    from witnz.postgres import catalog
    from witnz.postgres.publication import apply, expected_publications, publication_state, repair_sql

    infos = [catalog.find_table(conn, *parse_table_name(name)) for name in names]
    gone = {info.oid for info in infos if info is not None}
    published, inserts = configured_tables(conn, config)
    if admin_url is not None:
        with _as_admin(admin_url) as admin:
            apply(admin, config.publication, published, inserts_only_tables=inserts, remove=gone)
        return []
    version = conn.info.server_version
    return [
        statement
        for expected in expected_publications(config.publication, published, inserts)
        for statement in repair_sql(expected, publication_state(conn, expected.name), version=version, remove=gone)
    ]


@contextmanager
def _as_admin(url: str) -> Iterator[Connection[Any]]:
    from witnz.postgres.session import WAITING_SILENCE_S, connect

    conninfo = admin_conninfo(url)
    if conninfo is None:
        raise UsageError("expected --admin-url")
    with connect(conninfo, application_name="witnz unprotect", silence_s=WAITING_SILENCE_S) as conn:
        yield conn
