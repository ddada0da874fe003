"""Figures recounted: what the bundles of seals and of checkpoints show against the lists, spoilt and signed anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundle_maker import PaperBundle
from tests.support.evidence import PaperStore, make_package, policy_of, request
from witnz.core.bundle import Bundle, parse_bundle
from witnz.core.policy import parse_policy
from witnz.core.verdict import Check, CheckStatus
from witnz.verify.bundle import verify_bundle
from witnz.verify.figures import check_figures
from witnz.verify.package import verify_package

SEALS, CHECKPOINTS, PERIOD, RECORDS = (
    f"bundles/{name}.witnz.json" for name in ("seals", "checkpoints", "period", "records-0001")
)


@dataclass
class Told:
    """A package's evidence, files and bundles, to be changed together: whoever makes a package can sign any of it."""

    predicate: dict[str, Any]
    files: dict[str, bytes]
    bundles: dict[str, Bundle]

    def check(self) -> list[Check]:
        return check_figures(self.predicate, self.files, self.bundles, "figures")

    def rewrite(self, name: str, change: Callable[[list[bytes]], list[bytes]]) -> None:
        """A population's lines (the header first) changed, with every figure that evidence.json states about the file."""
        file = f"populations/{name}.csv"
        lines = change(self.files[file].splitlines(keepends=True))
        self.files[file] = b"".join(lines)
        stated = next(item for item in self.predicate["populations"] if item["file"] == file)
        stated |= {"sha256": sha256(self.files[file]).hexdigest(), "rows": len(lines) - 1}
        self.predicate["counts"][name] = len(lines) - 1

    def drop(self, name: str, members: str, position: int) -> None:
        bundle = self.bundles[name]
        shown = list(getattr(bundle, members))
        del shown[position]
        self.bundles[name] = replace(bundle, **{members: tuple(shown)})


def told_of(package: Path) -> Told:
    files = {path.relative_to(package).as_posix(): path.read_bytes() for path in package.rglob("*") if path.is_file()}
    bundles = {name: parse_bundle(data) for name, data in files.items() if name.endswith(".witnz.json")}
    return Told(json.loads(files["evidence.json"])["predicate"], files, bundles)


@pytest.fixture(scope="module")
def good(package: Path) -> Told:
    return told_of(package)


@pytest.fixture
def told(good: Told) -> Told:
    return Told(deepcopy(good.predicate), dict(good.files), dict(good.bundles))


def the_failure(told: Told) -> str:
    (found,) = told.check()
    assert found.status is CheckStatus.FAIL
    return found.detail


def test_the_good_ones_add_up_and_nothing_is_left_as_told_of_what_is_shown(told: Told) -> None:
    (found,) = told.check()
    assert (found.status, found.name) == (CheckStatus.OK, "figures")
    assert f"{told.predicate['period']['records']} records shown" in found.detail


@pytest.mark.parametrize("position", [1, 3, -1])
def test_a_seal_that_is_left_out_is_missed(told: Told, position: int) -> None:
    assert told.bundles[SEALS].records[position].record.type == "seal"
    told.drop(SEALS, "records", position)
    assert "the records shown are not all from" in the_failure(told)


def test_a_seal_left_out_together_with_its_row_is_missed(told: Told) -> None:
    told.drop(SEALS, "records", -1)
    told.rewrite("seals", lambda lines: lines[:-1])
    told.predicate["period"]["by_type"]["seal"] -= 1
    told.predicate["period"]["by_type"]["operator"] = told.predicate["period"]["by_type"].get("operator", 0) + 1
    assert "by type" in the_failure(told)


def test_a_seal_shown_twice_is_no_second_seal(told: Told) -> None:
    bundle = told.bundles[SEALS]
    told.bundles[SEALS] = replace(bundle, records=(*bundle.records, bundle.records[-1]))
    assert "the records shown are not all from" in the_failure(told)


@pytest.mark.parametrize("column", range(6))
def test_no_cell_of_the_list_of_seals_can_be_another(told: Told, column: int) -> None:
    def other(lines: list[bytes]) -> list[bytes]:
        cells = lines[2].rstrip(b"\r\n").split(b",")
        cells[column] += b"0"
        return [*lines[:2], b",".join(cells) + lines[2][len(lines[2].rstrip(b"\r\n")) :], *lines[3:]]

    told.rewrite("seals", other)
    assert "populations/seals.csv is not the list of the seals shown" in the_failure(told)


def test_two_rows_of_the_list_of_seals_cannot_change_places(told: Told) -> None:
    told.rewrite("seals", lambda lines: [lines[0], lines[2], lines[1], *lines[3:]])
    assert "populations/seals.csv is not the list of the seals shown" in the_failure(told)


@pytest.mark.parametrize("position", [1, 4, -1])
def test_a_row_that_is_missing_in_the_register_is_missed(told: Told, position: int) -> None:
    def without(lines: list[bytes]) -> list[bytes]:
        left = list(lines)
        del left[position]
        return left

    told.rewrite("checkpoints", without)
    assert "checkpoints.csv" in the_failure(told)


def test_a_checkpoint_that_is_left_out_is_missed_where_the_register_says_that_it_is_final(told: Told) -> None:
    told.drop(CHECKPOINTS, "consistency", 2)
    assert "is not shown" in the_failure(told)


def test_a_checkpoint_shown_and_not_registered_is_missed(told: Told) -> None:
    bundle = told.bundles[CHECKPOINTS]
    own = bundle.consistency[0]
    between = replace(own, checkpoint=replace(own.checkpoint, size=own.checkpoint.size + 100_000))
    told.bundles[CHECKPOINTS] = replace(bundle, consistency=(*bundle.consistency, between))
    assert "does not list every checkpoint shown" in the_failure(told)


@pytest.mark.parametrize(("column", "value"), [(4, b"A" * 43 + b"="), (5, b"false"), (6, b"node1"), (6, b"node1 node2 node3")])
def test_root_state_and_cosigners_of_a_checkpoint_are_those_of_its_note(told: Told, column: int, value: bytes) -> None:
    def other(lines: list[bytes]) -> list[bytes]:
        end = lines[2][len(lines[2].rstrip(b"\r\n")) :]
        cells = lines[2].rstrip(b"\r\n").split(b",")
        assert cells[column] != value
        cells[column] = value
        return [*lines[:2], b",".join(cells) + end, *lines[3:]]

    told.rewrite("checkpoints", other)
    assert "is not as its note says" in the_failure(told)


def test_a_bundle_of_another_journals_seals_is_refused(store: PaperStore, good: Told) -> None:
    foreign = PaperBundle()
    files = {**good.files, SEALS: foreign.build(rows=[], tables=[], consistency=[])}
    policy = parse_policy(policy_of(store))
    result = verify_package(files, lambda data: verify_bundle(data, policy))
    failed = {check.name for check in result.checks if check.status is CheckStatus.FAIL}
    assert {"report.files", "report.sums", "report.figures"} <= failed


@pytest.fixture(scope="module")
def later(store: PaperStore, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """Of a period in the middle: its opening checkpoint ends with a seal."""
    folder = tmp_path_factory.mktemp("later") / "package"
    make_package(store, folder, request("hipaa", 4, 9))
    return told_of(folder)


def test_a_record_from_before_the_period_is_none_of_its_records(good: Told, later: Told) -> None:
    told = Told(deepcopy(later.predicate), dict(later.files), dict(later.bundles))
    (early,) = [one for one in good.bundles[RECORDS].records if one.record.type == "genesis"]
    told.bundles[RECORDS] = replace(told.bundles[RECORDS], records=(*told.bundles[RECORDS].records, early))
    told.predicate["period"]["by_type"]["genesis"] = 1
    told.predicate["period"]["by_type"]["seal"] -= 1
    assert "record 1 is shown and is not of the period" in the_failure(told)


def test_a_later_period_adds_up_and_the_seal_before_it_is_none_of_its_own(later: Told) -> None:
    """That one says how large the logs were."""
    told = Told(deepcopy(later.predicate), dict(later.files), dict(later.bundles))
    opening = told.predicate["period"]["opening"]["size"]
    position = [one.record.seq for one in told.bundles[SEALS].records].index(opening)
    assert told.bundles[SEALS].records[position].record.type == "seal"
    (found,) = told.check()
    assert found.status is CheckStatus.OK, found.detail
    told.drop(SEALS, "records", position)  # then the first seal of the period would have sealed all of the log
    assert "populations/seals.csv is not the list of the seals shown" in the_failure(told)
