"""E04: one node's directory is put back to an older copy: it cosigns nothing below what a peer has of it, and says so."""

from __future__ import annotations

import shutil

import pytest

from tests.support.cluster import Trio
from witnz.core.note import parse_note
from witnz.node.cosigning import NotCosigned
from witnz.store import checkpoints


def test_a_restored_copy_never_cosigns_less_than_was_cosigned(trio: Trio) -> None:
    victim = trio.followers()[0]
    trio.settled()
    trio.halt(victim)
    data = trio.configs[victim].data_dir
    shutil.copytree(data, data.with_name("older"), ignore=shutil.ignore_patterns("*.sock"))
    trio.run(victim)
    trio.database.sql("INSERT INTO ledger VALUES (51, 'user51', 510)")
    newest = trio.settled()
    with trio[victim].db.read() as conn:
        old_notes = [c for c in checkpoints.list_checkpoints(conn, limit=1000, final=True) if c.size < newest]
        signed = checkpoints.load_cosigned(conn)
    assert signed is not None and signed.size == newest and old_notes
    trio.halt(victim)
    shutil.rmtree(data)
    data.with_name("older").rename(data)
    trio.run(victim)
    finding = trio.wait_for(victim, "node.rolled-back", victim)
    assert f"size {newest}" in finding.detail
    with pytest.raises(NotCosigned):
        trio[victim].cosigner.cosign(parse_note(old_notes[0].note))
    trio.database.sql("INSERT INTO ledger VALUES (52, 'user52', 520)")
    assert trio.settled() > newest
    with trio[victim].db.read() as conn:
        again = checkpoints.load_cosigned(conn)
    assert again is not None and again.size > newest, "it cosigns again once it has what it had cosigned"
    trio.assert_alike(expected=lambda finding: finding.cls in ("node.rolled-back", "coverage.gap", "slot.lost"))
