"""The anchor s3 against a real server with Object Lock: what is written, what is refused, what attacks are called."""

from __future__ import annotations

import hashlib
import socket
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.anchors import (
    CLUSTER,
    Kept,
    answering,
    fresh_bucket,
    now_us,
    publication,
    published,
    s3_anchor,
    s3_section,
)
from tests.support.bundle_maker import PaperBundle
from witnz.anchor.base import LogFile, Look
from witnz.anchor.s3 import BACKEND, S3Anchor
from witnz.core.bundle import parse_bundle
from witnz.core.finding import FindingClass
from witnz.core.note import parse_note
from witnz.core.receipt import Receipt, parse_receipt
from witnz.core.timestamp import format_time, parse_time
from witnz.core.verdict import CheckStatus
from witnz.demo.storage import Identity, StorageServer
from witnz.errors import AnchorRefused, AnchorUnreachable

DAY_US = 86_400 * 1_000_000


@pytest.fixture
def bucket(storage: StorageServer) -> str:
    return fresh_bucket(storage)


@pytest.fixture
def anchor(storage: StorageServer, bucket: str) -> S3Anchor:
    return s3_anchor(s3_section(storage, bucket))


def failed(looks: Any) -> list[tuple[str, FindingClass | None]]:
    found: list[Look] = list(looks)
    assert all(look.finding is None for look in found if look.check.status is not CheckStatus.FAIL)
    return [(look.check.name, look.finding) for look in found if look.check.status is CheckStatus.FAIL]


def statuses(looks: Any) -> dict[str, CheckStatus]:
    return {look.check.name: look.check.status for look in looks}


# -- publishing ---------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_written_under_a_lock_and_read_back(storage: StorageServer, anchor: S3Anchor, bucket: str) -> None:
    before = now_us() // 1_000_000 * 1_000_000
    receipt = published(anchor, publication(9))
    members = receipt.members
    assert (receipt.size, receipt.digest) == (9, publication(9).digest)
    assert (members["mode"], members["bucket"], members["endpoint"]) == ("COMPLIANCE", bucket, storage.endpoint)
    assert members["key"] == f"{CLUSTER}/checkpoints/0000000000000009-{receipt.digest.hex()[:16]}.witnz.json"
    assert before + 2 * DAY_US <= parse_time(members["retain_until"]) <= now_us() + 2 * DAY_US
    content = storage.client().get_object(Bucket=bucket, Key=members["key"], VersionId=members["version_id"])["Body"].read()
    assert hashlib.sha256(content).hexdigest() == members["sha256"]
    assert parse_bundle(content).head.note == parse_note(publication(9).note)
    assert set(statuses(anchor.look(receipt)).values()) == {CheckStatus.OK}
    assert list(statuses(anchor.look(receipt))) == ["object", "content", "lock", "current"]
    assert anchor.is_own(receipt)
    assert parse_receipt(dict(members)) == receipt


def test_publishing_again_after_a_crash_finds_what_is_there(storage: StorageServer, anchor: S3Anchor, bucket: str) -> None:
    first, second = published(anchor), published(anchor)
    assert first.members["version_id"] == second.members["version_id"]
    versions = storage.client().list_object_versions(Bucket=bucket)["Versions"]
    assert len(versions) == 1


def test_what_somebody_else_put_under_the_key_does_not_stop_it(storage: StorageServer, anchor: S3Anchor, bucket: str) -> None:
    key = published(s3_anchor(s3_section(storage, fresh_bucket(storage)))).members["key"]
    storage.client().put_object(Bucket=bucket, Key=key, Body=b"in the way")
    receipt = published(anchor)
    assert receipt.members["key"] == key
    assert failed(anchor.look(receipt)) == []


def test_what_an_attempt_wrote_without_a_long_enough_lock_is_written_again(storage: StorageServer, bucket: str) -> None:
    short = published(s3_anchor(s3_section(storage, bucket, retention="2h")))
    long = published(s3_anchor(s3_section(storage, bucket, retention="2d")))
    assert short.members["key"] == long.members["key"]
    assert short.members["version_id"] != long.members["version_id"]
    assert parse_time(long.members["retain_until"]) > parse_time(short.members["retain_until"])


def test_logs_are_uploaded_once_and_before_the_checkpoint(storage: StorageServer, bucket: str) -> None:
    anchor, memory = s3_anchor(s3_section(storage, bucket, upload_logs="yes")), Kept()
    files = [LogFile(CLUSTER, 3, "tile/0/000.p/3", b"a" * 96), LogFile(CLUSTER, 3, "tile/entries/000.p/3", b"b" * 30)]
    published(anchor, publication(3, tuple(files)), memory)
    assert memory.document == {"logs": {CLUSTER: 3}}
    later = [*files, LogFile(CLUSTER, 9, "tile/0/000.p/9", b"c" * 288)]
    published(anchor, publication(9, tuple(later)), memory)
    assert memory.document == {"logs": {CLUSTER: 9}}
    found = storage.client().list_object_versions(Bucket=bucket, Prefix=f"{CLUSTER}/logs/")["Versions"]
    assert sorted(one["Key"].removeprefix(f"{CLUSTER}/logs/{CLUSTER}/") for one in found) == [
        "tile/0/000.p/3",
        "tile/0/000.p/9",
        "tile/entries/000.p/3",
    ]
    for one in found:
        head = storage.client().head_object(Bucket=bucket, Key=one["Key"], VersionId=one["VersionId"])
        assert head["ObjectLockMode"] == "COMPLIANCE"
    published(anchor, publication(9, tuple(later)), Kept())  # the memory was lost: nothing is written twice
    assert len(storage.client().list_object_versions(Bucket=bucket, Prefix=f"{CLUSTER}/logs/")["Versions"]) == 3


@pytest.mark.parametrize("object_lock", [True, False], ids=["suspended", "never-locked"])
def test_a_bucket_that_cannot_lock_is_refused_before_anything_is_written(storage: StorageServer, object_lock: bool) -> None:
    name = fresh_bucket(storage, object_lock=False)
    if object_lock:
        storage.client().put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Suspended"})
    for identity in (storage.admin, storage.writer):
        with pytest.raises(AnchorRefused, match=r"versioning is|has no Object Lock") as refused:
            published(s3_anchor(s3_section(storage, name, identity)))
        assert "Object Lock" in refused.value.hint
    assert "Versions" not in storage.client().list_object_versions(Bucket=name)


def test_a_versioned_bucket_without_object_lock_is_refused(storage: StorageServer) -> None:
    name = fresh_bucket(storage, object_lock=False)
    storage.client().put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    for identity in (storage.admin, storage.writer):
        with pytest.raises(AnchorRefused) as refused:
            published(s3_anchor(s3_section(storage, name, identity)))
        assert "Object Lock" in refused.value.hint
    assert "Versions" not in storage.client().list_object_versions(Bucket=name)


# -- attacks ------------------------------------------------------------------------------------------------------------------


def test_a_deletion_marker_hides_it(storage: StorageServer, anchor: S3Anchor, bucket: str) -> None:
    receipt = published(anchor)
    storage.client().delete_object(Bucket=bucket, Key=receipt.members["key"])
    looks = anchor.look(receipt)
    assert failed(looks) == [("current", FindingClass.ANCHOR_HIDDEN)]
    assert "deletion marker" in looks[-1].check.detail


def test_a_newer_version_covers_it(storage: StorageServer, anchor: S3Anchor, bucket: str) -> None:
    receipt = published(anchor)
    storage.client().put_object(Bucket=bucket, Key=receipt.members["key"], Body=b"another history")
    looks = anchor.look(receipt)
    assert failed(looks) == [("current", FindingClass.ANCHOR_HIDDEN)]
    assert "a newer version" in looks[-1].check.detail


def test_the_lock_holds_against_the_administrator_by_way_of_s3(storage: StorageServer, anchor: S3Anchor, bucket: str) -> None:
    receipt, client = published(anchor), storage.client()
    where = {"Bucket": bucket, "Key": receipt.members["key"], "VersionId": receipt.members["version_id"]}
    sooner = datetime.now(UTC) + timedelta(hours=1)
    attacks: list[Any] = [
        lambda: client.delete_object(**where),
        lambda: client.delete_object(**where, BypassGovernanceRetention=True),
        lambda: client.put_object_retention(**where, Retention={"Mode": "COMPLIANCE", "RetainUntilDate": sooner}),
        lambda: client.put_object_retention(
            **where, Retention={"Mode": "GOVERNANCE", "RetainUntilDate": sooner + timedelta(days=9)}
        ),
    ]
    for attack in attacks:
        with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
            attack()
    assert failed(anchor.look(receipt)) == []


def test_a_version_removed_behind_the_lock_is_missing(storage: StorageServer, anchor: S3Anchor, bucket: str) -> None:
    receipt = published(anchor)
    storage.remove_behind_the_lock(bucket, receipt.members["key"], receipt.members["version_id"])
    looks = anchor.look(receipt)
    assert failed(looks) == [("object", FindingClass.ANCHOR_MISSING)]
    assert "overwritten" not in looks[0].check.detail


def test_a_version_removed_and_replaced_is_missing_and_overwritten(
    storage: StorageServer, anchor: S3Anchor, bucket: str
) -> None:
    receipt = published(anchor)
    storage.remove_behind_the_lock(bucket, receipt.members["key"], receipt.members["version_id"])
    storage.client().put_object(Bucket=bucket, Key=receipt.members["key"], Body=b"another history")
    looks = anchor.look(receipt)
    assert failed(looks) == [("object", FindingClass.ANCHOR_MISSING)]
    assert "overwritten: under its key there is a newer version" in looks[0].check.detail


def test_a_whole_bucket_gone_is_missing(storage: StorageServer, anchor: S3Anchor) -> None:
    receipt = published(anchor)
    elsewhere = parse_receipt({**receipt.members, "bucket": "evidence-gone"})
    assert failed(anchor.look(elsewhere)) == [("object", FindingClass.ANCHOR_MISSING)]


def version_of(storage: StorageServer, receipt: Receipt, body: bytes, mode: str, until: datetime) -> Receipt:
    """The same receipt, for a version that an attacker wrote: as a server would show it whose lock was broken."""
    client, members = storage.client(), receipt.members
    put = client.put_object(
        Bucket=members["bucket"], Key=members["key"], Body=body, ObjectLockMode=mode, ObjectLockRetainUntilDate=until
    )
    return parse_receipt({**members, "version_id": put["VersionId"]})


def test_other_bytes_under_the_version_are_altered(storage: StorageServer, anchor: S3Anchor) -> None:
    receipt = published(anchor)
    until = datetime.now(UTC) + timedelta(days=3)
    forged = version_of(storage, receipt, b"another history", "COMPLIANCE", until)
    assert failed(anchor.look(forged)) == [("content", FindingClass.ANCHOR_ALTERED)]
    other = PaperBundle().build()
    relabelled = parse_receipt({**forged.members, "sha256": hashlib.sha256(b"another history").hexdigest()})
    assert failed(anchor.look(relabelled)) == [("content", FindingClass.ANCHOR_ALTERED)]
    of_another = version_of(storage, receipt, other, "COMPLIANCE", until)
    assert failed(anchor.look(of_another)) == [("content", FindingClass.ANCHOR_ALTERED)]


@pytest.mark.parametrize(
    ("mode", "days", "said"), [("GOVERNANCE", 3, "GOVERNANCE, which privileged users can lift"), ("COMPLIANCE", 1, "shortened")]
)
def test_a_weaker_or_shorter_lock_is_altered(storage: StorageServer, anchor: S3Anchor, mode: str, days: int, said: str) -> None:
    receipt, of = published(anchor), publication()
    body = storage.client().get_object(Bucket=receipt.members["bucket"], Key=receipt.members["key"])["Body"].read()
    weaker = version_of(storage, receipt, body, mode, datetime.now(UTC) + timedelta(days=days))
    looks = anchor.look(weaker)
    assert failed(looks) == [("lock", FindingClass.ANCHOR_ALTERED)]
    assert said in looks[2].check.detail
    assert of.digest == receipt.digest


def test_a_longer_lock_is_as_good(storage: StorageServer, anchor: S3Anchor, bucket: str) -> None:
    receipt = published(anchor)
    longer = {"Mode": "COMPLIANCE", "RetainUntilDate": datetime.now(UTC) + timedelta(days=30)}
    where = {"Bucket": bucket, "Key": receipt.members["key"], "VersionId": receipt.members["version_id"]}
    storage.client().put_object_retention(**where, Retention=longer)
    assert failed(anchor.look(receipt)) == []


def test_what_is_gone_after_its_retention_is_not_checked(storage: StorageServer, bucket: str) -> None:
    receipt = published(s3_anchor(s3_section(storage, bucket)))
    storage.remove_behind_the_lock(bucket, receipt.members["key"], receipt.members["version_id"])
    late = s3_anchor(s3_section(storage, bucket), lambda: now_us() + 3 * DAY_US)
    assert statuses(late.look(receipt)) == {"object": CheckStatus.SKIP}


# -- newest -------------------------------------------------------------------------------------------------------------------


def test_the_newest_checkpoint_is_found_even_where_markers_hide_it(
    storage: StorageServer, anchor: S3Anchor, bucket: str
) -> None:
    assert anchor.newest(CLUSTER, 0) is None
    for size in (3, 9, 5):
        published(anchor, publication(size))
    assert anchor.newest(CLUSTER, 0) == publication(9).note
    assert anchor.newest(CLUSTER, 9) is None
    assert anchor.newest("example.com/other", 0) is None
    for one in storage.client().list_object_versions(Bucket=bucket)["Versions"]:
        storage.client().delete_object(Bucket=bucket, Key=one["Key"])
    storage.client().put_object(Bucket=bucket, Key=f"{CLUSTER}/checkpoints/0000000000000010-x.witnz.json", Body=b"rubbish")
    assert anchor.newest(CLUSTER, 4) == publication(9).note


# -- bad input ----------------------------------------------------------------------------------------------------------------


def test_wrong_credentials_are_refused_and_nothing_is_found_wrong(
    storage: StorageServer, anchor: S3Anchor, bucket: str
) -> None:
    receipt = published(anchor)
    for who in (Identity(storage.writer.access_key_id, "wrong"), Identity("nobody", "wrong")):
        wrong = s3_anchor(s3_section(storage, bucket, who))
        with pytest.raises(AnchorRefused) as refused:
            wrong.publish(publication(), Kept())
        assert "access_key_id" in refused.value.hint
        assert not refused.value.retryable
        assert "wrong" not in str(refused.value) + refused.value.hint
        assert statuses(wrong.look(receipt)) == {"object": CheckStatus.SKIP}
        with pytest.raises(AnchorRefused):
            wrong.newest(CLUSTER, 0)


def test_an_endpoint_that_is_not_there_is_tried_again(storage: StorageServer, anchor: S3Anchor, bucket: str) -> None:
    receipt = published(anchor)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        away = s3_anchor(s3_section(storage, bucket, endpoint=f"http://127.0.0.1:{closed.getsockname()[1]}"))
        with pytest.raises(AnchorUnreachable) as error:
            away.publish(publication(), Kept())
        assert error.value.retryable
        assert error.value.exit_code == 4
        assert statuses(away.look(receipt)) == {"object": CheckStatus.SKIP}


@pytest.mark.parametrize(
    ("status", "code", "kind", "hint"),
    [
        (403, "RequestTimeTooSkewed", AnchorRefused, "NTP"),
        (400, "AuthorizationHeaderMalformed", AnchorRefused, "region"),
        (301, "PermanentRedirect", AnchorRefused, "region to eu-west-3"),
        (400, "ExpiredToken", AnchorRefused, "expired"),
        (404, "NoSuchBucket", AnchorRefused, "create it with versioning"),
        (503, "SlowDown", AnchorUnreachable, "busy"),
        (500, "InternalError", AnchorUnreachable, "busy"),
        (418, "Teapot", AnchorRefused, "doctor"),
    ],
)
def test_each_refusal_says_what_to_do(status: int, code: str, kind: type[Exception], hint: str) -> None:
    region = {"x-amz-bucket-region": "eu-west-3"} if status == 301 else {}
    with answering(status, code, region) as endpoint:
        section = {"type": "s3", "bucket": "evidence", "endpoint": endpoint, "access_key_id": "a", "secret_access_key": "b"}
        with pytest.raises(kind) as raised:
            s3_anchor(section).publish(publication(), Kept())
    assert code in str(raised.value)
    assert hint in raised.value.hint  # type: ignore[attr-defined]


def test_a_profile_that_is_not_there_is_refused() -> None:
    with pytest.raises(AnchorRefused, match="no-such-profile"):
        s3_anchor({"type": "s3", "bucket": "evidence", "profile": "no-such-profile"}).publish(publication(), Kept())


# -- rehearsal, backend -------------------------------------------------------------------------------------------------------


def test_the_rehearsal_locks_for_two_minutes_and_says_the_real_date(storage: StorageServer, bucket: str) -> None:
    anchor = s3_anchor(s3_section(storage, bucket, storage.admin, retention="400d"))
    checks = list(anchor.rehearse())
    assert [(check.name, check.status) for check in checks] == [
        ("bucket", CheckStatus.OK),
        ("lock", CheckStatus.OK),
        ("delete", CheckStatus.OK),
        ("retention", CheckStatus.OK),
    ]
    ends = datetime.now(UTC) + timedelta(days=400)
    assert f"{ends:%Y-%m-%d}" in checks[-1].detail
    (version,) = storage.client().list_object_versions(Bucket=bucket)["Versions"]
    head = storage.client().head_object(Bucket=bucket, Key=version["Key"], VersionId=version["VersionId"])
    assert head["ObjectLockRetainUntilDate"] < datetime.now(UTC) + timedelta(seconds=121)


def test_the_rehearsal_fails_with_the_reason(storage: StorageServer) -> None:
    checks = list(s3_anchor(s3_section(storage, fresh_bucket(storage, object_lock=False))).rehearse())
    assert checks[-1].status is CheckStatus.FAIL
    assert "docs/anchors/s3.md" in checks[-1].detail


def test_a_receipt_says_where_to_look_and_who_would_have_to_collude(
    storage: StorageServer, anchor: S3Anchor, bucket: str
) -> None:
    receipt = published(anchor)
    implied = BACKEND.implied(receipt)
    assert (implied.type, implied.bucket, implied.endpoint) == ("s3", bucket, storage.endpoint)
    amazon = parse_receipt({**receipt.members, "endpoint": "https://s3.eu-central-1.amazonaws.com"})
    assert BACKEND.implied(amazon).endpoint is None
    assert bucket in BACKEND.party(receipt)
    assert format_time(parse_time(receipt.members["retain_until"])) == receipt.members["retain_until"]
