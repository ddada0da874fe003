"""The statement whose output is a table's row lines, for a scan and for an auditor's own psql."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from psycopg import sql

from witnz.core.keyrange import KeyRange
from witnz.errors import UsageError
from witnz.postgres.catalog import TableInfo
from witnz.postgres.session import SCAN_PINNED, pinned_options


def range_condition(column: str, key_range: KeyRange) -> sql.Composed:
    """What selects the rows of a range of the key column."""
    conditions: list[sql.Composable] = [sql.SQL("TRUE")]
    for operator, bound in ((">", key_range.low), ("<=", key_range.high)):
        if bound is not None:
            value = sql.Literal(int(bound)) if key_range.kind == "integer" else sql.SQL("{}::uuid").format(sql.Literal(bound))
            conditions.append(sql.SQL("{} {} {}").format(sql.Identifier(column), sql.SQL(operator), value))
    return sql.SQL(" AND ").join(conditions)


def copy_statement(info: TableInfo, columns: Sequence[str], condition: sql.Composable | None = None) -> sql.Composed:
    """The COPY that prints the rows as row lines (formats.md 1).

    ``COPY table (columns)`` reads the heap itself, without a plan; where a generated column is among them, which that form
    refuses, or only rows that meet a ``condition`` are wanted, ``COPY (SELECT … FROM ONLY …)``.  Both print the same bytes.
    """
    generated = {column.name for column in info.columns if column.generated}
    names = sql.SQL(", ").join(sql.Identifier(name) for name in columns)
    table = sql.Identifier(info.schema, info.name)
    if condition is not None:
        return sql.SQL("COPY (SELECT {} FROM ONLY {} WHERE {}) TO STDOUT").format(names, table, condition)
    if columns and generated.isdisjoint(columns):
        return sql.SQL("COPY {} ({}) TO STDOUT").format(table, names)
    return sql.SQL("COPY (SELECT {} FROM ONLY {}) TO STDOUT").format(names, table)


def psql_command(info: TableInfo, columns: Sequence[str], path: str) -> str:
    """A line for a POSIX shell that writes the row lines of the whole table to ``path`` with nothing but psql.

    It carries the settings under which the bytes are the recorded ones (PGOPTIONS); where to connect is left to psql's own
    PGHOST, PGDATABASE, PGSERVICE …  Raises UsageError for a path that begins with a dash or holds a NUL.
    """
    if not path or path.startswith("-") or "\0" in path:
        raise UsageError(f"output file: expected a path, found {path[:60]!r}", hint="write ./-name for a name with a dash")
    statement = copy_statement(info, columns).as_string(None)
    # libpq sends these three as parameters of their own, which win over PGOPTIONS
    environment = {
        "PGCLIENTENCODING": SCAN_PINNED["client_encoding"],
        "PGDATESTYLE": SCAN_PINNED["datestyle"],
        "PGTZ": SCAN_PINNED["timezone"],
        "PGOPTIONS": pinned_options(SCAN_PINNED),
    }
    assignments = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
    return f"{assignments} psql -X -q -v ON_ERROR_STOP=1 -c {shlex.quote(statement)} > {shlex.quote(path)}"
