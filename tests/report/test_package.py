"""A package: its files, its signatures, and every figure counted again from its lists and bundles."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from tests.support.evidence import PaperStore, eventful, make_package, policy_of, request
from witnz.core.bundle import parse_bundle
from witnz.core.canonical import canonical
from witnz.core.policy import parse_policy
from witnz.core.verdict import CheckStatus
from witnz.errors import FormatError
from witnz.report import statement
from witnz.report.populations import RECORDS
from witnz.verify.bundle import verify_bundle

ROOT = Path(__file__).parents[2]
AFTERWARDS = {"report.json", "SHA256SUMS", "bundles/report.witnz.json"}


def evidence_of(package: Path) -> dict[str, Any]:
    predicate: dict[str, Any] = json.loads((package / "evidence.json").read_bytes())["predicate"]
    return predicate


def rows_of(package: Path, name: str) -> list[dict[str, str]]:
    with (package / "populations" / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def names_of(package: Path) -> set[str]:
    return {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}


def proven_records(package: Path) -> list[Any]:
    files = sorted((package / "bundles").glob("records-*.witnz.json"))
    return [proven.record for path in files for proven in parse_bundle(path.read_bytes()).records]


def test_it_has_the_files_that_formats_fix_and_plain_sha256sum_accepts_them(package: Path) -> None:
    wanted = {
        "report.pdf",
        "evidence.json",
        "report.json",
        "policy.txt",
        "MANIFEST.json",
        "SHA256SUMS",
        "README.txt",
        "oscal.json",
    }
    assert wanted <= names_of(package)
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=package, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    listed = {line.split("  ", 1)[1] for line in (package / "SHA256SUMS").read_text().splitlines()}
    assert listed == names_of(package) - {"SHA256SUMS"}


def test_the_envelope_is_signed_by_the_journalled_key_and_covers_every_file_made_before_it(
    store: PaperStore, package: Path
) -> None:
    data = (package / "report.json").read_bytes()
    envelope = statement.parse_envelope(data)
    bundle = parse_bundle((package / "bundles/report.witnz.json").read_bytes())
    key = next(one.record for one in bundle.records if one.record.type == "key")
    report = next(one.record for one in bundle.records if one.record.type == "report")
    assert report.body["sha256"] == sha256(data).hexdigest()
    assert envelope.signed_by(store.key.public_der)
    assert key.body["key"] == statement.b64encode(store.key.public_der).decode()
    assert envelope.key_id == sha256(store.key.public_der).hexdigest()
    value = json.loads(envelope.payload)
    assert value["predicateType"] == statement.REPORT_TYPE
    subjects = {one["name"]: one["digest"]["sha256"] for one in value["subject"]}
    assert subjects.keys() == names_of(package) - AFTERWARDS
    assert subjects == {name: sha256((package / name).read_bytes()).hexdigest() for name in subjects}


def test_another_key_or_another_byte_of_the_payload_is_no_signature(store: PaperStore, package: Path) -> None:
    from witnz.report.key import create

    envelope = statement.parse_envelope((package / "report.json").read_bytes())
    other = create("vectors.example/app", "node2", store.at)
    assert not envelope.signed_by(other.public_der)
    for at in range(0, len(envelope.payload), 97):
        spoilt = bytearray(envelope.payload)
        spoilt[at] ^= 1
        assert not statement.Envelope(bytes(spoilt), envelope.key_id, envelope.signature).signed_by(store.key.public_der)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda value: value | {"more": 1},
        lambda value: value | {"payloadType": "text/plain"},
        lambda value: value | {"signatures": []},
        lambda value: value | {"signatures": value["signatures"] * 2},
        lambda value: value | {"signatures": [value["signatures"][0] | {"keyid": "abc"}]},
        lambda value: value | {"payload": "!!"},
    ],
)
def test_an_envelope_of_another_shape_is_refused(package: Path, spoil: Any) -> None:
    value = json.loads((package / "report.json").read_bytes())
    with pytest.raises(FormatError):
        statement.parse_envelope(canonical(spoil(value)) + b"\n")


def test_an_envelope_in_another_spelling_is_refused(package: Path) -> None:
    data = (package / "report.json").read_bytes()
    for other in (data[:-1], data + b"\n", b" " + data, data.replace(b'{"payload"', b'{ "payload"', 1), b"", b"[]\n"):
        with pytest.raises(FormatError):
            statement.parse_envelope(other)


def test_every_bundle_verifies_under_a_policy_from_elsewhere(store: PaperStore, package: Path) -> None:
    policy = parse_policy(policy_of(store))
    for path in sorted((package / "bundles").iterdir()):
        result = verify_bundle(path.read_bytes(), policy)
        failed = [check for check in result.checks if check.status is CheckStatus.FAIL]
        skipped = [check for check in result.checks if check.status is CheckStatus.SKIP and "anchors" not in check.name]
        assert (failed, skipped) == ([], []), path.name


def test_evidence_follows_the_published_schema(package: Path, japanese: Path) -> None:
    schema = json.loads((ROOT / "docs/schemas/evidence-1.schema.json").read_text())
    validator = jsonschema_rs.validator_for(schema)
    for made in (package, japanese):
        value = json.loads((made / "evidence.json").read_bytes())
        assert [error.message for error in validator.iter_errors(value)] == []
        for spoilt in (value | {"more": 1}, value | {"predicate": value["predicate"] | {"counts": {}}}):
            assert not validator.is_valid(spoilt)


def test_evidence_names_the_digests_of_what_it_rests_on(package: Path) -> None:
    data = (package / "evidence.json").read_bytes()
    value = json.loads(data)
    assert canonical(value) + b"\n" == data
    subjects = {one["name"]: one["digest"]["sha256"] for one in value["subject"]}
    rests_on = {name for name in names_of(package) if name.startswith(("populations/", "bundles/"))} - AFTERWARDS
    assert subjects.keys() == rests_on | {"policy.txt", "report-certificates.pem"}
    assert subjects == {name: sha256((package / name).read_bytes()).hexdigest() for name in subjects}


def test_every_figure_can_be_counted_again(package: Path) -> None:
    evidence = evidence_of(package)
    for one in evidence["populations"]:
        name = Path(one["file"]).stem
        data = (package / one["file"]).read_bytes()
        assert one["sha256"] == sha256(data).hexdigest()
        assert one["rows"] == len(rows_of(package, name)) == evidence["counts"][name]
    records = proven_records(package)
    types = Counter(record.type for record in records)
    period = evidence["period"]
    assert {name: n for name, n in period["by_type"].items() if name != "seal"} == types
    before = period["opening"]["size"] if period["opening"] else 0
    assert sum(period["by_type"].values()) == period["closing"]["size"] - before == period["records"]
    assert period["by_type"]["seal"] == len(rows_of(package, "seals"))
    for name, kind in RECORDS.items():
        listed = [int(row["seq"]) for row in rows_of(package, name)]
        assert listed == [record.seq for record in records if record.type in kind.types]
    assert evidence["verifications"]["by_verdict"] == Counter(row["verdict"] for row in rows_of(package, "verifications"))
    assert evidence["coverage"]["entries"] == sum(int(row["entries"]) for row in rows_of(package, "changes"))
    assert evidence["coverage"]["entries"] == sum(int(row["entries"]) for row in rows_of(package, "seals"))
    assert evidence["findings"]["by_state"] == Counter(row["state"] for row in rows_of(package, "findings"))


def test_each_row_names_the_bundle_that_proves_its_record(package: Path) -> None:
    for name in RECORDS:
        for row in rows_of(package, name):
            shown = [proven.record.seq for proven in parse_bundle((package / row["bundle"]).read_bytes()).records]
            assert int(row["seq"]) in shown


def test_the_register_of_checkpoints_has_no_hole(store: PaperStore, package: Path) -> None:
    rows, evidence = rows_of(package, "checkpoints"), evidence_of(package)
    assert [int(row["number"]) for row in rows] == list(range(1, len(rows) + 1))
    size = 0
    for row in rows:
        assert int(row["size"]) == size + int(row["new_records"])
        size = int(row["size"])
        assert row["cosigned_by"].split() == ["node1", "node2"]
    assert size == evidence["period"]["closing"]["size"]
    assert rows[-1]["root"] == evidence["period"]["closing"]["root"]


def test_a_finding_has_its_whole_life(package: Path) -> None:
    violation, modified = rows_of(package, "findings")
    assert (violation["class"], violation["state"], violation["settled_by"]) == ("violation.update", "approved", "alice")
    assert int(violation["acknowledged_s"]) == 20 * 60
    assert int(violation["settled_s"]) == 20 * 60 + 3600
    assert violation["acknowledged_reason"] == "電話で確認した"
    assert (modified["class"], modified["state"], modified["acknowledged_at"]) == ("row.modified", "open", "")
    evidence = evidence_of(package)["findings"]
    assert evidence["time_to_acknowledge_s"] == {"count": 1, "median": 1200, "longest": 1200}


def test_no_cell_begins_like_a_formula(package: Path) -> None:
    assert rows_of(package, "findings")[0]["key"] == "'=1+1"
    for path in (package / "populations").iterdir():
        for row in csv.reader(path.read_text("utf-8").splitlines()):
            assert not [cell for cell in row if cell.startswith(("=", "+", "-", "@"))]


def test_exceptions_are_listed_also_where_there_are_none(package: Path) -> None:
    counted = {item["kind"]: item["count"] for item in evidence_of(package)["exceptions"]}
    assert counted == {
        "period.uncovered": 2,
        "continuity": 0,
        "gaps": 1,
        "gaps.open": 1,
        "findings": 2,
        "findings.open": 1,
        "findings.unacknowledged": 1,
        "verifications.tampered": 0,
        "verifications.inconclusive": 1,
        "verifications.none": 0,
        "checkpoints.not-final": 0,
        "anchors.none": 0,
        "configuration.weakened": 0,
        "clock": 0,
        "drills.none": 0,
    }
    assert evidence_of(package)["conclusion"]["coverage"] == "open gap"
    assert evidence_of(package)["coverage"]["open_gaps"] == ["public.lost"]


def test_receipts_of_unknown_anchors_are_kept(package: Path) -> None:
    anchors = evidence_of(package)["anchors"]
    assert [(one["type"], one["count"]) for one in anchors["types"]] == [("chalk-board", 5), ("s3", 6)]
    bundle = parse_bundle((package / "bundles/period.witnz.json").read_bytes())
    assert Counter(receipt.type for receipt in bundle.anchors) == {"chalk-board": 5, "s3": 6}


@pytest.fixture
def unreported(tmp_path: Path) -> Iterator[PaperStore]:
    """The same cluster in a store that no other test makes reports of."""
    made = eventful(tmp_path / "store")
    yield made
    made.close()


def test_the_next_report_begins_where_this_one_ends(unreported: PaperStore, package: Path, tmp_path: Path) -> None:
    first, second, third = tmp_path / "first", tmp_path / "second", tmp_path / "third"
    make_package(unreported, first, request("hipaa", 0, 6))
    make_package(unreported, second, request("hipaa", 6, 12))
    make_package(unreported, third, request("hipaa", 8, 12))
    one, two, three = evidence_of(first), evidence_of(second), evidence_of(third)
    assert one["continuity"]["status"] == "first"
    assert two["continuity"]["status"] == "continuous"
    assert two["continuity"]["previous"]["sha256"] == sha256((first / "report.json").read_bytes()).hexdigest()
    assert two["period"]["opening"] == one["period"]["closing"]
    assert three["continuity"]["status"] == "overlap"
    assert [row["seq"] for row in rows_of(first, "seals") + rows_of(second, "seals")] == [
        row["seq"] for row in rows_of(package, "seals")
    ]
    carried = rows_of(second, "findings")
    assert [(row["class"], row["carried_over"]) for row in carried] == [("row.modified", "true")]
    bundle = parse_bundle((second / "bundles/period.witnz.json").read_bytes())
    assert one["period"]["closing"]["size"] in [older.checkpoint.size for older in bundle.consistency]


def test_making_it_again_gives_the_same_evidence_and_pages(store: PaperStore, package: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    make_package(store, again, request())
    assert (again / "evidence.json").read_bytes() == (package / "evidence.json").read_bytes()
    assert (again / "oscal.json").read_bytes() == (package / "oscal.json").read_bytes()
    one, two = (package / "report.pdf").read_bytes(), (again / "report.pdf").read_bytes()
    end = one.index(b"%%EOF")
    assert one[:end] == two[:end]
    shutil.rmtree(again)


def test_the_readme_speaks_the_language_of_the_report(package: Path, japanese: Path) -> None:
    assert "EVIDENCE PACKAGE" in (package / "README.txt").read_text("utf-8")
    assert "証跡パッケージ" in (japanese / "README.txt").read_text("utf-8")


def test_the_manifest_says_what_each_file_is(package: Path) -> None:
    manifest = json.loads((package / "MANIFEST.json").read_bytes())
    assert {one["name"] for one in manifest["files"]} == names_of(package) - AFTERWARDS - {"MANIFEST.json"}
    for one in manifest["files"]:
        data = (package / one["name"]).read_bytes()
        assert (one["bytes"], one["sha256"]) == (len(data), sha256(data).hexdigest())
        assert one["about"]
