"""One set of vectors, three verifiers that share no code: the same exit code, and the same result of every check."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

from tests.support import standalone
from tests.support.browser import Case, VerifierPage
from tests.support.bundle_maker import PaperBundle, edited
from tests.support.record_cases import BODIES, WRONG, changed
from witnz.core.finding import FindingClass
from witnz.core.policy import parse_policy
from witnz.core.record import record_to_json
from witnz.errors import FormatError
from witnz.verify.bundle import verify_bundle

VECTORS = Path(__file__).parent.parent / "vectors"


def every_record() -> dict[str, Case]:
    """A bundle with each record of the grammar's tests in place of its own: of its type and not in the tree, or no record."""
    paper = PaperBundle()
    data, policy = paper.build(), paper.parts["policy"].encode()
    cases: dict[str, Case] = {}
    for record_type, body in BODIES.items():
        record = record_to_json(PaperBundle().cluster.make(record_type, body))
        cases[record_type] = (edited(data, ("records", 0, "record"), record), policy)
    for name in FindingClass:
        record = record_to_json(PaperBundle().cluster.make("finding", {**BODIES["finding"], "class": name.value}))
        cases[f"finding {name}"] = (edited(data, ("records", 0, "record"), record), policy)
    for number, (record_type, path, value) in enumerate(WRONG):
        record = record_to_json(PaperBundle().cluster.make(record_type, BODIES[record_type]))
        spoilt = {**record, "body": changed(record["body"], path, value)}
        try:
            cases[f"{number} {record_type} {path}"] = (edited(data, ("records", 0, "record"), spoilt), policy)
        except FormatError:
            continue  # no canonical JSON could hold it
    return cases


def answer(case: Case) -> standalone.Answer:
    """What witnz itself says."""
    data, policy = case
    assert isinstance(data, bytes)
    try:
        result = verify_bundle(data, None if policy is None else parse_policy(policy))
    except FormatError as error:
        return error.exit_code, [], error.message
    return result.exit_code, [(check.status.value, check.name) for check in result.checks], None


def published() -> dict[str, tuple[Case, int]]:
    """Every published bundle with the policy it is to be verified under, and its exit code."""
    cases: dict[str, tuple[Case, int]] = {}
    own = json.loads((VECTORS / "exit-codes.json").read_text())
    by_name = json.loads((VECTORS / "bundle-exit-codes.json").read_text())
    others = {f"{file}.witnz.json{rest}": code for file, rest, code in (_split(*item) for item in by_name.items())}
    listed = {name: code for name, code in own.items() if name.startswith(("bundles/", "anchored/"))}
    for name, listed_code in {**listed, **others}.items():
        file, _, with_policy = name.partition(" with ")
        file, without, _ = file.partition(" without a policy")
        folder = file.partition("/")[0] + "/" if "/" in file else ""
        policy = None if without else (VECTORS / (with_policy or f"{folder}policy.txt")).read_bytes()
        data = (VECTORS / file).read_bytes()
        if name.startswith("anchored/"):  # their list is for whoever brings a trust file too, which only witnz takes
            if b'"type":"rfc3161"' in data or b'"type":"opentimestamps"' in data:
                continue  # which only witnz reads
            cases[name] = ((data, policy), answer((data, policy))[0])
        else:
            cases[name] = ((data, policy), listed_code)
    return cases


def _split(name: str, code: int) -> tuple[str, str, int]:
    file, space, rest = name.partition(" ")
    return file, space + rest, code


PUBLISHED = published()


def differing(expected: dict[str, standalone.Answer], found: dict[str, standalone.Answer]) -> dict[str, object]:
    """Cases in which another verifier says something else: the code, or the result of a check that both make."""
    wrong: dict[str, object] = {}
    for name, (code, checks, _) in expected.items():
        other_code, other_checks, error = found[name]
        # Only witnz reads time stamps and Bitcoin proofs; the others say that they do not.
        skipped = {check for check in other_checks if check[0] == "n/a" and check[1].endswith((".token", ".proof"))}
        mine = [check for check in checks if ("n/a", check[1]) not in skipped]
        theirs = [check for check in other_checks if check not in skipped]
        if code != other_code or mine != theirs:
            wrong[name] = (code, other_code, error, sorted(set(mine) ^ set(theirs)))
    return wrong


def test_verify_py_gives_every_published_bundle_its_exit_code_and_every_check_its_result() -> None:
    mine = {name: answer(case) for name, (case, _) in PUBLISHED.items()}
    theirs = {name: standalone.verify(*case) for name, (case, _) in PUBLISHED.items()}
    assert {name: found[0] for name, found in theirs.items()} == {name: code for name, (_, code) in PUBLISHED.items()}
    assert differing(mine, theirs) == {}


def test_verify_html_gives_every_published_bundle_its_exit_code_and_every_check_its_result(page: VerifierPage) -> None:
    mine = {name: answer(case) for name, (case, _) in PUBLISHED.items()}
    theirs = dict(zip(PUBLISHED, page.verify([case for case, _ in PUBLISHED.values()]), strict=True))
    assert {name: found[0] for name, found in theirs.items()} == {name: code for name, (_, code) in PUBLISHED.items()}
    assert differing(mine, theirs) == {}


def test_verify_html_does_without_ed25519_of_the_browser(page: VerifierPage) -> None:
    """Older browsers have none; every case about signatures, and some of the others."""
    some = {
        name: case
        for number, (name, (case, _)) in enumerate(PUBLISHED.items())
        if "sign" in name or "good" in name or number % 10 == 0
    }
    found = dict(zip(some, page.verify(list(some.values()), by_hand=True), strict=True))
    assert differing({name: answer(case) for name, case in some.items()}, found) == {}


def test_all_three_agree_on_the_grammar_of_every_record(page: VerifierPage) -> None:
    cases = every_record()
    mine = {name: answer(case) for name, case in cases.items()}
    codes = [code for code, _, _ in mine.values()]
    assert codes.count(3) >= len(BODIES)
    assert set(codes) == {2, 3}
    assert codes.count(2) > 40
    assert differing(mine, {name: standalone.verify(*case) for name, case in cases.items()}) == {}
    assert differing(mine, dict(zip(cases, page.verify(list(cases.values())), strict=True))) == {}


# -- verify.py as strangers run it --------------------------------------------------------------------------------------------


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The program in a Python that sees nothing but its own standard library."""
    command = [sys.executable, "-I", "-S", str(standalone.VERIFY_PY), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


GOOD = VECTORS / "bundle-good.witnz.json"
POLICY = VECTORS / "policy.txt"


def test_verify_py_says_the_verdict_first_then_each_check() -> None:
    found = run(GOOD, "--policy", POLICY)
    lines = found.stdout.splitlines()
    assert (found.returncode, lines[0], found.stderr) == (0, "VERIFIED", "")
    assert lines[1].split()[:2] == ["OK", "checkpoint.signatures:"]
    assert {line.split()[0] for line in lines[1:]} == {"OK"}


def test_verify_py_gives_the_exit_codes_of_witnz() -> None:
    assert run(GOOD).returncode == 4
    assert "NOT CHECKED" in run(GOOD).stdout
    tampered = run(VECTORS / "bundle-row-line-changed_fail.witnz.json", "--policy", POLICY)
    assert (tampered.returncode, tampered.stdout.splitlines()[0]) == (3, "TAMPERED")
    assert any(line.startswith("  FAIL") for line in tampered.stdout.splitlines())
    for refused in (run(POLICY, "--policy", POLICY), run("missing.json"), run(GOOD, "--policy", GOOD), run("--bogus")):
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr


def test_verify_py_answers_in_json() -> None:
    document = json.loads(run(GOOD, "--policy", POLICY, "--json").stdout)
    assert document["verdict"] == "VERIFIED"
    assert {check["status"] for check in document["checks"]} == {"ok"}


def test_verify_py_insists_on_an_anchor_that_was_asked_for() -> None:
    bundle, policy = VECTORS / "bundles/good-basic-receipt.witnz.json", VECTORS / "bundles/policy.txt"
    assert run(bundle, "--policy", policy, "--require-anchor", "basic").returncode == 0
    missing = run(bundle, "--policy", policy, "--require-anchor", "evm")
    assert (missing.returncode, missing.stdout.splitlines()[0]) == (4, "INCONCLUSIVE")
    assert "require.evm" in missing.stdout


def test_verify_py_imports_the_standard_library_alone_and_is_short() -> None:
    source = standalone.VERIFY_PY.read_text()
    imported = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(source))
        for name in (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in getattr(node, "names", [])]
        )
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported <= set(sys.stdlib_module_names)
    assert imported.isdisjoint({"socket", "urllib", "http", "ssl", "subprocess", "os"})
    lines = source.splitlines()
    assert len(lines) < 600
    assert max(map(len, lines)) <= 140


# -- verify.html as strangers open it -----------------------------------------------------------------------------------------


def test_verify_html_may_run_its_own_script_and_reach_nothing() -> None:
    source = standalone.VERIFY_HTML.read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', source)
    assert policy is not None

    def digest(tag: str) -> str:
        (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", source, re.DOTALL)
        return "sha256-" + base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()

    directives = dict(part.strip().partition(" ")[::2] for part in policy[1].split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"] == f"'{digest('script')}'"
    assert directives["style-src"] == f"'{digest('style')}'"
    assert re.search(r"https?://(?!in-toto\.io|witnz\.dev)", source) is None
    assert "innerHTML" not in source
    assert "fetch(" not in source


def test_verify_html_shows_the_verdict_and_every_check_of_chosen_files(page: VerifierPage) -> None:
    page.page.set_input_files("#policy", str(POLICY))
    page.page.set_input_files("#file", str(GOOD))
    page.page.wait_for_selector("body[data-verdict=VERIFIED]")
    assert page.page.inner_text("#verdict") == "VERIFIED"
    rows = page.page.locator("#checks tbody tr").all_inner_texts()
    assert len(rows) == len(answer((GOOD.read_bytes(), POLICY.read_bytes()))[1])
    assert all(row.startswith("OK") for row in rows)
    page.page.set_input_files("#file", str(VECTORS / "bundle-row-line-changed_fail.witnz.json"))
    page.page.wait_for_selector("body[data-verdict=TAMPERED]")
    assert any(row.startswith("FAIL") for row in page.page.locator("#checks tbody tr").all_inner_texts())
    page.page.set_input_files("#file", str(POLICY))
    page.page.wait_for_selector("body[data-verdict=REFUSED]")


def test_verify_html_takes_files_that_are_dropped(page: VerifierPage) -> None:
    page.page.evaluate(
        """async ([name, text, policy]) => {
          const data = new DataTransfer();
          data.items.add(new File([text], name));
          data.items.add(new File([policy], "policy.txt"));
          const dropped = new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true});
          document.getElementById("drop").dispatchEvent(dropped);
        }""",
        ["bundle.witnz.json", GOOD.read_text(), POLICY.read_text()],
    )
    page.page.wait_for_selector("body[data-verdict=VERIFIED]")


_TAKE = """async files => {
  await page.report(page.take(Object.entries(files).map(([name, text]) => (
    { name, file: new File([Uint8Array.from(atob(text), char => char.charCodeAt(0))], name.split("/").pop()) }))));
  return [document.body.dataset.verdict ?? null, page.policy === null];
}"""
"""Files with their paths as they come out of a drop; which a script cannot make of folders."""


def test_verify_html_takes_a_package_as_its_folder_or_as_what_lies_in_it_and_never_its_own_policy(
    page: VerifierPage,
) -> None:
    folder = VECTORS / "packages"
    inside = {path.relative_to(folder / "good").as_posix(): path for path in (folder / "good").rglob("*") if path.is_file()}
    in_folder = {f"evidence/{name}": path for name, path in inside.items()}
    policy = {"policy.txt": folder / "policy.txt"}
    for files, verdict, untrusted in (
        (inside, "INCONCLUSIVE", True),
        (in_folder, "INCONCLUSIVE", True),
        ({**in_folder, **policy}, "VERIFIED", False),
        ({"bundle.witnz.json": inside["bundles/period.witnz.json"], **policy}, "VERIFIED", False),
        ({"report.json": inside["report.json"]}, "REFUSED", True),
    ):
        page.page.evaluate("() => { page.policy = null; }")
        sent = {name: base64.b64encode(path.read_bytes()).decode() for name, path in files.items()}
        assert page.page.evaluate(_TAKE, sent) == [verdict, untrusted], files.keys()


def test_verify_html_shows_no_verdict_of_before_beside_files_that_it_cannot_take(page: VerifierPage) -> None:
    good = {"bundle.witnz.json": GOOD, "policy.txt": POLICY}
    sent = {name: base64.b64encode(path.read_bytes()).decode() for name, path in good.items()}
    assert page.page.evaluate(_TAKE, sent) == ["VERIFIED", False]
    two = {name: base64.b64encode(b"{}").decode() for name in ("a/report.json", "b/report.json")}
    assert page.page.evaluate(_TAKE, two) == [None, False]
    assert not page.page.is_visible("#verdict")
    assert "one bundle or one package" in page.page.inner_text("#summary")
