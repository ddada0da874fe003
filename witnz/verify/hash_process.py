"""Hashing a scan on another core: ``python -m witnz.verify.hash_process``, spoken to over its pipes.

Without the compiled functions two SHA-256 a row are most of what a verification costs, and the interpreter's lock keeps threads
from sharing them.  So a big scan then hands its lines to this process, which hashes and partitions them while the next ones are
read, and gives the partitions back sorted.  (Compiled, they cost less than the way here and back.)  Frames, both ways: a length
(uint32, big-endian) and so many bytes.

    secret (32 bytes)                         once, first
    row lines, a newline behind each, any number of times; no row line holds a newline
    an empty frame                            that was all: sort
    then the 256 partitions come back in order, each the concatenation of its sorted 32-byte row hashes
"""

from __future__ import annotations

import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from witnz.core import hashing
from witnz.ending import end_process
from witnz.errors import Inconclusive
from witnz.verify.partition import PARTITIONS, Partitions

_LENGTH = struct.Struct(">I")
_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031  # Linux; elsewhere the pipe keeps its size


class HashProcess:
    """The same as :class:`witnz.verify.partition.Partitions` for row lines, on another core."""

    def __init__(self, secret: bytes, spill_dir: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "witnz.verify.hash_process", str(spill_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self.rows = 0
        self._next = 0
        _widen(self._pipe())
        self._write(secret)

    def add_lines(self, lines: bytes) -> None:
        """Hand over row lines, a newline behind each; waits while the process is too far behind."""
        if lines:  # an empty frame would be the end
            self._write(lines)
            self.rows += lines.count(b"\n")

    def finish(self) -> None:
        """That was all: the process sorts while the caller does something else."""
        self._write(b"")

    def sorted(self, partition: int) -> bytes:
        """The row hashes with this first byte, ascending, one after another; partitions are asked for once, in order."""
        if partition != self._next or self._process.stdout is None:
            raise ValueError(f"expected to be asked for partition {self._next}, not {partition}")
        self._next += 1
        data = _read_frame(self._process.stdout)
        if data is None:
            raise Inconclusive("the process that hashes the scan ended early", hint="is there enough memory? see the log")
        return data

    def close(self) -> None:
        """End the process, whatever it is doing."""
        end_process(self._process)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _pipe(self) -> IO[bytes]:
        if self._process.stdin is None:
            raise Inconclusive("the process that hashes the scan has no input")
        return self._process.stdin

    def _write(self, data: bytes) -> None:
        try:
            pipe = self._pipe()
            for part in (_LENGTH.pack(len(data)), data):
                view = memoryview(part)
                while view:
                    view = view[pipe.write(view) :]
        except OSError as error:
            raise Inconclusive(f"the process that hashes the scan ended early: {error.strerror}") from None


def _widen(pipe: IO[bytes]) -> None:
    """A pipe that holds a whole batch, so that neither side waits for the other's every 64 KiB."""
    if sys.platform == "linux":
        import fcntl

        try:
            fcntl.fcntl(pipe.fileno(), _F_SETPIPE_SZ, _PIPE_BYTES)
        except OSError:
            return  # the user's limit; slower, not wrong


def _read_frame(source: IO[bytes]) -> bytes | None:
    """One frame; None where the other side has gone."""
    head = _read_exactly(source, _LENGTH.size)
    return None if head is None else _read_exactly(source, _LENGTH.unpack(head)[0])


def _read_exactly(source: IO[bytes], size: int) -> bytes | None:
    parts = []
    while size:
        part = source.read(size)
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def main(spill_dir: Path) -> int:
    """The other side."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    secret = _read_frame(source)
    if secret is None:
        return 1
    partitions = Partitions(spill_dir)
    while frame := _read_frame(source):
        partitions.add(hashing.packed_row_hashes(secret, frame))
    if frame is None:
        return 1  # the parent has gone
    for partition in range(PARTITIONS):
        data = partitions.sorted(partition)
        sink.write(_LENGTH.pack(len(data)) + data)
    sink.flush()
    partitions.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.gettempdir())))
