"""Anchors: time to publish, size of a receipt, time to verify it offline, and what a thousand of them cost a node."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from tests.anchor.test_anchoring import Scene
from tests.support.anchors import fresh_bucket, now_us, s3_section
from witnz.core.canonical import canonical
from witnz.core.policy import parse_policy
from witnz.core.trust import Trust
from witnz.demo.storage import StorageServer
from witnz.node.anchor_lane import Lane
from witnz.node.anchor_status import anchor_documents, history
from witnz.node.evidence import Evidence
from witnz.verify.receipts import VERIFIERS

PUBLICATIONS = 20
MANY = 1000


def anchoring(many: int = MANY) -> dict[str, object]:
    """Medians in milliseconds over ``PUBLICATIONS``; ``many``: behaviour with so many receipts in the journal."""
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name, StorageServer.start(Path(name) / "s3") as server:
        sections = {
            "s3": s3_section(server, fresh_bucket(server), name="s3"),
            "basic": {"type": "basic", "name": "basic", "directory": f"{name}/copies"},
        }
        for kind, section in sections.items():
            (Path(name) / kind).mkdir(exist_ok=True)
            scene = Scene(Path(name) / kind)
            scene.node.now_us = now_us()
            found[kind] = _one(scene, scene.anchoring(section).lanes[kind])
            scene.node.close()
        (Path(name) / "many").mkdir()
        scene = Scene(Path(name) / "many")
        scene.node.now_us = now_us()
        found["many"] = _many(scene, {"type": "basic", "name": "basic", "directory": f"{name}/many-copies"}, many)
        scene.node.close()
    return found


def _one(scene: Scene, lane: Lane) -> dict[str, object]:
    taken, sizes, verified = [], [], []
    policy = parse_policy(scene.node.journal.state.periods.now.policy())
    for _ in range(PUBLICATIONS):
        scene.grow()
        lane.ask()
        begun = time.perf_counter()
        while lane.step():
            pass
        taken.append(time.perf_counter() - begun)
        newest = lane.newest()
        assert newest is not None
        receipt = lane.receipt_of(newest)
        sizes.append(len(canonical(dict(receipt.members))))
        begun = time.perf_counter()
        VERIFIERS[receipt.type](receipt, receipt.digest, Trust(policy=policy), "receipt")
        verified.append(time.perf_counter() - begun)
    return {
        "publish_ms": round(statistics.median(taken) * 1000, 1),
        "receipt_bytes": round(statistics.median(sizes)),
        "verify_offline_ms": round(statistics.median(verified) * 1000, 3),
    }


def _many(scene: Scene, section: dict[str, object], many: int) -> dict[str, object]:
    lane = scene.anchoring(section).lanes["basic"]
    steps: list[float] = []
    for _ in range(many):
        scene.grow()
        lane.ask()
        begun = time.perf_counter()
        while lane.step():
            pass
        steps.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    with scene.node.db.read() as conn:
        anchor_documents(conn, scene.node.journal.state, scene.config(section), scene.node.now_us)
        history(conn, scene.node.journal.state)
    status_s = time.perf_counter() - begun
    begun = time.perf_counter()
    bundle = Evidence(scene.node.db, scene.node.clock).checkpoint_bundle()
    return {
        "anchors": many,
        "first_hundred_ms": round(statistics.median(steps[:100]) * 1000, 1),
        "last_hundred_ms": round(statistics.median(steps[-100:]) * 1000, 1),
        "status_ms": round(status_s * 1000, 1),
        "bundle_ms": round((time.perf_counter() - begun) * 1000, 1),
        "bundle_bytes": len(bundle),
    }
