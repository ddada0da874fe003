"""The checkpoint leaves the house: onto a chain and under an authority's time stamp, and what an auditor makes of the
receipts.
"""

from __future__ import annotations

import json
from typing import Final

from witnz.demo.outside import FOREIGN_TRUST, TRUST
from witnz.demo.play import TAMPERED, VERIFIED, Play
from witnz.demo.proving import CHECKPOINT, POLICY
from witnz.demo.stage import wait_for

WAIT_S: Final = 90
SOMEBODY_ELSE: Final = "0x" + "11" * 20


def anchor(play: Play) -> None:
    """Publish the newest checkpoint everywhere, and look whether it is there."""
    outside = play.stage.outside
    play.begin("anchors", "Anchoring outside: a bucket under lock, a public chain, a time-stamping authority")
    for name, reason in outside.missing.items():
        play.narrator.say(f"{name} is left out: {reason}")
    if not outside.names:
        return
    leader = wait_for(play.stage.leader, play.patience_s)  # who leads publishes; the receipts are everybody's
    play.expect_command("anchors.now", play.run("anchor", "now", *outside.names, "--wait", str(WAIT_S), at=leader))
    play.expect_command("anchors.check", play.run("anchor", "check"))


def verify_anchored(play: Play) -> None:
    """The receipts in the exported checkpoint, under what an auditor asked outside himself; then under another account."""
    outside = play.stage.outside
    folder = play.stage.directory / "auditor"
    receipts = json.loads((folder / CHECKPOINT).read_bytes())["anchors"]
    seen = sorted({receipt["type"] for receipt in receipts})
    expected = sorted(outside.names)
    play.note("anchors.receipts", ", ".join(expected), ", ".join(seen), ok=seen == expected, detector="offline", seconds=0.0)
    (folder / TRUST).write_text(outside.trust(receipts), encoding="ascii")
    (folder / FOREIGN_TRUST).write_text(outside.trust(receipts, SOMEBODY_ELSE), encoding="ascii")
    cases = [("offline.anchored", TRUST, VERIFIED, "VERIFIED")]
    if "evm" in outside.names:
        cases.append(("offline.foreign-account", FOREIGN_TRUST, TAMPERED, "TAMPERED"))
    for scene, trust, code, verdict in cases:
        words = ["verify", "--checkpoint", CHECKPOINT, "--policy", POLICY, "--trust", trust]
        play.narrator.say("auditor$ witnz " + " ".join(words))
        ran = play.stage.command(*words, folder=folder)
        play.expect_command(scene, ran, code=code, verdict=verdict, detector="offline")
