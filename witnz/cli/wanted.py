"""What ``witnz init`` was told, and the configuration that comes of it: a new file, or the one that is there, added to."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from witnz.cli.access import table_name
from witnz.cli.configfile import (
    DEFAULT_MODE,
    LIST,
    NewTable,
    add_tables,
    by_hand,
    load_edited,
    read_text,
    replace_file,
    scalar,
)
from witnz.cli.invocation import Invocation
from witnz.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from witnz.config import Config
    from witnz.postgres.session import Conninfo

MODES: Final = ("append_only", "state_integrity")
VARIABLE: Final = "WITNZ_DB_PASSWORD"
"""Where a new configuration takes the password of the database from."""
DEFAULT_DATA_DIR: Final = "witnz-data"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The command line's words.  ``path``: the file that is read, or, where there is none, the one to write."""

    path: Path
    db: str | None
    tables: tuple[NewTable, ...]
    cluster: str | None
    data_dir: str | None
    node: str | None = None
    members: tuple[tuple[str, str], ...] = ()

    def write(self, path: Path) -> None:
        """Write a new file.  Raises UsageError without a database, ConfigError for a URL that cannot be kept in it."""
        if self.db is None:
            raise UsageError(
                f"there is no configuration at {self.path}, and no database is named",
                hint="witnz init --db postgresql://witnz@host/database --table NAME",
            )
        replace_file(path, self.render(self.db))

    def render(self, db: str) -> str:
        """The text of a new witnz.yaml; of a password only where it comes from."""
        from witnz.config import default_cluster

        conninfo, kept = read_database(db)
        lines = ["# What this node watches. `witnz config explain KEY` says what each key means."]
        lines += [f"cluster: {scalar(self.cluster or default_cluster(conninfo.dbname))}", "", "database:"]
        lines += [f"  {key}: {scalar(value)}" for key, value in kept.items()]
        lines += ["", "node:", f"  id: {self._node_id()}", f"  data_dir: {scalar(self._data_dir())}"]
        lines += [*self._membership(), ""]
        items = [f"  - {table.item()}" for table in self.tables]
        lines += [f"{LIST}:", *items] if items else [f"{LIST}: []"]
        return "\n".join(lines) + "\n"

    def _node_id(self) -> str:
        from witnz.core.names import check_node_id

        return check_node_id(self.node or "node1")

    def _membership(self) -> list[str]:
        """Where the others reach this node, whether it founds the cluster, and the list of all members."""
        if not self.members:
            return []
        own = dict(self.members).get(self._node_id())
        if own is None:
            raise UsageError(
                f"--member names {', '.join(dict(self.members))} and not this node, {self._node_id()}", hint="--node ID"
            )
        founds = self.members[0][0] == self._node_id()
        lines = [f"  bind_addr: {scalar(own)}", *(["  bootstrap: true"] if founds else []), ""]
        lines += ["# The same in every member's file; each member's `witnz init` prints its own line.", "nodes:"]
        return lines + [f"  - {entry_line(id=name, addr=address)}" for name, address in self.members]

    def fill_in(self, member: Mapping[str, str]) -> bool:
        """Put this node's keys into its entry of the file, if that is as it was written; whether the file was changed."""
        if not os.access(self.path.resolve().parent, os.W_OK):
            return False  # mounted for reading only
        text, bare = read_text(self.path), entry_line(id=member["id"], addr=member["addr"])
        if text.count(f"  - {bare}\n") != 1:
            return False
        replace_file(self.path, text.replace(f"  - {bare}\n", f"  - {entry_line(**member)}\n"))
        return True

    def _data_dir(self) -> str:
        """What was typed counts from here, what is in the file from the file's folder."""
        return DEFAULT_DATA_DIR if self.data_dir is None else str(Path(self.data_dir).absolute())

    def load(self, call: Invocation) -> Config:
        """The configuration in the file, once the tables that were named stand in it.

        Raises UsageError where the file is about another database than ``db``.
        """
        if self.db is not None:
            read_database(self.db)  # a password in the URL counts for this call, too
        config = call.load_config(self.path)
        if self.db is not None:
            _check_same_database(config, self.db)
        missing = [table for table in self.tables if config.table(table.name) is None]
        if not missing:
            return config
        text = add_tables(read_text(self.path), missing)
        names = [table.name for table in config.protected_tables] + [table.name for table in missing]
        load_edited(config, text, names, by_hand(missing))
        replace_file(self.path, text)
        return call.load_config(self.path)


def entry_line(**entry: str) -> str:
    """An entry of ``nodes`` on one line."""
    return "{" + ", ".join(f"{key}: {scalar(value)}" for key, value in entry.items()) + "}"


def new_member(text: str) -> tuple[str, str]:
    """``ID=HOST:PORT`` as it was typed.  Raises UsageError."""
    from witnz.config.types import parse_address
    from witnz.core.names import check_node_id
    from witnz.errors import FormatError

    name, _, address = text.partition("=")
    try:
        parse_address(address)
        return check_node_id(name), address
    except FormatError as error:
        raise UsageError(f"member {text[:80]!r}: expected ID=HOST:PORT: {error.message}") from None


def config_path(call: Invocation) -> Path:
    """The file that the search finds, or the one that it would find first."""
    from witnz.config import find_config

    try:
        return find_config(call.config_path, os.environ)
    except ConfigError:
        return Path("witnz.yaml")


def new_table(text: str, rules: Mapping[str, str] | None = None) -> NewTable:
    """``NAME[:MODE]`` as it was typed.  Raises UsageError."""
    from witnz.core.names import parse_table_name

    name, _, mode = text.rpartition(":")
    if mode not in MODES:
        if name and re.fullmatch(r"[a-z_-]+", mode):
            raise UsageError(f"mode of table {name[:80]!r}: expected {' or '.join(MODES)}, found {mode!r}")
        name, mode = text, DEFAULT_MODE
    schema, table = parse_table_name(table_name(name))
    return NewTable(schema, table, {"mode": mode, **(rules or {})})


def read_database(db: str) -> tuple[Conninfo, dict[str, str]]:
    """The connection of a URL, and the keys of the ``database`` section that stand for it.

    A password goes into this process' environment, where the configuration looks for it.  Raises ConfigError.
    """
    from witnz.postgres.session import Conninfo

    conninfo = Conninfo.from_conninfo(db)
    kept = {"host": conninfo.host, "port": str(conninfo.port), "database": conninfo.dbname, "user": conninfo.user}
    if conninfo.password is not None:
        os.environ[VARIABLE] = conninfo.password
    if VARIABLE in os.environ:
        kept["password"] = "${" + VARIABLE + "}"
    kept["sslmode"] = conninfo.sslmode
    given = dict(conninfo.extra)
    files = {"sslrootcert": conninfo.sslrootcert, "sslcert": given.pop("sslcert", None), "sslkey": given.pop("sslkey", None)}
    kept |= {key: str(Path(value).absolute()) for key, value in files.items() if value is not None}
    if given:
        raise ConfigError(
            f"database URL: {', '.join(sorted(given))} cannot be kept in witnz.yaml",
            hint="remove it; `witnz config explain database` lists what there is",
        )
    return conninfo, kept


def _check_same_database(config: Config, db: str) -> None:
    conninfo, _ = read_database(db)
    database = config.database
    said = (conninfo.host, conninfo.port, conninfo.dbname, conninfo.user)
    if said != (database.host, database.port, database.database, database.user):
        held = f"{database.user}@{database.host}:{database.port}/{database.database}"
        raise UsageError(
            f"{config.path} is about {held}, --db about {conninfo.describe()}",
            hint="name another file with --config, or edit that one; --db is for a new one",
        )
