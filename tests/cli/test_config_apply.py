"""``witnz config apply``: what the file wishes and an operator has to sign."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Site
from tests.support.cli import wait_until


def edited(site: Site, old: str, new: str) -> None:
    text = site.config.read_text()
    assert text.count(old) == 1, text
    site.config.write_text(text.replace(old, new))


def rules(site: Site, table: str) -> dict[str, Any]:
    return dict(next(each["rules"] for each in site.cli.json("status")["tables"] if each["name"] == table))


def in_force(site: Site) -> dict[str, str]:
    return {table["name"]: table["status"] for table in site.cli.json("status")["tables"]}


def weaken(site: Site) -> None:
    """One table is to be verified less often, the other one's changes are to be taken as they come."""
    edited(site, "name: audit_logs, mode: append_only", "name: audit_logs, mode: append_only, verify_interval: 1h")
    edited(
        site, "name: billing.prices, mode: state_integrity", "name: billing.prices, mode: state_integrity, on_change: record"
    )


def test_what_the_file_weakens_waits_for_a_signature_and_is_in_force_with_it(site: Site, tmp_path: Path) -> None:
    site.cli.run("verify", "--all").expect(0)
    site.cli.run("verify", "--all").expect(0)  # what stood in the file at a start is what may not grow
    weaken(site)
    words = ("config", "apply", "--operator-key")
    with site.cli.start() as started:
        wait_until(lambda: len(site.findings()) == 2, "both findings")
        assert {(f["class"], f["table"]) for f in site.findings()} == {
            ("config.changed", "public.audit_logs"),
            ("config.changed", "billing.prices"),
        }
        stranger = tmp_path / "mallory.key"
        site.cli.run("keys", "new", "operator", "mallory", "-o", stranger).expect(0)
        assert site.cli.run(*words, stranger, "--json").expect(3).error["code"] == "journal.forged"
        assert len(site.findings()) == 2
        done = site.cli.json(*words, str(site.operator_key), "--reason", "ticket 4711")
        assert done["intervals"] == {"public.audit_logs": {"from": 300, "to": 3600}}
        assert done["rules"] == {"billing.prices": {"on_change": {"from": "alert", "to": "record"}}}
        assert (done["ended"], done["operator"], len(done["approved"])) == ([], "alice", 2)
        wait_until(lambda: in_force(site).get("billing.prices") == "active", "the new generation")
        assert site.findings() == []
        site.database.sql("UPDATE billing.prices SET cents = cents + 1 WHERE product = 7")
        assert site.cli.json("verify", "--all")["verdict"] == "VERIFIED"
        again = site.cli.run(*words, site.operator_key).expect(0)
        assert again.out == "what is in force is what the file asks for; nothing was signed\n"
        assert started.stop() == 0
    with site.cli.start() as started:  # nothing is left to be said
        site.cli.run("verify", "--all").expect(0)
        assert site.findings() == []
        assert started.stop() == 0


@pytest.mark.parametrize("beside_a_node", [True, False])
def test_a_table_that_the_file_names_no_longer_is_let_go(site: Site, beside_a_node: bool) -> None:
    site.cli.run("verify", "--all").expect(0)
    edited(site, "  - {name: billing.prices, mode: state_integrity}\n", "")
    words = ("config", "apply", "--operator-key", site.operator_key, "--admin-url", site.owner_url)
    started = site.cli.start() if beside_a_node else None
    try:
        done = site.cli.run(*words).expect(0)
        assert "billing.prices: no longer protected\n" in done.out
        assert "signed by alice\n" in done.out
        wait_until(lambda: list(in_force(site)) == ["public.audit_logs"], "the end")
        assert site.findings() == []
        published = site.database.sql("SELECT schemaname || '.' || tablename FROM pg_publication_tables")
        assert "billing.prices" not in {name for (name,) in published}
        site.cli.run(*words).expect(0)
        site.cli.run("verify", "--all").expect(0)
    finally:
        if started is not None:
            assert started.stop() == 0


def test_stricter_rules_and_further_tables_begin_with_the_next_start_of_a_stopped_node(site: Site) -> None:
    site.cli.run("verify", "--all").expect(0)
    site.database.sql("CREATE TABLE events (id int PRIMARY KEY); INSERT INTO events VALUES (1), (2)")
    stricter = "  - {name: billing.prices, mode: append_only}\n  - {name: events, mode: append_only}\n"
    edited(site, "  - {name: billing.prices, mode: state_integrity}\n", stricter)
    words = ("config", "apply", "--operator-key", str(site.operator_key))
    missing = site.cli.run(*words, "--json").expect(14)
    assert missing.error["code"] == "publication.missing"
    done = site.cli.json(*words, "--admin-url", site.owner_url)
    assert done["added"] == ["public.events"]
    with site.cli.start() as started:
        wait_until(
            lambda: in_force(site) == dict.fromkeys(("billing.prices", "public.audit_logs", "public.events"), "active"), "all"
        )
        assert rules(site, "billing.prices")["mode"] == "append_only"
        assert site.findings() == []
        site.database.sql("UPDATE billing.prices SET cents = 1 WHERE product = 8")
        wait_until(lambda: [f["class"] for f in site.findings()] == ["violation.update"], "the violation")
        assert started.stop() == 0
