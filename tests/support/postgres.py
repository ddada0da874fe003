"""One fresh database a test, with the three parties of a real installation.

``postgres`` is the superuser (the DBA), ``app_owner`` owns database, schema and tables (the application), ``witnz`` may
replicate and read, and nothing else.  Roles belong to the server, the rest to the database.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from tests.support.sightings import SIGHTINGS
from witnz.demo.server import PostgresServer

TEMPLATE = "witnz_template"
OWNER = "app_owner"
WATCHER = "witnz"

_ROLES = f"""
CREATE ROLE {OWNER} LOGIN;
CREATE ROLE {WATCHER} LOGIN REPLICATION;
"""
_GRANTS = f"""
ALTER SCHEMA public OWNER TO {OWNER};
GRANT USAGE ON SCHEMA public TO {WATCHER};
ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} GRANT USAGE ON SCHEMAS TO {WATCHER};
ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} GRANT SELECT ON TABLES TO {WATCHER};
ALTER DEFAULT PRIVILEGES FOR ROLE postgres IN SCHEMA public GRANT SELECT ON TABLES TO {WATCHER};
"""


@dataclass(slots=True, eq=False)
class Database:
    """A database of its own on ``server``; connections opened through it are closed with it."""

    server: PostgresServer
    name: str
    _open: list[psycopg.Connection[Any]] = field(default_factory=list)

    @property
    def admin_dsn(self) -> str:
        return self.server.dsn("postgres", self.name)

    @property
    def owner_dsn(self) -> str:
        return self.server.dsn(OWNER, self.name)

    @property
    def witnz_dsn(self) -> str:
        return self.server.dsn(WATCHER, self.name)

    def connect(self, dsn: str, *, autocommit: bool = True, **keywords: Any) -> psycopg.Connection[Any]:
        connection = psycopg.connect(dsn, autocommit=autocommit, **keywords)
        self._open.append(connection)
        return connection

    def connect_admin(self, **keywords: Any) -> psycopg.Connection[Any]:
        """As the superuser, in autocommit unless told otherwise."""
        return self.connect(self.admin_dsn, **keywords)

    def connect_owner(self, **keywords: Any) -> psycopg.Connection[Any]:
        """As the application that owns the tables."""
        return self.connect(self.owner_dsn, **keywords)

    def connect_witnz(self, **keywords: Any) -> psycopg.Connection[Any]:
        """As the unprivileged role that a node uses."""
        return self.connect(self.witnz_dsn, **keywords)

    def sql(self, statement: str, *, user: str = OWNER) -> list[tuple[Any, ...]]:
        """One statement (or several) over a connection of its own; the rows of the last result."""
        rows = self.server.sql(statement, user=user, dbname=self.name)
        if not statement.lstrip().upper().startswith("SELECT"):
            SIGHTINGS.deed()
        return rows

    def create_publication(self, name: str, *tables: str) -> None:
        """By the owner, as the documentation asks for it; ``tables`` are SQL names."""
        self.sql(f"CREATE PUBLICATION {name} FOR TABLE {', '.join(f'ONLY {table}' for table in tables)}")

    def create_slot(self, name: str) -> str:
        """A pgoutput slot; returns its consistent point."""
        rows = self.sql(f"SELECT lsn::text FROM pg_create_logical_replication_slot('{name}', 'pgoutput')", user=WATCHER)
        return str(rows[0][0])

    def drop(self) -> None:
        """Close, end everybody's sessions, and remove prepared transactions, slots and the database."""
        for connection in self._open:
            connection.close()
        with psycopg.connect(self.server.dsn(), autocommit=True) as admin:
            prepared = admin.execute("SELECT gid FROM pg_prepared_xacts WHERE database = %s", [self.name]).fetchall()
            if prepared:
                with psycopg.connect(self.admin_dsn, autocommit=True) as inside:
                    for (gid,) in prepared:
                        inside.execute(sql.SQL("ROLLBACK PREPARED {}").format(gid))
            _drop_slots(admin, self.name)
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(self.name)))


def _drop_slots(admin: psycopg.Connection[Any], database: str) -> None:
    deadline = time.monotonic() + 20
    query = "SELECT slot_name, active_pid FROM pg_replication_slots WHERE database = %s"
    while slots := admin.execute(query, [database]).fetchall():
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [database])
        for name, _ in slots:
            with contextlib.suppress(psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject):
                admin.execute("SELECT pg_drop_replication_slot(%s)", [name])
        if time.monotonic() > deadline:
            raise TimeoutError(f"slots {slots} of database {database} cannot be dropped")
        time.sleep(0.02)


def prepare_server(server: PostgresServer) -> None:
    """Make the roles and the template database, once a server."""
    if server.sql("SELECT 1 FROM pg_database WHERE datname = %s", [TEMPLATE]):
        return
    for statement in filter(None, map(str.strip, _ROLES.split(";"))):
        server.sql(statement)
    server.sql(f"CREATE DATABASE {TEMPLATE} OWNER {OWNER}")
    server.sql(_GRANTS, dbname=TEMPLATE)


def create_database(server: PostgresServer, name: str | None = None) -> Database:
    """A fresh database on ``server``; call ``drop()`` when done."""
    prepare_server(server)
    name = name or f"t_{secrets.token_hex(5)}"
    server.sql(f'CREATE DATABASE "{name}" TEMPLATE {TEMPLATE} OWNER {OWNER}')
    return Database(server, name)
