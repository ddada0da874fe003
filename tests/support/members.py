"""The members of one cluster as their stores tell it, whether they run in this process or in processes of their own."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

from witnz.config import Config
from witnz.core.finding import Finding
from witnz.core.record import Record, parse_record
from witnz.store import checkpoints, entries, findings, logs
from witnz.store import journal as stored


class Members(ABC):
    """Whoever has :meth:`store` for each member."""

    configs: dict[str, Config]

    @abstractmethod
    def store(self, node: str) -> AbstractContextManager[sqlite3.Connection]:
        """The store of a member, to read."""

    def log(self, node: str, table: str, generation: int | None = None) -> list[bytes]:
        """The entries of a table log; none where there is no such log."""
        with self.store(node) as conn:
            row = logs.find_log(conn, table, generation)
            return list(entries.entries(conn, row.id)) if row is not None and row.size else []

    def records(self, node: str) -> list[Record]:
        with self.store(node) as conn:
            return [parse_record(leaf) for leaf in stored.records(conn)]

    def every_finding(self, node: str) -> list[Finding]:
        with self.store(node) as conn:
            return findings.list_findings(conn)

    def final_size(self, node: str) -> int:
        """The size of the newest final checkpoint that this member has; 0 if it has none."""
        with self.store(node) as conn:
            found = checkpoints.latest(conn, final=True)
        return found.size if found is not None else 0

    def assert_one_history(
        self, nodes: Iterable[str], tables: Iterable[tuple[str, int | None]], expected: Callable[[Finding], bool]
    ) -> None:
        """Identical logs, one journal, one history of final checkpoints, no finding but the expected ones."""
        names = list(nodes)
        for table, generation in tables:
            logs_of = {node: self.log(node, table, generation) for node in names}
            sizes = {node: len(log) for node, log in logs_of.items()}
            assert len(set(map(tuple, logs_of.values()))) == 1, f"{table}/{generation} differs: {sizes}"
        journals = {node: [record.body_json for record in self.records(node)] for node in names}
        shortest = min(map(len, journals.values()))
        assert len({tuple(journal[:shortest]) for journal in journals.values()}) == 1
        history: dict[int, str] = {}
        for node in names:
            with self.store(node) as conn:
                for checkpoint in checkpoints.list_checkpoints(conn, limit=100_000, final=True):
                    text = checkpoint.note.split("\n\n")[0]
                    assert history.setdefault(checkpoint.size, text) == text, f"two checkpoints of size {checkpoint.size}"
            unexpected = [(f.cls, f.key, f.detail) for f in self.every_finding(node) if not expected(f)]
            assert not unexpected, f"{node}: {unexpected}"
