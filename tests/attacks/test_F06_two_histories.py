"""F06: whoever holds all keys shows two readers two histories; alone each verifies, together they do not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.anchors import fresh_bucket, s3_section
from tests.support.bundle_maker import edited
from tests.support.node import wait
from witnz.config import AnchorConfig
from witnz.core.bundle import parse_bundle
from witnz.core.note import format_note
from witnz.core.policy import parse_policy
from witnz.core.verdict import CheckStatus, Verdict
from witnz.demo.storage import StorageServer
from witnz.node.cosigning import Forked, NotCosigned
from witnz.node.evidence import Evidence
from witnz.node.node import Node, now_us
from witnz.node.setup import policy_of
from witnz.store import checkpoints, findings
from witnz.verify.bundle import verify_bundle

TABLE = "public.ledger"


def second_history(scene: Any, directory: Path) -> Node:
    """A node on a copy of the data directory, that is: with the same keys and the same past."""
    shutil.copytree(scene.protected.config.data_dir, directory / "data", ignore=shutil.ignore_patterns("*.sock", "lock"))
    config = scene.protected.config
    return Node(
        config.model_copy(update={"node": config.node.model_copy(update={"data_dir": directory / "data"}), "anchors": ()})
    )


def signed_size(node: Node) -> int:
    with node.db.read() as conn:
        newest = checkpoints.latest(conn, final=True)
    return 0 if newest is None else newest.size


def test_two_readers_who_compare_know(own_scene, storage: StorageServer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    scene = own_scene({"name": TABLE, "mode": "append_only"}, anchors=[s3_section(storage, fresh_bucket(storage))])
    policy = parse_policy(policy_of(scene.node.data))
    lane = scene.node.anchoring.lanes["s3"]
    wait(lambda: lane.newest() is not None, "the first receipt")
    scene.stop()
    other = second_history(scene, tmp_path / "other")
    try:
        other.note_operator("a history", "for the second reader")
        other.cosigner.checkpoint()
        second = Evidence(other.db, now_us).checkpoint_bundle()
        scene.resume()
        scene.node.note_operator("a history", "for the first reader")
        wait(lambda: scene.node.journal.size >= parse_bundle(second).head.checkpoint.size, "as many records")
        wait(lambda: signed_size(scene.node) >= parse_bundle(second).head.checkpoint.size, "a checkpoint of them")
        first = Evidence(scene.node.db, now_us).checkpoint_bundle()
        for shown in (first, second):
            assert verify_bundle(shown, policy).verdict is Verdict.VERIFIED, "alone nothing is wrong with either"

        # The readers meet: what one was shown is no prefix of what the other was shown, with whatever proof.
        note = format_note(parse_bundle(second).head.note)
        together = verify_bundle(edited(first, ("consistency",), [{"checkpoint": note, "proof": []}]), policy)
        assert together.verdict is Verdict.TAMPERED
        assert "consistency[0].proof" in [check.name for check in together.checks if check.status is CheckStatus.FAIL]
        with pytest.raises(Forked):
            scene.node.cosigner.compare(parse_bundle(second).head.note)

        # The anchor has met both: a node that starts on the second history finds the first one there.
        lane = scene.node.anchoring.lanes["s3"]
        before = lane.newest().seq
        lane.ask()
        wait(lambda: lane.newest().seq > before, "the first history anchored")
        other.close()
        copy = scene.protected.config.model_copy(
            update={"node": scene.protected.config.node.model_copy(update={"data_dir": tmp_path / "other" / "data"})}
        )
        assert isinstance(copy.anchors[0], AnchorConfig)
        other = Node(copy)
        other.note_operator("more", "than the anchor has")
        while other.journal.size <= scene.node.journal.size:
            other.note_operator("more", "than the anchor has")
        other.anchoring.configure()
        other.anchoring.compare("s3")
        with other.db.read() as conn:
            assert [found.cls for found in findings.list_findings(conn)] == ["checkpoint.forked"]
        with pytest.raises(NotCosigned, match="contradicts"):
            other.cosigner.checkpoint()
    finally:
        other.close()
    scene.assert_bystanders_verified(TABLE)
