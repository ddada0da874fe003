"""The package in the repository that people try first: as it was made, under the policy beside it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from witnz.core.policy import parse_policy
from witnz.core.verdict import Verdict
from witnz.verify.bundle import verify_bundle

EXAMPLE = Path(__file__).parents[2] / "examples/evidence"


def test_the_example_is_as_it_was_made() -> None:
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=EXAMPLE / "package", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_its_bundles_verify_under_the_policy_beside_it() -> None:
    policy = parse_policy((EXAMPLE / "policy.txt").read_text())
    bundles = sorted((EXAMPLE / "package/bundles").iterdir())
    assert [path.name for path in bundles] == ["period.witnz.json", "records-0001.witnz.json", "report.witnz.json"]
    for path in bundles:
        assert verify_bundle(path.read_bytes(), policy).verdict is Verdict.VERIFIED, path.name
