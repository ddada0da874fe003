"""Attacked nodes with anchors: what an auditor is given, and what somebody in between can make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from witnz.anchor.base import Publication
from witnz.core.bundle import format_bundle, parse_bundle
from witnz.core.checkpoint import checkpoint_digest
from witnz.core.note import format_note
from witnz.core.receipt import Receipt, parse_receipt
from witnz.node.evidence import Evidence
from witnz.node.node import now_us

WAIT_S = 120.0


def anchor_now(scene: Any, name: str) -> Receipt:
    """Publish through an anchor of the scene's node; the receipt, which is in the journal."""
    scene.node.seal_now()
    (outcome,) = scene.node.anchoring.now([name], WAIT_S)
    assert outcome["status"] == "published", outcome
    lane = scene.node.anchoring.lanes[name]
    receipt: Receipt = lane.receipt_of(lane.receipts()[-1])
    return receipt


def bundle_of(scene: Any) -> bytes:
    """The newest checkpoint with all that it covers and its receipts."""
    scene.node.seal_now()
    return Evidence(scene.node.db, now_us).checkpoint_bundle()


def publication_of(bundle: bytes, receipt: Receipt) -> Publication:
    """The publication that a receipt in the bundle came of, for another anchor."""
    parsed = parse_bundle(bundle)
    notes = [shown.note for shown in (parsed.head, *parsed.consistency)]
    (note,) = [note for note in notes if checkpoint_digest(note.text) == receipt.digest]
    return Publication(format_note(note), lambda: bundle)


def with_receipts(bundle: bytes, receipts: Sequence[Receipt | Mapping[str, Any]]) -> bytes:
    """The bundle with these receipts instead of its own, its digest mended: what anybody can make of it."""
    found = [receipt if isinstance(receipt, Receipt) else parse_receipt(dict(receipt)) for receipt in receipts]
    return format_bundle(replace(parse_bundle(bundle), anchors=tuple(found)))
