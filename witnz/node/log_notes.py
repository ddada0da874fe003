"""What the node keeps beside a log that is neither evidence nor state: small facts about how it is read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from witnz.errors import StoreCorrupt
from witnz.store.logs import LogRow


@dataclass(frozen=True, slots=True)
class LogNotes:
    """``attnums``: the columns of the baseline; ``excluded``: names left out by the configuration; ``root``: of a leaf that
    appeared by itself, the partitioned table that it belongs to."""

    attnums: tuple[int, ...] = ()
    excluded: tuple[str, ...] = ()
    root: str | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, row: LogRow) -> LogNotes:
        """Raises StoreCorrupt for notes that do not read back."""
        try:
            notes = json.loads(row.mode or "{}")
            return cls(tuple(notes.get("attnums", ())), tuple(notes.get("excluded", ())), notes.get("root"))
        except (ValueError, AttributeError, TypeError):
            raise StoreCorrupt(f"the notes of log {row.id} ({row.table}) do not read back") from None
