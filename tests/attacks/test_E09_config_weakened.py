"""E09: one node's file names a table no more, and another under looser rules: a finding everywhere, and nothing is weaker."""

from __future__ import annotations

import yaml

from tests.support.cluster import LEDGER, Trio
from witnz.config import load_config


def test_a_weaker_file_weakens_nothing_and_is_journalled(trio: Trio) -> None:
    victim = trio.followers()[0]
    path = trio.directory / victim / "witnz.yaml"
    document = yaml.safe_load(path.read_text())
    document["protected_tables"] = [{"name": "ledger", "mode": "state_integrity", "on_change": "record"}]
    trio.halt(victim)
    path.write_text(yaml.safe_dump(document))
    trio.configs[victim] = load_config(path, {})
    trio.run(victim)
    trio.ready()
    for node in trio.nodes:
        found = {f.table: f for f in trio.findings(node) if f.cls == "config.changed"}
        if node != victim:
            trio.wait_for(node, "config.changed")
            continue
        assert set(found) == {LEDGER, "public.untouched"}
        assert "mode is looser" in found[LEDGER].detail
    trio.database.sql("UPDATE ledger SET amount = 1 WHERE id = 2", user="postgres")
    for node in trio.nodes:
        assert trio.wait_for(node, "violation.update", "2").table == LEDGER
    trio.settled()
    journalled = [record.body["class"] for record in trio.records(trio.leader) if record.type == "finding"]
    assert journalled.count("config.changed") == 2
    trio.assert_alike(expected=lambda finding: finding.cls in ("config.changed", "violation.update"))
