"""E06: a leader shows another history to one node: two signed checkpoints of one size with different roots."""

from __future__ import annotations

import json

import pytest

from tests.support.cluster import Trio
from tests.support.intruder import Intruder
from witnz.core.keys import parse_verifier_key
from witnz.core.note import format_note, parse_note, verify_note
from witnz.errors import PeerRefused


def test_two_heads_of_one_size_are_kept_as_a_proof_and_alerted(trio: Trio) -> None:
    leader, victim = trio.leader, trio.followers()[0]
    size = trio.settled()
    false = Intruder(trio[leader]).other_history(size)
    with pytest.raises(PeerRefused):
        trio[leader].peering.peers.call(victim, "cosign", format_note(false).encode(), 5.0)
    finding = trio.wait_for(victim, "checkpoint.forked", str(size))
    assert leader in finding.detail
    (path,) = trio[victim].data.evidence_dir.glob(f"fork-{size}-*.json")
    proof = json.loads(path.read_text())
    key = parse_verifier_key(trio[victim].journal.state.log_key)
    theirs, ours = parse_note(proof["theirs"]), parse_note(proof["ours"])
    assert verify_note(theirs, [key]) == verify_note(ours, [key]) == (key,)
    assert theirs.text.split("\n")[:2] == ours.text.split("\n")[:2]
    assert theirs.text != ours.text
    for node in trio.nodes:
        trio.wait_for(node, "checkpoint.forked", str(size))
    trio.assert_alike(expected=lambda finding: finding.cls == "checkpoint.forked")
