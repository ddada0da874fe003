"""Connections to PostgreSQL whose every setting that changes how a value is printed is pinned, and checked, and that end.

A row line is what the server's output functions print (formats.md 1), so the stream and a scan give the same bytes only under
the same settings.  Both ask for them with ``options=-c …`` at the start, which wins over ALTER ROLE and ALTER DATABASE, and
read each one back: poolers drop ``options`` without a word, and PGTZ or PGDATESTYLE in the environment override it.

A server that is gone behind something which still acknowledges TCP (a proxy, a load balancer, a NAT gateway) breaks no
connection, so no request is waited for longer than the session's ``silence_s``.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self, TypeAlias

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from witnz.errors import ConfigError, ReplicationImpossible
from witnz.postgres.sqlstate import classify_error, is_transient

__all__ = [
    "PINNED",
    "SCAN_PINNED",
    "Connection",
    "Conninfo",
    "Identity",
    "classify_error",
    "connect",
    "is_transient",
    "pinned_options",
    "server_identity",
]

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

SILENCE_S: Final = 60.0
"""So long a server may leave a request without a single byte of an answer; then it counts as gone.  As wal_sender_timeout."""
WAITING_SILENCE_S: Final = 600.0
"""The same where the answer may have to wait for other sessions: for their transactions to end, for their locks."""

PINNED: Final[Mapping[str, str]] = {
    "client_encoding": "UTF8",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "search_path": "pg_catalog",
    "quote_all_identifiers": "off",
}
"""The settings that change the text of a value, each exactly as SHOW prints it (formats.md 1)."""

SCAN_PINNED: Final[Mapping[str, str]] = {**PINNED, "row_security": "off", "synchronize_seqscans": "off"}
"""What a scan pins: also that no row is hidden from it (there is an error instead) and that rows come in physical order."""

_WITHOUT_JIT: Final = "-c jit=off"  # the planner overrates catalog queries: seconds to compile what runs for milliseconds

# A machine that vanished without a FIN is noticed within this time, by the acknowledgements of our own messages.
_KEEPALIVE: Final = {"keepalives_idle": "20", "keepalives_interval": "10", "keepalives_count": "3", "tcp_user_timeout": "40000"}
FOREIGN: Final = "database.foreign"
"""The code of the error that says that another database answers than the recorded one, and nobody has accepted that yet."""
_OWN_PARAMETERS: Final = ("replication", "client_encoding", "connect_timeout", "application_name", "fallback_application_name")


@dataclass(frozen=True, slots=True, repr=False)
class Conninfo:
    """Where a database is and as whom to enter it.  Its repr, and what :meth:`describe` gives, never hold the password.

    ``host``: a name, an address or, with a slash in front, the directory of a Unix socket.  ``extra``: further libpq
    parameters, as sorted pairs (``options`` among them stay in force next to the pinned ones, which win).  ``silence_s``: how
    long the server may say nothing that was asked for before it counts as gone.
    """

    host: str
    port: int
    dbname: str
    user: str
    password: str | None = None
    sslmode: str = "prefer"
    sslrootcert: str | None = None
    extra: tuple[tuple[str, str], ...] = ()
    silence_s: float = SILENCE_S

    @classmethod
    def from_conninfo(cls, text: str) -> Self:
        """Read a libpq connection string, in either form: ``postgresql://…`` or ``host=… dbname=…``.

        Raises :class:`ConfigError`, which never repeats the text, for a malformed one, for one without user, for several hosts
        and for parameters that witnz sets itself.  Defaults: localhost, 5432, a database named like the user.
        """
        try:
            found = {name: str(value) for name, value in conninfo_to_dict(text).items() if value is not None}
        except psycopg.Error:
            # libpq's message quotes the string, password and all
            raise ConfigError(
                "database URL: expected postgresql://user@host:port/dbname or key=value pairs, found neither",
                hint="characters such as @ : / % in a user name or password must be percent-encoded in a URL",
            ) from None
        for name in _OWN_PARAMETERS:
            if name in found:
                raise ConfigError(f"database URL: {name} is set by witnz itself", hint=f"remove {name} from the database URL")
        if not found.get("user"):
            raise ConfigError("database URL: expected a user name, found none")
        port = found.pop("port", "5432")
        host = found.pop("host", "localhost")
        if not (port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16) or "," in host:
            raise ConfigError(f"database URL: expected one host and one port, found {host[:80]!r} and {port[:20]!r}")
        user = found.pop("user")
        return cls(
            host=host,
            port=int(port),
            dbname=found.pop("dbname", user),
            user=user,
            password=found.pop("password", None),
            sslmode=found.pop("sslmode", "prefer"),
            sslrootcert=found.pop("sslrootcert", None),
            extra=tuple(sorted(found.items())),
        )

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Like :meth:`from_conninfo`, for a URL only."""
        if not url.startswith(("postgresql://", "postgres://")):
            raise ConfigError("database URL: expected one that begins with postgresql://")
        return cls.from_conninfo(url)

    def parameters(self) -> dict[str, str]:
        """libpq's parameters, the password among them."""
        named = {
            "host": self.host,
            "port": str(self.port),
            "dbname": self.dbname,
            "user": self.user,
            "password": self.password,
            "sslmode": self.sslmode,
            "sslrootcert": self.sslrootcert,
        }
        return dict(self.extra) | {name: value for name, value in named.items() if value is not None}

    def describe(self) -> str:
        """For messages and logs: ``user@host:port/dbname``."""
        return f"{self.user}@{self.host}:{self.port}/{self.dbname}"

    def __repr__(self) -> str:
        return f"Conninfo({self.describe()}, sslmode={self.sslmode})"


@dataclass(frozen=True, slots=True)
class Identity:
    """Which database this is: an LSN means something only together with ``system`` and ``timeline``.

    ``system``: the system identifier, decimal.  ``version_num``: as ``server_version_num``, 160014 for 16.14.
    """

    system: str
    timeline: int
    dbname: str
    in_recovery: bool
    version_num: int


def pinned_options(settings: Mapping[str, str] = PINNED) -> str:
    """``settings`` as libpq's ``options`` (or PGOPTIONS): ``-c name=value …``, blanks and backslashes escaped."""
    escaped = {name: value.replace("\\", "\\\\").replace(" ", "\\ ") for name, value in settings.items()}
    return " ".join(f"-c {name}={value}" for name, value in escaped.items())


class Session(psycopg.Connection[tuple[Any, ...]]):
    """A connection on which no statement waits longer than ``silence_s`` for the server's next byte.

    What takes longer is an OperationalError, as any loss of the connection, which is closed then.
    """

    silence_s: float | None = None

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **keywords: Any) -> Any:
        return super().wait(gen if self.silence_s is None else self._bounded(gen, self.silence_s), *args, **keywords)

    def _bounded(self, gen: Generator[Any, Any, Any], silence_s: float) -> Generator[Any, Any, Any]:
        """psycopg's own generator of socket waits, which yields what it waits for and is sent what is ready, 0 at intervals."""
        try:
            wanted = next(gen)
            since = time.monotonic()
            while True:
                ready = yield wanted
                if ready:
                    since = time.monotonic()
                elif time.monotonic() - since > silence_s:
                    gen.close()
                    self.close()
                    raise psycopg.OperationalError(f"the server left a request without an answer for {silence_s:g} s")
                wanted = gen.send(ready)
        except StopIteration as done:
            return done.value


def connect(
    conninfo: Conninfo,
    *,
    replication: bool = False,
    scan: bool = False,
    application_name: str = "witnz",
    connect_timeout_s: int = 10,
    silence_s: float | None = None,
) -> Connection:
    """A connection in autocommit mode with :data:`PINNED` (or, for a ``scan``, :data:`SCAN_PINNED`) in force.

    ``replication``: a walsender of that database, for :mod:`witnz.postgres.stream` and slots; it takes SQL without parameters
    as well.  ``silence_s``: instead of that of ``conninfo``, such as :data:`WAITING_SILENCE_S`.

    Raises DatabaseUnreachable when trying again may help, KeyProblem when the role may not replicate, ReplicationImpossible
    when the server turns us down, when a setting did not take, and for a SQL_ASCII database, whose text has no known encoding.
    """
    settings = SCAN_PINNED if scan else PINNED
    given = conninfo.parameters()
    parameters = _KEEPALIVE | given
    options = (_WITHOUT_JIT, given.get("options", ""), pinned_options(settings))
    parameters["options"] = " ".join(part for part in options if part)
    parameters |= {"client_encoding": "UTF8", "application_name": application_name, "connect_timeout": str(connect_timeout_s)}
    if replication:
        parameters["replication"] = "database"
    try:
        connection = Session.connect(make_conninfo("", **parameters), autocommit=True)
    except psycopg.Error as error:
        raise classify_error(error, doing=f"connecting to {conninfo.describe()}") from error
    connection.silence_s = conninfo.silence_s if silence_s is None else silence_s
    try:
        _check_settings(connection, settings)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_settings(connection: Connection, settings: Mapping[str, str]) -> None:
    """Raise :class:`ReplicationImpossible` unless the server uses exactly ``settings`` and a known encoding."""
    query = ", ".join(f"pg_catalog.current_setting('{name}')" for name in ("server_encoding", *settings))
    try:
        row = connection.execute(f"SELECT {query}").fetchone()  # names from the tables above
    except psycopg.Error as error:
        raise classify_error(error, doing="reading back the session's settings") from error
    encoding, *found = row or ()
    if encoding == "SQL_ASCII":
        raise ReplicationImpossible(
            "the database's encoding is SQL_ASCII: the same bytes would mean different text to different readers",
            hint="dump it and restore it into a database with ENCODING 'UTF8'",
        )
    for (name, wanted), value in zip(settings.items(), found, strict=True):
        if value != wanted:
            raise ReplicationImpossible(
                f"the session's {name} is {value!r} although {wanted!r} was asked for",
                hint="connect to PostgreSQL directly: connection poolers drop the options that fix how values are printed;"
                " PGTZ, PGDATESTYLE and PGCLIENTENCODING in the environment override them",
            )


def server_identity(connection: Connection) -> Identity:
    """Which database ``connection`` (of either kind) leads to; needs no privilege.

    The timeline is the one being written; of a server in recovery, reached without replication, that of its last restart point.
    """
    try:
        if "replication" in connection.info.get_parameters():
            system, timeline, _, dbname = _one(connection, "IDENTIFY_SYSTEM")
            (in_recovery,) = _one(connection, "SELECT pg_is_in_recovery()")
        else:
            (in_recovery,) = _one(connection, "SELECT pg_is_in_recovery()")
            system, timeline, dbname = _one(connection, _STANDBY_IDENTITY if in_recovery else _PRIMARY_IDENTITY)
    except psycopg.Error as error:
        raise classify_error(error, doing="asking the server which one it is") from error
    return Identity(str(system), int(timeline), str(dbname), bool(in_recovery), connection.info.server_version)


# A WAL file's name begins with its timeline; pg_control_checkpoint() would still name the old one just after a promotion.
_PRIMARY_IDENTITY = """SELECT system_identifier, ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int,
    current_database() FROM pg_control_system()"""
_STANDBY_IDENTITY = """SELECT system_identifier, (SELECT timeline_id FROM pg_control_checkpoint()),
    current_database() FROM pg_control_system()"""


def _one(connection: Connection, query: str) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    if row is None:
        raise ReplicationImpossible(f"expected one row that identifies the server, found none ({query[:40]})")
    return row
