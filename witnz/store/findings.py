"""Findings in the store: the whole document, and beside it the columns that lists are asked for by."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from witnz.core.finding import Finding, FindingState, finding_from_json
from witnz.core.timestamp import parse_time
from witnz.errors import FormatError, StoreCorrupt
from witnz.store.schema import open_utils


def upsert(connection: sqlite3.Connection, finding: Finding) -> bool:
    """Keep a finding, or what it is now; True if there was none of this id."""
    new = connection.execute("SELECT 1 FROM findings WHERE id = ?", (finding.id,)).fetchone() is None
    connection.execute(
        "INSERT OR REPLACE INTO findings (id, class, severity, table_name, generation, key, state, entry_seq, detected_at, doc)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            finding.id, str(finding.cls), finding.severity, finding.table, finding.generation, finding.key, finding.state,
            finding.entry_seq, parse_time(finding.detected_at), json.dumps(finding.to_json(), ensure_ascii=False),
        ),
    )  # fmt: skip
    return new


def get(connection: sqlite3.Connection, finding_id: str) -> Finding | None:
    """The finding with this id, None if there is none; raises StoreCorrupt if it cannot be read."""
    row = connection.execute("SELECT id, doc FROM findings WHERE id = ?", (finding_id,)).fetchone()
    return None if row is None else _finding(*row)


def list_ids(connection: sqlite3.Connection) -> list[str]:
    """The ids of all findings, without reading what they say."""
    return [finding_id for (finding_id,) in connection.execute("SELECT id FROM findings ORDER BY detected_at, id")]


def list_findings(
    connection: sqlite3.Connection,
    *,
    states: Sequence[FindingState] | None = None,
    table: str | None = None,
    classes: Sequence[str] | None = None,
    limit: int | None = None,
    offset: int | None = None,
) -> list[Finding]:
    """Findings, the newest first; of these states, of this table, of these classes."""
    where, values = ["1"], list[str]()
    for column, wanted in (("state", states), ("class", classes)):
        if wanted is not None:
            where.append(f"{column} IN ({', '.join('?' * len(wanted))})")
            values += wanted
    if table is not None:
        where.append("table_name = ?")
        values.append(table)
    rows = open_utils(connection).table("findings").rows_where(
        " AND ".join(where), values, order_by="detected_at DESC, id", limit=limit, offset=offset, select="id, doc"
    )  # fmt: skip
    return [_finding(row["id"], row["doc"]) for row in rows]


def count_by_state(connection: sqlite3.Connection, table: str | None = None) -> dict[str, int]:
    """How many findings there are in each state that occurs; of one table, or of all and of none."""
    query = "SELECT state, count(*) FROM findings WHERE ?1 IS NULL OR table_name = ?1 GROUP BY state"
    return dict(connection.execute(query, (table,)).fetchall())


def count_open(connection: sqlite3.Connection, table: str | None = None) -> int:
    """How many findings are open, acknowledged or not: those that nobody has approved and no repair has closed."""
    states = count_by_state(connection, table)
    return states.get("open", 0) + states.get("acknowledged", 0)


def _finding(finding_id: str, doc: Any) -> Finding:
    try:
        finding = finding_from_json(json.loads(doc))
        if finding.id != finding_id:
            raise FormatError(f"finding: expected id {finding_id}, found {finding.id}")
    except (FormatError, TypeError, ValueError) as error:
        raise StoreCorrupt(
            f"finding {finding_id} in the store cannot be read: {error}",
            hint="keep a copy of the store as it is, and run `witnz verify --store`",
        ) from error
    return finding


def remove(connection: sqlite3.Connection, finding_id: str) -> None:
    """Take back a finding that was opened too early and that the journal has never had."""
    connection.execute("DELETE FROM findings WHERE id = ?", (finding_id,))
