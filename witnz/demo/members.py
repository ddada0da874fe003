"""Three nodes that trust nobody: a leader dies, a leader lies, a node's store is rewritten; the others go on and name it.

killed    kill -9: another leads, and what was committed meanwhile is recorded by all
lies      an intruder puts his own program in the place of one node's, waits until it leads, asks for a seal of what nobody
          recorded, and approves a finding with a signature that no operator made: no effect, and he is named
store     one row of one node's log is another one, consistently, as if it had never been different: the node itself finds that
          it is not what was sealed, is outvoted, and gets the majority's log back; what was there is kept
"""

from __future__ import annotations

import json
import time
from typing import Final

from witnz.demo.nodes import COMPROMISED, NodeProcess
from witnz.demo.play import Expected, Play
from witnz.demo.stage import AUDIT, wait_for
from witnz.demo.storefile import rewrite_row

LIAR, EDITED_NODE = "node3", "node2"
DEEDS: Final = frozenset({"members.killed", "members.seal", "members.approval", "members.store"})
HANG_S: Final = 1.5
TAKEN: Final = "machine set up anew, incident 13"


def leader_killed(play: Play) -> None:
    """kill -9 of the leader; then it comes back."""
    play.begin("killed", "The leader is killed")
    leader = wait_for(play.stage.leader, play.patience_s)
    if leader is None:
        play.note("members.killed", "another leader", "no leader", ok=False, detector="members", seconds=0.0)
        return
    play.narrator.say(f"$ kill -9 {leader.id}   # it leads")
    killed_at = time.monotonic()
    if "members.killed" not in play.leave_out:
        leader.kill()
    following = wait_for(lambda: _another(play, leader), play.patience_s)
    seconds = time.monotonic() - killed_at
    seen = "another leader" if following is not None else f"{leader.id} still leads"
    if following is not None:
        play.narrator.say(f"{following.id} leads after {seconds:.2f} s")
    play.note("members.killed", "another leader", seen, ok=following is not None, detector="members", seconds=seconds)
    if not leader.runs:
        play.narrator.say(f"{leader.id}$ witnz start")
        leader.start()
    play.stage.await_recording()
    _alike(play, "members.nothing-lost")


def _another(play: Play, before: NodeProcess) -> NodeProcess | None:
    leader = play.stage.leader()
    return leader if leader is not before else None


def _alike(play: Play, scene: str) -> None:
    """All nodes come to the same entries, no fewer than any had before."""
    begun = time.monotonic()
    had = max(_heads(node) for node in play.stage.nodes.values())

    def look() -> bool:
        heads = [_heads(node) for node in play.stage.nodes.values()]
        return heads[0] >= had and heads.count(heads[0]) == len(heads)

    with play.paused():
        alike = wait_for(look, play.patience_s)
    expected = "the same entries on all nodes"
    seen = expected if alike else "different entries"
    play.note(scene, expected, seen, ok=alike, detector="members", seconds=time.monotonic() - begun)


def _heads(node: NodeProcess) -> list[tuple[str, int, str]]:
    """Name, entries and chain head of every table of a node."""
    status = node.status()
    tables = status["tables"] if status is not None else []
    return sorted((table["name"], table["entries"], table["chain"]) for table in tables)


def leader_lies(play: Play) -> None:
    """A compromised leader; ``sql.unsigned`` is the finding that it would like to see approved."""
    play.begin("lies", f"An intruder on {LIAR} puts his own program in its place, and leads")
    liar, finding = play.stage.nodes[LIAR], play.finding_of("sql.unsigned")
    liar.stop()
    liar.start(COMPROMISED)
    play.stage.await_recording()
    led = _made_to_lead(play, liar)
    play.narrator.say(f"{liar.id} {'leads' if led else 'does not lead, and lies all the same'}")
    _false_seal(play, liar)
    if finding is not None:
        _false_approval(play, liar, finding)
    liar.stop()
    play.narrator.say(f"{liar.id}$ witnz start   # the real program again")
    liar.start()
    play.stage.await_recording()
    for scene, reason in (("members.seal", TAKEN), ("members.liar", TAKEN), ("members.approval", TAKEN)):
        play.approve(scene, reason)


def _made_to_lead(play: Play, liar: NodeProcess) -> bool:
    """Whoever leads hangs until another does; until that is the liar."""
    deadline = time.monotonic() + play.patience_s
    while time.monotonic() < deadline:
        leader = wait_for(play.stage.leader, play.patience_s)
        if leader is None or leader is liar:
            return leader is not None
        with leader.held():
            time.sleep(HANG_S)
    return False


def _false_seal(play: Play, liar: NodeProcess) -> None:
    play.narrator.say(f"{liar.id}: a seal of {AUDIT} with another root")
    refused: dict[str, str] = {}
    done_at = time.monotonic()
    if "members.seal" not in play.leave_out:
        refused = json.loads(liar.order(json.dumps({"order": "seal", "table": AUDIT})))["refused"]
    others = len(play.stage.nodes) - 1
    votes = f"refused by {sum(reason.startswith('differs') for reason in refused.values())} of {others}"
    expected, seconds = f"refused by {others} of {others}", time.monotonic() - done_at
    play.note("members.votes", expected, votes, ok=votes == expected, detector="members", seconds=seconds)
    play.expect_now("members.seal", Expected("node.misbehaved", None, f"{liar.id} seal"), done_at, "members")
    play.expect_now("members.liar", Expected("node.diverged", AUDIT, liar.id), done_at, "members")


def _false_approval(play: Play, liar: NodeProcess, finding: str) -> None:
    play.narrator.say(f"{liar.id}: approve {finding}, signed by nobody")
    done_at = time.monotonic()
    if "members.approval" not in play.leave_out:
        liar.order(json.dumps({"order": "approve", "finding": finding}))
    play.expect_now("members.approval", Expected("node.misbehaved", None, f"{liar.id} accept"), done_at, "members")
    state = play.stage.client.finding(finding)["state"]
    play.note("members.still-open", "open", state, ok=state == "open", detector="members", seconds=0.0)


def store_rewritten(play: Play) -> None:
    """The edited node finds out by itself, and is repaired from the others."""
    play.begin("store", f"The log in the store of {EDITED_NODE} is rewritten")
    node = play.stage.nodes[EDITED_NODE]
    node.stop()
    begun = time.monotonic()
    if "members.store" not in play.leave_out:
        play.narrator.say(f"{node.id} stopped; in its witnz.db {rewrite_row(node.data / 'witnz.db', AUDIT)}; {node.id} started")
    node.start()
    play.stage.await_recording()
    play.expect_now("members.store", Expected("node.diverged", AUDIT, node.id), begun, "members")
    play.expect_now("members.audit", Expected("node.store-tampered", None, None), begun, "store audit")
    finding = play.finding_of("members.store")
    if finding is None:
        return
    play.narrator.say(f"{node.id}$ witnz repair store {finding}")
    ran = play.stage.command("repair", "store", finding, folder=node.folder)

    def objection() -> str:
        state = wait_for(lambda: play.stage.client.finding(finding)["state"] == "repaired", play.patience_s)
        return "" if state else "the finding is not repaired"

    play.expect_command("repair.members.store", ran, detector="operator", also=objection)
    _alike(play, "members.outvoted")
    play.approve("members.audit", TAKEN)
