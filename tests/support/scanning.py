"""Scans as a node makes them: the unprivileged role, pinned settings."""

from __future__ import annotations

from typing import Any

import psycopg

from tests.support.postgres import Database
from witnz.postgres.catalog import TableInfo, find_table
from witnz.postgres.scan import SnapshotScan
from witnz.postgres.session import Conninfo, connect


def scanner(database: Database, user: str = "witnz") -> psycopg.Connection[Any]:
    connection = connect(Conninfo.from_conninfo(database.server.dsn(user, database.name)), scan=True)
    database._open.append(connection)
    return connection


def table(connection: psycopg.Connection[Any], name: str = "t", schema: str = "public") -> TableInfo:
    info = find_table(connection, schema, name)
    assert info is not None
    return info


def read(scan: SnapshotScan, batch: int = 4096) -> list[bytes]:
    return [line for lines in scan.lines(batch) for line in lines]
