"""What is asked with POST and changes something.  Before anything is done the journal says who asked for what (``operator``).

The record stands for the request, not for its success: what came of it follows in a record of its own (``ack``, ``accept``,
``table``), or does not follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, get_args

from witnz.core.canonical import canonical
from witnz.core.classify import Mode, OnChange, Rules
from witnz.core.keyrange import parse_sample
from witnz.errors import FormatError, UsageError
from witnz.postgres.handshake import check_token
from witnz.web.asked import Asked, check_members, reason_of, table_name
from witnz.web.problems import CONFLICT
from witnz.web.reads import Answer, Site
from witnz.web.streams import Tell, Work, verify_work

MAX_ANCHOR_WAIT_S: Final = 3600
DECISIONS: Final = ("unprotect", "key", "config", "member", "erase", "prune")

_PROTECT_OPTIONAL: Final = frozenset(
    {"mode", "on_change", "inserts_only", "require_intent", "retain", "keys", "exclude_columns"}
)


def acknowledge(site: Site, asked: Asked) -> Answer:
    """``{"reason": …}``: somebody has seen a finding; it stays open."""
    check_members(asked.body, frozenset({"reason"}))
    reason, name = reason_of(asked.body["reason"]), _open_finding(site, asked)
    _journal(site, asked, "findings.ack", {"finding": name})
    found = site.node.approvals.acknowledge(name, reason)
    site.node.events.publish("finding", found.to_json())
    return {"schema": "witnz.finding/1", **site.view.finding(name)}


def approve(site: Site, asked: Asked) -> Answer:
    """``{"body": …}``: the body of GET …/approval with ``nonce`` and ``auth``, signed by an operator's key."""
    check_members(asked.body, frozenset({"body"}))
    body = asked.body["body"]
    if not isinstance(body, dict):
        raise FormatError("body: expected the signed accept body as an object")
    name = _open_finding(site, asked)
    if body.get("finding") != name:
        raise UsageError(f"the signed body is not about {name}", hint="get what to sign from …/approval, and sign that")
    _journal(site, asked, "findings.approve", {"finding": name} | _signer(body))
    found = site.node.approve(body)
    site.node.events.publish("finding", found.to_json())
    return {"schema": "witnz.finding/1", **site.view.finding(name)}


def verify(site: Site, asked: Asked) -> Work:
    """``{"how": "rolling" | "N/T"}``: verify a table now, without ``how`` as one snapshot.  Its result is journalled.

    ``{"share": token}``: another session reads in that one snapshot (:mod:`witnz.postgres.handshake`).
    """
    check_members(asked.body, frozenset(), frozenset({"how", "share"}))
    how = asked.body.get("how", "")
    if not isinstance(how, str):
        raise FormatError("how: expected rolling or a sample N/T")
    if how not in ("", "rolling"):
        parse_sample(how)
    share = check_token(asked.body["share"]) if "share" in asked.body else None
    if share is not None and how:
        raise FormatError("share: goes with a verification as one snapshot, without how")
    return verify_work(site.node, asked.table(), how, share)


def anchor(site: Site, asked: Asked) -> Work:
    """``{"anchors": [name, …], "wait_s": n}``: publish the newest final checkpoint now; all anchors, if none is named."""
    check_members(asked.body, frozenset(), frozenset({"anchors", "wait_s"}))
    names, wait_s = asked.body.get("anchors", []), asked.body.get("wait_s", 0)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FormatError("anchors: expected a list of names")
    if type(wait_s) is not int or not 0 <= wait_s <= MAX_ANCHOR_WAIT_S:
        raise FormatError(f"wait_s: expected a whole number of seconds, at most {MAX_ANCHOR_WAIT_S}")
    site.node.anchoring.check_names(names)
    _journal(site, asked, "anchor.now", {"anchors": ",".join(names)[:1024]})

    def work(tell: Tell) -> dict[str, Any]:
        return {"schema": "witnz.anchor-now/1", "anchors": site.node.anchoring.now(names, wait_s, tell)}

    return work


def check_anchors(site: Site, asked: Asked) -> Work:
    """``{"all": bool}``: look at the newest receipt of each anchor, or at all receipts; findings are opened."""
    check_members(asked.body, frozenset(), frozenset({"all"}))
    everything = _flag(asked.body, "all")

    def work(tell: Tell) -> dict[str, Any]:
        found = site.node.anchoring.check(everything=everything, told=tell)
        return {"schema": "witnz.anchor-check/1", "receipts": [looked.to_json() for looked in found]}

    return work


def settle_repair(site: Site, asked: Asked) -> Work:
    """``{"applied": …, "sql_sha256": …}``: the rows are written; close the finding if they are as recorded, and verify."""
    from witnz.node.repair_apply import applied_from_json

    check_members(asked.body, frozenset({"applied", "sql_sha256"}))
    applied, digest = applied_from_json(asked.body["applied"]), _text(asked.body, "sql_sha256", "")
    name = _open_finding(site, asked)
    _journal(site, asked, "findings.repair", {"finding": name, "sql_sha256": digest[:64]})

    def work(tell: Tell) -> dict[str, Any]:
        result = site.node.repairs.settle(name, applied, digest)
        for closed in result.closed:
            site.node.events.publish("finding", site.view.finding(closed))
        return result.to_json()

    return work


def restore_store(site: Site, asked: Asked) -> Work:
    """The log of this node that a ``node.diverged`` finding names is taken from the majority; what was there is kept."""
    check_members(asked.body, frozenset())
    peering = site.node.peering
    if peering is None:
        raise UsageError("this node has no other members to restore from", hint="restore its data directory from a backup")
    name = _open_finding(site, asked)
    _journal(site, asked, "findings.restore", {"finding": name})
    return lambda tell: peering.refilling.repair(name)


def decide(site: Site, asked: Asked) -> Answer:
    """``{"type": …, "body": …}``: journal what an operator's key signed, and do it."""
    check_members(asked.body, frozenset({"type", "body"}))
    kind, body = _choice(asked.body, "type", DECISIONS, ""), asked.body["body"]
    if not isinstance(body, dict):
        raise FormatError("body: expected the signed body as an object")
    about = {name: body[name] for name in ("table", "action", "kind", "name") if isinstance(body.get(name), str)}
    _journal(site, asked, f"decide.{kind}", {name: text[:256] for name, text in about.items()} | _signer(body))
    return {"schema": "witnz.decision/1", "type": kind, "seq": site.node.decide(kind, body)}


def protect(site: Site, asked: Asked) -> Answer:
    """``{"table": …, "mode": …, …}``, the members of ``protected_tables[]``: queue the first generation of a table."""
    check_members(asked.body, frozenset({"table"}), _PROTECT_OPTIONAL)
    name = table_name(_text(asked.body, "table", ""))
    rules = _rules(asked.body)
    hidden = _choice(asked.body, "keys", ("plain", "hidden"), "plain") == "hidden"
    excluded = asked.body.get("exclude_columns", [])
    if not isinstance(excluded, list) or not all(isinstance(column, str) for column in excluded):
        raise FormatError("exclude_columns: expected a list of column names")
    asked_for = {member: value for member, value in asked.body.items() if member != "exclude_columns"}
    _journal(site, asked, "protect", {**asked_for, "table": name})
    site.node.protect_table(name, rules, hidden=hidden, excluded=frozenset(excluded))
    return {"schema": "witnz.protect/1", "table": name, "status": "queued"}


def _signer(body: Mapping[str, Any]) -> dict[str, str]:
    """Whose key a signed body claims to be signed with."""
    auth = body.get("auth")
    operator = auth.get("operator") if isinstance(auth, dict) else None
    return {"operator": operator[:256]} if isinstance(operator, str) else {}


def _rules(body: Mapping[str, Any]) -> Rules:
    mode = _choice(body, "mode", get_args(Mode), "state_integrity")
    on_change = _choice(body, "on_change", get_args(OnChange), "alert")
    retain = _choice(body, "retain", ("rows", "none"), "none") == "rows"
    inserts_only, require_intent = _flag(body, "inserts_only"), _flag(body, "require_intent")
    return Rules(mode, on_change, inserts_only, require_intent, retain)  # type: ignore[arg-type]


def _open_finding(site: Site, asked: Asked) -> str:
    """The finding of the path.  Raises UsageError: 404 if there is none, 409 if it is closed."""
    name = asked.path["finding"]
    found = site.view.finding(name)
    if found["closed"]:
        raise UsageError(f"finding {name} is {found['state']} already", code=CONFLICT)
    return name


def _journal(site: Site, asked: Asked, action: str, what: Mapping[str, Any]) -> None:
    """Who, what; the record itself says when."""
    who = {"by": asked.peer.name, "uid": asked.peer.uid, "via": "socket"}
    site.node.journal.propose("operator", {"action": action, "detail": canonical({**what, **who}).decode()})


def _text(body: Mapping[str, Any], name: str, default: str) -> str:
    value = body.get(name, default)
    if not isinstance(value, str):
        raise FormatError(f"{name}: expected text")
    return value


def _choice(body: Mapping[str, Any], name: str, choices: tuple[str, ...], default: str) -> str:
    value = _text(body, name, default)
    if value not in choices:
        raise FormatError(f"{name}: expected {' or '.join(choices)}, found {value[:40]!r}")
    return value


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise FormatError(f"{name}: expected true or false")
    return value
