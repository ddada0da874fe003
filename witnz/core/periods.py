"""Whose keys counted when: the periods between changes of members and keys, and the policies that follow from them.

A *period* begins with a ``genesis``, ``member`` or ``key`` record (of kind ``log``) and lasts to the next one.  A checkpoint of
size n is judged by the keys of the period in which record n lies.

The policy of a period asks for the log's signature and a quorum of that period's members.  A member that changed its cosigner
key while it stayed a member has one ``witness`` line for each, in a group of which any counts, so that what was signed before
stays verifiable and no member counts twice.  Retired log keys are listed for the same reason.  Other members than today's are
in no policy but that of their own period: a policy that accepted every quorum that ever was would accept the weakest.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from witnz.core.journal_facts import Member
from witnz.core.lsn import parse_lsn
from witnz.core.policy import Policy, parse_policy
from witnz.core.record import Record


@dataclass(frozen=True, slots=True)
class Period:
    """Keys in force from journal record ``since`` on.  ``log_key`` signs; ``members`` by id; ``quorum`` of them make a
    checkpoint final.  ``retired_logs`` and ``retired_cosigners`` (by member id): verifier keys of before, newest first."""

    since: int
    log_key: str
    members: Mapping[str, Member]
    quorum: int
    retired_logs: tuple[str, ...] = ()
    retired_cosigners: Mapping[str, tuple[str, ...]] | None = None

    def policy(self, *, retired: bool = True) -> str:
        """The text of the policy file (c2sp.org/tlog-policy).  ``retired``: whether keys of before still count."""
        lines = [f"# keys in force from journal record {self.since} on", f"log {self.log_key}"]
        lines += [f"log {key}" for key in self.retired_logs] if retired else []
        voices = []
        for member in self.members.values():
            lines.append(f"witness {member.id} {member.cosigner}")
            before = (self.retired_cosigners or {}).get(member.id, ()) if retired else ()
            names = [f"{member.id}.retired{number}" for number in range(1, len(before) + 1)]
            lines += [f"witness {name} {key}" for name, key in zip(names, before, strict=True)]
            if names:
                lines.append(f"group {member.id}.keys any {member.id} {' '.join(names)}")
            voices.append(f"{member.id}.keys" if names else member.id)
        lines += [f"group members {self.quorum} {' '.join(voices)}", "quorum members"]
        return parse_policy("".join(f"{line}\n" for line in lines)).text

    def parsed_policy(self) -> Policy:
        """The policy with retired keys, as it judges checkpoints of this node's own store."""
        return parse_policy(self.policy())

    def followed_by(self, since: int, *, log_key: str | None, members: Mapping[str, Member], quorum: int) -> Period:
        """The period that a change begins; ``log_key`` None: it stays."""
        logs = self.retired_logs
        if log_key is not None and log_key != self.log_key:
            logs = (self.log_key, *(key for key in logs if key != log_key))
        retired: dict[str, tuple[str, ...]] = {}
        for member in members.values():
            known = (self.retired_cosigners or {}).get(member.id, ())
            before = self.members.get(member.id)
            if before is not None and before.cosigner != member.cosigner:
                known = (before.cosigner, *(key for key in known if key != member.cosigner))
            if before is not None and known:
                retired[member.id] = known
        return Period(since, log_key or self.log_key, dict(members), quorum, logs, retired)


def quorum_after(members: int, genesis_members: int, genesis_quorum: int) -> int:
    """The quorum once there are ``members``: a majority, or genesis' where that asked for more than one."""
    majority = members // 2 + 1
    if genesis_quorum <= genesis_members // 2 + 1:
        return majority
    return min(members, max(majority, genesis_quorum))


@dataclass(slots=True)
class Periods:
    """The periods of one journal, oldest first, as its valid records go by."""

    all: list[Period] = field(default_factory=list)
    _genesis: tuple[int, int] = (0, 0)

    def take(self, record: Record) -> None:
        """Note a valid record; most change nothing."""
        body = record.body
        if record.type == "genesis":
            members = {member["id"]: Member.from_body(member) for member in body["members"]}
            self._genesis = len(members), body["quorum"]
            self.all = [Period(1, body["log_key"], members, body["quorum"])]
        elif record.type == "member":
            members = {name: member for name, member in self.now.members.items() if name != body["id"]}
            if body["action"] == "add":
                members[body["id"]] = Member.from_body(body, parse_lsn(body["from_lsn"]))
            self._change(record, members, quorum_after(len(members), *self._genesis))
        elif record.type == "key" and (body["kind"], body["action"]) == ("log", "add"):
            self._change(record, self.now.members, self.now.quorum, body["key"])

    @property
    def now(self) -> Period:
        """The period of the newest record."""
        return self.all[-1]

    def at(self, size: int) -> Period:
        """The period that judges a checkpoint of ``size`` records."""
        return next((period for period in reversed(self.all) if period.since <= size), self.all[0])

    def _change(self, record: Record, members: Mapping[str, Member], quorum: int, log_key: str | None = None) -> None:
        self.all.append(self.now.followed_by(record.seq or 0, log_key=log_key, members=members, quorum=quorum))


KEY_RECORDS: Final = ("genesis", "member", "key")
"""The types of records that begin a period."""


def periods_of(records: Iterable[Record]) -> Periods:
    """The periods of a journal whose records, or those of :data:`KEY_RECORDS` among them, are known to be valid."""
    periods = Periods()
    for record in records:
        periods.take(record)
    return periods


def member_body(action: str, member: Member, from_lsn: str) -> dict[str, str]:
    """The body of a ``member`` record, without nonce and auth."""
    return {
        "action": action,
        "id": member.id,
        "addr": member.addr,
        "identity": b64encode(member.identity).decode(),
        "cosigner": member.cosigner,
        "from_lsn": from_lsn,
    }
