"""The record of a restore is written once, whoever comes to it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from witnz.ending import end_threads
from witnz.node.restores import PENDING, Restore, Restores
from witnz.store import meta
from witnz.store.database import Database

RESTORE = Restore("7" * 19, 2, 1 << 24, "timeline 1 was left for 2")


def test_of_two_threads_that_come_to_a_restore_one_proposes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The capture thread of a node alone, right after it has noted it, and the chores at that moment."""
    nothing: Any = None
    proposed: list[Restore] = []
    journalled, second = threading.Event(), threading.Event()

    def propose(restore: Restore) -> None:
        proposed.append(restore)
        if len(proposed) > 1:
            second.set()
        second.wait(0.5)  # as long as an agreement takes; the other one is on its way here meanwhile
        journalled.set()

    with Database.create(tmp_path / "witnz.db") as db:
        with db.write() as conn:
            meta.save_value(conn, PENDING, RESTORE.to_json())
        restores = Restores(db, nothing, nothing, tmp_path, lambda: 0, seal=nothing, journal_finding=nothing)
        monkeypatch.setattr(restores, "_propose", propose)
        monkeypatch.setattr(restores, "_is_journalled", lambda _: journalled.is_set())
        monkeypatch.setattr(restores, "_settle_void", lambda: None)
        threads = [threading.Thread(target=restores.step) for _ in range(2)]
        for thread in threads:
            thread.start()
        end_threads(*threads)
        assert proposed == [RESTORE]
        assert restores.pending is None
