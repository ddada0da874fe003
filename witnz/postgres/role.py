"""What the role that witnz connects as may do, as whom it acts, and which settings the server gives it (threats.md B08).

Whatever changes how a value is printed is pinned on every connection (:mod:`witnz.postgres.session`).  What stays are settings
that decide *who* reads and *which code* runs while it does: a role to act as, a library to load.  So any setting of the
role itself counts, and of those for a whole database or for everybody only these few; the others are the application's matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg import Connection

_FACTS = """
SELECT 'acts as', current_user::text WHERE current_user <> session_user
UNION ALL
SELECT 'attribute ' || a.name, a.value::text
FROM pg_catalog.pg_roles r, LATERAL (VALUES ('superuser', r.rolsuper), ('bypassrls', r.rolbypassrls),
    ('replication', r.rolreplication), ('inherit', r.rolinherit)) AS a(name, value)
WHERE r.rolname = session_user
UNION ALL
SELECT 'member of', string_agg(g.rolname::text, ', ' ORDER BY g.rolname)
FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles r ON r.oid = m.member JOIN pg_catalog.pg_roles g ON g.oid = m.roleid
WHERE r.rolname = session_user HAVING count(*) > 0
UNION ALL
SELECT CASE WHEN s.setrole = 0 THEN 'database setting ' ELSE 'setting ' END || split_part(setting, '=', 1)
           || CASE WHEN s.setdatabase = 0 THEN ' (every database)' ELSE '' END,
       substr(setting, strpos(setting, '=') + 1)
FROM pg_catalog.pg_db_role_setting s, unnest(s.setconfig) AS setting
WHERE s.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
    AND (s.setrole = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = session_user)
         OR s.setrole = 0 AND lower(split_part(setting, '=', 1)) IN
            ('role', 'session_authorization', 'session_preload_libraries', 'local_preload_libraries', 'row_security'))
"""


def role_facts(connection: Connection[Any]) -> dict[str, str]:
    """By name, what holds of the connection's role now: attributes, memberships, settings that the server gives it."""
    return dict(connection.execute(_FACTS).fetchall())


def role_changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs, in words; empty where nothing does."""
    changed = [
        f"{name} is now {now[name]!r}" + (f", was {before[name]!r}" if name in before else "")
        for name in now
        if now[name] != before.get(name)
    ]
    return changed + [f"{name} {before[name]!r} is gone" for name in before if name not in now]
