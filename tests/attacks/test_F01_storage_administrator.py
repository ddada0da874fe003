"""F01: the administrator of the bucket hides, covers, removes or replaces what was anchored there, or weakens its lock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.support.anchors import fresh_bucket, s3_section
from tests.support.node import wait
from witnz.core.bundle import parse_bundle
from witnz.core.journal_facts import Anchored
from witnz.demo.storage import StorageServer
from witnz.node.setup import policy_of

TABLE = "public.ledger"


def anchored(scene: Any, number: int) -> dict[str, Any]:
    """The members of the newest receipt, once there are so many."""
    lane = scene.node.anchoring.lanes["s3"]
    wait(lambda: len(lane.receipts()) >= number, f"receipt {number}; {lane.state()}")
    newest: Anchored = lane.newest()
    return dict(lane.receipt_of(newest).members)


def one_more(scene: Any, key: int, number: int) -> dict[str, Any]:
    """A further row, a further checkpoint, its receipt."""
    scene.database.sql(f"INSERT INTO {TABLE} VALUES ({key}, 'user', 1, NULL, now())")
    scene.protected.caught_up()
    scene.node.seal_now()
    scene.node.anchoring.lanes["s3"].ask()
    return anchored(scene, number)


def online(scene: Any, storage: StorageServer, directory: Path) -> tuple[int, dict[str, Any]]:
    """What an auditor with access of their own to the bucket is told about a bundle with its receipts."""
    from witnz.node.evidence import Evidence

    bundle, policy = directory / "bundle.witnz.json", directory / "policy.txt"
    bundle.write_bytes(Evidence(scene.node.db, scene.node.clock).checkpoint_bundle())
    policy.write_text(policy_of(scene.node.data))
    assert [receipt.type for receipt in parse_bundle(bundle.read_bytes()).anchors] == ["s3"]
    asked = ["verify", "--checkpoint", bundle, "--policy", policy, "--online"]
    command = [sys.executable, "-m", "witnz", "--json", *asked]
    keys = {"AWS_ACCESS_KEY_ID": storage.writer.access_key_id, "AWS_SECRET_ACCESS_KEY": storage.writer.secret_access_key}
    done = subprocess.run(
        command, cwd=directory, env=os.environ | keys, capture_output=True, text=True, check=False, timeout=120
    )
    return done.returncode, json.loads(done.stdout)


def failed(document: dict[str, Any]) -> list[str]:
    return [check["name"] for check in document["checks"] if check["status"] == "fail"]


def test_what_is_done_to_an_anchored_checkpoint_is_found_by_its_name(own_scene, storage: StorageServer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    bucket, client = fresh_bucket(storage), storage.client()
    scene = own_scene({"name": TABLE, "mode": "append_only"}, anchors=[s3_section(storage, bucket)])
    receipts = [anchored(scene, 1)]
    auditor = tmp_path / "auditor"
    auditor.mkdir()
    assert online(scene, storage, auditor)[0] == 0

    receipts += [one_more(scene, 100 + number, number) for number in (2, 3, 4)]
    hidden, covered, removed, replaced = receipts
    client.delete_object(Bucket=bucket, Key=hidden["key"])
    client.put_object(Bucket=bucket, Key=covered["key"], Body=b"another history")
    for receipt in (removed, replaced):
        storage.remove_behind_the_lock(bucket, receipt["key"], receipt["version_id"])
    until = datetime.now(UTC) + timedelta(days=9)
    client.put_object(
        Bucket=bucket, Key=replaced["key"], Body=b"a forgery", ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=until
    )

    looked = {one.record.size: one for one in scene.node.anchoring.check(everything=True)}
    assert [looked[receipt["size"]].status.value for receipt in receipts] == ["fail"] * 4
    found = {f.key.split()[-2]: f.cls for f in scene.protected.findings() if f.cls.startswith("anchor.")}
    assert found == {
        str(hidden["size"]): "anchor.hidden",
        str(covered["size"]): "anchor.hidden",
        str(removed["size"]): "anchor.missing",
        str(replaced["size"]): "anchor.missing",
    }
    details = {f.key.split()[-2]: f.detail for f in scene.protected.findings() if f.cls.startswith("anchor.")}
    assert "deletion marker" in details[str(hidden["size"])]
    assert "newer version" in details[str(covered["size"])]
    assert "overwritten" in details[str(replaced["size"])]
    code, document = online(scene, storage, auditor)
    assert (code, failed(document)) == (3, ["anchors[0].object"])
    scene.assert_bystanders_verified(TABLE)


def test_a_lock_that_is_weaker_than_was_promised_is_found(own_scene, storage: StorageServer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The server kept its word to nobody: under the version that the receipt names there is less than was promised."""
    bucket = fresh_bucket(storage)
    scene = own_scene({"name": TABLE, "mode": "append_only"}, anchors=[s3_section(storage, bucket)])
    lane = scene.node.anchoring.lanes["s3"]
    members = anchored(scene, 1)
    body = storage.client().get_object(Bucket=bucket, Key=members["key"], VersionId=members["version_id"])["Body"].read()
    for mode, days, said in (("GOVERNANCE", 9, "GOVERNANCE"), ("COMPLIANCE", 1, "shortened")):
        until = datetime.now(UTC) + timedelta(days=days)
        put = storage.client().put_object(
            Bucket=bucket, Key=members["key"], Body=body, ObjectLockMode=mode, ObjectLockRetainUntilDate=until
        )
        weaker = {**members, "version_id": put["VersionId"]}
        record = {"type": "s3", "digest": members["digest"], "size": members["size"], "receipt": weaker}
        scene.node.journal.propose("anchor", record)
        (looked,) = scene.node.anchoring.check(everything=False)
        assert looked.status.value == "fail"
        (found,) = [f for f in scene.protected.findings() if f.id in looked.findings and f.cls == "anchor.altered"]
        assert said in found.detail
        scene.protected.approve(found)
    assert lane.newest().size == members["size"]
    scene.assert_bystanders_verified(TABLE)
