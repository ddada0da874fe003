"""Whether a table can be protected: every obstacle with its own sentence and the one statement that removes it.

Used by ``protect``, ``init``, ``start`` and ``doctor`` alike.  A *fatal* problem refuses the table; the others are told and
lived with.  The rule behind the hardest one: publishing updates of a table whose rows nothing identifies makes PostgreSQL
refuse the *application's* UPDATE and DELETE statements, and witnz never breaks writes (threats.md 3).
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from psycopg import Connection, sql

from witnz.errors import ConfigError, KeyProblem, ReplicationImpossible, WitnzError
from witnz.postgres.catalog import GENERATED_PUBLISHED_SINCE, TableInfo, find_table, leaf_partitions
from witnz.postgres.typegraph import FIRST_USER_OID

MUTABLE_MODES: Final = frozenset({"state_integrity"})
"""Modes in which updates are part of a table's normal life."""

_KINDS: Final = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "S": "a sequence",
    "i": "an index",
    "I": "an index",
    "c": "a composite type",
    "t": "a TOAST table",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One obstacle.  ``fatal``: the table cannot be protected like this.

    ``kind`` is the exception it becomes: ConfigError (exit 2), KeyProblem (12, a right is missing) or ReplicationImpossible.
    """

    code: str
    message: str
    hint: str
    fatal: bool = True
    kind: type[WitnzError] = ConfigError

    def error(self) -> WitnzError:
        """The exception to raise for it."""
        return self.kind(self.message, hint=self.hint, code=self.code)


def require_table(connection: Connection[Any], schema: str, name: str) -> TableInfo:
    """The relation of that name.  Raises ConfigError with the nearest names where there is none."""
    info = find_table(connection, schema, name)
    if info is not None:
        return info
    rows = connection.execute(
        "SELECT n.nspname || '.' || c.relname FROM pg_catalog.pg_class c"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND c.oid >= %s",
        (FIRST_USER_OID,),
    )
    near = difflib.get_close_matches(f"{schema}.{name}", [row[0] for row in rows], n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else "names are case-sensitive; a table outside public needs its schema"
    raise ConfigError(f"table {schema}.{name} does not exist in this database", hint=hint, code="table.missing")


def table_problems(
    connection: Connection[Any],
    info: TableInfo,
    *,
    mode: str,
    inserts_only: bool = False,
    excluded_columns: Collection[str] = (),
) -> list[Problem]:
    """Everything that stands in the way of protecting ``info`` as the connection's role, in ``mode``; empty is fit.

    A partitioned table is judged by its leaves.  ``excluded_columns``: names that the configuration leaves out.
    """
    kind = list(_kind_problems(info))
    if kind:
        return kind
    found = list(_column_problems(info, excluded_columns))
    if not info.is_partitioned:
        return [*found, *_own_problems(connection, info, mode=mode, inserts_only=inserts_only)]
    leaves = leaf_partitions(connection, info.oid)
    if not info.primary_key and not inserts_only:
        found.append(_future_partitions(info))
    found += _privilege_problems(connection, info)
    for leaf in leaves:
        found += _kind_problems(leaf) or _own_problems(connection, leaf, mode=mode, inserts_only=inserts_only)
    return found


def raise_fatal(problems: Sequence[Problem]) -> None:
    """Raise the error of the first fatal problem, if there is one; its hint then lists all fatal ones' remedies."""
    fatal = [problem for problem in problems if problem.fatal]
    if not fatal:
        return
    error = fatal[0].error()
    error.hint = "\n".join(dict.fromkeys(problem.hint for problem in fatal))
    raise error


def quoted(info: TableInfo) -> str:
    """The table's name as SQL takes it."""
    return sql.Identifier(info.schema, info.name).as_string(None)


def _name(info: TableInfo) -> str:
    return f"{info.schema}.{info.name}"


def _kind_problems(info: TableInfo) -> list[Problem]:
    name = _name(info)
    if info.oid < FIRST_USER_OID or info.schema in ("pg_catalog", "information_schema"):
        return [Problem("table.system", f"{name} belongs to PostgreSQL itself", "only tables of your own can be protected")]
    if info.relkind not in ("r", "p"):
        what = _KINDS.get(info.relkind, "no table")
        return [Problem("table.kind", f"{name} is {what}, not a table", "protect the tables that hold the rows")]
    if info.persistence == "t":
        return [Problem("table.temporary", f"{name} is a temporary table", "temporary tables are not in the write-ahead log")]
    if info.persistence == "u":
        hint = f"ALTER TABLE {quoted(info)} SET LOGGED"
        return [Problem("table.unlogged", f"{name} is unlogged: its changes are not in the write-ahead log", hint)]
    return []


def _column_problems(info: TableInfo, excluded: Collection[str]) -> Iterator[Problem]:
    name, columns = _name(info), {column.name: column for column in info.columns}
    for missing in sorted(set(excluded) - columns.keys()):
        yield Problem("column.missing", f"{name} has no column {missing} that could be left out", "correct the configuration")
    carried = [column for column in info.replicated_columns if column.name not in excluded]
    if not carried:
        yield Problem("table.empty", f"{name} has no column that replication carries", "there is nothing to protect in it")
    for column in carried:
        if column.unstable_type:
            yield Problem(
                "column.unstable",
                f"{name}: the text of column {column.name} ({column.type_name}) names other objects and changes with them",
                f"leave the column out by name in the configuration, or store the {column.unstable_type} as text or oid",
            )
    for key in info.key_columns:
        if key in excluded:
            yield Problem("key.excluded", f"{name}: key column {key} cannot be left out", "leave out other columns only")
        elif columns[key] not in info.replicated_columns:
            yield Problem(
                "key.generated",
                f"{name}: key column {key} is generated and not carried by replication",
                "identify the rows by ordinary columns",
            )


def _own_problems(connection: Connection[Any], info: TableInfo, *, mode: str, inserts_only: bool) -> Iterator[Problem]:
    """Of one ordinary table or leaf."""
    name = _name(info)
    if not inserts_only:
        yield from _identity_problems(info, connection.info.server_version)
    yield from _privilege_problems(connection, info)
    if info.filters_role:
        role = sql.Identifier(connection.info.user).as_string(None)
        yield Problem(
            "table.row-security",
            f"{name}: row security hides rows from the role {connection.info.user}",
            f"ALTER ROLE {role} BYPASSRLS",
            kind=KeyProblem,
        )
    if mode in MUTABLE_MODES and info.toast_risk and not inserts_only:
        yield Problem(
            "table.toast",
            f"{name}: an update that leaves a large value alone does not carry it, and such a row stays unresolved",
            f"ALTER TABLE {quoted(info)} REPLICA IDENTITY FULL",
            fatal=False,
        )
    if info.has_children:
        yield Problem(
            "table.children",
            f"{name} has inheritance children: their rows show in queries of it and are not covered",
            "protect the children too",
            fatal=False,
        )
    if info.rules:
        yield Problem(
            "table.rules",
            f"{name} has rules that can redirect writes: {', '.join(info.rules)}",
            "make sure that they are meant; changes of them are reported",
            fatal=False,
        )


def _identity_problems(info: TableInfo, version: int) -> Iterator[Problem]:
    name = _name(info)
    if not info.identifies_rows:
        identity = "DEFAULT" if info.primary_key else "FULL"
        yield Problem(
            "table.identity",
            f"{name} has nothing that identifies its rows: once it is published, its UPDATE and DELETE statements would fail",
            f"ALTER TABLE {quoted(info)} REPLICA IDENTITY {identity}   (or protect its inserts only: --inserts-only)",
            kind=ReplicationImpossible,
        )
    virtual = [column.name for column in info.columns if column.generated == "v"]
    if info.identity == "f" and virtual and version >= GENERATED_PUBLISHED_SINCE:
        best = "DEFAULT" if info.primary_key else "USING INDEX …"
        yield Problem(
            "table.identity",
            f"{name}: with REPLICA IDENTITY FULL and virtual column {virtual[0]} its UPDATE and DELETE statements would fail",
            f"ALTER TABLE {quoted(info)} REPLICA IDENTITY {best}",
            kind=ReplicationImpossible,
        )


def _future_partitions(info: TableInfo) -> Problem:
    return Problem(
        "table.identity",
        f"{_name(info)} has no primary key: updates of a partition made later would fail, because nothing identifies its rows",
        f"ALTER TABLE {quoted(info)} ADD PRIMARY KEY (…)   (or protect its inserts only: --inserts-only)",
        kind=ReplicationImpossible,
    )


def _privilege_problems(connection: Connection[Any], info: TableInfo) -> Iterator[Problem]:
    row = connection.execute(
        "SELECT current_user::text, has_schema_privilege(c.relnamespace, 'USAGE'), has_table_privilege(c.oid, 'SELECT'),"
        " has_any_column_privilege(c.oid, 'SELECT') FROM pg_catalog.pg_class c WHERE c.oid = %s",
        (info.oid,),
    ).fetchone()
    if row is None:
        yield Problem("table.missing", f"{_name(info)} was dropped a moment ago", "try again")
        return
    user, usage, select, select_column = row
    role = sql.Identifier(user).as_string(None)
    if not usage:
        schema = sql.Identifier(info.schema).as_string(None)
        hint = f"GRANT USAGE ON SCHEMA {schema} TO {role}"
        yield Problem("role.usage", f"the role {user} may not use schema {info.schema}", hint, kind=KeyProblem)
    if not select:
        how_much = "may read only some columns of" if select_column else "may not read"
        hint = f"GRANT SELECT ON {quoted(info)} TO {role}"
        yield Problem("role.select", f"the role {user} {how_much} {_name(info)}", hint, kind=KeyProblem)
