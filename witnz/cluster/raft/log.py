"""The durable side of the built-in engine: one file with the log, term and vote, snapshot, and who the other journals are.

    file      MAGIC, then records
    record    length of the body (uint32), CRC-32 of length, durable and body (uint32), durable (uint64), body
    body      ("head", epoch, incarnation, standing)         first, once
              ("entry", command, index, term)                appended to the log
              ("cut", index)                                 the log ends before this index
              ("vote", term, node or None)                   the current term, and for whom this node voted in it
              ("known", node, incarnation)                   the journal of another member, as it was when first met
              ("standing", n)
              ("snapshot", index, sha256, data)              first entry after it in the file is the one before index

Numbers are big-endian.  *durable* is how much of the file was known to be on the disk when the record was appended.  So damage
is told from a write that the power cut short: a record that cannot be read, while a later one says that its place had been
durable, is damage, and the node does not start; at the very end, beyond what was durable, it is a torn write, which nobody
was told of, and is cut off.

Nothing is promised to anybody before :meth:`RaftLog.sync` has returned, which the guard calls before every message.  Any error
of the disk ends the engine (fail-stop): what the file holds after a failed write is not known.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Final

from witnz.cluster.raft.codec import MAX_BYTES, decode, encode
from witnz.cluster.raft.file import LogFile
from witnz.cluster.raft.messages import INCARNATION_BYTES, NO_OP, Entry
from witnz.errors import FormatError, StoreCorrupt, StoreError

MAGIC: Final = b"witnz-raft/1\n"
UNPROVEN, VOTER, FORGOTTEN = 0, 1, 2
_HEAD = struct.Struct(">IIQ")
_HINT = "keep a copy; then remove this node from the cluster and add it again (docs/operations.md)"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """``data`` identifies the application's state after the entry ``index``; 0 and nothing where the log begins."""

    index: int
    data: bytes


class RaftLog:
    """The journal that pysyncobj is given: a list of entries, with the methods it expects of one, and all else that must last.

    The first entry is the one before the snapshot (or the very first); the second is the one the snapshot includes last.
    """

    def __init__(self, file: LogFile, epoch: int) -> None:
        """Read the file, or begin one for this epoch: in place of none, or of one of an epoch before.

        Raises StoreCorrupt for damage, and for a file of a later epoch.
        """
        self._file = file
        self.epoch = epoch
        self._reset()
        data = file.read()
        if data is not None and not self._load(data):
            data = None
        if data is None:
            self._reset()
            self._rewrite()

    def _reset(self) -> None:
        self._entries: list[Entry] = []
        self._sums: list[int] = []  # bytes of all commands up to and with each entry, from an arbitrary beginning
        self._term = 0
        self._vote: str | None = None
        self.incarnation = os.urandom(INCARNATION_BYTES)
        self.standing = UNPROVEN
        self.known: dict[str, bytes] = {}
        self.snapshot = Snapshot(0, b"")
        self.file_bytes = self._durable = 0

    # -- what the adapter asks ------------------------------------------------------------------------------------------------

    @property
    def first(self) -> int:
        """The index of the first entry."""
        return self._entries[0][1]

    @property
    def last(self) -> int:
        return self._entries[-1][1]

    def entry(self, index: int) -> Entry | None:
        """The entry of an index, None where the log does not hold it."""
        place = index - self._entries[0][1]
        return self._entries[place] if 0 <= place < len(self._entries) else None

    def bytes_after(self, index: int) -> int:
        """Bytes of the commands of all entries after ``index``, which the log holds."""
        return self._sums[-1] - self._sums[max(0, min(index, self.last) - self.first)]

    def sync(self) -> None:
        """Return once everything is durable; costs nothing where it is already."""
        if self._durable < self.file_bytes:
            self._file.sync()
            self._durable = self.file_bytes

    def remember(self, node: str, incarnation: bytes) -> None:
        """Note the journal of another member, for as long as this epoch lasts."""
        self.known[node] = incarnation
        self._write("known", node, incarnation)

    def set_standing(self, standing: int) -> None:
        self.standing = standing
        self._write("standing", standing)

    def compact(self, snapshot: Snapshot) -> None:
        """Drop what comes before the entry before ``snapshot.index``; both are in the log."""
        before = snapshot.index - 1 - self.first
        if before < 0 or snapshot.index > self.last:
            raise StoreError(f"compaction: expected an index from {self.first + 1} to {self.last}, found {snapshot.index}")
        _, index, term = self._entries[before]
        self._replace_entries([(NO_OP, index, term), *self._entries[before + 1 :]])
        self.snapshot = snapshot
        self._rewrite()

    def install(self, snapshot: Snapshot, before_term: int, last: Entry) -> None:
        """Put a leader's snapshot in the place of a log that does not hold its last entry."""
        self._replace_entries([(NO_OP, snapshot.index - 1, before_term), last])
        self.snapshot = snapshot
        self._rewrite()

    def close(self) -> None:
        self._file.close()

    # -- what pysyncobj asks of its journal -----------------------------------------------------------------------------------

    def add(self, command: bytes, idx: int, term: int) -> None:
        if self._entries and idx != self.last + 1:
            raise StoreError(f"raft log: expected entry {self.last + 1}, found {idx}")
        self._extend((command, idx, term))
        self._write("entry", command, idx, term)

    def deleteEntriesFrom(self, place: int) -> None:
        if place < len(self._entries):
            self._write("cut", self._entries[place][1])
            del self._entries[place:], self._sums[place:]

    def deleteEntriesTo(self, place: int) -> None:
        raise StoreError("raft log: pysyncobj compacts, which the adapter should have prevented")

    def clear(self) -> None:
        raise StoreError("raft log: pysyncobj clears its journal, which the adapter should have prevented")

    def setCurrentTerm(self, term: int, vote: str | None) -> None:
        self._term, self._vote = term, vote
        self._write("vote", term, vote)

    def getCurrentTerm(self) -> int:
        return self._term

    def getVotedForNodeId(self) -> str | None:
        return self._vote

    def setRaftCommitIndex(self, index: int) -> None:
        """Not kept: after a start the leader says it anew."""

    def getRaftCommitIndex(self) -> int:
        return max(1, self.snapshot.index)

    def onOneSecondTimer(self) -> None:
        """Nothing is written by the clock."""

    def _destroy(self) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, place: Any) -> Any:
        return self._entries[place]

    # -- the file -------------------------------------------------------------------------------------------------------------

    def _extend(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._sums.append((self._sums[-1] if self._sums else 0) + len(entry[0]))

    def _replace_entries(self, entries: list[Entry]) -> None:
        self._entries, self._sums = [], []
        for entry in entries:
            self._extend(entry)

    def _write(self, *body: Any) -> None:
        record = _format_record(self._durable, body)
        self._file.append(record)
        self.file_bytes += len(record)

    def _rewrite(self) -> None:
        bodies: list[tuple[Any, ...]] = [("head", self.epoch, self.incarnation, self.standing)]
        bodies += [("known", node, incarnation) for node, incarnation in sorted(self.known.items())]
        bodies.append(("vote", self._term, self._vote))
        if self.snapshot.index:
            digest = hashlib.sha256(self.snapshot.data).digest()
            bodies.append(("snapshot", self.snapshot.index, digest, self.snapshot.data))
        bodies += [("entry", *entry) for entry in self._entries]
        data = MAGIC + b"".join(_format_record(0, body) for body in bodies)
        self._file.replace(data)
        self.file_bytes = self._durable = len(data)

    def _load(self, data: bytes) -> bool:
        """Take everything from the file; False where it is of an epoch before.  Cuts off a torn end."""
        if not data.startswith(MAGIC):
            raise _corrupt("it does not begin as one")
        at = len(MAGIC)
        while at < len(data):
            record = _parse_record(data, at)
            if record is None:
                if _durable_beyond(data, at):
                    raise _corrupt(f"the record at byte {at} is damaged")
                self._file.truncate(at)
                break
            body, following = record
            if at == len(MAGIC) and not self._begin(body):
                return False
            if at > len(MAGIC):
                self._take(body)
            at = following
        if at == len(MAGIC):
            raise _corrupt("it has no head")
        if self.snapshot.index and (self.first != self.snapshot.index - 1 or self.last < self.snapshot.index):
            raise _corrupt("snapshot and entries do not fit together")
        self.file_bytes = self._durable = at
        return True

    def _begin(self, body: tuple[Any, ...]) -> bool:
        match body:
            case ("head", int(epoch), bytes(incarnation), int(standing)) if len(incarnation) == INCARNATION_BYTES:
                if epoch > self.epoch:
                    raise StoreCorrupt(
                        f"the engine's journal is of membership {epoch}, the node's own journal of {self.epoch}",
                        hint="the data directory was put together from copies of different ages; " + _HINT,
                    )
                self.incarnation, self.standing = incarnation, standing
                return epoch == self.epoch
        raise _corrupt("it does not begin with its head")

    def _take(self, body: tuple[Any, ...]) -> None:
        match body:
            case ("entry", bytes(command), int(index), int(term)):
                if self._entries and index != self.last + 1:
                    raise _corrupt(f"entry {index} follows entry {self.last}")
                self._extend((command, index, term))
            case ("cut", int(index)) if self._entries and self.first < index <= self.last:
                place = index - self.first
                del self._entries[place:], self._sums[place:]
            case ("vote", int(term), None):
                self._term, self._vote = term, None
            case ("vote", int(term), str(vote)):
                self._term, self._vote = term, vote
            case ("known", str(node), bytes(incarnation)):
                self.known[node] = incarnation
            case ("standing", int(standing)):
                self.standing = standing
            case ("snapshot", int(index), bytes(digest), bytes(content)) if hashlib.sha256(content).digest() == digest:
                self.snapshot = Snapshot(index, content)
            case _:
                raise _corrupt(f"a record {str(body[:1])[:60]} does not fit where it stands")


def _format_record(durable: int, body: tuple[Any, ...]) -> bytes:
    data = encode(body)
    length = len(data)
    return _HEAD.pack(length, _checksum(length, durable, data), durable) + data


def _checksum(length: int, durable: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(struct.pack(">IQ", length, durable)))


def _parse_record(data: bytes, at: int) -> tuple[tuple[Any, ...], int] | None:
    """(body, where the next one begins), or None where no intact record begins."""
    if _intact(data, at) is None:
        return None
    length, _, _ = _HEAD.unpack_from(data, at)
    start = at + _HEAD.size
    try:
        body = decode(data[start : start + length], what="raft log")
    except FormatError as error:
        raise _corrupt(f"the record at byte {at} is none: {error.message}") from None
    if type(body) is not tuple or not body:
        raise _corrupt(f"the record at byte {at} is none")
    return body, start + length


def _intact(data: bytes, at: int) -> int | None:
    """What the record that begins there says was durable, or None where no intact one begins."""
    if at + _HEAD.size > len(data):
        return None
    length, checksum, durable = _HEAD.unpack_from(data, at)
    end = at + _HEAD.size + length
    if not 0 < length <= MAX_BYTES or end > len(data):
        return None
    return int(durable) if _checksum(length, durable, data[at + _HEAD.size : end]) == checksum else None


def _durable_beyond(data: bytes, damaged_at: int) -> bool:
    """Whether an intact record further on says that the damaged place had been durable."""
    for at in range(damaged_at + 1, len(data) - _HEAD.size):
        length, _, durable = _HEAD.unpack_from(data, at)
        if damaged_at < durable <= at and 0 < length <= len(data) - at and _intact(data, at) is not None:
            return True
    return False


def _corrupt(reason: str) -> StoreCorrupt:
    return StoreCorrupt(f"the engine's journal (raft.log): {reason}", hint=_HINT)
