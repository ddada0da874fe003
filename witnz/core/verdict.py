"""Verdicts: the three answers that a verification can give, and the checks that they rest on (interface.md 2 and 4).

    VERIFIED       everything that was asked for was checked and is as recorded        exit code 0
    TAMPERED       at least one thing is not as recorded, or does not fit its proof     exit code 3
    INCONCLUSIVE   nothing contradicts, but something asked for could not be checked   exit code 4

TAMPERED wins over INCONCLUSIVE and that over VERIFIED; where nothing was checked at all the answer is INCONCLUSIVE.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """The answer of a verification; the values are what ``--json`` and ``verify`` records hold."""

    VERIFIED = "VERIFIED"
    TAMPERED = "TAMPERED"
    INCONCLUSIVE = "INCONCLUSIVE"

    @staticmethod
    def combine(verdicts: Iterable[Verdict]) -> Verdict:
        """The verdict on the whole from those on its parts."""
        found = set(verdicts)
        if Verdict.TAMPERED in found:
            return Verdict.TAMPERED
        return Verdict.VERIFIED if found == {Verdict.VERIFIED} else Verdict.INCONCLUSIVE


class CheckStatus(StrEnum):
    """How one check went: passed, failed, could not be made though asked for, does not apply."""

    OK = "ok"
    FAIL = "fail"
    SKIP = "skip"
    NOT_APPLICABLE = "n/a"


@dataclass(frozen=True, slots=True)
class Check:
    """One named check and a sentence on what was compared or why it could not be."""

    name: str
    status: CheckStatus
    detail: str = ""

    def to_json(self) -> dict[str, str]:
        """The member of ``checks`` in ``witnz.verify/1``."""
        return {"name": self.name, "status": self.status.value, "detail": self.detail}


def exit_code(verdict: Verdict) -> int:
    """The process exit code of a verdict (interface.md 2)."""
    return {Verdict.VERIFIED: 0, Verdict.TAMPERED: 3, Verdict.INCONCLUSIVE: 4}[verdict]
