"""SQL that puts one row back: literals, conditions, and the three statements a repair consists of.

Values come from row lines (formats.md 1), that is as the type's own output function printed them, and go in through its input
function: ``'…'::type`` with the type as ``format_type`` names it under ``search_path = pg_catalog``.  Rules:

    table      always ``ONLY schema.table``; INSERT names the table itself
    key        each key column with the equality operator of the key's own index, so the index serves and means the same
    UPDATE     the columns whose text differs; without REPLICA IDENTITY FULL also every column that may be TOASTed, because the
               stream leaves an unchanged TOASTed value out and the row would be recorded without a hash
    generated  columns are left out, the server computes them
    identity   columns that are GENERATED ALWAYS take their value in an INSERT (OVERRIDING SYSTEM VALUE), never in an UPDATE

UsageError is raised for a row that cannot be put back by such a statement.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from psycopg import Connection, Cursor

from witnz.core.rowline import format_line, parse_line
from witnz.errors import UsageError
from witnz.postgres.catalog import TableInfo

Values = Sequence[bytes | None]

AT_ONCE: Final = 256

_EQUALITY = """
SELECT a.attname::text, n.nspname::text, o.oprname::text, c.opcintype = a.atttypid
FROM pg_catalog.pg_index i
CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[]) WITH ORDINALITY AS k(attnum, opclass, place)
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
JOIN pg_catalog.pg_opclass c ON c.oid = k.opclass
JOIN pg_catalog.pg_amop m ON m.amopfamily = c.opcfamily AND m.amopmethod = 403 AND m.amopstrategy = 3
    AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype
JOIN pg_catalog.pg_operator o ON o.oid = m.amopopr
JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
WHERE i.indrelid = %s AND (i.indisreplident OR i.indisprimary) AND k.place <= i.indnkeyatts
"""
_ALWAYS = """
SELECT attname::text FROM pg_catalog.pg_attribute
WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped AND attidentity = 'a'
"""

# What must not stand raw in a text that people review: control characters, and those that turn the direction of writing.
_UNREADABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_LETTERS: Final = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


@dataclass(frozen=True, slots=True)
class Shape:
    """A table as statements need it: its recorded columns in attnum order, by position.

    ``types``: as ``format_type`` prints them.  ``key``: position and equality operator of each key column.  ``not_recorded``:
    columns that are not in row lines and not generated either (left out by the configuration).
    """

    oid: int
    schema: str
    table: str
    names: tuple[str, ...]
    types: tuple[str, ...]
    generated: frozenset[int]
    always: frozenset[int]
    toastable: frozenset[int]
    key: tuple[tuple[int, str], ...]
    not_recorded: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{quote(self.schema)}.{quote(self.table)}"

    @property
    def columns(self) -> str:
        """The recorded columns, as a list for SELECT."""
        return ", ".join(map(quote, self.names))


def load_shape(connection: Connection[Any], info: TableInfo, names: Sequence[str], positions: Sequence[int]) -> Shape:
    """The shape of a table whose row lines hold the columns ``names`` and whose key stands at ``positions``."""
    by_name = {column.name: column for column in info.columns}
    always = {name for (name,) in connection.execute(_ALWAYS, (info.oid,))}
    equal = {name: _operator(*found) for name, *found in connection.execute(_EQUALITY, (info.oid,))}
    missing = [names[i] for i in positions if names[i] not in equal]
    if missing:
        raise UsageError(
            f"{info.witnz_name}: no unique index compares the key column {missing[0]}",
            hint="the key of the table changed; a new generation is due",
        )
    columns = [by_name[name] for name in names]
    return Shape(
        oid=info.oid,
        schema=info.schema,
        table=info.name,
        names=tuple(names),
        types=tuple(column.type_name for column in columns),
        generated=frozenset(i for i, column in enumerate(columns) if column.generated),
        always=frozenset(i for i, column in enumerate(columns) if column.name in always),
        toastable=frozenset(i for i, column in enumerate(columns) if column.toastable and info.identity != "f"),
        key=tuple((i, equal[names[i]]) for i in positions),
        not_recorded=tuple(c.name for c in info.columns if c.name not in names and not c.generated),
    )


def quote(name: str) -> str:
    """A name as an SQL identifier, always in quotes."""
    return '"' + name.replace('"', '""') + '"'


def format_literal(value: bytes | None, type_name: str) -> str:
    """A value of a row line as a typed literal; it reads the same whatever ``standard_conforming_strings`` says."""
    if value is None:
        return "NULL"
    text = value.decode("utf-8").replace("'", "''")
    if "\\" in text or _UNREADABLE.search(text):
        text = _UNREADABLE.sub(_escaped, text.replace("\\", "\\\\"))
        return f"E'{text}'::{type_name}"
    return f"'{text}'::{type_name}"


def readable(text: str) -> str:
    """Text for an SQL comment: one line, with nothing in it that a reader cannot see."""
    return _UNREADABLE.sub(_escaped, text)


def read_rows(
    connection: Connection[Any], table: str, columns: str, conditions: Iterable[str], *, lock: bool
) -> list[list[tuple[str, bytes]]]:
    """For each condition (ctid, row line) of each row under it; ``lock``: FOR UPDATE, waiting for whoever is writing the row.

    The result is the text of the types' output functions, which is what COPY and the stream send, so the lines are row lines.
    Many questions are asked at once (libpq's pipeline mode), a few hundred at a time.
    """
    select, end = f"SELECT ctid::text, {columns} FROM ONLY {table} WHERE ", " FOR UPDATE" if lock else ""  # noqa: S608
    return [_rows_of(cursor) for cursor in execute_all(connection, (select + condition + end for condition in conditions))]


def execute_all(connection: Connection[Any], statements: Iterable[str]) -> Iterator[Cursor[Any]]:
    """Execute many statements, some hundreds on their way at once; the cursor of each, in order."""
    remaining = iter(statements)
    while batch := list(islice(remaining, AT_ONCE)):
        with connection.pipeline():
            cursors = [connection.execute(statement.encode()) for statement in batch]
        yield from cursors


def _rows_of(cursor: Cursor[Any]) -> list[tuple[str, bytes]]:
    found = cursor.pgresult
    if found is None:
        return []
    width = range(1, found.nfields)
    return [
        ((found.get_value(row, 0) or b"").decode(), format_line([found.get_value(row, at) for at in width]))
        for row in range(found.ntuples)
    ]


def key_condition(shape: Shape, values: Values) -> str:
    """The condition that picks the row with the key of ``values`` (of a whole row, by position)."""
    return " AND ".join(
        f"{quote(shape.names[i])} {equal} {format_literal(values[i], shape.types[i])}" for i, equal in shape.key
    )


def insert_sql(shape: Shape, after: bytes) -> str:
    """The INSERT of a row line."""
    values = parse_line(after)
    places = [i for i in range(len(values)) if i not in shape.generated]
    if not places:
        raise UsageError(f"{shape.schema}.{shape.table}: every recorded column is generated, there is nothing to insert")
    names = ",\n    ".join(quote(shape.names[i]) for i in places)
    literals = ",\n    ".join(format_literal(values[i], shape.types[i]) for i in places)
    overriding = "\nOVERRIDING SYSTEM VALUE" if shape.always else ""
    return f"INSERT INTO {shape.name} (\n    {names}\n){overriding}\nVALUES (\n    {literals}\n)"


def update_sql(shape: Shape, before: bytes, after: bytes) -> str:
    """The UPDATE that turns one row line into another of the same key."""
    old, new = parse_line(before), parse_line(after)
    settable = [i for i in range(len(new)) if i not in shape.generated]
    differing = [i for i in settable if old[i] != new[i]]
    fixed = [shape.names[i] for i in differing if i in shape.always]
    if fixed:
        raise UsageError(
            f"column {fixed[0]} is GENERATED ALWAYS AS IDENTITY and PostgreSQL lets no UPDATE give it a value",
            hint="delete the row in a transaction with a signed intent; repair can insert it again",
        )
    # Where only generated columns differ, any write makes the server compute them anew.
    places = [i for i in settable if i in differing or i in shape.toastable] or [i for i in settable if i not in shape.always]
    assignments = ",\n    ".join(f"{quote(shape.names[i])} = {format_literal(new[i], shape.types[i])}" for i in places)
    return f"UPDATE ONLY {shape.name}\nSET {assignments}\nWHERE {key_condition(shape, new)}"


def delete_sql(shape: Shape, before: bytes) -> str:
    """The DELETE of the row with the key of a row line."""
    return f"DELETE FROM ONLY {shape.name}\nWHERE {key_condition(shape, parse_line(before))}"  # noqa: S608  all quoted


def _operator(schema: str, name: str, exact: bool) -> str:
    """An operator so that no search_path makes another one of it: system operators of exactly these types always win."""
    return (
        name if schema == "pg_catalog" and exact else f"OPERATOR({schema if schema == 'pg_catalog' else quote(schema)}.{name})"
    )


def _escaped(match: re.Match[str]) -> str:
    found = match[0]
    code = ord(found)
    return _LETTERS.get(found) or (f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}")
