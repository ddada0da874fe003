"""The journal's validity: a pure function of a record and the journal before it (formats.md 4).

The rules that hold for every record, in this order:

1. The first record is ``genesis``, and no other is; every record carries genesis' cluster id.
2. It stands at the next ``seq``; its ``n`` counts its node's records from 1 without a hole, and ``prev`` is the hash of that
   node's record before.
3. Its node is a member in force and its ``sig`` is by that member's identity key.
4. A voted type has votes of a quorum of distinct members in force; every vote in it verifies; the voted body (without its
   votes) does not stand in the journal yet.
5. Where ``auth`` stands it is by an operator key in force, and its nonce was never seen in this journal.
6. What the type itself asks for: :mod:`witnz.core.journal_rules`.

A valid record is one leaf with the next seq; an invalid one changes nothing.  What no honest node proposes (foreign, unsigned,
without the votes or the operator that it needs) is refused with the code FORGED; everything else can happen to two honest
nodes at once, or to one that says a thing twice, or to one whose record a change of members or identities overtook: it was
right for members of before, none of whose changes its node had seen when it last wrote.  Members and keys are in force from
the record after the one that brings them.  The quorum is genesis' while the members are; after a change of members it is a
majority of them, or genesis' if that asked for more than a majority (never more than there are members).
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Final

from witnz.core.finding import FindingClass, FindingState
from witnz.core.journal_facts import (
    SETTLED,
    AcceptedRow,
    Anchored,
    Epoch,
    JournalFinding,
    KeyChange,
    Member,
    Split,
    TableRecord,
)
from witnz.core.journal_rules import RULES, body_heads, closes_gap_of, finding_identity, split_key, weakening
from witnz.core.journal_view import OPERATOR, JournalView
from witnz.core.keys import verify_signature
from witnz.core.lsn import parse_lsn
from witnz.core.receipt import recall_receipt
from witnz.core.record import Record, check_record_signature, operator_bytes, record_hash, record_vote_bytes
from witnz.core.record_bodies import VOTED, check_body
from witnz.errors import ProofError

FORGED: Final = "journal.forged"


class JournalState(JournalView):
    """A journal up to some size.  :meth:`check` judges the record that would come next, :meth:`apply` lets it in.

    Everything is derived from the records alone; two states that applied the same records give the same answers.
    """

    # -- judging -------------------------------------------------------------------------------------------------------

    def check(self, record: Record, *, verify_signatures: bool = True) -> None:
        """Raise unless ``record`` (with the next seq, or a proposal) is valid here.

        :class:`FormatError` for a body that is not its type's, :class:`ProofError` for everything else, with the rule that
        it breaks.  Without ``verify_signatures`` (only for records that this node has validated before) no signature is
        verified and the body's grammar is taken as checked; every other rule holds.
        """
        self._judge(record, verify_signatures)

    def apply(self, record: Record, *, verify_signatures: bool = True) -> None:
        """:meth:`check`, and then let the record in.  It must have its seq.  A record that is refused changes nothing."""
        if record.seq is None:
            raise self._invalid(record, "expected a seq, found a proposal")
        voted = self._judge(record, verify_signatures)
        if voted is not None:
            self._voted.add(voted)
        if "nonce" in record.body:
            self._nonces.add(record.body["nonce"])
        self._chains[record.node] = (record.n, record_hash(record), record.seq)
        change = _CHANGES.get(record.type)
        if change is not None:
            change(self, record)
        if record.type != "anchor":
            self._anchors_tail = record.seq
        self.size = record.seq

    def _judge(self, record: Record, verify_signatures: bool) -> bytes | None:
        """Rules 1 to 6; for a voted record the digest of what was voted on."""
        if verify_signatures:
            check_body(record.type, record.body)
        self._check_place(record)
        self._check_signer(record, verify_signatures)
        voted = self._check_votes(record, verify_signatures) if record.type in VOTED else None
        if "auth" in record.body:
            self._check_auth(record, verify_signatures)
        rule = RULES.get(record.type)
        problem = None if rule is None else rule(self, record)
        if problem is not None:
            raise self._invalid(record, problem, forged=self._weakens_alone(record))
        return voted

    def _weakens_alone(self, record: Record) -> bool:
        """Whether a ``table`` record weakens protection without an operator.  (After a gap, that came just before.)"""
        if record.type != "table" or "auth" in record.body:
            return False
        protected = self.current_table(record.body["table"])
        return protected is not None and bool(weakening(protected, record.body))

    def _check_place(self, record: Record) -> None:
        if (record.type == "genesis") != (self.size == 0):
            raise self._invalid(record, "expected genesis first and only there")
        if self.size and record.cluster != self.cluster_id:
            raise self._invalid(record, f"expected cluster {self.cluster_id}, found {record.cluster}", forged=True)
        if record.seq is not None and record.seq != self.size + 1:
            raise self._invalid(record, f"expected seq {self.size + 1}, found {record.seq}")
        if record.n != self.next_n(record.node):
            raise self._invalid(record, f"expected n {self.next_n(record.node)}, found {record.n}")
        if record.prev != self.prev_of(record.node):
            raise self._invalid(record, f"expected prev {self.prev_of(record.node)}, found {record.prev}")

    def _check_signer(self, record: Record, verify_signatures: bool) -> None:
        members = self.members
        if record.type == "genesis":
            members = {body["id"]: Member.from_body(body) for body in record.body["members"]}
        problem = _signer_problem(record, members, verify_signatures)
        if problem is not None:
            overtaken = any(_signer_problem(record, period.members, True) is None for period in self.overtaken(record.node))
            raise self._invalid(record, problem, forged=not overtaken)

    def _check_votes(self, record: Record, verify_signatures: bool) -> bytes | None:
        """Rule 4; what to remember of it.  Of a seal nothing: one that stands in the journal names no log that grows (rule 6),
        and there may be a seal every few seconds for years."""
        votes: Mapping[str, str] = record.body["votes"]
        ballot = record_vote_bytes(record)
        digest = None if record.type == "seal" else sha256(ballot).digest()
        if digest in self._voted:
            raise self._invalid(record, "what was voted on stands in the journal already")
        problem = _votes_problem(votes, ballot, self.members, self.quorum, verify_signatures)
        if problem is not None:
            before = self.overtaken(record.node)
            overtaken = any(_votes_problem(votes, ballot, each.members, each.quorum, True) is None for each in before)
            raise self._invalid(record, problem, forged=not overtaken)
        return digest

    def _check_auth(self, record: Record, verify_signatures: bool) -> None:
        auth = record.body["auth"]
        key = self.operator_key(auth["operator"])
        if key is None:
            raise self._invalid(
                record, f"expected an operator key in force, found none of {auth['operator'][:60]!r}", forged=True
            )
        if record.body["nonce"] in self._nonces:
            raise self._invalid(record, "its nonce was used before")
        if verify_signatures:
            signed = operator_bytes(record.body, record.cluster, record.type)
            if not verify_signature(key, b64decode(auth["sig"]), signed):
                raise self._invalid(record, f"its auth is not by the operator key of {auth['operator'][:60]!r}", forged=True)

    def _invalid(self, record: Record, problem: str, *, forged: bool = False) -> ProofError:
        where = f"at {self.size + 1}" if record.seq is None else str(record.seq)
        message = f"journal record {where} ({record.type} of {record.node}): {problem}"
        return ProofError(message, code=FORGED if forged else None)

    # -- changing ------------------------------------------------------------------------------------------------------

    def _apply_genesis(self, record: Record) -> None:
        body = record.body
        self.cluster, self.cluster_id = body["cluster"], record.cluster
        self.system, self.timeline = body["database"]["system"], body["database"]["timeline"]
        self._take_period(record)
        for operator in body["operators"]:
            self._set_key(OPERATOR, operator["name"], b64decode(operator["key"]), 0)

    def _take_period(self, record: Record) -> None:
        """Members, quorum and log key as this record leaves them."""
        self.periods.take(record)
        now = self.periods.now
        self.members, self.quorum, self.log_key = dict(now.members), now.quorum, now.log_key

    def _apply_key(self, record: Record) -> None:
        body = record.body
        key = body["key"].encode() if body["kind"] == "log" else b64decode(body["key"])
        self._set_key(body["kind"], body["name"], key if body["action"] == "add" else None, parse_lsn(body["from_lsn"]))
        self._take_period(record)

    def _set_key(self, kind: str, name: str, key: bytes | None, from_lsn: int) -> None:
        self._key_changes.setdefault((kind, name), []).append(KeyChange(from_lsn, key))
        if key is None:
            del self._keys[kind, name]
        else:
            self._keys[kind, name] = key

    def _apply_open(self, record: Record) -> None:
        self.opened[record.body["table"]] = (record.body["generation"], record.body["secret_sha256"])

    def _apply_cancel(self, record: Record) -> None:
        del self.opened[record.body["table"]]

    def _apply_table(self, record: Record) -> None:
        opened = TableRecord.from_record(record)
        self._tables[opened.table] = self._newest[opened.table] = opened
        self.opened.pop(opened.table, None)
        self._gaps.pop(opened.table, None)

    def _apply_unprotect(self, record: Record) -> None:
        self._end_protection(record.body["table"], record.at)

    def _end_protection(self, table: str, at: int) -> None:
        del self._tables[table]
        self._ended_protection[table] = at
        self.opened.pop(table, None)
        self._gaps.pop(table, None)

    def _apply_seal(self, record: Record) -> None:
        self._note_split(record)
        self.last_seal_lsn = parse_lsn(record.body["lsn"])
        for table, generation, head in body_heads(record.body["tables"]):
            self._sealed[table, generation] = head
            self._sealed_by[table, generation] = (self.size + 1, head.size)

    def _apply_epoch(self, record: Record) -> None:
        body = record.body
        self._note_split(record)
        same = self.system == body["system"]  # LSNs of another system say nothing of where this one was left
        self.system, self.timeline = body["system"], body["timeline"]
        switch_lsn = self.last_seal_lsn = parse_lsn(body["switch_lsn"])
        self.epoch = Epoch(self.size + 1, self.system, self.timeline, switch_lsn)
        for table, generation, head in body_heads(body["final"]):
            log = (table, generation)
            once_more = log in self._ended
            self._ended[log] = head
            if not same or switch_lsn < self._newest[table].lsn:  # what the database held then, this log does not say
                self._switched.pop(log, None)
            elif log in self._switched or not once_more:
                self._switched[log] = min(switch_lsn, self._switched.get(log, switch_lsn))
        self._gaps.update(dict.fromkeys(self._tables, self.size + 1))

    def _note_split(self, record: Record) -> None:
        part, parts = record.body.get("part", 1), record.body.get("parts", 1)
        if part == parts:
            self.split = None
            return
        before = self.split.listed if self.split is not None and part > 1 else frozenset()
        heads = record.body["tables" if record.type == "seal" else "final"]
        self.split = Split(record.type, split_key(record), part, parts, before | {head["table"] for head in heads})

    def _apply_gap(self, record: Record) -> None:
        self._gaps.update(dict.fromkeys(record.body["tables"], self.size + 1))

    def _apply_finding(self, record: Record) -> None:
        body = record.body
        self.findings.setdefault(body["id"], JournalFinding(body["id"], finding_identity(body), self.size + 1))

    def _apply_ack(self, record: Record) -> None:
        self._set_status(record.body["finding"], "acknowledged", only_from=("open",))

    def _apply_repair(self, record: Record) -> None:
        if record.body["result"] == "repaired":  # other results are kept as text and change nothing
            self._set_status(record.body["finding"], "repaired", only_from=("open", "acknowledged"))

    def _set_status(self, finding_id: str, status: FindingState, *, only_from: Sequence[str]) -> None:
        finding = self.findings[finding_id]
        if finding.status in only_from:
            self.findings[finding_id] = replace(finding, status=status)
            if status in SETTLED:
                self._settled[finding.identity] = self.occurrences(finding.identity) + 1

    def _apply_accept(self, record: Record) -> None:
        body = record.body
        accepted = [AcceptedRow(row["key"], row["row"], row["seq"], self.size + 1) for row in body["rows"]]
        if accepted:
            self._accepts.setdefault((body["table"], body["generation"]), []).extend(accepted)
        finding = self.findings.get(body["finding"])
        if finding is None or finding.closed:
            return
        self._set_status(finding.id, "approved", only_from=("open", "acknowledged"))
        self.findings[finding.id] = replace(self.findings[finding.id], closed=True)
        for table in closes_gap_of(finding, body["table"], self._gaps, self.findings.values()):
            del self._gaps[table]
        if finding.finding_class == FindingClass.TABLE_DROPPED and finding.table in self._tables:
            self._end_protection(finding.table, record.at)  # there is nothing left to record, and an operator knows it

    def _apply_order(self, record: Record) -> None:
        body, base = record.body, 0
        if record.type == "erase":
            sealed = self.last_sealed(body["table"], body["generation"])
            base = 0 if sealed is None else sealed.size
        self.orders.take(record, self.size + 1, base)

    def _apply_anchor(self, record: Record) -> None:
        body, receipt = record.body, recall_receipt(record.body["receipt"])
        self._anchored.append(Anchored(receipt.type, receipt.place, receipt.digest, body["size"], record.at, record.seq or 0))


def _signer_problem(record: Record, members: Mapping[str, Member], verify_signatures: bool) -> str | None:
    """Why a record is not one of these members'; None where it is."""
    member = members.get(record.node)
    if member is None:
        return "expected a node that is a member in force"
    if verify_signatures and not check_record_signature(record, member.identity):
        return "its signature is not by the identity key of its node"
    return None


def _votes_problem(
    votes: Mapping[str, str], ballot: bytes, members: Mapping[str, Member], quorum: int, verify_signatures: bool
) -> str | None:
    """Why these are not the votes on ``ballot`` of a quorum of these members; None where they are."""
    for node, vote in votes.items():
        member = members.get(node)
        if member is None:
            return f"expected votes of members in force, found one of {node}"
        if verify_signatures and not verify_signature(member.identity, b64decode(vote), ballot):
            return f"the vote of {node} is not by its identity key"
    return None if len(votes) >= quorum else f"expected votes of {quorum} members, found {len(votes)}"


_CHANGES: Mapping[str, Callable[[JournalState, Record], None]] = {
    "genesis": JournalState._apply_genesis,
    "member": JournalState._take_period,
    "key": JournalState._apply_key,
    "open": JournalState._apply_open,
    "cancel": JournalState._apply_cancel,
    "table": JournalState._apply_table,
    "unprotect": JournalState._apply_unprotect,
    "seal": JournalState._apply_seal,
    "epoch": JournalState._apply_epoch,
    "gap": JournalState._apply_gap,
    "finding": JournalState._apply_finding,
    "ack": JournalState._apply_ack,
    "repair": JournalState._apply_repair,
    "accept": JournalState._apply_accept,
    "anchor": JournalState._apply_anchor,
    "erase": JournalState._apply_order,
    "prune": JournalState._apply_order,
    "config": JournalState._apply_order,
}
