"""Offline verification of a bundle by anybody: the checks of formats.md 6, in their order.

    1  the file is a bundle at all                                  FormatError, exit code 2
    2  checkpoint       signatures and quorum under the policy that the verifier brings
    3  records          each is in the checkpoint's tree; one cluster
    4  rows             each entry is in a sealed log, the row line shown is the one recorded, under its own key
    5  rows[].state     the row was in the table when a verification found everything as expected
    6  tables           secrets fit their commitments, verifications are of that table
    7  consistency      older checkpoints, like 2, are prefixes of this one
    8  anchors          each receipt is for this checkpoint or for one of those, and covers only what that one covers

A check fails (TAMPERED, 3) where something does not fit, and is skipped (INCONCLUSIVE, 4) where something that was asked for
could not be checked: no policy from elsewhere, too few cosignatures, an unresolved row, an unknown receipt.  Nothing passes by
absence, and the policy inside the bundle is never used.  No network, no clock, no files; only :mod:`witnz.core` is imported.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from witnz.core.bundle import Bundle, SignedCheckpoint, parse_bundle
from witnz.core.checkpoint import checkpoint_digest
from witnz.core.merkle import EMPTY_ROOT, verify_consistency, verify_inclusion
from witnz.core.policy import Policy
from witnz.core.receipt import Receipt
from witnz.core.record import record_leaf_hash
from witnz.core.timestamp import format_time
from witnz.core.trust import Trust
from witnz.core.verdict import Check, CheckStatus, Verdict, exit_code
from witnz.verify.bundle_rows import NOT_CHECKED_LATER, RowResult, Shown, check_row, check_table, fail, ok, skip
from witnz.verify.receipts import VERIFIERS, OfflineVerifier, Online, check_signatures

_VERDICTS = {CheckStatus.OK: Verdict.VERIFIED, CheckStatus.FAIL: Verdict.TAMPERED, CheckStatus.SKIP: Verdict.INCONCLUSIVE}


@dataclass(frozen=True, slots=True)
class BundleResult:
    """The answer about one bundle: the verdict, every check, and what none of them covers.

    ``origin``, ``size`` and ``root`` are the checkpoint's; ``cosigned_by`` the policy's witnesses whose cosignatures verify.
    ``claims`` are what the maker says and nothing proves: created, tool, and whether the policy inside is the one given.
    """

    verdict: Verdict
    checks: tuple[Check, ...]
    not_checked: tuple[str, ...]
    rows: tuple[RowResult, ...]
    origin: str
    size: int
    root: bytes
    cosigned_by: tuple[str, ...]
    claims: Mapping[str, Any]

    @property
    def exit_code(self) -> int:
        """0, 3 or 4 (interface.md 2)."""
        return exit_code(self.verdict)

    def to_json(self) -> dict[str, Any]:
        """The members of ``witnz.verify/1`` for a bundle, without ``schema``."""
        return {
            "verdict": self.verdict.value,
            "checks": [check.to_json() for check in self.checks],
            "findings": [],
            "not_checked": list(self.not_checked),
            "checkpoint": {
                "origin": self.origin,
                "size": self.size,
                "root": b64encode(self.root).decode("ascii"),
                "cosigned_by": list(self.cosigned_by),
            },
            "rows": [row.to_json() for row in self.rows],
            "claims": dict(self.claims),
        }


def verify_bundle(
    data: bytes,
    policy: Policy | None,
    *,
    origin: str | None = None,
    receipts_asked: bool = False,
    trust: Trust | None = None,
    verifiers: Mapping[str, OfflineVerifier] = VERIFIERS,
    online: Online | None = None,
    required: Sequence[str] = (),
) -> BundleResult:
    """The answer about the bundle in ``data`` for someone who trusts ``policy`` and nothing else.

    ``origin``: the log that the verifier expects, where one is meant.  ``trust``: what the verifier knows of accounts, blocks
    and authorities (its own policy is not used).  ``verifiers``: what receipts are judged with offline, by type; ``online``:
    looks outside.  ``receipts_asked``: what receipts say beyond their digest was asked for, so what cannot be checked of it is
    INCONCLUSIVE; so it is with ``online``.  ``required``: types of anchors of which one receipt must have been checked in
    full, or the answer is INCONCLUSIVE.  Raises :class:`witnz.errors.FormatError` (exit code 2) for what is no bundle.
    """
    bundle = parse_bundle(data)
    head, cosigned_by = _check_head(bundle.head, policy, origin)
    checks = [*head, *_check_records(bundle)]
    rows: list[RowResult] = []
    shown = Shown.of(bundle)
    for index, bundled in enumerate(bundle.rows):
        row_checks, row = check_row(shown, bundled, f"rows[{index}]")
        checks += row_checks
        rows.append(row)
    for index, table in enumerate(bundle.tables):
        checks += check_table(shown, table, f"tables[{index}]")
    older = [_check_older(bundle, index, policy) for index in range(len(bundle.consistency))]
    checks += [check for note_checks in older for check in note_checks]
    passed = [note for note, found in zip(bundle.consistency, older, strict=True) if not _has_failed(found)]
    anchored = {checkpoint_digest(note.note.text): note.checkpoint.size for note in (bundle.head, *passed)}
    receipts = _Receipts(anchored, replace(trust or Trust(), policy=policy), verifiers, online, receipts_asked)
    for index, receipt in enumerate(bundle.anchors):
        checks += receipts.check(receipt, f"anchors[{index}]")
    checks += [check_required(kind, [(bundle.anchors, checks)]) for kind in required]
    return BundleResult(
        verdict=verdict_of(checks),
        checks=tuple(checks),
        not_checked=tuple(_not_checked(bundle, checks, rows)),
        rows=tuple(rows),
        origin=bundle.head.checkpoint.origin,
        size=bundle.head.checkpoint.size,
        root=bundle.head.checkpoint.root,
        cosigned_by=tuple(cosigned_by),
        claims={
            "created": format_time(bundle.created),
            "tool": bundle.tool,
            "policy_inside_is_the_one_given": None if policy is None else bundle.policy.text == policy.text,
        },
    )


def verdict_of(checks: Iterable[Check]) -> Verdict:
    """The verdict on checks; what does not apply has no part in it."""
    return Verdict.combine(_VERDICTS[check.status] for check in checks if check.status in _VERDICTS)


def check_required(kind: str, found: Iterable[tuple[Sequence[Receipt], Sequence[Check]]]) -> Check:
    """Whether a receipt of a type that somebody insists on was checked in full; ``found``: receipts with their checks."""
    for receipts, checks in found:
        for index, receipt in enumerate(receipts):
            name = f"anchors[{index}]"
            own = [check.status for check in checks if check.name == name or check.name.startswith(f"{name}.")]
            if receipt.type == kind and own and set(own) == {CheckStatus.OK}:
                return ok(f"require.{kind}", f"{name} was asked for, and checked in full")
    return skip(f"require.{kind}", f"an anchor of type {kind} was asked for, and no receipt of it could be checked in full")


def _has_failed(checks: list[Check]) -> bool:
    return any(check.status is CheckStatus.FAIL for check in checks)


def _check_head(head: SignedCheckpoint, policy: Policy | None, origin: str | None) -> tuple[list[Check], list[str]]:
    """Rule 2 for the bundle's own checkpoint, and the witnesses whose cosignatures verify."""
    checkpoint = head.checkpoint
    expected = []
    if origin is not None and checkpoint.origin != origin:
        expected = [fail("checkpoint.origin", f"a checkpoint of {checkpoint.origin} where {origin} was expected")]
    checks, cosigned_by = check_signatures(head.note, policy, "checkpoint")
    return [*expected, *checks], cosigned_by


def _check_records(bundle: Bundle) -> list[Check]:
    """Rule 3, and that a genesis among the records is this log's."""
    checkpoint = bundle.head.checkpoint
    if not bundle.records:
        return [skip("records", "no journal record is shown, so nothing but the checkpoint itself was checked")]
    checks = []
    for index, proven in enumerate(bundle.records):
        record, leaf = proven.record, record_leaf_hash(proven.record)
        if not verify_inclusion((record.seq or 0) - 1, checkpoint.size, leaf, proven.proof, checkpoint.root):
            checks.append(fail(f"records[{index}]", f"the {record.type} record {record.seq} is not in the checkpoint's tree"))
        if record.type == "genesis" and record.body["cluster"] != checkpoint.origin:
            checks.append(fail(f"records[{index}]", f"a genesis of {record.body['cluster']} under another log"))
    clusters = {proven.record.cluster for proven in bundle.records}
    if len(clusters) != 1:
        checks.append(fail("records.cluster", f"records of {len(clusters)} clusters in one bundle"))
    shown = ok("records", f"{len(bundle.records)} records of cluster {min(clusters)} are in the tree of size {checkpoint.size}")
    return checks or [shown]


def _check_older(bundle: Bundle, index: int, policy: Policy | None) -> list[Check]:
    """Rule 7 for one older checkpoint."""
    older, name = bundle.consistency[index], f"consistency[{index}]"
    checks, _ = check_signatures(older.note, policy, name)
    old, new = older.checkpoint, bundle.head.checkpoint
    if old.origin != new.origin:
        return [*checks, fail(f"{name}.proof", f"a checkpoint of {old.origin}, another log")]
    if old.size == 0:  # every tree extends the empty one; there is nothing to prove
        extends = old.root == EMPTY_ROOT and not older.proof
    else:
        extends = verify_consistency(old.size, new.size, old.root, new.root, older.proof)
    sizes = f"the checkpoint of size {old.size}"
    if not extends:
        return [*checks, fail(f"{name}.proof", f"{sizes} is not a prefix of the one of size {new.size}")]
    return [*checks, ok(f"{name}.proof", f"{sizes} is a prefix of the one of size {new.size}")]


@dataclass(frozen=True, slots=True)
class _Receipts:
    """How receipts are judged.  ``anchored``: the digests of the checkpoints that passed, and their sizes."""

    anchored: Mapping[bytes, int]
    trust: Trust
    verifiers: Mapping[str, OfflineVerifier]
    online: Online | None
    asked: bool

    def check(self, receipt: Receipt, name: str) -> list[Check]:
        """Rule 8: what the receipt anchors is this checkpoint or an older one that passed, of the size that it says; and what
        it proves beyond that.

        What was not asked for and cannot be checked does not apply; it is named among what was not checked.  A trust file
        that is about receipts of the type asks for it.
        """
        size = self.anchored.get(receipt.digest)
        if size is None:
            return [fail(name, f"the {receipt.type} receipt is for none of the checkpoints in this bundle")]
        if size != receipt.size:
            return [fail(name, f"the {receipt.type} receipt says size {receipt.size}, its checkpoint {size}")]
        covers = f"the {receipt.type} receipt is for the checkpoint of size {receipt.size} and covers no record beyond it"
        verifier = self.verifiers.get(receipt.type)
        if verifier is None and not receipt.known:
            return [skip(name, f"{covers}; receipts of type {receipt.type} are not known to this version: NOT CHECKED")]
        offline = list(verifier(receipt, receipt.digest, self.trust, name)) if verifier is not None else []
        outside = list(self.online(receipt, name)) if self.online is not None else []
        if any(check.status is not CheckStatus.SKIP for check in outside):
            offline = [check for check in offline if check.status is not CheckStatus.SKIP]
        found = [ok(name, covers), *offline, *outside]
        if self.asked or self.online is not None or receipt.type == "basic" or self.trust.is_about(receipt.type):
            return found
        return [
            Check(check.name, CheckStatus.NOT_APPLICABLE, check.detail) if check.status is CheckStatus.SKIP else check
            for check in found
        ]


def _not_checked(bundle: Bundle, checks: list[Check], rows: list[RowResult]) -> list[str]:
    """Everything that no check above covers, so that nobody takes its absence for a proof."""
    missing = [f"{check.name}: {check.detail}" for check in checks if check.status is CheckStatus.SKIP]
    for index, row in enumerate(rows):
        if row.verified_lsn is None:
            missing.append(f"rows[{index}] ({row.table} entry {row.seq}): {NOT_CHECKED_LATER}")
        if not row.line_shown and row.op in ("baseline", "insert", "update"):
            missing.append(f"rows[{index}] ({row.table} entry {row.seq}): its values are not shown, only their hash")
    for index, table in enumerate(bundle.tables):
        if table.verify is None:
            missing.append(f"tables[{index}] ({table.table}): no verification of the table is shown")
    for check in checks:
        if check.status is CheckStatus.NOT_APPLICABLE:
            missing.append(f"{check.name}: {check.detail}")
    return missing
