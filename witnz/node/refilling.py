"""Taking from the other members what this node could not record itself, or recorded wrongly (architecture.md 6).

    a generation that it did not read along       fetched once the journal has adopted it
    a lost slot                                   what lies between comes from the others; a gap only where nobody has it
    the minority                                  its divergent tail goes to the evidence, the rest is fetched anew

Fetching happens on the capture thread, between transactions: nothing records into a log meanwhile.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
import structlog

from witnz.errors import Inconclusive, UsageError, WitnzError
from witnz.node.answers import Answers
from witnz.node.catchup import CatchUp, Home
from witnz.node.sources import Sources
from witnz.postgres import catalog
from witnz.postgres.session import connect
from witnz.store import logs, meta

if TYPE_CHECKING:
    from witnz.cluster.peers import Peers
    from witnz.node.node import Node

log = structlog.get_logger(__name__)

GRACE_S: Final = 5.0  # a generation that was just adopted is often only a moment away
RESTORE_S: Final = 600.0
PATIENCE_S: Final = 30.0  # how long others may take to be connected, and to have read up to where a new slot begins
RETRY_S: Final = 0.5


class Refilling:
    """Fetches for one node, and answers the others who fetch."""

    def __init__(self, node: Node, peers: Peers, stopped: threading.Event) -> None:
        self._node, self._peers, self._stopped = node, peers, stopped
        self._missing_since: dict[tuple[str, int], float] = {}
        state = node.journal.state
        Answers(
            node.db, lambda: state, node.keys, node.config.node_id, node.box,
            lambda table, generation: node.generations.find(table, generation) is not None,
        ).register(peers)  # fmt: skip
        node.journal.fetch = self._fetch_journal

    def _catch_up(self) -> CatchUp:
        node = self._node
        others = [member for member in node.journal.state.members if member != node.config.node_id]
        home = Home(
            node.db, node.config.cluster, node.config.node_id, node.keys.identity, node.data.keys_dir,
            node.data.evidence_dir, node.box, node.clock,
        )  # fmt: skip
        return CatchUp(
            home,
            Sources(self._peers, others),
            lambda: connect(node.conninfo, application_name="witnz catch-up"),
            stopped=self._stopped.is_set,
        )

    def _fetch_journal(self, size: int, chain: str) -> None:
        self._catch_up().journal_to(size, chain)
        self._node.journal.reload()

    # -- generations ----------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Have fetched what the journal has adopted and this node neither records nor is about to."""
        now = time.monotonic()
        missing = self._missing()
        for gone in [key for key in self._missing_since if key not in missing]:
            del self._missing_since[gone]
        for key in missing:
            if now - self._missing_since.setdefault(key, now) >= GRACE_S and self._is_streamed(key[0]):
                self._node.generations.meanwhile(key, partial(self._fetch, *key))

    def _is_streamed(self, table: str) -> bool:
        """Whether the own stream, which goes on where the fetched log ends, tells of a table."""
        node, record = self._node, self._node.journal.state.current_table(table)
        if record is None:
            return False
        try:
            with node.catalog() as conn:
                info = catalog.table_by_oid(conn, record.oid)
                return info is None or node.reopening.ticket(conn, info).good
        except (WitnzError, psycopg.Error) as error:
            log.warning("log is not fetched yet", table=table, reason=str(error).strip())
            return False

    def _missing(self) -> list[tuple[str, int]]:
        node = self._node
        opening = {(each.plan.name, each.plan.generation) for each in node.generations.opening()}
        with node.db.read() as conn:
            here = {(row.table, row.generation) for row in logs.list_logs(conn) if row.status in ("active", "provisional")}
        wanted = {(table, record.generation) for table, record in node.journal.state.tables().items()}
        return sorted(wanted - here - opening)

    def _fetch(self, table: str, generation: int) -> None:
        if (table, generation) not in self._missing():
            return
        node, catch_up = self._node, self._catch_up()
        with node.db.read() as conn:
            old = logs.find_log(conn, table, generation - 1)
            half = logs.find_log(conn, table, generation)
        if half is not None and half.status == "open":
            node.generations.discard(half)
        if old is not None and old.status in ("active", "open"):
            catch_up.restore(table, generation - 1, self._position())
        catch_up.log(table, generation, self._position())
        log.info("generation was fetched", table=table, generation=generation)

    def _position(self) -> int:
        with self._node.db.read() as conn:
            return meta.load_number(conn, "acked") or 0

    # -- a lost slot ----------------------------------------------------------------------------------------------------------

    def refill(self, position: int) -> bool:
        """Whether the others had everything below ``position``, where a new slot goes on.

        A node that has just started has not met them yet, and they may have to read up to there first; what is called a gap
        here is one for ever, so they get a moment.
        """
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                added = self._catch_up().all_logs(position, besides=self._node.generations.begun())
            except (WitnzError, psycopg.Error) as error:
                if time.monotonic() > deadline or self._stopped.wait(RETRY_S):
                    log.error("other members could not fill the gap", reason=str(error).strip())
                    return False
                log.info("other members can not fill the gap yet", reason=str(error).strip())
            else:
                log.warning("entries were taken from other members", entries=added)
                return True

    # -- the minority ---------------------------------------------------------------------------------------------------------

    def repair(self, finding_id: str) -> dict[str, Any]:
        """``witnz.restore/1``: restore what a ``node.diverged`` finding about this node names, and close the finding.

        Raises UsageError for any other finding.
        """
        node = self._node
        finding = node.approvals.get(finding_id)
        if finding.cls != "node.diverged" or finding.key != node.config.node_id or finding.table is None:
            raise UsageError(
                f"finding {finding_id} is not about a log of this node", hint="run it on the node that the finding names"
            )
        kept = self.restore(finding.table)
        node.approvals.journal_finding(finding)
        body = {"finding": finding_id, "target": node.config.node_id, "sql_sha256": None, "result": "repaired"}
        node.following.follow(node.journal.propose("repair", body))
        return {
            "schema": "witnz.restore/1",
            "finding": finding_id,
            "table": finding.table,
            "evidence": None if kept is None else str(kept),
        }

    def restore(self, table: str) -> Path | None:
        """Take back what of a table's log is not what a quorum sealed; the file that it was kept in.

        Raises UsageError for a table that has not diverged here, Inconclusive where it could not be done in time.
        """
        peering = self._node.peering
        generation = None if peering is None else peering.agreement.diverged.get(table)
        if peering is None or generation is None:
            raise UsageError(f"the log of {table} on this node is not known to differ from the sealed one")
        kept: list[Path | None] = []
        done = threading.Event()

        def work() -> None:
            kept.append(self._catch_up().restore(table, generation, self._position()))
            peering.agreement.restored(table)
            done.set()

        self._node.generations.meanwhile(("restore", table), work)
        if not done.wait(RESTORE_S):
            raise Inconclusive(f"the log of {table} could not be restored; see the log", hint="it is tried again by itself")
        return kept[0]
