"""What the node keeps beside a log that is neither evidence nor state: small facts about how it is read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from witnz.errors import StoreCorrupt
from witnz.store.logs import LogRow


@dataclass(frozen=True, slots=True)
class LogNotes:
    """``attnums``: the columns of the baseline; ``excluded``: names left out by the configuration; ``root``: of a leaf that
    appeared by itself, the partitioned table that it belongs to.

    Where entries came from other members: ``skip_until``, the final LSN up to which, inclusive, the own stream's transactions
    are in the log already; ``settled_xid``, the 64-bit transaction id that a snapshot's xmin must have reached before a scan
    can be compared.  0 where this node recorded everything itself."""

    attnums: tuple[int, ...] = ()
    excluded: tuple[str, ...] = ()
    root: str | None = None
    skip_until: int = 0
    settled_xid: int = 0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, row: LogRow) -> LogNotes:
        """Raises StoreCorrupt for notes that do not read back."""
        try:
            notes = json.loads(row.mode or "{}")
            return cls(
                tuple(notes.get("attnums", ())),
                tuple(notes.get("excluded", ())),
                notes.get("root"),
                int(notes.get("skip_until", 0)),
                int(notes.get("settled_xid", 0)),
            )
        except (ValueError, AttributeError, TypeError):
            raise StoreCorrupt(f"the notes of log {row.id} ({row.table}) do not read back") from None
