"""Which tables a node guards: what the configuration or somebody asks for, and what a decision begins anew.

Opening a generation is the work of :mod:`witnz.node.generations`; here is decided that one is due.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import structlog

from witnz.core.classify import Rules
from witnz.core.names import parse_table_name
from witnz.errors import WitnzError
from witnz.node.plan import Plan
from witnz.node.restores import is_foreign
from witnz.node.table_state import ACTIVE
from witnz.postgres import catalog
from witnz.postgres.eligibility import raise_fatal, require_table, table_problems

if TYPE_CHECKING:
    from witnz.node.node import Node

log = structlog.get_logger(__name__)


class Protection:
    """The protected set of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    # -- first generations ----------------------------------------------------------------------------------------------------

    def open_configured(self, conn: psycopg.Connection[Any]) -> None:
        """Queue a first generation for every table that the configuration names and the journal does not."""
        for table in self._node.config.protected_tables:
            rules = Rules(table.mode, table.on_change, table.inserts_only, table.require_intent, table.retain == "rows")
            self.open(conn, table.name, rules, hidden=table.keys == "hidden", excluded=frozenset(table.exclude_columns))

    def open_what_is_due(self) -> None:
        """As the leader: open what the configuration names and the journal does not yet hold."""
        node = self._node
        if any(table.name not in node.journal.state.tables() for table in node.config.protected_tables):
            with node.catalog() as conn:
                self.open_configured(conn)

    def open(
        self,
        conn: psycopg.Connection[Any],
        name: str,
        rules: Rules,
        *,
        hidden: bool = False,
        excluded: frozenset[str] = frozenset(),
    ) -> None:
        """Open the first generation of a table, and of every leaf it has; what is protected already stays as it is."""
        state = self._node.journal.state
        info = require_table(conn, *parse_table_name(name))
        known = state.tables()
        if info.witnz_name not in known:
            raise_fatal(table_problems(conn, info, mode=rules.mode, inserts_only=rules.inserts_only, excluded_columns=excluded))
        leaves = catalog.leaf_partitions(conn, info.oid) if info.is_partitioned else []
        for table in [info, *leaves]:
            if table.witnz_name not in known:
                newest = state.newest_generation(table.witnz_name)
                if newest is not None and newest.oid == table.oid and table is not info and info.witnz_name in known:
                    continue  # an operator has ended the protection of this partition alone, to detach or drop it
                generation = newest.generation + 1 if newest is not None else 1
                root = info.witnz_name if table is not info else None
                self._node.generations.open(
                    Plan(table.witnz_name, table, rules, hidden, generation, "protected", excluded, root=root)
                )

    def end_what_is_over(self) -> None:
        """Record no more of tables whose protection is over in the journal: by ``unprotect``, or accepted as dropped."""
        tables = self._node.journal.state.tables()
        for state in self._node.states():
            if state.status == ACTIVE and state.name not in tables:
                self._node.generations.end(state.name)

    # -- further generations --------------------------------------------------------------------------------------------------

    def begin_after_accept(self) -> None:
        """Begin the generations that what was just accepted asks for."""
        try:
            self._node.bridging.step()
        except (WitnzError, psycopg.Error) as error:
            log.warning("new generation was put off", reason=str(error).strip())  # it stays owed

    def renew(self, table: str, reason: str) -> None:
        """The next generation of a table whose rows are, but for what was decided, the recorded ones; they are compared."""
        node = self._node
        with node.catalog() as conn:
            state = node.state(table)
            info = catalog.table_by_oid(conn, state.oid)
            if info is not None:
                node.generations.renew(state, info, reason)

    def begin_anew(self, table: str, reason: str, generation: int) -> None:
        """The generation of a table that follows this one, as the table is defined now; nothing if that one is there already:
        what is owed was looked up before, and others may have been begun, and waited for, in between."""
        node = self._node
        with node.catalog() as conn:
            state = node.state(table)
            if state.generation > generation:
                return
            if is_foreign(node.journal.state, table, state.generation):
                info = catalog.find_table(conn, *parse_table_name(table))  # another system has other OIDs
            else:
                info = catalog.table_by_oid(conn, state.oid)
            if info is not None:
                node.generations.decided(state, info, reason)
