"""The SQL that witnz asks a DBA to run: a role with as little as it needs, and publications of exactly the protected tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from witnz.cli.configfile import NewTable
from witnz.cli.invocation import Invocation
from witnz.errors import WitnzError

if TYPE_CHECKING:
    from witnz.config import Config
    from witnz.postgres.session import Conninfo

OLD_ENOUGH: Final = 170000
"""A server_version_num whose publications have no option that other supported servers lack."""


def admin_conninfo(url: str | None) -> Conninfo | None:
    """The administrator's connection, where one is given.  Raises ConfigError, which does not repeat it."""
    from witnz.postgres.session import Conninfo

    return None if url is None else Conninfo.from_conninfo(url)


def sql_for_dba(call: Invocation, config: Config, tables: Sequence[NewTable], admin_url: str | None) -> list[str]:
    """The statements, without final semicolons, for the configured tables and those named besides."""
    from psycopg import sql

    from witnz.postgres.publication import publication_sql

    relations = {table.name: (table.relation, table.inserts_only) for table in config.protected_tables}
    relations |= {table.name: ((table.schema, table.table), False) for table in tables if table.name not in relations}
    full = [relation for relation, inserts_only in relations.values() if not inserts_only]
    inserts = [relation for relation, inserts_only in relations.values() if inserts_only]
    role = sql.Identifier(config.database.user or "witnz")
    statements = [sql.SQL("CREATE ROLE {} LOGIN REPLICATION").format(role)]
    for schema in dict.fromkeys(schema for schema, _ in [*full, *inserts]):
        statements.append(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(schema), role))
    for relation in [*full, *inserts]:
        statements.append(sql.SQL("GRANT SELECT ON {} TO {}").format(sql.Identifier(*relation), role))
    version = _version(call, config, admin_url)
    made = publication_sql(config.publication, full, inserts_only_tables=inserts, version=version)
    return [statement.as_string(None) for statement in statements] + made


def _version(call: Invocation, config: Config, admin_url: str | None) -> int:
    """The server's version; where it cannot be asked, one whose SQL every server takes."""
    from witnz.node.setup import conninfo_of
    from witnz.postgres.session import connect

    try:
        with connect(admin_conninfo(admin_url) or conninfo_of(config), application_name="witnz init") as conn:
            return conn.info.server_version
    except WitnzError as error:
        call.output.note(f"the server was not asked for its version: {error.message}")
        call.output.note("for PostgreSQL 18 or newer add publish_generated_columns = stored to both publications")
        return OLD_ENOUGH
