"""The order of the demo, from an empty directory to the last check, and nothing left behind.

Where a part cannot be played at all (a command that fails, a server that does not start) that is one more thing that was
expected and not seen; the parts after it are left out, and the summary says so.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from witnz.demo import anchoring, bucket, guard, members, proving, reporting, tampering
from witnz.demo.play import Expected, Narrator, Play
from witnz.demo.stage import AUDIT_ROWS, PRICE_ROWS, Stage
from witnz.demo.summary import Summary
from witnz.demo.workload import IntentSigner, Workload
from witnz.errors import UsageError, WitnzError

Tamper = Literal["sql", "file", "all"]
INTENT_KEY: Final = "shop"
_QUIET_SKUS: Final = 10
"""The last prices are nobody's business but the tamperer's."""


@dataclass(frozen=True, slots=True)
class Options:
    """What ``witnz demo`` was told.  ``nodes``: 1 or 3.  ``leave_out``: deeds that are not done, to see the demo fail;
    ``patience_s``: for each."""

    keep: Path | None = None
    nodes: int = 3
    tamper: Tamper = "all"
    leave_out: Collection[str] = ()
    patience_s: float = 60.0


def run_demo(options: Options, narrator: Narrator) -> Summary:
    """Play it all.  Raises UsageError for a directory that is not empty, and what a server's start raises."""
    begun = time.monotonic()
    with _directory(options.keep) as directory, Stage(directory, options.nodes) as stage:
        play = Play(stage, narrator, options.leave_out, options.patience_s)
        skus = [f"SKU-{number:03}" for number in range(1, PRICE_ROWS - _QUIET_SKUS)]
        workload = Workload(stage.dsn("shop"), skus)
        play.paused = workload.paused
        workload.start()
        try:
            _play(play, workload, options.tamper)
        finally:
            workload.stop()
            if options.keep is not None:
                stage.stop_nodes()
                stage.keep_server()
        return Summary(
            outcomes=play.outcomes,
            seconds=time.monotonic() - begun,
            tamper=options.tamper,
            nodes=options.nodes,
            postgres=stage.version,
            workload=workload.counts(),
            kept={} if options.keep is None else _kept(directory),
        )


def _play(play: Play, workload: Workload, tamper: Tamper) -> None:
    import psycopg

    try:
        if not _opening(play, workload):
            return
        before, several = play.stage.baseline_digest(), len(play.stage.nodes) > 1
        if several:
            members.leader_killed(play)
        if tamper in ("sql", "all"):
            tampering.by_sql(play)
            if several:
                members.leader_lies(play)
            tampering.settle_sql(play, before)
        if several:
            members.store_rewritten(play)
        if tamper in ("sql", "all"):
            tampering.round_the_publication(play)
        if tamper in ("file", "all"):
            tampering.in_the_heap_file(play)
        tampering.settle_silent(play, before)
        proving.verify_all(play, "verify.repaired")
        anchoring.anchor(play)
        proving.export(play)
        proving.verify_offline(play)
        anchoring.verify_anchored(play)
        bucket.administrator(play)
        reporting.report(play)
        _ending(play, workload)
    except (WitnzError, psycopg.Error) as error:
        reason = str(error).strip()
        play.note("aborted", "the demo goes on", reason, ok=False, detector="demo", seconds=0.0)


def _opening(play: Play, workload: Workload) -> bool:
    """Set witnz up as a user would; whether it records."""
    stage = play.stage
    several = f", {len(stage.nodes)} nodes" if len(stage.nodes) > 1 else ""
    play.begin(
        "setup",
        f"Setting up: PostgreSQL {stage.version}{several}, {AUDIT_ROWS} + {PRICE_ROWS} rows, an application that writes",
    )
    for node in list(stage.nodes)[1:]:
        play.narrator.say(f"{node}$ witnz init")
    play.narrator.say("$ witnz init --admin-url …")
    if not play.expect_command("setup.init", stage.initialise()):
        return False
    made = play.run("keys", "new", "intent", INTENT_KEY, "--operator-key", stage.operator_key.name)
    if not play.expect_command("setup.intent-key", made):
        return False
    for node in stage.nodes:
        play.narrator.say(f"{node if several else ''}$ witnz start")
    begun = time.monotonic()
    stage.start_nodes()
    play.note("setup.start", "recording", "recording", ok=True, detector="command", seconds=time.monotonic() - begun)
    key_file = stage.directory / made.document["file"]
    workload.sign = IntentSigner.load(key_file, stage.client.status()["cluster"]["id"])
    proving.verify_all(play, "verify.baseline")
    return True


def _ending(play: Play, workload: Workload) -> None:
    """Nothing that no scene was about was found, and what the node leaves behind is in order."""
    play.begin("end", "Stopping")
    workload.stop()
    others = [f for f in play.stage.client.findings() if f["id"] not in play.known]
    named, none = sorted({str(Expected(f["class"], f["table"], f["key"])) for f in others}), "no other finding"
    play.note("no-false-alarm", none, ", ".join(named) or none, ok=not others, detector="all", seconds=0.0, findings=others)
    both = bool(workload.rows and workload.signed)
    expected, written = "rows and signed changes", workload.failure or ("" if both else "not both of them")
    play.note("workload", expected, written or expected, ok=not written, detector="all", seconds=0.0)
    begun = time.monotonic()
    code = play.stage.stop_nodes()
    seconds = time.monotonic() - begun
    play.note("node.stop", "exit code 0", f"exit code {code}", ok=code == 0, detector="command", seconds=seconds)
    for node in play.stage.nodes.values():
        scene = "store" if node.folder == play.stage.directory else f"store.{node.id}"
        play.expect_command(scene, play.run("verify", "--store", at=node), verdict="VERIFIED", detector="store audit")


@contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    """The caller's directory, which must be empty, or one that goes again."""
    if keep is not None:
        keep = keep.absolute()
        if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
            raise UsageError(f"{keep} is not an empty directory", hint="name a new one with --keep")
        keep.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield keep
        return
    directory = Path(tempfile.mkdtemp(prefix="witnz-demo-"))
    guard.protect(path=directory)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        guard.release(directory)


def _kept(directory: Path) -> dict[str, str]:
    """What stays, by name."""
    places = {
        "directory": "",
        "config": "witnz.yaml",
        "store": "node",
        "node_log": "node.log",
        "operator_key": "operator-demo.key",
        "database": "postgres",
        "policy": proving.POLICY,
        "checkpoint_bundle": proving.CHECKPOINT,
        "row_bundle": proving.ROW,
        "report": reporting.PACKAGE,
    }
    return {name: str(directory / place) for name, place in places.items() if (directory / place).exists()}
