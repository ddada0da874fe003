"""Two clusters guard one database, and one table together: neither finds, changes or loses anything because of the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.cli.conftest import TABLES, Site
from tests.support.cli import Cli, wait_until
from tests.support.postgres import create_database
from witnz.demo.server import PostgresServer

MORE = "CREATE TABLE events (id int PRIMARY KEY, note text); INSERT INTO events VALUES (1, 'one')"


@dataclass(slots=True)
class Two:
    one: Site
    other: Site

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        return self.one.database.sql(statement, user="postgres")


@pytest.fixture(scope="module")
def two(pg_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    """Both run; `audit_logs` is protected by both, `billing.prices` by the other one only, `events` by nobody."""
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
        one.init("--cluster", "one.example/app", "--table", "audit_logs:append_only")
        other.init(
            "--cluster", "other.example/app", "--table", "audit_logs:append_only", "--table", "billing.prices:append_only"
        )
        for site in sites:
            stack.enter_context(site.cli.start())
        for site in sites:
            site.cli.run("verify", "--all").expect(0)
        yield Two(one, other)


def looked(site: Site) -> None:
    """The catalog watch has looked: a verification does so first."""
    assert site.cli.json("verify", "audit_logs")["verdict"] == "VERIFIED"


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
    protect = ("protect", "events", "--mode", "append_only", "--admin-url", two.one.owner_url)
    assert two.one.cli.json(*protect)["node"] == "recording"
    looked(two.other)
    assert [table["name"] for table in two.other.cli.json("status")["tables"]] == ["billing.prices", "public.audit_logs"]
    assert two.other.cli.json(*protect[:4], "--admin-url", two.other.owner_url)["node"] == "recording"
    end = ("unprotect", "events", "--reason", "twice is enough", "--operator-key", two.one.operator_key)
    two.one.cli.run(*end, "--admin-url", two.one.owner_url).expect(0)
    two.one.database.sql("INSERT INTO events VALUES (2, 'two')")
    two.one.database.sql("INSERT INTO audit_logs VALUES (1001, 'both', 1)")
    for site in (two.one, two.other):
        looked(site)
        assert site.findings() == []
    assert two.other.cli.json("verify", "events")["verdict"] == "VERIFIED"
    assert (size(two.other, "events"), size(two.one, "events")) == (3, 2)


def test_what_is_done_to_a_table_of_both_is_found_by_both_and_decided_by_each(two: Two) -> None:
    two.sql("UPDATE audit_logs SET amount = 0 WHERE id = 7")
    two.sql("DELETE FROM billing.prices WHERE country = 'JP'")
    for site, count in ((two.one, 1), (two.other, 2)):
        wait_until(lambda site=site, count=count: len(site.findings()) == count, "the findings")
    assert [(f["class"], f["key"]) for f in two.one.findings()] == [("violation.update", "7")]
    (finding,) = two.one.findings()
    approve = ("findings", "approve", finding["id"], "--reason", "ours", "--operator-key", two.one.operator_key)
    two.one.cli.run(*approve).expect(0)
    assert two.one.findings() == [] and len(two.other.findings()) == 2, "the other cluster has people of its own"
    assert two.one.cli.json("verify", "audit_logs")["verdict"] == "VERIFIED"
    two.other.cli.run("verify", "audit_logs").expect(3)
    stranger = (
        "findings",
        "approve",
        two.other.findings()[0]["id"],
        "--reason",
        "theirs",
        "--operator-key",
        two.one.operator_key,
    )
    two.other.cli.run(*stranger).expect(3)


def test_a_publication_that_the_dba_breaks_concerns_its_own_cluster_only(two: Two) -> None:
    publication = two.one.cli.json("config", "show")["config"]["publication"]
    two.sql(f"ALTER PUBLICATION {publication} DROP TABLE audit_logs")
    wait_until(lambda: [f["class"] for f in two.one.findings()] == ["publication.changed"], "the finding")
    assert {f["class"] for f in two.other.findings()} == {"violation.update", "violation.delete"}
    two.one.database.sql("INSERT INTO audit_logs VALUES (1002, 'seen by the other', 1)")
    wait_until(lambda: size(two.other, "audit_logs") == size(two.one, "audit_logs") + 1, "the other one to record it")
