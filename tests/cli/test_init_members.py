"""``witnz init`` on each of three members: keys first, then one founds the cluster and all know each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.conftest import Site
from tests.support.cli import Cli
from witnz.config import load_config
from witnz.core.policy import parse_policy
from witnz.node.view import load_journal_state
from witnz.store.database import Database

MakeSite = Callable[..., Site]
IDS = ("node1", "node2", "node3")


@dataclass
class Machines:
    """One folder for each member, all about one database."""

    site: Site
    cli: dict[str, Cli]

    def words(self, node: str) -> list[str]:
        members = [f"--member={name}={name}.internal:7000" for name in IDS]
        return ["init", "--db", self.site.url, "--table", "audit_logs:append_only", f"--node={node}", *members]

    def file(self, node: str) -> Path:
        return self.site.folder / node / "witnz.yaml"

    def exchange(self) -> None:
        """As a person does: the line that each member printed goes into the files of the others."""
        lines = {
            node: next(line for line in self.file(node).read_text().splitlines() if f"id: {node}, addr" in line) for node in IDS
        }
        for node in IDS:
            text = self.file(node).read_text()
            for other in IDS:
                text = text.replace(f"  - {{id: {other}, addr: {_quoted(other)}}}\n", f"{lines[other]}\n")
            self.file(node).write_text(text)


def _quoted(node: str) -> str:
    return f'"{node}.internal:7000"'


@pytest.fixture
def machines(make_site: MakeSite) -> Machines:
    site = make_site()
    for node in IDS:
        (site.folder / node).mkdir()
    return Machines(site, {node: Cli(site.folder / node) for node in IDS})


def test_three_members_come_to_know_each_other(machines: Machines) -> None:
    for node in IDS:
        first = machines.cli[node].run(*machines.words(node), "--json").expect(0).document
        assert first["complete"] is False
        assert first["member"]["id"] == node
        assert [word.split(" is ")[0] for word in first["missing"][:1]] == [f"nodes[{0 if node != 'node1' else 1}].key"]
        assert not (machines.site.folder / node / "witnz-data" / "witnz.db").exists()
    said = machines.cli["node2"].run("init").expect(0).out
    assert "under nodes" in said
    assert machines.cli["node2"].json("init")["created"] == []
    machines.exchange()
    joining = machines.cli["node2"].run("init", "--json").expect(14)
    assert joining.error["code"] == "publication.missing"
    founded = (
        machines.cli["node1"]
        .run("init", "--admin-url", machines.site.owner_url, "--json", "--operator=alice")
        .expect(0)
        .document
    )
    assert founded["complete"] is True
    assert parse_policy(founded["policy"]).groups[0].threshold == 2
    for node in ("node2", "node3"):
        joined = machines.cli[node].run("init", "--json").expect(0).document
        assert joined["complete"] is True
        assert any(made.startswith("replication slot") for made in joined["created"])
        assert joined["operator_key"] is None
    slots = {
        slot
        for (slot,) in machines.site.database.sql(
            "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()"
        )
    }
    assert slots == {load_config(machines.file(node), {}).slot_name for node in IDS}
    with Database.open(machines.site.folder / "node1" / "witnz-data" / "witnz.db", read_only=True) as db:
        state = load_journal_state(db)
    assert (sorted(state.members), state.quorum) == (list(IDS), 2)
    assert [state.members[node].addr for node in IDS] == [f"{node}.internal:7000" for node in IDS]
    data = machines.site.folder / "node2" / "witnz-data" / "keys"
    assert sorted(path.name for path in data.iterdir()) == ["cosigner.key", "identity.key", "retain.key"]


def test_a_member_whose_line_is_the_last_one_missing_prints_it_all_the_same(machines: Machines) -> None:
    """As one does that takes the place of another, in a file that lists the keys of all the others."""
    for node in ("node1", "node3"):
        machines.cli[node].run(*machines.words(node)).expect(0)
    config = machines.file("node2")
    machines.cli["node2"].run(*machines.words("node2")).expect(0)
    lines = config.read_text().splitlines()
    config.write_text(
        "\n".join(f"  - {{id: node2, addr: {_quoted('node2')}}}" if "id: node2, addr" in x else x for x in lines) + "\n"
    )
    machines.exchange()
    said = machines.cli["node2"].run("init").expect(0).out
    assert "  - {id: node2, addr:" in said and 'cosigner: "' in said
    assert "next:  witnz init again" in said
    assert "policy" not in said and "Still missing" not in said


def test_keys_in_the_file_that_are_not_here_are_refused(machines: Machines) -> None:
    for node in IDS:
        machines.cli[node].run(*machines.words(node)).expect(0)
    machines.exchange()
    text = machines.file("node3").read_text()
    other = load_config(machines.file("node3"), {}).nodes[0].key or ""
    own = load_config(machines.file("node3"), {}).nodes[2].key or ""
    machines.file("node3").write_text(text.replace(own, other))
    refused = machines.cli["node3"].run("init", "--json").expect(12)
    assert "another key of node3" in refused.error["message"]


def test_a_member_list_that_lacks_this_node_is_refused(machines: Machines) -> None:
    words = [word for word in machines.words("node1") if word != "--node=node1"]
    refused = machines.cli["node1"].run(*words, "--node=node9").expect(2)
    assert "not this node, node9" in refused.err
    assert not machines.file("node1").exists()
    assert "expected ID=HOST:PORT" in machines.cli["node1"].run(*words, "--member=node2").expect(2).err
