"""The documents of a store that no running node is asked about: those of the view, and the bundles."""

from __future__ import annotations

from typing import Any

from witnz.core.keyplan import key_text
from witnz.core.rowline import escape
from witnz.errors import UsageError
from witnz.node.evidence import Evidence, RowLine
from witnz.node.view import NOT_FOUND, StoreView, now_us


class StoredDocuments(StoreView):
    """Like the client of a running node (:class:`witnz.web.client.NodeClient`), on the files."""

    row_line: RowLine | None = None
    """Where rows themselves come from; only a node has them."""

    def status(self, live_node: Any = None) -> dict[str, Any]:
        return super().status(live_node)

    def checkpoint_bundle(self, size: int | None = None) -> bytes:
        return Evidence(self._db, now_us, self._state).checkpoint_bundle(size)

    def row_bundle(self, table: str, key: str | None = None, *, seq: int | None = None, with_row: bool = False) -> bytes:
        """The bundle of a row by key, of an entry by seq, or of the entry of that key with that seq."""
        if with_row and self.row_line is None:
            raise UsageError("a stopped node cannot show the row itself", hint="start it with `witnz start`")
        state_key = b"" if key is None else self.key_of(table, key)
        if seq is not None:
            self._check_entry(table, seq, key, state_key)
        row_line = self.row_line if with_row else None
        return Evidence(self._db, now_us, self._state).row_bundle(table, state_key, seq=seq, row_line=row_line)

    def _check_entry(self, table: str, seq: int, key: str | None, state_key: bytes) -> None:
        """There is such an entry, and it is of that key where one is given."""
        shown = self.log_entries(table, from_seq=seq, to_seq=seq, limit=1)["entries"]
        if not shown:
            raise UsageError(f"the log of {table} has no entry {seq}", hint="`witnz log show` lists them", code=NOT_FOUND)
        wanted = key_text(state_key if state_key[:2] == b"\\H" else escape(state_key))
        if key is not None and shown[0]["key"] != wanted:
            raise UsageError(f"entry {seq} of {table} is not of key {key[:80]!r}", hint=f"its key is {shown[0]['key']}")
