"""Rows and generations that go by order while the node runs, as people ask for it; what was made before still verifies."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import TABLES, Site
from tests.support import standalone
from tests.support.browser import open_verifier
from tests.support.cli import Cli, wait_until
from tests.support.postgres import create_database
from witnz.demo.server import PostgresServer

TABLE = "audit_logs"


@dataclass
class Retired:
    """A site whose table lost a row by erasure and its first generations by pruning; ``before``: what was made until then."""

    site: Site
    policy: Path
    before: dict[str, Path] = field(default_factory=dict)
    bundles: dict[str, Path] = field(default_factory=dict)

    def report(self, name: str) -> Path:
        day = datetime.now(UTC)
        period = ("--from", f"{day:%Y-%m-%d}", "--to", f"{day + timedelta(days=1):%Y-%m-%d}")
        made = self.site.folder / name
        self.site.cli.run("report", "--standard", "soc2", *period, "-o", made).expect(0)
        return made

    def order(self, *words: str, reason: str) -> dict[str, Any]:
        return self.site.cli.json(*words, "--operator-key", str(self.site.operator_key), "--reason", reason, "--yes")

    def listed(self, what: str) -> list[str]:
        return [one["state"] for one in self.site.cli.json("erase", TABLE, "--list")[what]]


@pytest.fixture(scope="module")
def retired(tmp_path_factory: pytest.TempPathFactory, pg_server: PostgresServer) -> Iterator[Retired]:
    database, folder = create_database(pg_server), tmp_path_factory.mktemp("retired")
    database.sql(TABLES)
    site = Site(folder, database, Cli(folder))
    site.init("--table", f"{TABLE}:append_only", "--table", "billing.prices")
    with site.cli.start() as started:
        site.cli.run("verify", "--all").expect(0)
        made = Retired(site, folder / "policy.txt")
        site.cli.run("keys", "policy", "-o", made.policy).expect(0)
        for key in ("7", "8"):
            made.bundles[key] = folder / f"row-{key}.witnz.json"
            site.cli.run("prove", TABLE, "--key", key, "--with-row", "-o", made.bundles[key]).expect(0)
        made.before["report"] = made.report("report-before")
        made.order("erase", TABLE, "--key", "7", reason="case 88")
        database.sql(f"DELETE FROM {TABLE} WHERE id = 7")
        wait_until(lambda: made.listed("erasures") == ["erased"], "the row to be erased", 180)
        made.order("prune", TABLE, "--before", "now", reason="kept long enough")
        wait_until(lambda: set(made.listed("prunings")) == {"pruned"}, "the generations to be pruned", 180)
        yield made
        assert started.stop() == 0
    database.drop()


@pytest.mark.slow
def test_orders_given_over_the_socket_are_carried_out_by_the_running_node(retired: Retired) -> None:
    cli = retired.site.cli
    document = cli.json("verify", TABLE)
    assert document["verdict"] == "VERIFIED"
    assert "1 row erased by order" in cli.run("verify", TABLE).expect(0).out
    assert cli.json("findings", "list")["findings"] == []
    audited = cli.json("verify", "--store")
    assert audited["verdict"] == "VERIFIED"
    pruned = [check for check in audited["checks"] if "pruned by order of record" in check["detail"]]
    assert {check["name"] for check in pruned} == {f"log public.{TABLE}/1", f"log public.{TABLE}/2"}
    refused = cli.run("prove", TABLE, "--key", "7", "-o", "-", "--json")
    assert refused.code != 0 and refused.error["hint"]
    shown = cli.json("verify", "billing.prices")
    assert shown["verdict"] == "VERIFIED"


@pytest.mark.slow
def test_bundles_made_before_an_erasure_and_a_pruning_verify_as_before_with_all_three_verifiers(retired: Retired) -> None:
    policy = retired.policy.read_bytes()
    cases = [(path.read_bytes(), policy) for path in retired.bundles.values()]
    for path in retired.bundles.values():
        document = retired.site.cli.json("verify", "--checkpoint", str(path), "--policy", str(retired.policy))
        assert document["verdict"] == "VERIFIED" and document["rows"][0]["line_shown"] is True
    assert [standalone.verify(*case)[0] for case in cases] == [0, 0]
    with open_verifier(standalone.VERIFY_HTML) as page:
        assert [found[0] for found in page.verify(cases)] == [0, 0]


@pytest.mark.slow
def test_a_report_over_a_pruned_period_verifies_and_lists_the_orders_and_the_one_made_before_still_does(
    retired: Retired,
) -> None:
    after = retired.report("report-after")
    for package in (retired.before["report"], after):
        checked = retired.site.cli.json("verify", "--report", str(package), "--policy", str(retired.policy))
        assert checked["verdict"] == "VERIFIED", checked
        files = {path.relative_to(package).as_posix(): path.read_bytes() for path in package.rglob("*") if path.is_file()}
        assert standalone.verify(files, retired.policy.read_bytes())[0] == 0
    lists = "".join(path.read_text() for path in sorted((after / "populations").glob("*.csv")))
    assert "case 88" in lists and "kept long enough" in lists
    shutil.rmtree(after)
