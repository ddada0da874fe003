"""``witnz start`` and the exit codes of everything that keeps a node, or a command, from working."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.conftest import Site
from tests.support.cli import ROOT, Cli, wait_until
from tests.support.disk import reason_for_none, small_disk
from witnz.config import load_config

AS_ROOT = os.geteuid() == 0
NOBODY = 65534


def test_a_signal_drains_and_stops_with_exit_code_0(site: Site) -> None:
    with site.cli.start("--json") as started:
        assert '"schema": "witnz.start/1"' in started.first_line + started.process.stdout.readline().decode()  # type: ignore[union-attr]
        wait_until(lambda: site.cli.json("status")["node"]["state"] == "running", "the node to run")
        site.database.sql("INSERT INTO audit_logs SELECT i, 'late', i FROM generate_series(5001, 5100) i")
        assert started.stop(signal.SIGTERM) == 0
    assert not (site.folder / "witnz-data" / "witnz.sock").exists()
    assert "Traceback" not in started.log.read_text()
    document = site.cli.json("verify", "audit_logs")
    assert document["tables"][0]["rows"] == 300
    assert site.cli.json("verify", "--store")["verdict"] == "VERIFIED"


def test_it_says_where_it_listens_and_logs_to_stderr_only(site: Site) -> None:
    with site.cli.start() as started:
        socket = site.folder / "witnz-data" / "witnz.sock"
        assert started.first_line == f"node node1 of local/{site.database.name} listens on {socket}\n"
        wait_until(lambda: "table was verified" in started.log.read_text(), "a scheduled verification")
        assert started.stop(signal.SIGINT) == 0


def test_a_signal_during_the_start_counts_once_the_node_stands(site: Site) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "witnz", "start"],
        cwd=site.folder,
        env=site.cli._environment(None),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    data = site.folder / "witnz-data"
    wait_until(lambda: (data / "lock").exists() and (data / "lock").read_text().strip(), "the lock")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert b"Traceback" not in err


# -- what keeps it from starting ----------------------------------------------------------------------------------------------


def test_what_the_configuration_lacks_is_listed_at_once(tmp_path: Path) -> None:
    (tmp_path / "witnz.yaml").write_text("database: {database: app}\n")
    error = Cli(tmp_path).run("start", "--json").expect(2).error
    assert error["code"] == "config.incomplete"
    for missing in ("database.host", "database.user", "node.id", "node.data_dir"):
        assert f"{missing} is not set" in error["message"]
    found = Cli(tmp_path).run("config", "check").expect(0)
    assert "`witnz start` still needs:" in found.out


@pytest.mark.parametrize(
    "words", [["start"], ["status"], ["verify"], ["verify", "--store"], ["findings", "list"], ["keys", "show"]]
)
def test_before_init_every_command_says_so(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "witnz.yaml").write_text(
        "database: {host: h, database: d, user: u}\nnode: {id: node1, data_dir: data}\nprotected_tables: []\n"
    )
    error = Cli(tmp_path).run(*words, "--json").expect(10).error
    assert error["code"] == "store.not-initialised"
    assert "witnz init" in error["hint"]


@pytest.mark.parametrize("words", [["start"], ["status"], ["config", "check"], ["doctor"]])
def test_without_a_configuration_every_command_says_so(words: list[str], tmp_path: Path) -> None:
    error = Cli(tmp_path).run(*words, "--json").expect(2).error
    assert error["code"] == "config.missing"


def test_a_database_that_is_gone_is_exit_code_14(site: Site) -> None:
    text = site.config.read_text()
    site.config.write_text(text.replace(f"port: {site.database.server.port}", "port: 1"))
    assert site.cli.run("start", "--json").expect(14).error["code"] == "database.unreachable"
    assert site.cli.run("verify", "--json").expect(14).error["code"] == "database.unreachable"
    assert site.cli.json("status")["node"]["state"] == "stopped"


def test_a_slot_that_somebody_else_reads_is_exit_code_14(site: Site) -> None:
    config = load_config(site.config, {})
    options = ("-o", "proto_version=1", "-o", f"publication_names={config.publication},{config.publication}_ins")
    words = ("-d", site.database.witnz_dsn, "-S", config.slot_name, "--start", "-f", "/dev/null", *options)
    other = site.database.server.popen("pg_recvlogical", *words)
    try:
        query = f"SELECT active FROM pg_replication_slots WHERE slot_name = '{config.slot_name}'"
        wait_until(lambda: site.database.sql(query) == [(True,)], "the slot to be in use")
        error = site.cli.run("start", "--json").expect(14).error
        assert error["code"] == "database.slot-in-use"
        assert config.slot_name in error["message"]
        assert site.cli.json("status")["node"]["state"] == "stopped"
    finally:
        other.terminate()
        other.wait(30)
    site.cli.run("verify").expect(0)


def test_the_data_directory_of_another_cluster_is_refused(site: Site) -> None:
    site.config.write_text(site.config.read_text().replace(f"cluster: local/{site.database.name}", "cluster: local/other"))
    for words in (["start"], ["status"], ["verify"], ["verify", "--store"], ["findings", "list"]):
        error = site.cli.run(*words, "--json").expect(2).error
        assert error["code"] == "store.foreign", words
    checks = {check["name"]: check["status"] for check in site.cli.json("doctor", code=6)["checks"]}
    assert checks["data_dir"] == "fail"


@pytest.mark.parametrize("damage", ["truncated", "one character", "of another node", "readable by others", "missing"])
def test_a_damaged_key_is_exit_code_12_and_named(site: Site, damage: str) -> None:
    key = site.folder / "witnz-data" / "keys" / "log.key"
    text = key.read_text()
    if damage == "truncated":
        key.write_text(text[:-10])
    elif damage == "one character":
        at = len(text) - 20
        key.write_text(text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :])
    elif damage == "of another node":
        shutil.copy(key.with_name("identity.key"), key)
    elif damage == "readable by others":
        key.chmod(0o644)
    else:
        key.unlink()
    for words in (["start"], ["verify"]):
        error = site.cli.run(*words, "--json").expect(12).error
        assert error["code"] == "key"
        assert "log.key" in error["message"]
        assert text.strip().split("+", 4)[4] not in error["message"]
    checks = {check["name"]: check["status"] for check in site.cli.json("doctor", code=6)["checks"]}
    assert checks["keys"] == "fail"
    assert site.cli.json("status")["node"]["state"] == "stopped"


def test_a_changed_store_is_tampering_and_says_where(site: Site) -> None:
    """Whoever can write the file can keep SQLite content; what they cannot do is keep the hashes."""
    site.cli.run("verify").expect(0)
    with closing(sqlite3.connect(site.folder / "witnz-data" / "witnz.db")) as store, store:
        found = store.execute("SELECT log, seq, entry FROM tail WHERE seq = 100").fetchone()
        changed = found[2].replace(b"\t99\t", b"\t98\t")
        assert changed != found[2]
        store.execute("UPDATE tail SET entry = ? WHERE log = ? AND seq = 100", (changed, found[0]))
    document = site.cli.json("verify", "--store", code=3)
    assert document["verdict"] == "TAMPERED"
    failed = [check for check in document["checks"] if check["status"] == "fail"]
    assert failed[0]["name"] == "log public.audit_logs/1"
    assert "201" in failed[0]["detail"]
    assert "FAIL  log public.audit_logs/1: " in site.cli.run("verify", "--store").expect(3).out


def test_a_store_that_is_no_database_is_tampering(site: Site) -> None:
    store = site.folder / "witnz-data" / "witnz.db"
    store.write_bytes(b"not a database" * 1000)
    assert site.cli.json("verify", "--store", code=3)["verdict"] == "TAMPERED"
    for words in (["status"], ["start"], ["verify"], ["findings", "list"]):
        error = site.cli.run(*words, "--json").expect(3).error
        assert error["code"] == "store.corrupt", words


@pytest.mark.skipif(not AS_ROOT, reason="only root becomes somebody else")
def test_a_data_directory_that_cannot_be_written_is_not_used(site: Site) -> None:
    """First one that belongs to somebody else, then one's own that is read-only."""
    data = site.folder / "witnz-data"
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    for path in (site.folder, *site.folder.parents):
        path.chmod(path.stat().st_mode | 0o011)
    site.config.chmod(0o644)
    importing = [*become, sys.executable, "-c", "import witnz, psycopg"]
    if shutil.which("setpriv") is None or subprocess.run(importing, cwd=ROOT, check=False, capture_output=True).returncode:
        pytest.skip("there is no setpriv, or the other account cannot enter this checkout")
    error = site.cli.spawn("start", "--json", wrapper=become).expect(12).error
    assert "cannot be read" in error["message"]
    for path in [data, *data.rglob("*")]:
        os.chown(path, NOBODY, NOBODY)
        path.chmod(0o500 if path.is_dir() else 0o400)
    for words in (["start"], ["verify"]):
        error = site.cli.spawn(*words, "--json", wrapper=become).expect(1).error
        assert error["code"] == "store.full"
        assert "cannot be written" in error["message"]
    assert not (data / "lock").exists()
    assert site.cli.spawn("status", "--json", wrapper=become).expect(0).document["node"]["state"] == "stopped"
    assert site.cli.spawn("verify", "--store", "--json", wrapper=become).expect(0).document["verdict"] == "VERIFIED"


def capture_check(site: Site) -> dict[str, str]:
    """What ``witnz status`` says of the capture."""
    return next(check for check in site.cli.json("status")["checks"] if check["name"] == "capture")


def test_a_full_disk_is_said_and_waited_for_and_loses_nothing(site: Site, tmp_path: Path) -> None:
    """The process stays, says why it records nothing, and goes on where it stood once there is space."""
    if reason := reason_for_none(tmp_path):
        pytest.skip(reason)
    with small_disk(tmp_path / "small", 8) as disk:
        data = disk.path / "data"
        shutil.move(site.folder / "witnz-data", data)
        site.config.write_text(site.config.read_text().replace("data_dir: witnz-data", f"data_dir: {data}"))
        site.cli.run("verify").expect(0)
        with site.cli.start() as started:
            wait_until(lambda: capture_check(site)["status"] == "ok", "the node to record")
            disk.fill()
            site.database.sql("INSERT INTO audit_logs SELECT i, repeat('late', 50), i FROM generate_series(5001, 9000) i")
            wait_until(lambda: capture_check(site)["status"] == "fail", "a status that names the full disk")
            assert "recording waits until the store can be written" in capture_check(site)["message"]
            assert "store.full" in started.log.read_text()
            disk.free()
            wait_until(lambda: capture_check(site)["status"] == "ok", "the node to record again")
            document = site.cli.json("verify", "audit_logs")
            assert (document["verdict"], document["tables"][0]["rows"]) == ("VERIFIED", 4200)
            assert started.stop(signal.SIGTERM) == 0
        assert site.cli.json("verify", "--store")["verdict"] == "VERIFIED"
        assert site.findings() == [], started.log.read_text()


def test_a_configured_table_is_no_stranger_while_the_database_is_gone(site: Site) -> None:
    """A table was added to the configuration and is not recorded: INCONCLUSIVE with the reason, by name and among all."""
    name, server = site.database.name, site.database.server
    with site.cli.start():
        wait_until(lambda: len(site.cli.json("status")["tables"]) == 2, "both tables to be recorded")
        site.config.write_text(
            site.config.read_text().replace("protected_tables:\n", "protected_tables:\n  - name: later\n", 1)
        )
        document = site.cli.run("verify", "--all", "--json").expect(4).document
        assert document["not_checked"] == ["public.later: it is configured and is not being recorded"]
        assert len(document["tables"]) == 2, "the others were looked at"
        server.sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        try:
            server.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
            wait_until(lambda: capture_check(site)["status"] == "fail", "the node to miss its database")
            document = site.cli.run("verify", "later", "--json").expect(4).document
            (said,) = document["not_checked"]
            assert document["verdict"] == "INCONCLUSIVE" and "the replication stream is not connected" in said
            assert site.cli.run("verify", "nosuch", "--json").expect(2).error["message"] == "public.nosuch is not protected"
        finally:
            server.sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def test_a_role_that_lost_its_right_is_named_and_asked_again(site: Site) -> None:
    """Status names the right that is missing and how to grant it; with the grant, the process goes on by itself."""
    role = f"w_{site.database.name}"
    site.cli.run("verify").expect(0)  # which records the table first
    site.database.sql(f"CREATE ROLE {role} LOGIN REPLICATION IN ROLE witnz", user="postgres")
    site.config.write_text(site.config.read_text().replace("user: witnz", f"user: {role}"))
    with site.cli.start() as started:
        wait_until(lambda: capture_check(site)["status"] == "ok", "the node to record")
        site.database.sql(f"ALTER ROLE {role} NOREPLICATION", user="postgres")
        end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}' AND backend_type = 'walsender'"
        site.database.sql(end, user="postgres")
        site.database.sql("INSERT INTO audit_logs VALUES (5001, 'meanwhile', 1)")
        wait_until(lambda: "ALTER ROLE" in capture_check(site)["hint"], "a status that says how to grant the right")
        assert capture_check(site)["status"] == "fail"
        assert "database.permission" in started.log.read_text()
        assert site.cli.spawn("verify", "audit_logs", "--json").expect(4).document["verdict"] == "INCONCLUSIVE"
        site.database.sql(f"ALTER ROLE {role} REPLICATION", user="postgres")
        wait_until(lambda: capture_check(site)["status"] == "ok", "the node to record again")
        assert site.cli.json("verify", "audit_logs")["tables"][0]["rows"] == 201
        assert started.stop(signal.SIGTERM) == 0
    site.database.sql(f"DROP OWNED BY {role}; DROP ROLE {role}", user="postgres")
