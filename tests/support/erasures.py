"""Orders of operators in tests: signed as a person would sign them, and followed until the node has forgotten what must go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.node import TIMEOUT_S, Protected, wait
from tests.support.recorded import log_row
from tests.support.workshop import Workshop, open_workshop
from witnz.core.classify import Rules
from witnz.demo.server import PostgresServer
from witnz.node.journal import authorise
from witnz.node.keyring import load_person_key
from witnz.node.node import Node
from witnz.node.ordered import orders_document


def signed(node: Node, key: Path, record_type: str, body: dict[str, Any]) -> dict[str, Any]:
    """The body as the operator whose key file this is has signed it."""
    name, signer = load_person_key(key, "operator")
    return authorise(record_type, body, node.cluster_id, name, signer)


@dataclass
class Cleaner(Workshop):
    """A workshop whose tables lose rows by order."""

    @property
    def key(self) -> Path:
        return self.protected.directory / "data" / "operator-alice.key"

    def protect(self, name: str, ddl: str, rules: Rules, **keywords: Any) -> str:
        table = Workshop.protect(self, name, ddl.format(name), rules, **keywords)
        self.protected.caught_up()
        return table

    def order(self, table: str, keys: Sequence[str], reason: str = "asked for by the test") -> int:
        """Order rows to be erased; the record's seq."""
        return self.node.decide("erase", signed(self.node, self.key, "erase", self.node.erasing.body(table, keys, reason)))

    def prune(self, table: str, generation: int) -> int:
        body = {"table": table, "generation": generation, "reason": "older than the retention period"}
        return self.node.decide("prune", signed(self.node, self.key, "prune", body))

    def orders(self, table: str) -> dict[str, Any]:
        with self.node.db.read() as conn:
            return orders_document(conn, self.node.journal.state, table)

    def await_erased(self, table: str, generation: int) -> None:
        """The generation has ended, and nothing that was ordered to go of it is left in the node's files."""
        wait(
            lambda: not log_row(self.protected, table, generation).secret,
            f"the secret of {table}/{generation} to go; {self.orders(table)}, {self.protected.findings()},"
            f" {[(o.plan.name, o.phase, o.error) for o in self.node.generations.opening()]}",
            2 * TIMEOUT_S,
        )
        self.await_overwritten()

    def await_pruned(self, table: str, generation: int) -> None:
        def done() -> bool:
            row = log_row(self.protected, table, generation)
            with self.node.db.read() as conn:
                left = conn.execute("SELECT count(*) FROM bundles WHERE log = ?", (row.id,)).fetchone()[0]
            return row.status == "pruned" and not left

        wait(done, f"{table}/{generation} to be pruned", 2 * TIMEOUT_S)
        self.await_overwritten()

    def await_overwritten(self) -> None:
        def done() -> bool:
            with self.node.db.read() as conn:
                return not conn.execute("SELECT 1 FROM meta WHERE key = 'freed pages'").fetchone()

        wait(done, "the freed pages to be overwritten", 2 * TIMEOUT_S)

    def is_anywhere(self, data: bytes) -> bool:
        """Whether these bytes are in any file of the node's store."""
        return any(data in path.read_bytes() for path in (self.protected.directory / "data").glob("witnz.db*"))


@contextmanager
def open_cleaner(server: PostgresServer, directory: Path) -> Iterator[Cleaner]:
    with open_workshop(server, directory) as shop:
        yield Cleaner(shop.protected, shop.judge)


def started(protected: Protected) -> Cleaner:
    """A cleaner over a node that a test has started itself."""
    return Cleaner(protected, None)  # type: ignore[arg-type]
