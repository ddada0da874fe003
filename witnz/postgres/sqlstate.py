"""What an error of PostgreSQL means to witnz: worth trying again, a right that is missing, or never going to work.

Decided by SQLSTATE (PostgreSQL documentation, appendix A).  A connection that was never made has none: libpq hands over only
the server's sentence, so there, and there alone, known sentences are looked for; one that nobody knows counts as transient,
because giving up on a database that would have come back is the worse mistake.
"""

from __future__ import annotations

import re
from typing import Final

import psycopg

from witnz.errors import DatabaseUnreachable, KeyProblem, ReplicationImpossible, WitnzError

_TRANSIENT_CLASSES: Final = ("08",)  # connection exceptions
_TRANSIENT: Final = frozenset(
    {
        "25P03",  # idle in transaction for too long
        "40001",  # serialization failure
        "40P01",  # deadlock
        "53300",  # too many connections
        "55006",  # object in use: the slot's walsender of before is still there
        "55P03",  # lock not available within lock_timeout
        "57014",  # cancelled, or statement_timeout
        "57P01",  # terminated by an administrator, or shutting down
        "57P02",  # another backend crashed
        "57P03",  # starting up, or in recovery
        "57P05",  # idle for too long
    }
)
_NO_PRIVILEGE: Final = "42501"
PUBLICATION_MISSING: Final = "publication.missing"
"""The code of the error that a stream ends with where it needs a publication that is not there, or was not at that time."""
IN_RECOVERY: Final = "source.standby"
"""The code of the error that says that the server is still, or only, replaying what another one wrote."""
_BAD_LOGIN_CLASS: Final = "28"

# The sentences with which a server, or libpq's TLS layer, turns a connection down for good (lc_messages may translate them).
_REFUSED = re.compile(
    r"password authentication failed|no password supplied|no pg_hba\.conf entry|pg_hba\.conf rejects|authentication failed"
    r'|role "[^"]*" (does not exist|is not permitted to log in)|database "[^"]*" does not exist'
    r"|permission denied for database|server does not support SSL|certificate verify failed|root certificate file"
    r"|server certificate for .* does not match|unsupported frontend protocol|invalid (sslmode|connection option|port)"
)
_NO_REPLICATION = re.compile(
    r"permission denied to (start WAL sender|use replication slots)|must be superuser or replication role"
)
_NO_PUBLICATION = re.compile(r'publication "[^"]*" does not exist')
_DENIED = re.compile(r"permission denied for (table|view|schema|function|database) (\S+)")

_HINTS: Final = {
    "22P05": "the database holds a character that UTF-8 cannot carry; its encoding must be convertible to UTF-8",
    "3D000": "name an existing database in witnz.yaml",
    "42704": "check that the publication and the slot exist; `witnz init` makes both",
    "53400": "drop slots that nobody uses, or raise max_replication_slots and restart the server",
    "54000": "a single row of more than 1 GB cannot be replicated",
}
_WAL_LEVEL: Final = "as a superuser: ALTER SYSTEM SET wal_level = logical, then restart the server; `witnz doctor` looks again"
_NO_RIGHT_TO_REPLICATE: Final = "as a superuser: ALTER ROLE … WITH REPLICATION, for the role that witnz connects as"
_AGAIN_LATER: Final = "check that the server runs and is reachable at this address; a running node tries again by itself"
_NEVER: Final = "`witnz doctor` checks every precondition"

_SENTENCE_HINTS: Final = (
    (re.compile(r"wal_level"), _WAL_LEVEL),
    (
        re.compile(r"max_replication_slots"),
        "raise max_replication_slots and restart the server, or drop slots that nobody uses",
    ),
    (
        re.compile(r"no password supplied"),
        "give one: database.password or password_file in witnz.yaml (a new file takes it from WITNZ_DB_PASSWORD), in a URL, "
        "or in ~/.pgpass",
    ),
    (re.compile(r"password authentication failed"), "the password is another one, or there is no such role; check both"),
    (re.compile(r'database "[^"]*" does not exist'), "name an existing database; the last part of a URL is its name"),
    (re.compile(r'role "[^"]*" does not exist'), "CREATE ROLE … LOGIN REPLICATION; `witnz init --print-sql` prints all of it"),
    (re.compile(r"pg_hba\.conf"), "the server's pg_hba.conf has to let this role in from this machine; reload it afterwards"),
)
"""What helps where the sentence says more than the SQLSTATE: one SQLSTATE stands for several lacks, and a login has none."""
_GRANTS: Final = {
    "table": "GRANT SELECT ON {} TO the role that witnz uses",
    "view": "GRANT SELECT ON {} TO the role that witnz uses",
    "schema": "GRANT USAGE ON SCHEMA {} TO the role that witnz uses",
    "function": "GRANT EXECUTE ON FUNCTION {} TO the role that witnz uses",
    "database": "GRANT CONNECT ON DATABASE {} TO the role that witnz uses",
}


def is_transient(error: psycopg.Error) -> bool:
    """Whether the same attempt may succeed later without anybody changing anything."""
    return _is_transient(
        sqlstate_of(error), _message_of(error), isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    )


def classify_error(error: psycopg.Error, *, doing: str = "PostgreSQL") -> WitnzError:
    """The error of witnz's tree to raise for an error of psycopg.

    DatabaseUnreachable where trying again is right, KeyProblem where the role lacks a right, ReplicationImpossible for the
    rest.  ``doing`` opens the message.  Only the server's primary sentence is repeated: DETAIL may hold the contents of rows.
    """
    broken = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return error_for(sqlstate_of(error), _message_of(error), doing=doing, broken=broken)


def error_for(sqlstate: str | None, message: str, *, doing: str = "PostgreSQL", broken: bool = False) -> WitnzError:
    """Like :func:`classify_error`, for an error that is no exception: the end of a replication stream.

    ``sqlstate`` is None where the server said none; ``broken`` says whether the connection itself failed.
    """
    text = f"{doing}: {message}" + (f" (SQLSTATE {sqlstate})" if sqlstate else "")
    if _NO_REPLICATION.search(message):
        return KeyProblem(text, hint=_NO_RIGHT_TO_REPLICATE, code="database.permission")
    if sqlstate == _NO_PRIVILEGE:
        return KeyProblem(text, hint=_grant_for(message), code="database.permission")
    if _is_transient(sqlstate, message, broken):
        return DatabaseUnreachable(text, hint=_AGAIN_LATER)
    hint = _hint_for(sqlstate, message)
    if sqlstate == "42704" and _NO_PUBLICATION.search(message):
        return ReplicationImpossible(text, hint=hint, code=PUBLICATION_MISSING)
    return ReplicationImpossible(text, hint=hint)


def sqlstate_of(error: psycopg.Error) -> str | None:
    """The five characters, or None where there never was an answer to take them from."""
    return error.sqlstate or error.diag.sqlstate


def _message_of(error: psycopg.Error) -> str:
    return error.diag.message_primary or " ".join(str(error).split())


def _is_transient(sqlstate: str | None, message: str, broken: bool) -> bool:
    if sqlstate is not None:
        return sqlstate in _TRANSIENT or sqlstate.startswith(_TRANSIENT_CLASSES)
    return broken and _REFUSED.search(message) is None and _NO_REPLICATION.search(message) is None


def _hint_for(sqlstate: str | None, message: str) -> str:
    """What to do about a refusal: by its sentence where that is known, else by its SQLSTATE."""
    for sentence, hint in _SENTENCE_HINTS:
        if sentence.search(message):
            return hint
    if sqlstate is None or sqlstate.startswith(_BAD_LOGIN_CLASS):
        return "check host, port, user, password, sslmode and the server's pg_hba.conf"
    if sqlstate == "55000":  # in a language that this program does not read
        return _WAL_LEVEL
    return _HINTS.get(sqlstate, _NEVER)


def _grant_for(message: str) -> str:
    denied = _DENIED.search(message)
    if denied is None:
        return "the role that witnz uses needs REPLICATION, USAGE on the schemas and SELECT on the protected tables"
    return _GRANTS[denied[1]].format(denied[2])
