"""The publications that feed the stream: what they must be, making them, and telling how they differ.

For a cluster's publication ``witnz`` there are two, because what a publication publishes holds for all of its tables:

    witnz       FOR TABLE ONLY …  insert, update, delete, truncate
    witnz_ins   FOR TABLE ONLY …  insert, truncate: tables protected with --inserts-only

Both always exist, if need be empty, and a stream names both (:func:`publication_names`): a publication that is made after a
slot cannot be used for what the slot still has to decode (``publication does not exist``, from the historic catalog), so the
second one could not be added when the first inserts-only table comes.

Never FOR ALL TABLES or FOR TABLES IN SCHEMA (they would make updates of the application's tables without a key fail), no row
filter, no column list, events of a partition under the partition itself.  A partitioned table stands for all of its partitions,
present and future.  From PostgreSQL 18 on stored generated columns are published: there an UPDATE of a table whose identity
holds an unpublished one is refused.

PostgreSQL documentation: CREATE PUBLICATION; catalogs pg_publication, pg_publication_rel, pg_publication_namespace.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from psycopg import Connection, sql

from witnz.errors import UsageError
from witnz.postgres.catalog import GENERATED_PUBLISHED_SINCE

FILTERS_SINCE: Final = 150000
"""server_version_num from which publications know row filters, column lists and whole schemas."""

INSERTS_SUFFIX: Final = "_ins"
_NAME_MAX_BYTES = 63

TableName = tuple[str, str]
"""(schema, table), raw identifiers."""

Tables = Mapping[int, TableName]
"""Tables by OID."""


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """A table's row in pg_publication_rel.  ``row_xmin`` moves when it was taken out and put back."""

    oid: int
    schema: str
    name: str
    row_oid: int
    row_xmin: str
    has_row_filter: bool
    has_column_list: bool

    @property
    def is_narrowed(self) -> bool:
        """Whether rows or columns are held back."""
        return self.has_row_filter or self.has_column_list


@dataclass(frozen=True, slots=True)
class PublicationState:
    """One publication as the catalog has it now."""

    oid: int
    name: str
    owner: str
    row_xmin: str
    all_tables: bool
    insert: bool
    update: bool
    delete: bool
    truncate: bool
    via_root: bool
    publishes_generated: bool | None
    """Whether stored generated columns are carried; None before PostgreSQL 18, which cannot."""
    tables: dict[int, PublishedTable]
    schemas: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExpectedPublication:
    """What one publication must hold: exactly these tables, no less and no more."""

    name: str
    tables: Tables
    inserts_only: bool = False


@dataclass(frozen=True, slots=True)
class Departure:
    """One thing in which a publication is not as expected.  ``oid``: the table's, where it is about one.

    ``absent`` the publication is not there; ``option`` of the whole; ``missing`` a protected table is not published;
    ``surplus`` another one is; ``narrowed`` rows or columns of a table are held back.
    """

    kind: Literal["absent", "option", "missing", "surplus", "narrowed"]
    text: str
    oid: int | None = None


def publication_names(name: str) -> tuple[str, str]:
    """The names that a stream of the cluster's publication ``name`` asks for, the main one first.

    Raises UsageError for a name that PostgreSQL would cut off.
    """
    both = (name, name + INSERTS_SUFFIX)
    if not name or len(both[1].encode()) > _NAME_MAX_BYTES or "\0" in name:
        raise UsageError(
            f"publication name: expected 1 to {_NAME_MAX_BYTES - len(INSERTS_SUFFIX)} bytes, found {name[:70]!r}",
            hint="choose a shorter publication name in the configuration",
        )
    return both


def expected_publications(
    name: str, tables: Tables, inserts_only_tables: Tables | None = None
) -> tuple[ExpectedPublication, ExpectedPublication]:
    """What both publications must hold.  No table is in ``tables`` and ``inserts_only_tables``."""
    main, inserts = publication_names(name)
    return ExpectedPublication(main, tables), ExpectedPublication(inserts, inserts_only_tables or {}, inserts_only=True)


def publication_sql(
    name: str, tables: Sequence[TableName], *, inserts_only_tables: Sequence[TableName] = (), version: int
) -> list[str]:
    """The statements that make both publications, without final semicolons.  ``version`` is ``server_version_num``."""
    main, inserts = publication_names(name)
    return [
        _create(main, tables, inserts_only=False, version=version),
        _create(inserts, inserts_only_tables, inserts_only=True, version=version),
    ]


def repair_sql(
    expected: ExpectedPublication, state: PublicationState | None, *, version: int, remove: Collection[int] = ()
) -> list[str]:
    """The statements that bring a publication to what it must be: make it, set its options, add what is missing.

    Tables that should not be there are taken out only where ``remove`` lists their OID; an expected one under a row filter or
    column list is taken out and put back plain.  Nothing to do is an empty list.  Raises UsageError for a publication FOR ALL
    TABLES or of schemas: that is somebody else's, and dropping it is their decision.
    """
    if state is None:
        return [_create(expected.name, list(expected.tables.values()), inserts_only=expected.inserts_only, version=version)]
    if state.all_tables or state.schemas:
        raise UsageError(
            f"publication {state.name} publishes more than single tables: {'; '.join(_option_differences(expected, state))}",
            hint=f"drop it (DROP PUBLICATION {_text(sql.Identifier(state.name))}) or name another publication",
        )
    statements = []
    if _option_differences(expected, state):
        options = _options(inserts_only=expected.inserts_only, version=version)
        statements.append(_text(sql.SQL("ALTER PUBLICATION {} SET ({})").format(sql.Identifier(state.name), options)))
    narrowed = {oid for oid, table in state.tables.items() if table.is_narrowed and oid in expected.tables}
    leaving = [(t.schema, t.name) for oid, t in state.tables.items() if oid in narrowed or oid in remove]
    arriving = [name for oid, name in expected.tables.items() if oid in narrowed or oid not in state.tables]
    if leaving:
        statements.append(_alter(state.name, "DROP", leaving))
    if arriving:
        statements.append(_alter(state.name, "ADD", arriving))
    return statements


def apply(
    admin: Connection[Any],
    name: str,
    tables: Tables,
    *,
    inserts_only_tables: Tables | None = None,
    remove: Collection[int] = (),
) -> list[str]:
    """Bring both publications to what they must be and return the statements that were executed, in one transaction.

    ``admin`` owns the tables and may create publications.  ``remove``: OIDs of tables whose protection ended.  A table that
    changes sides leaves the other publication.  Errors of the server (42501 above all) come as psycopg's own; UsageError as
    in :func:`repair_sql`.
    """
    inserts = inserts_only_tables or {}
    executed = []
    with admin.transaction():
        for expected in expected_publications(name, tables, inserts):
            other_side = tables if expected.inserts_only else inserts
            statements = repair_sql(
                expected,
                publication_state(admin, expected.name),
                version=admin.info.server_version,
                remove={*remove, *other_side},
            )
            for statement in statements:
                admin.execute(statement.encode())
            executed += statements
    return executed


_STATE = """
SELECT p.oid, p.pubname::text, pg_get_userbyid(p.pubowner)::text, p.xmin::text, p.puballtables, p.pubinsert, p.pubupdate,
       p.pubdelete, p.pubtruncate, p.pubviaroot, {generated}, {schemas},
       t.prrelid, t.nspname::text, t.relname::text, t.oid, t.xmin, {row_filter}, {column_list}
FROM pg_catalog.pg_publication p LEFT JOIN (
    SELECT r.*, r.xmin::text, n.nspname, c.relname FROM pg_catalog.pg_publication_rel r
    JOIN pg_catalog.pg_class c ON c.oid = r.prrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
) t ON t.prpubid = p.oid
WHERE p.pubname = %s ORDER BY t.prrelid
"""
_SCHEMAS = """ARRAY(
    SELECT n.nspname::text FROM pg_catalog.pg_publication_namespace s JOIN pg_catalog.pg_namespace n ON n.oid = s.pnnspid
    WHERE s.pnpubid = p.oid ORDER BY 1)"""


def publication_state(connection: Connection[Any], name: str) -> PublicationState | None:
    """The publication of that name, None where there is none.  Any role may ask.

    It is one query, hence one snapshot: between two, a publication that is dropped and made anew would seem to have no tables.
    """
    version = connection.info.server_version
    has_filters = version >= FILTERS_SINCE
    query = sql.SQL(_STATE).format(
        generated=sql.SQL("p.pubgencols = 's'" if version >= GENERATED_PUBLISHED_SINCE else "NULL::bool"),
        schemas=sql.SQL(_SCHEMAS if has_filters else "ARRAY[]::text[]"),
        row_filter=sql.SQL("t.prqual IS NOT NULL" if has_filters else "false"),
        column_list=sql.SQL("t.prattrs IS NOT NULL" if has_filters else "false"),
    )
    rows = connection.execute(query, (name,)).fetchall()
    if not rows:
        return None
    *own, schemas = rows[0][:12]
    published = [PublishedTable(*row[12:]) for row in rows if row[12] is not None]
    complete = (*own, {table.oid: table for table in published}, tuple(schemas))
    return PublicationState(*complete)


def departures(expected: ExpectedPublication, state: PublicationState | None) -> list[Departure]:
    """Everything in which a publication is not what it must be; empty means exactly right."""
    if state is None:
        return [Departure("absent", f"publication {expected.name} does not exist")]
    found = [Departure("option", text) for text in _option_differences(expected, state)]
    for oid, name in expected.tables.items():
        if oid not in state.tables:
            found.append(Departure("missing", f"{'.'.join(name)} is not in it", oid))
    for oid, table in state.tables.items():
        label = f"{table.schema}.{table.name}"
        if oid not in expected.tables:
            found.append(Departure("surplus", f"{label} is in it and is not protected", oid))
        if table.has_row_filter:
            found.append(Departure("narrowed", f"{label} is published under a row filter", oid))
        if table.has_column_list:
            found.append(Departure("narrowed", f"{label} is published with a column list", oid))
    return found


def differences(expected: ExpectedPublication, state: PublicationState | None) -> list[str]:
    """The sentences of :func:`departures`."""
    return [departure.text for departure in departures(expected, state)]


def _option_differences(expected: ExpectedPublication, state: PublicationState) -> list[str]:
    found = []
    if state.all_tables:
        found.append("it is FOR ALL TABLES")
    found += [f"it publishes all tables of schema {schema}" for schema in state.schemas]
    for operation in ("insert", "update", "delete", "truncate"):
        wanted = operation in ("insert", "truncate") or not expected.inserts_only
        if getattr(state, operation) != wanted:
            found.append(f"it {'does not publish' if wanted else 'publishes'} {operation}")
    if state.via_root:
        found.append("it publishes partitions under their root (publish_via_partition_root)")
    if state.publishes_generated is False:
        found.append("it does not publish stored generated columns (publish_generated_columns)")
    return found


def _options(*, inserts_only: bool, version: int) -> sql.SQL:
    operations = "insert, truncate" if inserts_only else "insert, update, delete, truncate"
    generated = ", publish_generated_columns = stored" if version >= GENERATED_PUBLISHED_SINCE else ""
    return sql.SQL(f"publish = '{operations}', publish_via_partition_root = false{generated}")


def _create(name: str, tables: Sequence[TableName], *, inserts_only: bool, version: int) -> str:
    for_tables = sql.SQL(" FOR TABLE {}").format(_table_list(tables)) if tables else sql.SQL("")
    options = _options(inserts_only=inserts_only, version=version)
    return _text(sql.SQL("CREATE PUBLICATION {}{} WITH ({})").format(sql.Identifier(name), for_tables, options))


def _alter(name: str, action: str, tables: Sequence[TableName]) -> str:
    return _text(sql.SQL("ALTER PUBLICATION {} {} TABLE {}").format(sql.Identifier(name), sql.SQL(action), _table_list(tables)))


def _table_list(tables: Sequence[TableName]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL("ONLY {}").format(sql.Identifier(*table)) for table in tables)


def _text(statement: sql.Composable) -> str:
    return statement.as_string(None)
