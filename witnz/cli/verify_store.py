"""``witnz verify --store``: the node's data directory, derived anew from its entries; beside a running node too."""

from __future__ import annotations

import os
from pathlib import Path

from witnz.cli.access import check_owner
from witnz.cli.checks_text import check_lines, summary
from witnz.cli.invocation import Invocation
from witnz.cli.progress import Advance, progress


def verify_store(call: Invocation) -> int:
    """Audit the store; the exit code of its verdict."""
    from witnz.core.verdict import CheckStatus, exit_code
    from witnz.errors import StoreCorrupt
    from witnz.store.database import Database
    from witnz.store.datadir import DataDir
    from witnz.verify.store import audit_store

    config = call.load_config()
    data = DataDir(config.data_dir)
    data.check(writable=False)
    try:
        with Database.open(data.database, read_only=True) as db:
            check_owner(db, config)
    except StoreCorrupt:
        pass  # that it cannot be read is for the audit to say
    with progress(call.output, "auditing the store", unit="entry") as advance:
        audit = audit_store(data.database, progress=_Total(advance), spill_dir=_spill_dir(data.path))
    checks = [check.to_json() for check in audit.checks]
    document = {
        "schema": "witnz.verify/1",
        "store": str(data.database),
        "verdict": audit.verdict.value,
        "checks": checks,
        "findings": [],
        "not_checked": [f"{c.name}: {c.detail}" for c in audit.checks if c.status is CheckStatus.SKIP],
    }
    lines = [
        f"{data.database}: the store of node {config.node_id} of {config.cluster}",
        *check_lines(call.output, checks),
        f"{call.output.word(audit.verdict.value)}: {summary(checks)}",
    ]
    call.output.answer(document, lines)
    return exit_code(audit.verdict)


def _spill_dir(data: Path) -> Path:
    """Where to put what does not fit into memory, hashes only: beside the store, or elsewhere if that is only to be read."""
    from tempfile import gettempdir

    from witnz.store.datadir import may_write

    return data if may_write(data, os.W_OK | os.X_OK) else Path(gettempdir())


class _Total:
    """Adds up what the parts of the audit count for themselves."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._done: dict[str, int] = {}

    def __call__(self, what: str, done: int) -> None:
        self._done[what] = done
        self._advance(sum(self._done.values()))
