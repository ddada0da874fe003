"""``witnz verify --checkpoint``: every vector with the exit code that its list gives, in both formats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli import ROOT, Cli
from witnz.cli.main import main
from witnz.core.bundle_document import MAX_BUNDLE_BYTES

VECTORS = ROOT / "tests" / "vectors"
GOOD, POLICY = VECTORS / "bundle-good.witnz.json", VECTORS / "policy.txt"
CODES: dict[str, int] = json.loads((VECTORS / "bundle-exit-codes.json").read_text())
VERDICTS = {0: "VERIFIED", 3: "TAMPERED", 4: "INCONCLUSIVE"}


@pytest.mark.parametrize("name", [name for name in CODES if " " not in name])
def test_a_vector_gives_the_exit_code_of_the_list(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["verify", "--checkpoint", str(VECTORS / f"{name}.witnz.json"), "--policy", str(POLICY)]
    code = CODES[name]
    assert main(words) == code
    text = capsys.readouterr()
    assert main([*words, "--json"]) == code
    shown = capsys.readouterr()
    if code == 2:
        assert text.out == shown.out == ""
        error = json.loads(shown.err)
        assert (error["schema"], error["code"], error["exit_code"]) == ("witnz.error/1", "format", 2)
        return
    document = json.loads(shown.out)
    assert document["schema"] == "witnz.verify/1"
    assert document["verdict"] == VERDICTS[code]
    assert text.out.rstrip().splitlines()[-1].startswith(f"{VERDICTS[code]}: ")
    failed = [check["name"] for check in document["checks"] if check["status"] == "fail"]
    assert bool(failed) == (code == 3)
    assert all(f"FAIL  {name}: " in text.out for name in failed)


def test_without_a_policy_nothing_is_verified(tmp_path: Path) -> None:
    found = Cli(tmp_path).run("verify", "--checkpoint", GOOD).expect(4)
    assert "nobody's signature was checked" in found.out
    assert CODES["bundle-good without a policy"] == 4


def test_a_bundle_comes_from_standard_input_too(tmp_path: Path) -> None:
    found = Cli(tmp_path).spawn("verify", "--checkpoint", "-", "--policy", POLICY, "--json", stdin=GOOD.read_bytes()).expect(0)
    assert found.document["verdict"] == "VERIFIED"
    assert found.err == ""


def test_every_changed_byte_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = GOOD.read_bytes()
    changed = tmp_path / "changed.witnz.json"
    for at in range(0, len(data), max(1, len(data) // 40)):
        changed.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert main(["verify", "--checkpoint", str(changed), "--policy", str(POLICY)]) in (2, 3), at
        capsys.readouterr()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "bundle: "),
        (b"not json", "bundle: "),
        (b"[" * 100_000, "bundle: "),
        (b'{"a":' * 50_000, "bundle: "),
        (b"\xff\xfe", "bundle: "),
        (b"{}\n", "bundle"),
    ],
)
def test_what_is_no_bundle_is_refused_with_one_line(
    content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    assert main(["verify", "--checkpoint", str(path)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert len(shown.err) < 500
    assert "Traceback" not in shown.err


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as stream:
        stream.truncate(MAX_BUNDLE_BYTES * 64)
    error = Cli(tmp_path).run("verify", "--checkpoint", path, "--json").expect(2).error
    assert f"at most {MAX_BUNDLE_BYTES} bytes" in error["message"]


@pytest.mark.parametrize(
    ("bundle", "policy"),
    [("missing.json", str(POLICY)), (str(GOOD), "missing.txt"), (".", str(POLICY)), (str(GOOD), str(GOOD))],
)
def test_a_file_that_is_not_there_or_is_something_else_is_exit_code_2(bundle: str, policy: str, tmp_path: Path) -> None:
    found = Cli(tmp_path).run("verify", "--checkpoint", bundle, "--policy", policy).expect(2)
    assert found.out == ""
    assert found.err.startswith("error: ")
