"""Sites: a folder with a configuration, a database of its own, and the program to call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import Cli, Started
from tests.support.postgres import Database, create_database
from witnz.demo.server import PostgresServer

TABLES = """
CREATE TABLE audit_logs (id bigint PRIMARY KEY, actor text, amount int);
INSERT INTO audit_logs SELECT i, 'user' || i, i * 10 FROM generate_series(1, 200) i;
CREATE SCHEMA billing;
CREATE TABLE billing.prices (country text, product int, cents int, PRIMARY KEY (country, product));
INSERT INTO billing.prices VALUES ('JP', 7, 100), ('DE', 7, 90), ('DE', 8, 80);
"""
SETTINGS = "seal_interval: 0.3s\n"


@dataclass(slots=True)
class Site:
    """``url``: as the role that witnz uses; ``owner_url``: as the owner of the tables."""

    folder: Path
    database: Database
    cli: Cli

    @property
    def url(self) -> str:
        return url_of(self.database.server, "witnz", self.database.name)

    @property
    def owner_url(self) -> str:
        return url_of(self.database.server, "app_owner", self.database.name)

    @property
    def config(self) -> Path:
        return self.folder / "witnz.yaml"

    @property
    def operator_key(self) -> Path:
        return self.folder / "operator-alice.key"

    def init(self, *words: str) -> None:
        """As the documentation says: initialise, and move the operator's key to where it belongs."""
        given = ("init", "--db", self.url, "--admin-url", self.owner_url, "--operator", "alice", *words)
        self.cli.run(*given).expect(0)
        (self.folder / "witnz-data" / "operator-alice.key").rename(self.operator_key)
        with self.config.open("a") as stream:
            stream.write(SETTINGS)

    def findings(self, state: str = "open") -> list[dict[str, Any]]:
        return list(self.cli.json("findings", "list", "--state", state)["findings"])


def url_of(server: PostgresServer, user: str, dbname: str, password: str | None = None) -> str:
    secret = "" if password is None else f":{password}"
    return f"postgresql://{user}{secret}@127.0.0.1:{server.port}/{dbname}"


@pytest.fixture
def make_site(tmp_path: Path, pg_server: PostgresServer) -> Iterator[Callable[..., Site]]:
    """``make_site(tables=…)``: a database with these tables, and a folder where nothing is initialised yet."""
    made: list[Database] = []

    def make(tables: str = TABLES) -> Site:
        database = create_database(pg_server)
        made.append(database)
        database.sql(tables)
        return Site(tmp_path, database, Cli(tmp_path))

    yield make
    for database in made:
        database.drop()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A site where both tables are protected and no node runs."""
    made = make_site()
    made.init("--table", "audit_logs:append_only", "--table", "billing.prices")
    return made


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, pg_server: PostgresServer) -> Iterator[Site]:
    """One site for a module, its node running and every table verified once; tests only add to it."""
    database, folder = create_database(pg_server), tmp_path_factory.mktemp("site")
    database.sql(TABLES)
    made = Site(folder, database, Cli(folder))
    made.init("--table", "audit_logs:append_only", "--table", "billing.prices")
    with made.cli.start() as started:
        made.cli.run("verify", "--all").expect(0)
        yield made
        assert started.stop() == 0
    database.drop()


__all__ = ["SETTINGS", "TABLES", "Site", "Started", "url_of"]
