"""Putting another data directory in the place of a stopped server's, as a restore or a failover does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.support.node import TIMEOUT_S, wait
from tests.support.postgres import Database
from witnz.core.classify import Rules
from witnz.demo.server import PostgresServer


def put_in_place(server: PostgresServer, directory: Path, *, aside: str) -> None:
    """``directory`` becomes the data directory of the stopped server; what was there is kept beside it as ``aside``."""
    owner = server.data_dir.stat()
    server.data_dir.rename(server.data_dir.with_name(aside))
    directory.rename(server.data_dir)
    for path in [server.data_dir, *server.data_dir.rglob("*")]:
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    server.data_dir.chmod(0o700)


def recovered_until(server: PostgresServer, backup: Path, target_lsn: str) -> None:
    """Point-in-time recovery of a base backup, in the place of the database: WAL is replayed up to the LSN, no further."""
    server.stop()
    (backup / "recovery.signal").touch()
    later = server.data_dir.with_name("later")
    with (backup / "postgresql.auto.conf").open("a") as stream:
        stream.write(f"restore_command = 'cp {later}/pg_wal/%f %p'\n")
        stream.write(f"recovery_target_lsn = '{target_lsn}'\nrecovery_target_action = 'promote'\n")
    put_in_place(server, backup, aside="later")
    server.start()
    wait(lambda: server.sql("SELECT NOT pg_is_in_recovery()")[0][0], "the end of recovery")


def keyless(scene: Any) -> str:
    """A protected table without a key, of three rows, two of them alike."""
    scene.database.sql(
        "CREATE TABLE bare (id bigint, note text); ALTER TABLE bare REPLICA IDENTITY FULL;"
        " INSERT INTO bare VALUES (1), (1), (2);"
        f" ALTER PUBLICATION {scene.protected.config.publication} ADD TABLE ONLY bare"
    )
    scene.node.protect_table("public.bare", Rules("append_only"))
    scene.node.wait_ready(TIMEOUT_S)
    return "public.bare"


def dumped(database: Database) -> str:
    """What pg_dump writes of a database, without the setting of 17 that a newer pg_dump writes for older servers too."""
    dump = str(database.server.run("pg_dump", "-U", "postgres", "-d", database.name).stdout)
    return dump.replace("SET transaction_timeout = 0;\n", "")


def load_in_place(database: Database, dump: str, other: PostgresServer, forged: str) -> None:
    """Load a dump into another cluster, run ``forged`` there, and put that in the place of the old one, its address too."""
    server, name = database.server, database.name
    other.sql("CREATE ROLE app_owner LOGIN; CREATE ROLE witnz LOGIN REPLICATION")
    other.sql(f"CREATE DATABASE {name} OWNER app_owner")
    other.run("psql", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", name, input=dump)
    other.sql(forged, dbname=name)
    other.stop()
    server.stop("immediate")
    put_in_place(server, other.data_dir, aside="old")
    server.start()
