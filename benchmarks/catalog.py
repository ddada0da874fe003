"""What is measured: every figure's name, its limit or peer, and when it is met.

A figure is taken by a function of the :class:`~benchmarks.bench.Bench`, which keeps what several of them share (a server with a
filled node, three node processes).  Figures of one group stand together, so that what they share is made once and gone before
the next group begins.  A new figure is one line here and one function.

Names P1 to P9 are those of the project's goals for speed and size; a limit says "required" where there is a bound never to be
passed and a goal beyond it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks import cost, growth, one_node, three_nodes
from benchmarks.anchoring import anchoring
from benchmarks.bench import Bench
from benchmarks.large import large
from benchmarks.ordering import ordering
from benchmarks.report import report

Measured = Mapping[str, Any]
MET, REQUIRED, NOT_MET, NO_LIMIT = "met", "required met, goal not", "not met", "no limit"


@dataclass(frozen=True, slots=True)
class Figure:
    """``limit``: in words.  ``goal``: whether it is met; ``required``: the weaker bound, where there is one."""

    name: str
    title: str
    limit: str
    take: Callable[[Bench], dict[str, Any]]
    goal: Callable[[Measured], bool] | None = None
    required: Callable[[Measured], bool] | None = None
    group: str = ""

    def verdict(self, measured: Measured) -> str:
        if self.goal is None:
            return NO_LIMIT
        if self.goal(measured):
            return MET
        return REQUIRED if self.required is not None and self.required(measured) else NOT_MET


def _memory(bench: Bench) -> dict[str, Any]:
    with bench.alone() as place:
        return large(place, 10_000_000 if bench.large else bench.rows)


FIGURES: Final = (
    Figure(
        "P1", "capture of a backlog, rows/s, decoded, hashed, chained, durable",
        "≥ 0.9 × pg_recvlogical on a twin slot (never below 0.35)", one_node.capture,
        lambda m: m["ratio"] >= 0.9, lambda m: m["ratio"] >= 0.35, "one node",
    ),
    Figure(
        "P2", "full verification, rows/s", "≥ 0.8 × psql's COPY to /dev/null (never below 0.4)", one_node.verify,
        lambda m: m["ratio"] >= 0.8, lambda m: m["ratio"] >= 0.4, "one node",
    ),
    Figure(
        "P6", "store per entry, bigint key", "≤ 110 bytes (a hash alone: 32)", one_node.size,
        lambda m: m["bytes_per_entry"] <= 110, group="one node",
    ),
    Figure(
        "P8", "offline verification of a checkpoint bundle, whole process", "≤ 0.4 s", one_node.offline,
        lambda m: m["seconds"] <= 0.4, group="one node",
    ),
    Figure(
        "P3-one", "commit to recorded finding, one node", "p50 ≤ 3 × a bare reader's, p99 ≤ 100 ms", one_node.latency,
        lambda m: m["p50_ratio"] <= 3 and m["p99_ms"] <= 100, group="one node",
    ),
    Figure(
        "P5", "peak memory of a node's process while it opens and verifies a table", "≤ 300 MiB", _memory,
        lambda m: max(step["peak_mib"] for step in m.values() if isinstance(step, dict)) <= 300,
    ),
    Figure(
        "rest", "memory of a node at rest, one of three", "≤ 120 MiB", three_nodes.rest,
        lambda m: m["resident_mib_max"] <= 120, group="three nodes",
    ),
    Figure(
        "P4", "commit to final checkpoint, three node processes", "≤ seal interval + 1 s", three_nodes.checkpoint,
        lambda m: m["max_s"] <= m["interval_s"] + 1, group="three nodes",
    ),
    Figure(
        "journal", "growth of the journal per day at the default intervals", "none set", three_nodes.journal_growth,
        group="three nodes",
    ),
    Figure(
        "three-rate", "capture rate of each of three nodes at once, against one alone", "none set", three_nodes.rates,
        group="three nodes",
    ),
    Figure(
        "P3", "commit to recorded finding, three node processes", "p50 ≤ 3 × a bare reader's, p99 ≤ 100 ms",
        three_nodes.finding,
        lambda m: m["p50_ratio"] <= 3 and m["p99_ms"] <= 100, group="three nodes",
    ),
    Figure(
        "P7", "cost to the database of three nodes, under pgbench",
        "walsenders' CPU ≤ 0.15 of the backends'; p95 ≤ 1.05 × without", cost.cost,
        lambda m: m["cpu_ratio"] <= 0.15 and m["p95_ratio"] <= 1.05,
    ),
    Figure(
        "P9", "growth: capture, seal and proof at N entries against 100,000", "capture, seal ≤ 1.2 ×; proof O(log n)",
        growth.growth,
        lambda m: m["capture_ratio"] <= 1.2 and m["seal_ratio"] <= 1.2 and m["proof_hashes"][1] <= m["proof_hashes_log2"],
    ),
    Figure(
        "ordering", "new leader after kill -9, and ordering of commands", "≤ 3 s to a new leader", lambda _: ordering(),
        lambda m: m["new_leader_max_s"] <= 3,
    ),
    Figure(
        "report", "evidence report: made over days of five-second seals (simulated clock), and verified by each program",
        "each says VERIFIED", report,
        lambda m: m["verified"]["witnz verify --report"]["code"] == m["verified"]["verify.py"]["code"] == 0
        and m["verified"]["verify.html"].get("verdict") == "VERIFIED",
    ),
    Figure("anchoring", "publishing, receipts, a thousand anchors", "none set", lambda _: anchoring()),
)  # fmt: skip


def chosen(only: str | None) -> tuple[Figure, ...]:
    """All figures, or those named (``P1,P7``), in the order of the catalogue; ValueError for a name that is none."""
    if only is None:
        return FIGURES
    names = {name.strip().lower() for name in only.split(",") if name.strip()}
    unknown = names - {figure.name.lower() for figure in FIGURES}
    if unknown:
        raise ValueError(f"no figure {', '.join(sorted(unknown))}; there are {', '.join(f.name for f in FIGURES)}")
    return tuple(figure for figure in FIGURES if figure.name.lower() in names)
