"""witnz.postgres.copysql: an auditor with nothing but psql gets the recorded bytes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.postgres import Database
from tests.support.scanning import read, scanner, table
from witnz.errors import UsageError
from witnz.postgres.copysql import psql_command
from witnz.postgres.scan import SnapshotScan


def test_the_printed_psql_command_gives_the_same_bytes(every_database: Database, tmp_path: Path) -> None:
    every_database.sql(
        """
        CREATE TABLE "Weird ""name" ("it's" int PRIMARY KEY, at timestamptz, f float8, i interval, b bytea, d date, t text,
                                     g int GENERATED ALWAYS AS (1) STORED);
        INSERT INTO "Weird ""name"
            VALUES (1, '2024-03-31 02:30+00', 0.1, '1 mon -2 days', '\\x00ff', '2024-02-29', E'a\\tb\\\\é\\n'),
                                          (2, NULL, 'NaN', NULL, NULL, NULL, '');
        """
    )
    every_database.sql(f"ALTER ROLE app_owner IN DATABASE {every_database.name} SET datestyle = 'German'", user="postgres")
    connection = scanner(every_database)
    info = table(connection, 'Weird "name')
    with SnapshotScan(connection, info) as scan:
        lines = read(scan)
    path = tmp_path / "it's $HOME.tsv"
    server = every_database.server
    environment = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": "app_owner", "PGDATABASE": every_database.name}
    environment |= {"PATH": f"{server.bin('psql').parent}:/usr/bin:/bin", "LC_ALL": "C", "PGTZ": "Asia/Tokyo"}
    columns = [column.name for column in info.replicated_columns]
    command = psql_command(info, columns, str(path))
    done = subprocess.run(["sh", "-c", command], env=environment, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert path.read_bytes() == b"".join(line + b"\n" for line in lines)
    for bad in ("", "-rf", "a\0b"):
        with pytest.raises(UsageError):
            psql_command(info, columns, bad)
