"""The bundles of a package: proofs under the closing checkpoint of the period, and under the one that covers the report.

period.witnz.json         genesis, each table's newest record and seal, members and keys, what of before the period still
                          counts in it (:func:`_from_before`); older checkpoints, receipts
records-0001.witnz.json … every record of the period that is no seal, at most :data:`AT_ONCE` a file
seals.witnz.json          every seal of the period, and those that say how large the logs were before it
checkpoints.witnz.json    every final checkpoint of the period but the closing one
report.witnz.json         genesis, the report key's record, the ``report`` record, that of the report before it; made last

Seals and checkpoints come every few seconds: for a period with more than :data:`AT_ONCE` of them a package would take hundreds
of megabytes, and has neither bundle; a verifier then says that their lists are not checked.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from witnz import __version__
from witnz.core.bundle import BundledTable, build_bundle
from witnz.core.checkpoint import parse_checkpoint
from witnz.core.journal_rules import COVERAGE_CLASSES
from witnz.core.journal_view import JournalView
from witnz.core.note import parse_note
from witnz.core.record import Record, parse_record
from witnz.core.tiles import consistency_proof, inclusion_proof
from witnz.report.facts import Facts, Rec
from witnz.report.lifecycle import REPAIRED
from witnz.report.period import Bounds
from witnz.store import checkpoints, journal

FOLDER: Final = "bundles"
PERIOD: Final = f"{FOLDER}/period.witnz.json"
REPORT: Final = f"{FOLDER}/report.witnz.json"
SEALS: Final = f"{FOLDER}/seals.witnz.json"
CHECKPOINTS: Final = f"{FOLDER}/checkpoints.witnz.json"
AT_ONCE: Final = 1000
_STANDING: Final = ("member", "key", "table", "unprotect", "gap", "epoch")
_LIFE: Final = ("finding", "ack", "accept", "repair")
MAX_OLDER: Final = 2000
"""Older checkpoints in one bundle, each with the receipts that are for it; the newest, where there are more."""


def records_file(number: int) -> str:
    """The name of the bundle of records number ``number``, from 1."""
    return f"{FOLDER}/records-{number:04}.witnz.json"


def bundle_of(facts: Facts) -> Callable[[int], str]:
    """seq -> the bundle that proves a record; the period's own one for what stands before the period."""
    places = {record.seq: records_file(index // AT_ONCE + 1) for index, record in enumerate(facts.records)}
    return lambda seq: places.get(seq, PERIOD)


def policy_of(state: JournalView) -> str:
    """The policy that the cluster claims for itself."""
    return state.periods.now.policy()


@dataclass(frozen=True, slots=True)
class Prover:
    """Builds bundles of one store under one checkpoint ``note``; ``created``: µs since the Unix epoch."""

    connection: sqlite3.Connection
    note: str
    policy: str
    created: int

    @property
    def tool(self) -> str:
        return f"witnz {__version__}"

    @property
    def size(self) -> int:
        return parse_checkpoint(parse_note(self.note).text).size

    def build(
        self,
        seqs: Iterable[int],
        *,
        older: Sequence[str] = (),
        anchors: Sequence[Mapping[str, Any]] = (),
        tables: Callable[[Mapping[int, int], Sequence[Record]], list[BundledTable]] = lambda place, records: [],
    ) -> bytes:
        """The bundle of these records, older notes and receipts; ``tables`` is given where each record stands."""
        read, size = journal.tile_reader(self.connection, self.size), self.size
        chosen = sorted(set(seqs))
        records = [parse_record(journal.record_at(self.connection, seq)) for seq in chosen]
        proven = [(record, inclusion_proof(read, (record.seq or 1) - 1, size)) for record in records]
        consistency = [(note, self._consistency(read, note)) for note in older]
        return build_bundle(
            checkpoint=self.note,
            records=proven,
            policy=self.policy,
            created=self.created,
            tool=self.tool,
            tables=tables({seq: index for index, seq in enumerate(chosen)}, records),
            consistency=consistency,
            anchors=anchors,
        )

    def _consistency(self, read: Any, note: str) -> list[bytes]:
        old = parse_checkpoint(parse_note(note).text).size
        return consistency_proof(read, old, self.size) if old < self.size else []


def write_period(package: Path, prover: Prover, facts: Facts, bounds: Bounds) -> list[str]:
    """The period's bundle and those of its records; their names."""
    notes, receipts = _anchored(prover.connection, facts, bounds)
    seqs = {1, *(record.seq for record in facts.all_of("key") if record.body["kind"] == "report"), *_from_before(facts)}
    newest = {record.body["table"]: record for record in facts.all_of("table")}
    verified = _newest_verifications(facts, newest)
    seqs |= {record.seq for record in (*newest.values(), *verified.values())}
    seals = [facts.sealed_by.get((name, record.body["generation"])) for name, record in newest.items()]
    seqs |= {seq for seq in seals if seq is not None}

    def tables(place: Mapping[int, int], records: Sequence[Record]) -> list[BundledTable]:
        return [
            BundledTable(name, record.body["generation"], None, place[verified[name].seq] if name in verified else None)
            for name, record in sorted(newest.items())
        ]

    names = [PERIOD]
    (package / PERIOD).write_bytes(prover.build(seqs, older=notes, anchors=receipts, tables=tables))
    for number, start in enumerate(range(0, len(facts.records), AT_ONCE), 1):
        part = facts.records[start : start + AT_ONCE]
        names.append(records_file(number))
        (package / names[-1]).write_bytes(prover.build(record.seq for record in part))
    for name, data in (
        (SEALS, _seals(prover, facts, bounds)),
        (CHECKPOINTS, _checkpoints(prover, bounds)),
    ):
        if data is not None:
            names.append(name)
            (package / name).write_bytes(data)
    return names


def _from_before(facts: Facts) -> set[int]:
    """The records of before the period on which its figures rest: members, keys, tables and gaps, and the whole life so far of
    every finding that stood open, spoke of coverage, or is named again in the period."""
    settled = {
        record.body["finding"]
        for record in facts.before
        if record.type == "accept" or (record.type == "repair" and record.body["result"] == REPAIRED)
    }
    named = {record.body.get("id" if record.type == "finding" else "finding") for record in facts.of(*_LIFE)}
    alive = {
        record.body["id"]
        for record in facts.before
        if record.type == "finding"
        and (record.body["id"] in named or record.body["id"] not in settled or record.body["class"] in COVERAGE_CLASSES)
    }
    return {
        record.seq
        for record in facts.before
        if record.type in _STANDING
        or (record.type in _LIFE and record.body.get("id" if record.type == "finding" else "finding") in alive)
    }


def _seals(prover: Prover, facts: Facts, bounds: Bounds) -> bytes | None:
    """The bundle of all seals of the period, and of the newest before it of each log that grew; None if they are too many."""
    if not 0 < facts.by_type["seal"] <= AT_ONCE:
        return None
    grown = [log for log, size in facts.sizes.items() if size != facts.sizes_before.get(log)]
    seqs = {facts.sealed_before[log] for log in grown if log in facts.sealed_before}
    found = journal.records_of(prover.connection, "seal", from_seq=bounds.first_seq, to_seq=bounds.closing.size)
    return prover.build({1, *seqs, *(seq for seq, _ in found)})


def _checkpoints(prover: Prover, bounds: Bounds) -> bytes | None:
    """The bundle of all final checkpoints of the period before the closing one; None if there are none or too many."""
    notes = []
    for saved in checkpoints.iter_between(prover.connection, bounds.first_seq - 1, bounds.closing.size - 1):
        if saved.final:
            notes.append(saved.note)
        if len(notes) > AT_ONCE:
            return None
    return prover.build({1}, older=notes) if notes else None


def _anchored(connection: sqlite3.Connection, facts: Facts, bounds: Bounds) -> tuple[list[str], list[Mapping[str, Any]]]:
    """(older checkpoints, receipts for them or the closing one), the newest; the opening checkpoint is always among them."""
    by_size: dict[int, list[Mapping[str, Any]]] = {}
    for record in facts.of("anchor"):
        by_size.setdefault(record.body["size"], []).append(record.body["receipt"])
    notes: dict[int, str] = {}
    receipts: list[Mapping[str, Any]] = []
    for size in sorted(by_size, reverse=True)[:MAX_OLDER]:
        saved = checkpoints.get(connection, size)
        if saved is not None and size <= bounds.closing.size:
            receipts += by_size[size]
            if size < bounds.closing.size:
                notes[size] = saved.note
    if bounds.opening is not None:
        notes[bounds.opening.size] = bounds.opening.note
    return [notes[size] for size in sorted(notes)], receipts


def _newest_verifications(facts: Facts, newest: Mapping[str, Rec]) -> dict[str, Rec]:
    """The newest run over the current generation of each table that found it as recorded."""
    out: dict[str, Rec] = {}
    for record in facts.of("verify"):
        table = newest.get(record.body["table"])
        if table is not None and record.body["generation"] == table.body["generation"] and record.body["verdict"] == "VERIFIED":
            out[record.body["table"]] = record
    return out
