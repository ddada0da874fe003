"""``witnz protect``, ``unprotect``, ``doctor``, ``config``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Site
from tests.support.cli import Cli, wait_until

EXAMPLES = """
CREATE TABLE events (id int PRIMARY KEY, note text);
INSERT INTO events SELECT i, 'n' || i FROM generate_series(1, 20) i;
CREATE TABLE "Odd.Name" (a int, b int);
"""


@pytest.fixture
def open_site(make_site: Callable[..., Site]) -> Site:
    """A site where one table is protected and others are not."""
    site = make_site()
    site.database.sql(EXAMPLES)
    site.init("--table", "audit_logs:append_only")
    return site


def names(site: Site) -> list[str]:
    return [table["name"] for table in site.cli.json("status")["tables"]]


def test_without_the_owner_nothing_is_written_but_the_sql_printed(open_site: Site) -> None:
    site, before = open_site, open_site.config.read_bytes()
    refused = site.cli.run("protect", "events", "--json").expect(14)
    assert refused.error["code"] == "publication.missing"
    (statement,) = refused.document["sql"]
    assert statement.startswith("ALTER PUBLICATION ")
    assert statement.endswith('ADD TABLE ONLY "public"."events"')
    assert site.config.read_bytes() == before
    site.database.sql(statement)
    done = site.cli.run("protect", "events").expect(0)
    assert done.out == "public.events: protected, state_integrity; recorded from the next `witnz start` on\n"
    assert site.cli.json("verify", "events")["tables"][0]["rows"] == 20


def test_a_running_node_records_the_new_table_at_once(open_site: Site) -> None:
    site = open_site
    with site.cli.start() as started:
        words = ("protect", "events", "billing.prices", "--mode", "append_only", "--admin-url", site.owner_url)
        document = site.cli.json(*words)
        assert (document["tables"], document["node"]) == (["public.events", "billing.prices"], "recording")
        assert site.cli.json(*words)["tables"] == ["public.events", "billing.prices"]  # run again, nothing happens
        assert site.cli.json("verify", "events")["verdict"] == "VERIFIED"
        site.database.sql("UPDATE events SET note = 'x' WHERE id = 3")
        site.cli.run("verify", "events").expect(3)
        assert started.stop() == 0
    text = site.config.read_text()
    assert text.count("events") == 1
    assert site.cli.run("config", "check").expect(0).out.startswith("witnz.yaml: ok")
    assert names(site) == ["billing.prices", "public.audit_logs", "public.events"]


def test_rules_go_into_the_file_and_are_not_changed_by_protecting_again(open_site: Site) -> None:
    site = open_site
    words = ("protect", "events", "--on-change", "record", "--retain-rows", "--admin-url", site.owner_url)
    site.cli.run(*words).expect(0)
    assert "  - {name: events, mode: state_integrity, on_change: record, retain: rows}\n" in site.config.read_text()
    site.cli.run(*words).expect(0)
    error = site.cli.run("protect", "events", "--json").expect(2).error
    assert "on_change record" in error["message"]


def test_a_table_without_identity_is_protected_by_its_inserts_only(open_site: Site) -> None:
    site = open_site
    error = site.cli.run("protect", '"Odd.Name"', "--admin-url", site.owner_url, "--json").expect(14).error
    assert error["code"] == "table.identity"
    assert 'ALTER TABLE "public"."Odd.Name" REPLICA IDENTITY FULL' in error["hint"]
    assert "Odd.Name" not in site.config.read_text()
    done = site.cli.run("protect", '"Odd.Name"', "--inserts-only", "--admin-url", site.owner_url).expect(0)
    assert "found by scan only" in done.err
    site.database.sql('INSERT INTO "Odd.Name" VALUES (1, 2)')
    site.cli.run("verify", "public.Odd%2EName").expect(0)
    site.database.sql('UPDATE "Odd.Name" SET b = 3')  # the application's own statement still works
    document = site.cli.json("verify", '"Odd.Name"', code=3)
    assert {finding["class"] for finding in document["findings"]} == {"row.deleted", "row.inserted"}
    assert "nothing in it explains this" in site.cli.run("verify", '"Odd.Name"').expect(3).out


def test_a_table_that_is_not_there_is_refused_before_anything_is_changed(open_site: Site) -> None:
    before = open_site.config.read_bytes()
    error = open_site.cli.run("protect", "event", "--admin-url", open_site.owner_url, "--json").expect(2).error
    assert error["code"] == "table.missing"
    assert "public.events" in error["hint"]
    assert open_site.config.read_bytes() == before


@pytest.mark.parametrize("beside_a_node", [True, False])
def test_ending_protection_takes_an_operator_and_can_be_run_again(site: Site, beside_a_node: bool, tmp_path: Path) -> None:
    site.cli.run("verify").expect(0)
    started = site.cli.start() if beside_a_node else None
    words = ("unprotect", "billing.prices", "--reason", "moved to another system")
    try:
        assert "Missing option" in site.cli.run(*words).expect(2).err
        stranger = tmp_path / "mallory.key"
        site.cli.run("keys", "new", "operator", "mallory", "-o", stranger).expect(0)
        assert site.cli.run(*words, "--operator-key", stranger, "--json").expect(3).error["code"] == "journal.forged"
        assert names(site) == ["billing.prices", "public.audit_logs"]
        done = site.cli.json(*words, "--operator-key", str(site.operator_key))
        assert (done["ended"], done["operator"]) == (["billing.prices"], "alice")
        assert len(done["sql"]) == 1
        wait_until(lambda: names(site) == ["public.audit_logs"], "the end")
        again = site.cli.json(*words, "--operator-key", str(site.operator_key), "--admin-url", site.owner_url)
        assert (again["ended"], again["sql"]) == ([], [])
        assert "billing.prices" not in site.config.read_text()
        assert site.cli.run("verify", "billing.prices").code == 2
        site.database.sql("UPDATE billing.prices SET cents = 5")
        site.cli.run("verify").expect(0)
    finally:
        if started is not None:
            assert started.stop() == 0
    site.cli.run("verify").expect(0)
    assert site.findings() == []
    assert site.cli.json("log", "show", "billing.prices", "--limit", "1")["size"] == 4
    site.cli.run("unprotect", "nosuch", "--reason", "x", "--operator-key", site.operator_key).expect(2)


# -- doctor -------------------------------------------------------------------------------------------------------------------


def test_doctor_finds_nothing_wrong_with_a_good_site_and_says_what_to_improve(site: Site) -> None:
    document = site.cli.json("doctor")
    assert document["schema"] == "witnz.doctor/1"
    checks = {check["name"]: check for check in document["checks"]}
    assert document["status"] == "ok"
    assert all(check.keys() == {"name", "status", "message", "hint"} for check in document["checks"])
    for name in (
        "config",
        "data_dir",
        "keys",
        "server.connect",
        "server.wal_level",
        "publication",
        "stream",
        "role.replication",
    ):
        assert checks[name]["status"] == "ok", checks[name]
    assert checks["socket"]["status"] == "skip"
    assert "table public.audit_logs" in checks
    lines = site.cli.run("doctor").expect(0).out.splitlines()
    assert lines[0].startswith("  ok    config: ")
    assert lines[-1].endswith(" ok")


def test_doctor_beside_a_running_node(site: Site) -> None:
    with site.cli.start() as started:
        wait_until(lambda: site.cli.json("doctor")["checks"][3]["status"] == "ok", "the node to record")
        checks = {check["name"]: check["status"] for check in site.cli.json("doctor")["checks"]}
        assert checks["socket"] == "ok"
        assert checks["stream"] == "ok"
        assert started.stop() == 0


def test_doctor_names_what_is_wrong_with_its_remedy(site: Site) -> None:
    (site.folder / "witnz-data" / "operator-bob.key").write_text("x")
    site.database.sql("ALTER TABLE audit_logs DROP CONSTRAINT audit_logs_pkey")
    site.database.sql("REVOKE SELECT ON billing.prices FROM witnz")
    found = site.cli.run("doctor").expect(6)
    document = site.cli.json("doctor", code=6)
    assert document["status"] == "failing"
    failed = {check["name"]: check["hint"] for check in document["checks"] if check["status"] == "fail"}
    assert failed["table public.audit_logs"].startswith('ALTER TABLE "public"."audit_logs" REPLICA IDENTITY FULL')
    assert failed["table billing.prices"] == 'GRANT SELECT ON "billing"."prices" TO "witnz"'
    assert all(f"FAIL  {name}: " in found.out and hint in found.out for name, hint in failed.items())
    assert "operator-bob.key lies in the data directory" in found.out


def test_doctor_before_init_says_what_is_still_to_be_done(tmp_path: Path) -> None:
    (tmp_path / "witnz.yaml").write_text("database: {host: 127.0.0.1, port: 1, database: d, user: u}\n")
    checks = {check["name"]: check for check in Cli(tmp_path).json("doctor", code=6)["checks"]}
    assert checks["config"]["status"] == "fail"
    assert "node.data_dir is not set" in checks["config"]["message"]
    assert checks["server.connect"]["status"] == "fail"
    assert checks["stream"]["status"] == "skip"


# -- config -------------------------------------------------------------------------------------------------------------------

HISTORICAL = """
database: {name: app, host: db, user: w, password: hunter2-never-shown}
node: {id: node1, bind_addr: "0.0.0.0:7000", grpc_addr: "0.0.0.0:7001", data_dir: data, bootstrap: true}
nodes: [{host: 10.0.0.1}]
protected_tables: [{name: audit_logs, alert: slack}]
alerts: {enabled: true, slack_webhook: "https://hooks.example.com/T000"}
"""


def test_a_historical_shape_loads_and_says_what_is_without_effect(tmp_path: Path) -> None:
    (tmp_path / "witnz.yaml").write_text(HISTORICAL)
    document = Cli(tmp_path).json("config", "check")
    assert document["schema"] == "witnz.config-check/1"
    assert any("grpc_addr has no effect" in notice for notice in document["notices"])
    assert document["tables"] == ["public.audit_logs"]


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    (tmp_path / "witnz.yaml").write_text(HISTORICAL)
    for words in (["config", "show"], ["config", "check"], ["doctor"], ["status"]):
        for extra in ([], ["--json"], ["-vv"]):
            found = Cli(tmp_path).run(*words, *extra)
            assert "hunter2" not in found.out + found.err
            assert "T000" not in found.out + found.err
    shown = Cli(tmp_path).json("config", "show")["config"]
    assert shown["database"]["password"] == shown["alerts"]["slack_webhook"] == "********"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("databse: {host: h}\n", "did you mean database?"),
        ("database: {database: d, password: '${NOT_SET_AT_ALL}'}\n", "the environment variable NOT_SET_AT_ALL is not set"),
        ("database: {database: d, port: seven}\n", "must be a whole number from 1 to 65535"),
        ("database: {database: d}\nprotected_tables: [{name: t, mode: append-only}]\n", "did you mean append_only?"),
        ("a: [1\n", "not valid YAML"),
        ("a: &x [1]\nb: *x\n", "aliases (*name) are not supported"),
        ("[" * 100 + "]" * 100, "levels of nesting"),
        ("x" * (1 << 21), "expected at most"),
        ("", "expected keys and values"),
    ],
)
def test_a_configuration_with_mistakes_is_one_clear_error(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "witnz.yaml").write_text(text)
    for words in (["config", "check"], ["status"]):
        found = Cli(tmp_path).run(*words).expect(2)
        assert message in found.err
        assert found.out == ""
        assert len(found.err) < 1000


def test_every_key_is_explained(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    found = cli.run("config", "explain", "verify_interval").expect(0).out
    assert found.startswith("protected_tables[].verify_interval\n")
    assert "default: 5m" in found
    assert cli.json("config", "explain", "database.password")["keys"][0]["secret"] is True
    assert len(cli.json("config", "explain", "protected_tables")["keys"]) > 5
    assert "did you mean" in cli.run("config", "explain", "verify_intervall").expect(2).err


def test_the_configuration_is_found_where_the_environment_says(tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("database: {host: h, database: elsewhere, user: u}\n")
    cli = Cli(tmp_path)
    assert (
        cli.run("config", "check", "--json", env={"WITNZ_CONFIG": str(other)}).expect(0).document["cluster"]
        == "local/elsewhere"
    )
    error = cli.run("config", "check", "--json", env={"WITNZ_CONFIG": "nowhere.yaml"}).expect(2).error
    assert error["code"] == "config.missing"
