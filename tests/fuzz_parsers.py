"""Coverage-guided fuzzing of every parser of bytes from outside: ``make fuzz-parsers`` (ARGS="--seconds 60 note policy").

The table of parsers and their valid inputs is that of ``tests/core/test_parsers.py``.  Each has a process of its own: libFuzzer
ends it at the first input that is answered by another error than witnz's own, and keeps that input.  atheris does not exist for
every system, so it is no dependency of the development environment.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = ["witnz.core", "witnz.cluster", "witnz.node.keytext", "witnz.postgres.xid"]


def fuzz_one(name: str, seconds: int, corpus: str) -> None:
    """Does not return: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=PACKAGES):
        from tests.core.test_parsers import PARSERS
        from witnz.errors import WitnzError
    parse, seed = PARSERS[name]
    Path(corpus, "seed").write_bytes(seed)

    def one(data: bytes) -> None:
        with contextlib.suppress(WitnzError):
            parse(data)

    limits = [f"-max_total_time={seconds}", "-max_len=8192", "-rss_limit_mb=1024", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={corpus}/", corpus], one)
    atheris.Fuzz()


def main() -> int:
    """Each parser in turn; 1 where one failed."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=int, default=10, help="for each parser")
    options.add_argument("--one", help=argparse.SUPPRESS)
    options.add_argument("--corpus", help=argparse.SUPPRESS)
    options.add_argument("names", nargs="*", help="of parsers; all without")
    given = options.parse_args()
    if given.one:
        fuzz_one(given.one, given.seconds, given.corpus)
    from tests.core.test_parsers import PARSERS

    failed = []
    for name in given.names or PARSERS:
        corpus = tempfile.mkdtemp(prefix="witnz-fuzz-")
        command = [
            sys.executable,
            "-m",
            "tests.fuzz_parsers",
            "--one",
            name,
            "--seconds",
            str(given.seconds),
            "--corpus",
            corpus,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        print(f"{name:28} {'ok' if done.returncode == 0 else 'FAILED, see ' + corpus}", flush=True)
        if done.returncode:
            failed.append(name)
            print("\n".join((done.stdout + done.stderr).splitlines()[-25:]))
    print(
        f"{len(given.names or PARSERS) - len(failed)} parsers took or refused everything; failed: {', '.join(failed) or 'none'}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
