"""Receipts against the outside, for a verifier (``witnz verify --online``): through the anchors that are configured, else as
each receipt itself says where to look.

Whoever verifies needs access of their own: credentials for a bucket come from where AWS programs look, a chain's endpoint from
the configuration.  Where nobody can be asked the receipt is not checked, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from witnz.anchor.base import Anchor, Surroundings, skip
from witnz.anchor.registry import backend, open_anchor, types
from witnz.config import AnchorConfig
from witnz.core.receipt import Receipt
from witnz.core.verdict import Check
from witnz.errors import AnchorError, ConfigError

NOTE_IS_ALL = ("basic",)
"""Types whose receipt is the evidence itself: nobody has to be asked."""


class OnlineLooks:
    """Calls itself with (receipt, name of the check); ``sections``: the anchors that the verifier has configured."""

    def __init__(self, sections: Sequence[AnchorConfig], cluster: str, clock: Callable[[], int]) -> None:
        self._surroundings = Surroundings(cluster, clock)
        self._sections = sections
        self._opened: list[Anchor] | None = None

    def __call__(self, receipt: Receipt, name: str) -> list[Check]:
        if receipt.type in NOTE_IS_ALL:
            return []
        try:
            anchor = self._anchor_for(receipt)
        except ImportError as error:
            looks = [skip("outside", f"not asked: the module {error.name} is not installed")]
        except (ConfigError, AnchorError) as error:
            looks = [skip("outside", f"not asked: {error.message}")]
        else:
            looks = [skip("outside", "not asked: the receipt does not say where, and no anchor of its place is configured")]
            if anchor is not None:
                looks = list(anchor.look(receipt))
        return [replace(look.check, name=f"{name}.{look.check.name}") for look in looks]

    def _anchor_for(self, receipt: Receipt) -> Anchor | None:
        if self._opened is None:
            self._opened = [open_anchor(section, self._surroundings) for section in self._sections]
        for anchor in self._opened:
            if anchor.type == receipt.type and anchor.is_own(receipt):
                return anchor
        if receipt.type not in types():
            return None
        section = backend(receipt.type).implied(receipt)
        return None if section is None else open_anchor(section, self._surroundings)
