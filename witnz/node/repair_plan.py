"""A repair before it is done: the statements, the rows they expect, and the text that a person reviews.

A plan travels: the node makes it, the command line shows it or carries it out with a connection and a key that the node never
sees (:mod:`witnz.node.repair_apply`).  It holds row values, so its file is 0600 and no repr, log or alert shows them.

    document   witnz.repair-plan/1, JSON; row lines in base64; ``sql_sha256`` is that of the text
    text       the statements with comments, the same bytes for the same plan, so the journal's digest names what was reviewed
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, Literal, get_args

from witnz.core.names import parse_table_name
from witnz.core.rowline import split_cells
from witnz.errors import FormatError
from witnz.node.repair_sql import quote, readable
from witnz.postgres.session import PINNED

Kind = Literal["insert", "update", "delete"]
SCHEMA: Final = "witnz.repair-plan/1"
MAX_SHOWN: Final = 200  # characters of a found value in a comment

_HEAD = """\
-- witnz repair plan: finding {finding} ({cls}), table {table}, generation {generation}
-- {count} statement(s); {unchanged} row(s) are as recorded already; {refused} row(s) cannot be restored
--
-- THIS TEXT HOLDS ROW VALUES: keep it as private as the table.
-- It is for review. `witnz repair apply {finding}` sends a signed intent ahead, locks each row, compares it with what was
-- found, and verifies the table afterwards. Run by hand, each statement is itself recorded as a change nobody authorised.
"""
_MEMBERS = frozenset(
    {
        "schema", "finding", "class", "table", "generation", "oid", "cluster_id", "columns", "heap_only", "signers",
        "statements", "refused", "unchanged", "sql", "sql_sha256",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Statement:
    """One row to put back.  ``before`` and ``after`` are row lines, None for no row; ``where`` picks the row by its key.

    ``recorded`` and ``found`` are the row hashes, as the finding shows them.
    """

    kind: Kind
    key: str
    recorded: str | None
    found: str | None
    sql: str = field(repr=False)
    where: str = field(repr=False)
    before: bytes | None = field(repr=False)
    after: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """What restores the recorded rows that a finding is about.

    ``columns``: what a row line holds, in its order.  ``heap_only``: read the rows without indexes, as the scan did that saw
    the difference.  ``signers``: the keys in force that may sign the intent, by name.  ``unchanged``: keys of rows of this
    finding that are as recorded.  ``refused``: one sentence for each row that cannot be restored.
    """

    finding: str
    cls: str
    table: str
    generation: int
    oid: int
    cluster_id: str
    columns: tuple[str, ...]
    heap_only: bool
    signers: Mapping[str, bytes]
    statements: tuple[Statement, ...]
    refused: tuple[str, ...]
    unchanged: tuple[str, ...]

    @property
    def nothing_left(self) -> bool:
        """Whether every row that the finding is about is as recorded."""
        return not self.statements and not self.refused

    @property
    def relation(self) -> str:
        """The table as SQL names it."""
        schema, name = parse_table_name(self.table)
        return f"{quote(schema)}.{quote(name)}"

    @property
    def sql(self) -> str:
        """The text for review."""
        head = _HEAD.format(
            finding=self.finding,
            cls=self.cls,
            table=self.table,
            generation=self.generation,
            count=len(self.statements),
            unchanged=len(self.unchanged),
            refused=len(self.refused),
        )
        parts = [head, "BEGIN;\n" + "".join(f"SET LOCAL {name} = '{value}';\n" for name, value in PINNED.items())]
        for number, statement in enumerate(self.statements, 1):
            parts.append(
                f"-- {number}: {statement.kind} key {readable(statement.key)}\n"
                f"--    found {statement.found or 'no row'}, recorded {statement.recorded or 'no row'}\n"
                + "".join(f"--    found {cell}\n" for cell in self._cells_found(statement))
                + f"{statement.sql};\n"
            )
        parts += [f"-- not restored: {readable(reason)}\n" for reason in self.refused]
        return "\n".join([*parts, "COMMIT;\n"])

    @property
    def sql_sha256(self) -> str:
        return sha256(self.sql.encode()).hexdigest()

    def _cells_found(self, statement: Statement) -> list[str]:
        """What the statement does away with: the cells, as COPY writes them, that differ from the recorded row."""
        if statement.before is None:
            return []
        found = split_cells(statement.before)
        recorded = split_cells(statement.after) if statement.after is not None else [None] * len(found)
        pairs = zip(self.columns, found, recorded, strict=True)
        return [
            f"{readable(quote(name))} = {_shortened(readable(cell.decode()))}" for name, cell, other in pairs if cell != other
        ]

    def to_json(self) -> dict[str, Any]:
        """``witnz.repair-plan/1``; it holds row values."""
        return {
            "schema": SCHEMA,
            "finding": self.finding,
            "class": self.cls,
            "table": self.table,
            "generation": self.generation,
            "oid": self.oid,
            "cluster_id": self.cluster_id,
            "columns": list(self.columns),
            "heap_only": self.heap_only,
            "signers": {name: _b64(key) for name, key in self.signers.items()},
            "statements": [_statement_to_json(statement) for statement in self.statements],
            "refused": list(self.refused),
            "unchanged": list(self.unchanged),
            "sql": self.sql,
            "sql_sha256": self.sql_sha256,
        }


def plan_from_json(document: Any) -> RepairPlan:
    """The plan of a document that :meth:`RepairPlan.to_json` made.  Raises FormatError for anything else."""
    if not isinstance(document, dict) or document.keys() != _MEMBERS or document["schema"] != SCHEMA:
        raise FormatError(f"repair plan: expected a document of schema {SCHEMA} with exactly its members")
    try:
        plan = RepairPlan(
            finding=_text(document, "finding"),
            cls=_text(document, "class"),
            table=_text(document, "table"),
            generation=int(document["generation"]),
            oid=int(document["oid"]),
            cluster_id=_text(document, "cluster_id"),
            columns=tuple(document["columns"]),
            heap_only=document["heap_only"] is True,
            signers={name: _bytes(key) or b"" for name, key in document["signers"].items()},
            statements=tuple(map(_statement_from_json, document["statements"])),
            refused=tuple(document["refused"]),
            unchanged=tuple(document["unchanged"]),
        )
        same = plan.to_json() == document
    except (AttributeError, KeyError, TypeError, ValueError):
        same = False
    if not same:
        raise FormatError("repair plan: a member is not what belongs there, or the text is not that of the statements")
    return plan


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}… ({len(text)} characters)"


def _statement_to_json(statement: Statement) -> dict[str, Any]:
    return {
        "kind": statement.kind,
        "key": statement.key,
        "recorded": statement.recorded,
        "found": statement.found,
        "sql": statement.sql,
        "where": statement.where,
        "before": None if statement.before is None else _b64(statement.before),
        "after": None if statement.after is None else _b64(statement.after),
    }


def _statement_from_json(document: Any) -> Statement:
    if document["kind"] not in get_args(Kind):
        raise FormatError("repair plan: expected statements that insert, update or delete")
    return Statement(
        kind=document["kind"],
        key=_text(document, "key"),
        recorded=document["recorded"],
        found=document["found"],
        sql=_text(document, "sql"),
        where=_text(document, "where"),
        before=_bytes(document["before"]),
        after=_bytes(document["after"]),
    )


def _text(document: Mapping[str, Any], name: str) -> str:
    if not isinstance(document[name], str):
        raise FormatError(f"repair plan {name}: expected text")
    return str(document[name])


def _bytes(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise FormatError("repair plan: expected base64") from None


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
