"""Populations: every list that a figure of the report counts, as a CSV file for spreadsheets and for recounting.

UTF-8 with a header line; quoting as RFC 4180, lines end with a newline.  Where a cell would begin with a character that makes a
spreadsheet take it for a formula, an apostrophe stands before it.  Each journal record of the period but its seals stands in
exactly one of :data:`RECORDS`, with the bundle that proves it; seals, checkpoints and changes have lists of their own.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any, Final

from witnz.report.facts import Rec

FOLDER: Final = "populations"
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")

Row = Sequence[object]
Cells = Callable[[Mapping[str, Any]], Row]


@dataclass(frozen=True, slots=True)
class Kind:
    """A list of records: which types, which columns after ``seq at node type``, and how a body fills them."""

    types: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Cells


@dataclass(frozen=True, slots=True)
class Population:
    """One file that was written: ``name`` relative to the package, ``rows`` without the header, ``source``: what was asked."""

    file: str
    rows: int
    sha256: str
    columns: tuple[str, ...]
    source: str

    def to_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "rows": self.rows,
            "sha256": self.sha256,
            "columns": list(self.columns),
            "source": self.source,
        }


def _pick(*names: str) -> Cells:
    return lambda body: [body.get(name) for name in names]


def _decision(body: Mapping[str, Any]) -> Row:
    auth = body.get("auth") or {}
    return [
        *(body.get(name) for name in ("table", "generation", "finding", "reason")),
        len(body.get("rows") or body.get("keys") or ()),
        auth.get("operator"),
    ]


def _configuration(body: Mapping[str, Any]) -> Row:
    auth = body.get("auth") or {}
    about = body.get("table") or body.get("id") or body.get("cluster")
    rest = {name: value for name, value in body.items() if name not in ("votes", "auth", "nonce", "table")}
    return [about, body.get("generation"), body.get("action"), body.get("weakens"), auth.get("operator"), _compact(rest)]


def _key(body: Mapping[str, Any]) -> Row:
    return [*(body.get(name) for name in ("action", "kind", "name", "key", "from_lsn")), body["auth"]["operator"]]


def _gap(body: Mapping[str, Any]) -> Row:
    tables = body.get("tables") or body.get("final") or ()
    names = [table if isinstance(table, str) else table["table"] for table in tables]
    begins, ends = body.get("from_lsn"), body.get("to_lsn") or body.get("switch_lsn") or body.get("lsn")
    return [begins, ends, " ".join(names), body.get("reason")]


def _verify(body: Mapping[str, Any]) -> Row:
    return [
        *(body.get(name) for name in _VERIFY),
        " ".join(body["findings"]),
        "; ".join(body["not_checked"]),
    ]


def _anchor(body: Mapping[str, Any]) -> Row:
    receipt = body["receipt"]
    place = next((receipt[name] for name in ("key", "tx", "url", "place", "path") if name in receipt), "")
    when = next((receipt[name] for name in ("date", "block_time") if name in receipt), "")
    return [body["type"], body["size"], body["digest"], place, when]


_VERIFY = (
    *("table", "generation", "verdict", "mode", "rows", "unresolved", "size", "journal_size", "lsn", "snapshot"),
    *("state_expected", "state_found", "seconds"),
)

RECORDS: Final[Mapping[str, Kind]] = {
    "verifications": Kind(("verify",), (*_VERIFY, "findings", "not_checked"), _verify),
    "acknowledgements": Kind(("ack",), ("finding", "reason"), _pick("finding", "reason")),
    "decisions": Kind(
        ("accept", "erase", "prune", "unprotect"),
        ("table", "generation", "finding", "reason", "rows", "operator"),
        _decision,
    ),
    "configuration": Kind(
        ("genesis", "member", "config", "table", "open", "cancel"),
        ("about", "generation", "action", "weakens", "operator", "detail"),
        _configuration,
    ),
    "keys": Kind(("key",), ("action", "kind", "name", "key", "from_lsn", "operator"), _key),
    "anchors": Kind(("anchor",), ("anchor", "size", "digest", "place", "time_stated"), _anchor),
    "gaps": Kind(("gap", "epoch", "dissent"), ("from_lsn", "to_lsn", "tables", "reason"), _gap),
    "repairs": Kind(
        ("repair",), ("finding", "target", "sql_sha256", "result"), _pick("finding", "target", "sql_sha256", "result")
    ),
    "operator_actions": Kind(("operator",), ("action", "detail"), _pick("action", "detail")),
    "drills": Kind(("drill",), ("attack", "detected_s", "result"), _pick("attack", "detected_s", "result")),
    "reports": Kind(("report",), ("standard", "from", "to", "sha256"), _pick("standard", "from", "to", "sha256")),
}
COUNTED: Final = ("checkpoints", "seals", "changes", "findings", *RECORDS)
"""The name of every population, which is also its member of ``counts``."""


class Populations:
    """Writes the files below ``package``/populations; ``made`` lists them in the order of writing."""

    def __init__(self, package: Path) -> None:
        self._package = package
        self.made: list[Population] = []
        (package / FOLDER).mkdir()

    @contextmanager
    def write(self, name: str, columns: Sequence[str], source: str) -> Iterator[Callable[[Row], None]]:
        """A file, to which the function that is handed out adds a row."""
        file = f"{FOLDER}/{name}.csv"
        path, rows = self._package / file, 0
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(columns)

            def add(row: Row) -> None:
                nonlocal rows
                rows += 1
                writer.writerow([cell(value) for value in row])

            yield add
        with path.open("rb") as written:
            digest = file_digest(written, "sha256").hexdigest()
        self.made.append(Population(file, rows, digest, tuple(columns), source))

    def write_records(self, records: Sequence[Rec], bundle_of: Callable[[int], str]) -> None:
        """All of :data:`RECORDS`, empty ones too."""
        for name, kind in RECORDS.items():
            columns = ("seq", "at", "node", "type", *kind.columns, "bundle")
            source = f"journal records of type {' '.join(kind.types)} in the period"
            with self.write(name, columns, source) as add:
                for record in records:
                    if record.type in kind.types:
                        head = (record.seq, record.at_text, record.node, record.type)
                        add([*head, *kind.cells(record.body), bundle_of(record.seq)])

    def counts(self) -> dict[str, int]:
        """Rows by population."""
        return {Path(one.file).stem: one.rows for one in self.made}


def cell(value: object) -> object:
    """A value as a spreadsheet may be shown it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def _compact(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
