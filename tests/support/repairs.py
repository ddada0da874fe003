"""A node whose tables retain their rows, and what tests of repairs do with it."""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from tests.support.node import Protected, Tables
from tests.support.postgres import Database
from witnz.core.finding import Finding
from witnz.core.keys import Ed25519Signer, Signer
from witnz.core.message import format_intent, sign_intent
from witnz.core.record import parse_record
from witnz.node.journal import authorise
from witnz.node.keyring import load_person_key
from witnz.node.node import Node
from witnz.node.repair import RepairResult
from witnz.node.repair_apply import Applied, apply_plan
from witnz.node.repair_plan import RepairPlan, plan_from_json
from witnz.postgres.session import Conninfo
from witnz.store import journal

REASON = "restored by the test"


@dataclass(slots=True)
class Bench:
    """A protected database and the operator who repairs it."""

    protected: Protected
    name: str
    signer: Signer

    @classmethod
    def start(cls, directory: Path, database: Database, tables: Tables, **extra: Any) -> Bench:
        directory.chmod(0o700)
        protected = Protected.start(directory, database, tables, **extra)
        return cls(protected, *load_person_key(directory / "data" / "operator-alice.key", "operator"))

    @property
    def node(self) -> Node:
        return self.protected.node

    @property
    def database(self) -> Database:
        return self.protected.database

    @property
    def admin(self) -> Conninfo:
        return Conninfo.from_conninfo(self.database.owner_dsn)

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        return self.database.sql(statement)

    def silently(self, table: str, **columns: str) -> None:
        """Give columns other values (``who="CASE …"``) by rewriting the table, which logical replication passes over."""
        types = dict(
            self.sql(f"SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = '{table}'::regclass")
        )
        changes = ", ".join(f"ALTER {name} TYPE {types[name]} USING {value}" for name, value in columns.items())
        self.sql(f"ALTER TABLE {table} {changes}")

    def found(self, cls: str, key: str | None, *, table: str, count: int = 1) -> Finding:
        """The open finding of this class and key, once everything committed is recorded."""
        self.protected.caught_up()
        found = [f for f in self.open(table) if (f.cls, f.key) == (cls, key)]
        assert len(found) == count, [(f.cls, f.key) for f in self.open(table)]
        return found[0]

    def open(self, table: str) -> list[Finding]:
        return self.protected.findings(canonical(table))

    def verify(self, table: str) -> str:
        return self.protected.verify(canonical(table)).verdict.value

    def plan(self, finding: Finding) -> RepairPlan:
        """The plan, as the command line gets it."""
        return plan_from_json(self.node.repairs.plan(finding.id).to_json())

    def apply(self, plan: RepairPlan, **how: Any) -> Applied:
        return apply_plan(plan, self.admin, operator=self.name, signer=self.signer, reason=REASON, **how)

    def repair(self, finding: Finding) -> RepairResult:
        return self.node.repairs.apply(finding.id, self.admin, self.name, self.signer, REASON)

    def repair_well(self, finding: Finding) -> RepairResult:
        """Repair, and see that the table is as recorded, closed, and nothing new was found."""
        result = self.repair(finding)
        assert (result.repaired, result.left) == (True, ()), result
        assert result.finding.state == "repaired"
        assert result.verified is not None and result.verified.verdict.value == "VERIFIED", result.verified
        assert self.open(result.finding.table or "") == []
        return result

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        """Every row version with where it stands and who wrote it: what no write leaves as it was."""
        return self.sql(f"SELECT ctid::text, xmin::text, whole_row::text FROM ONLY {table} whole_row ORDER BY ctid")

    def texts(self, table: str) -> list[str]:
        return [text for (text,) in self.sql(f"SELECT whole_row::text FROM ONLY {table} whole_row ORDER BY 1")]

    # -- the journal ----------------------------------------------------------------------------------------------------------

    def add_key(self, kind: str, name: str, public: bytes, *, from_lsn: str = "0/0") -> None:
        self._change_key("add", kind, name, public, from_lsn)

    def remove_key(self, kind: str, name: str, public: bytes, *, from_lsn: str = "0/0") -> None:
        self._change_key("remove", kind, name, public, from_lsn)

    def _change_key(self, action: str, kind: str, name: str, public: bytes, from_lsn: str) -> None:
        key = base64.b64encode(public).decode()
        body = {"action": action, "kind": kind, "name": name, "key": key, "from_lsn": from_lsn}
        self.node.journal.propose("key", authorise("key", body, self.node.cluster_id, self.name, self.signer))

    def journal_bodies(self, record_type: str) -> list[dict[str, Any]]:
        with self.node.db.read() as conn:
            records = [parse_record(leaf) for leaf in journal.records(conn)]
        return [dict(record.body) for record in records if record.type == record_type]

    # -- intents --------------------------------------------------------------------------------------------------------------

    def intent(
        self,
        conn: psycopg.Connection[Any],
        tables: Sequence[str],
        *,
        key: str,
        signer: Signer,
        nonce: str = "",
        xid: int | None = None,
    ) -> str:
        """A signed intent for the transaction that ``conn`` is in."""
        row = conn.execute("SELECT pg_current_xact_id()::text").fetchone()
        assert row is not None
        named = int(row[0]) if xid is None else xid
        nonce = nonce or os.urandom(16).hex()
        return format_intent(
            sign_intent(signer, self.node.cluster_id, by="bob", hint="planned", key=key, nonce=nonce, tables=tables, xid=named)
        )


def canonical(table: str) -> str:
    return table if "." in table else f"public.{table}"


def emit(conn: psycopg.Connection[Any], text: str) -> None:
    conn.execute("SELECT pg_logical_emit_message(true, 'witnz', %s::text)", [text])


def new_signer(name: str) -> Ed25519Signer:
    return Ed25519Signer(name, os.urandom(32))


@contextlib.contextmanager
def running(bench: Bench) -> Iterator[Bench]:
    try:
        yield bench
    finally:
        bench.protected.stop()
