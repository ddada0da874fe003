"""``witnz keys rotate``: another key is in force, and what was signed before stays verifiable under old and new policies."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Site
from witnz.core.keys import parse_verifier_key

FILES = ("identity", "cosigner", "log")


@pytest.fixture
def told(site: Site) -> Site:
    """A site whose node has run, so that there is a checkpoint."""
    site.cli.run("verify", "--all").expect(0)
    return site


def export(site: Site, name: str) -> tuple[str, str]:
    """A bundle of the newest checkpoint, and the policy of now; names of files in the site's folder."""
    site.cli.run("checkpoint", "export", "-o", f"{name}.witnz.json").expect(0)
    site.cli.run("keys", "policy", "-o", f"{name}.policy").expect(0)
    return f"{name}.witnz.json", f"{name}.policy"


def verified(site: Site, bundle: str, policy: str) -> int:
    return site.cli.run("verify", "--checkpoint", bundle, "--policy", policy).code


def test_a_nodes_keys_are_replaced_and_old_bundles_stay_verifiable(told: Site) -> None:
    old_bundle, old_policy = export(told, "old")
    shown = told.cli.json("keys", "show")
    for kind in FILES:
        key = told.folder / "witnz-data/keys" / f"{kind}.key"
        before = key.read_text()
        told.cli.run("keys", "rotate", kind, "--operator-key", str(told.operator_key), "--yes").expect(0)
        assert key.read_text() != before
        assert not key.with_name(f"{kind}.next.key").exists()
    now = told.cli.json("keys", "show")
    assert now["log"] != shown["log"]
    assert all(now["members"][0][name] != shown["members"][0][name] for name in ("identity", "cosigner"))
    told.cli.run("verify", "--all").expect(0)
    new_bundle, new_policy = export(told, "new")
    assert verified(told, old_bundle, old_policy) == 0
    assert verified(told, old_bundle, new_policy) == 0
    assert verified(told, new_bundle, new_policy) == 0
    assert verified(told, new_bundle, old_policy) == 3
    told.cli.run("keys", "policy", "--current-only", "-o", "current.policy").expect(0)
    assert verified(told, new_bundle, "current.policy") == 0
    assert verified(told, old_bundle, "current.policy") == 3
    told.cli.run("keys", "policy", "--checkpoint", "2", "-o", "then.policy").expect(0)
    assert verified(told, old_bundle, "then.policy") == 0
    told.cli.run("verify", "--store").expect(0)


def test_a_persons_key_is_replaced_under_the_next_number(told: Site) -> None:
    done = told.cli.json("keys", "rotate", "operator", "alice", "--operator-key", str(told.operator_key))
    assert (done["name"], Path(done["file"]).name) == ("alice-2", "operator-alice-2.key")
    assert [key["name"] for key in told.cli.json("keys", "show")["operators"]] == ["alice-2"]
    refused = told.cli.run("keys", "rotate", "operator", "alice-2", "--operator-key", str(told.operator_key), "--json").expect(
        3
    )
    assert "no" in refused.error["message"]
    again = told.cli.json(
        "keys", "rotate", "operator", "alice-2", "--operator-key", str(told.folder / done["file"]), "-o", "a.key"
    )
    assert again["name"] == "alice-3"
    key = str(told.folder / "a.key")
    assert "no intent key in force" in told.cli.run("keys", "rotate", "intent", "bob", "--operator-key", key).expect(2).err
    assert "has no NAME" in told.cli.run("keys", "rotate", "log", "bob", "--operator-key", key).expect(2).err


def test_a_report_is_still_made_after_the_operator_who_authorised_its_key_has_another_one(told: Site, tmp_path: Path) -> None:
    done = told.cli.json("keys", "rotate", "operator", "alice", "--operator-key", str(told.operator_key))
    assert not (told.folder / "witnz-data/keys/report.auth").exists()  # journalled while the old key still counted
    words = ("--standard", "soc2", "--from", "2020-01-01", "--to", "2999-12-31", "-o", tmp_path / "made")
    told.cli.run("report", *words).expect(0)
    refused = told.cli.run("keys", "new", "intent", "etl", "--operator-key", str(told.operator_key), "--json")
    assert refused.expect(3).error["hint"].startswith(f"operators whose keys are in force: {done['name']};")


def test_a_report_key_authorised_by_a_key_that_is_gone_is_named_with_the_way_out(told: Site, tmp_path: Path) -> None:
    auth = told.folder / "witnz-data/keys/report.auth"
    before = auth.read_bytes()
    done = told.cli.json("keys", "rotate", "operator", "alice", "--operator-key", str(told.operator_key))
    key = told.folder / "witnz-data/keys/report.key"
    key.unlink()
    told.cli.run("keys", "new", "report", "other", "-o", str(key)).expect(0)  # one that is in no record
    auth.write_bytes(before)
    auth.chmod(0o600)
    words = ("report", "--standard", "soc2", "--from", "2020-01-01", "--to", "2999-12-31", "-o", str(tmp_path / "made"))
    refused = told.cli.run(*words, "--json").expect(12)
    assert "'alice', who put this node's report key into force, has no key in force" in refused.error["message"]
    new = told.folder / "new.key"
    operator = str(told.folder / done["file"])
    told.cli.run("keys", "new", "report", "node1-new", "--operator-key", operator, "-o", str(new)).expect(0)
    new.replace(key)
    told.cli.run(*words).expect(0)


def test_an_interrupted_rotation_is_taken_up_again(told: Site) -> None:
    from witnz.core.keys import COSIGNATURE, format_private_key

    shown = told.cli.json("keys", "show")
    name = parse_verifier_key(shown["members"][0]["cosigner"]).name
    waiting = told.folder / "witnz-data/keys/cosigner.next.key"
    waiting.write_text(format_private_key(name, COSIGNATURE, bytes(range(32))) + "\n")
    waiting.chmod(0o600)
    done = told.cli.json("keys", "rotate", "cosigner", "--operator-key", str(told.operator_key))
    assert done["public"] == told.cli.json("keys", "show")["members"][0]["cosigner"]
    assert not waiting.exists()
