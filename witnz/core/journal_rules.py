"""What each record type asks of the journal before it, beyond what holds for all (formats.md 2 and 4).

A rule takes the state and a record whose grammar, place, signature, votes and auth hold, and returns what is wrong, or None.

    member      adds a node, or gives one in force other keys or another address, with keys that no other member has; removes
                exactly what is in force, and never the last
    key         adds what is not in force, a log key under the cluster's name; removes exactly what is, and never the last
                operator key (checkpoints are signed by the log key that was added last, whatever is removed)
    open        the next generation of a table that is not open
    cancel      the generation that is open
    table       the next generation; above 1 it was opened with this secret and links the one before; auth where it weakens
                protection or follows a gap or epoch that nobody accepted
    seal        a later LSN (the parts of one seal share theirs); each table's current generation, not open, larger than before
    epoch       each table's current generation ends nowhere below its last seal
    verify      a known generation, no later journal; VERIFIED only without a difference, unresolved rows or findings
    finding     an id that follows from its members
    ack, repair, accept    a known finding; accept: a known generation
    erase, prune           a known generation;  unprotect: a protected table
    anchor      a checkpoint no larger than the journal
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from witnz.core.finding import FindingClass, finding_id
from witnz.core.journal_facts import FindingIdentity, JournalFinding, LogHead, TableRecord
from witnz.core.journal_view import JournalView
from witnz.core.keys import parse_verifier_key
from witnz.core.lsn import parse_lsn
from witnz.core.record import Record

COVERAGE_CLASSES: Final = frozenset(
    {
        FindingClass.SLOT_LOST,
        FindingClass.COVERAGE_GAP,
        FindingClass.EPOCH_RESTORED,
        FindingClass.PUBLICATION_CHANGED,
    }
)
"""Findings that stand for a gap or epoch: accepting one accepts the gap of the tables that it covers."""

Rule = Callable[[JournalView, Record], str | None]


def body_heads(items: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, int, LogHead]]:
    """Table, generation and head of each item of a seal's ``tables`` or an epoch's ``final``."""
    for item in items:
        yield item["table"], item["generation"], LogHead.from_body(item)


def finding_identity(body: Mapping[str, Any]) -> FindingIdentity:
    """What findings of one occurrence series have in common."""
    return body["class"], body["table"], body["generation"], body["key"], body["seq"]


def split_key(record: Record) -> tuple[str, ...]:
    """What the parts of one seal or epoch share."""
    if record.type == "seal":
        return (record.body["lsn"],)
    return (record.body["system"], str(record.body["timeline"]), record.body["switch_lsn"])


def closes_gap_of(
    finding: JournalFinding, accepted_table: str | None, gaps: Iterable[str], findings: Iterable[JournalFinding]
) -> list[str]:
    """The tables, among those with open ``gaps``, whose gap is accepted with ``finding``.

    The table that the ``accept`` or else the finding names; all, where both name none.  Not one for which another of the
    ``findings`` stands for a gap and is still to be decided: who accepted the first has not accepted the second.
    """
    if finding.finding_class not in COVERAGE_CLASSES:
        return []
    table = accepted_table or finding.table
    others = {f.table for f in findings if f.finding_class in COVERAGE_CLASSES and f.id != finding.id and not f.decided}
    return [name for name in gaps if (table is None or name == table) and not others & {None, name}]


def weakening(before: TableRecord, body: Mapping[str, Any]) -> list[str]:
    """What of a ``table`` record's body protects less than the generation before, as words; empty for none."""
    rules = body["rules"]
    found = {
        "mode": before.rules.mode == "append_only" and body["mode"] == "state_integrity",
        "on_change": before.rules.on_change == "alert" and body["on_change"] == "record",
        "require_intent": before.rules.require_intent and not rules["require_intent"],
        "inserts_only": rules["inserts_only"] and not before.rules.inserts_only,
        "retain": before.rules.retain and not rules["retain"],
    }
    return [name for name, weaker in found.items() if weaker]


def needs_auth(state: JournalView, body: Mapping[str, Any]) -> list[str]:
    """Why a ``table`` record with this body needs an operator here, as words; empty where it needs none."""
    protected = state.current_table(body["table"])
    reasons = [] if protected is None else [f"{name} is weakened" for name in weakening(protected, body)]
    gap = state.open_gap(body["table"])
    return reasons if gap is None else [*reasons, f"it follows the gap or epoch of record {gap}"]


def _member(state: JournalView, record: Record) -> str | None:
    body = record.body
    known = state.members.get(body["id"])
    if body["action"] == "remove":
        if known is None or (known.identity, known.cosigner) != _member_keys(body):
            return f"expected to remove a member in force with its own keys, found {body['id']}"
        return "expected a member to remain" if len(state.members) == 1 else None
    if known is not None and (known.addr, known.identity, known.cosigner) == (body["addr"], *_member_keys(body)):
        return f"expected to add a new node or to change one, found the member {body['id']} as it is"
    if not body["cosigner"].startswith(f"{state.cluster}/nodes/{body['id']}+"):
        return f"expected a cosigner named {state.cluster}/nodes/{body['id']}"
    identity, cosigner = _member_keys(body)
    others = [member for member in state.members.values() if member.id != body["id"]]
    taken = any(identity == member.identity or cosigner == member.cosigner for member in others)
    return "expected keys that no other member has" if taken else None


def _member_keys(body: Mapping[str, Any]) -> tuple[bytes, str]:
    return b64decode(body["identity"]), body["cosigner"]


def _key(state: JournalView, record: Record) -> str | None:
    body = record.body
    kind, name = body["kind"], body["name"]
    key = body["key"].encode() if kind == "log" else b64decode(body["key"])
    in_force = state.keys_in_force(kind)
    if body["action"] == "remove":
        if in_force.get(name) != key:
            return f"expected to remove a {kind} key in force, found another under {name[:60]!r}"
        return "expected an operator key to remain" if kind == "operator" and len(in_force) == 1 else None
    if kind == "log" and parse_verifier_key(body["key"]).name != state.cluster:
        return f"expected a log key named {state.cluster}"
    if name in in_force or key in in_force.values():
        return f"expected a new {kind} key under a new name, found one in force"
    return None


def _open(state: JournalView, record: Record) -> str | None:
    body = record.body
    if body["table"] in state.opened:
        return f"expected a table that is not open, found {body['table']} open"
    return _next_generation(state, body)


def _cancel(state: JournalView, record: Record) -> str | None:
    body = record.body
    generation = state.opened.get(body["table"], (0, ""))[0]
    return None if generation == body["generation"] else "expected a generation that is open"


def _next_generation(state: JournalView, body: Mapping[str, Any]) -> str | None:
    newest = state.newest_generation(body["table"])
    expected = 1 if newest is None else newest.generation + 1
    found = body["generation"]
    return None if found == expected else f"expected generation {expected} of {body['table']}, found {found}"


def _table(state: JournalView, record: Record) -> str | None:
    body = record.body
    opened = state.opened.get(body["table"])
    if (problem := _next_generation(state, body)) is not None:
        return problem
    if opened is None and body["generation"] > 1:
        return "expected an open record for this generation before it"
    if opened is not None and opened != (body["generation"], body["secret_sha256"]):
        return "expected the generation and secret_sha256 of its open record"
    if (problem := _previous(state, body)) is not None:
        return problem
    reasons = needs_auth(state, body)
    return f"expected an operator's auth, because {', '.join(reasons)}" if reasons and "auth" not in body else None


def _previous(state: JournalView, body: Mapping[str, Any]) -> str | None:
    """The link to the generation before: null for the first, else what was recorded of its end."""
    if (body["generation"] == 1) != (body["previous"] is None):
        return "expected previous to be null for generation 1 and only there"
    if body["previous"] is None:
        return None
    log = body["table"], body["generation"] - 1
    head, ended = LogHead.from_body(body["previous"]), state.ended_at(*log)
    if ended is not None and head != ended:
        return f"expected previous as the epoch ended it, at size {ended.size}"
    return _grown(state.last_sealed(*log), head, "previous")


def _grown(sealed: LogHead | None, head: LogHead, what: str) -> str | None:
    """None where ``head`` may be the same log as ``sealed``, as large or larger."""
    if sealed is None or head.size > sealed.size or head == sealed:
        return None
    return f"expected {what} to extend the log sealed at size {sealed.size}, found another of size {head.size}"


def _seal(state: JournalView, record: Record) -> str | None:
    body = record.body
    if (problem := _seal_place(state, record)) is not None:
        return problem
    for table, generation, head in body_heads(body["tables"]):
        current = state.current_table(table)
        if current is None or current.generation != generation:
            return f"expected current generations of protected tables, found {table}/{generation}"
        if table in state.opened or state.ended_at(table, generation) is not None:
            return f"expected logs that go on, found {table}/{generation}, which is open for a new generation or ended"
        sealed = state.last_sealed(table, generation)
        if sealed is not None and head.size <= sealed.size:
            return f"expected {table}/{generation} to grow beyond {sealed.size}, found {head.size}"
    return None


def _seal_place(state: JournalView, record: Record) -> str | None:
    if record.body.get("part", 1) > 1:
        return _next_part(state, record, "tables")
    if parse_lsn(record.body["lsn"]) <= state.last_seal_lsn:
        return f"expected an LSN beyond the last seal's, found {record.body['lsn']}"
    return None


def _next_part(state: JournalView, record: Record, listed_in: str) -> str | None:
    body, split = record.body, state.split
    if split is None or (split.type, split.at) != (record.type, split_key(record)):
        return f"expected part 1 first, found part {body['part']}"
    if (split.part + 1, split.parts) != (body["part"], body["parts"]):
        return f"expected part {split.part + 1} of {split.parts}, found {body['part']} of {body['parts']}"
    again = [head["table"] for head in body[listed_in] if head["table"] in split.listed]
    return f"expected each table in one part only, found {again[0]} again" if again else None


def _epoch(state: JournalView, record: Record) -> str | None:
    body = record.body
    if body.get("part", 1) > 1 and (problem := _next_part(state, record, "final")) is not None:
        return problem
    for table, generation, head in body_heads(body["final"]):
        newest = state.newest_generation(table)
        if newest is None or newest.generation != generation:
            return f"expected current generations, found {table}/{generation}"
        ended, sealed = state.ended_at(table, generation), state.last_sealed(table, generation)
        if ended is not None and ended != head:
            return f"expected {table}/{generation} to end where an epoch ended it before, at size {ended.size}"
        if (problem := _grown(sealed, head, f"the end of {table}/{generation}")) is not None:
            return problem
    return None


def _verify(state: JournalView, record: Record) -> str | None:
    body = record.body
    if (problem := _known_generation(state, record)) is not None:
        return problem
    if body["journal_size"] > state.size:
        return f"expected a journal_size of at most {state.size}, found {body['journal_size']}"
    if body["verdict"] != "VERIFIED":
        return None
    if body["state_found"] != body["state_expected"]:
        return "it says VERIFIED though the state found is not the one expected"
    if body["unresolved"] or body["findings"]:
        return "it says VERIFIED though rows are unresolved or findings are named"
    return None


def _known_generation(state: JournalView, record: Record) -> str | None:
    table, generation = record.body["table"], record.body["generation"]
    newest = state.newest_generation(table)
    known = newest is not None and generation <= newest.generation
    return None if known else f"expected a generation that the journal knows, found {table}/{generation}"


def _finding(state: JournalView, record: Record) -> str | None:
    body = record.body
    identity = finding_identity(body)
    finding_class, table, generation, key, seq = identity
    # The newest occurrence almost always; an older one is a node that says again what has been settled meanwhile.
    for occurrence in range(state.occurrences(identity), -1, -1):
        expected = finding_id(record.cluster, finding_class, generation, key, occurrence, seq, table)
        if expected == body["id"]:
            return None
    return f"expected an id that follows from its members, found {body['id']}"


def _known_finding(state: JournalView, record: Record) -> str | None:
    finding = record.body["finding"]
    return None if finding in state.findings else f"expected a finding that the journal knows, found {finding}"


def _accept(state: JournalView, record: Record) -> str | None:
    if record.body["finding"] is not None and (problem := _known_finding(state, record)) is not None:
        return problem
    return None if record.body["table"] is None else _known_generation(state, record)


def _unprotect(state: JournalView, record: Record) -> str | None:
    table = record.body["table"]
    return None if state.current_table(table) is not None else f"expected a protected table, found {table}"


def _anchor(state: JournalView, record: Record) -> str | None:
    size = record.body["size"]
    return None if size <= state.size else f"expected a checkpoint of at most {state.size} records, found one of {size}"


RULES: Mapping[str, Rule] = {
    "member": _member,
    "key": _key,
    "open": _open,
    "cancel": _cancel,
    "table": _table,
    "seal": _seal,
    "epoch": _epoch,
    "verify": _verify,
    "finding": _finding,
    "ack": _known_finding,
    "repair": _known_finding,
    "accept": _accept,
    "erase": _known_generation,
    "prune": _known_generation,
    "unprotect": _unprotect,
    "anchor": _anchor,
}
