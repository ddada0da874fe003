"""Which types a column's type is made of: arrays, domains, ranges and composite types down to their parts.

Two things follow from the parts.  The text of a ``reg*`` or ``aclitem`` value names other objects of the catalog and so changes
when *they* are renamed (formats.md 1 refuses such columns), and the text of an enum or composite value changes with the type's
own rows, without an event of the table (threats.md, B13).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from psycopg import Connection, sql

FIRST_USER_OID: Final = 16384
"""FirstNormalObjectId of PostgreSQL (access/transam.h): what came with initdb lies below."""

MULTIRANGES_SINCE: Final = 140000

_UNSTABLE: Final = (
    *("regclass", "regtype", "regproc", "regprocedure", "regoper", "regoperator", "regrole"),
    *("regnamespace", "regconfig", "regdictionary", "regcollation", "regdatabase", "aclitem"),
)
_UNSTABLE_INSIDE = """
WITH RECURSIVE part(root, type) AS (
    SELECT root, root FROM unnest(%(types)s::oid[]) AS given(root)
    UNION
    SELECT part.root, inside.type FROM part, LATERAL ({inner}) AS inside(type)
)
SELECT part.root, min(t.typname::text)
FROM part JOIN pg_catalog.pg_type t ON t.oid = part.type
WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typname = ANY (%(unstable)s)
GROUP BY part.root
"""
_INNER = """
SELECT t.typelem FROM pg_catalog.pg_type t WHERE t.oid = part.type AND t.typelem <> 0
UNION ALL
SELECT t.typbasetype FROM pg_catalog.pg_type t WHERE t.oid = part.type AND t.typbasetype <> 0
UNION ALL
SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = part.type {or_multirange}
UNION ALL
SELECT a.atttypid FROM pg_catalog.pg_type t JOIN pg_catalog.pg_attribute a ON a.attrelid = t.typrelid
WHERE t.oid = part.type AND t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped
"""


def inner_types(version: int) -> sql.Composed:
    """A query over ``part.type`` that yields the OIDs of the types directly inside it, to be joined laterally.

    ``version`` is the server's ``server_version_num``.
    """
    or_multirange = sql.SQL("OR r.rngmultitypid = part.type" if version >= MULTIRANGES_SINCE else "")
    return sql.SQL(_INNER).format(or_multirange=or_multirange)


def unstable_types(connection: Connection[Any], types: Sequence[int]) -> dict[int, str]:
    """Of the type OIDs ``types``, those that hold a ``reg*`` or ``aclitem`` value anywhere, each with that type's name."""
    if not types:
        return {}
    query = sql.SQL(_UNSTABLE_INSIDE).format(inner=inner_types(connection.info.server_version))
    found = connection.execute(query, {"types": list(types), "unstable": list(_UNSTABLE)})
    return dict(found.fetchall())
