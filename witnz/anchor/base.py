"""What an anchor is to the rest of witnz: publish a final checkpoint, look whether it is still there, say who stands behind it.

    publish   final checkpoint -> Published (a receipt), or Pending (go on with the same checkpoint, here or after a restart)
    look      receipt -> checks against the outside: ok, fail with a finding class, or skip with the reason
    newest    the newest checkpoint of this log that the place shows, so that a node rolled back notices
    rehearse  the real path, with nothing lasting, for ``witnz doctor``
    party     who would have to take part for the receipt to be undone or forged

An anchor decides nothing: when to publish, what to do again and what becomes a finding is :mod:`witnz.node.anchoring`'s.  What
a receipt proves *offline* is :mod:`witnz.verify.receipts`', which needs none of this.

Errors say whether trying again helps: :class:`AnchorUnreachable` does by itself, :class:`AnchorRefused` only after somebody
changed something.  Both leave nothing half done that ``publish`` cannot go on with.  Neither is ever raised for what was found:
an object that is gone is a check that failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from witnz.config import AnchorConfig
from witnz.core.checkpoint import Checkpoint, checkpoint_digest, parse_checkpoint
from witnz.core.finding import FindingClass
from witnz.core.note import parse_note
from witnz.core.receipt import Receipt
from witnz.core.verdict import Check, CheckStatus
from witnz.errors import AnchorContradicts, AnchorRefused, AnchorUnreachable

__all__ = [
    "Anchor",
    "AnchorContradicts",
    "AnchorRefused",
    "AnchorUnreachable",
    "Backend",
    "LogFile",
    "Look",
    "Memory",
    "Pending",
    "Publication",
    "Published",
    "Surroundings",
    "Withdrawn",
    "fail",
    "ok",
    "skip",
]


@dataclass(frozen=True, slots=True)
class LogFile:
    """A C2SP tile or entry bundle of the log ``log`` (its origin) at ``path``; once all are there, so are ``size`` entries."""

    log: str
    size: int
    path: str
    data: bytes = field(repr=False)


def _no_files(kept: Mapping[str, int]) -> Iterable[LogFile]:
    return ()


def _no_proof(old: int) -> Sequence[bytes]:
    raise AnchorRefused(f"no consistency proof from size {old} is at hand", hint="this is a mistake in witnz")


@dataclass(frozen=True, slots=True)
class Publication:
    """A final checkpoint to be published: its ``note`` with every signature, and its ``bundle``, built when it is asked for.

    ``files``: what the logs have gained up to it, given the sizes by origin that are kept already; for anchors that keep the
    logs themselves.
    """

    note: str
    bundle: Callable[[], bytes] = field(repr=False)
    files: Callable[[Mapping[str, int]], Iterable[LogFile]] = field(default=_no_files, repr=False)
    proof: Callable[[int], Sequence[bytes]] = field(default=_no_proof, repr=False)
    """The consistency proof from an older size, above 0, to this checkpoint."""

    @property
    def text(self) -> str:
        """The note without its signatures; what the digest is over."""
        return parse_note(self.note).text

    @property
    def checkpoint(self) -> Checkpoint:
        return parse_checkpoint(self.text)

    @property
    def digest(self) -> bytes:
        """The 32 bytes that are anchored (formats.md 7)."""
        return checkpoint_digest(self.text)


@dataclass(frozen=True, slots=True)
class Published:
    """The checkpoint is out there, and this is what says so."""

    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Pending:
    """The checkpoint is under way: ask again in ``retry_after_s``, with the same publication and memory.

    ``receipt``: one that is worth keeping already though a better one will come (a time stamp that waits for its block).
    """

    retry_after_s: float
    reason: str
    receipt: Receipt | None = None


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """This checkpoint cannot be published there any more, because the place has a newer one: begin anew with the newest."""

    reason: str


class Memory(Protocol):
    """What an anchor must still know after a crash, one JSON object; durable when ``save`` returns.

    It is the anchor's own (a nonce, a signed transaction), kept from one publication to the next.
    """

    def load(self) -> Mapping[str, Any]:
        """What was saved last; empty at first."""

    def save(self, document: Mapping[str, Any]) -> None:
        """Replace it."""


@dataclass(frozen=True, slots=True)
class Look:
    """One check of a receipt against the outside; ``finding``: the class that a failed one is."""

    check: Check
    finding: FindingClass | None = None


def ok(name: str, detail: str) -> Look:
    return Look(Check(name, CheckStatus.OK, detail))


def skip(name: str, detail: str) -> Look:
    """What could not be checked, and why; never a pass."""
    return Look(Check(name, CheckStatus.SKIP, detail))


def fail(name: str, detail: str, finding: FindingClass) -> Look:
    return Look(Check(name, CheckStatus.FAIL, detail), finding)


class Anchor(Protocol):
    """One configured place."""

    @property
    def type(self) -> str:
        """The type of its receipts."""

    @property
    def place(self) -> str:
        """Where it is, for people: ``s3://bucket/prefix at endpoint``; never a credential."""

    def publish(self, publication: Publication, memory: Memory) -> Published | Pending | Withdrawn:
        """Publish a checkpoint, or go on with it.  May be called again with the same one after any crash, and then gives the
        receipt of what is out there already rather than publish twice, as far as the place allows.

        Raises AnchorUnreachable, AnchorRefused; AnchorContradicts where the place holds another history.
        """

    def look(self, receipt: Receipt) -> Sequence[Look]:
        """Check a receipt of this type, not necessarily of this place, against the outside.

        At least one.  What cannot be reached is a skip with its reason; nothing is raised for it.
        """

    def newest(self, origin: str, above: int) -> str | None:
        """The note of the newest checkpoint of the log ``origin`` here that is larger than ``above`` records; None if there is
        none or the place cannot say.  Whose signatures it carries is for the caller to check.

        Raises AnchorUnreachable, AnchorRefused.
        """

    def is_own(self, receipt: Receipt) -> bool:
        """Whether a receipt is of this place: of this bucket, account, authority."""

    def rehearse(self) -> Sequence[Check]:
        """Try the real path as far as nothing lasts longer than a day; each precondition a check with its reason."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a configured anchor is given.  ``clock``: µs since the Unix epoch; ``cluster``: the log's origin."""

    cluster: str
    clock: Callable[[], int]


class Backend(Protocol):
    """What a module registers under its type (entry point group ``witnz.anchors``): how to open one, and what it is worth."""

    type: str
    about: str
    """One line: where checkpoints go, and what that proves."""
    extra: str | None
    """The extra of witnz that it needs; None: none."""
    latency: str
    """How long publishing takes, in words."""

    def open(self, config: AnchorConfig, surroundings: Surroundings) -> Anchor:
        """The anchor that a section of the configuration describes; nothing is asked of the outside yet.

        Raises ConfigError.
        """

    def implied(self, receipt: Receipt) -> AnchorConfig | None:
        """The section that says where to look for a receipt, for somebody who has none; None where it does not tell."""

    def party(self, receipt: Receipt) -> str:
        """Who would have to take part for this receipt to be undone or forged, from the receipt alone."""
