"""P9: whether capture, a seal and a proof take longer in a log of N entries than in one of a hundred thousand."""

from __future__ import annotations

import math
import random
import statistics
import time
from typing import Any

from benchmarks.bench import Bench
from benchmarks.setting import Setting, entries_of, wait_for_entries
from witnz.config import Config
from witnz.core.tiles import inclusion_proof
from witnz.node.evidence import Evidence
from witnz.node.node import Node, now_us
from witnz.store import entries, logs

SMALL = 100_000
SEALS = 15
PROOFS = 40


def growth(bench: Bench) -> dict[str, Any]:
    """Each at both sizes: rows/s of the next backlog of a tenth, one seal, one proof of a row and its bundle."""
    big = max(10_000_000 if bench.large else bench.rows, 2 * SMALL)
    with bench.alone() as place:
        config = place.initialise()
        node = Node(config)
        node.start(chores=False, schedule=False)
        node.wait_ready(60)
        have = _grown(place, node, 0, SMALL)
        node, small = _at(place, config, node, have)
        have = _grown(place, node, small["rows"], big)
        node, large = _at(place, config, node, have)
        node.stop()
    return {
        "entries": [SMALL, big],
        "capture_rows_per_s": [small["rate"], large["rate"]],
        "capture_ratio": round(small["rate"] / large["rate"], 2),
        "seal_ms": [small["seal_ms"], large["seal_ms"]],
        "seal_ratio": round(large["seal_ms"] / small["seal_ms"], 2),
        "proof_hashes": [small["hashes"], large["hashes"]],
        "proof_hashes_log2": math.ceil(math.log2(large["rows"] + 1)),
        "proof_ms": [small["proof_ms"], large["proof_ms"]],
        "bundle_ms": [small["bundle_ms"], large["bundle_ms"]],
    }


def _grown(place: Setting, node: Node, have: int, target: int) -> int:
    """Insert up to ``target`` rows, a part at a time, and wait until they are recorded."""
    step = 1_000_000
    while have < target:
        upto = min(target, have + step)
        place.insert(have + 1, upto)
        wait_for_entries(node, upto + 1)
        have = upto
    return have


def _at(place: Setting, config: Config, node: Node, have: int) -> tuple[Node, dict[str, Any]]:
    """The figures in a log of ``have`` rows; the node is another one afterwards, and there are some rows more."""
    taken: dict[str, Any] = {}
    rates = []
    chunk = SMALL
    for _ in range(3):
        node.stop()
        place.insert_parts(have + 1, have + chunk)
        node = Node(config)
        node.start(chores=False, schedule=False)
        rates.append(_rate(node, have + 1, chunk))
        have += chunk
    taken["rate"] = round(statistics.median(rates))
    seals = []
    for _ in range(SEALS):
        place.insert(have + 1, have + 1)
        wait_for_entries(node, have + 2)
        have += 1
        started = time.perf_counter()
        node.seal_now()
        seals.append(time.perf_counter() - started)
    taken["seal_ms"] = round(1000 * statistics.median(seals), 2)
    taken |= _proofs(node, have)
    taken["rows"] = have
    return node, taken


def _rate(node: Node, base: int, chunk: int) -> float:
    """Rows/s from the first to the last of a backlog to be recorded."""
    while (first := entries_of(node)) <= base:
        time.sleep(0.002)
    begun = time.monotonic()
    if first >= base + chunk:
        raise ValueError(f"all {chunk} rows were recorded at once; more are needed to see a rate")
    wait_for_entries(node, base + chunk)
    return (base + chunk - first) / (time.monotonic() - begun)


def _proofs(node: Node, rows: int) -> dict[str, Any]:
    chance = random.Random(9)
    proofs, bundles, hashes = [], [], []
    evidence = Evidence(node.db, now_us)
    for _ in range(PROOFS):
        row = chance.randint(1, rows)
        with node.db.read() as conn:
            log = logs.find_log(conn, "public.t")
            if log is None:
                raise ValueError("there is no log")
            started = time.perf_counter()
            proof = inclusion_proof(entries.tile_reader(conn, log.id, log.size), row, log.size)
            proofs.append(time.perf_counter() - started)
        hashes.append(len(proof))
        started = time.perf_counter()
        evidence.row_bundle("public.t", b"%d" % row)
        bundles.append(time.perf_counter() - started)
    return {
        "hashes": max(hashes),
        "proof_ms": round(1000 * statistics.median(proofs), 2),
        "bundle_ms": round(1000 * statistics.median(bundles), 2),
    }
