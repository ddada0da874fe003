"""E03: the node's data directory is deleted, and perhaps made anew."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import Any

import pytest

from witnz.core.policy import parse_policy
from witnz.core.verdict import CheckStatus, Verdict
from witnz.errors import NotInitialised
from witnz.node.evidence import Evidence
from witnz.node.node import Node, now_us
from witnz.node.setup import initialise, policy_of
from witnz.postgres.session import Conninfo
from witnz.verify.bundle import verify_bundle

TABLE = "public.ledger"


def bundle(scene: Any) -> bytes:
    """What an auditor is given: the newest checkpoint and all that it covers."""
    scene.node.seal_now()
    return Evidence(scene.node.db, now_us).checkpoint_bundle()


def test_without_its_data_a_node_does_not_start_and_another_one_is_not_taken_for_it(own_scene) -> None:  # type: ignore[no-untyped-def]
    scene = own_scene({"name": TABLE, "mode": "append_only"})
    config, directory = scene.protected.config, scene.protected.directory
    kept, policy = bundle(scene), parse_policy(policy_of(scene.node.data))
    cluster_id = scene.node.cluster_id
    assert verify_bundle(kept, policy).verdict is Verdict.VERIFIED
    scene.stop()
    shutil.rmtree(config.data_dir)

    with pytest.raises(NotInitialised):
        Node(config)
    command = [sys.executable, "-m", "witnz", "--config", str(directory / "witnz.yaml"), "start"]
    started = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert started.returncode == NotInitialised.exit_code == 10, started.stderr
    assert "init" in started.stderr and not config.data_dir.exists()

    scene.dba(f"DELETE FROM {TABLE} WHERE id = 5")  # the reason to delete what knows of it
    initialise(config, admin=Conninfo.from_conninfo(scene.database.owner_dsn), clock=now_us, operator="alice")
    scene.resume()
    assert scene.node.cluster_id != cluster_id
    scene.protected.assert_verified(TABLE)
    new = bundle(scene)
    assert verify_bundle(new, parse_policy(policy_of(scene.node.data))).verdict is Verdict.VERIFIED
    refused = verify_bundle(new, policy)
    assert refused.verdict is Verdict.TAMPERED and refused.exit_code == 3
    assert any(check.status is CheckStatus.FAIL for check in refused.checks)
    assert verify_bundle(kept, policy).verdict is Verdict.VERIFIED, "what was handed out before still proves what was"


def test_a_store_put_back_from_elsewhere_is_refused(own_scene) -> None:  # type: ignore[no-untyped-def]
    """The database file alone made anew beside the old keys: not initialised, never silently begun again."""
    scene = own_scene({"name": TABLE, "mode": "append_only"})
    scene.stop()
    for path in scene.protected.config.data_dir.glob("witnz.db*"):
        path.unlink()
    with pytest.raises(NotInitialised):
        Node(scene.protected.config)
