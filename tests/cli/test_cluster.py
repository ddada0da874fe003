"""``witnz cluster``: one node becomes three, each addition signed by an operator, and shrinks again."""

from __future__ import annotations

from tests.cli.conftest import Site
from tests.support.cli import Cli
from witnz.config import load_config
from witnz.node.joining import Joining


def new_machine(site: Site, node: str) -> dict[str, str]:
    """``witnz init`` there: keys, and the line that goes into the members' files."""
    folder = site.folder / node
    folder.mkdir()
    members = [f"--member={name}={name}.internal:7000" for name in ("node1", "node2", "node3")]
    tables = ["--table=audit_logs:append_only", "--table=billing.prices"]
    words = ["init", "--db", site.url, *tables, f"--node={node}", *members]
    return dict(Cli(folder).run(*words, "--json").expect(0).document["member"])


def test_one_node_grows_to_three_and_shrinks_again(site: Site) -> None:
    entries = {node: new_machine(site, node) for node in ("node2", "node3")}
    key = str(site.operator_key)
    second = entries["node2"]
    words = ["cluster", "add", "node2", second["addr"], second["key"], "--cosigner", second["cosigner"], "--operator-key", key]
    early = site.cli.run(*words, "--json").expect(14)
    assert "there is no replication slot" in early.error["message"]
    shown = site.cli.json("cluster", "status")
    assert [(member["id"], member["state"]) for member in shown["members"]] == [("node1", None)]
    listed = {"id": "node1", "addr": "node1.internal:7000"}
    own = site.cli.json("keys", "show")["members"][0]
    listed |= {"key": own["identity"], "cosigner": own["cosigner"]}
    lines = "".join(
        f"  - {{{', '.join(f'{name}: {value!r}' for name, value in entry.items())}}}\n" for entry in (listed, *entries.values())
    )
    for folder in (site.folder, site.folder / "node2", site.folder / "node3"):
        path = folder / "witnz.yaml"
        text = path.read_text()
        if "nodes:" in text:
            text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("  - {id:"))
            path.write_text(text.replace("nodes:\n", f"nodes:\n{lines}"))
        else:
            path.write_text(text.replace("node:\n", f"nodes:\n{lines}node:\n  bind_addr: node1.internal:7000\n"))
    assert any("witnz cluster add node2" in line for line in site.cli.json("cluster", "status")["differing"])
    for node in ("node2", "node3"):
        assert Cli(site.folder / node).json("init")["complete"] is True
        added = site.cli.json("cluster", "add", node, "--operator-key", key)
        assert node in added["members"]
        path = site.folder / node / "witnz.yaml"
        path.write_text(path.read_text() + f"genesis: {added['genesis']}\n")
        config = load_config(path, {})
        assert Joining.is_due(config)
        assert config.genesis == site.cli.json("keys", "show")["genesis"]
    shown = site.cli.json("cluster", "status")
    assert ([member["id"] for member in shown["members"]], shown["quorum"]) == (["node1", "node2", "node3"], 2)
    assert shown["differing"] == ["node1 has another address in nodes (node1.internal:7000) than in force (local)"]
    positions = {member["id"]: member["from_lsn"] for member in shown["members"]}
    assert positions["node1"] == "0/0"
    slots = dict(site.database.sql("SELECT slot_name, confirmed_flush_lsn::text FROM pg_replication_slots"))
    assert positions["node2"] == slots[load_config(site.folder / "node2/witnz.yaml", {}).slot_name]
    again = site.cli.run("cluster", "add", "node2", "--operator-key", key, "--json").expect(2)
    assert "is a member already" in again.error["message"]
    for node in ("node3", "node2"):
        site.cli.run("cluster", "remove", node, "--operator-key", key).expect(0)
    assert site.cli.json("cluster", "status")["quorum"] == 1
    assert "is no member" in site.cli.run("cluster", "remove", "node9", "--operator-key", key).expect(2).err


def test_a_member_is_not_added_from_halves(site: Site) -> None:
    key = str(site.operator_key)
    missing = site.cli.run("cluster", "add", "node2", "--operator-key", key).expect(2).err
    assert "node2: addr, key, cosigner not given" in missing
    words = ["cluster", "add", "node2", "node2:7000", "no-key", "--cosigner", "x+00000000+AAAA", "--operator-key", key]
    assert "its address or a key is none" in site.cli.run(*words).expect(2).err
