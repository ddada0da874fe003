"""The files that people deploy with: they parse, fit together, and say what the program does."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.cli import Cli
from witnz.config import load_config
from witnz.core.finding import CLASSES

ROOT = Path(__file__).resolve().parent.parent
NODES = ("node1", "node2", "node3")
ENV = {"WITNZ_DB_PASSWORD": "p"}


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
    return document


def unit() -> dict[str, list[str]]:
    """The [Service] section; a key may stand more than once."""
    values: dict[str, list[str]] = {}
    section = ""
    for line in (ROOT / "deploy/witnz.service").read_text().splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and line and not line.startswith("#"):
            key, _, value = line.partition("=")
            values.setdefault(key, []).append(value)
    return values


def test_every_finding_class_has_its_paragraph_in_the_runbook() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    told = set(re.findall(r"\*\*([a-z]+\.[a-z-]+)\*\*", text))
    assert told == {str(cls) for cls in CLASSES}


@pytest.mark.parametrize("node", NODES)
def test_the_example_files_load_and_say_what_is_missing(node: str) -> None:
    path = ROOT / "examples/three-nodes" / f"{node}.yaml"
    config = load_config(path, ENV)
    assert config.node_id == node
    assert config.node.bootstrap is (node == "node1")
    assert [member.id for member in config.nodes] == list(NODES)
    assert config.missing_for_start() == [f"nodes[{i}].{name} is not set" for i in range(3) for name in ("key", "cosigner")]


def test_config_check_takes_the_example(tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples/three-nodes/node1.yaml", tmp_path / "witnz.yaml")
    text = (tmp_path / "witnz.yaml").read_text().replace("${WITNZ_DB_PASSWORD}", "p")
    (tmp_path / "witnz.yaml").write_text(text)
    document = Cli(tmp_path).run("config", "check", "--json").expect(0).document
    assert document["startable"] is False


def test_the_example_files_differ_in_their_node_only() -> None:
    documents = [yaml.safe_load((ROOT / "examples/three-nodes" / f"{node}.yaml").read_text()) for node in NODES]
    for document in documents:
        document.pop("node")
    assert documents[0] == documents[1] == documents[2]


def test_the_compose_file_starts_a_database_and_the_three_nodes_of_the_example() -> None:
    services = compose()["services"]
    assert set(services) == {"db", *NODES}
    assert "wal_level=logical" in services["db"]["command"]
    for node in NODES:
        service = services[node]
        mounted = [volume.split(":")[0] for volume in service["volumes"]]
        assert mounted == [node, f"../examples/three-nodes/{node}.yaml"]
        assert (ROOT / "deploy" / mounted[1]).resolve().exists()
        assert (
            service["hostname"] == load_config(ROOT / "examples/three-nodes" / f"{node}.yaml", ENV).node.bind_addr.split(":")[0]
        )  # type: ignore[union-attr]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert (ROOT / "deploy" / service["build"]["context"] / service["build"]["dockerfile"]).resolve().exists()
    for volume in services["db"]["volumes"]:
        source = volume.split(":")[0]
        assert not source.startswith(".") or (ROOT / "deploy" / source).resolve().exists()
    assert set(compose()["volumes"]) == {"db", *NODES}


def test_the_dockerfile_runs_the_node_as_a_user_of_its_own_and_copies_what_is_there() -> None:
    lines = [line for line in (ROOT / "deploy/Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    words = [line.split() for line in lines]
    assert [word[1] for word in words if word[0] == "USER"] == ["witnz"]
    assert [word[0] for word in words][-2:] == ["ENTRYPOINT", "CMD"]
    for word in words:
        if word[0] == "COPY" and not word[1].startswith("--from"):
            for source in word[1:-1]:
                assert (ROOT / source).exists(), source
    known = {
        "FROM",
        "WORKDIR",
        "COPY",
        "RUN",
        "ENV",
        "USER",
        "VOLUME",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
    }
    starts = [word[0] for line, word in zip(lines, words, strict=True) if not line.startswith((" ", "&&"))]
    assert set(starts) <= known


def test_the_unit_confines_the_node() -> None:
    service = unit()
    assert service["ExecStart"] == ["/opt/witnz/bin/witnz --config /etc/witnz/witnz.yaml start"]
    for key, value in (
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX"),
        ("UMask", "0077"),
        ("KillSignal", "SIGTERM"),
    ):
        assert service[key] == [value]


def test_the_unit_leaves_the_node_what_it_needs() -> None:
    """Each of these kept members, audits or auditors from working, or gave up on a database that was slow to start."""
    service = unit()
    assert "MemoryDenyWriteExecute" not in service  # libffi's callbacks, for the TLS between members
    assert "PrivateUsers" not in service  # SO_PEERCRED and the groups of the socket
    *_, allowed = service["SystemCallFilter"]
    assert {"@chown", "nice", "setpriority"} <= set(allowed.split())
    assert "StartLimitIntervalSec=0\n" in (ROOT / "deploy/witnz.service").read_text()
    assert "14" not in service["RestartPreventExitStatus"][0].split()


def test_the_image_has_the_compiled_half() -> None:
    text = (ROOT / "deploy/Dockerfile").read_text()
    build = text[: text.index("FROM python", text.index("AS build"))]
    assert all(name in build for name in (" setup.py ", " MANIFEST.in ", " gcc ", "hashing: compiled"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    text = (ROOT / "deploy/witnz.service").read_text().replace("/opt/witnz/bin/witnz", "/bin/true")
    path = tmp_path / "witnz.service"
    path.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if "witnz.service" in line and "User" not in line]
    assert said == []
    scored = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=25", path], capture_output=True, text=True, check=False
    )
    if "unrecognized option" not in scored.stderr:
        assert scored.returncode == 0, scored.stdout[-400:]
