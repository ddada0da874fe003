"""The parts of the evidence, each out of the facts of the period: plain objects whose figures a reader can count again.

Lists hold at most :data:`MAX_LISTED` items, the newest; the populations hold all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from hashlib import sha256
from typing import Any, Final

from witnz.core.checkpoint import checkpoint_digest, parse_checkpoint
from witnz.core.note import cosignature_time, parse_note
from witnz.core.periods import quorum_after
from witnz.core.timestamp import format_time, parse_time
from witnz.report.facts import Facts, Rec
from witnz.store.checkpoints import StoredCheckpoint

MAX_LISTED: Final = 1000

EXCLUSIONS: Final = (
    "every table that is not listed: witnz reads and records protected tables only",
    "unlogged and temporary tables, sequences and large objects: logical replication does not carry them",
    "what a row was before its first record: rows that stood in a table when its protection began are believed as found",
    "columns that logical replication does not carry (generated columns on older servers)",
)
LIMITS: Final = (
    "that what the application wrote was true: a false row written by the legitimate path is recorded as written",
    "what happened between a commit and the first checkpoint over it, if the database and a quorum of nodes were owned then",
    "that an anchor's service is honest: receipts are judged by what each kind of receipt can show",
    "who a person is: `by` in an entry is what the application claims, an operator is whoever holds that key",
    "that a control works outside witnz: how findings are handled by people is shown only as far as they recorded it",
    "a scan's result where the node that scanned lies: scans rotate over the nodes for that reason",
)


def checkpoint_json(saved: StoredCheckpoint | None) -> dict[str, Any] | None:
    """A checkpoint by what identifies it."""
    if saved is None:
        return None
    from base64 import b64encode

    note = parse_note(saved.note)
    root = parse_checkpoint(note.text).root
    return {
        "size": saved.size,
        "root": b64encode(root).decode("ascii"),
        "digest": checkpoint_digest(note.text).hex(),
        "at": format_time(saved.at),
    }


def scope(facts: Facts) -> dict[str, Any]:
    """Every table that was protected at any time of the period, and what is left out."""
    ended = {record.body["table"]: record for record in facts.all_of("unprotect")}
    tables = []
    for name, record in sorted({record.body["table"]: record for record in facts.all_of("table")}.items()):
        history = [one for one in facts.all_of("table") if one.body["table"] == name]
        end = ended.get(name)
        over = end is not None and end.seq > record.seq
        if over and end is not None and end in facts.before:
            continue
        tables.append(_table(facts, record, history[0], end if over else None))
    return {"tables": tables, "exclusions": list(EXCLUSIONS)}


def _table(facts: Facts, record: Rec, first: Rec, end: Rec | None) -> dict[str, Any]:
    body = record.body
    log = (body["table"], body["generation"])
    runs = [one for one in facts.of("verify") if one.body["table"] == body["table"]]
    return {
        "table": body["table"],
        "generation": body["generation"],
        "mode": body["mode"],
        "on_change": body["on_change"],
        "rules": body["rules"],
        "key_columns": body["keys"]["columns"],
        "keys": body["keys"]["form"],
        "oid": body["oid"],
        "protected_since": first.at_text,
        "generation_since": record.at_text,
        "protected_until": None if end is None else end.at_text,
        "entries_sealed": facts.sizes.get(log, 0),
        "verifications": len(runs),
        "last_verified_at": next((one.at_text for one in reversed(runs) if one.body["verdict"] == "VERIFIED"), None),
    }


def verifications(facts: Facts) -> dict[str, Any]:
    """Runs by verdict and table."""
    runs = facts.of("verify")
    tables: dict[str, dict[str, Any]] = {}
    for record in runs:
        body = record.body
        table = tables.setdefault(
            body["table"], {"table": body["table"], "runs": 0, "verdicts": {}, "nodes": [], "last_at": None, "last_rows": 0}
        )
        table["runs"] += 1
        table["verdicts"][body["verdict"]] = table["verdicts"].get(body["verdict"], 0) + 1
        table["nodes"] = sorted({*table["nodes"], record.node})
        table["last_at"], table["last_rows"], table["last_verdict"] = record.at_text, body["rows"], body["verdict"]
    return {
        "count": len(runs),
        "by_verdict": tally(record.body["verdict"] for record in runs),
        "rows_read": sum(record.body["rows"] for record in runs),
        "tables": [tables[name] for name in sorted(tables)],
    }


def anchors(facts: Facts) -> dict[str, Any]:
    """Receipts by type."""
    types: dict[str, dict[str, Any]] = {}
    for record in facts.of("anchor"):
        body = record.body
        known = types.setdefault(
            body["type"], {"type": body["type"], "count": 0, "first_at": record.at_text, "last_at": "", "last_size": 0}
        )
        known["count"] += 1
        known["last_at"], known["last_size"] = record.at_text, max(known["last_size"], body["size"])
    return {"count": len(facts.of("anchor")), "types": [types[name] for name in sorted(types)]}


def key_custody(facts: Facts) -> list[dict[str, Any]]:
    """Every key that was in force, with its fingerprint; where a key is later removed, since when."""
    genesis = facts.genesis
    items = [_key("log", genesis.body["cluster"], genesis.body["log_key"], genesis)]
    for member in genesis.body["members"]:
        items += [_key("identity", member["id"], member["identity"], genesis)]
        items += [_key("cosigner", member["id"], member["cosigner"], genesis)]
    items += [_key("operator", one["name"], one["key"], genesis) for one in genesis.body["operators"]]
    for record in facts.all_of("key", "member"):
        body = record.body
        if body["action"] == "remove":
            gone = [item for item in items if item["name"] == body.get("name", body.get("id")) and item["until"] is None]
            kinds = ("identity", "cosigner") if record.type == "member" else (body["kind"],)
            for item in gone:
                if item["kind"] in kinds:
                    item["until"] = record.at_text
        elif record.type == "key":
            items.append(_key(body["kind"], body["name"], body["key"], record))
        else:
            items += [_key(kind, body["id"], body[kind], record) for kind in ("identity", "cosigner")]
    return items


def _key(kind: str, name: str, text: str, record: Rec) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": name,
        "sha256": sha256(text.encode()).hexdigest(),
        "since": record.at_text,
        "since_seq": record.seq,
        "until": None,
        "put_into_force_by": (record.body.get("auth") or {}).get("operator") or "genesis",
    }


def configuration(facts: Facts) -> dict[str, Any]:
    """Changes of what is protected and how."""
    records = facts.of("member", "config", "table", "unprotect")
    weakening = [
        record for record in records if record.body.get("weakens") or record.type == "unprotect" or _signed_table(record)
    ]
    return {
        "changes": len(records),
        "weakening": len(weakening),
        "items": [_change(record) for record in records[-MAX_LISTED:]],
    }


def _signed_table(record: Rec) -> bool:
    return record.type == "table" and "auth" in record.body


def _change(record: Rec) -> dict[str, Any]:
    body = record.body
    return {
        "seq": record.seq,
        "at": record.at_text,
        "type": record.type,
        "about": body.get("table") or body.get("id") or " ".join(sorted(body.get("changes", {}))),
        "operator": (body.get("auth") or {}).get("operator"),
        "reason": body.get("reason") or body.get("action") or "",
    }


def operator_actions(facts: Facts) -> dict[str, Any]:
    """What people did through the nodes."""
    records = facts.of("operator")
    items = [
        {"seq": record.seq, "at": record.at_text, "node": record.node, **_strings(record.body, "action", "detail")}
        for record in records[-MAX_LISTED:]
    ]
    return {"count": len(records), "by_action": tally(record.body["action"] for record in records), "items": items}


def decisions(facts: Facts) -> dict[str, Any]:
    """Changes that an operator's key authorised."""
    records = facts.of("accept", "erase", "prune", "unprotect")
    items = [
        {
            "seq": record.seq,
            "at": record.at_text,
            "type": record.type,
            "operator": record.body["auth"]["operator"],
            "table": record.body["table"],
            "finding": record.body.get("finding"),
            "rows": len(record.body.get("rows") or record.body.get("keys") or ()),
            "reason": record.body["reason"],
        }
        for record in records[-MAX_LISTED:]
    ]
    return {"count": len(records), "by_type": tally(record.type for record in records), "items": items}


def drills(facts: Facts) -> list[dict[str, Any]]:
    """Exercises that somebody journalled."""
    return [{"seq": record.seq, "at": record.at_text, **record.body} for record in facts.of("drill")[-MAX_LISTED:]]


def independence(facts: Facts) -> dict[str, Any]:
    """Who could collude: nodes and hosts, quorum, places outside; what only the organisation can state is left to it."""
    members = {member["id"]: member["addr"] for member in facts.genesis.body["members"]}
    for record in facts.all_of("member"):
        if record.body["action"] == "add":
            members[record.body["id"]] = record.body["addr"]
        else:
            members.pop(record.body["id"], None)
    hosts = {addr.rsplit(":", 1)[0] for addr in members.values()}
    genesis = facts.genesis.body
    operators = {one["name"] for one in genesis["operators"]}
    for record in facts.all_of("key"):
        if record.body["kind"] == "operator":
            (operators.add if record.body["action"] == "add" else operators.discard)(record.body["name"])
    changed = bool(facts.all_of("member"))
    return {
        "members": [{"id": name, "addr": addr} for name, addr in sorted(members.items())],
        "distinct_hosts": len(hosts),
        "quorum": quorum_after(len(members), len(genesis["members"]), genesis["quorum"]) if changed else genesis["quorum"],
        "operators": sorted(operators),
        "anchor_types": sorted({record.body["type"] for record in facts.of("anchor")}),
        "to_be_stated": [
            "who administers the database",
            "who administers each node",
            "who administers each anchor's account",
            "who holds each operator key",
        ],
    }


def clock_status(facts: Facts, closing: StoredCheckpoint) -> dict[str, Any]:
    """How far the nodes' clocks were from times that others stated: receipts with a time, cosigners."""
    skews = [abs(stated - record.at) for record in facts.of("anchor") if (stated := _stated_time(record)) is not None]
    note = parse_note(closing.note)
    times = [when for signature in note.signatures if (when := cosignature_time(signature)) is not None]
    return {
        "findings": sum(record.body["class"] == "clock.skew" for record in facts.of("finding")),
        "receipts_with_time": len(skews),
        "largest_difference_s": max(skews, default=0) // 1_000_000 if skews else None,
        "cosigned_at": [format_time(when * 1_000_000) for when in sorted(times)],
        "cosigners_differ_s": max(times) - min(times) if times else None,
    }


def _stated_time(record: Rec) -> int | None:
    """The time in a receipt that its service states, µs since the Unix epoch."""
    receipt = record.body["receipt"]
    block, date = receipt.get("block_time"), receipt.get("date")
    if isinstance(block, int):
        return block * 1_000_000
    if isinstance(block, str):
        return parse_time(block)
    if isinstance(date, str):
        try:
            return int(parsedate_to_datetime(date).timestamp()) * 1_000_000
        except (ValueError, OverflowError):
            return None
    return None


def tally(values: Iterable[str]) -> dict[str, int]:
    """How often each value occurs, sorted by value."""
    return dict(sorted(Counter(values).items()))


def _strings(body: Mapping[str, Any], *names: str) -> dict[str, str]:
    return {name: str(body[name]) for name in names}
