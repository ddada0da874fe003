"""Anchor ``witness``: somebody else's witness cosigns the checkpoint (c2sp.org/tlog-witness).

The receipt is of type ``basic``: the note with the witness's cosignature, which verifies offline under a policy that names the
witness.  A witness that has seen something larger than we submit is given something newer; one that answers 422 has seen a
history that ours contradicts, and that is a fork.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from witnz.anchor.base import (
    AnchorContradicts,
    Look,
    Memory,
    Pending,
    Publication,
    Published,
    Surroundings,
    Withdrawn,
    fail,
    ok,
    skip,
)
from witnz.anchor.http import host_of, request
from witnz.config import AnchorConfig
from witnz.core.checkpoint import check_cosignature, parse_checkpoint
from witnz.core.finding import FindingClass
from witnz.core.keys import VerifierKey, cosigner_key, parse_verifier_key
from witnz.core.note import MAX_SIGNATURES, Note, Signature, format_note, parse_note
from witnz.core.receipt import Receipt, parse_receipt
from witnz.core.verdict import Check, CheckStatus
from witnz.core.witness import Submission, format_submission, monitoring_path
from witnz.errors import AnchorError, AnchorRefused, ConfigError, FormatError

MAX_ANSWER_BYTES: Final = 64 * 1024
_REFUSED: Final = {
    400: "it finds the request malformed; are both of the same version of the protocol?",
    403: "it knows another key for this log: give whoever runs it the key that `witnz keys show` prints",
    404: "it does not know this log: give whoever runs it the origin and the key that `witnz keys show` prints",
}


class WitnessAnchor:
    """One witness."""

    type = "basic"

    def __init__(self, config: AnchorConfig, surroundings: Surroundings) -> None:
        assert config.url is not None and config.witness_key is not None
        self._prefix, self._timeout_s, self._ca = config.url.reveal().rstrip("/"), config.timeout_s, config.ca
        try:
            self._key: VerifierKey = cosigner_key(parse_verifier_key(config.witness_key))
        except FormatError as error:
            raise ConfigError(f"anchors[].witness_key: {error.message}", hint="ask whoever runs the witness for it") from None

    @property
    def place(self) -> str:
        return f"witness {self._key.name} at {host_of(self._prefix)}"

    def publish(self, publication: Publication, memory: Memory) -> Published | Pending | Withdrawn:
        """Submit, from the size that it saw last of us; it says which that is where we do not know."""
        size = publication.checkpoint.size
        old = min(int(memory.load().get("size", 0)), size)
        status, answer = self._submit(publication, old)
        if status == 409:
            old = _size_in(answer)
            if old > size:
                return Withdrawn(f"{self.place} has seen {old} records already, more than the {size} submitted")
            status, answer = self._submit(publication, old)
        if status == 422:
            raise AnchorContradicts(
                f"{self.place} has seen another history of this log: the checkpoint of size {size} contradicts it",
                hint="there is a fork: keep this node's data, and compare the checkpoints that others hold",
            )
        if status != 200:
            reason = " ".join(answer[:200].decode("utf-8", "replace").split())
            raise AnchorRefused(f"{self.place} answers {status}: {reason}", hint=_REFUSED.get(status, "ask whoever runs it"))
        cosignature = self._cosignature(publication.text, answer)
        memory.save({"size": size})
        note = format_note(parse_note(publication.note).with_signatures(cosignature))
        return Published(parse_receipt({"type": "basic", "digest": publication.digest.hex(), "size": size, "note": note}))

    def _submit(self, publication: Publication, old: int) -> tuple[int, bytes]:
        size = publication.checkpoint.size
        proof = tuple(publication.proof(old)) if 0 < old < size else ()
        note = parse_note(publication.note)
        body = format_submission(Submission(old, proof, Note(note.text, note.signatures[:MAX_SIGNATURES])))
        return self._ask("add-checkpoint", body)

    def _ask(self, path: str, body: bytes | None) -> tuple[int, bytes]:
        try:
            return request(
                f"{self._prefix}/{path}", body, headers={"content-type": "text/plain; charset=utf-8"},
                timeout_s=self._timeout_s, max_bytes=MAX_ANSWER_BYTES, ca=self._ca,
            )  # fmt: skip
        except AnchorRefused as error:
            if "HTTP 403" in error.message:
                raise AnchorRefused(f"{self.place} answers 403", hint=_REFUSED[403]) from None
            raise

    def _cosignature(self, text: str, answer: bytes) -> Signature:
        """The witness's own cosignature among the lines of an answer.  Raises AnchorRefused where none verifies."""
        try:
            lines = parse_note(text.encode() + b"\n" + answer).signatures
        except FormatError as error:
            raise AnchorRefused(f"{self.place} answers no cosignature: {error.message}", hint="ask whoever runs it") from None
        for line in lines:
            if check_cosignature(text, line, self._key) is not None:
                return line
        raise AnchorRefused(
            f"{self.place} answers no cosignature that verifies under its key", hint="is anchors[].witness_key its key?"
        )

    def look(self, receipt: Receipt) -> Sequence[Look]:
        """Whether its cosignature verifies, and the witness has not gone below it."""
        note = parse_note(receipt.members["note"])
        if not self._signed(note):
            return [fail("cosignature", f"{self.place} did not cosign this note", FindingClass.ANCHOR_ALTERED)]
        looks = [ok("cosignature", f"{self._key.name} cosigned it")]
        origin = parse_checkpoint(note.text).origin
        try:
            shown = self._shown(origin)
        except (AnchorError, FormatError) as error:
            return [*looks, skip("newest", f"what it has seen last: not checked ({error.message})")]
        if shown is None:
            return [*looks, skip("newest", "what it has seen last: it does not show it")]
        size = parse_checkpoint(shown.text).size
        if size < receipt.size:
            return [*looks, fail("newest", f"it shows size {size}, less than it has cosigned", FindingClass.ANCHOR_ALTERED)]
        return [*looks, ok("newest", f"it shows size {size}")]

    def newest(self, origin: str, above: int) -> str | None:
        try:
            shown = self._shown(origin)
        except FormatError:
            return None
        return None if shown is None or parse_checkpoint(shown.text).size <= above else format_note(shown)

    def _shown(self, origin: str) -> Note | None:
        """What its monitoring address shows of a log, with its cosignature; None where it shows nothing of the kind."""
        status, answer = self._ask(monitoring_path(origin), None)
        if status != 200:
            return None
        note = parse_note(answer)
        return note if self._signed(note) and parse_checkpoint(note.text).origin == origin else None

    def _signed(self, note: Note) -> bool:
        return any(check_cosignature(note.text, each, self._key) is not None for each in note.signatures)

    def is_own(self, receipt: Receipt) -> bool:
        return self._signed(parse_note(receipt.members["note"]))

    def rehearse(self) -> Sequence[Check]:
        try:
            status, _ = self._ask("add-checkpoint", b"a rehearsal of witnz\n")
        except AnchorError as error:
            return [Check("answer", CheckStatus.FAIL, f"{error.message}: {error.hint}")]
        if status == 400:  # as the specification has it for what is malformed
            return [Check("answer", CheckStatus.OK, f"{self.place} answers")]
        return [Check("answer", CheckStatus.FAIL, f"{self.place} answers {status} to nonsense: is it a witness?")]


def _size_in(answer: bytes) -> int:
    text = answer.decode("ascii", "replace").removesuffix("\n")
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        raise AnchorRefused("the witness answers 409 without the size that it has seen", hint="ask whoever runs it")
    return int(text)


class WitnessBackend:
    """A cosignature of somebody else's."""

    type = "witness"
    about = "a cosignature of somebody else's witness: two histories for two readers need the witness, too"
    extra = "node"
    latency = "a second"

    def open(self, config: AnchorConfig, surroundings: Surroundings) -> WitnessAnchor:
        return WitnessAnchor(config, surroundings)

    def implied(self, receipt: Receipt) -> AnchorConfig | None:
        return None

    def party(self, receipt: Receipt) -> str:
        from witnz.anchor.basic import BACKEND as BASIC

        return BASIC.party(receipt)


BACKEND: Final = WitnessBackend()
