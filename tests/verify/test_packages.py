"""The vectors of whole packages, through ``witnz verify --report``, verify.py and verify.html: one verdict, check by check."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import standalone
from tests.support.browser import VerifierPage
from tests.support.package_cases import FOLDER, PackageCase, package_cases, write
from witnz.core.policy import parse_policy
from witnz.errors import FormatError
from witnz.report.recount import recount
from witnz.verify.bundle import verify_bundle
from witnz.verify.package import verify_package

CASES = package_cases()
ONLY_WITNZ = ("report.figures", "report.pdf")
"""Checks that the other two say they do not make; signed lies are only found out by them where they stand alone."""


def answer(case: PackageCase) -> standalone.Answer:
    """What witnz itself says."""
    policy = None if case.policy is None else parse_policy(case.policy)
    try:
        result = verify_package(case.files, lambda data: verify_bundle(data, policy), recount=recount, required=case.anchors)
    except FormatError as error:
        return error.exit_code, [], error.message
    verdict = {"VERIFIED": 0, "TAMPERED": 3, "INCONCLUSIVE": 4}[result.to_json()["verdict"]]
    return verdict, [(check.status.value, check.name) for check in result.checks], None


@pytest.fixture(scope="module")
def expected() -> dict[str, standalone.Answer]:
    """In a thread of its own: pyHanko runs event loops, and in this one playwright's may be running."""
    with ThreadPoolExecutor(1) as threads:
        return dict(zip(CASES, threads.map(answer, CASES.values()), strict=True))


def differing(expected: dict[str, standalone.Answer], found: dict[str, standalone.Answer]) -> dict[str, object]:
    """Cases in which another verifier gives another exit code, or another result of a check that both make."""
    wrong: dict[str, object] = {}
    for name, (code, checks, _) in expected.items():
        other_code, other_checks, error = found[name]
        mine, theirs = ([one for one in some if not one[1].startswith(ONLY_WITNZ)] for some in (checks, other_checks))
        if code != other_code or mine != theirs:
            wrong[name] = (code, other_code, error, sorted(set(mine) ^ set(theirs)))
    return wrong


def test_witnz_gives_every_package_its_exit_code(expected: dict[str, standalone.Answer]) -> None:
    assert {name: code for name, (code, _, _) in expected.items()} == {name: case.code for name, case in CASES.items()}
    codes = [case.code for case in CASES.values()]
    assert codes.count(0) == 5
    assert min(codes.count(code) for code in (2, 3, 4)) >= 3


def test_verify_py_agrees_on_every_package_check_by_check(expected: dict[str, standalone.Answer]) -> None:
    found = {name: standalone.verify(case.files, case.policy, case.anchors) for name, case in CASES.items()}
    assert differing(expected, found) == {}


def test_verify_html_agrees_on_every_package_check_by_check(expected: dict[str, standalone.Answer], page: VerifierPage) -> None:
    found = page.verify(
        [(case.files, case.policy) for case in CASES.values()], anchors=[case.anchors for case in CASES.values()]
    )
    assert differing(expected, dict(zip(CASES, found, strict=True))) == {}


def test_each_signed_lie_fails_where_its_name_says(expected: dict[str, standalone.Answer]) -> None:
    """The exit code alone would also come from some other check."""
    where = {
        "signed-one-file-too-many": "report.evidence",
        "signed-evidence-of-another-standard": "report.evidence",
        "signed-evidence-of-another-period": "report.evidence",
        "signed-evidence-of-another-cluster": "report.evidence",
        "signed-report-of-another-cluster": "report.log",
        "signed-report-of-another-name": "report.log",
        "signed-evidence-of-another-digest": "report.evidence",
        "signed-closing-checkpoint-of-another-size": "report.period",
        "signed-closing-checkpoint-of-another-root": "report.period",
        "signed-opening-checkpoint-that-is-not-shown": "report.period",
        "signed-without-a-closing-checkpoint": "report.period",
        "signed-evidence-that-lists-other-digests": "report.evidence",
        "signed-without-the-pdf": "report.pdf",
        "signed-without-the-period-bundle": "report.period",
        "signed-and-journalled-for-another-standard": "report.record",
        "signed-and-journalled-for-another-beginning": "report.record",
        "signed-and-journalled-for-another-end": "report.record",
        "signed-by-a-key-that-only-another-bundle-shows": "report.key",
        "signed-opening-checkpoint-of-another-size": "report.period",
        "signed-opening-checkpoint-of-another-root": "report.period",
        "signed-opening-checkpoint-that-is-the-closing-one": "report.period",
        "signed-without-a-word-on-the-opening-checkpoint": "report.period",
        "signed-by-a-key-that-was-removed": "report.key",
        "signed-and-journalled-before-its-key": "report.record",
        "signed-by-a-key-that-was-never-journalled": "report.key",
        "signed-after-a-report-that-never-was": "report.continuity",
        "signed-after-a-report-of-another-digest": "report.continuity",
        "signed-after-a-report-of-another-record": "report.continuity",
        "signed-with-a-closing-checkpoint-of-after-the-period": "report.period",
        "signed-opening-checkpoint-of-within-the-period": "report.period",
        "signed-by-a-key-beside-its-curve": "report.signature",
        "signed-by-a-key-of-another-curve": "report.signature",
        "signed-by-a-key-of-another-kind": "report.signature",
        "signed-by-a-key-in-another-spelling": "report.signature",
        "signed-with-a-bundle-of-another-log": "report.log",
        "signed-with-a-bundle-that-shows-the-removal-of-the-key": "report.key",
        "signed-with-records-of-another-cluster": "report.log",
        "signed-with-records-of-two-clusters": "report.log",
    }
    assert where.keys() == {name for name in CASES if name.startswith("signed-")}
    spoilt = {name: [check for status, check in expected[name][1] if status in ("fail", "skip")] for name in where}
    assert {name: where[name] in checks for name, checks in spoilt.items()} == dict.fromkeys(where, True)


def test_a_folder_gives_the_same_exit_codes_on_the_command_line(tmp_path: Path) -> None:
    """verify.py as strangers run it; witnz verify --report is the same function behind the command."""
    alone, own = [sys.executable, "-I", "-S", str(standalone.VERIFY_PY)], [sys.executable, "-m", "witnz", "verify", "--report"]
    for name in (
        "good-of-the-next-period",
        "report-json-with-a-key-twice",
        "with-one-file-more",
        "good-with-a-gap-that-is-open",
    ):
        folder = write(CASES[name].files, tmp_path / name)
        for program in (alone, own):
            command = [*program, str(folder), "--policy", str(FOLDER / "policy.txt")]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == CASES[name].code, (command, done.stdout, done.stderr)


def test_all_vectors_of_packages_are_smaller_than_600_kb() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 600_000


def test_the_page_takes_the_anchors_that_somebody_insists_on(page: VerifierPage) -> None:
    """The field means what --require-anchor means."""
    folder = FOLDER.parent / "bundles"
    page.page.set_input_files("#policy", str(folder / "policy.txt"))
    page.page.set_input_files("#file", str(folder / "good-basic-receipt.witnz.json"))
    page.page.wait_for_selector("body[data-verdict=VERIFIED]")
    page.page.fill("#anchors", "evm")
    page.page.dispatch_event("#anchors", "change")
    page.page.wait_for_selector("body[data-verdict=INCONCLUSIVE]")
    assert "require.evm" in page.page.inner_text("#checks")
    page.page.fill("#anchors", "basic")
    page.page.dispatch_event("#anchors", "change")
    page.page.wait_for_selector("body[data-verdict=VERIFIED]")
