"""What the audit of a store asks of its checkpoints: each is signed, is kept as what it is, and was noted when it was made.

note     the log key's signature, no bad one, and the quorum of the members at that size; one without a quorum is kept as such
final    exactly whether the note has its quorum
at       not before the first cosignature was made, or the clock itself went back; of a node that was always alone, which
         notes a checkpoint as it signs it, not long after either: ``at`` decides which checkpoint ends a report's period
cosigned the cosigner's memory: its own note, and no older than any checkpoint that this node signed
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from witnz.core.checkpoint import parse_checkpoint
from witnz.core.note import Note, cosignature_time, parse_note
from witnz.core.periods import Periods
from witnz.core.policy import PolicyResult, evaluate, parse_policy
from witnz.core.timestamp import format_time
from witnz.errors import ProofError
from witnz.store import checkpoints, meta
from witnz.store.checkpoints import StoredCheckpoint

TOLERANCE_US: Final = 3_600_000_000
"""Between a signature and its note in the store a machine may have stood still, or its clock been put right."""


def check_checkpoints(conn: sqlite3.Connection, periods: Periods, times: Sequence[int]) -> str:
    """A sentence on what was compared.  ``times``: of every record, in µs, by its position.  Raises ProofError, FormatError."""
    alone = all(len(period.members) <= 1 for period in periods.all)
    policies = {period.since: parse_policy(period.policy(retired=False)) for period in periods.all}
    later = _earliest_from(times)
    own, newest, count = meta.load_value(conn, "node"), 0, 0
    for one in checkpoints.iter_all(conn):
        count += 1
        note = parse_note(one.note)
        result = evaluate(policies[periods.at(one.size).since], note)
        _check_final(result, one)
        _check_time(one, note, later[one.size] if one.size < len(later) else None, alone=alone)
        if own in result.cosigned_by:
            newest = one.size
    _check_memory(conn, newest)
    return f"{count} checkpoints carry the log's signature and their quorum"


def _earliest_from(times: Sequence[int]) -> Sequence[int]:
    """For each size the earliest time that a record behind it gives: a clock that went back shows there."""
    earliest = array("q", accumulate(reversed(times), min))
    earliest.reverse()
    return earliest


def _check_final(result: PolicyResult, saved: StoredCheckpoint) -> None:
    unfinished = not saved.final and result.log_ok and not result.bad  # of several nodes, too few had cosigned it
    if not result.accepted and not unfinished:
        raise ProofError(f"the checkpoint of size {saved.size} is not signed as it must be: {result.detail}")
    if result.accepted and not saved.final:
        raise ProofError(f"the checkpoint of size {saved.size} has its quorum, and the store says that it is not final")


def _check_time(saved: StoredCheckpoint, note: Note, later_us: int | None, *, alone: bool) -> None:
    signed = [time_s * 1_000_000 for each in note.signatures if (time_s := cosignature_time(each)) is not None]
    if not signed:
        return
    earliest = min([*signed, *([later_us] if later_us is not None else [])])
    said = f"the checkpoint of size {saved.size} is said to be of {format_time(saved.at)}"
    if saved.at < earliest - TOLERANCE_US:
        raise ProofError(f"{said}, before it was signed ({format_time(min(signed))})")
    if alone and saved.at > max(signed) + TOLERANCE_US:
        raise ProofError(f"{said}, long after it was signed ({format_time(max(signed))})")


def _check_memory(conn: sqlite3.Connection, newest: int) -> None:
    """``newest``: the largest size that a kept note shows this node's signature on."""
    cosigned = checkpoints.load_cosigned(conn)
    if newest and (cosigned is None or cosigned.size < newest):
        raise ProofError(f"the cosigner's memory is older than the checkpoint of size {newest} that it signed")
    if cosigned is not None:
        said = parse_checkpoint(parse_note(cosigned.note).text)
        if (said.size, said.root) != (cosigned.size, cosigned.root):
            raise ProofError(
                f"the cosigner's memory says size {cosigned.size}, and the note that it keeps another size or root"
            )
