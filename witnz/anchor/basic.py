"""Anchor ``basic``: final checkpoints with their cosignatures where somebody else can take them: a folder, a git repository.

    <directory>/<size, 16 digits>-<first 16 hex digits of the digest>.witnz.json     the bundle
    <directory>/latest                                                               the newest note

In a git work tree each checkpoint is a commit; with a remote (the branch's own, or ``origin``) it is pushed.  What it is worth
is what those are worth who pull it: a copy in other hands cannot be taken back.  Looking compares our own side only.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from witnz.anchor.base import Look, Memory, Pending, Publication, Published, Surroundings, fail, ok, skip
from witnz.config import AnchorConfig
from witnz.core.bundle import parse_bundle
from witnz.core.bundle_document import MAX_BUNDLE_BYTES
from witnz.core.checkpoint import checkpoint_digest, parse_checkpoint
from witnz.core.finding import FindingClass
from witnz.core.note import format_note, parse_note
from witnz.core.receipt import Receipt, parse_receipt
from witnz.core.verdict import Check, CheckStatus
from witnz.errors import AnchorError, AnchorRefused, AnchorUnreachable, FormatError
from witnz.store.datadir import sync_directory

SIZE_DIGITS: Final = 16
LATEST: Final = "latest"
SUFFIX: Final = ".witnz.json"
_IDENTITY: Final = ("-c", "user.name=witnz", "-c", "user.email=witnz@localhost", "-c", "commit.gpgsign=false")


class DirectoryAnchor:
    """A folder; files appear under their name only when they are complete, and are never written over."""

    type = "basic"

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def place(self) -> str:
        return str(self.directory)

    def publish(self, publication: Publication, memory: Memory) -> Published | Pending:
        """Write the bundle and the newest note."""
        size, digest = publication.checkpoint.size, publication.digest
        path = self.directory / file_name(size, digest)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            if not self._holds(path, digest):
                _write(path, publication.bundle())
            newest = self.newest(publication.checkpoint.origin, size)
            if newest is None:
                _write(self.directory / LATEST, publication.note.encode())
        except OSError as error:
            raise AnchorRefused(
                f"{error.filename or self.directory} cannot be written: {error.strerror}", hint="is the folder this user's?"
            ) from error
        members = {"type": "basic", "digest": digest.hex(), "size": size, "note": publication.note}
        return Published(parse_receipt(members))

    def look(self, receipt: Receipt) -> Sequence[Look]:
        """Whether the file is there and holds that checkpoint."""
        path = self.directory / file_name(receipt.size, receipt.digest)
        try:
            if not path.exists():
                return [fail("file", f"{path} is gone", FindingClass.ANCHOR_MISSING)]
            if not self._holds(path, receipt.digest):
                return [fail("file", f"{path} is not the bundle that was put there", FindingClass.ANCHOR_ALTERED)]
        except OSError as error:
            return [skip("file", f"{path} cannot be read: {error.strerror}")]
        return [ok("file", f"{path} holds that checkpoint")]

    def newest(self, origin: str, above: int) -> str | None:
        try:
            files = sorted((path for path in self.directory.glob(f"*{SUFFIX}")), reverse=True)
            for path in files:
                if (size := _size_of(path)) is None or size <= above or path.stat().st_size > MAX_BUNDLE_BYTES:
                    continue
                head = _bundle_head(path)
                if head is not None and parse_checkpoint(parse_note(head).text).origin == origin:
                    return head
        except OSError as error:
            raise AnchorRefused(
                f"{self.directory} cannot be read: {error.strerror}", hint="is the folder this user's?"
            ) from error
        return None

    def is_own(self, receipt: Receipt) -> bool:
        """A note does not say where it lies: the file does."""
        return (self.directory / file_name(receipt.size, receipt.digest)).exists()

    def rehearse(self) -> Sequence[Check]:
        path = self.directory / ".rehearsal"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            _write(path, b"a rehearsal of witnz\n")
            path.unlink()
        except OSError as error:
            return [Check("folder", CheckStatus.FAIL, f"{self.directory} cannot be written: {error.strerror}")]
        return [Check("folder", CheckStatus.OK, f"{self.directory} can be written; who takes copies of it is up to you")]

    def _holds(self, path: Path, digest: bytes) -> bool:
        """Whether a file is a bundle of that checkpoint."""
        if not path.exists() or path.stat().st_size > MAX_BUNDLE_BYTES:
            return False
        note = _bundle_head(path)
        return note is not None and checkpoint_digest(parse_note(note).text) == digest


class GitAnchor(DirectoryAnchor):
    """The same in a git work tree."""

    def __init__(self, directory: Path, timeout_s: float) -> None:
        super().__init__(directory)
        self._timeout_s = timeout_s

    @property
    def place(self) -> str:
        return f"git work tree {self.directory}"

    def publish(self, publication: Publication, memory: Memory) -> Published | Pending:
        """Write, commit, push; what was committed before and not pushed goes along."""
        if not (self.directory / ".git").exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            self._git("init", "--quiet")
        published = super().publish(publication, memory)
        name = file_name(publication.checkpoint.size, publication.digest)
        self._git("add", "--", name, LATEST)
        if self._git("status", "--porcelain", "--", name, LATEST):
            text = f"checkpoint of {publication.checkpoint.size} records\n\n{publication.digest.hex()}"
            self._git(*_IDENTITY, "commit", "--quiet", "--no-verify", "--message", text, "--", name, LATEST)
        if remotes := self._git("remote").split():
            remote = "origin" if "origin" in remotes else remotes[0]
            self._git("push", "--quiet", remote, "HEAD", retry=True)
        return published

    def look(self, receipt: Receipt) -> Sequence[Look]:
        """The file, and that a commit of the present branch holds the same bytes."""
        looks = list(super().look(receipt))
        name = file_name(receipt.size, receipt.digest)
        try:
            committed = self._git("ls-tree", "HEAD", "--", name)
            changed = self._git("status", "--porcelain", "--", name)
        except AnchorError as error:
            return [*looks, skip("commit", f"not checked: {error.message}")]
        if not committed:
            return [*looks, fail("commit", f"no commit of the branch holds {name}", FindingClass.ANCHOR_MISSING)]
        if changed:
            return [*looks, fail("commit", f"{name} differs from what was committed", FindingClass.ANCHOR_ALTERED)]
        return [*looks, ok("commit", "the branch holds it")]

    def rehearse(self) -> Sequence[Check]:
        checks = list(super().rehearse())
        try:
            return [*checks, Check("git", CheckStatus.OK, self._git("--version").strip())]
        except AnchorError as error:
            return [*checks, Check("git", CheckStatus.FAIL, error.message)]

    def _git(self, *arguments: str, retry: bool = False) -> str:
        """What git says.  Raises AnchorRefused, or AnchorUnreachable where ``retry`` or it takes too long."""
        environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
        try:
            done = subprocess.run(
                ["git", "-C", str(self.directory), *arguments],
                capture_output=True, text=True, timeout=self._timeout_s, check=False, env=environment,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise AnchorUnreachable(f"git {arguments[0]} took longer than {self._timeout_s:.0f} s", hint="") from None
        except OSError as error:
            raise AnchorRefused(f"git cannot be run: {error.strerror}", hint="install git") from error
        if done.returncode != 0:
            shown = " ".join(done.stderr.split())[:300]
            kind = AnchorUnreachable if retry else AnchorRefused
            raise kind(f"git {arguments[0]} failed in {self.directory}: {shown}", hint="run it there by hand to see more")
        return done.stdout


def file_name(size: int, digest: bytes) -> str:
    return f"{size:0{SIZE_DIGITS}d}-{digest.hex()[:16]}{SUFFIX}"


def _size_of(path: Path) -> int | None:
    digits = path.name.partition("-")[0]
    return int(digits) if len(digits) == SIZE_DIGITS and digits.isascii() and digits.isdigit() else None


def _bundle_head(path: Path) -> str | None:
    """The note of a bundle in a file; None where it is no bundle."""
    try:
        return format_note(parse_bundle(path.read_bytes()).head.note)
    except FormatError:
        return None


def _write(path: Path, data: bytes) -> None:
    """Durably, and under the name only when complete."""
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    sync_directory(path.parent)


class BasicBackend:
    """Copies in other hands."""

    type = "basic"
    about = "cosigned checkpoints in a folder or a git repository: worth what the copies in other hands are worth"
    extra = None
    latency = "at once"

    def open(self, config: AnchorConfig, surroundings: Surroundings) -> DirectoryAnchor:
        if config.git is not None:
            return GitAnchor(config.git, config.timeout_s)
        return DirectoryAnchor(config.directory or Path())

    def implied(self, receipt: Receipt) -> AnchorConfig | None:
        return None

    def party(self, receipt: Receipt) -> str:
        """Members of the cluster count already; a witness of somebody else's is one more."""
        note = parse_note(receipt.members["note"])
        origin = note.text.split("\n", 1)[0]
        own = (origin, f"{origin}/nodes/")
        others = [each.name for each in note.signatures if each.name != own[0] and not each.name.startswith(own[1])]
        return f"the witness {', '.join(others)}" if others else "everybody who has taken a copy of the checkpoint"


BACKEND: Final = BasicBackend()
