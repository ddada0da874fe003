"""The log key goes from member to member sealed, and only what the journal names is believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.journal_cases import key_body
from tests.support.journal_maker import CLUSTER, PaperCluster, seed
from witnz.core.keys import COSIGNATURE, ED25519, Ed25519Signer, format_private_key, format_verifier_key, verifier_key
from witnz.errors import FormatError, ProofError
from witnz.node import handover
from witnz.node.handover import Handed
from witnz.node.keyring import Keyring, cosigner_name, identity_name, load_keyring
from witnz.node.log_key import fetch_log_key
from witnz.node.sources import Sources, WrongAnswer
from witnz.store.datadir import save_key_file


def keyring(folder: Path, node: str, log_seed: bytes) -> Keyring:
    """The keys of a member of the cluster on paper."""
    folder.mkdir(mode=0o700)
    for name, key, key_type, value in (
        ("identity", identity_name(CLUSTER, node), ED25519, seed(f"identity-{node}")),
        ("cosigner", cosigner_name(CLUSTER, node), COSIGNATURE, seed(f"cosigner-{node}")),
        ("log", CLUSTER, ED25519, log_seed),
    ):
        save_key_file(folder / f"{name}.key", format_private_key(key, key_type, value))
    save_key_file(folder / "retain.key", "witnz-retain-key-1 " + "A" * 43 + "=")
    return load_keyring(folder, CLUSTER, node)


@dataclass
class Line:
    """A channel on which every member is answered by one function."""

    answer: Callable[[str, bytes], bytes]

    def call(self, node: str, method: str, body: bytes, timeout_s: float) -> bytes:
        assert method == "join.keys"
        return self.answer(node, body)


@pytest.fixture
def rotated() -> PaperCluster:
    """A cluster whose log key is another one since the last record."""
    cluster = PaperCluster(3).start()
    new = Ed25519Signer(CLUSTER, seed("log-2"))
    key = format_verifier_key(verifier_key(CLUSTER, ED25519, new.public))
    cluster.add("key", key_body(kind="log", name="log-2", key=key))
    return cluster


def honest(cluster: PaperCluster, keys: Keyring) -> Callable[[str, bytes], bytes]:
    def answer(node: str, body: bytes) -> bytes:
        handover.parse_request(body, cluster.state.members["node2"], cluster.state.cluster_id)
        return handover.seal(body, Handed(tuple(keys.log.lines()), {}), keys.identity, node, "node2")

    return answer


def test_a_member_signs_with_the_rotated_log_key_once_it_was_handed_over(rotated: PaperCluster, tmp_path: Path) -> None:
    first = keyring(tmp_path / "node1", "node1", seed("log-2"))
    second = keyring(tmp_path / "node2", "node2", seed(CLUSTER))
    assert second.follow("node2", rotated.state.members, rotated.state.log_key) == ["log"]
    sources = Sources(Line(honest(rotated, first)), ["node1"])
    assert fetch_log_key(second, "node2", rotated.state, sources)
    assert second.log_key == rotated.state.log_key
    assert load_keyring(tmp_path / "node2", CLUSTER, "node2").log_key == rotated.state.log_key
    assert sorted(path.name for path in (tmp_path / "node2").iterdir()) == [
        "cosigner.key",
        "identity.key",
        "log.key",
        "retain.key",
    ]


def test_another_log_key_than_the_journal_names_is_refused(rotated: PaperCluster, tmp_path: Path) -> None:
    stale = keyring(tmp_path / "node1", "node1", seed(CLUSTER))
    second = keyring(tmp_path / "node2", "node2", seed(CLUSTER))
    with pytest.raises(WrongAnswer, match="the log key that the journal names"):
        fetch_log_key(second, "node2", rotated.state, Sources(Line(honest(rotated, stale)), ["node1"]))


def test_an_answer_of_before_or_by_another_member_does_not_open(rotated: PaperCluster, tmp_path: Path) -> None:
    first = keyring(tmp_path / "node1", "node1", seed("log-2"))
    second = keyring(tmp_path / "node2", "node2", seed(CLUSTER))
    members, cluster = rotated.state.members, rotated.state.cluster_id
    earlier = handover.ask(second.identity, cluster, "node2", [])
    recorded = honest(rotated, first)("node1", earlier.body)
    now = handover.ask(second.identity, cluster, "node2", [])
    assert earlier.open(recorded, members["node1"]).secrets == {}
    with pytest.raises(ProofError, match="not signed by node1"):
        now.open(recorded, members["node1"])
    with pytest.raises(ProofError, match="not signed by node3"):
        earlier.open(recorded, members["node3"])
    with pytest.raises(FormatError):
        earlier.open(recorded + b" ", members["node1"])


def test_a_request_counts_for_its_member_its_cluster_and_its_signature_only(rotated: PaperCluster, tmp_path: Path) -> None:
    second = keyring(tmp_path / "node2", "node2", seed(CLUSTER))
    members, cluster = rotated.state.members, rotated.state.cluster_id
    body = handover.ask(second.identity, cluster, "node2", [("public.t", 1)]).body
    assert handover.parse_request(body, members["node2"], cluster) == [("public.t", 1)]
    with pytest.raises(ProofError, match="not one of node3"):
        handover.parse_request(body, members["node3"], cluster)
    with pytest.raises(ProofError, match="not one of node2"):
        handover.parse_request(body, members["node2"], "f" * 32)
    with pytest.raises(ProofError, match="not signed"):
        handover.parse_request(body.replace(b'"public.t",1', b'"public.t",2'), members["node2"], cluster)
    with pytest.raises(FormatError):
        handover.parse_request(body.replace(b'"public.t",1', b'"public.t"'), members["node2"], cluster)
