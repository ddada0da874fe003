"""The witness, both sides over real HTTP: each answer of the specification, no rollback by a race, forks said out loud."""

from __future__ import annotations

import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.anchor.test_anchoring import Scene, settle
from tests.support.anchors import CLUSTER, Kept, publication, published
from tests.support.bundle_maker import PaperBundle
from tests.support.journal_maker import PaperCluster
from witnz.anchor.base import Surroundings, Withdrawn
from witnz.anchor.witness import WitnessAnchor
from witnz.anchor.witness_server import WitnessServer, serve_witness
from witnz.config import AnchorConfig
from witnz.core.checkpoint import Checkpoint, check_cosignature, format_checkpoint
from witnz.core.keys import COSIGNATURE, Ed25519Signer, VerifierKey, format_verifier_key, verifier_key
from witnz.core.merkle import EMPTY_ROOT
from witnz.core.note import Note, format_note, parse_note, sign_note
from witnz.core.policy import evaluate, parse_policy
from witnz.core.verdict import CheckStatus
from witnz.core.witness import Submission, format_submission, monitoring_path, parse_submission
from witnz.ending import end_threads
from witnz.errors import AnchorContradicts, AnchorRefused, ConfigError, FormatError
from witnz.store.database import Database

SIGNER = Ed25519Signer("witness.example.org", bytes(range(32)))
KEY: VerifierKey = verifier_key(SIGNER.name, COSIGNATURE, SIGNER.public)
PAPER = PaperBundle()


class Served:
    """A witness that listens, knows the paper cluster's log, and has a store of its own."""

    def __init__(self, directory: Path, keys: list[str]) -> None:
        self.db = Database.create(directory / "witness.db")
        self.server: WitnessServer = serve_witness(self.db, SIGNER, "127.0.0.1:0", keys, lambda: 1_795_284_600_000_000)
        self.url = f"http://127.0.0.1:{self.server.port}"

    def post(self, body: bytes) -> httpx.Response:
        return httpx.post(f"{self.url}/add-checkpoint", content=body)

    def submit(self, old: int, note: str, proof: tuple[bytes, ...] = ()) -> httpx.Response:
        return self.post(format_submission(Submission(old, proof, parse_note(note))))

    def anchor(self, **changed: Any) -> WitnessAnchor:
        section = {"type": "witness", "url": self.url, "witness_key": format_verifier_key(KEY), "timeout": "10s", **changed}
        return WitnessAnchor(AnchorConfig.model_validate(section), Surroundings(CLUSTER, lambda: 0))

    def close(self) -> None:
        self.server.stop()
        self.db.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path, [PAPER.cluster.log_key])
    yield made
    made.close()


def paper_note(size: int) -> str:
    return PAPER.cluster.note(size)


def proof(old: int, size: int) -> tuple[bytes, ...]:
    cluster = PaperCluster()
    cluster.records = PAPER.cluster.records[:size]
    return tuple(cluster.consistency(old)[1])


# -- the server ---------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_cosigned_and_shown(served: Served) -> None:
    answer = served.submit(0, paper_note(3))
    assert answer.status_code == 200
    (line,) = parse_note(parse_note(paper_note(3)).text + "\n" + answer.text).signatures
    assert check_cosignature(parse_note(paper_note(3)).text, line, KEY) == 1_795_284_600
    shown = httpx.get(f"{served.url}/{monitoring_path(CLUSTER)}")
    assert parse_note(shown.text).text == parse_note(paper_note(3)).text
    assert [each.name for each in parse_note(shown.text).signatures] == [CLUSTER, SIGNER.name]
    assert httpx.get(f"{served.url}/{'0' * 64}/checkpoint").status_code == 404
    again = served.submit(3, paper_note(3))
    assert again.status_code == 200, "the same once more is no rollback"
    assert served.submit(3, paper_note(9), proof(3, 9)).status_code == 200


def test_every_refusal_has_its_status(served: Served) -> None:
    key = Ed25519Signer("other.example/app", bytes(32))
    unknown = format_note(sign_note(format_checkpoint(Checkpoint("other.example/app", 1, bytes(32))), [key]))
    thief = Ed25519Signer(CLUSTER, b"\x07" * 32)
    text = parse_note(paper_note(3)).text
    forged = format_note(Note(parse_note(paper_note(9)).text, parse_note(paper_note(3)).signatures))
    assert served.submit(0, unknown).status_code == 404
    assert served.submit(0, format_note(sign_note(text, [thief]))).status_code == 403
    assert served.submit(0, forged).status_code == 403
    assert served.submit(4, paper_note(3)).status_code == 400
    assert served.submit(0, paper_note(3), (bytes(32),)).status_code == 422
    assert served.submit(0, paper_note(3)).status_code == 200
    conflict = served.submit(0, paper_note(9))
    assert (conflict.status_code, conflict.text, conflict.headers["content-type"]) == (409, "3\n", "text/x.tlog.size")
    assert served.submit(2, paper_note(9), proof(2, 9)).status_code == 409
    assert served.submit(3, paper_note(9), proof(2, 9)).status_code == 422
    assert served.submit(3, paper_note(9)).status_code == 422
    other_root = PAPER.cluster.note(3, root=b"\x01" * 32)
    assert served.submit(3, other_root).status_code == 422
    assert served.submit(3, paper_note(9), proof(3, 9)).status_code == 200
    assert served.submit(9, paper_note(3)).status_code == 400


def test_the_empty_tree_has_one_root(served: Served) -> None:
    assert served.submit(0, PAPER.cluster.note(0, root=b"\x01" * 32)).status_code == 422
    assert served.submit(0, PAPER.cluster.note(0, root=EMPTY_ROOT)).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"old 0\n",
        b"old 0\n\n",
        b"old 00\n\n" + paper_note(3).encode(),
        b"old -1\n\n" + paper_note(3).encode(),
        b"old 0\nAAAA\n\n" + paper_note(3).encode(),
        b"old 0\n" + (b64encode(bytes(32)) + b"\n") * 64 + b"\n" + paper_note(3).encode(),
        b"old 0\n\nno checkpoint\n\n\xe2\x80\x94 a AAAAAAA=\n",
        b"old 0\n\n" + b"x" * 70_000,
        b"\xff\n\n" + paper_note(3).encode(),
    ],
)
def test_what_is_malformed_is_refused(served: Served, body: bytes) -> None:
    with pytest.raises(FormatError):
        parse_submission(body)
    assert served.post(body).status_code == 400


def test_two_at_once_cannot_both_extend_the_same_past(served: Served) -> None:
    """Two requests that both know size 0 and end at different sizes: the later one must not roll the earlier one back."""
    for _ in range(10):
        statuses: list[int] = []
        with served.db.write() as conn:
            conn.execute("DELETE FROM witnessed")
        started = threading.Barrier(4)

        def submit(size: int, started: threading.Barrier = started, statuses: list[int] = statuses) -> None:
            started.wait()
            statuses.append(served.submit(0, paper_note(size)).status_code)

        threads = [threading.Thread(target=submit, args=(size,)) for size in (9, 3, 5, 7)]
        for thread in threads:
            thread.start()
        for thread in threads:
            end_threads(thread)
        assert sorted(statuses) == [200, 409, 409, 409]


def test_what_was_cosigned_outlives_the_server(served: Served, tmp_path: Path) -> None:
    served.submit(0, paper_note(9))
    served.server.stop()
    served.server = serve_witness(served.db, SIGNER, "127.0.0.1:0", [PAPER.cluster.log_key], lambda: 0)
    served.url = f"http://127.0.0.1:{served.server.port}"
    assert served.submit(0, paper_note(3)).text == "9\n"


@pytest.mark.parametrize(("addr", "keys"), [("127.0.0.1:0", ["no key"]), ("203.0.113.7:1", [])])
def test_a_configuration_that_cannot_be_served_is_refused(tmp_path: Path, addr: str, keys: list[str]) -> None:
    with Database.create(tmp_path / "witness.db") as db, pytest.raises(ConfigError, match="witness"):
        serve_witness(db, SIGNER, addr, keys, lambda: 0)


# -- the anchor ---------------------------------------------------------------------------------------------------------------


def test_the_receipt_is_the_note_with_the_cosignature_and_verifies_under_a_policy_that_asks_for_it(served: Served) -> None:
    anchor = served.anchor()
    receipt = published(anchor)
    assert (receipt.type, receipt.size) == ("basic", 9)
    note = parse_note(receipt.members["note"])
    nodes = PAPER.cluster.policy.replace("quorum ", "# quorum ")
    name = PAPER.cluster.policy.rpartition("quorum ")[2].strip()
    asked = parse_policy(f"{nodes}witness w {format_verifier_key(KEY)}\ngroup all-of-them all {name} w\nquorum all-of-them\n")
    assert evaluate(asked, note).satisfied
    assert not evaluate(asked, parse_note(paper_note(9))).satisfied
    assert [look.check.status for look in anchor.look(receipt)] == [CheckStatus.OK, CheckStatus.OK]
    assert anchor.is_own(receipt)
    assert anchor.newest(CLUSTER, 0) is not None
    assert anchor.newest(CLUSTER, 9) is None
    assert [check.status for check in anchor.rehearse()] == [CheckStatus.OK]


def test_the_anchor_learns_from_the_witness_what_it_has_seen(served: Served) -> None:
    anchor, memory = served.anchor(), Kept()
    published(anchor, publication(3), memory)
    assert memory.document == {"size": 3}
    with_proof = publication(9)
    object.__setattr__(with_proof, "proof", lambda old: proof(old, 9))
    published(anchor, with_proof, Kept())  # the memory was lost
    assert isinstance(anchor.publish(publication(5), Kept()), Withdrawn)


def test_a_witness_that_does_not_know_us_says_what_to_do(tmp_path: Path, served: Served) -> None:
    (tmp_path / "stranger").mkdir()
    stranger = Served(tmp_path / "stranger", [])
    try:
        with pytest.raises(AnchorRefused) as refused:
            published(stranger.anchor())
        assert "does not know this log" in refused.value.hint
        wrong_key = format_verifier_key(verifier_key(CLUSTER, 1, SIGNER.public))
        stranger.server.stop()
        stranger.server = serve_witness(stranger.db, SIGNER, "127.0.0.1:0", [wrong_key], lambda: 0)
        stranger.url = f"http://127.0.0.1:{stranger.server.port}"
        with pytest.raises(AnchorRefused) as refused:
            published(stranger.anchor())
        assert "another key for this log" in refused.value.hint
    finally:
        stranger.close()
    other = Ed25519Signer(SIGNER.name, b"\x05" * 32)
    impostor = format_verifier_key(verifier_key(SIGNER.name, COSIGNATURE, other.public))
    with pytest.raises(AnchorRefused, match="no cosignature that verifies"):
        published(served.anchor(witness_key=impostor))


def test_a_fork_is_refused_by_the_witness_and_a_finding(served: Served, tmp_path: Path) -> None:
    assert served.submit(0, PAPER.cluster.note(9, root=b"\x01" * 32)).status_code == 200
    with pytest.raises(AnchorContradicts):
        published(served.anchor())
    (tmp_path / "node").mkdir()
    scene = Scene(tmp_path / "node")
    try:
        witness_of_ours = Served(tmp_path / "node", [scene.node.keys.log_key])
        lane = scene.lane(witness_of_ours.anchor())
        settle(lane)
        assert scene.anchored() == [("basic", scene.node.journal.size - 1)]
        with witness_of_ours.db.write() as conn:  # it has seen another history since
            conn.execute("UPDATE witnessed SET root = ?", (b"\x01" * 32,))
        scene.grow()
        lane.ask()
        settle(lane)
        assert [cls for cls, _ in scene.open_findings()] == ["checkpoint.forked"]
        witness_of_ours.close()
    finally:
        scene.node.close()
