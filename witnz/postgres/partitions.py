"""Whether a leaf partition was attached, perhaps with rows, or made as a partition.

A partition that was made as one had no rows before the publication of its root covered it; every row of it is an event.  One
that was attached may bring rows that no event tells of.  The catalog says which: the row of ``pg_attribute`` for ``ctid`` is as
old as the table and is never updated, the row of ``pg_inherits`` as old as the tie (PostgreSQL 52.7, 52.27).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

# A tie that is younger than the table; or, of one transaction, the command that tied it, for the rows that were there before.
_TIES = """
WITH RECURSIVE up(parent, made, command) AS (
    SELECT inhparent, xmin, cmin FROM pg_catalog.pg_inherits WHERE inhrelid = %(leaf)s
    UNION ALL
    SELECT i.inhparent, i.xmin, i.cmin FROM pg_catalog.pg_inherits i JOIN up ON i.inhrelid = up.parent)
SELECT pg_catalog.bool_or(pg_catalog.age(up.made) < pg_catalog.age(a.xmin)), a.xmin::text,
    pg_catalog.max(up.command::text::bigint) FILTER (WHERE up.made = a.xmin)
FROM up, pg_catalog.pg_attribute a WHERE a.attrelid = %(leaf)s AND a.attnum = -1 GROUP BY a.xmin"""


_TIES_NOW = """
WITH RECURSIVE up(leaf, parent, tie) AS (
    SELECT i.inhrelid, i.inhparent, i.inhparent::text || ':' || i.xmin::text
    FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relispartition
    WHERE i.inhrelid = ANY (%s::oid[])
    UNION ALL
    SELECT up.leaf, i.inhparent, i.inhparent::text || ':' || i.xmin::text
    FROM pg_catalog.pg_inherits i JOIN up ON i.inhrelid = up.parent)
SELECT leaf, pg_catalog.string_agg(tie, ' ' ORDER BY tie) FROM up GROUP BY leaf"""


def ties(conn: psycopg.Connection[Any], leaves: Sequence[int]) -> dict[int, str]:
    """By OID, of those that are partitions: what ties each to its tree, all the way up; another text once attached anew."""
    return dict(conn.execute(_TIES_NOW, [list(leaves)]).fetchall())


def was_attached(conn: psycopg.Connection[Any], leaf: int, schema: str, name: str) -> bool:
    """Whether the leaf was there before it became part of its tree, so that it may have brought rows along.

    A table that was made, filled and attached in one transaction counts as attached.
    """
    row = conn.execute(_TIES, {"leaf": leaf}).fetchone()
    if row is None:
        return False
    younger, made, command = row
    if younger or command is None:
        return bool(younger)
    query = sql.SQL("SELECT EXISTS (SELECT FROM ONLY {} WHERE xmin::text = {} AND cmin::text::bigint < {})")
    try:
        found = conn.execute(query.format(sql.Identifier(schema, name), made, command)).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return True  # it has to be read before anything can be said
    return bool(found and found[0])
