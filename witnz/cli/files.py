"""Files that a command reads and writes for the person who calls it."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from witnz.errors import FormatError, UsageError

STANDARD = "-"
"""The name that stands for stdin or stdout."""


def read_bounded(name: str, max_bytes: int, what: str) -> bytes:
    """The whole file, or stdin for ``-``.

    Raises UsageError for one that is not there, no regular file or may not be read, FormatError where it is larger than
    ``max_bytes``; then no more than that was read.
    """
    if name == STANDARD:
        data = sys.stdin.buffer.read(max_bytes + 1)
    else:
        path = Path(name)
        try:
            if path.exists() and not stat.S_ISREG(path.stat().st_mode):
                raise UsageError(f"{what} {name}: expected a regular file")
            with path.open("rb") as stream:
                data = stream.read(max_bytes + 1)
        except OSError as error:
            raise UsageError(
                f"{what} {name}: {(error.strerror or 'cannot be read').lower()}", hint="is the path right?"
            ) from None
    if len(data) > max_bytes:
        raise FormatError(f"{what} {name}: expected at most {max_bytes} bytes")
    return data


def write_output(name: str, data: bytes) -> None:
    """Write a file whole or not at all, in the place of what stood there; ``-`` is stdout.  Raises UsageError."""
    if name == STANDARD:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    path = Path(name)
    if path.exists() and not path.is_file():  # a device or a FIFO: nothing to put in its place
        _write_into(path, data)
        return
    import secrets  # brings random and hmac, and most commands write nothing

    from witnz.store.datadir import sync_directory

    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with new.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise _cannot_write(name, error) from None
    finally:
        new.unlink(missing_ok=True)


def _write_into(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise _cannot_write(str(path), error) from None


def _cannot_write(name: str, error: OSError) -> UsageError:
    return UsageError(f"{name} cannot be written: {(error.strerror or 'failed').lower()}", hint="name another file with -o")
