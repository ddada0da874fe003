"""A finding as the journal has it, for the store of a node that did not find it itself."""

from __future__ import annotations

from witnz.core.finding import CLASSES, Finding, FindingState, Window, finding_id
from witnz.core.journal_rules import finding_identity
from witnz.core.journal_view import JournalView
from witnz.core.record import Record
from witnz.core.timestamp import format_time
from witnz.errors import FormatError


def journalled_finding(record: Record, state: JournalView, *, status: FindingState) -> Finding:
    """The finding of a ``finding`` record that ``state`` has applied, in ``status``.

    Its severity is that of its class, whatever the node that reported it wrote.  Raises FormatError where its id does not
    follow from its members, which no journal accepts.
    """
    body = record.body
    return Finding(
        id=body["id"],
        cls=body["class"],
        severity=CLASSES[body["class"]].severity,
        table=body["table"],
        generation=body["generation"],
        key=body["key"],
        detected_at=format_time(record.at),
        window=Window(body["window"]["last_good"], body["window"]["first_bad"]),
        recorded=body["recorded"],
        found=body["found"],
        entry_seq=body["seq"],
        lsn=body["lsn"],
        xid=body["xid"],
        explained_by=body["explained_by"],
        state=status,
        detail=f"found by {record.node}",
        occurrence=_occurrence(record, state),
    )


def _occurrence(record: Record, state: JournalView) -> int:
    """How many findings of the same identity were settled before this one: its id says so."""
    identity = finding_identity(record.body)
    cls, table, generation, key, seq = identity
    for occurrence in range(state.occurrences(identity) + 1):
        if finding_id(record.cluster, cls, generation, key, occurrence, seq, table) == record.body["id"]:
            return occurrence
    raise FormatError(f"finding {record.body['id']}: expected an id that follows from its members")
