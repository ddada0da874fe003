"""``witnz report`` beside a running node and on the store of a stopped one: what an auditor's account gets."""

from __future__ import annotations

import json
import subprocess
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Site
from witnz.core.bundle import parse_bundle
from witnz.core.policy import parse_policy
from witnz.core.verdict import CheckStatus
from witnz.report.statement import parse_envelope
from witnz.verify.bundle import verify_bundle


def day(days: int = 0) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).strftime("%Y-%m-%d")


def ask(site: Site, output: Path, *words: str, begin: str | None = None, end: str | None = None) -> Any:
    given = ("--from", begin or day(), "--to", end or day(1), "-o", str(output))
    return site.cli.run("report", *words, *given, "--json")


def failed(path: Path, policy: str) -> list[str]:
    result = verify_bundle(path.read_bytes(), parse_policy(policy))
    return [check.detail for check in result.checks if check.status in (CheckStatus.FAIL, CheckStatus.SKIP)]


def test_a_package_from_a_running_node_is_whole_signed_and_journalled(running: Site, tmp_path: Path) -> None:
    document = ask(running, tmp_path / "made", "--standard", "iso27001").expect(0).document
    assert document["schema"] == "witnz.report/1"
    package = tmp_path / "made"
    done = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=package, capture_output=True, check=False)
    assert done.returncode == 0
    running.cli.run("keys", "policy", "-o", str(tmp_path / "policy.txt")).expect(0)
    policy = (tmp_path / "policy.txt").read_text()
    assert parse_policy((package / "policy.txt").read_text()).witnesses == parse_policy(policy).witnesses
    for path in (package / "bundles").iterdir():
        assert failed(path, policy) == [], path.name
    records = {
        one.record.type: one.record for one in parse_bundle((package / "bundles/report.witnz.json").read_bytes()).records
    }
    data = (package / "report.json").read_bytes()
    assert records["report"].body["sha256"] == sha256(data).hexdigest() == document["sha256"]
    assert records["report"].seq == document["journal_seq"] <= document["checkpoint_size"]
    assert records["key"].body["kind"] == "report"
    envelope = parse_envelope(data)
    assert envelope.key_id == sha256(b64decode(records["key"].body["key"])).hexdigest()
    evidence = json.loads((package / "evidence.json").read_bytes())["predicate"]
    assert {table["table"] for table in evidence["scope"]["tables"]} == {"public.audit_logs", "billing.prices"}
    assert evidence["verifications"]["by_verdict"]["VERIFIED"] >= 2
    assert evidence["coverage"]["entries_by_op"]["baseline"] == 203
    assert evidence["conclusion"]["coverage"] == "partial"  # the day is not over, and began before the cluster
    assert (package / "report.pdf").read_bytes().startswith(b"%PDF")


def test_who_asked_stands_in_the_journal_and_in_the_next_report(running: Site, tmp_path: Path) -> None:
    ask(running, tmp_path / "one", "--standard", "soc2").expect(0)
    ask(running, tmp_path / "two", "--standard", "soc2").expect(0)
    evidence = json.loads((tmp_path / "two/evidence.json").read_bytes())["predicate"]
    asked = [one["detail"] for one in evidence["operator_actions"]["items"] if one["action"] == "report"]
    assert any('"standard":"soc2"' in detail and '"via":"socket"' in detail for detail in asked)
    assert evidence["counts"]["reports"] >= 1


def test_the_text_says_what_was_made_and_how_to_check_it(running: Site, tmp_path: Path) -> None:
    words = ("report", "--standard", "soc2", "--from", day(), "--to", day(1), "-o", tmp_path / "text")
    said = running.cli.run(*words).expect(0).out
    assert "exceptions  " in said
    assert "time stamp  none: no rfc3161 authority is configured" in said
    assert f"witnz verify --report {tmp_path / 'text'} --policy FILE" in said


@pytest.mark.parametrize(
    ("words", "period", "code", "why"),
    [
        (("--standard", "soc3"), (0, 1), 2, "--standard: expected soc2, iso27001"),
        (("--standard", "soc2"), (0, 0), 2, "is empty"),
        (("--standard", "soc2"), (1, 0), 2, "is empty"),
        (("--standard", "soc2"), (-30, -20), 2, "this cluster's journal begins at"),
        (("--standard", "soc2"), (5, 6), 4, "there is nothing to report on"),
        (("--standard", "soc2", "--lang", "fr"), (0, 1), 2, "--lang: expected en or ja"),
    ],
)
def test_what_cannot_be_reported_is_refused_and_nothing_is_written(
    running: Site, tmp_path: Path, words: tuple[str, ...], period: tuple[int, int], code: int, why: str
) -> None:
    output = tmp_path / "none"
    refused = ask(running, output, *words, begin=day(period[0]), end=day(period[1])).expect(code)
    assert why in refused.error["message"]
    assert not output.exists() or list(output.iterdir()) == []


def test_dates_that_are_none_and_folders_that_are_not_empty_are_refused(running: Site, tmp_path: Path) -> None:
    assert "expected a date" in ask(running, tmp_path / "a", "--standard", "soc2", begin="yesterday").expect(2).error["message"]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("mine")
    assert "is not empty" in ask(running, tmp_path / "b", "--standard", "soc2").expect(2).error["message"]
    assert "--standard is missing" in ask(running, tmp_path / "c").expect(2).error["message"]


def test_a_sample_has_a_bundle_for_each_item_and_is_drawn_again_alike(running: Site, tmp_path: Path) -> None:
    words = ("sample", "--n", "5", "--seed", "auditor 7")
    one = ask(running, tmp_path / "one", *words).expect(0).document
    two = ask(running, tmp_path / "two", *words).expect(0).document
    assert one["items"] == two["items"] and len(one["items"]) == 5
    running.cli.run("keys", "policy", "-o", str(tmp_path / "policy.txt")).expect(0)
    for item in one["items"]:
        verified = running.cli.run(
            "verify", "--checkpoint", tmp_path / "one" / item["bundle"], "--policy", tmp_path / "policy.txt"
        )
        assert verified.expect(0)
        selection = sha256(f"auditor 7\n{item['item']}".encode()).hexdigest()
        assert f"{item['rank']},{item['item']},{selection},{item['bundle']}\n" in (tmp_path / "one/sample.csv").read_text()
    other = ask(running, tmp_path / "three", "sample", "--n", "5", "--seed", "another").expect(0).document
    assert [item["item"] for item in other["items"]] != [item["item"] for item in one["items"]]


def test_a_drill_stands_in_the_next_report(running: Site, tmp_path: Path) -> None:
    words = ("report", "drill", "--attack", "restored a backup", "--result", "all rows as recorded", "--detected-s", "7")
    seq = running.cli.json(*words)["seq"]
    ask(running, tmp_path / "made", "--standard", "soc2").expect(0)
    (drill,) = json.loads((tmp_path / "made/evidence.json").read_bytes())["predicate"]["drills"]
    assert (drill["seq"], drill["attack"], drill["detected_s"]) == (seq, "restored a backup", 7)
    assert running.cli.run("report", "drill", "--attack", " ", "--result", "x").code == 2


def test_a_stopped_node_reports_from_its_store(site: Site, tmp_path: Path) -> None:
    site.cli.run("verify", "--all").expect(0)
    document = ask(site, tmp_path / "made", "--standard", "soc2").expect(0).document
    assert document["counts"]["verifications"] == 2
    assert document["journal_seq"] <= document["checkpoint_size"]


def test_without_a_key_in_force_the_command_says_how_to_make_one(site: Site, tmp_path: Path) -> None:
    site.cli.run("verify", "--all").expect(0)
    keys = site.folder / "witnz-data/keys"
    (keys / "report.auth").unlink()
    refused = ask(site, tmp_path / "none", "--standard", "soc2").expect(12)
    assert "no operator has put this node's report key into force" in refused.error["message"]
    (keys / "report.key").unlink()
    refused = ask(site, tmp_path / "none", "--standard", "soc2").expect(12)
    assert "witnz keys new report node1" in refused.error["hint"]
    words = ("keys", "new", "report", "node1", "--operator-key", site.operator_key, "-o", keys / "report.key")
    assert site.cli.run(*words).expect(0)
    ask(site, tmp_path / "made", "--standard", "soc2").expect(0)
