"""A node that kills itself with SIGKILL between the steps of an erasure or a pruning (:mod:`tests.support.dying`).  Moments:

erase.after     the ``erase`` record stands, nothing was done about it
carried         the order is noted
removed         the row was deleted, and that is recorded
forgetting      the next generation is adopted, the secret of the old one is about to go
forgotten       the secret is gone, its pages are not overwritten yet
prune.after     the ``prune`` record stands, nothing was done about it
pruning         the generation counts as pruned, its bundles are still there
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tests.support.dying import _die, _execute, run_until_it_dies


def die_ordering(moment: str, config: Path, dsn: str, timeout_s: float = 120.0) -> None:
    """Run a node that erases row 7 of ``public.t`` and prunes its first generation, until it dies there."""
    run_until_it_dies(_live, (moment, str(config), dsn), moment, timeout_s)


def _live(moment: str, config: str, dsn: str) -> None:
    from tests.support.erasures import signed
    from witnz.config import load_config
    from witnz.node.node import Node
    from witnz.store import forgetting, meta
    from witnz.verify.stream import PATIENCE

    node = Node(load_config(Path(config), {}))
    key = Path(config).parent / "data" / "operator-alice.key"
    propose = node.journal.propose

    def dying_propose(record_type: str, body: Any, **keywords: Any) -> int:
        seq = propose(record_type, body, **keywords)
        if moment == f"{record_type}.after":
            _die()
        return seq

    def die(*_: object) -> Any:
        _die()

    def die_when_due(db: Any) -> bool:
        with db.read() as conn:
            if meta.load_value(conn, forgetting.FREED) is not None:
                _die()
        return True

    node.journal.propose = dying_propose  # type: ignore[method-assign]
    deadly = {
        "forgetting": ("forget_secret", die),
        "forgotten": ("overwrite_freed", die_when_due),
        "pruning": ("prune_more", die),
    }
    if moment in deadly:
        setattr(forgetting, *deadly[moment])
    if moment == "removed":
        node.forgetting.look = lambda: None  # type: ignore[method-assign]
    node.start(schedule=False)
    node.wait_ready(60)
    node.decide("erase", signed(node, key, "erase", node.erasing.body("public.t", ["7"], "asked for")))
    if moment == "carried":
        _die()
    _execute(dsn, "DELETE FROM t WHERE id = 7")
    node.capture.await_mark(b"dying", PATIENCE)
    if moment == "removed":
        _die()
    while node.journal.state.tables()["public.t"].generation == 1:
        time.sleep(0.01)
    prune = {"table": "public.t", "generation": 1, "reason": "retention"}
    if moment in ("prune.after", "pruning"):
        node.decide("prune", signed(node, key, "prune", prune))
    time.sleep(120)
