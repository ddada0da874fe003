"""Anchor ``opentimestamps``: the digest goes to calendar servers, which commit to it in a block of Bitcoin within hours.

A calendar answers at once with a promise (a *pending* proof), which is kept as a receipt, and later with what leads to a block.
Remembered is the proof as far as it has come, so that neither a crash nor a calendar that has gone loses it:

    digest, proof (hex of the .ots file)

What is submitted is the SHA-256 of the digest and 16 random bytes, so calendars do not learn the digest.  Answers are read by
the reference library, and the proof that comes of them by our own strict reader before it is kept.
"""

from __future__ import annotations

import secrets
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from witnz.anchor.base import Look, Memory, Pending, Publication, Published, Surroundings, fail, ok, skip
from witnz.anchor.http import host_of, request
from witnz.config import AnchorConfig
from witnz.core.finding import FindingClass
from witnz.core.opentimestamps import heights, read_proof
from witnz.core.receipt import Receipt, parse_receipt
from witnz.core.verdict import Check, CheckStatus
from witnz.errors import AnchorError, AnchorUnreachable, FormatError

if TYPE_CHECKING:
    from opentimestamps.core.timestamp import DetachedTimestampFile, Timestamp

PUBLIC_CALENDARS: Final = (
    "https://alice.btc.calendar.opentimestamps.org",
    "https://bob.btc.calendar.opentimestamps.org",
    "https://finney.calendar.eternitywall.com",
)
MAX_ANSWER_BYTES: Final = 10_000
POLL_S: Final = 1800.0
_HEADERS: Final = {"Accept": "application/vnd.opentimestamps.v1", "Content-Type": "application/octet-stream"}


class OpenTimestampsAnchor:
    """Some calendars; one that answers is enough."""

    type = "opentimestamps"

    def __init__(self, config: AnchorConfig, surroundings: Surroundings) -> None:
        self._config = config
        self._calendars = config.calendars or PUBLIC_CALENDARS

    @property
    def place(self) -> str:
        return f"OpenTimestamps calendars {', '.join(host_of(url) for url in self._calendars)}"

    def is_own(self, receipt: Receipt) -> bool:
        """Bitcoin is one place, whichever calendars were asked."""
        return True

    # -- publishing -----------------------------------------------------------------------------------------------------------

    def publish(self, publication: Publication, memory: Memory) -> Published | Pending:
        """Ask the calendars for a promise, and later for what it has become."""
        remembered = memory.load()
        if remembered.get("digest") != publication.digest.hex():
            proof = self._submitted(publication.digest)
            memory.save({"digest": publication.digest.hex(), "proof": proof.hex()})
        else:
            proof = self._upgraded(bytes.fromhex(remembered["proof"]))
            if proof.hex() != remembered["proof"]:
                memory.save({**remembered, "proof": proof.hex()})
        receipt = self._receipt(publication, proof)
        if heights(read_proof(proof)[1]):
            return Published(receipt)
        return Pending(POLL_S, "promised by calendars, not in a block of Bitcoin yet", receipt)

    def _receipt(self, publication: Publication, proof: bytes) -> Receipt:
        own = {"type": "opentimestamps", "digest": publication.digest.hex(), "size": publication.checkpoint.size}
        return parse_receipt({**own, "proof": b64encode(proof).decode()})

    def _submitted(self, digest: bytes) -> bytes:
        """A pending proof by every calendar that answers.  Raises AnchorUnreachable where none does."""
        from opentimestamps.core.op import OpAppend, OpSHA256
        from opentimestamps.core.timestamp import DetachedTimestampFile, Timestamp

        whole = Timestamp(digest)
        commitment = whole.ops.add(OpAppend(secrets.token_bytes(16))).ops.add(OpSHA256())
        problems = []
        for url in self._calendars:
            try:
                commitment.merge(self._ask(f"{url.rstrip('/')}/digest", commitment.msg, commitment.msg))
            except AnchorError as error:
                problems.append(error.message)
        if len(problems) == len(self._calendars):
            raise AnchorUnreachable(f"no calendar answered: {'; '.join(problems)}", hint="it is tried again")
        return _written(DetachedTimestampFile(OpSHA256(), whole))

    def _upgraded(self, proof: bytes) -> bytes:
        """The proof with whatever calendars now know about its pending attestations; as it was where they know no more."""
        from opentimestamps.core.notary import PendingAttestation

        file = _parsed(proof)
        for message, attestation in list(file.timestamp.all_attestations()):
            if not isinstance(attestation, PendingAttestation) or attestation.uri not in (*self._calendars, *PUBLIC_CALENDARS):
                continue  # an address in an answer is nobody's order to connect there
            part = _at(file.timestamp, message)
            try:
                upgraded = self._ask(f"{attestation.uri.rstrip('/')}/timestamp/{message.hex()}", None, message)
                if part is not None:
                    part.merge(upgraded)
            except AnchorError:
                continue  # not known yet, or not there now
        return _written(file)

    def _ask(self, url: str, body: bytes | None, message: bytes) -> Timestamp:
        """What a calendar says about a message.  Raises AnchorUnreachable, AnchorRefused."""
        from opentimestamps.core.serialize import BytesDeserializationContext, DeserializationError
        from opentimestamps.core.timestamp import Timestamp

        status, answer = request(
            url, body, headers=_HEADERS, timeout_s=self._config.timeout_s, max_bytes=MAX_ANSWER_BYTES, ca=self._config.ca
        )
        if status != 200:
            raise AnchorUnreachable(f"{host_of(url)} answers with HTTP {status}")
        try:
            context = BytesDeserializationContext(answer)
            found: Timestamp = Timestamp.deserialize(context, message)
            context.assert_eof()
        except (DeserializationError, ValueError) as error:
            raise AnchorUnreachable(f"{host_of(url)}: expected a time stamp: {error}") from None
        return found

    # -- looking --------------------------------------------------------------------------------------------------------------

    def look(self, receipt: Receipt) -> Sequence[Look]:
        """Whether the proof is one and where it leads; whether that block is Bitcoin's, calendars cannot say."""
        try:
            digest, attestations = read_proof(b64decode(receipt.members["proof"]))
        except FormatError as error:
            return [fail("proof", error.message, FindingClass.ANCHOR_ALTERED)]
        if digest != receipt.digest:
            return [fail("proof", "the proof is about another digest", FindingClass.ANCHOR_ALTERED)]
        if not (blocks := heights(attestations)):
            return [skip("proof", "the proof is pending: calendars promised it, no block holds it yet")]
        how = f"look up block {blocks[0]} and give its header to `witnz verify --anchor-trust`"
        return [ok("proof", f"leads to Bitcoin block {blocks[0]}"), skip("block", f"whether it is that block's: {how}")]

    def newest(self, origin: str, above: int) -> str | None:
        """Calendars know commitments, not checkpoints."""
        return None

    def rehearse(self) -> Sequence[Check]:
        """A real promise over random bytes."""
        try:
            self._submitted(secrets.token_bytes(32))
        except AnchorError as error:
            return [Check("anchor.opentimestamps", CheckStatus.FAIL, f"{error.message}. {error.hint}".strip())]
        return [Check("anchor.opentimestamps", CheckStatus.OK, f"{self.place}: at least one promises to commit")]


class _OpenTimestamps:
    """What the registry knows of the type."""

    type = "opentimestamps"
    about = "Bitcoin, through OpenTimestamps calendars: free, within hours, a time only; provable offline given a block header"
    extra = "ots"
    latency = "a promise at once, a block within hours"

    def open(self, config: AnchorConfig, surroundings: Surroundings) -> OpenTimestampsAnchor:
        return OpenTimestampsAnchor(config, surroundings)

    def implied(self, receipt: Receipt) -> AnchorConfig | None:
        return None

    def party(self, receipt: Receipt) -> str:
        _, attestations = read_proof(b64decode(receipt.members["proof"]))
        if blocks := heights(attestations):
            return f"those who could rewrite Bitcoin from block {blocks[0]} on"
        return "the OpenTimestamps calendars that promised it (no block holds it yet)"


BACKEND: Final = _OpenTimestamps()


def _written(file: DetachedTimestampFile) -> bytes:
    """The bytes of an ``.ots`` file, which our own reader must be able to read.  Raises AnchorUnreachable."""
    from opentimestamps.core.serialize import BytesSerializationContext

    context = BytesSerializationContext()
    file.serialize(context)
    data = bytes(context.getbytes())
    try:
        read_proof(data)
    except FormatError as error:
        raise AnchorUnreachable(f"a calendar gave what no verifier would read: {error.message}") from None
    return data


def _parsed(proof: bytes) -> DetachedTimestampFile:
    from opentimestamps.core.serialize import BytesDeserializationContext
    from opentimestamps.core.timestamp import DetachedTimestampFile

    return DetachedTimestampFile.deserialize(BytesDeserializationContext(proof))


def _at(timestamp: Any, message: bytes) -> Any:
    """The part of a tree that is about a message; None where there is none."""
    parts: list[Any] = [timestamp]
    while parts:
        part = parts.pop()
        if part.msg == message:
            return part
        operations: Mapping[Any, Any] = part.ops
        parts += operations.values()
    return None
