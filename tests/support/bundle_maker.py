"""A bundle out of a paper cluster, and hands to spoil it: by its maker, who has all keys, or in the file, digest mended."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from copy import deepcopy
from hashlib import sha256
from typing import Any

from tests.support.journal_maker import (
    SECRET,
    TABLE,
    PaperCluster,
    PaperLog,
    root_of_rows,
    seal_body,
    state_of,
    table_body,
    verify_body,
)
from tests.support.receipts import receipt_over
from witnz.core.bundle import BundledRow, BundledTable, RowState, build_bundle
from witnz.core.canonical import canonical
from witnz.core.checkpoint import checkpoint_digest
from witnz.core.entry import hide_key
from witnz.core.note import parse_note

CREATED_US = 1_795_284_700_000_000
HIDDEN = "public.patients"
KEYLESS = "public.notes"
ROWS = [b"1\talice\tlogin", b"2\tb\\tob\tpay \\\\N", "3\t\\N\t電子帳簿".encode()]
UPDATED = b"2\tbob\tpaid"
PATIENT = b"P-17\tcarol\tadmitted"
NOTE_ROW = b"4\tdan\tno key"

GENESIS, TABLE_1, SEAL_4, VERIFY_4, SEAL_8, TABLE_2, SEAL_H, TABLE_3, SEAL_K = range(9)
"""Positions in ``records`` of a bundle of this whole journal."""


class PaperBundle:
    """Nine records over three tables (keys plain, hidden, none); ``parts`` are the arguments of ``build_bundle``.

    Entries of the first log: 1 schema, 2 baseline of 1, 3 insert of 2, 4 insert of 3, sealed; 5 update of 2, 6 delete of 3,
    7 update of 1 without its values (unresolved), 8 schema again, sealed.  A verification found the first four.
    """

    def __init__(self, **verification: Any) -> None:
        self.cluster, self.log = PaperCluster(), PaperLog()
        self.log.add("baseline", ROWS[0], key=b"1")
        self.log.add("insert", ROWS[1], key=b"2", by="etl", hint="JE-001")
        self.log.add("insert", ROWS[2], key=b"3")
        cluster = self.cluster.start()
        cluster.add("seal", seal_body("0/1949A00", self.log.head()))
        root = root_of_rows(ROWS)
        size = verification.pop("size", 4)
        cluster.force("verify", verify_body(size, 3, root, **verification), node="node2", voters=["node2", "node3"])
        self.log.add("update", UPDATED, key=b"2")
        self.log.add("delete", key=b"3")
        self.log.add("update", key=b"1")
        self.log.add("schema", hint='{"columns":[],"identity":"d","oid":16384}')
        cluster.add("seal", seal_body("0/1949B00", self.log.head()))
        self.hidden = self._other_table(HIDDEN, PATIENT, {"columns": ["id"], "form": "hidden"}, "0/1949C00")
        self.keyless = self._other_table(KEYLESS, NOTE_ROW, {"columns": [], "form": "plain"}, "0/1949D00")
        self.parts: dict[str, Any] = {
            "checkpoint": cluster.note(),
            "records": cluster.shown(),
            "rows": [self.row(), self.row(6, seal=SEAL_8, size=8)],
            "tables": [BundledTable(TABLE, 1, SECRET, VERIFY_4)],
            "consistency": [cluster.consistency(3)],
            "anchors": [],
            "policy": cluster.policy,
            "created": CREATED_US,
            "tool": "witnz vectors",
        }

    def _other_table(self, table: str, row: bytes, keys: Mapping[str, Any], lsn: str) -> PaperLog:
        log = PaperLog(table)
        hidden = {"hidden_key": hide_key(row.split(b"\t")[0], SECRET)} if keys["form"] == "hidden" else {}
        log.add("insert", row, **hidden)
        self.cluster.add("table", table_body(table=table, keys=keys))
        self.cluster.add("seal", seal_body(lsn, log.head()))
        return log

    def row(
        self,
        seq: int = 3,
        line: bytes | None = ROWS[1],
        *,
        seal: int = SEAL_4,
        size: int = 4,
        state: RowState | str | None = "whole",
    ) -> BundledRow:
        """A row of the first log; by default the insert of key 2 with its values and its place in the verified state."""
        if seq != 3 and line == ROWS[1]:
            line, state = None, None
        if isinstance(state, str):
            state = state_of(ROWS, ROWS[1], VERIFY_4)
        return self.log.row(seq, seal=seal, size=size, line=line, state=state)

    def hidden_row(self) -> BundledRow:
        return self.hidden.row(2, seal=SEAL_H, size=2, line=PATIENT)

    def keyless_row(self) -> BundledRow:
        return self.keyless.row(2, seal=SEAL_K, size=2, line=NOTE_ROW)

    def build(self, **changed: Any) -> bytes:
        return build_bundle(**{**self.parts, **changed})

    def without_record(self, position: int) -> list[Any]:
        """All records but one; positions after it move."""
        return [item for index, item in enumerate(self.parts["records"]) if index != position]

    def receipt(self, kind: str = "s3", note: str | None = None, **changed: Any) -> dict[str, Any]:
        """A receipt that fits the checkpoint (or ``note``)."""
        text = parse_note(note or self.parts["checkpoint"]).text
        size = int(text.split("\n")[1])
        return {**receipt_over(kind, checkpoint_digest(text), size), **changed}


def unsigned(value: Mapping[str, Any]) -> bytes:
    """The file of a bundle's members, digest mended: what a forger without keys can do."""
    rest = {name: item for name, item in value.items() if name != "sha256"}
    return canonical({**rest, "sha256": sha256(canonical(rest)).hexdigest()}) + b"\n"


def edited(data: bytes, path: Sequence[Any], value: Any) -> bytes:
    """The bundle with one member replaced (removed for ``...``), digest mended."""
    document = json.loads(data)
    inner = document
    for step in path[:-1]:
        inner = inner[step]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return unsigned(document)


def moved(data: bytes, path: Sequence[Any], source: Sequence[Any]) -> bytes:
    """The bundle with the member at ``path`` replaced by a copy of the one at ``source``, digest mended."""
    document = json.loads(data)
    for step in source:
        document = document[step]
    return edited(data, path, deepcopy(document))


ZERO = b64encode(bytes(32)).decode()
