"""Samples that an auditor can draw again: items chosen by a seed of the auditor's own, one bundle for each.

The selection is a pure function: of all items of a population, the ``n`` whose hex SHA-256 of ``<seed>\\n<item>`` (UTF-8) is
smallest, in that order.  Whoever has the population and the seed recomputes it with sha256sum and sort.

    changes         <table>/<generation>/<seq>     an entry with its schema, under the seal that covers it; from entry 2 on,
                                                   since the first one only describes the columns
    checkpoints     <size>                         that checkpoint, as a prefix of the closing one
    verifications   <seq>                          that journal record; findings, decisions, anchors … alike
"""

from __future__ import annotations

import csv
import heapq
import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from witnz.core.bundle import BundledTable, build_bundle, bundle_row
from witnz.core.journal_view import JournalView
from witnz.core.record import parse_record
from witnz.core.tiles import inclusion_proof
from witnz.errors import Inconclusive, StoreCorrupt, UsageError
from witnz.report import bundles
from witnz.report.changes import ranges
from witnz.report.facts import Facts, Log, genesis_of, read_facts
from witnz.report.package import write_sums
from witnz.report.period import Bounds, Period, find_bounds
from witnz.report.populations import RECORDS
from witnz.store import checkpoints, entries, journal, logs

POPULATIONS: Final = ("changes", "checkpoints", "findings", *RECORDS)
MAX_ITEMS: Final = 1000
MAX_SEED_BYTES: Final = 256
TABLE: Final = "sample.csv"

_NOTE: Final = """SAMPLE

Population  {population} from {begin} to {end} (UTC, the end not included): {size} items
Seed        {seed}
Items       {n}

sample.csv lists the items in the order of their selection hash: the hex SHA-256 of the seed, one newline (0x0A) and the item's
name, in UTF-8. The items with the smallest hashes of the whole population were taken. To compute one:

    printf '%s\\n%s' 'SEED' 'ITEM' | sha256sum

Each item has a bundle. Verify it under a policy file that reached you through another channel:

    witnz verify --checkpoint FILE --policy policy.txt
    sha256sum -c SHA256SUMS
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to draw.  ``created``: µs since the Unix epoch."""

    population: str
    n: int
    seed: str
    period: Period
    created: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """One item, its place in the order, and its selection hash."""

    rank: int
    item: str
    selection: str


def check_wanted(population: str, n: int, seed: str) -> None:
    """Raise UsageError for a population that there is not, a number out of range, an empty or overlong seed."""
    if population not in POPULATIONS:
        raise UsageError(f"--population: expected one of {', '.join(POPULATIONS)}, found {population[:40]!r}")
    if not 1 <= n <= MAX_ITEMS:
        raise UsageError(f"--n: expected 1 to {MAX_ITEMS}, found {n}")
    if not 1 <= len(seed.encode()) <= MAX_SEED_BYTES or not seed.isprintable():
        raise UsageError(f"--seed: expected 1 to {MAX_SEED_BYTES} bytes of printable text")


def draw(items: Iterable[str], n: int, seed: str) -> list[Drawn]:
    """The selection; see the module."""
    start = sha256(f"{seed}\n".encode())

    def hashed() -> Iterator[tuple[str, str]]:
        for item in items:
            one = start.copy()
            one.update(item.encode())
            yield one.hexdigest(), item

    chosen = heapq.nsmallest(n, hashed())
    return [Drawn(rank, item, selection) for rank, (selection, item) in enumerate(chosen, 1)]


def write_sample(connection: sqlite3.Connection, state: JournalView, wanted: Wanted, directory: Path) -> dict[str, Any]:
    """The bundles, ``sample.csv``, a README and SHA256SUMS in the empty ``directory``; what to tell whoever asked.

    Raises UsageError and Inconclusive as :func:`witnz.report.period.find_bounds`, Inconclusive for an empty population.
    """
    bounds = find_bounds(connection, wanted.period, genesis_of(connection).at)
    facts = read_facts(connection, bounds, lambda seal, entries_added: None)
    size, items = _population(connection, facts, bounds, wanted.population)
    drawn = draw(items, wanted.n, wanted.seed)
    if not drawn:
        raise Inconclusive(
            f"the population {wanted.population} is empty in this period, so there is nothing to draw from",
            code="report.population-empty",
        )
    prover = bundles.Prover(connection, bounds.closing.note, bundles.policy_of(state), wanted.created)
    (directory / bundles.FOLDER).mkdir()
    seals = _seals_of(connection, facts, bounds, drawn) if wanted.population == "changes" else {}
    rows = []
    for one in drawn:
        name = f"{bundles.FOLDER}/{one.rank:04}.witnz.json"
        (directory / name).write_bytes(_bundle(prover, facts, one.item, wanted.population, seals))
        rows.append((one.rank, one.item, one.selection, name))
    with (directory / TABLE).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("rank", "item", "selection_sha256", "bundle"))
        writer.writerows(rows)
    about = {"population": wanted.population, "seed": wanted.seed, "n": len(drawn), "size": size}
    note = _NOTE.format(**about, begin=wanted.period.begin_text, end=wanted.period.end_text)
    (directory / "README.txt").write_text(note, encoding="utf-8")
    write_sums(directory)
    return {**about, "items": [{"rank": rank, "item": item, "bundle": name} for rank, item, _, name in rows]}


def _population(connection: sqlite3.Connection, facts: Facts, bounds: Bounds, name: str) -> tuple[int, Iterable[str]]:
    """(how many, the items) of a population."""
    if name == "changes":
        spans = [
            (log, max(first, 2), last) for log, first, last in ranges(facts) if not _is_pruned(connection, log)
        ]  # entry 1 describes the columns of the others
        size = sum(last - first + 1 for _, first, last in spans)
        return size, (
            f"{table}/{generation}/{seq}" for (table, generation), first, last in spans for seq in range(first, last + 1)
        )
    if name == "checkpoints":
        sizes = [str(saved.size) for saved in checkpoints.iter_between(connection, bounds.first_seq - 1, bounds.closing.size)]
        return len(sizes), sizes
    types = RECORDS[name].types if name in RECORDS else ("finding",)
    seqs = [str(record.seq) for record in facts.of(*types)]
    return len(seqs), seqs


def _bundle(prover: bundles.Prover, facts: Facts, item: str, population: str, seals: dict[str, int]) -> bytes:
    if population == "changes":
        return _entry_bundle(prover, facts, item, seals[item])
    if population == "checkpoints":
        saved = checkpoints.get(prover.connection, int(item))
        if saved is None:
            raise StoreCorrupt(f"checkpoint {item} is not in the store any more", hint="run `witnz verify --store`")
        return prover.build({1}, older=[saved.note] if saved.size < prover.size else [])
    return prover.build({1, int(item)})


def _is_pruned(connection: sqlite3.Connection, log: Log) -> bool:
    row = logs.find_log(connection, *log)
    return row is not None and row.status == "pruned"


def _split(item: str) -> tuple[str, int, int]:
    table, generation, seq = item.rsplit("/", 2)
    return table, int(generation), int(seq)


def _seals_of(connection: sqlite3.Connection, facts: Facts, bounds: Bounds, drawn: list[Drawn]) -> dict[str, int]:
    """item -> the seq of the first seal that covers it."""
    missing = {one.item: _split(one.item) for one in drawn}
    found: dict[str, int] = {}
    for seq, leaf in journal.records_of(connection, "seal", from_seq=bounds.first_seq, to_seq=bounds.closing.size):
        sizes = {(head["table"], head["generation"]): head["size"] for head in json.loads(leaf)["body"]["tables"]}
        for item, (table, generation, entry) in list(missing.items()):
            if sizes.get((table, generation), 0) >= entry:
                found[item] = seq
                del missing[item]
        if not missing:
            return found
    raise StoreCorrupt(f"no seal covers {next(iter(missing))}", hint="run `witnz verify --store`")


def _entry_bundle(prover: bundles.Prover, facts: Facts, item: str, seal_seq: int) -> bytes:
    """The bundle of an entry, without its values; whether it was changed later is not part of it."""
    table, generation, seq = _split(item)
    conn = prover.connection
    row = logs.find_log(conn, table, generation)
    made = next(
        record.seq
        for record in facts.all_of("table")
        if (record.body["table"], record.body["generation"]) == (table, generation)
    )
    seal = parse_record(journal.record_at(conn, seal_seq))
    size = next(h["size"] for h in seal.body["tables"] if (h["table"], h["generation"]) == (table, generation))
    if row is None:
        raise StoreCorrupt(f"the store has no log of {table}, generation {generation}")
    read, schema_seq = entries.tile_reader(conn, row.id, size), _schema_before(conn, row.id, seq)
    seqs = sorted({1, made, seal_seq})
    journal_tiles = journal.tile_reader(conn, prover.size)
    records = [
        (parse_record(journal.record_at(conn, one)), inclusion_proof(journal_tiles, one - 1, prover.size)) for one in seqs
    ]
    shown = bundle_row(
        table=table, generation=generation, seal=seqs.index(seal_seq),
        schema_line=entries.entry_at(conn, row.id, schema_seq), schema_proof=inclusion_proof(read, schema_seq - 1, size),
        entry_line=entries.entry_at(conn, row.id, seq), proof=inclusion_proof(read, seq - 1, size),
    )  # fmt: skip
    return build_bundle(
        checkpoint=prover.note,
        records=records,
        policy=prover.policy,
        created=prover.created,
        tool=prover.tool,
        rows=[shown],
        tables=[BundledTable(table, generation, None, None)],
    )


def _schema_before(connection: sqlite3.Connection, log_id: int, seq: int) -> int:
    """The seq of the schema entry in force for an entry; for the first schema entry itself, that one."""
    newest = logs.get_log(connection, log_id).schema_seq
    if 0 < newest < seq:
        return newest
    found = 1
    for number, line in enumerate(entries.entries(connection, log_id, 1, seq - 1), 1):
        if line.split(b"\t", 3)[2] == b"schema":
            found = number
    return found
