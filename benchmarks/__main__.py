"""``python -m benchmarks [--rows N] [--json FILE]``: takes all figures in one run and prints them as JSON and as a table."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import figures
from benchmarks.anchoring import anchoring
from benchmarks.ordering import ordering
from benchmarks.setting import machine, setting

NAMES = {
    "P1": "capture of a backlog",
    "P2": "full verification",
    "P3": "commit to finding",
    "P5": "peak memory of capture and verification",
    "P6": "store size",
    "P8": "offline verification",
    "anchoring": "publishing, receipts, a thousand anchors",
    "ordering": "new leader, and ordering of commands",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, help="also write the document to this file")
    arguments = parser.parse_args()
    taken: dict[str, object] = {"schema": "witnz.benchmarks/1", "machine": machine()}
    with setting() as place:
        p1, node = figures.capture(place, arguments.rows)
        taken["P1"] = p1
        taken["P2"] = figures.verify(place, node, arguments.rows)
        taken["P5"] = figures.memory()
        taken["P6"] = figures.size(node)
        taken["P8"] = figures.offline(node, place.directory)
        taken["P3"] = figures.latency(place, node)
        node.stop()
    taken["ordering"] = ordering()
    taken["anchoring"] = anchoring()
    text = json.dumps(taken, indent=2)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n")
    print(text)
    table = Table("", "figure", "measured")
    for name, title in NAMES.items():
        values = taken[name]
        table.add_row(name, title, "  ".join(f"{k}={v}" for k, v in values.items()))  # type: ignore[attr-defined]
    Console(stderr=True).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
