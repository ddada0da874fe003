"""Every precondition of witnz on a PostgreSQL server, as named checks with a way to put each right: ``witnz doctor``.

Asked with the role and over the connection that a node will use.  A check says ``ok``, ``warn`` (it works, and something is
worth knowing), ``fail`` or ``skip`` (not asked, because what it needs already failed).  The order is that of repair.

What is asked of one table (:mod:`witnz.postgres.eligibility`) ``protect``, ``init`` and ``start`` ask as well.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import psycopg

from witnz.errors import WitnzError
from witnz.postgres.catalog import find_table
from witnz.postgres.eligibility import Problem, raise_fatal, require_table, table_problems
from witnz.postgres.exercise import exercise_stream
from witnz.postgres.publication import TableName, differences, expected_publications, publication_names, publication_state
from witnz.postgres.server_checks import SERVER_CHECKS, STREAM_NEEDS, DoctorCheck
from witnz.postgres.session import Connection, Conninfo, connect
from witnz.postgres.sqlstate import classify_error

__all__ = [
    "DoctorCheck",
    "Problem",
    "WatchedTable",
    "doctor",
    "exercise_stream",
    "raise_fatal",
    "require_table",
    "table_problems",
]


@dataclass(frozen=True, slots=True)
class WatchedTable:
    """A table that is or is to be protected, as the configuration or the journal has it (raw identifiers)."""

    schema: str
    name: str
    mode: str = "state_integrity"
    inserts_only: bool = False
    excluded_columns: tuple[str, ...] = ()


def doctor(
    conninfo: Conninfo,
    *,
    publication: str,
    tables: Sequence[WatchedTable],
    slot: str | None = None,
    timeout_s: float = 10.0,
) -> list[DoctorCheck]:
    """All checks, worst news included; never raises for what it finds, only for a publication name that cannot be one.

    ``slot``: this node's own slot, if it already has one.  ``tables`` are those that the publication must hold.
    """
    publication_names(publication)
    try:
        session = connect(conninfo, application_name="witnz doctor")
    except WitnzError as error:
        skipped = [DoctorCheck(name, "skip", "the database could not be entered") for name in _names(tables)]
        return [DoctorCheck("server.connect", "fail", error.message, error.hint), *skipped]
    checks = [DoctorCheck("server.connect", "ok", f"connected as {conninfo.describe()} with the settings that it needs")]
    with session:
        for name, check in SERVER_CHECKS.items():
            checks += _guarded(name, partial(check, session, slot))
        checks.append(_tls(conninfo, encrypted=bool(session.pgconn.ssl_in_use)))
        for table in tables:
            checks += _guarded(_label(table), partial(_table, session, table))
        checks += _guarded("publication", partial(_publication, session, publication, tables))
        made = all(publication_state(session, name) is not None for name in publication_names(publication))
    broken = sorted(STREAM_NEEDS & {check.name for check in checks if check.status == "fail"})
    if not made:
        broken.append("publication")  # a stream under a name that does not exist breaks at the first change of any table
    if broken:
        return [*checks, DoctorCheck("stream", "skip", f"not tried before {', '.join(broken)} is put right")]
    return checks + _guarded("stream", partial(_stream, conninfo, publication, timeout_s))


def _guarded(name: str, check: Callable[[], DoctorCheck | list[DoctorCheck]]) -> list[DoctorCheck]:
    """What ``check`` says; an error of the server while asking fails that check, not the doctor."""
    try:
        said = check()
    except WitnzError as error:
        return [DoctorCheck(name, "fail", error.message, error.hint)]
    except psycopg.Error as error:
        known = classify_error(error, doing=name)
        return [DoctorCheck(name, "fail", known.message, known.hint)]
    return said if isinstance(said, list) else [said]


def _names(tables: Sequence[WatchedTable]) -> Iterator[str]:
    yield from SERVER_CHECKS
    yield "connection.tls"
    yield from map(_label, tables)
    yield from ("publication", "stream")


# -- the connection, the tables, the publication ----


def _tls(conninfo: Conninfo, *, encrypted: bool) -> DoctorCheck:
    if _is_local(conninfo.host):
        return DoctorCheck("connection.tls", "ok", "the connection does not leave this machine")
    if conninfo.sslmode == "verify-full":
        return DoctorCheck("connection.tls", "ok", "the server's certificate and name are checked (sslmode verify-full)")
    state = "encrypted, but the server is not checked" if encrypted else "not encrypted"
    hint = "set sslmode: verify-full and sslrootcert to the authority that signed the server's certificate"
    return DoctorCheck("connection.tls", "warn", f"sslmode is {conninfo.sslmode}: the connection is {state}", hint)


def _is_local(host: str) -> bool:
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _label(table: WatchedTable) -> str:
    return f"table {table.schema}.{table.name}"


def _table(session: Connection, table: WatchedTable) -> list[DoctorCheck]:
    """One check that is ok, or one for each problem."""
    name = _label(table)
    info = require_table(session, table.schema, table.name)
    problems = table_problems(
        session, info, mode=table.mode, inserts_only=table.inserts_only, excluded_columns=table.excluded_columns
    )
    if not problems:
        return [DoctorCheck(name, "ok", "it can be read, its rows are identified, its columns are stable")]
    return [DoctorCheck(name, "fail" if p.fatal else "warn", p.message, p.hint) for p in problems]


def _publication(session: Connection, publication: str, tables: Sequence[WatchedTable]) -> DoctorCheck:
    """Both publications against the tables that exist; what is missing is told by the tables' own checks."""
    oids: dict[bool, dict[int, TableName]] = {False: {}, True: {}}
    for table in tables:
        info = find_table(session, table.schema, table.name)
        if info is not None:
            oids[table.inserts_only][info.oid] = (info.schema, info.name)
    found = []
    for expected in expected_publications(publication, oids[False], oids[True]):
        wrong = differences(expected, publication_state(session, expected.name))
        found += [text if expected.name in text else f"{expected.name}: {text}" for text in wrong]
    if found:
        hint = "`witnz init --admin-url URL` puts it right, `witnz init --print-sql` prints what the tables' owner has to run"
        return DoctorCheck("publication", "fail", "; ".join(found), hint)
    return DoctorCheck("publication", "ok", f"{publication} publishes exactly the protected tables ({len(tables)})")


def _stream(conninfo: Conninfo, publication: str, timeout_s: float) -> DoctorCheck:
    return DoctorCheck("stream", "ok", exercise_stream(conninfo, publication_names(publication), timeout_s=timeout_s))
