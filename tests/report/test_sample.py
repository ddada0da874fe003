"""Samples: drawn by the auditor's seed alone, from the whole population, each item with a bundle that verifies."""

from __future__ import annotations

import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from tests.support.evidence import PaperStore, policy_of, request
from witnz.core.policy import parse_policy
from witnz.core.verdict import Verdict
from witnz.errors import Inconclusive, UsageError
from witnz.report.sample import POPULATIONS, Wanted, check_wanted, draw, write_sample
from witnz.verify.bundle import verify_bundle


def wanted(store: PaperStore, population: str, n: int = 5, seed: str = "s") -> Wanted:
    asked = request()
    return Wanted(population, n, seed, asked.period, asked.created)


def test_the_draw_is_the_smallest_hashes_of_seed_and_item() -> None:
    items = [f"public.t/1/{number}" for number in range(2, 2000)]
    drawn = draw(items, 25, "auditor 1")
    by_hand = sorted((sha256(f"auditor 1\n{item}".encode()).hexdigest(), item) for item in items)[:25]
    assert [(one.selection, one.item) for one in drawn] == by_hand
    assert [one.rank for one in drawn] == list(range(1, 26))
    assert {one.item for one in draw(items, 25, "auditor 2")} != {one.item for one in drawn}
    assert len(draw(items[:3], 25, "x")) == 3


@pytest.mark.parametrize("population", ["changes", "checkpoints", "findings", "verifications", "anchors", "decisions", "gaps"])
def test_each_item_has_a_bundle_that_verifies(store: PaperStore, package: Path, tmp_path: Path, population: str) -> None:
    with store.db.read() as conn:
        made = write_sample(conn, store.cluster.state, wanted(store, population), tmp_path)
    policy = parse_policy(policy_of(store))
    assert 1 <= len(made["items"]) <= 5
    for item in made["items"]:
        result = verify_bundle((tmp_path / item["bundle"]).read_bytes(), policy)
        assert result.verdict is Verdict.VERIFIED, (item, result.checks)
        if population == "changes":
            assert [f"{row.table}/1/{row.seq}" for row in result.rows] == [item["item"]]
    done = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0


def test_the_whole_population_can_be_drawn(store: PaperStore, package: Path, tmp_path: Path) -> None:
    with store.db.read() as conn:
        made = write_sample(conn, store.cluster.state, wanted(store, "checkpoints", n=1000), tmp_path)
    assert made["n"] == made["size"] == 23


def test_an_empty_population_and_senseless_wishes_are_refused(store: PaperStore, tmp_path: Path) -> None:
    with store.db.read() as conn, pytest.raises(Inconclusive, match="nothing to draw from"):
        write_sample(conn, store.cluster.state, wanted(store, "repairs"), tmp_path)
    for population, n, seed in (
        ("rows", 1, "s"),
        ("changes", 0, "s"),
        ("changes", 1001, "s"),
        ("changes", 1, ""),
        ("gaps", 1, "a\nb"),
    ):
        with pytest.raises(UsageError):
            check_wanted(population, n, seed)
    for population in POPULATIONS:
        check_wanted(population, 25, "電子")
