"""Two clusters guard one database, and one table together: neither finds, changes or loses anything because of the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.conftest import TABLES, Site
from tests.support.cli import Cli, Result, wait_until
from tests.support.postgres import create_database
from witnz.demo.server import PostgresServer

MORE = (
    "CREATE TABLE events (id int PRIMARY KEY, note text); INSERT INTO events VALUES (1, 'one');"
    "CREATE TABLE cut (id int PRIMARY KEY)"
)


@dataclass(slots=True)
class Two:
    one: Site
    other: Site

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        return self.one.database.sql(statement, user="postgres")


@pytest.fixture(scope="module")
def two(pg_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    """Both run; `audit_logs` and `cut` are protected by both, `billing.prices` by the other one only, `events` by nobody."""
    with ExitStack() as stack:
        database = create_database(pg_server)
        stack.callback(database.drop)
        database.sql(TABLES)
        database.sql(MORE)
        sites = []
        for name in ("one", "other"):
            folder = tmp_path_factory.mktemp(name)
            sites.append(Site(folder, database, Cli(folder)))
        one, other = sites
        both = ("--table", "audit_logs:append_only", "--table", "cut:append_only")
        one.init("--cluster", "one.example/app", *both)
        other.init("--cluster", "other.example/app", *both, "--table", "billing.prices:append_only")
        for site in sites:
            stack.enter_context(site.cli.start())
        for site in sites:
            site.cli.run("verify", "--all").expect(0)
        yield Two(one, other)


def looked(site: Site) -> None:
    """The catalog watch has looked: a verification does so first."""
    assert site.cli.json("verify", "audit_logs")["verdict"] == "VERIFIED"


def ids(site: Site) -> set[str]:
    return {finding["id"] for finding in site.findings()}


def found(site: Site, known: set[str]) -> list[tuple[str, str | None]]:
    """Class and key of what is found and was not ``known``: another test of this file may have left something."""
    return [(finding["class"], finding["key"]) for finding in site.findings() if finding["id"] not in known]


def approve(site: Site, finding: str, key: Path) -> Result:
    return site.cli.run("findings", "approve", finding, "--reason", "ours", "--operator-key", key)


def size(site: Site, table: str) -> int:
    return int(site.cli.json("log", "show", table, "--limit", "1")["size"])


def test_each_has_slots_and_publications_of_its_own(two: Two) -> None:
    slots = {name for (name,) in two.sql("SELECT slot_name FROM pg_replication_slots WHERE database = current_database()")}
    publications = {name for (name,) in two.sql("SELECT pubname FROM pg_publication")}
    named = [site.cli.json("config", "show")["config"] for site in (two.one, two.other)]
    assert slots == {each["slot_name"] for each in named} and len(slots) == 2
    wanted = {each["publication"] for each in named}
    assert publications == wanted | {f"{name}_ins" for name in wanted} and len(publications) == 4


def test_protecting_and_ending_it_in_one_leaves_the_other_alone(two: Two) -> None:
    known, before = {id(site): ids(site) for site in (two.one, two.other)}, two.other.cli.json("status")["tables"]
    protect = ("protect", "events", "--mode", "append_only", "--admin-url", two.one.owner_url)
    assert two.one.cli.json(*protect)["node"] == "recording"
    looked(two.other)
    assert [t["name"] for t in two.other.cli.json("status")["tables"]] == [t["name"] for t in before]
    assert two.other.cli.json(*protect[:4], "--admin-url", two.other.owner_url)["node"] == "recording"
    end = ("unprotect", "events", "--reason", "twice is enough", "--operator-key", two.one.operator_key)
    two.one.cli.run(*end, "--admin-url", two.one.owner_url).expect(0)
    two.one.database.sql("INSERT INTO events VALUES (2, 'two')")
    two.one.database.sql("INSERT INTO audit_logs VALUES (1001, 'both', 1)")
    for site in (two.one, two.other):
        looked(site)
        assert found(site, known[id(site)]) == []
    assert two.other.cli.json("verify", "events")["verdict"] == "VERIFIED"
    assert (size(two.other, "events"), size(two.one, "events")) == (3, 2)


def test_what_is_done_to_a_table_of_both_is_found_by_both_and_decided_by_each(two: Two) -> None:
    ours, theirs = ids(two.one), ids(two.other)
    two.sql("UPDATE audit_logs SET amount = 0 WHERE id = 7")
    two.sql("DELETE FROM billing.prices WHERE country = 'JP'")
    for site, known, count in ((two.one, ours, 1), (two.other, theirs, 2)):
        wait_until(lambda site=site, known=known, count=count: len(found(site, known)) == count, "the findings")
    assert found(two.one, ours) == [("violation.update", "7")]
    (finding,) = ids(two.one) - ours
    approve(two.one, finding, two.one.operator_key).expect(0)
    assert found(two.one, ours) == [] and len(found(two.other, theirs)) == 2, "the other cluster has people of its own"
    assert two.one.cli.json("verify", "audit_logs")["verdict"] == "VERIFIED"
    two.other.cli.run("verify", "audit_logs").expect(3)
    for finding in ids(two.other) - theirs:
        approve(two.other, finding, two.one.operator_key).expect(3)
        approve(two.other, finding, two.other.operator_key).expect(0)
    assert two.other.cli.json("verify", "audit_logs")["verdict"] == "VERIFIED"


def test_a_publication_that_the_dba_breaks_concerns_its_own_cluster_only(two: Two) -> None:
    publication = two.one.cli.json("config", "show")["config"]["publication"]
    ours, theirs = ids(two.one), ids(two.other)
    two.sql(f"ALTER PUBLICATION {publication} DROP TABLE cut")
    wait_until(lambda: [cls for cls, _ in found(two.one, ours)] == ["publication.changed"], "the finding")
    assert found(two.other, theirs) == []
    two.one.database.sql("INSERT INTO cut VALUES (1)")
    wait_until(lambda: size(two.other, "cut") == size(two.one, "cut") + 1, "the other one to record it")
