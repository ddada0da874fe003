"""A cluster on paper: real keys from fixed seeds, real records and trees, so that tests and vectors are alike everywhere."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from witnz.core.bundle import BundledRow, RowState, bundle_row
from witnz.core.checkpoint import Checkpoint, cosign, format_checkpoint
from witnz.core.entry import Entry, SchemaColumn, chain_hash, content_hash, first_parent, format_entry, schema_hint
from witnz.core.finding import finding_id
from witnz.core.journal import JournalState
from witnz.core.keys import COSIGNATURE, ED25519, Ed25519Signer, format_verifier_key, verifier_key
from witnz.core.merkle import consistency_path, inclusion_path, root_of
from witnz.core.names import log_origin
from witnz.core.note import format_note, sign_note
from witnz.core.policy import format_policy
from witnz.core.record import Record, operator_bytes, record_hash, record_leaf_hash, sign_record, vote_bytes
from witnz.core.record_bodies import AUTHORISED, VOTED
from witnz.core.rowline import row_blind, row_hash, secret_commitment
from witnz.core.state import StateTree, bucket_of, build_state_tree

CLUSTER = "vectors.example/app"
CLUSTER_ID = "0123456789abcdef0123456789abcdef"
START_US = 1_795_284_579_000_000
TABLE = "public.audit_logs"
COLUMNS = (SchemaColumn("id", 20, -1, True), SchemaColumn("actor", 25, -1, False), SchemaColumn("note", 25, -1, False))
SECRET = hashlib.sha256(b"secret of the vectors").digest()
HASH = b64encode(bytes(32)).decode()
DIGEST = "0" * 64


def seed(name: str) -> bytes:
    """32 bytes that anybody can make again."""
    return hashlib.sha256(f"witnz vectors {name}".encode()).digest()


def signer(name: str) -> Ed25519Signer:
    return Ed25519Signer(name, seed(name))


def b64(data: bytes) -> str:
    return b64encode(data).decode("ascii")


class PaperCluster:
    """A journal that grows by valid records; ``make`` builds one more without adding it, to be spoilt by a test."""

    def __init__(self, nodes: int = 3, quorum: int | None = None, operators: Sequence[str] = ("alice",)) -> None:
        self.nodes = [f"node{number}" for number in range(1, nodes + 1)]
        self.quorum = nodes // 2 + 1 if quorum is None else quorum
        self.operators = list(operators)
        self.log = signer(CLUSTER)
        self.state = JournalState()
        self.records: list[Record] = []
        self.nonces = 0

    def identity(self, node: str) -> Ed25519Signer:
        return signer(f"identity-{node}")

    def cosigner(self, node: str) -> Ed25519Signer:
        return Ed25519Signer(f"{CLUSTER}/nodes/{node}", seed(f"cosigner-{node}"))

    def operator(self, name: str) -> Ed25519Signer:
        return signer(f"operator-{name}")

    def member_body(self, node: str) -> dict[str, Any]:
        cosigner = self.cosigner(node)
        return {
            "id": node,
            "addr": f"{node}.internal:7000",
            "identity": b64(self.identity(node).public),
            "cosigner": format_verifier_key(verifier_key(cosigner.name, COSIGNATURE, cosigner.public)),
        }

    @property
    def log_key(self) -> str:
        return format_verifier_key(verifier_key(CLUSTER, ED25519, self.log.public))

    def genesis_body(self) -> dict[str, Any]:
        return {
            "cluster": CLUSTER,
            "members": [self.member_body(node) for node in self.nodes],
            "operators": [{"name": name, "key": b64(self.operator(name).public)} for name in self.operators],
            "quorum": self.quorum,
            "log_key": self.log_key,
            "database": {"system": "7123456789012345678", "timeline": 1, "name": "app"},
        }

    def make(
        self,
        record_type: str,
        body: Mapping[str, Any],
        *,
        node: str = "node1",
        voters: Sequence[str] | None = None,
        operator: str | None = None,
        **changed: Any,
    ) -> Record:
        """The next record, with votes of ``voters`` (default: a quorum) and the auth of ``operator`` (default: where due)."""
        full = dict(body)
        if operator is None and record_type in AUTHORISED:
            operator = self.operators[0]
        if operator is not None and "auth" not in full:
            full.setdefault("nonce", self.nonce())
            signed = operator_bytes(full, CLUSTER_ID, record_type)
            full["auth"] = {"operator": operator, "sig": b64(self.operator(operator).sign(signed))}
        if record_type in VOTED and "votes" not in full:
            ballot = vote_bytes(full, CLUSTER_ID, record_type)
            full["votes"] = {voter: b64(self.identity(voter).sign(ballot)) for voter in (voters or self.nodes[: self.quorum])}
        envelope: dict[str, Any] = {
            "at": START_US + 1_000_000 * len(self.records),
            "cluster": CLUSTER_ID,
            "n": self.state.next_n(node),
            "prev": self.state.prev_of(node),
            "seq": self.state.size + 1,
            **changed,
        }
        return sign_record(self.identity(node), body=full, node=node, record_type=record_type, **envelope)

    def nonce(self) -> str:
        self.nonces += 1
        return f"{self.nonces:032x}"

    def add(self, record_type: str, body: Mapping[str, Any], **keywords: Any) -> Record:
        """:meth:`make`, and apply it."""
        record = self.make(record_type, body, **keywords)
        self.state.apply(record)
        self.records.append(record)
        return record

    def force(self, record_type: str, body: Mapping[str, Any], **keywords: Any) -> Record:
        """:meth:`make`, and let it in though it is not valid: what no honest quorum would cosign."""
        record = self.make(record_type, body, **keywords)
        self.state.size += 1
        self.state._chains[record.node] = (record.n, record_hash(record), self.state.size)
        self.records.append(record)
        return record

    def start(self) -> PaperCluster:
        """With genesis and one protected table."""
        self.add("genesis", self.genesis_body())
        self.add("table", table_body())
        return self

    def finding(self, finding_class: str = "row.modified", occurrence: int = 0, **changed: Any) -> dict[str, Any]:
        """The body of a ``finding`` record whose id fits."""
        body = {
            "class": finding_class,
            "severity": "critical",
            "table": TABLE,
            "generation": 1,
            "key": "2",
            "seq": 3,
            "lsn": "0/1949A00",
            "xid": None,
            "window": {"last_good": None, "first_bad": None},
            "recorded": DIGEST,
            "found": None,
            "explained_by": None,
            **changed,
        }
        fid = finding_id(CLUSTER_ID, finding_class, body["generation"], body["key"], occurrence, body["seq"], body["table"])
        return {"id": fid, **body}

    # -- checkpoints and proofs --------------------------------------------------------------------------------------

    def leaves(self, size: int | None = None) -> list[bytes]:
        return [record_leaf_hash(record) for record in self.records[:size]]

    def note(
        self,
        size: int | None = None,
        cosigners: Sequence[str] | None = None,
        root: bytes | None = None,
        cosigned_s: int = 1_795_284_600,
    ) -> str:
        """The checkpoint of the first ``size`` records, cosigned by a quorum at ``cosigned_s``, seconds since 1970."""
        leaves = self.leaves(size)
        text = format_checkpoint(Checkpoint(CLUSTER, len(leaves), root_of(leaves) if root is None else root))
        note = sign_note(text, [self.log])
        names = self.nodes[: self.quorum] if cosigners is None else cosigners
        return format_note(note.with_signatures(*(cosign(text, self.cosigner(name), cosigned_s) for name in names)))

    def proof(self, seq: int) -> list[bytes]:
        return inclusion_path(self.leaves(), seq - 1)

    def consistency(self, size: int) -> tuple[str, list[bytes]]:
        return self.note(size), consistency_path(self.leaves(), size, len(self.records))

    def shown(self, *seqs: int) -> list[tuple[Record, list[bytes]]]:
        """Records with their proofs, as a bundle takes them; all without arguments."""
        return [(record, self.proof(record.seq or 0)) for record in self.records if not seqs or record.seq in seqs]

    @property
    def policy(self) -> str:
        return format_policy(self.log_key, [(node, self.member_body(node)["cosigner"]) for node in self.nodes], self.quorum)


class PaperLog:
    """One generation of a table log."""

    def __init__(self, table: str = TABLE, generation: int = 1, columns: Sequence[SchemaColumn] = COLUMNS) -> None:
        self.table, self.generation = table, generation
        self.lines: list[bytes] = []
        self.chain = first_parent(log_origin(CLUSTER, table, generation))
        self.add("schema", hint=schema_hint(columns, "d", 16384))

    def add(self, op: str, row: bytes | None = None, **members: Any) -> bytes:
        """One more entry; ``row`` is a row line, of which only the hash is recorded."""
        members.setdefault("row", None if row is None else row_hash(SECRET, row))
        members.setdefault("key", None)
        xid = 0 if op in ("schema", "baseline") else 740 + len(self.lines)
        entry = Entry(seq=len(self.lines) + 1, op=op, lsn=0x1949850 + len(self.lines), xid=xid, at=START_US, **members)
        line = format_entry(entry)
        self.lines.append(line)
        self.chain = chain_hash(self.chain, content_hash(line))
        return line

    def head(self) -> dict[str, Any]:
        """As a seal lists it."""
        leaves = [content_hash(line) for line in self.lines]
        log = {"table": self.table, "generation": self.generation}
        return {**log, "size": len(leaves), "root": b64(root_of(leaves)), "chain": self.chain}

    def row(self, seq: int, *, seal: int, size: int, line: bytes | None = None, state: RowState | None = None) -> BundledRow:
        """Entry ``seq`` as a row of a bundle, proved in the log of ``size`` entries."""
        leaves = [content_hash(entry) for entry in self.lines[:size]]
        return bundle_row(
            table=self.table,
            generation=self.generation,
            seal=seal,
            schema_line=self.lines[0],
            schema_proof=inclusion_path(leaves, 0),
            entry_line=self.lines[seq - 1],
            proof=inclusion_path(leaves, seq - 1),
            line=line,
            blind=None if line is None else row_blind(SECRET, line),
            state=state,
        )


@lru_cache(maxsize=8)
def _state_tree(rows: tuple[bytes, ...]) -> StateTree:
    return build_state_tree([row_hash(SECRET, line) for line in rows])


def state_of(rows: Sequence[bytes], row: bytes, verify: int) -> RowState:
    """That ``row`` is one of ``rows`` (row lines), proved in their state root."""
    bucket = bucket_of(row_hash(SECRET, row))
    members = sorted(h for h in (row_hash(SECRET, line) for line in rows) if bucket_of(h) == bucket)
    return RowState(verify, tuple(members), tuple(_state_tree(tuple(rows)).proof(bucket)))


def root_of_rows(rows: Sequence[bytes]) -> bytes:
    return _state_tree(tuple(rows)).root()


def table_body(generation: int = 1, previous: Mapping[str, Any] | None = None, **changed: Any) -> dict[str, Any]:
    return {
        "table": TABLE,
        "generation": generation,
        "mode": "append_only",
        "on_change": "alert",
        "rules": {"inserts_only": False, "require_intent": False, "retain": False},
        "keys": {"columns": ["id"], "form": "plain"},
        "oid": 16384,
        "snapshot": "741:741:",
        "lsn": "0/1949850",
        "secret_sha256": secret_commitment(SECRET),
        "previous": previous,
        "reason": "protected",
        **changed,
    }


def open_body(generation: int, **changed: Any) -> dict[str, Any]:
    return {"table": TABLE, "generation": generation, "secret_sha256": secret_commitment(SECRET), **changed}


def head_body(size: int, table: str = TABLE, generation: int = 1) -> dict[str, Any]:
    """A log head that is not derived from entries: for journals alone."""
    root = hashlib.sha256(f"{table} {generation} {size}".encode())
    return {"table": table, "generation": generation, "size": size, "root": b64(root.digest()), "chain": root.hexdigest()}


def seal_body(lsn: str, *heads: Mapping[str, Any], **parts: int) -> dict[str, Any]:
    return {"lsn": lsn, "tables": list(heads), **parts}


def verify_body(size: int, journal_size: int, state: bytes = bytes(32), **changed: Any) -> dict[str, Any]:
    return {
        "table": TABLE,
        "generation": 1,
        "size": size,
        "journal_size": journal_size,
        "snapshot": "743:743:",
        "lsn": "0/1949A10",
        "rows": 3,
        "unresolved": 0,
        "state_expected": b64(state),
        "state_found": b64(state),
        "verdict": "VERIFIED",
        "findings": [],
        "not_checked": [],
        "mode": "snapshot",
        "range": None,
        "seconds": 1,
        **changed,
    }
