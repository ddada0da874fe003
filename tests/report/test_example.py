"""The package in the repository that people try first: as it was made, under the policy beside it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support import standalone
from tests.support.browser import open_verifier
from witnz.core.policy import parse_policy
from witnz.core.verdict import Verdict
from witnz.report.recount import recount
from witnz.verify.bundle import verify_bundle
from witnz.verify.package import verify_package

EXAMPLE = Path(__file__).parents[2] / "examples/evidence"


def test_the_example_is_as_it_was_made() -> None:
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=EXAMPLE / "package", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_verifiers_that_lie_in_it_are_those_of_today() -> None:
    """Whoever changes one makes the example anew with ``witnz demo --no-cluster --keep DIR``."""
    for verifier in (standalone.VERIFY_PY, standalone.VERIFY_HTML):
        assert (EXAMPLE / "package" / verifier.name).read_bytes() == verifier.read_bytes(), verifier.name


def test_its_bundles_verify_under_the_policy_beside_it() -> None:
    policy = parse_policy((EXAMPLE / "policy.txt").read_text())
    bundles = sorted((EXAMPLE / "package/bundles").iterdir())
    assert [path.name.removesuffix(".witnz.json") for path in bundles] == [
        "checkpoints",
        "period",
        "records-0001",
        "report",
        "seals",
    ]
    for path in bundles:
        assert verify_bundle(path.read_bytes(), policy).verdict is Verdict.VERIFIED, path.name


def test_the_whole_package_verifies_with_every_figure_recounted() -> None:
    policy = (EXAMPLE / "policy.txt").read_bytes()
    paths = [path for path in (EXAMPLE / "package").rglob("*") if path.is_file()]
    files = {path.relative_to(EXAMPLE / "package").as_posix(): path.read_bytes() for path in paths}
    trusted = parse_policy(policy)
    result = verify_package(files, lambda data: verify_bundle(data, trusted), recount=recount).to_json()
    assert result["verdict"] == "VERIFIED"
    assert _named(result["checks"], "report.figures")["status"] == "ok"
    assert _named(result["checks"], "report.figures.derived")["status"] == "ok"
    assert _named(result["checks"], "report.pdf")["status"] == "ok"
    assert standalone.verify(files, policy)[0] == 0


def test_the_page_that_lies_in_it_verifies_it_too() -> None:
    paths = [path for path in (EXAMPLE / "package").rglob("*") if path.is_file()]
    files = {path.relative_to(EXAMPLE / "package").as_posix(): path.read_bytes() for path in paths}
    with open_verifier(EXAMPLE / "package/verify.html") as page:
        ((code, checks, _),) = page.verify([(files, (EXAMPLE / "policy.txt").read_bytes())])
    assert (code, ("ok", "report.signature") in checks) == (0, True)


def _named(checks: list[dict[str, str]], name: str) -> dict[str, str]:
    (found,) = [check for check in checks if check["name"] == name]
    return found
