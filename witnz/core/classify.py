"""The classifier: which recorded events are accepted, and which are findings (formats.md 3, architecture.md 2).

A table log holds only what the database said.  Whether an entry moves the *accepted state* is judged from the rules that the
journal's ``table`` record fixes, from whether a valid intent covers the entry, and from whether its key was there before:

    mode              rules           accepted without an intent              everything else is
    append_only       -               baseline, inserts of new keys           violation.update/.delete/.truncate/.reinsert
    append_only       require_intent  baseline                                the same; a new key: change.unapproved
    state_integrity   record          everything                              -
    state_integrity   alert           baseline                                change.unapproved
    state_integrity   require_intent  baseline                                change.unapproved

A valid intent makes any entry accepted.  Nothing here looks at a clock, a configuration or a signature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["append_only", "state_integrity"]
OnChange = Literal["alert", "record"]

BASELINE, SCHEMA, INSERT, UPDATE, DELETE, TRUNCATE = b"baseline", b"schema", b"insert", b"update", b"delete", b"truncate"

_VIOLATIONS = {UPDATE: "violation.update", DELETE: "violation.delete", TRUNCATE: "violation.truncate"}


@dataclass(frozen=True, slots=True)
class Rules:
    """What the newest ``table`` record says about a table; the same everywhere in the cluster."""

    mode: Mode
    on_change: OnChange = "alert"
    inserts_only: bool = False
    require_intent: bool = False
    retain: bool = False

    @property
    def accepts_new_keys(self) -> bool:
        """Whether an insert of a key that is not there is accepted as it comes, without an intent."""
        if self.require_intent:
            return False
        return self.mode == "append_only" or self.on_change == "record"

    @property
    def accepts_everything(self) -> bool:
        """Whether whatever the stream shows is accepted (``on_change: record``)."""
        return self.mode == "state_integrity" and self.on_change == "record" and not self.require_intent


def judge(rules: Rules, op: bytes, *, intended: bool, key_known: bool) -> str | None:
    """The finding class of an entry that is *not* accepted, or None for one that is.

    ``op``: the entry's operation; ``intended``: a valid intent covers it; ``key_known``: its key has a live row, accepted or
    applied (always False for tables without a key).  ``schema`` and ``baseline`` are always accepted.
    """
    if intended or op in (BASELINE, SCHEMA):
        return None
    if rules.mode == "append_only":
        if op == INSERT:
            if key_known:
                return "violation.reinsert"
            return "change.unapproved" if rules.require_intent else None
        return _VIOLATIONS[op]
    return None if rules.accepts_everything else "change.unapproved"
