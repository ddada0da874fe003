"""``witnz init``: a data directory, keys, the journal's first record, the publication and the slot.

Every step looks first whether it is done already, so that ``init`` can be run again: after a DBA has created the
publication, or after a mistake in the configuration.  Nothing here keeps the administrator's connection.

Of several members each makes its own keys first; once the file lists them all, the one with ``bootstrap`` founds the cluster:
its genesis names every member.  The others make an empty store and their slot; genesis they take over from a member when they
start, after they compared it with their own file (:mod:`witnz.node.joining`).
"""

from __future__ import annotations

import base64
import getpass
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from witnz.cluster.engine import LocalEngine
from witnz.config import Config
from witnz.core.keys import Signer
from witnz.errors import KeyProblem, ReplicationImpossible
from witnz.node.journal import Journal, authorise
from witnz.node.keyring import Keyring, create_keyring, create_node_keys, create_person_key, load_person_key
from witnz.node.reporting import prepare_key
from witnz.postgres import slot as slots
from witnz.postgres.eligibility import raise_fatal, require_table, table_problems
from witnz.postgres.publication import apply, differences, expected_publications, publication_sql, publication_state, repair_sql
from witnz.postgres.session import WAITING_SILENCE_S, Conninfo, Identity, classify_error, connect, server_identity
from witnz.store import meta
from witnz.store.database import Database
from witnz.store.datadir import DataDir

Tables = dict[int, tuple[str, str]]


@dataclass(slots=True)
class Made:
    """What ``init`` did, for people and for ``--json``."""

    data_dir: Path
    operator_key: Path | None = None
    created: list[str] = field(default_factory=list)
    log_key: str = ""
    cosigner_key: str = ""
    identity: str = ""
    policy: str = ""
    sql: list[str] = field(default_factory=list)
    member: dict[str, str] | None = None  # this node's entry for the list of members, of one of several
    missing: list[str] = field(default_factory=list)  # what the list of members lacks before anything can be founded
    notes: list[str] = field(default_factory=list)  # what was asked for and not done, and why
    joins: bool = False  # genesis will come from another member


def conninfo_of(config: Config) -> Conninfo:
    return Conninfo.from_conninfo(config.database.conninfo())


def initialise(config: Config, *, admin: Conninfo | None, clock: Callable[[], int], operator: str | None = None) -> Made:
    """Do whatever of ``init`` is not done yet.

    Raises ReplicationImpossible (exit 14) with the SQL for the DBA where the publication is not right and no ``admin`` is
    given, KeyProblem where the file lists other keys of this node than those that are here.
    """
    data = DataDir(config.data_dir)
    made = Made(config.data_dir)
    if config.is_one_of_several and not _own_entry(config, data, made):
        return made
    with connect(conninfo_of(config), application_name="witnz init") as conn:
        identity = server_identity(conn)
        if identity.in_recovery:
            raise ReplicationImpossible("the server is a standby", hint="connect witnz to the primary")
        published, inserts = configured_tables(conn, config)
        _make_store(config, data, identity, made, clock, operator)
        ensure_publication(conn, config, published, inserts, admin, made)
        if slots.slot_state(conn, config.slot_name) is None and _never_connected(data):
            with connect(
                conninfo_of(config), replication=True, application_name="witnz init", silence_s=WAITING_SILENCE_S
            ) as walsender:
                slots.create_slot(walsender, config.slot_name, publication=config.publication)
            made.created.append(f"replication slot {config.slot_name}")
    return made


def _own_entry(config: Config, data: DataDir, made: Made) -> bool:
    """Make this node's keys and the entry that lists them; whether the list of members is complete."""
    address = config.node.bind_addr or next((m.address for m in config.nodes if m.id == config.node_id), None)
    if address is None:
        made.missing = config.missing_members()
        return False
    listed = config.member(config.node_id)
    before = (data.keys_dir / "identity.key").exists()
    if not before and listed is not None and listed.key is not None:
        raise KeyProblem(
            f"nodes lists keys of {config.node_id}, and {data.keys_dir} has none",
            hint="restore this node's data directory from a backup, or put a member with a new id in its place"
            " (docs/operations.md, Replacing a node)",
        )
    data.create()
    keys = create_node_keys(data.keys_dir, config.cluster, config.node_id)
    if not before:
        made.created.append(f"keys of {config.node_id} in {data.keys_dir}")
    made.identity, made.cosigner_key = keys.identity_b64, keys.cosigner_key
    made.member = {"id": config.node_id, "addr": address, "key": keys.identity_b64, "cosigner": keys.cosigner_key}
    for name, here in (("key", keys.identity_b64), ("cosigner", keys.cosigner_key)):
        if listed is not None and getattr(listed, name) not in (None, here):
            raise KeyProblem(
                f"nodes lists another {name} of {config.node_id} than the one in {data.keys_dir}",
                hint=f"restore this node's keys directory, or list key {keys.identity_b64} and cosigner {keys.cosigner_key}",
            )
    made.missing = config.missing_members()
    return not made.missing


def configured_tables(conn: psycopg.Connection[Any], config: Config) -> tuple[Tables, Tables]:
    """(fully published, inserts only) tables of the configuration by OID.  Raises the error of the first that is unfit."""
    published: Tables = {}
    inserts: Tables = {}
    for table in config.protected_tables:
        info = require_table(conn, *table.relation)
        raise_fatal(
            table_problems(conn, info, mode=table.mode, inserts_only=table.inserts_only, excluded_columns=table.exclude_columns)
        )
        (inserts if table.inserts_only else published)[info.oid] = (info.schema, info.name)
    return published, inserts


def ensure_publication(
    conn: psycopg.Connection[Any], config: Config, published: Tables, inserts: Tables, admin: Conninfo | None, made: Made
) -> None:
    """The publication of exactly these tables: made by ``admin``, or its SQL for whoever may."""
    wanted = expected_publications(config.publication, published, inserts)
    states = [(expected, publication_state(conn, expected.name)) for expected in wanted]
    if not any(differences(expected, state) for expected, state in states):
        return
    refusal = None
    if admin is not None:
        try:
            with connect(admin, application_name="witnz init", silence_s=WAITING_SILENCE_S) as owner:
                made.created += apply(owner, config.publication, published, inserts_only_tables=inserts)
            return
        except psycopg.errors.InsufficientPrivilege as error:
            refusal = f"{admin.user} may not make publication {config.publication} right: {error.diag.message_primary}"
        except psycopg.Error as error:
            raise classify_error(error, doing=f"making publication {config.publication} right") from error
    if all(state is None for _, state in states):
        made.sql = publication_sql(
            config.publication,
            list(published.values()),
            inserts_only_tables=list(inserts.values()),
            version=conn.info.server_version,
        )
    else:
        made.sql = [
            text for expected, state in states for text in repair_sql(expected, state, version=conn.info.server_version)
        ]
    raise PublicationMissing(made, refusal)


class PublicationMissing(ReplicationImpossible):
    """Only the tables' owner can publish them; ``made.sql`` is what has to be run."""

    code = "publication.missing"

    def __init__(self, made: Made, refusal: str | None = None) -> None:
        super().__init__(
            refusal or "the publication is not there yet, and only the owner of the tables can create it",
            hint="have the DBA run the SQL that is printed, or give --admin-url once, and run the command again",
        )
        self.made = made


def _never_connected(data: DataDir) -> bool:
    """A slot is made by ``init`` only before the first start; afterwards a missing slot is a gap, for the node to record."""
    with Database.open(data.database, read_only=True) as db, db.read() as conn:
        return meta.load_number(conn, "acked") is None


def _make_store(
    config: Config, data: DataDir, identity: Identity, made: Made, clock: Callable[[], int], operator: str | None
) -> None:
    if config.is_one_of_several and not config.node.bootstrap and not (data.keys_dir / "log.key").exists():
        _make_empty_store(config, data, made)
        return
    data.create()
    keys = create_keyring(data.keys_dir, config.cluster, config.node_id)
    made.log_key, made.cosigner_key, made.identity = keys.log_key, keys.cosigner_key, keys.identity_b64
    name = operator or _login_name()
    path = data.path / f"operator-{name}.key"
    if not data.database.exists():
        if path.exists():
            _, signer = load_person_key(path, "operator")
        else:
            signer = create_person_key(path, "operator", name)
            made.created.append(f"operator key {path}")
        db = Database.create(data.database)
        with db:
            cluster_id = _genesis(db, config, keys, identity, name, signer, clock)
        prepare_key(
            data.keys_dir, config.cluster, config.node_id, clock(),
            lambda body: authorise("key", body, cluster_id, name, signer),
        )  # fmt: skip
        made.created.append(f"store {data.database}")
    elif operator is not None and not path.exists():
        made.notes.append(
            f"this node has its first operator already; another one: witnz keys new operator {operator} --operator-key FILE"
        )
    made.operator_key = path if path.exists() else None
    made.policy = policy_of(data)


def _make_empty_store(config: Config, data: DataDir, made: Made) -> None:
    """A store that waits for the genesis of another member."""
    made.joins = True
    if data.database.exists():
        return
    with Database.create(data.database) as db, db.write() as conn:
        meta.save_value(conn, "cluster", config.cluster)
        meta.save_value(conn, "node", config.node_id)
    made.created.append(f"store {data.database}")


def policy_of(data: DataDir) -> str:
    """The policy text that verifiers should keep now, from the journal."""
    from witnz.node.view import load_journal_state

    with Database.open(data.database, read_only=True) as db:
        return load_journal_state(db).periods.now.policy()


def _genesis(
    db: Database, config: Config, keys: Keyring, identity: Identity, operator: str, signer: Signer, clock: Callable[[], int]
) -> str:
    """Journal the first record; the id of the new cluster."""
    cluster_id = os.urandom(16).hex()
    with db.write() as conn:
        meta.save_value(conn, "cluster", config.cluster)
        meta.save_value(conn, "cluster_id", cluster_id)
        meta.save_value(conn, "node", config.node_id)
    journal = Journal(
        db, LocalEngine(config.node_id), config.node_id, keys.identity, clock, cluster=config.cluster, cluster_id=cluster_id
    )
    journal.propose(
        "genesis",
        {
            "cluster": config.cluster,
            "members": _founders(config, keys),
            "operators": [{"name": operator, "key": base64.b64encode(signer.public).decode()}],
            "quorum": config.quorum or max(1, len(config.nodes)) // 2 + 1,
            "log_key": keys.log_key,
            "database": {"system": identity.system, "timeline": identity.timeline, "name": identity.dbname},
        },
    )
    return cluster_id


def _founders(config: Config, keys: Keyring) -> list[dict[str, str]]:
    """The members that genesis names: all of the list, or this node alone."""
    if not config.is_one_of_several:
        address = config.node.bind_addr or "local"
        return [{"id": config.node_id, "addr": address, "identity": keys.identity_b64, "cosigner": keys.cosigner_key}]
    members = [entry.member() for entry in config.nodes]
    return [
        {"id": m.id, "addr": m.addr, "identity": base64.b64encode(m.identity).decode(), "cosigner": m.cosigner} for m in members
    ]


def _login_name() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = "operator"
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name)[:64] or "operator"
