"""Record bodies: a good one of every type, and what must not stand in them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from tests.support.journal_cases import accept_body, epoch_body, gap_body, key_body, key_under, member_body
from tests.support.journal_maker import (
    DIGEST,
    HASH,
    TABLE,
    PaperCluster,
    head_body,
    open_body,
    seal_body,
    table_body,
    verify_body,
)
from witnz.core.keys import cosigner_key, format_verifier_key, parse_verifier_key

PAPER = PaperCluster().start()
RECEIPT = {"type": "x", "digest": DIGEST, "size": 2}
BODIES: dict[str, dict[str, Any]] = {
    "genesis": PAPER.genesis_body(),
    "member": member_body(PAPER, "node4"),
    "key": key_body(),
    "config": {"changes": {"seal_interval": {"from": "5s", "to": "60s"}}, "weakens": True},
    "open": open_body(2),
    "cancel": {"table": TABLE, "generation": 2, "reason": "timeout"},
    "table": table_body(),
    "seal": seal_body("0/1949A00", head_body(4)),
    "dissent": {"lsn": "0/1949A00", "tables": [head_body(4)], "first_seq": 3},
    "verify": verify_body(4, 2),
    "finding": PAPER.finding(),
    "ack": {"finding": "F-0123456789ab", "reason": "seen"},
    "accept": accept_body(rows=[{"key": "2", "row": DIGEST, "seq": 3}, {"key": None, "row": None, "seq": None}]),
    "erase": {"table": TABLE, "generation": 1, "keys": ["2"], "reason": "law"},
    "unprotect": {"table": TABLE, "reason": "moved"},
    "prune": {"table": TABLE, "generation": 1, "reason": "old"},
    "gap": gap_body(),
    "epoch": epoch_body(),
    "anchor": {**RECEIPT, "receipt": RECEIPT},
    "repair": {"finding": "F-0123456789ab", "target": TABLE, "sql_sha256": DIGEST, "result": "repaired"},
    "operator": {"action": "checkpoint export", "detail": "to the auditor"},
    "drill": {"attack": "A01", "detected_s": 2, "result": "found"},
    "report": {"standard": "soc2", "from": "2026-01-01", "to": "2026-12-31", "sha256": DIGEST},
}

WRONG: list[tuple[str, tuple[Any, ...], Any]] = [
    ("genesis", ("cluster",), "Upper"),
    ("genesis", ("quorum",), 1),
    ("genesis", ("quorum",), 4),
    ("genesis", ("members", 1, "id"), "node1"),
    ("genesis", ("members", 1, "identity"), BODIES["genesis"]["members"][0]["identity"]),
    ("genesis", ("members", 1, "cosigner"), BODIES["genesis"]["members"][0]["cosigner"]),
    ("genesis", ("log_key",), BODIES["genesis"]["members"][0]["cosigner"]),
    ("genesis", ("log_key",), key_under("other.example/app", PAPER.log_key)),
    ("genesis", ("log_key",), format_verifier_key(cosigner_key(parse_verifier_key(PAPER.log_key)))),
    ("genesis", ("members", 1, "cosigner"), key_under("other/nodes/node2", PAPER.member_body("node2")["cosigner"])),
    ("genesis", ("members",), []),
    ("genesis", ("operators",), BODIES["genesis"]["operators"] * 2),
    ("genesis", ("database", "system"), "07"),
    ("member", ("action",), "replace"),
    ("member", ("cosigner",), BODIES["genesis"]["members"][0]["cosigner"]),
    ("member", ("cosigner",), PAPER.log_key),
    ("key", ("kind",), "root"),
    ("key", ("key",), "AAAA"),
    ("key", ("kind",), "log"),
    ("config", ("changes",), {}),
    ("open", ("generation",), 0),
    ("open", ("secret_sha256",), "A" * 64),
    ("table", ("mode",), "append-only"),
    ("table", ("keys", "columns"), ["id", "id"]),
    ("table", ("keys", "form"), "secret"),
    ("table", ("oid",), 1 << 32),
    ("table", ("snapshot",), "741:740:"),
    ("table", ("snapshot",), "741:745:742,742"),
    ("table", ("snapshot",), "741:745:743,742"),
    ("table", ("snapshot",), "741:745:745"),
    ("table", ("snapshot",), "741:745:740"),
    ("table", ("snapshot",), "0741:745:"),
    ("table", ("lsn",), "0/01949850"),
    ("table", ("previous",), {"size": 1, "root": HASH}),
    ("table", ("auth",), {"operator": "alice", "sig": "A" * 86 + "=="}),
    ("table", ("nonce",), "0" * 32),
    ("table", ("reason",), "é" * 2049),
    ("seal", ("tables",), []),
    ("seal", ("tables",), [head_body(4), head_body(5)]),
    ("seal", ("tables", 0, "size"), 0),
    ("seal", ("tables", 0, "size"), 1 << 53),
    ("seal", ("tables", 0, "size"), True),
    ("seal", ("tables", 0, "root"), HASH[:-2] + "B="),
    ("seal", ("tables", 0, "root"), HASH.rstrip("=")),
    ("seal", ("tables", 0, "table"), "audit_logs"),
    ("seal", ("part",), 1),
    *[
        ("report", ("from",), day)
        for day in (
            "0000-01-01",
            "2026-00-10",
            "2026-13-01",
            "2026-01-00",
            "2026-01-32",
            "2026-02-29",
            "1900-02-29",
            "2026-02-30",
            "2026-04-31",
            "2026-06-31",
            "2026-09-31",
            "2026-11-31",
        )
    ],
    ("seal", ("votes",), {"n" * 33: "A" * 86 + "=="}),
    ("seal", ("votes",), {}),
    ("seal", ("votes",), ["A" * 86 + "=="]),
    ("seal", ("votes",), {"Node1": "A" * 86 + "=="}),
    ("seal", ("votes",), {"node1": "A" * 88}),
    ("dissent", ("first_seq",), 0),
    ("verify", ("mode",), "rolling"),
    ("verify", ("range",), {"from": None, "to": None}),
    ("verify", ("verdict",), "verified"),
    ("verify", ("findings",), ["F-0123456789AB"]),
    ("verify", ("findings",), ["F-0123456789ab"] * 2),
    ("verify", ("seconds",), 1.0),
    ("finding", ("class",), "row.changed"),
    ("finding", ("severity",), "fatal"),
    ("finding", ("table",), None),
    ("finding", ("xid",), "01"),
    ("accept", ("table",), None),
    ("accept", ("nonce",), "0" * 31),
    ("accept", ("auth", "operator"), ""),
    ("accept", ("rows", 0, "row"), "0" * 63),
    ("erase", ("keys",), []),
    ("gap", ("tables",), []),
    ("gap", ("tables",), [TABLE, TABLE]),
    ("anchor", ("digest",), "1" * 64),
    ("anchor", ("receipt", "size"), 1),
    ("anchor", ("type",), "y"),
    ("report", ("from",), "2026-1-1"),
    ("drill", ("detected_s",), "2"),
]
"""Type, path in the body, and a value that must not be there."""


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every scalar in a JSON value."""
    if isinstance(value, dict):
        return [path for name, item in value.items() for path in paths(item, (*at, name))]
    if isinstance(value, list):
        return [path for index, item in enumerate(value) for path in paths(item, (*at, index))]
    return [at]


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    copy = deepcopy(value)
    inner = copy
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = new
    return copy
