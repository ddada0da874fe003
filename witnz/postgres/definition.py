"""What decides how rows of a table come into it and how they read, beside its columns: so many small facts, each by a name.

threats.md B08, B11, B12, B13.  Logical replication says nothing of any of these, and a row's text (formats.md 1) follows from
some of them:

    rule       a rewrite rule: it can send an INSERT elsewhere
    trigger    a BEFORE INSERT trigger for each row: it can drop or replace the new row.  AFTER triggers and clones on
               partitions can not, and one on UPDATE keeps nothing recorded from being seen
    label      a label of an enum inside a column's type: renamed, every row with it reads otherwise
    attribute  an attribute of a composite type inside a column's type
    output     the output function of a type inside a column's type: what it prints is what a scan reads
    inherits   a partition's row in pg_inherits: another one after DETACH and ATTACH, between which nothing was published

The facts of a table are a mapping from "kind/identity" to text.  Two of them compare with :func:`alterations`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from psycopg import Connection, sql

from witnz.postgres.typegraph import inner_types

Facts = Mapping[str, str]
Meaning = Literal["writes", "reading", "text", "published"]
"""What an alteration is about: where writes go, how a value is printed, what recorded rows read like, what was published."""

MEANINGS: Final[Mapping[str, Meaning]] = {
    "rule": "writes",
    "trigger": "writes",
    "label": "text",
    "attribute": "text",
    "output": "reading",
    "inherits": "published",
}

_FACTS = """
WITH RECURSIVE part(rel, type) AS (
    SELECT a.attrelid, a.atttypid FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = ANY (%(oids)s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
    UNION
    SELECT part.rel, inside.type FROM part, LATERAL ({inner}) AS inside(type)
)
SELECT r.ev_class, 'rule', r.oid::text, r.rulename::text,
       {digest_rule}
FROM pg_catalog.pg_rewrite r WHERE r.ev_class = ANY (%(oids)s::oid[]) AND r.rulename <> '_RETURN'
UNION ALL
SELECT t.tgrelid, 'trigger', t.oid::text, t.tgname::text,
       {digest_trigger}
FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
WHERE t.tgrelid = ANY (%(oids)s::oid[]) AND NOT t.tgisinternal AND t.tgparentid = 0 AND (t.tgtype & 7) = 7
UNION ALL
SELECT part.rel, 'label', e.oid::text, format_type(e.enumtypid, NULL), e.enumlabel::text
FROM part JOIN pg_catalog.pg_enum e ON e.enumtypid = part.type
UNION ALL
SELECT part.rel, 'attribute', t.oid || '.' || a.attnum, format_type(t.oid, NULL),
       ROW(a.atttypid, a.atttypmod, a.attisdropped)::text
FROM part JOIN pg_catalog.pg_type t ON t.oid = part.type AND t.typtype = 'c'
    JOIN pg_catalog.pg_attribute a ON a.attrelid = t.typrelid AND a.attnum > 0
UNION ALL
SELECT part.rel, 'output', t.oid::text, format_type(t.oid, NULL),
       {digest_output}
FROM part JOIN pg_catalog.pg_type t ON t.oid = part.type JOIN pg_catalog.pg_proc p ON p.oid = t.typoutput
UNION ALL
SELECT i.inhrelid, 'inherits', i.inhparent::text, i.inhparent::regclass::text, i.xmin::text
FROM pg_catalog.pg_inherits i WHERE i.inhrelid = ANY (%(oids)s::oid[])
"""
_DIGEST = "left(encode(sha256(convert_to(({row})::text, 'UTF8')), 'hex'), 32)"
_ROWS: Final = {
    "digest_rule": "ROW(r.ev_type, r.ev_enabled, r.is_instead, r.ev_qual::text, r.ev_action::text)",
    "digest_trigger": (
        "ROW(t.tgfoid, t.tgtype, t.tgenabled, t.tgattr, t.tgargs, t.tgqual::text, p.prolang, p.prosrc, p.probin, p.proconfig)"
    ),
    "digest_output": "ROW(p.oid, p.prolang, p.prosrc, p.probin, p.proconfig)",
}


@dataclass(frozen=True, slots=True)
class Definition:
    """The facts of one table, and by what name people know each (never compared)."""

    facts: Facts
    names: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Alteration:
    """One fact that is not what it was, in words."""

    meaning: Meaning
    text: str


def definitions(connection: Connection[Any], oids: Sequence[int]) -> dict[int, Definition]:
    """The facts of each of ``oids``, in one query and so as of one snapshot; empty ones for what does not exist."""
    facts: dict[int, dict[str, str]] = {oid: {} for oid in oids}
    names: dict[int, dict[str, str]] = {oid: {} for oid in oids}
    for oid, kind, identity, name, value in connection.execute(_query(connection.info.server_version), {"oids": list(oids)}):
        facts[oid][f"{kind}/{identity}"] = value
        names[oid][f"{kind}/{identity}"] = name
    return {oid: Definition(facts[oid], names[oid]) for oid in oids}


def alterations(before: Facts, now: Definition) -> list[Alteration]:
    """What of ``now`` is not as in ``before`` and matters: see the module's table.

    A new enum label, a type that is new with its column, and a rule or trigger that went are no alterations: they change
    neither where a row goes nor how a recorded one reads.
    """
    found = []
    for fact, value in now.facts.items():
        kind, _ = fact.split("/", 1)
        old, name = before.get(fact), now.names[fact]
        if old == value:
            continue
        if old is not None:
            found.append(Alteration(MEANINGS[kind], _altered(kind, name, old, value)))
        elif kind in ("rule", "trigger"):
            found.append(Alteration(MEANINGS[kind], f"{kind} {name} was added"))
        elif kind == "attribute" and _knew_type(before, fact):
            found.append(Alteration("text", f"an attribute was added to type {name}"))
    types_now = {fact.split("/", 1)[1] for fact in now.facts if fact.startswith("output/")}
    for fact, value in before.items():
        kind, identity = fact.split("/", 1)
        if fact not in now.facts and kind == "label" and types_now:
            found.append(Alteration("text", f"the enum label {value!r} is gone"))
        elif fact not in now.facts and kind == "attribute" and identity.split(".")[0] in types_now:
            found.append(Alteration("text", f"an attribute of type {identity.split('.')[0]} is gone"))
    return found


def _altered(kind: str, name: str, old: str, value: str) -> str:
    texts = {
        "label": f"a label of enum {name} was renamed from {old!r} to {value!r}",
        "attribute": f"an attribute of type {name} was altered",
        "output": f"the output function of type {name} was replaced",
        "inherits": f"it was detached from {name} and attached again",
    }
    return texts.get(kind, f"{kind} {name} was altered")


def _knew_type(before: Facts, fact: str) -> bool:
    prefix = fact.split(".", maxsplit=1)[0] + "."
    return any(known.startswith(prefix) for known in before)


def _query(version: int) -> sql.Composed:
    digests = {name: sql.SQL(_DIGEST.format(row=row)) for name, row in _ROWS.items()}
    return sql.SQL(_FACTS).format(inner=inner_types(version), **digests)
