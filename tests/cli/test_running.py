"""Commands beside a running node, and the same on the store of a node that has stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Site
from tests.support.cli import Cli, wait_until
from witnz.core.bundle import parse_bundle

TABLES = ["public.audit_logs", "billing.prices"]


def without_times(document: Any) -> Any:
    """A document without what depends on when it was asked for."""
    moving = {"at", "age_s", "last_verified_s", "created", "cosigned_by", "last_seen_s"}
    if isinstance(document, dict):
        return {name: without_times(value) for name, value in document.items() if name not in moving}
    return [without_times(item) for item in document] if isinstance(document, list) else document


def all_sealed(status: dict[str, Any]) -> dict[str, Any] | None:
    """The status, if all that is recorded is sealed in it."""
    return status if all(table["sealed"] == table["entries"] for table in status["tables"]) else None


def entries_of_audit_logs(site: Site) -> int:
    """The schema, and every row that was ever inserted."""
    return 1 + rows_of_audit_logs(site)


def rows_of_audit_logs(site: Site) -> int:
    ((rows,),) = site.database.sql("SELECT count(*) FROM audit_logs")
    return int(rows)


def test_status_has_the_fields_that_are_promised(running: Site) -> None:
    document = running.cli.json("status")
    assert document["schema"] == "witnz.status/1"
    assert document["node"].keys() >= {"id", "role", "state", "version"}
    assert (document["node"]["id"], document["node"]["role"], document["node"]["state"]) == ("node1", "leader", "running")
    assert document["cluster"].keys() >= {"origin", "leader", "term", "quorum", "members"}
    assert document["cluster"]["members"][0].keys() >= {"id", "state", "size", "last_seen_s"}
    assert document["source"].keys() >= {"connected", "slot", "lag_bytes", "last_event_s", "retained_bytes"}
    assert document["source"]["connected"] is True
    assert document["checkpoint"].keys() >= {"size", "root", "final", "age_s", "cosigned_by"}
    assert document["anchors"] == []
    assert [table["name"] for table in document["tables"]] == sorted(TABLES)
    for table in document["tables"]:
        assert table.keys() >= {
            *("name", "mode", "entries", "live_rows", "root", "chain", "lsn", "last_verified_s", "verdict", "findings_open"),
        }
    assert all(check.keys() == {"name", "status", "message", "hint", "since"} for check in document["checks"])
    assert isinstance(document["findings_open"], int)


def test_status_as_text_says_in_one_sentence_what_all_of_it_comes_to(running: Site) -> None:
    lines = running.cli.spawn("status").expect(0).out.splitlines()
    assert lines[0] == "All 2 tables as recorded, when last verified."
    assert any(line.startswith("node         node1 of local/t_") and "running, leader" in line for line in lines)
    table = next(line for line in lines if "public.audit_logs" in line)
    assert table.split()[:3] == ["public.audit_logs", "append_only", "VERIFIED"]
    assert table.split()[-3:] == [str(rows_of_audit_logs(running)), str(entries_of_audit_logs(running)), "0"]


def test_status_check_and_strict_pass_while_all_is_well(running: Site) -> None:
    wait_until(lambda: running.cli.run("status", "--check", "--strict").code == 0, "every check to be ok")


def test_watching_shows_the_status_until_it_is_interrupted(running: Site) -> None:
    import signal
    import subprocess
    import sys

    command = [sys.executable, "-m", "witnz", "status", "--watch", "--interval", "0.2"]
    process = subprocess.Popen(command, cwd=running.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    seen = [process.stdout.readline() for _ in range(20)]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert sum(line.startswith("node  ") for line in seen) >= 2
    assert "\x1b" not in "".join(seen)
    error = running.cli.run("status", "--watch", "--json").expect(2).error
    assert "--watch shows text" in error["message"]


def test_verify_gives_the_promised_document(running: Site) -> None:
    document = running.cli.spawn("verify", "--all", "--json").expect(0).document
    assert document.keys() >= {"schema", "verdict", "checks", "findings", "not_checked", "tables"}
    assert document["verdict"] == "VERIFIED"
    assert [check["name"] for check in document["checks"]] == sorted(TABLES)
    assert all(check.keys() == {"name", "status", "detail"} for check in document["checks"])
    for table in document["tables"]:
        assert table.keys() >= {"table", "snapshot_lsn", "rows", "expected_root", "found_root", "seconds"}
        assert table["expected_root"] == table["found_root"]
    assert [table["rows"] for table in document["tables"]] == [3, rows_of_audit_logs(running)]


def test_verify_names_tables_as_people_do(running: Site) -> None:
    for name in ("audit_logs", "public.audit_logs", '"audit_logs"'):
        document = running.cli.json("verify", name)
        assert [table["table"] for table in document["tables"]] == ["public.audit_logs"]
    found = running.cli.run("verify", "billing.prices", "audit_logs", "billing.prices").expect(0)
    assert found.out.splitlines()[-1] == "VERIFIED: 2 of 2 tables as recorded"
    assert running.cli.run("verify", "nosuch", "--json").expect(2).error["message"] == "public.nosuch is not protected"
    assert running.cli.run("verify", "a.b.c.d", "--json").expect(2).error["code"] == "usage"


def test_the_store_is_audited_beside_the_running_node(running: Site) -> None:
    document = running.cli.json("verify", "--store")
    assert document["verdict"] == "VERIFIED"
    assert {check["status"] for check in document["checks"]} == {"ok"}
    text = running.cli.run("verify", "--store").expect(0).out
    assert text.splitlines()[-1].startswith("VERIFIED: ")


def test_log_shows_what_was_recorded_of_a_row(running: Site) -> None:
    running.database.sql("UPDATE billing.prices SET cents = cents WHERE country = 'DE' AND product = 8")
    wait_until(lambda: len(running.cli.json("log", "show", "billing.prices")["entries"]) == 5, "the update")
    for key in ("country=DE,product=8", "product=8,country=DE", "DE\\t8"):
        document = running.cli.json("log", "show", "billing.prices", "--key", key)
        assert document["schema"] == "witnz.log/1"
        assert [entry["op"] for entry in document["entries"]] == ["baseline", "update"]
    lines = running.cli.run("log", "show", "audit_logs", "--key", "42").expect(0).out.splitlines()
    assert lines[0] == f"public.audit_logs, generation 1: {entries_of_audit_logs(running)} entries"
    assert lines[2].split()[:3] == ["43", "baseline", "42"]
    for finding in running.cli.json("findings", "list")["findings"]:  # the other tests expect none
        approve = ("findings", "approve", finding["id"], "--reason", "by the test", "--operator-key", running.operator_key)
        running.cli.run(*approve).expect(0)


def test_a_range_of_a_log_comes_in_pages_and_says_where_to_go_on(running: Site) -> None:
    found = running.cli.run("log", "show", "audit_logs", "--from", "10", "--limit", "3", "--json").expect(0)
    assert [entry["seq"] for entry in found.document["entries"]] == [10, 11, 12]
    assert found.document["next_seq"] == 13
    assert "--from 13" in found.err
    whole = running.cli.json("log", "show", "audit_logs", "--limit", "5000")
    assert (len(whole["entries"]), whole["next_seq"]) == (entries_of_audit_logs(running), None)
    assert [entry["seq"] for entry in running.cli.json("log", "show", "audit_logs", "--from", "3", "--to", "4")["entries"]] == [
        3,
        4,
    ]


def test_a_log_is_exported_in_every_format_and_never_over_another(running: Site, tmp_path: Path) -> None:
    size = entries_of_audit_logs(running)
    for fmt, files in (
        ("tiles", ["checkpoint", "tile/"]),
        ("audit-log", ["entries.jsonl", "checkpoints.jsonl"]),
        ("tsv", ["entries.tsv"]),
    ):
        target = tmp_path / fmt
        words = ("log", "export", "audit_logs", "-o", str(target), "--format", fmt)
        document = running.cli.json(*words)
        assert (document["schema"], document["files"], document["size"]) == ("witnz.log-export/1", files, size)
        assert all((target / name).exists() for name in files)
        assert running.cli.run(*words).expect(2).err.startswith("error: ")
    assert len((tmp_path / "tsv" / "entries.tsv").read_bytes().splitlines()) == size


def test_checkpoints_are_listed_shown_and_exported(running: Site, tmp_path: Path) -> None:
    listed = running.cli.json("checkpoint", "list", "--limit", "2")["checkpoints"]
    assert 1 <= len(listed) <= 2
    newest = listed[0]["size"]
    shown = running.cli.json("checkpoint", "show", str(newest))
    assert (shown["schema"], shown["size"], shown["root"]) == ("witnz.checkpoint/1", newest, listed[0]["root"])
    assert f"\n{newest}\n" in shown["note"]
    bundle = tmp_path / "bundle.witnz.json"
    made = running.cli.json("checkpoint", "export", str(newest), "-o", str(bundle))
    assert made["bytes"] == bundle.stat().st_size
    assert parse_bundle(bundle.read_bytes()).head.checkpoint.size == newest
    assert running.cli.run("checkpoint", "show", "999999", "--json").expect(2).error["code"] == "not-found"
    out = running.cli.run("checkpoint", "export", "-o", "-").expect(0).out
    assert parse_bundle(out.encode()).head.checkpoint.origin == f"local/{running.database.name}"
    assert running.cli.run("checkpoint", "export", "-o", "-", "--json").expect(2).out == ""


def test_a_row_is_proved_to_whoever_has_the_policy_and_to_nobody_else(running: Site, tmp_path: Path) -> None:
    policy, row, other = tmp_path / "policy.txt", tmp_path / "row.json", tmp_path / "other.txt"
    running.cli.run("keys", "policy", "-o", policy).expect(0)
    running.database.sql("INSERT INTO audit_logs VALUES (1000, 'new', 1)")
    wait_until(lambda: running.cli.json("log", "show", "audit_logs", "--key", "1000")["entries"], "the row")
    made = running.cli.json("prove", "audit_logs", "--key", "1000", "-o", str(row))  # waits for the next seal
    assert (made["table"], made["key"], made["file"]) == ("public.audit_logs", "1000", str(row))
    verify = ("verify", "--checkpoint", str(row))
    document = running.cli.json(*verify, "--policy", str(policy))
    assert document["verdict"] == "VERIFIED"
    assert [(shown["op"], shown["key"], shown["line_shown"]) for shown in document["rows"]] == [("insert", "1000", False)]
    assert running.cli.json(*verify, code=4)["verdict"] == "INCONCLUSIVE"
    other.write_text(policy.read_text().replace("local/", "locax/"))
    assert running.cli.run(*verify, "--policy", other).code in (2, 3)
    running.cli.run("prove", "audit_logs", "--key", "1000", "--with-row", "-o", row).expect(0)
    assert running.cli.json(*verify, "--policy", str(policy))["rows"][0]["line_shown"] is True
    assert parse_bundle(row.read_bytes()).rows[0].line == b"1000\tnew\t1"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--key", "4711"], "usage"),
        (["--seq", "99999"], "not-found"),
        (["--key", "1", "--seq", "3"], "usage"),
    ],
)
def test_what_was_not_recorded_cannot_be_proved(running: Site, words: list[str], code: str, tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    error = running.cli.run("prove", "audit_logs", *words, "-o", target, "--json").expect(2).error
    assert error["code"] == code
    assert not target.exists()


def test_who_may_only_use_the_socket_sees_the_same(running: Site, tmp_path: Path) -> None:
    """An auditor's account: a configuration that names the socket, and no data directory to look into."""
    text = running.config.read_text().replace("data_dir: witnz-data", "data_dir: nowhere")
    (tmp_path / "witnz.yaml").write_text(text + f"socket_path: {running.folder}/witnz-data/witnz.sock\n")
    auditor = Cli(tmp_path)
    assert auditor.json("status")["node"]["state"] == "running"
    assert auditor.json("verify", "audit_logs")["verdict"] == "VERIFIED"
    assert auditor.json("log", "show", "audit_logs", "--limit", "1")["entries"][0]["op"] == "schema"
    keys, own = auditor.json("keys", "show"), running.cli.json("keys", "show")
    assert (keys["log"], keys["members"], keys["quorum"]) == (own["log"], own["members"], own["quorum"])
    policy = auditor.run("keys", "policy", "-o", "-").expect(0).out
    assert policy == running.cli.run("keys", "policy", "-o", "-").expect(0).out
    assert auditor.run("log", "export", "audit_logs", "-o", tmp_path / "x", "--json").expect(10).error["code"]


def test_a_second_node_on_the_data_directory_is_refused(running: Site) -> None:
    error = running.cli.spawn("start", "--json").expect(11).error
    assert error["code"] == "store.locked"
    assert running.cli.json("status")["node"]["state"] == "running"


def test_init_beside_a_running_node_changes_nothing(running: Site) -> None:
    before = running.config.read_bytes()
    document = running.cli.json("init")
    assert (document["created"], document["complete"]) == ([], True)
    assert running.config.read_bytes() == before


def test_keys_are_shown_and_the_policy_written(running: Site, tmp_path: Path) -> None:
    document = running.cli.json("keys", "show")
    assert document["schema"] == "witnz.keys/1"
    assert [member["id"] for member in document["members"]] == ["node1"]
    assert [operator["name"] for operator in document["operators"]] == ["alice"]
    policy = running.cli.run("keys", "policy", "-o", "-").expect(0).out
    assert f"log {document['log']}" in policy.splitlines()
    assert document["members"][0]["cosigner"] in policy
    assert document["log"] in running.cli.run("keys", "show").expect(0).out


def test_a_new_key_counts_from_its_record_on(running: Site, tmp_path: Path) -> None:
    key = tmp_path / "svc.key"
    made = running.cli.json("keys", "new", "intent", "svc", "-o", str(key), "--operator-key", str(running.operator_key))
    assert made["journal_seq"] > 1
    assert key.stat().st_mode & 0o777 == 0o600
    assert {"name": "svc", "key": made["public"]} in running.cli.json("keys", "show")["intents"]
    again = running.cli.run("keys", "new", "intent", "svc", "-o", key, "--json").expect(12)
    assert again.error["code"] == "key"
    report = running.cli.json("keys", "new", "report", "audit", "-o", str(tmp_path / "r.key"))
    assert report["journal_seq"] is None
    stranger = tmp_path / "mallory.key"
    running.cli.run("keys", "new", "operator", "mallory", "-o", stranger).expect(0)
    refused = running.cli.run(
        "keys", "new", "intent", "x", "-o", tmp_path / "x.key", "--operator-key", stranger, "--json"
    ).expect(3)
    assert refused.error["code"] == "journal.forged"
    assert "x" not in [found["name"] for found in running.cli.json("keys", "show")["intents"]]


def test_a_stopped_node_shows_the_same_documents(site: Site) -> None:
    """From the store what the socket gave: only what a running node alone knows is missing."""
    asked = [
        ("findings", "list"),
        ("log", "show", "audit_logs", "--limit", "5"),
        ("checkpoint", "list"),
        ("keys", "show"),
    ]
    with site.cli.start() as started:
        site.cli.run("verify", "--all").expect(0)
        wait_until(lambda: site.cli.run("status", "--strict").code == 0, "everything to be as it should be")
        status = wait_until(lambda: all_sealed(site.cli.json("status")), "everything to be sealed")
        shown = {words: site.cli.json(*words) for words in asked}
        assert started.stop() == 0
    stopped = site.cli.json("status")
    assert stopped["node"] == {**status["node"], "role": None, "state": "stopped"}
    assert without_times(stopped["tables"]) == without_times(status["tables"])
    assert stopped["source"]["connected"] is None
    for words in asked:
        found = site.cli.json(*words)
        if words == ("checkpoint", "list"):  # stopping may have made one more
            found["checkpoints"] = found["checkpoints"][-len(shown[words]["checkpoints"]) :]
        assert without_times(found) == without_times(shown[words]), words
    assert site.cli.run("status").expect(0).out.startswith("The node is not running")
    assert site.cli.run("status", "--check", "--json").expect(6).document["node"]["state"] == "stopped"
    assert site.cli.run("status", "--strict").expect(5).err == ""
