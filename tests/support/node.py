"""A real node beside a test's database: initialised as a user would, started in this process, asked through its own methods."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tests.support.postgres import Database
from tests.support.sightings import SIGHTINGS
from witnz.config import Config, load_config
from witnz.core.finding import Finding
from witnz.core.verdict import Verdict
from witnz.node.approval import Approvals
from witnz.node.journal import authorise
from witnz.node.keyring import load_person_key
from witnz.node.node import Node, now_us
from witnz.node.setup import initialise
from witnz.node.verification import Verified
from witnz.postgres.session import Conninfo
from witnz.store import findings
from witnz.verify.stream import PATIENCE

TIMEOUT_S = 60.0
WATCH_S = 0.1  # tests need not wait two seconds for each look at the catalog
READY_TIMEOUT_S = 240.0  # a big baseline on a busy machine
# Why a run may say INCONCLUSIVE that is as it should be a moment later; autovacuum, too, has transactions.
PASSING = (
    "is being opened",
    "a transaction is still open that began before",
    "changed during the scan",
    "under the next; run again",
)

Tables = Sequence[Mapping[str, Any]]
T = TypeVar("T")


def write_config(directory: Path, database: Database, tables: Tables, /, **extra: Any) -> Path:
    """A witnz.yaml for this database in ``directory``, the data directory beside it."""
    conninfo = Conninfo.from_conninfo(database.witnz_dsn)
    document = {
        "cluster": f"test.example/{database.name}",
        "database": {
            "host": conninfo.host,
            "port": conninfo.port,
            "database": conninfo.dbname,
            "user": conninfo.user,
            "sslmode": "prefer",
        },
        "node": {"id": "node1", "data_dir": str(directory / "data")},
        "protected_tables": [dict(table) for table in tables],
        "seal_interval": "0.2s",
        **extra,
    }
    path = directory / "witnz.yaml"
    path.write_text(yaml.safe_dump(document, allow_unicode=True))
    return path


@dataclass(slots=True)
class Protected:
    """A database with a running node."""

    database: Database
    config: Config
    node: Node
    directory: Path

    @classmethod
    def start(cls, directory: Path, database: Database, tables: Tables, /, **extra: Any) -> Protected:
        """Initialise and start; every table is active when this returns."""
        config = load_config(write_config(directory, database, tables, **extra), {})
        initialise(config, admin=Conninfo.from_conninfo(database.owner_dsn), clock=now_us, operator="alice")
        self = cls(database, config, Node(config, watch_s=WATCH_S), directory)
        self.go()
        return self

    def go(self) -> None:
        self.node.start(schedule=False)
        self.node.wait_ready(READY_TIMEOUT_S)

    def stop(self) -> None:
        self.node.stop()

    def restart(self) -> None:
        """Stop the node and start it again on the same data directory."""
        self.stop()
        self.resume()

    def resume(self) -> None:
        self.node = Node(self.config, watch_s=WATCH_S)
        self.go()

    # -- asking ---------------------------------------------------------------------------------------------------------------

    def findings(self, table: str | None = None, *, state: str | None = "open") -> list[Finding]:
        with self.node.db.read() as conn:
            found = findings.list_findings(conn, table=table)
        return [finding for finding in found if state is None or finding.state == state]

    def wait_for(self, cls: str, key: str | None = None, *, table: str | None = None) -> Finding:
        """The first finding of this class (and key), as soon as there is one."""

        def look() -> Finding | None:
            for finding in self.findings(table, state=None):
                if finding.cls == cls and (key is None or finding.key == key):
                    return finding
            return None

        found = wait(look, f"finding {cls} of key {key}; there are {[(f.cls, f.key) for f in self.findings(state=None)]}")
        SIGHTINGS.saw(cls)
        return found

    def caught_up(self) -> None:
        """Everything committed before this call is recorded."""
        self.node.capture.await_mark(f"test-{time.monotonic_ns()}".encode(), PATIENCE)

    def verify(self, table: str) -> Verified:
        return self.node.verify_table(table)

    def verify_soon(self, table: str) -> Verified:
        """A verification, as soon as nothing that passes by itself stands in its way."""

        def look() -> Verified | None:
            verified = self.verify(table)
            return None if any(text in reason for reason in verified.not_checked for text in PASSING) else verified

        return wait(look, f"a verification of {table}")

    def assert_verified(self, table: str) -> None:
        verified = self.verify_soon(table)
        assert verified.verdict is Verdict.VERIFIED, verified

    def approve(self, finding: Finding, reason: str = "approved by the test") -> Finding:
        """Approve as the operator would: the body is signed with the key that only a person has."""
        name, signer = load_person_key(self.directory / "data" / "operator-alice.key", "operator")
        body = Approvals.accept_body(self.node.approvals, finding.id, reason)
        return self.node.approve(authorise("accept", body, self.node.cluster_id, name, signer))


def wait(look: Callable[[], T | None], what: str, timeout_s: float = TIMEOUT_S) -> T:
    """The first truthy answer, polled."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(0.02)
