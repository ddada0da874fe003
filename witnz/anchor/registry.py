"""The backends by type: our own, and those that other packages bring under the entry point group ``witnz.anchors``.

An entry point names an object with the members of :class:`witnz.anchor.base.Backend`; its name is the type.  Our own win:
nobody replaces ``s3`` by installing a package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from witnz.anchor.base import Anchor, Backend, Surroundings
from witnz.config import AnchorConfig
from witnz.core.receipt import Receipt
from witnz.errors import ConfigError

GROUP: Final = "witnz.anchors"
BUILT_IN: Final[Mapping[str, str]] = {
    "basic": "witnz.anchor.basic",
    "witness": "witnz.anchor.witness",
    "s3": "witnz.anchor.s3",
    "evm": "witnz.anchor.evm",
    "rfc3161": "witnz.anchor.rfc3161",
    "opentimestamps": "witnz.anchor.opentimestamps",
}
"""Modules with a ``BACKEND``; imported when they are asked for, so that one extra can be installed without the others."""


def types() -> list[str]:
    """Every type that can be configured here: our own first, then those of other packages by name."""
    return [*BUILT_IN, *sorted(_others())]


def backend(kind: str) -> Backend:
    """The backend of a type.  Raises ConfigError for an unknown one, ImportError where its extra is not installed."""
    if kind in BUILT_IN:
        found: Backend = import_module(BUILT_IN[kind]).BACKEND
        return found
    entry = _others().get(kind)
    if entry is None:
        raise ConfigError(
            f"anchor type {kind!r} is not known; there are {', '.join(types())}",
            hint="correct anchors[].type, or install the package that brings it",
            code="anchor.unknown",
        )
    loaded: Backend = entry.load()
    return loaded


def open_anchor(config: AnchorConfig, surroundings: Surroundings) -> Anchor:
    """The anchor that a section of the configuration describes.  Raises ConfigError, and ImportError as :func:`backend`."""
    return backend(config.type).open(config, surroundings)


def party(receipt: Receipt) -> str:
    """Who would have to take part for a receipt to be undone; of an unknown type that nobody knows it."""
    if receipt.type not in types():
        return f"whoever stands behind {receipt.type} receipts (this version does not know them)"
    return backend(receipt.type).party(receipt)


def named(sections: Sequence[AnchorConfig]) -> dict[str, AnchorConfig]:
    """The configured anchors by name; one without a name is called by its type, the second of a type ``s3-2`` and so on."""
    found: dict[str, AnchorConfig] = {}
    for section in sections:
        name, number = section.name or section.type, 1
        while name in found:
            number += 1
            name = f"{section.name or section.type}-{number}"
        found[name] = section
    return found


@cache
def _others() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP) if entry.name not in BUILT_IN}
