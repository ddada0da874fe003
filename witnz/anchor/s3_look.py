"""Whether an anchored object is still there, locked, unchanged and in sight: a receipt of type ``s3`` against its bucket.

    object    the version is there             gone: anchor.missing, with what stands under its key now, if anything
    content   it is what the receipt says, a bundle of that checkpoint                    else anchor.altered
    lock      COMPLIANCE, and no shorter than the receipt says                            else anchor.altered
    current   nothing covers it: no deletion marker, no newer version                     else anchor.hidden

What is refused (permissions), cannot be reached, or has outlived its retention is not checked, with the reason: after that a
life-cycle rule may have removed it rightfully.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from botocore.exceptions import ClientError

from witnz.anchor.base import Look, fail, ok, skip
from witnz.anchor.s3_client import error_code, is_absent, translated
from witnz.core.bundle import parse_bundle
from witnz.core.bundle_document import MAX_BUNDLE_BYTES
from witnz.core.checkpoint import checkpoint_digest
from witnz.core.finding import FindingClass
from witnz.core.receipt import Receipt
from witnz.core.timestamp import format_time, parse_time
from witnz.errors import AnchorError, AnchorRefused, FormatError

LOCKED: Final = "COMPLIANCE"
MISSING, ALTERED, HIDDEN = FindingClass.ANCHOR_MISSING, FindingClass.ANCHOR_ALTERED, FindingClass.ANCHOR_HIDDEN


def read_object(client: Any, bucket: str, key: str, version: str) -> tuple[Mapping[str, Any], bytes]:
    """(what HEAD says, the content) of a version.  Raises what boto3 raises; AnchorRefused for one over 64 MiB."""
    head: Mapping[str, Any] = client.head_object(Bucket=bucket, Key=key, VersionId=version, ChecksumMode="ENABLED")
    if head["ContentLength"] > MAX_BUNDLE_BYTES:
        raise AnchorRefused(f"s3://{bucket}/{key}: expected at most {MAX_BUNDLE_BYTES} bytes, found {head['ContentLength']}")
    content: bytes = client.get_object(Bucket=bucket, Key=key, VersionId=version)["Body"].read(MAX_BUNDLE_BYTES + 1)
    return head, content


def utc_us(moment: datetime) -> int:
    """Microseconds since the Unix epoch of an aware time."""
    return round(moment.timestamp() * 1_000_000)


class S3Look:
    """One receipt against the outside; ``now_us``: µs since the Unix epoch."""

    def __init__(self, client: Any, receipt: Receipt, now_us: int) -> None:
        self._client, self._receipt, self._now_us = client, receipt, now_us
        self._bucket, self._key, self._version = (str(receipt.members[name]) for name in ("bucket", "key", "version_id"))
        self._what = f"s3://{self._bucket}/{self._key} version {self._version}"

    @staticmethod
    def unable(error: AnchorError) -> list[Look]:
        """Nothing could be asked at all."""
        return [skip("object", f"not checked: {error.message}; {error.hint}")]

    def checks(self) -> list[Look]:
        try:
            with translated(f"{self._what} cannot be read"):
                head, content = read_object(self._client, self._bucket, self._key, self._version)
        except AnchorError as error:
            cause = error.__cause__
            if isinstance(cause, ClientError) and is_absent(cause):
                return [self._gone()]
            return self.unable(error)
        return [ok("object", f"{self._what} is there"), self._content(content), self._lock(head), self._current()]

    def _gone(self) -> Look:
        until = self._receipt.members["retain_until"]
        if self._now_us > parse_time(until):
            return skip(
                "object", f"{self._what} is not there; its retention ended at {until}, so it may have been removed rightfully"
            )
        try:
            covering = self._newest_version()
        except AnchorError:
            covering = None
        now = "" if covering is None else f"; overwritten: under its key there is {_described(covering)} now"
        return fail("object", f"{self._what} is gone, though it was locked until {until}{now}", MISSING)

    def _content(self, content: bytes) -> Look:
        if hashlib.sha256(content).hexdigest() != self._receipt.members["sha256"]:
            return fail("content", f"{self._what} holds other bytes than were anchored", ALTERED)
        try:
            digest = checkpoint_digest(parse_bundle(content).head.note.text)
        except FormatError as error:
            return fail("content", f"{self._what} is no bundle: {error.message}", ALTERED)
        if digest != self._receipt.digest:
            return fail("content", f"{self._what} is the bundle of another checkpoint than the receipt says", ALTERED)
        return ok("content", "it is the bundle that was anchored")

    def _lock(self, head: Mapping[str, Any]) -> Look:
        mode, until = head.get("ObjectLockMode"), head.get("ObjectLockRetainUntilDate")
        if mode is None:
            try:
                mode, until = self._retention()
            except AnchorError as error:
                return skip("lock", f"whether it is locked: not checked ({error.message}); s3:GetObjectRetention is needed")
        promised = self._receipt.members["retain_until"]
        if mode is None:
            if self._now_us > parse_time(promised):
                return skip("lock", f"it is not locked any more; its retention ended at {promised}")
            return fail("lock", f"{self._what} is not locked, though it was until {promised}", ALTERED)
        if mode != LOCKED or self._receipt.members["mode"] != LOCKED:
            return fail("lock", f"{self._what} is under {mode}, which privileged users can lift, instead of {LOCKED}", ALTERED)
        if not isinstance(until, datetime) or utc_us(until) < parse_time(promised):
            shown = format_time(utc_us(until)) if isinstance(until, datetime) else str(until)
            return fail("lock", f"{self._what} is locked until {shown} only; it was until {promised}: shortened", ALTERED)
        return ok("lock", f"locked in {LOCKED} mode until {format_time(utc_us(until))}")

    def _retention(self) -> tuple[Any, Any]:
        """(mode, until) where HEAD keeps silent; (None, None) where there is no lock.  Raises AnchorError."""
        with translated("the retention"):
            try:
                found = self._client.get_object_retention(Bucket=self._bucket, Key=self._key, VersionId=self._version)
            except ClientError as error:
                if error_code(error) in ("NoSuchObjectLockConfiguration", "InvalidRequest"):
                    return None, None
                raise
        return found["Retention"].get("Mode"), found["Retention"].get("RetainUntilDate")

    def _current(self) -> Look:
        try:
            newest = self._newest_version()
        except AnchorError as error:
            return skip(
                "current", f"whether something covers it: not checked ({error.message}); s3:ListBucketVersions is needed"
            )
        if newest is not None and newest["VersionId"] != self._version:
            return fail("current", f"{self._what} is covered by {_described(newest)}; it is still there by its version", HIDDEN)
        return ok("current", "nothing covers it")

    def _newest_version(self) -> Mapping[str, Any] | None:
        """The newest version or marker under the key.  Raises AnchorError."""
        with translated("the versions of the key"):
            found = self._client.list_object_versions(Bucket=self._bucket, Prefix=self._key, MaxKeys=1000)
        for kind, marker in (("Versions", False), ("DeleteMarkers", True)):
            for one in found.get(kind, []):
                if one["Key"] == self._key and one.get("IsLatest"):
                    return {**one, "Marker": marker}
        return None


def _described(version: Mapping[str, Any]) -> str:
    kind = "a deletion marker" if version["Marker"] else "a newer version"
    return f"{kind} ({version['VersionId']}, {version.get('LastModified')})"
