"""Checkpoints of the journal and this node's cosignature on them (formats.md 5).

What is signed is durable before the signature can leave the node; no smaller size and no second root for a size is ever signed,
whatever a leader asks for and whatever became of this node's directory meanwhile: :attr:`Cosigner.floor` is the highest
checkpoint that anybody reachable has shown, and below it nothing is signed.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from typing import Final

from witnz.core.checkpoint import Checkpoint, cosign, format_checkpoint, parse_checkpoint
from witnz.core.journal import JournalState
from witnz.core.keys import parse_verifier_key
from witnz.core.merkle import verify_consistency
from witnz.core.note import Note, Signature, format_note, parse_note, sign_note, signature_fits
from witnz.core.policy import PolicyResult, evaluate, parse_policy
from witnz.core.tiles import consistency_proof, root_at
from witnz.errors import Inconclusive, ProofError, StoreCorrupt
from witnz.node.journal import Journal
from witnz.node.keyring import Keyring
from witnz.store import checkpoints, meta
from witnz.store import journal as stored
from witnz.store.database import Database

FORGOTTEN: Final = "cosigned_forgotten"
"""meta: the size of a checkpoint with this node's cosignature of which its store knew nothing, until a finding tells it."""


class NotCosigned(Inconclusive):
    """This node does not cosign that now."""

    code = "cosign.refused"


class Forked(ProofError):
    """A signed checkpoint says another root than this node's journal, which every member applied alike."""

    code = "checkpoint.forked"

    def __init__(self, note: Note, size: int, own_root: bytes) -> None:
        super().__init__(f"a signed checkpoint of size {size} has another root than this node's journal")
        self.note, self.size, self.own_root = note, size, own_root


class Cosigner:
    """Signs for one node, one checkpoint at a time whoever asks.  ``clock``: µs since the Unix epoch.

    ``conditions`` say of a size why this node does not stand by it, None where it does.
    """

    def __init__(self, db: Database, journal: Journal, keys: Keyring, cluster: str, clock: Callable[[], int]) -> None:
        self._db, self._journal, self._keys, self._cluster, self._clock = db, journal, keys, cluster, clock
        self._turn = threading.Lock()
        self.floor = 0
        self.conditions: list[Callable[[int], str | None]] = []
        self.gather: Callable[[Note], list[Signature]] | None = None
        """Asks the other members for their cosignatures; None in a cluster of one."""
        self.publish: Callable[[str], None] = lambda note: None

    # -- a checkpoint of our own ----------------------------------------------------------------------------------------------

    def checkpoint(self) -> str | None:
        """Sign the journal's head if it grew, and have it cosigned; the note with signatures, None if nothing is new.

        Raises NotCosigned where this is a cluster of one and it does not stand by its journal.
        """
        with self._db.read() as conn:
            size = stored.journal_size(conn)
            newest, last = checkpoints.latest(conn, final=True), checkpoints.load_cosigned(conn)
            if last is not None and last.size > size:
                raise _not_extended(size, last.size)
            if newest is not None and newest.size >= size:
                return None
            root = stored.root_at(conn, size)
        note = sign_note(format_checkpoint(Checkpoint(self._cluster, size, root)), [self._keys.log])
        signatures: list[Signature] = []
        try:
            signatures.append(self.cosign(note))
        except NotCosigned:
            if self.gather is None:
                raise
        if self.gather is not None:
            signatures += self.gather(note)
        full = note.with_signatures(*sorted(signatures, key=lambda signature: signature.name))
        final = judged(self._journal.state, full).accepted
        with self._db.write() as conn:
            checkpoints.save_checkpoint(conn, size, format_note(full), self._clock(), final=final)
        if final:
            self.publish(format_note(full))
        return format_note(full)

    # -- cosigning ------------------------------------------------------------------------------------------------------------

    def cosign(self, note: Note) -> Signature:
        """This node's cosignature on a checkpoint that the log key signed.

        Raises NotCosigned where it does not stand by it now, Forked where it is another journal, StoreCorrupt where this
        node's own journal is not the one that it cosigned before.
        """
        checkpoint = self._log_signed(note)
        with self._turn:
            root = self._own_root(checkpoint, note)
            reason = self._reason(checkpoint.size)
            if reason is not None:
                raise NotCosigned(f"size {checkpoint.size}: {reason}")
            signature = cosign(note.text, self._keys.cosigner, self._clock() // 1_000_000)
            full = format_note(Note(note.text, (*note.signatures, signature)))
            with self._db.write() as conn:
                checkpoints.save_cosigned(conn, checkpoint.size, root, full)
            return signature

    def take(self, note: Note) -> bool:
        """Keep a checkpoint that others have made final; whether it is.  Raises Forked."""
        checkpoint = parse_checkpoint(note.text)
        if checkpoint.origin != self._cluster or checkpoint.size > self._journal.size:
            return False
        self.compare(note)
        result = judged(self._journal.state, note)
        if not result.accepted:
            return False
        with self._db.write() as conn:
            keep_final(conn, self._journal.state, note, result.cosigned_by, self._clock())
        return True

    def compare(self, note: Note) -> None:
        """Raises Forked for a checkpoint that a key of this cluster signed and that this node's journal contradicts."""
        checkpoint = parse_checkpoint(note.text)
        if checkpoint.origin != self._cluster or not 0 < checkpoint.size <= self._journal.size:
            return
        root = self._root(checkpoint.size)
        if root != checkpoint.root and signers_of(self._journal.state, note):
            raise Forked(note, checkpoint.size, root)

    def _log_signed(self, note: Note) -> Checkpoint:
        checkpoint = parse_checkpoint(note.text)
        key = parse_verifier_key(self._journal.state.log_key)
        if checkpoint.origin != self._cluster or not any(signature_fits(note.text, each, key) for each in note.signatures):
            raise ProofError("checkpoint: expected one of this cluster, signed by its log key")
        if checkpoint.extensions:
            raise ProofError("checkpoint: expected no extension lines")
        return checkpoint

    def _own_root(self, checkpoint: Checkpoint, note: Note) -> bytes:
        if not 0 < checkpoint.size <= self._journal.size:
            raise NotCosigned(f"size {checkpoint.size}: this node's journal has {self._journal.size} records")
        root = self._root(checkpoint.size)
        if root != checkpoint.root:
            raise Forked(note, checkpoint.size, root)
        with self._db.read() as conn:
            last = checkpoints.load_cosigned(conn)
            if last is None or last.size > checkpoint.size:
                return root
            read = stored.tile_reader(conn, checkpoint.size)
            proof = consistency_proof(read, last.size, checkpoint.size) if last.size < checkpoint.size else []
        if not verify_consistency(last.size, checkpoint.size, last.root, root, proof):
            raise _not_extended(checkpoint.size, last.size)
        return root

    def _reason(self, size: int) -> str | None:
        """Why this node does not stand by a size; None where it does."""
        with self._db.read() as conn:
            last = checkpoints.load_cosigned(conn)
        if last is not None and size < last.size:
            return f"this node cosigned size {last.size} already"
        if size < self.floor:
            return f"a checkpoint of size {self.floor} is known"
        return next((reason for condition in self.conditions if (reason := condition(size)) is not None), None)

    def _root(self, size: int) -> bytes:
        with self._db.read() as conn:
            return root_at(stored.tile_reader(conn, size), size)


def _not_extended(size: int, cosigned: int) -> StoreCorrupt:
    return StoreCorrupt(
        f"the journal at size {size} does not extend the checkpoint of size {cosigned} this node signed",
        hint="the store was rolled back or changed; run `witnz verify --store`, and restore it from a backup",
    )


def judged(state: JournalState, note: Note) -> PolicyResult:
    """A checkpoint under the policy that the cluster claimed for itself at its size."""
    size = parse_checkpoint(note.text).size
    return evaluate(parse_policy(state.periods.at(size).policy(retired=False)), note)


def keep_final(conn: sqlite3.Connection, state: JournalState, note: Note, cosigned_by: Sequence[str], at: int) -> None:
    """Keep a checkpoint of this journal that a quorum made final, those ``cosigned_by`` among others.

    Where this node's own cosignature is on it and nothing is known of that here, the store is an older copy: from now on it is
    known, so that nothing below is signed, and :data:`FORGOTTEN` has the size until a finding tells it.
    """
    own, text, checkpoint = meta.load_value(conn, "node") or "", format_note(note), parse_checkpoint(note.text)
    checkpoints.save_checkpoint(conn, checkpoint.size, text, at, final=True)
    last = checkpoints.load_cosigned(conn)
    if own in cosigned_by and (last is None or last.size < checkpoint.size):
        checkpoints.save_cosigned(conn, checkpoint.size, checkpoint.root, text)
        if own_signature(state, own, text):  # not by a key of a node of that name before
            meta.save_value(conn, FORGOTTEN, checkpoint.size)


def signers_of(state: JournalState, note: Note) -> list[str]:
    """The names of the cluster's keys, log key and cosigners, whose signatures on a note verify."""
    keys = [parse_verifier_key(state.log_key), *(parse_verifier_key(m.cosigner) for m in state.members.values())]
    return [key.name for key in keys if any(signature_fits(note.text, each, key) for each in note.signatures)]


def own_signature(state: JournalState, node_id: str, note_text: str) -> bool:
    """Whether a note carries a cosignature of this node."""
    member = state.members.get(node_id)
    if member is None:
        return False
    key, note = parse_verifier_key(member.cosigner), parse_note(note_text)
    return any(signature_fits(note.text, each, key) for each in note.signatures)
