"""How a scene is played: do something as somebody, say what must be noticed, wait for it, and note what was seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from witnz.demo.nodes import NodeProcess
from witnz.demo.stage import Ran, Stage, wait_for
from witnz.demo.summary import Outcome

TAMPERED, VERIFIED, INCONCLUSIVE, REFUSED = 3, 0, 4, 2
NOTHING: Final = "nothing"


class Narrator(Protocol):
    """Who tells the person in front of the screen what happens."""

    def act(self, title: str) -> None:
        """A part begins."""

    def say(self, text: str) -> None:
        """What is being done."""

    def show(self, outcome: Outcome) -> None:
        """What came of it."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A finding that must be made: of this class, about this table and key (None: about none)."""

    cls: str
    table: str | None
    key: str | None = None

    def __str__(self) -> str:
        return " ".join(part for part in (self.cls, self.table, self.key) if part is not None)

    def fits(self, finding: Mapping[str, Any]) -> bool:
        """Whether a finding is this one, and has the hashes that its class must have."""
        same = (finding["class"], finding["table"], finding["key"]) == (self.cls, self.table, self.key)
        return same and all(finding[name] for name in _HASHES.get(self.cls, ()))


_HASHES: Final[Mapping[str, tuple[str, ...]]] = {
    "violation.update": ("recorded", "found"),
    "violation.delete": ("recorded",),
    "change.unapproved": ("recorded", "found"),
    "row.modified": ("recorded", "found"),
    "row.deleted": ("recorded",),
    "row.inserted": ("found",),
}


@dataclass(slots=True)
class Play:
    """One run.  ``leave_out``: scenes whose deed is not done, so that they must be missed; ``patience_s``: how long to wait;
    ``paused``: the application writes nothing meanwhile.

    ``known``: the findings that scenes were about, by id; whatever else is found is a false alarm.
    """

    stage: Stage
    narrator: Narrator
    leave_out: Collection[str] = ()
    patience_s: float = 60.0
    paused: Callable[[], AbstractContextManager[None]] = nullcontext
    outcomes: list[Outcome] = field(default_factory=list)
    known: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _act: str = ""

    def begin(self, act: str, title: str) -> None:
        """A part begins; ``act``: its name in the summary."""
        self._act = act
        self.narrator.act(title)

    def note(
        self,
        scene: str,
        expected: str,
        seen: str,
        *,
        ok: bool,
        detector: str,
        seconds: float,
        findings: Sequence[Mapping[str, Any]] = (),
    ) -> bool:
        """Add a line to the summary."""
        outcome = Outcome(scene, self._act, expected, seen, ok, detector, seconds, tuple(findings))
        self.outcomes.append(outcome)
        self.narrator.show(outcome)
        return ok

    # -- tampering ------------------------------------------------------------------------------------------------------------

    def tamper(self, scene: str, *statements: str, at_once: bool = False) -> float:
        """Do it as the superuser, all statements in one transaction or each in its own; when it was done."""
        for statement in statements:
            self.narrator.say(f"{statement};")
        if scene not in self.leave_out:
            self.stage.dba(*statements, at_once=at_once)
        return time.monotonic()

    def expect_now(self, scene: str, expected: Expected, done_at: float, detector: str = "stream") -> None:
        """The node itself makes the finding, before anybody asks for a verification."""
        found = wait_for(lambda: self._new(self.stage.client.findings(), expected), self.patience_s)
        self._note_finding(scene, expected, found, time.monotonic() - done_at, detector)

    def expect_by_scan(self, table: str, scenes: Mapping[str, Expected], done_at: float) -> None:
        """``witnz verify`` says TAMPERED and names exactly these rows, which nothing in the stream explains."""
        self.narrator.say(f"$ witnz verify {table}")
        ran = self.stage.command("verify", table)
        seconds = time.monotonic() - done_at
        reported = [f for f in ran.document.get("findings", ()) if f["explained_by"] is None]
        for scene, expected in scenes.items():
            found = self._new(reported, expected) if ran.code == TAMPERED else None
            self._note_finding(scene, expected, found, seconds, "scan", otherwise=ran.outcome)

    def _new(self, findings: Sequence[Mapping[str, Any]], expected: Expected) -> Mapping[str, Any] | None:
        """The first of these that is the expected one and not known from an earlier scene."""
        return next((f for f in findings if f["id"] not in self.known and expected.fits(f)), None)

    def _note_finding(
        self,
        scene: str,
        expected: Expected,
        found: Mapping[str, Any] | None,
        seconds: float,
        detector: str,
        otherwise: str = NOTHING,
    ) -> None:
        if found is None:
            self.note(scene, str(expected), otherwise, ok=False, detector=detector, seconds=seconds)
            return
        self.known[found["id"]] = found
        seen = str(Expected(found["class"], found["table"], found["key"]))
        self.note(scene, str(expected), seen, ok=True, detector=detector, seconds=seconds, findings=[found])

    def scenes(self) -> Mapping[str, str]:
        """The finding's id of each scene that made one."""
        return {outcome.scene: outcome.findings[0]["id"] for outcome in self.outcomes if outcome.findings}

    def finding_of(self, scene: str) -> str | None:
        """The id of the finding that a scene made."""
        return self.scenes().get(scene)

    def approve(self, scene: str, reason: str) -> None:
        """Approve what a scene found, as the operator; nothing where it found nothing."""
        finding = self.finding_of(scene)
        if finding is None:
            return
        key = self.stage.operator_key.name
        ran = self.run("findings", "approve", finding, "--operator-key", key, "--reason", reason)

        def objection() -> str:
            state = self.stage.client.finding(finding)["state"]
            return "" if state == "approved" else f"the finding is {state}"

        self.expect_command(f"approve.{scene}", ran, detector="operator", also=objection)

    # -- commands -------------------------------------------------------------------------------------------------------------

    def run(self, *words: object, at: NodeProcess | None = None) -> Ran:
        """A command, shown as it would be typed; ``at``: beside that node."""
        texts = [str(word) for word in words]
        place = at if at is not None and len(self.stage.nodes) > 1 else None
        typed = " ".join(f'"{text}"' if " " in text else text for text in texts)
        self.narrator.say(f"{place.id if place is not None else ''}$ witnz {typed}")
        return self.stage.command(*texts, folder=None if place is None else place.folder)

    def expect_command(
        self,
        scene: str,
        ran: Ran,
        *,
        code: int = VERIFIED,
        verdict: str | None = None,
        detector: str = "command",
        also: Callable[[], str] = str,
    ) -> bool:
        """It ended with this code and verdict, and ``also`` has nothing to object (it says what is wrong, or nothing)."""
        expected = f"exit code {code}" + (f", {verdict}" if verdict else "")
        good = ran.code == code and (verdict is None or ran.document.get("verdict") == verdict)
        objection = also() if good else ""
        seen = objection or ran.outcome
        return self.note(scene, expected, seen, ok=good and not objection, detector=detector, seconds=ran.seconds)
