"""make fuzz: thousands of worlds, each a storm and a calm (tests/support/raft_world.py).

    python -m tests.cluster.fuzz [--seeds N] [--first SEED] [--jobs N] [SCENARIO …]

Prints one line for each scenario, and for each violation the seed that brings it back.  Exit code 1 where there was one.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import time
from collections import Counter

from tests.support.raft_world import SCENARIOS, Violation, run_scenario


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=300, help="worlds of each scenario")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("scenarios", nargs="*", choices=[[], *SCENARIOS])
    options = parser.parse_args()
    names = options.scenarios or list(SCENARIOS)
    if options.jobs > 1:
        return _shared(options, names)
    logging.disable(logging.CRITICAL)
    violations = 0
    for name in names:
        started, total = time.monotonic(), Counter[str]()
        for seed in range(options.first, options.first + options.seeds):
            try:
                total.update(run_scenario(name, seed))
            except Violation as violation:
                violations += 1
                print(f"VIOLATION in {name!r} with seed {seed}: {violation}", flush=True)
        counts = ", ".join(f"{number} {what}" for what, number in total.items())
        print(f"{name}: {options.seeds} worlds in {time.monotonic() - started:.0f} s: {counts}", flush=True)
    return 1 if violations else 0


def _shared(options: argparse.Namespace, names: list[str]) -> int:
    """The same by several processes, each a part of the seeds."""
    part = -(-options.seeds // options.jobs)
    processes = [
        subprocess.Popen(
            [
                sys.executable, "-m", "tests.cluster.fuzz", "--jobs", "1", "--first", str(options.first + place * part),
                "--seeds", str(min(part, options.seeds - place * part)), *names,
            ]
        )
        for place in range(options.jobs)
        if options.seeds > place * part
    ]  # fmt: skip
    return max(process.wait() for process in processes)


if __name__ == "__main__":
    sys.exit(main())
