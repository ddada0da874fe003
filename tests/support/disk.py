"""A small file system of its own, to be filled to the last byte.

It is a tmpfs, so mounting it takes root; ``SKIPPED`` says why there is none.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


def reason_for_none(directory: Path) -> str:
    """Why no file system can be mounted here, or nothing."""
    if os.geteuid() != 0:
        return "mounting a small file system takes root"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(directory)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return f"a tmpfs cannot be mounted here: {done.stderr.strip()}"
    subprocess.run(["umount", str(directory)], check=True)
    return ""


@dataclass(slots=True)
class SmallDisk:
    """A mounted tmpfs of ``path``."""

    path: Path

    def fill(self) -> None:
        """Leave not a page free."""
        with self._ballast.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    def free(self) -> None:
        """Give the space back."""
        self._ballast.unlink(missing_ok=True)

    @property
    def _ballast(self) -> Path:
        return self.path / "ballast"


@contextmanager
def small_disk(path: Path, size_mib: int) -> Iterator[SmallDisk]:
    """``size_mib`` of room at ``path``, which is made; gone afterwards."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=0700", "tmpfs", str(path)], check=True)
    try:
        yield SmallDisk(path)
    finally:
        # Lazily: whatever of the node still holds a file must not keep the mount after the test.
        ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(path), 2)
