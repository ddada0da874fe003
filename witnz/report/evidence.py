"""The evidence of a period: one object out of the journal, and the lists from which each of its figures can be counted again.

:func:`collect` reads the store once, writes the populations and the bundles as it goes, and returns the predicate of
``evidence.json`` (its schema is published as ``docs/schemas/evidence-1.json``).
"""

from __future__ import annotations

import sqlite3
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from witnz import __version__
from witnz.core.journal_view import JournalView
from witnz.core.timestamp import format_time
from witnz.report import bundles, changes, lifecycle, sections
from witnz.report.coverage import Pace
from witnz.report.derived import Counted, derive
from witnz.report.facts import Facts, Rec, genesis_of, read_facts
from witnz.report.mapping import Standard, artefacts, in_language
from witnz.report.period import Bounds, Period, find_bounds
from witnz.report.populations import Populations
from witnz.report.provenance import software
from witnz.store import checkpoints

SCHEMA: Final = "witnz.evidence/1"
CHECKPOINT_COLUMNS: Final = ("number", "size", "new_records", "at", "root", "final", "cosigned_by")
SEAL_COLUMNS: Final = ("seq", "at", "node", "lsn", "logs", "entries")

ASSERTION: Final = (
    "We are responsible for the tables in scope, for who administers the database, the nodes and the places outside, and for "
    "how findings were handled. To our knowledge this report shows all tables that we chose to protect, all exceptions, and no "
    "figure was altered after it was made."
)


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for.  ``created``: µs since the Unix epoch; ``node``: who makes the report."""

    standard: Standard
    period: Period
    created: int
    node: str


@dataclass(slots=True)
class Collected:
    """``predicate`` of the evidence, the ``files`` made so far (its subjects), and what the pages are drawn from."""

    predicate: dict[str, Any]
    files: list[str]
    bounds: Bounds
    facts: Facts


def collect(connection: sqlite3.Connection, state: JournalView, request: Request, package: Path) -> Collected:
    """Write populations and bundles below ``package`` and say what they show.

    Raises UsageError for a period before the journal began, Inconclusive for one without a checkpoint.
    """
    bounds = find_bounds(connection, request.period, genesis_of(connection).at)
    populations, policy = Populations(package), bundles.policy_of(state)
    paces = {"checkpoints": Pace(), "seals": Pace()}
    facts = _read(connection, bounds, populations, paces["seals"])
    not_final = _register(connection, bounds, populations, policy, paces["checkpoints"])
    bundle_of = bundles.bundle_of(facts)
    populations.write_records(facts.records, bundle_of)
    found = lifecycle.lives(facts)
    source = "findings that stood open at any time of the period, from finding, ack, accept and repair records"
    with populations.write("findings", lifecycle.COLUMNS, source) as add:
        for life in found:
            add(life.row(bundle_of(life.opened.seq)))
    with populations.write("changes", changes.COLUMNS, changes.SOURCE) as add:
        changed = changes.count_changes(connection, facts, add)
    (package / bundles.FOLDER).mkdir()
    prover = bundles.Prover(connection, bounds.closing.note, policy, request.created)
    files = bundles.write_period(package, prover, facts, bounds)
    counted = Counted(paces, not_final, changed)
    predicate = _predicate(request, state, facts, populations)
    predicate |= derive(facts, bounds, request.period, request.standard.id, found, counted)
    predicate["controls"] = _controls(request.standard, predicate)
    return Collected(predicate, [*files, *(one.file for one in populations.made)], bounds, facts)


def _read(connection: sqlite3.Connection, bounds: Bounds, populations: Populations, pace: Pace) -> Facts:
    """The facts; each seal goes straight into its list."""
    with populations.write("seals", SEAL_COLUMNS, "journal records of type seal in the period") as add:

        def on_seal(record: Rec, entries: int) -> None:
            pace.note(record.at)
            add((record.seq, record.at_text, record.node, record.body["lsn"], len(record.body["tables"]), entries))

        return read_facts(connection, bounds, on_seal)


def _register(connection: sqlite3.Connection, bounds: Bounds, populations: Populations, policy: str, pace: Pace) -> int:
    """The register of checkpoints; how many of them are not final."""
    before, not_final = bounds.first_seq - 1, 0
    names = _cosigner_names(policy)
    with populations.write("checkpoints", CHECKPOINT_COLUMNS, "checkpoints after the opening one up to the closing one") as add:
        saved_all = checkpoints.iter_between(connection, before, bounds.closing.size)
        for number, saved in enumerate(saved_all, 1):
            text, _, signatures = saved.note.partition("\n\n")
            root = text.split("\n")[2]
            cosigners = [names[name] for line in signatures.splitlines() if (name := line.split(" ")[1]) in names]
            add((number, saved.size, saved.size - before, format_time(saved.at), root, saved.final, " ".join(cosigners)))
            pace.note(saved.at)
            before, not_final = saved.size, not_final + (not saved.final)
    return not_final


def _cosigner_names(policy: str) -> dict[str, str]:
    """Witness names of the policy by key name."""
    lines = (line.split(" ") for line in policy.splitlines() if line.startswith("witness "))
    return {words[2].split("+", 1)[0]: words[1] for words in lines}


def _predicate(request: Request, state: JournalView, facts: Facts, populations: Populations) -> dict[str, Any]:
    period, genesis = request.period, facts.genesis
    return {
        "schema": SCHEMA,
        "report": {
            "standard": request.standard.id,
            "title": in_language(request.standard.title, "en"),
            "from": period.begin_text,
            "to": period.end_text,
            "created": format_time(request.created),
            "tool": f"witnz {__version__}",
            "node": request.node,
        },
        "cluster": {
            "name": state.cluster,
            "id": state.cluster_id,
            "log_key": state.log_key,
            "quorum": state.quorum,
            "genesis_at": genesis.at_text,
            "members": [
                {"id": member.id, "addr": member.addr, "cosigner": member.cosigner, "identity": _b64(member.identity)}
                for member in state.members.values()
            ],
            "database": genesis.body["database"],
        },
        "software": software(),
        "assertion": {"text": ASSERTION, "signed": False, "fields": ["name", "title", "date", "signature"]},
        "limits": list(sections.LIMITS),
        "counts": populations.counts(),
        "populations": [one.to_json() for one in populations.made],
    }


def _controls(standard: Standard, predicate: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each control of the standard with what this period has for it."""
    known, counts = artefacts(), predicate["counts"]
    out = []
    for control in standard.controls:
        names: Sequence[str] = sorted({name for one in control.artefacts for name in known[one].populations})
        out.append(
            {
                "id": control.id,
                "title": in_language(control.title, "en"),
                "artefacts": list(control.artefacts),
                "supports": in_language(control.supports, "en"),
                "checks": list(control.checks),
                "limits": in_language(control.limits, "en"),
                "figures": {name: counts[name] for name in names},
            }
        )
    return out


def _b64(data: bytes) -> str:
    return b64encode(data).decode("ascii")
