"""``python -m benchmarks [--only P1,P7] [--rows N] [--large] [--json FILE] [--markdown FILE]``: takes the figures, one after
another, each beside its limit or peer in the same run.  A figure that fails is told with its reason, and the others go on."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.bench import Bench
from benchmarks.catalog import FIGURES, Figure, chosen
from benchmarks.page import SCHEMA, render, told
from benchmarks.setting import machine

ROOT = Path(__file__).resolve().parents[1]
ERROR = Console(stderr=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, epilog="figures: " + ", ".join(figure.name for figure in FIGURES)
    )
    parser.add_argument("--only", help="the names of some figures, apart by commas")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the table that one node captures and verifies")
    parser.add_argument("--large", action="store_true", help="ten million rows for P5 and P9")
    parser.add_argument(
        "--json", type=Path, help="also write the document to this file; with --only, into the one that is there"
    )
    parser.add_argument("--markdown", type=Path, help="write the page docs/benchmarks.md to this file")
    arguments = parser.parse_args()
    try:
        figures = chosen(arguments.only)
    except ValueError as error:
        parser.error(str(error))

    def keep(document: dict[str, object]) -> None:
        """After every figure: a run that is broken off leaves what it had."""
        if arguments.json is not None:
            if arguments.only is not None and arguments.json.is_file():
                document = beside(json.loads(arguments.json.read_text()), document)
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
        if arguments.markdown is not None:
            arguments.markdown.write_text(render(document))

    document = take(figures, Bench(arguments.rows, arguments.large), keep)
    print(json.dumps(document, indent=2, ensure_ascii=False))
    show(document)
    return 1 if any("failed" in figure for figure in document["figures"].values()) else 0  # type: ignore[attr-defined]


def take(figures: tuple[Figure, ...], bench: Bench, keep: Callable[[dict[str, object]], None]) -> dict[str, object]:
    """The document: what was measured of each figure, or why it could not be."""
    taken: dict[str, dict[str, object]] = {}
    document: dict[str, object] = {
        "schema": SCHEMA,
        "taken": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine() | {"load_before": round(os.getloadavg()[0], 2)},
        "options": {"rows": bench.rows, "large": bench.large},
        "figures": taken,
    }
    for place, figure in enumerate(figures):
        ERROR.print(f"[{place + 1}/{len(figures)}] {figure.name}: {figure.title} …", highlight=False, markup=False)
        started = time.monotonic()
        load = round(os.getloadavg()[0], 2)
        about: dict[str, object] = {"title": figure.title, "limit": figure.limit, "load_before": load}
        try:
            measured = figure.take(bench)
            about |= {"measured": measured, "verdict": figure.verdict(measured)}
        except Exception as error:  # noqa: BLE001  told in its place
            traceback.print_exc()
            about["failed"] = (str(error).strip() or type(error).__name__).splitlines()[0].replace(f"{ROOT}/", "")[:300]
        about["seconds"] = round(time.monotonic() - started, 1)
        taken[figure.name] = about
        keep(document)
        ERROR.print(
            f"    {about.get('verdict', 'failed')} after {about['seconds']} s: {told(about)}", highlight=False, markup=False
        )
        if place + 1 == len(figures) or figures[place + 1].group != figure.group or not figure.group:
            _end(bench)
    return document


def beside(kept: dict[str, object], taken: dict[str, object]) -> dict[str, object]:
    """A document of all figures with some that were taken anew, each of which says when.  Of another schema: the new alone."""
    if kept.get("schema") != SCHEMA:
        return taken
    new = {name: {**figure, "taken": taken["taken"]} for name, figure in taken["figures"].items()}  # type: ignore[attr-defined]
    every = {**kept["figures"], **new}  # type: ignore[dict-item]
    return {**kept, "figures": {figure.name: every[figure.name] for figure in FIGURES if figure.name in every}}


def _end(bench: Bench) -> None:
    try:
        bench.end_group()
    except Exception:  # noqa: BLE001
        traceback.print_exc()  # what was shared could not be cleared away; the next group makes its own


def show(document: dict[str, object]) -> None:
    table = Table("", "figure", "limit", "measured", "")
    for name, figure in document["figures"].items():  # type: ignore[attr-defined]
        table.add_row(name, figure["title"], figure["limit"], told(figure), figure.get("verdict", "failed"))
    ERROR.print(table)


if __name__ == "__main__":
    sys.exit(main())
