"""From a tampered row to a closed finding: verify, findings, repair, in both formats and with and without a running node."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Site
from tests.support.cli import wait_until


@pytest.fixture
def retained(make_site: Any) -> Site:
    """A site whose prices keep row images."""
    site: Site = make_site()
    site.init("--table", "audit_logs:append_only")
    words = ("protect", "billing.prices", "--retain-rows", "--admin-url", site.owner_url)
    site.cli.run(*words).expect(0)
    return site


def tamper(site: Site) -> None:
    site.database.sql("UPDATE audit_logs SET amount = 1 WHERE id = 42")


def test_a_changed_row_is_tampering_named_in_text_and_in_json(site: Site) -> None:
    site.cli.run("verify").expect(0)
    tamper(site)
    site.database.sql("DELETE FROM billing.prices WHERE country = 'JP'")
    found = site.cli.spawn("verify").expect(3)
    assert found.out.splitlines()[-1] == "TAMPERED: 0 of 2 tables as recorded, 2 not"
    assert re.search(r"^  F-[0-9a-f]{12}  critical  violation\.update  public\.audit_logs  key 42$", found.out, re.MULTILINE)
    assert re.search(r"^      stream    entry 202, transaction \d+, LSN [0-9A-F]+/[0-9A-F]+$", found.out, re.MULTILINE)
    document = site.cli.json("verify", code=3)
    finding = next(one for one in document["findings"] if one["table"] == "public.audit_logs")
    assert finding.keys() >= {
        *("id", "class", "severity", "table", "key", "detected_at", "window", "recorded", "found", "entry_seq", "lsn", "xid"),
        *("explained_by", "state"),
    }
    assert (finding["class"], finding["key"], finding["state"]) == ("violation.update", "42", "open")
    assert finding["recorded"] != finding["found"]
    status = site.cli.run("status").expect(0).out.splitlines()
    assert status[0] == "NOT AS RECORDED: billing.prices, public.audit_logs"
    assert site.cli.run("status", "--check", "--json").expect(6).document["findings_open"] == 2
    # one good table does not make up for a bad one, and a good one alone is good
    site.database.sql("CREATE TABLE fine (id int PRIMARY KEY)")
    site.cli.run("protect", "fine", "--admin-url", site.owner_url).expect(0)
    assert site.cli.json("verify", "fine")["tables"][0]["rows"] == 0
    assert site.cli.json("verify", "fine", "audit_logs", code=3)["verdict"] == "TAMPERED"


def test_findings_are_listed_shown_and_acknowledged(site: Site) -> None:
    site.cli.run("verify").expect(0)
    tamper(site)
    site.cli.run("verify").expect(3)
    (finding,) = site.findings()
    name = finding["id"]
    lines = site.cli.run("findings", "list").expect(0).out.splitlines()
    assert lines[0].split() == ["ID", "SEVERITY", "CLASS", "TABLE", "KEY", "STATE", "DETECTED"]
    assert lines[1].split()[:6] == [name, "critical", "violation.update", "public.audit_logs", "42", "open"]
    assert site.cli.json("findings", "list", "--table", "billing.prices")["findings"] == []
    shown = site.cli.json("findings", "show", name)
    assert (shown["schema"], shown["id"], shown["meaning"]) == (
        "witnz.finding/1",
        name,
        "a row of an append-only table was updated",
    )
    assert shown["action"] in site.cli.run("findings", "show", name).expect(0).out
    assert site.cli.run("findings", "show", "F-000000000000", "--json").expect(2).error["code"] == "not-found"
    assert site.cli.run("findings", "ack", name, "--reason", "  ").expect(2).out == ""
    assert site.cli.json("findings", "ack", name, "--reason", "looking")["state"] == "acknowledged"
    assert site.cli.run("verify", "audit_logs").expect(3).out.startswith("public.audit_logs  TAMPERED")


@pytest.mark.parametrize("beside_a_node", [True, False])
def test_an_operator_approves_and_the_table_is_as_recorded(site: Site, beside_a_node: bool, tmp_path: Path) -> None:
    site.cli.run("verify").expect(0)
    tamper(site)
    started = site.cli.start() if beside_a_node else None
    try:
        site.cli.run("verify", "audit_logs").expect(3)
        name = site.findings()[0]["id"]
        approve = ("findings", "approve", name, "--reason", "agreed")
        stranger = tmp_path / "mallory.key"
        site.cli.run("keys", "new", "operator", "mallory", "-o", stranger).expect(0)
        assert site.cli.run(*approve, "--operator-key", stranger, "--json").expect(3).error["code"] == "journal.forged"
        intent = tmp_path / "intent.key"
        site.cli.run("keys", "new", "intent", "svc", "-o", intent).expect(0)
        assert "expected a key of kind 'operator'" in site.cli.run(*approve, "--operator-key", intent).expect(12).err
        assert site.findings()[0]["id"] == name
        done = site.cli.run(*approve, "--operator-key", site.operator_key).expect(0)
        assert done.out == f"{name} is approved, signed by alice\n"
        assert re.search(r"  key 42: [0-9a-f]{64} \(entry 202\)", done.err)
        assert (
            site.cli.run(*approve, "--operator-key", site.operator_key)
            .expect(2)
            .err.startswith(f"error: finding {name} is approved")
        )
        site.cli.run("verify", "audit_logs").expect(0)
        assert site.cli.json("verify", "--store")["verdict"] == "VERIFIED"
    finally:
        if started is not None:
            assert started.stop() == 0


@pytest.mark.parametrize("beside_a_node", [True, False])
def test_a_row_is_put_back_as_it_was_recorded(retained: Site, beside_a_node: bool) -> None:
    site = retained
    site.cli.run("verify").expect(0)
    site.database.sql("UPDATE billing.prices SET cents = 1 WHERE country = 'JP'")
    started = site.cli.start() if beside_a_node else None
    try:
        site.cli.run("verify", "billing.prices").expect(3)
        name = site.findings()[0]["id"]
        planned = site.cli.run("repair", "plan", name, "-o", "plan.sql").expect(0)
        text = (site.folder / "plan.sql").read_text()
        assert (site.folder / "plan.sql").stat().st_mode & 0o777 == 0o600
        assert "'100'" in text
        assert planned.out.startswith("wrote plan.sql (0600): 1 row to put back")
        assert site.cli.json("repair", "plan", name)["sql"] == text
        assert site.cli.run("repair", "plan", name).expect(0).out == text
        assert site.cli.run("repair", "plan", name, "-o", "plan.sql").expect(2).out == ""
        words = ("repair", "apply", name, "--admin-url", site.owner_url, "--reason", "incident 12")
        done = site.cli.run(*words, "--operator-key", site.operator_key, "--json").expect(0).document
        assert (done["schema"], done["repaired"], done["closed"]) == ("witnz.repair/1", True, [name])
        assert done["verified"]["verdict"] == "VERIFIED"
        assert site.database.sql("SELECT cents FROM billing.prices WHERE country = 'JP'") == [(100,)]
        site.cli.run("verify").expect(0)
        assert site.findings() == []
    finally:
        if started is not None:
            assert started.stop() == 0


def test_a_table_without_images_says_that_nothing_can_be_put_back(site: Site) -> None:
    site.cli.run("verify").expect(0)
    tamper(site)
    site.cli.run("verify").expect(3)
    error = site.cli.run("repair", "plan", site.findings()[0]["id"], "--json").expect(2).error
    assert error["code"] == "repair.no-images"
    assert error["hint"].endswith("witnz protect public.audit_logs --mode append_only --retain-rows")


def test_no_log_entry_holds_what_a_terminal_would_obey(make_site: Any) -> None:
    site: Site = make_site("CREATE TABLE t (id text PRIMARY KEY)")
    site.init("--table", "t")
    site.cli.run("verify").expect(0)
    site.database.sql("INSERT INTO t VALUES (E'\\x1b[2J\\x1b]0;gone\\x07')")
    site.cli.run("verify").expect(3)
    for words in (["verify"], ["log", "show", "t"], ["findings", "list"]):
        out = site.cli.run(*words).out
        assert "\x1b" not in out
        assert "\\x1b[2J" in out
    assert json.loads(site.cli.run("log", "show", "t", "--json").out)["entries"][-1]["key"] == "\x1b[2J\x1b]0;gone\x07"


def test_intents_signed_by_a_new_key_authorise_changes(site: Site) -> None:
    """The key that ``keys new`` journals is the one that counts."""
    from witnz.core.keys import Ed25519Signer
    from witnz.core.message import format_intent, sign_intent
    from witnz.node.keyring import load_person_key

    site.cli.run("verify").expect(0)
    site.cli.run("keys", "new", "intent", "svc", "-o", "svc.key", "--operator-key", site.operator_key).expect(0)
    name, signer = load_person_key(site.folder / "svc.key", "intent")
    assert isinstance(signer, Ed25519Signer)
    cluster = site.cli.json("keys", "show")["cluster_id"]
    with site.database.connect_owner(autocommit=False) as connection:
        xid = int(connection.execute("SELECT pg_current_xact_id()::text").fetchone()[0])  # type: ignore[index]
        intent = sign_intent(
            signer,
            by="svc",
            cluster_id=cluster,
            hint="price of the day",
            key=name,
            nonce="00" * 16,
            tables=["billing.prices"],
            xid=xid,
        )
        connection.execute("SELECT pg_logical_emit_message(true, 'witnz', %s)", [format_intent(intent)])
        connection.execute("UPDATE billing.prices SET cents = 2 WHERE country = 'JP'")
    site.cli.run("verify", "billing.prices").expect(0)
    entry = site.cli.json("log", "show", "billing.prices", "--key", "country=JP,product=7")["entries"][-1]
    assert (entry["op"], entry["by"], entry["hint"]) == ("update", "svc", "price of the day")
    wait_until(lambda: site.cli.json("status")["findings_open"] == 0, "no finding", 1)


def test_what_cannot_be_checked_is_never_green_and_never_hides_tampering(site: Site) -> None:
    site.cli.run("verify").expect(0)
    site.database.sql("REVOKE SELECT ON billing.prices FROM witnz")
    document = site.cli.json("verify", "billing.prices", "audit_logs", code=4)
    assert [check["status"] for check in document["checks"]] == ["skip", "ok"]
    assert "permission denied" in document["not_checked"][0]
    found = site.cli.run("verify", "billing.prices", "audit_logs").expect(4)
    assert found.out.splitlines()[-1] == "INCONCLUSIVE: 1 of 2 tables as recorded"
    tamper(site)
    assert site.cli.json("verify", "billing.prices", "audit_logs", code=3)["verdict"] == "TAMPERED"


def test_where_nothing_is_protected_nothing_is_verified(make_site: Any) -> None:
    site: Site = make_site()
    site.init()
    document = site.cli.json("verify", "--all", code=4)
    assert (document["verdict"], document["tables"]) == ("INCONCLUSIVE", [])
    assert site.cli.run("verify").expect(4).out.splitlines()[-1] == "INCONCLUSIVE: no table is protected"
