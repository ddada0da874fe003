"""The demo's bucket under Object Lock, and its administrator, who goes behind the lock."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Final, Self

from witnz.demo import guard
from witnz.demo.play import TAMPERED, VERIFIED, Expected, Play
from witnz.demo.proving import CHECKPOINT, POLICY
from witnz.demo.storage import StorageServer

BUCKET: Final = "evidence"
KEY_FILE: Final = "s3.secret"
RETENTION: Final = "10m"


class Bucket:
    """A bucket on a server of its own; ``close`` it."""

    def __init__(self, files: Path, server: StorageServer) -> None:
        self._files, self.server = files, server

    @classmethod
    def start(cls, directory: Path) -> Self:
        """The secret that the configuration names goes to ``directory``.  Raises UsageError where there is no such server."""
        files = Path(tempfile.mkdtemp(prefix="witnz-demo-s3-"))
        guard.protect(path=files)
        try:
            server = StorageServer.start(files)
        except BaseException:
            shutil.rmtree(files, ignore_errors=True)
            guard.release(files)
            raise
        guard.protect_process(server.pid)
        bucket = cls(files, server)
        try:
            server.create_bucket(BUCKET)
        except BaseException:
            bucket.close()
            raise
        secret = directory / KEY_FILE
        secret.touch(mode=0o600)
        secret.write_text(server.writer.secret_access_key + "\n", encoding="utf-8")
        return bucket

    def section(self) -> str:
        """What stands under ``anchors``, as one line of YAML."""
        access = f"access_key_id: {self.server.writer.access_key_id}, secret_access_key_file: {KEY_FILE}"
        place = f"bucket: {BUCKET}, endpoint: '{self.server.endpoint}', {access}"
        return f"  - {{type: s3, {place}, retention: {RETENTION}, every: 10m}}\n"

    def close(self) -> None:
        pid = self.server.pid
        self.server.stop()
        guard.release_process(pid)
        shutil.rmtree(self._files, ignore_errors=True)
        guard.release(self._files)


def administrator(play: Play) -> None:
    """An auditor asks the bucket; its administrator removes what is locked, behind S3's back; then both ask again."""
    bucket = play.stage.outside.bucket
    if bucket is None:
        return
    play.begin("storage", "The storage administrator")
    _ask(play, "storage.online", VERIFIED, "VERIFIED")
    receipt = next(one["receipt"] for one in play.stage.client.anchors()["receipts"] if one["type"] == "s3")
    play.narrator.say(f"storage administrator: remove {receipt['key']}, locked until {receipt['retain_until']}")
    if "storage.removed" not in play.leave_out:
        bucket.server.remove_behind_the_lock(BUCKET, receipt["key"], receipt["version_id"])
    done_at = time.monotonic()
    checked = play.run("anchor", "check", "--all")
    key = f"s3 {receipt['bucket']} {receipt['endpoint']} {receipt['size']} object"
    play.expect_now("storage.removed", Expected("anchor.missing", None, key), done_at, "anchor")
    play.expect_command("storage.check", checked, code=TAMPERED, verdict="TAMPERED", detector="anchor")
    _ask(play, "storage.online-after", TAMPERED, "TAMPERED")


def _ask(play: Play, scene: str, code: int, verdict: str) -> None:
    ran = play.run("verify", "--checkpoint", CHECKPOINT, "--policy", POLICY, "--online")
    play.expect_command(scene, ran, code=code, verdict=verdict, detector="anchor")
