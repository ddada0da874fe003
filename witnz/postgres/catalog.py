"""What PostgreSQL's catalog says of a table: its columns, its key, what logical replication carries of it.

Everything is read by an ordinary role; nothing here locks a table.  Names go into SQL through ``psycopg.sql`` and always with
their schema.  The rules:

    replicated columns  the live columns in attnum order, without generated ones; from PostgreSQL 18 on stored generated
                        columns are carried too, because witnz's publications say ``publish_generated_columns = stored``
                        (:mod:`witnz.postgres.publication`); virtual ones never are
    key columns         formats.md 2: under REPLICA IDENTITY USING INDEX that index's columns, else the primary key's, in attnum
                        order; none where there is neither.  A deferrable primary key is none: PostgreSQL does not identify rows
                        by it, and inside a transaction two rows may share its value
    identity columns    what pgoutput flags in a Relation message (PostgreSQL, logicalrep_write_attrs): every column under FULL,
                        none under NOTHING, else the key columns of the index that identifies rows
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from psycopg import Connection

from witnz.core.entry import SchemaColumn
from witnz.core.names import format_table_name
from witnz.postgres.typegraph import unstable_types

GENERATED_PUBLISHED_SINCE: Final = 180000
"""server_version_num from which a publication can carry stored generated columns."""

_CLASSES = """
SELECT c.oid, n.nspname, c.relname, c.relkind::text, c.relpersistence::text, c.relreplident::text,
       c.relrowsecurity, c.relforcerowsecurity, row_security_active(c.oid), pg_get_userbyid(c.relowner)::text,
       c.relispartition, pg_partition_root(c.oid)::oid, c.relfilenode, c.reltoastrelid <> 0, c.reltuples::float8,
       ARRAY(SELECT r.rulename::text FROM pg_catalog.pg_rewrite r
             WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN' ORDER BY 1),
       ARRAY(SELECT t.tgname::text FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal ORDER BY 1),
       EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = ANY (%s::oid[])
"""
_COLUMNS = """
SELECT a.attrelid, a.attnum, a.attname::text, a.atttypid, a.atttypmod, format_type(a.atttypid, a.atttypmod),
       a.attgenerated::text, a.attlen = -1 AND a.attstorage <> 'p', t.typtype::text, t.typcategory::text
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = ANY (%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""
# INCLUDE columns come after the first indnkeyatts; an index that is invalid or not immediate identifies nothing
# (RelationGetIndexList).
_INDEXES = """
SELECT i.indrelid, i.indisprimary, i.indisreplident, i.indkey::int2[], i.indnkeyatts
FROM pg_catalog.pg_index i
WHERE i.indrelid = ANY (%s::oid[]) AND (i.indisprimary OR i.indisreplident) AND i.indisvalid AND i.indimmediate
"""
_OID_OF_NAME = """
SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s
"""
# Not pg_partition_tree(): that locks every partition and so would wait behind DDL.
_LEAVES = """
WITH RECURSIVE tree(oid) AS (
    SELECT %s::oid
    UNION
    SELECT i.inhrelid FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid
        JOIN pg_catalog.pg_class p ON p.oid = tree.oid AND p.relkind = 'p'
)
SELECT c.oid FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.oid WHERE c.relkind <> 'p' ORDER BY c.oid
"""


@dataclass(frozen=True, slots=True)
class Column:
    """One live column.  ``generated`` is '' (not), 's' (stored) or 'v' (virtual); ``typmod`` is -1 where the type has none."""

    attnum: int
    name: str
    typoid: int
    typmod: int
    type_name: str
    generated: str
    toastable: bool
    typtype: str
    typcategory: str
    is_key_in_identity: bool
    unstable_type: str
    """The ``reg*`` type or ``aclitem`` inside, whose text depends on other objects; '' for every other column."""


@dataclass(frozen=True, slots=True)
class TableInfo:
    """A relation as the catalog describes it now.  Kind, persistence and identity are the catalog's own letters."""

    oid: int
    schema: str
    name: str
    relkind: str
    persistence: str
    identity: str
    columns: tuple[Column, ...]
    replicated_columns: tuple[Column, ...]
    key_columns: tuple[str, ...]
    primary_key: tuple[str, ...]
    """The columns of a primary key that is not deferrable, in attnum order; partitions have their parent's."""
    row_security: bool
    row_security_forced: bool
    filters_role: bool
    """Row security would filter, or with ``row_security=off`` refuse, what the current role reads."""
    owner: str
    is_partition: bool
    partition_root: int | None
    """OID of the topmost partitioned table that this is a partition of; None for everything else."""
    relfilenode: int
    has_toast_table: bool
    estimated_rows: int | None
    """From the last ANALYZE or VACUUM; None before the first."""
    rules: tuple[str, ...]
    triggers: tuple[str, ...]
    has_children: bool

    @property
    def witnz_name(self) -> str:
        """The table's name in every witnz format (formats.md, "Names")."""
        return format_table_name(self.schema, self.name)

    @property
    def is_partitioned(self) -> bool:
        return self.relkind == "p"

    @property
    def identifies_rows(self) -> bool:
        """Whether an UPDATE or DELETE of the table can be published at all; without it PostgreSQL refuses the statement."""
        return self.identity == "f" or any(column.is_key_in_identity for column in self.columns)

    @property
    def toast_risk(self) -> bool:
        """Whether the stream may leave a value of an updated row out (unchanged TOAST, and no FULL old row to take it from)."""
        return self.identity != "f" and self.has_toast_table and any(c.toastable for c in self.replicated_columns)


def find_table(connection: Connection[Any], schema: str, name: str) -> TableInfo | None:
    """The relation of that name, whatever its kind; None where there is none.  Raw identifiers, case matters."""
    row = connection.execute(_OID_OF_NAME, (schema, name)).fetchone()
    return None if row is None else table_by_oid(connection, row[0])


def table_by_oid(connection: Connection[Any], oid: int) -> TableInfo | None:
    """The relation with that OID; None where there is none."""
    return load_tables(connection, [oid]).get(oid)


def leaf_oids(connection: Connection[Any], oid: int) -> list[int]:
    """The OIDs of :func:`leaf_partitions`."""
    return [row[0] for row in connection.execute(_LEAVES, (oid,))]


def leaf_partitions(connection: Connection[Any], oid: int) -> list[TableInfo]:
    """The leaves below a partitioned table at any depth, by OID; foreign tables among them too.

    A table that is not partitioned is its own only leaf.
    """
    oids = leaf_oids(connection, oid)
    found = load_tables(connection, oids)
    return [found[leaf] for leaf in oids if leaf in found]


def load_tables(connection: Connection[Any], oids: Sequence[int]) -> dict[int, TableInfo]:
    """The relations of ``oids`` that exist, in four queries however many they are."""
    wanted = [list(oids)]
    columns = _load_columns(connection, oids)
    indexes = connection.execute(_INDEXES, wanted).fetchall()
    primary = {oid: tuple(key[:width]) for oid, is_primary, _, key, width in indexes if is_primary}
    chosen = {oid: tuple(key[:width]) for oid, _, is_chosen, key, width in indexes if is_chosen}
    stored_are_carried = connection.info.server_version >= GENERATED_PUBLISHED_SINCE
    tables = {}
    for row in connection.execute(_CLASSES, wanted):
        oid, identity = row[0], row[5]
        identifying = {"d": primary, "i": chosen}.get(identity, {}).get(oid, ())
        key = chosen.get(oid, ()) if identity == "i" else primary.get(oid, ())
        mine = tuple(_column(values, identity, identifying) for values in columns.get(oid, []))
        carried = tuple(c for c in mine if not c.generated or (c.generated == "s" and stored_are_carried))
        names = [tuple(c.name for c in mine if c.attnum in numbers) for numbers in (key, primary.get(oid, ()))]
        tables[oid] = _table(row, mine, carried, *names)
    return tables


def schema_columns(info: TableInfo) -> tuple[SchemaColumn, ...]:
    """The columns as pgoutput's Relation message gives them for this table (formats.md 2, ``schema`` hint)."""
    return tuple(SchemaColumn(c.name, c.typoid, c.typmod, c.is_key_in_identity) for c in info.replicated_columns)


def _load_columns(connection: Connection[Any], oids: Sequence[int]) -> dict[int, list[tuple[Any, ...]]]:
    """By table: the fields of :class:`Column` up to ``typcategory``, then ``unstable_type``."""
    rows = connection.execute(_COLUMNS, [list(oids)]).fetchall()
    unstable = unstable_types(connection, sorted({row[3] for row in rows}))
    columns: dict[int, list[tuple[Any, ...]]] = {}
    for oid, *fields in rows:
        columns.setdefault(oid, []).append((*fields, unstable.get(fields[2], "")))
    return columns


def _column(values: tuple[Any, ...], identity: str, identifying: tuple[int, ...]) -> Column:
    *fields, unstable = values
    complete = (*fields, identity == "f" or fields[0] in identifying, unstable)
    return Column(*complete)


def _table(
    row: tuple[Any, ...],
    columns: tuple[Column, ...],
    carried: tuple[Column, ...],
    key_columns: tuple[str, ...],
    primary_key: tuple[str, ...],
) -> TableInfo:
    (oid, schema, name, relkind, persistence, identity, security, forced, filters, owner, is_partition, root, filenode) = row[
        :13
    ]
    has_toast, tuples, rules, triggers, has_children = row[13:]
    return TableInfo(
        oid=oid,
        schema=schema,
        name=name,
        relkind=relkind,
        persistence=persistence,
        identity=identity,
        columns=columns,
        replicated_columns=carried,
        key_columns=key_columns,
        primary_key=primary_key,
        row_security=security,
        row_security_forced=forced,
        filters_role=filters,
        owner=owner,
        is_partition=is_partition,
        partition_root=root if is_partition else None,
        relfilenode=filenode,
        has_toast_table=has_toast,
        # 0 means "never" before PostgreSQL 14, -1 from then on; of an empty table nobody needs an estimate
        estimated_rows=int(tuples) if tuples > 0 else None,
        rules=tuple(rules),
        triggers=tuple(triggers),
        has_children=has_children,
    )
