"""What an intruder with root on one node puts in the place of its program: it does all that a node does, and lies when told to.

    python -m witnz.demo.compromised        in the node's directory; orders on standard input, an answer each on standard output

    {"order":"leads"}                       {"leads":…}
    {"order":"seal","table":…}              ask for votes on a seal of what nobody recorded, then have it ordered with its own
                                            vote alone; {"refused":{node: why}}
    {"order":"approve","finding":…}         accept a finding with an operator's signature that no operator made; {}

The lies are signed with the node's own keys: nobody else's are on that machine.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from witnz.config import load_config
from witnz.core.keys import Ed25519Signer
from witnz.core.lsn import format_lsn
from witnz.core.record import format_proposal, sign_record
from witnz.logging import configure_logging
from witnz.node.fellows import enter
from witnz.node.journal import authorise
from witnz.node.node import Node, now_us
from witnz.node.voting import TooFewVotes
from witnz.store import meta
from witnz.web.server import SocketServer

ASK_S: Final = 20.0
PAUSE_S: Final = 0.2


class Liar:
    """One node's keys and its place in the order, past every check of its own."""

    def __init__(self, node: Node) -> None:
        self._node, self._id = node, node.config.node_id

    def obey(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out one order; the answer."""
        if order["order"] == "seal":
            return {"refused": self._false_seal(order["table"])}
        if order["order"] == "approve":
            self._approve(order["finding"])
            return {}
        return {"leads": self._node.engine.leader() == self._id}

    def _false_seal(self, table: str) -> dict[str, str]:
        """Ask until all others have come as far as this node and say that they recorded something else."""
        journal, deadline = self._node.journal, time.monotonic() + ASK_S
        peering = self._node.peering
        assert peering is not None
        refused: dict[str, str] = {}
        while time.monotonic() < deadline:
            try:
                peering.ballots.collect("seal", self._seal(table), now_us())
            except TooFewVotes as error:
                refused = {node: f"{refusal.kind}: {refusal.message}" for node, refusal in error.ballot.refused.items()}
            if sum(reason.startswith("differs") for reason in refused.values()) == len(journal.state.members) - 1:
                break
            time.sleep(PAUSE_S)
        body = self._seal(table)
        self._put("seal", {**body, "votes": {self._id: journal.vote("seal", body)}})
        return refused

    def _seal(self, table: str) -> dict[str, Any]:
        state = self._node.state(table)
        with self._node.db.read() as conn:
            lsn = meta.load_number(conn, "last_final_lsn") or 0
        root, chain = b64encode(os.urandom(32)).decode(), os.urandom(32).hex()
        head = {"table": table, "generation": state.generation, "size": state.head.size, "root": root, "chain": chain}
        return {"lsn": format_lsn(lsn), "tables": [head]}

    def _approve(self, finding_id: str) -> None:
        finding, journal = self._node.approvals.get(finding_id), self._node.journal
        operator = next(iter(journal.state.keys_in_force("operator")))
        body: dict[str, Any] = {
            "table": finding.table, "generation": finding.generation, "rows": [], "finding": finding.id,
            "reason": "nothing to see here",
        }  # fmt: skip
        forger = Ed25519Signer(f"operator/{operator}", os.urandom(32))
        self._put("accept", authorise("accept", body, self._node.cluster_id, operator, forger))

    def _put(self, record_type: str, body: Mapping[str, Any]) -> None:
        """Have a record ordered, signed as a record of this node, without asking this node."""
        journal = self._node.journal
        with journal._turn:  # nothing of the honest half comes in between
            record = sign_record(
                self._node.keys.identity, at=now_us(), body=body, cluster=self._node.cluster_id,
                n=journal.state.next_n(self._id), node=self._id, prev=journal.state.prev_of(self._id), record_type=record_type,
            )  # fmt: skip
            self._node.engine.propose(format_proposal(record), os.urandom(8).hex(), 10.0)


def main() -> int:
    """Run until SIGTERM or the end of the orders."""
    configure_logging()
    config = load_config(Path("witnz.yaml"), dict(os.environ))
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: _end(stopping))
    node = Node(config, fellows=enter(config, now_us, stopping))
    node.start()
    liar = Liar(node)
    try:
        with SocketServer(node, config.socket_path, config.socket_group):
            for line in sys.stdin:
                sys.stdout.write(json.dumps(liar.obey(json.loads(line))) + "\n")
                sys.stdout.flush()
    except SystemExit:
        pass
    finally:
        node.stop()
    return 0


def _end(stopping: threading.Event) -> None:
    stopping.set()
    raise SystemExit(0)


if __name__ == "__main__":
    raise SystemExit(main())
