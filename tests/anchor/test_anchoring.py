"""The schedule of anchors on a node: published once, in the journal once, nothing lost, late said out loud, forks refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.anchors import answering, fresh_bucket, now_us, s3_section
from tests.support.node import wait
from tests.support.served import CLUSTER, StandingNode
from witnz.anchor.base import Anchor, Look, Memory, Pending, Publication, Published, ok
from witnz.config import AnchorConfig, Config
from witnz.core.checkpoint import Checkpoint, cosign, format_checkpoint
from witnz.core.note import Note, format_note, sign_note
from witnz.core.policy import parse_policy
from witnz.core.receipt import Receipt, parse_receipt
from witnz.core.verdict import Check, CheckStatus, Verdict
from witnz.demo.storage import StorageServer
from witnz.ending import end_threads
from witnz.errors import AnchorUnreachable, NoQuorum, WitnzError
from witnz.node.anchor_lane import Lane, Parts
from witnz.node.anchor_status import anchor_documents, history, receipt_documents
from witnz.node.anchoring import Anchoring, worst_of
from witnz.node.cosigning import NotCosigned
from witnz.node.evidence import Evidence
from witnz.node.publication import log_files
from witnz.store import anchors, checkpoints, findings
from witnz.verify.bundle import verify_bundle


class Scripted:
    """An anchor of another package, which answers as it is told: exceptions are raised, outcomes given."""

    type = "scripted"
    place = "a script"

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.asked: list[Publication] = []
        self.looks: list[Look] = [ok("object", "there")]
        self.shown: str | None = None

    def publish(self, publication: Publication, memory: Memory) -> Published | Pending:
        self.asked.append(publication)
        memory.save({"asked": len(self.asked)})
        answer = self.answers.pop(0) if self.answers else self.receipt(publication)
        if isinstance(answer, Exception):
            raise answer
        return answer(publication) if callable(answer) else answer  # type: ignore[no-any-return]

    def receipt(self, publication: Publication, **more: Any) -> Published:
        members = {"type": self.type, "digest": publication.digest.hex(), "size": publication.checkpoint.size, **more}
        return Published(parse_receipt(members))

    def look(self, receipt: Receipt) -> Sequence[Look]:
        return self.looks

    def newest(self, origin: str, above: int) -> str | None:
        return self.shown

    def is_own(self, receipt: Receipt) -> bool:
        return True

    def rehearse(self) -> Sequence[Check]:
        return []


class Scene:
    """A node without a database, its anchors, and their steps taken by hand."""

    def __init__(self, directory: Path) -> None:
        self.node = StandingNode(directory)
        self.leads = True
        self.node.add_table(rows=3)
        self.node.seal()

    @property
    def parts(self) -> Parts:
        node = self.node
        return Parts(node.db, node.journal, node.book, node.clock, node.metrics, CLUSTER, lambda: self.leads)

    def lane(self, anchor: Anchor, every: str = "1h", name: str = "a") -> Lane:
        section = AnchorConfig.model_validate({"type": anchor.type, "every": every})
        lane = Lane(name, section, anchor, self.parts)
        lane.configure()
        return lane

    def anchoring(self, *sections: dict[str, Any]) -> Anchoring:
        found = Anchoring(self.config(*sections), self.parts)
        found.configure()
        return found

    def config(self, *sections: dict[str, Any]) -> Config:
        return self.node.config.model_copy(update={"anchors": tuple(AnchorConfig.model_validate(one) for one in sections)})

    def document(self, section: dict[str, Any]) -> dict[str, Any]:
        """What the status says of an anchor."""
        with self.node.db.read() as conn:
            return anchor_documents(conn, self.node.journal.state, self.config(section), self.node.now_us)[0]

    def newest_note(self) -> str:
        with self.node.db.read() as conn:
            newest = checkpoints.latest(conn)
        assert newest is not None
        return newest.note

    def grow(self) -> int:
        """One more entry, sealed; the newest final checkpoint's size."""
        self.node.add_rows("public.accounts", [b"%d\towner" % (len(self.node.rows) + 100)])
        self.node.seal()
        return self.node.journal.size

    def open_findings(self) -> list[tuple[str, str | None]]:
        with self.node.db.read() as conn:
            return [(finding.cls, finding.key) for finding in findings.list_findings(conn)]

    def anchored(self) -> list[tuple[str, int]]:
        return [(one.type, one.size) for one in self.node.journal.state.anchored()]

    def pass_s(self, seconds: float) -> None:
        self.node.now_us += round(seconds * 1_000_000)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.node.close()


def settle(lane: Lane) -> None:
    while lane.step():
        pass


# -- schedule -----------------------------------------------------------------------------------------------------------------


def test_the_newest_final_checkpoint_is_published_and_journalled_once_an_interval(scene: Scene) -> None:
    anchor = Scripted()
    lane, size = scene.lane(anchor), scene.node.journal.size
    settle(lane)
    assert scene.anchored() == [("scripted", size)]
    scene.node.seal()  # the anchor record itself is nothing new
    scene.pass_s(3600)
    settle(lane)
    assert len(anchor.asked) == 1
    grown = scene.grow()
    scene.pass_s(3500)
    settle(lane)
    assert len(anchor.asked) == 2, "the interval counts from the last anchored checkpoint"
    assert scene.anchored() == [("scripted", size), ("scripted", grown)]


def test_asking_publishes_before_the_interval_has_passed(scene: Scene) -> None:
    anchor = Scripted()
    lane = scene.lane(anchor)
    settle(lane)
    scene.grow()
    settle(lane)
    assert len(anchor.asked) == 1
    lane.ask()
    settle(lane)
    assert len(anchor.asked) == 2


def test_only_the_leader_begins_and_what_was_begun_is_finished(scene: Scene) -> None:
    anchor = Scripted()
    lane = scene.lane(anchor)
    scene.leads = False
    settle(lane)
    assert anchor.asked == []
    scene.leads = True
    anchor.answers = [Pending(5, "waiting for a block")]
    settle(lane)
    scene.leads = False
    scene.pass_s(6)
    settle(lane)
    assert scene.anchored() == [("scripted", anchor.asked[0].checkpoint.size)]


def test_what_is_under_way_is_gone_on_with_after_a_crash_with_its_memory(scene: Scene) -> None:
    anchor = Scripted()
    anchor.answers = [Pending(5, "waiting for a block")]
    settle(scene.lane(anchor))
    size = anchor.asked[0].checkpoint.size
    scene.grow()
    again = scene.lane(anchor)  # the node was started again
    assert again.load() == {"asked": 1}
    scene.pass_s(6)
    settle(again)
    assert [asked.checkpoint.size for asked in anchor.asked] == [size, size]
    assert scene.anchored() == [("scripted", size)]


def test_a_receipt_in_hand_survives_that_the_journal_refuses_it(scene: Scene) -> None:
    anchor, proposed = Scripted(), []

    class Deaf:
        state, size = scene.node.journal.state, scene.node.journal.size

        def propose(self, record_type: str, body: Any) -> int:
            proposed.append(record_type)
            raise NoQuorum("too few votes")

    parts = scene.parts
    deaf = Lane("a", AnchorConfig.model_validate({"type": "scripted"}), anchor, Parts(**{**_fields(parts), "journal": Deaf()}))
    deaf.configure()
    with pytest.raises(NoQuorum):
        deaf.step()
    assert proposed == ["anchor"]
    assert deaf.state().receipt is not None
    settle(scene.lane(anchor))
    assert len(anchor.asked) == 1, "what is published already is not published again"
    assert scene.anchored() == [("scripted", anchor.asked[0].checkpoint.size)]


def _fields(parts: Parts) -> dict[str, Any]:
    return {name: getattr(parts, name) for name in Parts.__dataclass_fields__}


def test_a_crash_between_journal_and_outbox_journals_nothing_twice(scene: Scene) -> None:
    anchor = Scripted()
    lane = scene.lane(anchor)
    settle(lane)
    note = anchor.asked[0].note
    with scene.node.db.write() as conn:  # as the crash left it
        anchors.begin(conn, "a", note, scene.node.now_us)
        anchors.hold(conn, "a", anchor.receipt(anchor.asked[0]).receipt, complete=True)
    settle(scene.lane(anchor))
    assert len(scene.anchored()) == 1


def test_a_pending_receipt_is_journalled_and_then_the_better_one(scene: Scene) -> None:
    anchor = Scripted()
    anchor.answers = [
        lambda of: Pending(60, "waits for its block", anchor.receipt(of, proof="pending").receipt),
        lambda of: Pending(60, "waits for its block", anchor.receipt(of, proof="pending").receipt),
        lambda of: anchor.receipt(of, proof="complete"),
    ]
    lane = scene.lane(anchor)
    for _ in range(3):
        settle(lane)
        scene.pass_s(61)
    state = scene.node.journal.state
    proofs = [lane.receipt_of(one).members["proof"] for one in state.anchored()]
    assert proofs == ["pending", "complete"]
    assert lane.state().note is None


# -- failures -----------------------------------------------------------------------------------------------------------------


def test_a_failure_is_tried_again_with_growing_pauses_and_said_in_the_status(scene: Scene) -> None:
    anchor = Scripted()
    anchor.answers = [AnchorUnreachable("no route", hint="is the network up?")] * 3
    lane, tries = scene.lane(anchor), []
    for second in range(20):
        settle(lane)
        tries.append(len(anchor.asked))
        if second == 4:
            document = scene.document({"type": "scripted", "name": "a"})
            assert (document["status"], document["error"], document["hint"]) == ("failing", "no route", "is the network up?")
        scene.pass_s(1)
    assert tries[:9] == [1, 2, 2, 3, 3, 3, 3, 4, 4]
    assert scene.anchored() == [("scripted", anchor.asked[0].checkpoint.size)]
    assert lane.state().error is None
    assert scene.node.metrics.value("witnz_anchor_failures_total", anchor="a", code="anchor.unreachable") == 3


def test_an_anchor_that_misses_two_intervals_is_a_finding_once(scene: Scene) -> None:
    section = {"type": "s3", "bucket": "b", "endpoint": "http://127.0.0.1:9", "name": "bucket", "every": "60s"}
    anchoring = scene.anchoring(section | {"access_key_id": "a", "secret_access_key": "b"})
    lane = anchoring.lanes["bucket"]
    scene.pass_s(121)
    anchoring.check_late()
    assert scene.open_findings() == [], "it has not been tried since the start"
    lane.step()
    anchoring.check_late()
    anchoring.check_late()
    assert scene.open_findings() == [("anchor.late", "bucket")]
    assert scene.document(section)["status"] == "late"


def test_an_anchor_with_nothing_new_to_cover_is_never_late(scene: Scene) -> None:
    anchor = Scripted()
    lane = scene.lane(anchor, "60s")
    settle(lane)
    anchoring = Anchoring(scene.config(), scene.parts)
    anchoring.lanes["a"] = lane
    anchoring._started -= 1000
    scene.pass_s(100_000)
    anchoring.check_late()
    assert scene.open_findings() == []
    scene.grow()
    scene.pass_s(100_000)
    anchoring.check_late()
    assert scene.open_findings() == [], "a clock that was set forward makes it due, and not yet late"
    anchoring._late_since["a"] -= 1000
    anchoring.check_late()
    assert scene.open_findings() == [("anchor.late", "a")]


def test_a_clock_that_was_set_back_holds_no_anchor_back(scene: Scene) -> None:
    anchor = Scripted()
    lane = scene.lane(anchor, "60s")
    settle(lane)
    scene.grow()
    scene.pass_s(-7200)
    settle(lane)
    assert len(anchor.asked) == 2
    scene.grow()
    settle(lane)
    assert len(anchor.asked) == 2, "and then the interval counts again"


# -- consistency --------------------------------------------------------------------------------------------------------------


def test_what_contradicts_an_anchored_checkpoint_is_not_published(scene: Scene) -> None:
    anchor = Scripted()
    lane = scene.lane(anchor)
    foreign = {"type": "scripted", "digest": "ab" * 32, "size": 2}
    scene.node.journal.propose("anchor", {**foreign, "receipt": foreign})
    scene.grow()
    lane.ask()
    settle(lane)
    assert anchor.asked == []
    assert [cls for cls, _ in scene.open_findings()] == ["checkpoint.forked"]
    assert lane.state().refused


def anchored_note(scene: Scene, size: int, root: bytes) -> str:
    """A checkpoint that this cluster's keys signed, whatever its journal says."""
    text = format_checkpoint(Checkpoint(CLUSTER, size, root))
    note = sign_note(text, [scene.node.keys.log])
    return format_note(Note(text, (*note.signatures, cosign(text, scene.node.keys.cosigner, 1))))


def comparing(scene: Scene, note: str | None) -> Anchoring:
    anchor = Scripted()
    anchor.shown = note
    anchoring = Anchoring(scene.config(), scene.parts)
    anchoring.lanes["a"] = scene.lane(anchor)
    anchoring._compared["a"] = threading.Event()
    stop, spawned = threading.Event(), []
    anchoring.start(lambda name, work: spawned.append(name), stop, publish=True)
    assert spawned == ["anchor a"]
    assert anchoring.condition(scene.node.journal.size) is not None, "nothing is signed before the anchors were asked"
    anchoring.compare("a")
    scene.node.cosigner.conditions.append(anchoring.condition)
    return anchoring


def test_a_node_that_was_rolled_back_says_so_and_signs_nothing_until_it_has_caught_up(scene: Scene) -> None:
    size = scene.node.journal.size
    anchoring = comparing(scene, anchored_note(scene, size + 2, bytes(32)))
    assert scene.open_findings() == [("node.rolled-back", f"size {size + 2}")]
    for reason in ("is anchored, and the journal has", "contradicts"):  # then it has caught up, to another history
        scene.node.journal.propose("operator", {"action": "a", "detail": "b"})
        with pytest.raises(NotCosigned, match=reason):
            scene.node.cosigner.checkpoint()
        assert reason in str(anchoring.condition(scene.node.journal.size))
    assert {cls for cls, _ in scene.open_findings()} == {"node.rolled-back", "checkpoint.forked"}


def test_a_node_that_caught_up_with_what_is_anchored_signs_again(scene: Scene) -> None:
    ahead = scene.node.journal
    before = ahead.size
    comparing(scene, scene.newest_note())
    scene.grow()
    with scene.node.db.read() as conn:
        newest = checkpoints.latest(conn)
    assert newest is not None
    assert newest.size == ahead.size > before
    assert scene.open_findings() == []


def test_a_checkpoint_that_others_signed_does_not_stop_it(scene: Scene, tmp_path: Path) -> None:
    other = Scene(tmp_path / "other")
    try:
        anchoring = comparing(scene, anchored_note(other, 99, bytes(32)))
    finally:
        other.node.close()
    assert anchoring.condition(scene.node.journal.size) is None
    assert scene.open_findings() == []


def test_a_node_that_is_not_started_asks_before_it_signs(scene: Scene) -> None:
    anchor = Scripted()
    anchor.shown = anchored_note(scene, scene.node.journal.size + 9, bytes(32))
    anchoring = Anchoring(scene.config(), scene.parts)
    anchoring.lanes["a"] = scene.lane(anchor)
    anchoring._compared["a"] = threading.Event()
    assert "is anchored" in str(anchoring.condition(scene.node.journal.size))


def test_an_anchor_that_does_not_answer_holds_nothing_up(scene: Scene) -> None:
    with answering(503, "SlowDown") as endpoint:
        section = {"type": "s3", "bucket": "b", "endpoint": endpoint, "access_key_id": "a", "secret_access_key": "b"}
        anchoring = scene.anchoring(section)
        anchoring.compare("s3")
    assert anchoring.condition(1) is None


# -- looking, and the whole way with a real server ----------------------------------------------------------------------------


def test_from_checkpoint_to_receipt_to_bundle_and_back(scene: Scene, storage: StorageServer, tmp_path: Path) -> None:
    scene.node.now_us = now_us()  # the server has a clock of its own
    bucket = fresh_bucket(storage)
    folder = {"type": "basic", "directory": str(tmp_path / "copies"), "name": "copies"}
    anchoring = scene.anchoring(s3_section(storage, bucket, name="bucket", upload_logs="yes"), folder)
    size = scene.node.journal.size
    with running(anchoring):
        wait(lambda: len(scene.anchored()) == 2, "receipts of both")
        assert {one["status"] for one in anchoring.now([], 10)} == {"unchanged"}
        with pytest.raises(WitnzError, match="no anchor 'nothere'"):
            anchoring.now(["nothere"], 1)
        later = scene.grow()
        (outcome,) = anchoring.now(["copies"], 60)
        assert (outcome["status"], outcome["size"]) == ("published", later)
    assert sorted(scene.anchored()) == [("basic", size), ("basic", later), ("s3", size)]
    policy = parse_policy(scene.node.journal.state.periods.now.policy())
    result = verify_bundle(Evidence(scene.node.db, scene.node.clock).checkpoint_bundle(later), policy)
    assert result.verdict is Verdict.VERIFIED
    said = [check.detail for check in result.checks if check.name.startswith("anchors[")]
    assert any(f"the s3 receipt is for the checkpoint of size {size} and covers no record beyond it" in one for one in said)
    assert any(f"the basic receipt is for the checkpoint of size {later}" in one for one in said)
    assert worst_of(anchoring.check(everything=True)) is CheckStatus.OK
    with scene.node.db.read() as conn:
        files = list(log_files(conn, CLUSTER, size, {}))
        stretches = history(conn, scene.node.journal.state)
    assert {file.log for file in files} == {CLUSTER, f"{CLUSTER}/public.accounts/1"}
    for file in files:
        key = f"{CLUSTER}/logs/{file.log}/{file.path}"
        assert storage.client().get_object(Bucket=bucket, Key=key)["Body"].read() == file.data
    assert [(one["from_seq"], one["to_seq"], sorted(one["anchors"])) for one in stretches] == [
        (1, size, ["basic", "s3"]),
        (size + 1, later, ["basic"]),
    ]
    assert stretches[0]["parties"][0] == "the administrator of node1"


def test_the_status_of_a_moment_does_not_run_into_what_was_journalled_since(scene: Scene) -> None:
    settle(scene.lane(Scripted()))
    with scene.node.db.read() as conn:
        conn.execute("SELECT count(*) FROM journal").fetchone()  # the moment
        before = history(conn, scene.node.journal.state)
        scene.grow()
        settle_now(scene)
        assert len(scene.anchored()) == 2
        assert history(conn, scene.node.journal.state) == before
        assert len(list(receipt_documents(conn, scene.node.journal.state, 10))) == 1


def settle_now(scene: Scene) -> None:
    lane = scene.lane(Scripted())
    lane.ask()
    settle(lane)


def test_what_was_done_to_an_anchored_object_is_one_finding(scene: Scene, storage: StorageServer) -> None:
    scene.node.now_us = now_us()
    bucket = fresh_bucket(storage)
    anchoring = scene.anchoring(s3_section(storage, bucket, name="bucket"))
    settle(anchoring.lanes["bucket"])
    (one,) = anchoring.lanes["bucket"].receipts()
    members = anchoring.lanes["bucket"].receipt_of(one).members
    storage.remove_behind_the_lock(bucket, members["key"], members["version_id"])
    for _ in range(2):
        (looked,) = anchoring.check(everything=False)
        assert looked.status is CheckStatus.FAIL
    assert [cls for cls, _ in scene.open_findings()] == ["anchor.missing"]
    assert scene.node.metrics.value("witnz_anchor_looks_total", anchor="bucket", status="fail") == 2


def test_the_thread_of_an_anchor_looks_by_itself(scene: Scene, storage: StorageServer) -> None:
    scene.node.now_us = now_us()
    bucket = fresh_bucket(storage)
    anchoring = scene.anchoring(s3_section(storage, bucket, name="bucket", every="1s"))
    with running(anchoring):
        wait(lambda: len(scene.anchored()) == 1, "a receipt")
        (one,) = anchoring.lanes["bucket"].receipts()
        storage.client().delete_object(Bucket=bucket, Key=anchoring.lanes["bucket"].receipt_of(one).members["key"])
        wait(lambda: [cls for cls, _ in scene.open_findings()] == ["anchor.hidden"], "the finding")


@contextmanager
def running(anchoring: Anchoring) -> Iterator[None]:
    """The threads of a node's anchors."""
    stop = threading.Event()
    threads = [threading.Thread(target=anchoring.run, args=(name, stop)) for name in anchoring.lanes]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            end_threads(thread)
