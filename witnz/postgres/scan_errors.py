"""Why a scan could not answer: the errors of :mod:`witnz.postgres.scan`, all of them "could not look".

    TableReplaced      the recorded name is another relation now, or none: a finding in the making (threats.md B01 to B07)
    TableChanged       the columns that were to be read are not there any more, or have another type: the way of DDL
    VisibilityChanged  the role may not read the rows, or not all of them (B09)
    TableLocked        somebody holds the table against readers; it was tried more than once
    DataUnreadable     the server cannot read its own data; ``where`` names the block or value as far as it says (D01, D04)
    ScanInterrupted    cancelled, deadlocked, snapshot gone: nothing is wrong with the table
    DatabaseUnreachable  (witnz.errors) the connection broke

Messages repeat the server's primary sentence only: DETAIL and CONTEXT may hold the contents of rows.
"""

from __future__ import annotations

import re
from typing import Final

import psycopg

from witnz.errors import DatabaseUnreachable, Inconclusive, WitnzError
from witnz.postgres.sqlstate import classify_error, sqlstate_of


class TableReplaced(Inconclusive):
    """``found_oid`` is what bears the name now (None: nothing), ``found_kind`` its letter in pg_class, '' for nothing."""

    code = "scan.table-replaced"

    def __init__(self, table: str, expected_oid: int, found_oid: int | None, found_kind: str = "") -> None:
        what = "no relation" if found_oid is None else f"relation {found_oid} (kind {found_kind or '?'})"
        super().__init__(
            f"{table}: expected relation {expected_oid} under this name, found {what}",
            hint="the table was dropped, renamed or exchanged; see `witnz findings list`",
        )
        self.expected_oid = expected_oid
        self.found_oid = found_oid
        self.found_kind = found_kind


class TableChanged(Inconclusive):
    code = "scan.table-changed"


class VisibilityChanged(Inconclusive):
    code = "scan.visibility"


class TableLocked(Inconclusive):
    code = "scan.locked"


class DataUnreadable(Inconclusive):
    """``where`` is the server's own description of the place, '' where it names none."""

    code = "scan.unreadable"

    def __init__(self, message: str, *, where: str) -> None:
        super().__init__(message, hint="the database's own files are damaged or were edited: look at its log, then restore")
        self.where = where


class ScanInterrupted(Inconclusive):
    code = "scan.interrupted"


_LOCKED: Final = "55P03"
_GONE: Final = frozenset({"42P01", "3F000", "42809"})  # undefined table, undefined schema, not a table
_COLUMNS: Final = frozenset({"42703", "42804", "42P10", "42611"})  # undefined column, wrong type, not to be copied, generated
_DENIED: Final = "42501"
_INTERRUPTED: Final = frozenset({"57014", "40P01", "40001", "25P03", "25P04", "57P05"})
_OUR_SNAPSHOT: Final = frozenset({"22023", "42704", "55000"})  # an exported snapshot that is no longer there
_RESOURCES: Final = ("53", "54")
_PLACE = re.compile(
    r"block \d+ (?:of|in) (?:relation|file) \"?[^\s\"]+|relation \"?\S+\" page \d+|blocks \d+\.\.\d+ in file \"[^\"]+\""
    r"|(?:relation|file) \"?(?:base|global|pg_tblspc)/[^\s\":;,]+|toast value \d+ in \S+|transaction \d+"
)


def scan_error(error: psycopg.Error, table: str) -> WitnzError:
    """What a scan of ``table`` (a label) raises for an error of psycopg.  TableReplaced is not decided here but by the name."""
    sqlstate = sqlstate_of(error)
    said = error.diag.message_primary or " ".join(str(error).split())
    message = f"{table}: {said}" + (f" (SQLSTATE {sqlstate})" if sqlstate else "")
    if sqlstate is None:
        return DatabaseUnreachable(message, hint="the scan starts again when the database is back")
    if sqlstate == _LOCKED:
        return TableLocked(f"{table}: locked by DDL, retried: {said}", hint="it is tried again at the next verification")
    if sqlstate == _DENIED:
        hint = "the role needs SELECT on the table, and BYPASSRLS where row security is on"
        return VisibilityChanged(message, hint=hint)
    if sqlstate in _COLUMNS or sqlstate in _GONE:
        return TableChanged(message, hint="the table's definition moved during the scan; it is tried again")
    if sqlstate in _INTERRUPTED or sqlstate in _OUR_SNAPSHOT or sqlstate.startswith(_RESOURCES):
        return ScanInterrupted(message, hint="it is tried again at the next verification")
    connection = classify_error(error, doing=table)
    if isinstance(connection, DatabaseUnreachable):
        return connection
    # XX001 and XX002 say "data corrupted"; a damaged page shows as well as a value that its own type cannot print, a file that
    # is missing, a transaction that never was.  Whatever else a plain COPY fails with is about the data.
    place = _PLACE.search(said)
    return DataUnreadable(message, where=place[0].replace('"', "") if place else "")
