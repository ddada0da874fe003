"""Checkpoints from peer to peer: cosignatures are asked for and given, heads are shown to everybody (architecture.md 3).

    cosign   a note with the log key's signature → this node's signature line, or why not
    final    a note with the cosignatures of a quorum, pushed to all
    heads    what this node stands at: its newest cosigned and its newest final note, and how far it is

Nothing here goes through the leader, so that a leader can neither hold back a cosignature nor show two histories for long: a
signed checkpoint that this node's journal contradicts is kept as a proof that anybody can check, and alerted.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from witnz.core.canonical import canonical, parse_json
from witnz.core.checkpoint import check_cosignature, parse_checkpoint
from witnz.core.keys import parse_verifier_key
from witnz.core.lsn import format_lsn
from witnz.core.note import Note, Signature, format_note, parse_note
from witnz.core.shape import boolean, integer, members, nullable, text
from witnz.errors import ProofError, WitnzError
from witnz.node.cosigning import FORGOTTEN, Cosigner, Forked, own_signature, signers_of
from witnz.node.findings import FindingBook
from witnz.node.journal import Journal
from witnz.store import checkpoints, meta
from witnz.store.database import Database
from witnz.store.datadir import save_file

if TYPE_CHECKING:
    from witnz.cluster.peers import Peers

log = structlog.get_logger(__name__)

COSIGN, FINAL, HEADS = "cosign", "final", "heads"
CALL_TIMEOUT_S, HEADS_TIMEOUT_S = 5.0, 2.0
MAX_BYTES = 64 << 10
_NOTE = text(MAX_BYTES)
_HEADS = members(
    {
        "journal_size": integer(),
        "position": text(32),
        "diverged": boolean,
        "cosigned": nullable(_NOTE),
        "final": nullable(_NOTE),
        "yours": nullable(_NOTE),
    }
)
_ASKED = members({"cosigned": integer()})
LOOK_BACK: Final = 500  # checkpoints, for one that the asker has cosigned and does not know of


@dataclass(frozen=True, slots=True)
class PeerHead:
    """What a member said of itself: records in its journal, the LSN its stream has passed, whether its log has diverged."""

    journal_size: int
    position: str
    diverged: bool


class Gossip:
    """The checkpoint traffic of one node.  ``evidence``: the directory for proofs of two histories."""

    def __init__(
        self,
        db: Database,
        journal: Journal,
        cosigner: Cosigner,
        book: FindingBook,
        peers: Peers,
        node_id: str,
        evidence: Path,
        diverged: Callable[[], Mapping[str, int]],
    ) -> None:
        self._db, self._journal, self._cosigner, self._book, self._peers = db, journal, cosigner, book, peers
        self._node_id, self._evidence, self._diverged = node_id, evidence, diverged
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="gossip")
        self._lock = threading.Lock()
        self.heads: dict[str, PeerHead] = {}
        self.asked: set[str] = set()
        """Members that were asked for their heads at least once since the start, whether they answered or not."""
        cosigner.gather, cosigner.publish = self.gather, self.publish
        peers.serve(COSIGN, self._answer_cosign, MAX_BYTES)
        peers.serve(FINAL, self._answer_final, MAX_BYTES)
        peers.serve(HEADS, self._answer_heads, 1024)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _others(self) -> list[str]:
        return [node for node in self._journal.state.members if node != self._node_id]

    # -- asking ---------------------------------------------------------------------------------------------------------------

    def gather(self, note: Note) -> list[Signature]:
        """The cosignatures of the other members, verified."""
        body = format_note(note).encode()
        asked = {node: self._pool.submit(self._peers.call, node, COSIGN, body, CALL_TIMEOUT_S) for node in self._others()}
        found = []
        for node, future in asked.items():
            try:
                signature = self._cosignature(node, note, future.result())
            except WitnzError as error:
                log.info("member did not cosign", peer=node, reason=error.message)
            else:
                found.append(signature)
        return found

    def _cosignature(self, node: str, note: Note, answer: bytes) -> Signature:
        if len(answer) > MAX_BYTES:
            raise ProofError("cosignature: expected one line")
        given = parse_note(answer)
        key = parse_verifier_key(self._journal.state.members[node].cosigner)
        for signature in given.signatures:
            if given.text == note.text and check_cosignature(note.text, signature, key) is not None:
                return signature
        raise ProofError(f"cosignature of {node}: expected one by its cosigner key on the same checkpoint")

    def publish(self, note: str) -> None:
        """Give a final checkpoint to all; who does not hear it now asks for it later."""
        for node in self._others():
            self._pool.submit(self._push, node, note.encode())

    def _push(self, node: str, note: bytes) -> None:
        try:
            self._peers.call(node, FINAL, note, HEADS_TIMEOUT_S)
        except WitnzError as error:
            log.debug("checkpoint was not delivered", peer=node, reason=error.message)

    def exchange(self) -> None:
        """Ask every member where it stands, and compare what it shows with this node's journal."""
        with self._db.read() as conn:
            last, forgotten = checkpoints.load_cosigned(conn), meta.load_number(conn, FORGOTTEN)
        if forgotten is not None:
            self._rolled_back(
                forgotten, f"a checkpoint of size {forgotten} has this node's cosignature, of which it did not know"
            )
        question = canonical({"cosigned": 0 if last is None else last.size})
        asked = {node: self._pool.submit(self._peers.call, node, HEADS, question, HEADS_TIMEOUT_S) for node in self._others()}
        for node, future in asked.items():
            try:
                self._take(node, future.result())
            except WitnzError as error:
                log.debug("member does not show its head", peer=node, reason=error.message)
                self.heads.pop(node, None)
            self.asked.add(node)

    def _take(self, node: str, data: bytes) -> None:
        shown = parse_json(data, what="heads", max_bytes=4 * MAX_BYTES)
        _HEADS(shown, "heads")
        self.heads[node] = PeerHead(shown["journal_size"], shown["position"], shown["diverged"])
        for name in ("cosigned", "final", "yours"):
            if shown[name] is not None:
                self._look_at(node, parse_note(shown[name]), final=name == "final")

    def _look_at(self, node: str, note: Note, *, final: bool) -> None:
        with self._db.read() as conn:
            last = checkpoints.load_cosigned(conn)
        size, own = parse_checkpoint(note.text).size, 0 if last is None else last.size
        forgotten = size > own and own_signature(self._journal.state, self._node_id, format_note(note))
        try:
            self._cosigner.compare(note)
            if final or forgotten:
                self._cosigner.take(note)
        except Forked as fork:
            self.keep(node, fork)
        if not signers_of(self._journal.state, note):
            return
        if forgotten:
            self._rolled_back(size, f"{node} shows this node's cosignature on size {size}; this node knows of {own}")
        if final:
            self._cosigner.floor = max(self._cosigner.floor, size)

    def _rolled_back(self, size: int, seen: str) -> None:
        """There is a cosignature of this node on more than its store knows that it signed."""
        self._cosigner.floor = max(self._cosigner.floor, size)
        with self._db.write() as conn:
            opened = self._book.open(
                conn, cls="node.rolled-back", key=self._node_id, detail=f"{seen}: an older copy of its store"
            )
            meta.save_value(conn, FORGOTTEN, None)
        if opened:
            log.error("store was rolled back", size=size)

    # -- answering ------------------------------------------------------------------------------------------------------------

    def _answer_cosign(self, node: str, data: bytes) -> bytes:
        note = parse_note(data)
        try:
            signature = self._cosigner.cosign(note)
        except Forked as fork:
            self.keep(node, fork)
            raise
        return format_note(Note(note.text, (signature,))).encode()

    def _answer_final(self, node: str, data: bytes) -> bytes:
        self._look_at(node, parse_note(data), final=True)
        return b"{}"

    def _answer_heads(self, node: str, data: bytes) -> bytes:
        asked = parse_json(data, what="heads asked", max_bytes=1024)
        _ASKED(asked, "heads asked")
        with self._db.read() as conn:
            last, final = checkpoints.load_cosigned(conn), checkpoints.latest(conn, final=True)
            position = meta.load_number(conn, "last_final_lsn") or 0
            newest = checkpoints.latest(conn)
            behind = newest is not None and newest.size > asked["cosigned"]
            known = checkpoints.list_checkpoints(conn, limit=LOOK_BACK) if behind else []
        newer = [each.note for each in known if each.size > asked["cosigned"]]
        shown: dict[str, Any] = {
            "journal_size": self._journal.size,
            "position": format_lsn(position),
            "diverged": bool(self._diverged()),
            "cosigned": None if last is None else last.note,
            "final": None if final is None else final.note,
            # An older copy of the asker's store: the others may have gone on without it, so their newest ones do not show it.
            "yours": next((note for note in newer if own_signature(self._journal.state, node, note)), None),
        }
        return canonical(shown)

    # -- two histories --------------------------------------------------------------------------------------------------------

    def keep(self, node: str, fork: Forked) -> None:
        """Keep what proves that two histories were signed, and say so once."""
        theirs = format_note(fork.note)
        with self._db.read() as conn:
            ours = checkpoints.get(conn, fork.size) or checkpoints.latest(conn, final=True)
        proof = {
            "format": "witnz-fork/1",
            "size": fork.size,
            "shown_by": node,
            "signed_by": signers_of(self._journal.state, fork.note),
            "theirs": theirs,
            "ours": None if ours is None else ours.note,
            "own_root": base64.b64encode(fork.own_root).decode(),
        }
        name = f"fork-{fork.size}-{hashlib.sha256(theirs.encode()).hexdigest()[:12]}.json"
        with self._lock:
            self._evidence.mkdir(mode=0o700, exist_ok=True)
            path = self._evidence / name
            if not path.exists():
                save_file(path, [json.dumps(proof, indent=1).encode() + b"\n"])
        root = parse_checkpoint(fork.note.text).root
        with self._db.write() as conn:
            opened = self._book.open(
                conn,
                cls="checkpoint.forked",
                key=str(fork.size),
                recorded=fork.own_root.hex(),
                found=root.hex(),
                detail=f"{node} showed a checkpoint of size {fork.size} with another root; both are kept in evidence/{name}",
            )
        if opened:
            log.error("checkpoint was forked", peer=node, size=fork.size, evidence=name)
