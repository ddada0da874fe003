"""What a package states, derived again from the records that it shows: whoever has the report key can sign any lie."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.support.evidence import DAY_US, FIRST_DAY_US, HOUR_US, PaperStore, eventful, make_package, policy_of, request
from witnz.core.bundle import Bundle, parse_bundle
from witnz.core.policy import parse_policy
from witnz.core.verdict import Check, CheckStatus
from witnz.report.recount import recount
from witnz.verify.bundle import verify_bundle
from witnz.verify.figures import check_figures
from witnz.verify.package import verify_package

Rows = list[list[str]]


@dataclass
class Told:
    """A package's evidence, files and bundles, to be changed together."""

    predicate: dict[str, Any]
    files: dict[str, bytes]
    bundles: dict[str, Bundle]

    def check(self) -> list[Check]:
        return recount(self.predicate, self.files, self.bundles, "derived")

    def failure(self) -> str:
        (found,) = self.check()
        assert found.status is CheckStatus.FAIL
        return found.detail

    def rewrite(self, name: str, change: Callable[[Rows], Rows]) -> None:
        """A population's rows (the header first) changed, with every figure that evidence.json states about the file."""
        file = f"populations/{name}.csv"
        rows = change(list(csv.reader(io.StringIO(self.files[file].decode(), newline=""))))
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(rows)
        self.files[file] = text.getvalue().encode()
        stated = next(item for item in self.predicate["populations"] if item["file"] == file)
        stated |= {"sha256": sha256(self.files[file]).hexdigest(), "rows": len(rows) - 1}
        self.predicate["counts"][name] = len(rows) - 1


def told_of(package: Path) -> Told:
    files = {path.relative_to(package).as_posix(): path.read_bytes() for path in package.rglob("*") if path.is_file()}
    bundles = {name: parse_bundle(data) for name, data in files.items() if name.endswith(".witnz.json")}
    return Told(json.loads(files["evidence.json"])["predicate"], files, bundles)


@dataclass(frozen=True)
class Two:
    """A store with a report over its first days and one over the days after; a finding stands open between them."""

    store: PaperStore
    first: Told
    second: Told


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    folder = tmp_path_factory.mktemp("recount")
    store = eventful(folder / "store", days=6)
    make_package(store, folder / "first", request(end=5))
    open_one = [one for one in store.cluster.records if one.type == "finding"][-1].body
    store.at = FIRST_DAY_US + 5 * DAY_US + 12 * HOUR_US
    store.add("ack", {"finding": open_one["id"], "reason": "seen on the telephone"})
    store.change([(b"insert", b"9000")])
    store.seal()
    make_package(store, folder / "second", request(begin=5, end=6))
    yield Two(store, told_of(folder / "first"), told_of(folder / "second"))
    store.close()


@pytest.fixture
def told(two: Two) -> Told:
    return Told(deepcopy(two.first.predicate), dict(two.first.files), dict(two.first.bundles))


@pytest.fixture
def later(two: Two) -> Told:
    return Told(deepcopy(two.second.predicate), dict(two.second.files), dict(two.second.bundles))


def other_cell(column: str, value: str, row: int = 1) -> Callable[[Rows], Rows]:
    def change(rows: Rows) -> Rows:
        place = rows[0].index(column)
        assert rows[row][place] != value
        return [*rows[:row], [*rows[row][:place], value, *rows[row][place + 1 :]], *rows[row + 1 :]]

    return change


def test_every_part_and_list_of_a_good_package_follows_from_its_records(told: Told, later: Told) -> None:
    for one in (told, later):
        found = one.check()
        assert [(check.status, check.name) for check in found] == [
            (CheckStatus.OK, "derived"),
            (CheckStatus.NOT_APPLICABLE, "derived.changes"),
        ]


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("verifications", "verdict", "INCONCLUSIVE"),
        ("verifications", "rows", "1000000"),
        ("verifications", "bundle", "bundles/period.witnz.json"),
        ("findings", "class", "clock.skew"),
        ("findings", "state", "repaired"),
        ("findings", "acknowledged_s", "1"),
        ("findings", "settled_reason", "ticket 4712"),
        ("findings", "key", "'=1+2"),
        ("decisions", "operator", "mallory"),
        ("decisions", "reason", ""),
        ("acknowledgements", "finding", "F-000000000000"),
        ("configuration", "detail", "{}"),
        ("keys", "operator", "mallory"),
        ("anchors", "digest", "0" * 64),
        ("drills", "detected_s", "1"),
        ("operator_actions", "detail", "{}"),
    ],
)
def test_no_cell_of_a_list_of_records_can_be_another(told: Told, name: str, column: str, value: str) -> None:
    told.rewrite(name, other_cell(column, value))
    counted, *_ = check_figures(told.predicate, told.files, told.bundles, "counts")
    assert counted.status is CheckStatus.OK, "as many rows as before"
    assert f"populations/{name}.csv, row 1, {column}: expected" in told.failure()


@pytest.mark.parametrize("name", ["findings", "verifications", "anchors", "configuration"])
def test_rows_of_a_list_can_neither_change_places_nor_be_left_out_or_added(told: Told, name: str) -> None:
    good = told.files[f"populations/{name}.csv"]
    for change, why in (
        (lambda rows: [rows[0], rows[2], rows[1], *rows[3:]], "row 1"),
        (lambda rows: rows[:-1], "is missing"),
        (lambda rows: [*rows, rows[-1]], "follows from no record shown"),
    ):
        told.rewrite(name, change)
        assert why in told.failure()
        told.files[f"populations/{name}.csv"] = good


def at(predicate: dict[str, Any], path: str) -> tuple[Any, Any]:
    """The object or list that holds a member, and its name there."""
    *steps, last = (int(step) if step.isdigit() else step for step in path.split("/"))
    inner: Any = predicate
    for step in steps:
        inner = inner[step]
    return inner, last


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("verifications/by_verdict", {"VERIFIED": 5}),
        ("verifications/rows_read", 1),
        ("verifications/tables/0/runs", 9),
        ("findings/open_at_end", 0),
        ("findings/time_to_acknowledge_s/median", 1),
        ("findings/items", []),
        ("findings/by_severity", {}),
        ("coverage/open_gaps", ["public.lost"]),
        ("coverage/uncovered", []),
        ("coverage/entries", 1),
        ("coverage/days/0/seals", 0),
        ("coverage/seals/longest_interval_s", 5),
        ("checkpoints/not_final", 1),
        ("checkpoints/longest_interval_s", 5),
        ("checkpoints/cosigned_by", ["node1", "node2", "node3"]),
        ("period/closing/digest", "0" * 64),
        ("period/by_type", {"seal": 1}),
        ("scope/tables/0/mode", "record"),
        ("scope/tables/0/entries_sealed", 1),
        ("scope/tables/0/last_verified_at", None),
        ("anchors/types", []),
        ("keys/0/sha256", "0" * 64),
        ("configuration/weakening", 1),
        ("operator_actions/items/0/action", "nothing"),
        ("authorised_changes/items/0/operator", "mallory"),
        ("independence/quorum", 3),
        ("independence/operators", ["mallory"]),
        ("drills", []),
        ("clock/findings", 1),
        ("clock/largest_difference_s", 0),
        ("continuity/status", "continuous"),
        ("exceptions/5/count", 0),
        ("conclusion/exceptions", 0),
        ("controls/0/figures", {"findings": 0}),
        ("cluster/genesis_at", "2020-01-01T00:00:00.000000Z"),
    ],
)
def test_no_figure_of_the_evidence_can_be_another(told: Told, path: str, value: Any) -> None:
    holder, name = at(told.predicate, path)
    assert holder[name] != value
    holder[name] = value
    said = told.failure()
    assert path.split("/", maxsplit=1)[0] in said, said


def test_changes_must_be_as_many_as_the_seals_say(told: Told) -> None:
    def more(rows: Rows) -> Rows:
        row = dict(zip(rows[0], rows[1], strict=True))
        row |= {"update": str(int(row["update"]) + 5), "entries": str(int(row["entries"]) + 5)}
        return [rows[0], list(row.values()), *rows[2:]]

    told.rewrite("changes", more)
    assert "changes.csv: public.audit_logs/1 gained" in told.failure()
    told.rewrite("changes", other_cell("entries", "1"))
    assert "does not add up" in told.failure()


def test_a_finding_of_before_the_period_is_shown_and_keeps_its_history(two: Two, later: Told) -> None:
    (carried,) = [item for item in later.predicate["findings"]["items"] if item["carried_over"]]
    assert (carried["class"], carried["state"]) == ("row.modified", "acknowledged")
    shown = {proven.record.seq for proven in later.bundles["bundles/period.witnz.json"].records}
    assert carried["seq"] in shown
    later.rewrite("findings", lambda rows: [rows[0], *(row for row in rows[1:] if row[0] != carried["id"])])
    assert f"findings {carried['id']} is missing" in later.failure()


def test_an_open_gap_cannot_be_called_closed(told: Told, later: Told) -> None:
    assert later.predicate["coverage"]["open_gaps"] == ["public.lost"]
    assert told.predicate["coverage"]["open_gaps"] == []
    later.predicate["coverage"]["open_gaps"] = []
    later.predicate["exceptions"][3]["count"] = 0
    assert "coverage.open_gaps" in later.failure()


def test_the_report_before_is_shown_by_the_bundle_of_the_report(two: Two) -> None:
    previous = two.second.predicate["continuity"]["previous"]
    shown = {proven.record.seq: proven.record.body for proven in two.second.bundles["bundles/report.witnz.json"].records}
    assert shown[previous["seq"]] == {name: previous[name] for name in ("standard", "from", "to", "sha256")}


def test_both_packages_verify_and_say_what_was_derived(two: Two) -> None:
    policy = parse_policy(policy_of(two.store))
    for told, coverage in ((two.first, "ok"), (two.second, "skip")):
        document = verify_package(told.files, lambda data: verify_bundle(data, policy), recount=recount).to_json()
        found = {check["name"]: check["status"] for check in document["checks"]}
        assert "fail" not in found.values()
        assert (found["report.figures.derived"], found["report.coverage"]) == ("ok", coverage)


def test_without_somebody_who_derives_them_again_the_figures_are_said_not_to_be_checked(two: Two) -> None:
    policy = parse_policy(policy_of(two.store))
    found = verify_package(two.first.files, lambda data: verify_bundle(data, policy)).checks
    assert ("report.figures.derived", CheckStatus.NOT_APPLICABLE) in [(check.name, check.status) for check in found]


def test_what_is_no_evidence_at_all_fails_and_does_not_crash(told: Told) -> None:
    for member in ("period", "report", "scope", "findings", "cluster", "exceptions"):
        for value in (None, [], {}, "text", 5):
            assert Told({**told.predicate, member: value}, told.files, told.bundles).failure()
    for file in ("findings", "checkpoints", "changes", "verifications"):
        for data in (b"", b"\xff\n", b"a,b\n1\n", b'"'):
            spoilt = Told(told.predicate, {**told.files, f"populations/{file}.csv": data}, told.bundles)
            assert spoilt.failure()
