"""A table's catalog rows in comparable form: what can change a table, or how it reads, without any row event.

threats.md B01 to B13; what is watched and why is in the fields.  A fingerprint is cheap (one query for any number of tables, no
lock, any role), so it is taken every few seconds and around every scan.  Two that differ say *that* and *where* something
changed, not whether it was allowed.

Digests are hex SHA-256 over the text of the rows, made by the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from psycopg import Connection, sql

from witnz.postgres.typegraph import FIRST_USER_OID, inner_types

DETACH_PENDING_SINCE: Final = 140000


@dataclass(frozen=True, slots=True)
class TableFingerprint:
    """One table at one moment."""

    oid: int
    schema: str
    name: str
    schema_oid: int
    schema_row: str
    """xmin of the schema's row: a schema renamed and renamed back shows here."""
    class_row: str
    """xmin of the pg_class row: it moves with DDL and GRANT, also when all was put back; not with VACUUM or ANALYZE."""
    relfilenode: int
    """A new file: rewrite, TRUNCATE, VACUUM FULL, CLUSTER, SET UNLOGGED or LOGGED."""
    relkind: str
    persistence: str
    identity: str
    row_security: bool
    row_security_forced: bool
    is_partition: bool
    has_rules: bool
    columns: str
    """Digest of number, name, type, modifier, generation and liveness of every column, dropped ones too."""
    missing_values: str
    """Digest of what rows older than a column show in it; a rewrite (VACUUM FULL too) empties it."""
    keys: str
    """Digest of the indexes that are the primary key or the replica identity."""
    types: str
    """Digest of the enum labels and composite attributes inside the columns' types, with their rows' xmin."""
    rules: str
    triggers: str
    """Digest of the triggers that are not PostgreSQL's own, with their functions' source."""
    parents: str
    children: str

    def changes(self, later: TableFingerprint) -> tuple[str, ...]:
        """The names of the fields in which ``later`` differs."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) != getattr(later, f.name))


_FINGERPRINT = """
SELECT c.oid, n.nspname::text, c.relname::text, n.oid, n.xmin::text, c.xmin::text, c.relfilenode, c.relkind::text,
       c.relpersistence::text, c.relreplident::text, c.relrowsecurity, c.relforcerowsecurity, c.relispartition, c.relhasrules,
       {columns}, {missing_values}, {keys}, {types}, {rules}, {triggers}, {parents}, {children}
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = ANY (%s::oid[])
"""
# {row} is turned into text by PostgreSQL's record output, which quotes, so that different rows never read alike.
_DIGEST = """
(SELECT encode(sha256(convert_to(coalesce(string_agg(({row})::text, chr(10) ORDER BY {order}), ''), 'UTF8')), 'hex') {source})
"""
_TYPE_PARTS = """
FROM (
    WITH RECURSIVE part(type) AS (
        SELECT a.atttypid FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.atttypid >= {first_user_oid}
        UNION
        SELECT inside.type FROM part, LATERAL ({inner}) AS inside(type)
    )
    SELECT e.enumtypid AS type, e.enumsortorder AS place, e.enumlabel::text AS label, e.xmin::text AS version, ''::text AS form
    FROM part JOIN pg_catalog.pg_enum e ON e.enumtypid = part.type
    UNION ALL
    SELECT t.oid, a.attnum, a.attname::text, a.xmin::text, ROW(a.atttypid, a.atttypmod, a.attisdropped)::text
    FROM part JOIN pg_catalog.pg_type t ON t.oid = part.type AND t.typtype = 'c'
        JOIN pg_catalog.pg_attribute a ON a.attrelid = t.typrelid AND a.attnum > 0
) x
"""
_PARTS: Final = {
    "columns": (
        "ROW(a.attnum, a.attname, a.atttypid, a.atttypmod, a.attgenerated, a.attisdropped)",
        "a.attnum",
        "FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0",
    ),
    "missing_values": (
        "ROW(a.attnum, a.attmissingval::text)",
        "a.attnum",
        "FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.atthasmissing",
    ),
    "keys": (
        "ROW(i.indexrelid, i.indisprimary, i.indisreplident, i.indkey, i.indnkeyatts, i.indimmediate, i.indisvalid)",
        "i.indexrelid",
        "FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND (i.indisprimary OR i.indisreplident)",
    ),
    "rules": (  # ev_action, not pg_get_ruledef(): that would lock every table the rule mentions
        "ROW(r.rulename, r.ev_type, r.ev_enabled, r.is_instead, r.ev_qual::text, r.ev_action::text)",
        "r.oid",
        "FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid",
    ),
    "triggers": (
        "ROW(t.tgname, t.tgfoid, t.tgtype, t.tgenabled, t.tgattr, t.tgargs, t.tgqual::text, p.prosrc, p.probin)",
        "t.oid",
        "FROM pg_catalog.pg_trigger t LEFT JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid"
        " WHERE t.tgrelid = c.oid AND NOT t.tgisinternal",
    ),
    "parents": (
        "ROW(i.inhparent, i.inhseqno, c.relpartbound::text {detach_pending})",
        "i.inhseqno",
        "FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid",
    ),
    "children": (
        "ROW(i.inhrelid {detach_pending})",
        "i.inhrelid",
        "FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid",
    ),
}


def fingerprint(connection: Connection[Any], oids: Sequence[int]) -> dict[int, TableFingerprint]:
    """The fingerprints of those of ``oids`` that exist, in one query and so as of one snapshot."""
    found = connection.execute(_query(connection.info.server_version), [list(oids)])
    return {row[0]: TableFingerprint(*row) for row in found}


def _query(version: int) -> sql.Composed:
    detach_pending = sql.SQL(", i.inhdetachpending" if version >= DETACH_PENDING_SINCE else "")
    parts = {
        name: _digest(sql.SQL(row).format(detach_pending=detach_pending), order, sql.SQL(source))
        for name, (row, order, source) in _PARTS.items()
    }
    type_parts = sql.SQL(_TYPE_PARTS).format(first_user_oid=FIRST_USER_OID, inner=inner_types(version))
    parts["types"] = _digest(sql.SQL("ROW(x.*)"), "x.type, x.place", type_parts)
    return sql.SQL(_FINGERPRINT).format(**parts)


def _digest(row: sql.Composable, order: str, source: sql.Composable) -> sql.Composed:
    return sql.SQL(_DIGEST).format(row=row, order=sql.SQL(order), source=source)
