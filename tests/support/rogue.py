"""`witnz start` as its root has changed it: the node as it is, and a socket over which it is told to do what none should.

    python -c "from tests.support.rogue import main; main()" -c witnz.yaml start
    ask(config, "leave_out", table="public.ledger")

Until it is told otherwise it behaves like the others.  In its process whatever unpickles ends the process.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import threading
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from tests.support.intruder import Intruder
from witnz.config import Config
from witnz.core.keys import Ed25519Signer
from witnz.core.lsn import format_lsn
from witnz.core.note import format_note
from witnz.core.record import format_proposal, operator_bytes, parse_record
from witnz.errors import PeerRefused, WitnzError
from witnz.node.node import Node
from witnz.node.voting import TooFewVotes
from witnz.store import journal as stored
from witnz.store import logs, meta

PROGRAM = ("-c", "from tests.support.rogue import main; main()")
UNPICKLED = 99
SOCKET = "rogue.sock"  # beside the store, where only its root can write

# -- deeds --------------------------------------------------------------------------------------------------------------------


def false_seal(node: Node, table: str) -> dict[str, Any]:
    """Ask for votes on a seal that nobody recorded, and propose another with this node's own vote alone."""
    with node.db.read() as conn:
        lsn = meta.load_number(conn, "last_final_lsn") or 0
        row = logs.find_log(conn, table)
    assert row is not None and node.peering is not None
    root = b64encode(os.urandom(32)).decode()
    head = {"table": table, "generation": row.generation, "size": row.size, "root": root, "chain": os.urandom(32).hex()}
    refused: list[str] = []
    try:
        node.peering.ballots.collect("seal", {"lsn": format_lsn(lsn), "tables": [head]}, node.clock())
    except TooFewVotes as failed:
        refused = sorted({refusal.kind for refusal in failed.ballot.refused.values()})
    Intruder(node).put_alone("seal", {"lsn": format_lsn(lsn + 8), "tables": [head]})
    return {"refused": refused, "root": root}


def decide(node: Node, table: str, finding: str, name: str) -> dict[str, Any]:
    """Sign everything that only an operator may decide, as if one had signed it."""
    intruder, before = Intruder(node), node.journal.state.tables()[table]
    generation = before.generation
    forged = {
        "accept": {"table": table, "generation": generation, "rows": [], "finding": finding, "reason": "it is fine"},
        "erase": {"table": table, "generation": generation, "keys": ["3"], "reason": "gone"},
        "key": {
            "action": "add", "kind": "operator", "name": name, "key": b64encode(os.urandom(32)).decode(), "from_lsn": "0/0",
        },
    }  # fmt: skip
    for record_type, body in forged.items():
        decided = {**body, "nonce": os.urandom(16).hex()}
        forger = Ed25519Signer("operator/alice", os.urandom(32))
        signature = b64encode(forger.sign(operator_bytes(decided, node.cluster_id, record_type))).decode()
        intruder.put(record_type, {**decided, "auth": {"operator": "alice", "sig": signature}})
    weaker = {
        "table": table, "generation": generation, "mode": "state_integrity", "on_change": "record",
        "rules": {"inserts_only": False, "require_intent": False, "retain": False},
        "keys": {"columns": ["id"], "form": "plain"}, "oid": before.oid, "snapshot": before.snapshot, "lsn": "0/1",
        "secret_sha256": before.secret_sha256, "previous": None, "reason": "weaker",
    }  # fmt: skip
    intruder.put_alone("table", weaker)
    return {}


def replay(node: Node) -> dict[str, Any]:
    """Every record once more, two of this node's out of their order, one of another cluster."""
    intruder, state = Intruder(node), node.journal.state
    with node.db.read() as conn:
        records = [parse_record(leaf) for leaf in stored.records(conn)]
    for record in records:
        intruder.propose(format_proposal(record))
    body = {"action": "replayed", "detail": ""}
    intruder.propose(intruder.signed("operator", body, n=state.next_n(node.config.node_id) + 1))
    intruder.propose(intruder.signed("operator", body, prev="1" * 64))
    foreign = intruder.signed("operator", body)
    intruder.propose(foreign.replace(node.cluster_id.encode(), b"f" * 32))
    return {"records": len(records)}


def leave_out(node: Node, table: str | None) -> dict[str, Any]:
    """Ask for no seal of this table any more; None: be honest again."""
    if table is None:
        assert node.peering is not None
        node.journal.collect = node.peering.ballots.collect
        return {}
    collect = node.journal.collect

    def leaving_out(record_type: str, body: Mapping[str, Any], at: int) -> Mapping[str, str]:
        kept = [head for head in body.get("tables", ()) if head["table"] != table] if record_type == "seal" else []
        return collect(record_type, {**body, "tables": kept} if kept else body, at)

    node.journal.collect = leaving_out
    return {}


def equivocate(node: Node, victim: str, size: int) -> dict[str, Any]:
    """Show one member another history of that size, under the log key."""
    assert node.peering is not None
    try:
        node.peering.peers.call(victim, "cosign", format_note(Intruder(node).other_history(size)).encode(), 10.0)
    except PeerRefused as refused:
        return {"refused": refused.message}
    return {}


DEEDS = {deed.__name__: deed for deed in (false_seal, decide, replay, leave_out, equivocate)}

# -- the socket ---------------------------------------------------------------------------------------------------------------


def ask(config: Config, deed: str, **words: Any) -> dict[str, Any]:
    """Have the running node do it; what it says afterwards."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(120)
        line.connect(str(config.data_dir / SOCKET))
        line.sendall(json.dumps([deed, words]).encode() + b"\n")
        with line.makefile() as answers:
            said = json.loads(answers.readline())
    assert isinstance(said, dict) and "error" not in said, said
    return said


def _serve(node: Node) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        path = node.config.data_dir / SOCKET
        path.unlink(missing_ok=True)
        listening.bind(str(path))
        listening.listen()
        while True:
            line, _ = listening.accept()
            with line, line.makefile("rw") as both:
                deed, words = json.loads(both.readline())
                try:
                    said = DEEDS[deed](node, **words)
                except (WitnzError, AssertionError) as error:
                    said = {"error": repr(error)}
                both.write(json.dumps(said) + "\n")


def _unpickled(*args: object, **kwargs: object) -> None:
    os.write(2, b"something was unpickled\n")
    os._exit(UNPICKLED)


def main() -> None:
    """The program, changed."""
    start = Node.start

    def begin(node: Node, **how: bool) -> None:
        start(node, **how)
        threading.Thread(target=_serve, args=(node,), daemon=True, name="rogue").start()

    Node.start = begin  # type: ignore[method-assign,assignment]
    for name in ("load", "loads", "_load", "_loads", "Unpickler", "_Unpickler"):
        setattr(pickle, name, _unpickled)
    from witnz.cli.main import main as program

    program()
