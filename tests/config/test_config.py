"""witnz.yaml as a whole: what loads, what is refused, and that everything is reported at once without a secret in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict
from pydantic import ValidationError

from tests.support.config_files import MINIMAL, SECRET, Load, loader, refusal
from witnz import config
from witnz.config import load_config
from witnz.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    return loader(tmp_path)


# --- what loads -----------------------------------------------------------------------------------------------------------


def test_the_interface_example_loads_with_its_values(load: Load, tmp_path: Path) -> None:
    (tmp_path / "hook").write_text("signing key\n")
    (tmp_path / "hook").chmod(0o600)
    (tmp_path / "eth.json").write_text("0x01\n")
    (tmp_path / "eth.json").chmod(0o600)
    loaded = load(
        """
cluster: prod.example.com/app
database: {host: db.internal, port: 5432, database: app, user: witnz, password: '${WITNZ_DB_PASSWORD}', sslmode: verify-full}
node: {id: node1, bind_addr: node1.internal:7000, http_addr: 127.0.0.1:8000, data_dir: /var/lib/witnz, bootstrap: true}
nodes:
  - {id: node1, addr: node1.internal:7000, key: "K", cosigner: "C"}
protected_tables:
  - {name: audit_logs, mode: append_only, verify_interval: 5m}
  - {name: billing.prices, mode: state_integrity, on_change: alert, require_intent: false, retain: rows,
     on_tamper: alert, alert: slack}
seal_interval: 5s
anchors:
  - {type: s3, bucket: witnz-evidence, retention: 400d, every: 15m}
  - {type: evm, rpc_url: 'https://rpc.example/v3/abc', chain_id: 1, key_file: eth.json, every: 24h,
     confirmations: 12}
  - {type: rfc3161, url: 'https://tsa.example/tsr', root: /etc/witnz/tsa.pem, every: 1h}
alerts: {enabled: true, slack_webhook: '${SLACK_WEBHOOK_URL}', pagerduty_key: PK,
  webhooks: [{url: 'https://h.example/x', secret_file: hook}]}
""",
        {"WITNZ_DB_PASSWORD": SECRET, "SLACK_WEBHOOK_URL": "https://hooks.slack.com/services/T/B/x"},
    )
    assert loaded.cluster == "prod.example.com/app"
    assert loaded.database.password is not None
    assert loaded.database.password.reveal() == SECRET
    assert loaded.node.bootstrap is True
    assert [table.name for table in loaded.protected_tables] == ["public.audit_logs", "billing.prices"]
    assert loaded.protected_tables[0].verify_interval_s == 300
    assert loaded.protected_tables[1].alert == ("slack",)
    assert [anchor.every_s for anchor in loaded.anchors] == [900, 86400, 3600]
    bucket, chain, authority = loaded.anchors
    assert (bucket.bucket, bucket.retention_s) == ("witnz-evidence", 400 * 86400)
    assert (chain.chain_id, chain.confirmations) == (1, 12)
    assert chain.key is not None
    assert chain.key.reveal() == "0x01"
    assert authority.root == Path("/etc/witnz/tsa.pem")
    hook = loaded.alerts.named_webhooks()["webhook"]
    assert hook.secret is not None
    assert hook.secret.reveal() == "signing key"
    assert loaded.missing_for_start() == []
    assert loaded.data_dir == Path("/var/lib/witnz")


def test_the_annotated_example_loads_and_is_complete() -> None:
    env = {"WITNZ_DB_PASSWORD": "p", "SLACK_WEBHOOK_URL": "https://hooks.slack.com/x", "WEBHOOK_SECRET": "w"}
    env["ONCALL_WEBHOOK_URL"] = "https://hooks.example.com/witnz"
    loaded = load_config(ROOT / "examples/witnz.yaml", env)
    assert loaded.missing_for_start() == []
    assert loaded.notices == ()
    assert loaded.database.sslrootcert == ROOT / "examples/db-ca.pem"


def test_the_first_historical_shape_loads_and_says_what_start_needs(load: Load) -> None:
    loaded = load(
        """
database: {host: db, port: 5432, name: App-DB, user: witnz, password: '${PW}'}
nodes: [{host: node1.internal}, {host: node2.internal}]
protected_tables:
  - {table: audit_logs, mode: append_only, alert: slack}
""",
        {"PW": SECRET},
    )
    assert loaded.cluster == "local/app-db"
    assert loaded.database.database == "App-DB"
    assert loaded.protected_tables[0].name == "public.audit_logs"
    assert loaded.nodes[1].address == "node2.internal:7000"
    missing = loaded.missing_for_start()
    assert "node.id is not set" in missing
    assert "node.data_dir is not set" in missing
    assert "nodes[1].key is not set" in missing
    assert any("protected_tables[0].alert names slack" in reason for reason in missing)


@pytest.mark.parametrize("peers", ["{node2: 'node2:7000', node3: 'node3:7000'}", "['node2:7000', 'node3:7000']"])
def test_the_second_historical_shape_loads_with_both_forms_of_peers(load: Load, peers: str) -> None:
    loaded = load(
        f"""
database: {{host: db, port: 5432, database: app, user: witnz, password: plain}}
hash: {{algorithm: sha256}}
raft: {{leadership_transfer_interval: 24h, follower_auto_shutdown: true}}
node: {{id: node1, bind_addr: node1:7000, grpc_addr: 'node1:7001', data_dir: /data,
  bootstrap: true, peer_addrs: {peers}, peers: [node2]}}
protected_tables: [{{name: audit_logs, verify_interval: 30m}}]
alerts: {{enabled: true, slack_webhook: 'https://hooks.slack.com/services/x'}}
"""
    )
    assert [address for _, address in loaded.node.peer_addrs] == ["node2:7000", "node3:7000"]
    assert loaded.alerts.slack_webhook is not None
    assert loaded.protected_tables[0].mode == "state_integrity"
    missing = loaded.missing_for_start()
    assert len(missing) >= 3
    assert all("nodes has no entry for" in reason for reason in missing)
    assert [notice.split()[0] for notice in loaded.notices] == ["node.grpc_addr", "node.peers", "raft", "hash"]


def test_a_single_node_without_peers_in_the_historical_shape_can_start(load: Load) -> None:
    text = MINIMAL.replace("data_dir", "bind_addr: 'node1:7000', bootstrap: true, peer_addrs: [], data_dir")
    assert load(text).missing_for_start() == []


def test_an_empty_section_counts_as_absent(load: Load) -> None:
    loaded = load(MINIMAL + "alerts:\nprotected_tables:\nlog:\n")
    assert loaded.alerts.enabled is True
    assert loaded.protected_tables == ()


def test_plain_scalars_keep_their_text(load: Load) -> None:
    loaded = load(
        MINIMAL.replace("user: witnz", "user: 0123, password: 1_000")
        + "socket_group: no\nprotected_tables: [{name: 2024-01-01}]\n"
    )
    assert (loaded.database.user, loaded.socket_group) == ("0123", "no")
    assert loaded.database.password is not None
    assert loaded.database.password.reveal() == "1_000"
    assert loaded.protected_tables[0].relation == ("public", "2024-01-01")


def test_table_finds_by_canonical_name(load: Load) -> None:
    loaded = load(
        MINIMAL
        + "protected_tables: [{name: '\"odd.name\"'}, {name: t, schema: sales}, {name: 'größe.maß'}, {name: sales.a%2Eb}]\n"
    )
    assert [table.relation for table in loaded.protected_tables] == [
        ("public", "odd.name"),
        ("sales", "t"),
        ("größe", "maß"),
        ("sales", "a.b"),
    ]
    found = loaded.table("public.odd%2Ename")
    assert found is loaded.protected_tables[0]
    assert loaded.table("public.other") is None


def test_derived_names_fit_postgresql_and_differ_by_cluster(load: Load) -> None:
    loaded = load(MINIMAL)
    assert loaded.cluster == "local/app"
    assert loaded.socket_path == Path("/var/lib/witnz/witnz.sock")
    assert re.fullmatch(r"witnz_node1_[0-9a-f]{8}", loaded.slot_name)
    assert re.fullmatch(r"witnz_local_app_[0-9a-f]{8}", loaded.publication)
    assert config.default_slot("a", "n-1") != config.default_slot("b", "n-1")
    longest = config.default_publication("x" * 200 + "/y")
    assert len(longest) <= 63
    assert re.fullmatch(r"[a-z0-9_]+", config.default_publication("prod.example.com/app-1"))
    overridden = load(MINIMAL + "slot_name: mine\npublication: ours\nsocket_path: run/s.sock\n")
    assert (overridden.slot_name, overridden.publication) == ("mine", "ours")
    assert overridden.path is not None
    assert overridden.socket_path == overridden.path.parent / "run/s.sock"


@pytest.mark.parametrize(
    ("database", "cluster"), [("app", "local/app"), ("My App", "local/my-app"), ("größe", "local/gr--e"), ("..", "local/-")]
)
def test_the_default_cluster_follows_the_database_name(database: str, cluster: str) -> None:
    assert config.default_cluster(database) == cluster


def test_connection_params_are_what_libpq_calls_them(load: Load) -> None:
    params = load(
        MINIMAL.replace("user: witnz", f"user: witnz, password: {SECRET}, sslmode: require")
    ).database.connection_params()
    assert params["dbname"] == "app"
    assert params["password"] == SECRET
    assert "sslcert" not in params


def test_conninfo_is_read_by_libpq_as_it_was_meant(load: Load) -> None:
    hostile = r"it's \ 'quoted'"
    database = load("database: {host: /tmp, database: 'my db', user: \"o'neil\", password: '${P}'}\n", {"P": hostile}).database
    read = {name: str(value) for name, value in conninfo_to_dict(database.conninfo()).items()}
    assert read == database.connection_params()
    assert (read["dbname"], read["user"], read["password"]) == ("my db", "o'neil", hostile)


def test_a_config_cannot_be_changed(load: Load) -> None:
    loaded = load(MINIMAL)
    with pytest.raises(ValidationError):
        loaded.cluster = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        loaded.database.host = "other"  # type: ignore[misc]


# --- where it is looked for -----------------------------------------------------------------------------------------------


def test_the_file_is_searched_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "witnz.yaml").write_text(MINIMAL + "cluster: here\n")
    (tmp_path / "named.yaml").write_text(MINIMAL + "cluster: named\n")
    (tmp_path / "given.yaml").write_text(MINIMAL + "cluster: given\n")
    env = {"WITNZ_CONFIG": str(tmp_path / "named.yaml")}
    assert load_config(None, {}).cluster == "here"
    assert load_config(None, env).cluster == "named"
    assert load_config(tmp_path / "given.yaml", env).cluster == "given"


def test_a_named_file_that_is_missing_is_not_replaced_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "witnz.yaml").write_text(MINIMAL)
    with pytest.raises(ConfigError, match=r"gone\.yaml: no such file") as caught:
        load_config(None, {"WITNZ_CONFIG": "gone.yaml"})
    assert caught.value.code == "config.missing"


def test_no_file_at_all_names_the_places_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"witnz\.yaml, /etc/witnz/witnz\.yaml") as caught:
        load_config(None, {})
    assert "witnz init" in caught.value.hint


# --- what is refused ------------------------------------------------------------------------------------------------------

REFUSED = [
    ("databse: {}", "databse: unknown key; did you mean database?"),
    ("database: {databse: x}", "database.databse: unknown key; did you mean database?"),
    ("zzz: 1", "zzz: unknown key; here go cluster, database,"),
    ("database: {port: abc, database: a}", 'database.port = "abc": must be a whole number from 1 to 65535'),
    ("database: {port: 65536, database: a}", 'database.port = "65536"'),
    ("database: {port: [5432], database: a}", "database.port: must be a whole number"),
    ("database: {host: db}", "database.database: is required"),
    ("database: text", "database: must be keys with values, found a single value"),
    ("database: [a]", "database: must be keys with values, found a list"),
    ("database: {database: a, name: b}", 'database.name = "b": is given beside database.database'),
    ("database: {database: a, sslmode: verify_full}", "did you mean verify-full?"),
    ("cluster: Prod", 'cluster = "Prod": must be parts of a-z'),
    ("node: {id: Node_1}", 'node.id = "Node_1": must be 1 to 32 of a-z 0-9 -'),
    ("node: {id: n, bind_addr: nowhere}", 'node.bind_addr = "nowhere": must be host:port'),
    ("node: {bootstrap: maybe}", 'node.bootstrap = "maybe": must be true or false'),
    ("node: {peer_addrs: {Node2: 'a:1'}}", "node.peer_addrs: "),
    ("nodes: {}", "nodes: must be a list, found keys with values"),
    ("nodes: [{id: a}, {id: a}]", 'nodes[1].id = "a": is a, which nodes[0] already is'),
    ("nodes: [{addr: 'a:1', host: a}]", "nodes[0].host"),
    ("seal_interval: 5", 'seal_interval = "5": must be a duration'),
    ("seal_interval: 2h", 'seal_interval = "2h": must be a duration from 50ms to 1h'),
    ("slot_name: My-Slot", 'slot_name = "My-Slot": must be 1 to 63 of a-z 0-9 _'),
    ("max_retained_wal: 10 gigs", 'max_retained_wal = "10 gigs"'),
    ("max_retained_wal: 1kB", "must be a size from 1MB"),
    ("hash: {algorithm: xxhash64}", 'hash.algorithm = "xxhash64": must be sha256'),
    ("protected_tables: [{mode: append_only}]", "protected_tables[0].name: is required"),
    ("protected_tables: [text]", "protected_tables[0]: must be keys with values"),
    ("protected_tables: [{name: t, mode: append-only}]", "did you mean append_only?"),
    ("protected_tables: [{name: a.b.c}]", 'protected_tables[0].name = "a.b.c": must be table or schema.table'),
    ("protected_tables: [{name: a.b, schema: c}]", "protected_tables[0].schema"),
    ("protected_tables: [{name: t}, {table: public.t}]", "is public.t, which protected_tables[0] already lists"),
    ("protected_tables: [{name: t, verify_interval: 10ms}]", "must be a duration from 1s to 400d"),
    ("protected_tables: [{name: t, alert: sms}]", "names 'sms'; there is log, slack, pagerduty"),
    ("protected_tables: [{name: t, on_tamper: repair}]", "needs retain: rows"),
    ("protected_tables: [{name: t, on_tamper: repair, retain: rows}]", "needs repair_url_file"),
    ("anchors: [{bucket: x}]", "anchors[0].type: is required"),
    ("anchors: [{type: s3, every: soon}]", 'anchors[0].every = "soon"'),
    ("anchors: [{type: s3}]", "anchors[0].bucket: is required for type s3"),
    ("anchors: [{type: s3, bucket: x, chain_id: 1}]", "belongs to anchors of type evm, not s3"),
    ("anchors: [{type: s3, buckt: x}]", "unknown key; did you mean bucket?"),
    ("anchors: [{type: s3, bucket: x, retention: 5s}]", "a duration from 1m"),
    ("anchors: [{type: basic}]", "needs either directory or git"),
    ("anchors: [{type: basic, directory: a, git: b}]", "needs either directory or git"),
    ("anchors: [{type: x, name: a}, {type: y, name: a}]", "which anchors[0] is called already"),
    ("anchors: [{type: rfc3161, url: 'ftp://a'}]", "must be an http:// or https:// URL"),
    ("alerts: {webhooks: [{secret: x}]}", "alerts.webhooks[0].url: is required"),
    ("alerts: {webhooks: [{url: 'http://a/', name: slack}]}", "which is taken"),
    ("alerts: {webhooks: [{url: 'http://a/', name: a}, {url: 'http://b/', name: a}]}", "alerts.webhooks[1].name"),
    ("alerts: {max_per_minute: 0}", "must be a whole number from 1 to 6000"),
    ("log: {level: loud}", "must be debug, info, warning or error"),
]


@pytest.mark.parametrize(("text", "expected"), REFUSED, ids=[text for text, _ in REFUSED])
def test_a_wrong_value_is_refused_with_path_value_and_what_is_allowed(load: Load, text: str, expected: str) -> None:
    base = "" if text.startswith("database") else MINIMAL
    if text.split(":", 1)[0] == "node":
        base = "database: {database: app}\n"
    error = refusal(load, base + text + "\n")
    assert expected in str(error)
    assert re.search(r"\n  line \d+: ", str(error))


def test_every_problem_is_reported_at_once_in_the_order_of_the_file(load: Load) -> None:
    error = refusal(
        load,
        f"""databse: {{}}
database:
  port: abc
  password: {SECRET}
  passwrd: {SECRET}
node: {{id: BAD}}
seal_interval: 7
protected_tables:
  - {{name: t, mode: x, on_tamper: repair}}
  - {{name: t}}
alerts: {{slack_webhook: '${{SLACK}}', pagerduty_key: [{SECRET}], webhooks: [{{url: 'ftp://{SECRET}'}}]}}
""",
    )
    lines = str(error).splitlines()
    assert lines[0].endswith("witnz.yaml: 13 problems")
    numbers = [int(line.split()[1].rstrip(":")) for line in lines[1:]]
    assert len(numbers) == 13
    assert numbers == sorted(numbers)
    named = {line.split()[2].rstrip(":") for line in lines[1:]}
    assert named == {
        "databse",
        "database.database",
        "database.port",
        "database.passwrd",
        "node.id",
        "seal_interval",
        "protected_tables[0].mode",
        "protected_tables[0].on_tamper",
        "protected_tables[1].name",
        "alerts.slack_webhook",
        "alerts.pagerduty_key",
        "alerts.webhooks[0].url",
    }


def test_a_variable_that_is_not_set_is_named_with_its_path(load: Load) -> None:
    error = refusal(load, MINIMAL.replace("user: witnz", "user: witnz, password: '${WITNZ_DB_PASSWORD}'"))
    assert "database.password: the environment variable WITNZ_DB_PASSWORD is not set" in str(error)
    assert str(error).count("\n") == 1


def test_a_value_that_a_variable_expanded_to_is_not_shown(load: Load) -> None:
    error = refusal(load, MINIMAL + "socket_group: '${A}'\nseal_interval: '${B}'\n", {"A": "x\ny", "B": SECRET})
    assert 'seal_interval = "${B}": must be a duration' in str(error)


def test_a_url_where_a_host_belongs_is_shown_without_its_password(load: Load) -> None:
    error = refusal(load, f"database: {{port: 'postgres://u:{SECRET}@h/d', database: a}}\n")
    assert "postgres://********@h/d" in str(error)


def test_variables_expand_in_any_string_once(load: Load) -> None:
    loaded = load(
        MINIMAL.replace("port", "x").replace("user: witnz", "user: 'w-${WHO}', port: '${PORT}', password: 'a$b$${c}${D}'"),
        {"WHO": "itnz", "PORT": "6543", "D": "${WHO}"},
    )
    assert loaded.database.user == "w-itnz"
    assert loaded.database.port == 6543
    assert loaded.database.password is not None
    assert loaded.database.password.reveal() == "a$b${c}${WHO}"


@pytest.mark.parametrize("value", ["${", "${}", "${A B}", "${A:-x}", "${1}", "a${A"])
def test_a_malformed_variable_is_refused(load: Load, value: str) -> None:
    assert "names no variable" in str(refusal(load, MINIMAL + f"socket_group: '{value}'\n", {"A": "1"}))


def test_a_socket_path_too_long_for_the_system_is_missing_for_start(load: Load) -> None:
    loaded = load(MINIMAL.replace("/var/lib/witnz", "/" + "x" * 110))
    assert any("socket_path must be shorter" in reason for reason in loaded.missing_for_start())
