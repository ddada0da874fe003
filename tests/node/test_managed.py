"""As on a managed service: nobody is superuser, the login has a password, and TLS names the server (`sslmode=verify-full`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.node import WATCH_S, Protected, wait, write_config
from tests.support.postgres import Database, create_database
from tests.support.server_tls import Authority
from witnz.config import load_config
from witnz.core.verdict import Verdict
from witnz.demo.server import PostgresServer
from witnz.errors import ConfigError, DatabaseError, WitnzError
from witnz.node.node import Node, now_us
from witnz.node.setup import initialise
from witnz.postgres.preflight import WatchedTable, doctor
from witnz.postgres.session import Conninfo, connect

HBA = """
local   all all trust
host    all postgres,app_owner 127.0.0.1/32 trust
hostssl all witnz 127.0.0.1/32 scram-sha-256
"""
PASSWORD = "not a secret"
TLS_RELEASE = 17


@pytest.fixture
def managed(own_server: Callable[..., PostgresServer], tmp_path: Path) -> tuple[Database, Authority]:
    """A server that lets witnz in over TLS with a password only; the wheel's servers were built without TLS."""
    try:
        server = own_server(version=TLS_RELEASE, settings={"password_encryption": "scram-sha-256"})
    except ConfigError as error:
        pytest.skip(f"{error} ({error.hint})")
    database = create_database(server)
    server.sql(f"ALTER ROLE witnz PASSWORD '{PASSWORD}'")
    (server.data_dir / "pg_hba.conf").write_text(HBA)
    authority = Authority.make(tmp_path / "ca.pem")
    authority.serve(server, "127.0.0.1")
    wait(lambda: server.sql("SHOW ssl") == [("on",)], "TLS")
    return database, authority


def settings_of(database: Database, root: Path) -> dict[str, object]:
    return {
        "host": "127.0.0.1", "port": database.server.port, "database": database.name, "user": "witnz", "password": PASSWORD,
        "sslmode": "verify-full", "sslrootcert": str(root),
    }  # fmt: skip


def test_the_whole_way_without_a_superuser_over_verified_tls(managed: tuple[Database, Authority], tmp_path: Path) -> None:
    database, authority = managed
    database.sql(
        "CREATE TABLE ledger (id bigint PRIMARY KEY, note text); INSERT INTO ledger VALUES (1, 'first'), (2, 'second')"
    )
    tables = [{"name": "public.ledger", "mode": "append_only"}]
    config = load_config(write_config(tmp_path, database, tables, database=settings_of(database, authority.file)), {})
    initialise(config, admin=Conninfo.from_conninfo(database.owner_dsn), clock=now_us, operator="alice")
    found = doctor(
        Conninfo.from_conninfo(config.database.conninfo()),
        publication=config.publication,
        tables=[WatchedTable("public", "ledger")],
    )
    assert [(check.name, check.message) for check in found if check.status == "fail"] == []
    protected = Protected(database, config, Node(config, watch_s=WATCH_S), tmp_path)
    protected.go()
    try:
        walsenders = "SELECT s.version, s.bits >= 128 FROM pg_stat_replication r JOIN pg_stat_ssl s USING (pid)"
        assert database.server.sql(walsenders) == [("TLSv1.3", True)]
        assert database.server.sql("SELECT rolsuper FROM pg_roles WHERE rolname = 'witnz'") == [(False,)]
        database.sql("INSERT INTO ledger VALUES (3, 'third')")
        protected.caught_up()
        verified = protected.verify("public.ledger")
        assert (verified.verdict, verified.result.rows) == (Verdict.VERIFIED, 3)
        database.sql("DELETE FROM ledger WHERE id = 1")
        protected.wait_for("violation.delete", "1")
    finally:
        protected.stop()


def test_a_server_that_another_authority_vouches_for_is_not_believed(
    managed: tuple[Database, Authority], tmp_path: Path
) -> None:
    database, _ = managed
    other = Authority.make(tmp_path / "other.pem")
    parameters = {"sslmode": "verify-full", "password": PASSWORD}
    stranger = Conninfo.from_conninfo(database.server.dsn("witnz", database.name, sslrootcert=str(other.file), **parameters))
    with pytest.raises(DatabaseError, match="certificate verify failed") as caught:
        connect(stranger)
    assert PASSWORD not in str(caught.value)
    other_name = database.server.dsn(
        "witnz", database.name, host="localhost", sslrootcert=str(tmp_path / "ca.pem"), **parameters
    )
    with pytest.raises(DatabaseError, match="does not match host name"):
        connect(Conninfo.from_conninfo(other_name))


def test_a_member_of_the_managed_services_replication_role_is_taken_for_one_that_may_replicate(database: Database) -> None:
    """Amazon's servers let members of rds_replication replicate, who do not have the attribute."""
    server = database.server
    group, other = ("rds_replication", f"others_{time.monotonic_ns()}")
    member = f"member_{time.monotonic_ns()}"
    server.sql(
        f"CREATE ROLE {group} NOLOGIN; CREATE ROLE {other} NOLOGIN REPLICATION; CREATE ROLE {member} LOGIN IN ROLE {other}"
    )
    try:
        conninfo = Conninfo.from_conninfo(server.dsn(member, database.name))

        def check() -> tuple[str, str]:
            found = doctor(conninfo, publication="witnz", tables=[])
            return next((check.status, check.message + check.hint) for check in found if check.name == "role.replication")

        status, message = check()
        assert status == "fail" and "may not replicate" in message and f'GRANT rds_replication TO "{member}"' in message
        server.sql(f"GRANT {group} TO {member}")
        assert check() == ("ok", f"the role {member} may replicate as a member of rds_replication")
        with pytest.raises(WitnzError, match=r"permission denied|must be superuser"):
            connect(conninfo, replication=True)  # this server is not Amazon's, and says so itself
    finally:
        server.sql(f"DROP ROLE {member}; DROP ROLE {other}; DROP ROLE {group}")
