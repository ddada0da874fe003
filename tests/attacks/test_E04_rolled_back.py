"""E04: one node's directory is put back to an older copy: it cosigns nothing below what a peer has of it, and says so."""

from __future__ import annotations

import shutil
from itertools import count

import pytest

from tests.support.cluster import Trio
from tests.support.node import wait
from witnz.core.note import parse_note
from witnz.core.verdict import Verdict
from witnz.node.cosigning import NotCosigned, own_signature
from witnz.store import checkpoints
from witnz.verify.store import audit_store


def test_a_restored_copy_never_cosigns_less_than_was_cosigned(trio: Trio) -> None:
    victim = trio.followers()[0]
    trio.settled()
    trio.halt(victim)
    data = trio.configs[victim].data_dir
    shutil.copytree(data, data.with_name("older"), ignore=shutil.ignore_patterns("*.sock"))
    trio.run(victim)
    newest = cosigned_anew(trio, victim)
    with trio[victim].db.read() as conn:
        old_notes = [c for c in checkpoints.list_checkpoints(conn, limit=1000, final=True) if c.size < newest]
        signed = checkpoints.load_cosigned(conn)
    assert signed is not None and signed.size >= newest and old_notes
    trio.halt(victim)
    shutil.rmtree(data)
    data.with_name("older").rename(data)
    trio.run(victim)
    finding = trio.wait_for(victim, "node.rolled-back", victim)
    assert "an older copy of its store" in finding.detail
    wait(lambda: trio[victim].cosigner.floor >= newest, "the newest to be known")
    with pytest.raises(NotCosigned):
        trio[victim].cosigner.cosign(parse_note(old_notes[0].note))
    assert cosigned_anew(trio, victim) > newest, "it cosigns again once it has what it had cosigned"
    trio.assert_alike(expected=lambda finding: finding.cls in ("node.rolled-back", "coverage.gap", "slot.lost"))


def test_a_cosignature_that_a_peer_shows_is_remembered_with_the_checkpoint(trio: Trio) -> None:
    """So an audit never finds the one without the other, whenever it looks."""
    node = trio.followers()[0]
    newest = cosigned_anew(trio, node)
    with trio[node].db.write() as conn:
        conn.execute("DELETE FROM cosigned")
    trio[node].peering.gossip.exchange()
    with trio[node].db.read() as conn:
        remembered = checkpoints.load_cosigned(conn)
    assert remembered is not None and remembered.size >= newest
    assert own_signature(trio[node].journal.state, node, remembered.note)
    trio.wait_for(node, "node.rolled-back", node)
    audit = audit_store(trio.configs[node].data_dir / "witnz.db")
    assert audit.verdict is Verdict.VERIFIED, audit.checks


def cosigned_anew(trio: Trio, node: str) -> int:
    """The size of a checkpoint that did not exist before, and that another member keeps with this node's cosignature.

    Two of three are a quorum: a checkpoint is final without a member that is not yet ready to cosign when it is made.
    """
    other = next(peer for peer in trio.nodes if peer != node)
    before, rows = trio.settled(), count()

    def look() -> int:
        trio.database.sql(f"INSERT INTO ledger SELECT max(id) + 1, 'one more', {next(rows)} FROM ledger")
        trio.settled()
        with trio[other].db.read() as conn:
            kept = checkpoints.list_checkpoints(conn, limit=1000, final=True)
        own = [c.size for c in kept if own_signature(trio[other].journal.state, node, c.note)]
        return own[0] if own and own[0] > before else 0

    return wait(look, f"a checkpoint that {node} cosigns", 120)
