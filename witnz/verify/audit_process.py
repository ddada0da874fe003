"""The audit of a store in a process of its own: ``python -m witnz.verify.audit_process STORE``.

So that a node that audits itself at its start goes on capturing at full speed.  Prints one JSON document and exits 0, 3 or 4.
Whoever starts it holds a pipe to its standard input open: at the end of that it ends too, with 1 and without a word, so a node
that is killed leaves no audit behind.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

from witnz.core.verdict import exit_code
from witnz.errors import WitnzError
from witnz.verify.store import audit_store

POLITENESS = 10  # nice: an audit can wait, changes can not


def _end_with_the_input() -> None:
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def main(path: str) -> int:
    threading.Thread(target=_end_with_the_input, name="end of input", daemon=True).start()
    with suppress(PermissionError):  # a filter of system calls may forbid it, and the audit matters more
        os.nice(POLITENESS)
    try:
        audit = audit_store(Path(path))
    except WitnzError as error:
        sys.stdout.write(json.dumps({"verdict": "INCONCLUSIVE", "checks": [], "error": error.message}))
        return error.exit_code
    sys.stdout.write(json.dumps({"verdict": audit.verdict.value, "checks": [check.to_json() for check in audit.checks]}))
    return exit_code(audit.verdict)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
