"""A node comes in: from an empty store with keys and a slot to one that looks as if it had stopped a moment ago.

    slot        made by ``witnz init``, before anything else: from its position P on nothing of the stream can be missed
    genesis     from any member, believed only where it names exactly what this node's file names: cluster, members, their
                keys and addresses, quorum, operators (where the file lists any) and this very database
    the rest    journal, keys, table logs, state (:mod:`witnz.node.catchup`)

It needs the members' channel and nothing that records, so it runs before the node does; what is not there yet is waited for,
and a member that gives what does not fit is named in the log and not asked again for a while.  As soon as the journal is here
the node helps to order what comes (:meth:`witnz.cluster.engine.Engine.take_part`): the others wait for that wherever they need
its voice, and table logs may take long.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Final

import psycopg
import structlog

from witnz.cluster.peers import Member as Peer
from witnz.cluster.peers import Peers
from witnz.config import Config
from witnz.core.journal import JournalState
from witnz.core.journal_facts import Member
from witnz.core.record import Record, format_record, parse_record
from witnz.errors import ConfigError, Inconclusive, ReplicationImpossible, WitnzError
from witnz.node.catchup import UNSEALED_WAIT_S, CatchUp, Home
from witnz.node.following import FOLLOWED
from witnz.node.images import ImageBox
from witnz.node.keyring import load_node_keys, load_retain_key
from witnz.node.membership import peers_of
from witnz.node.setup import conninfo_of
from witnz.node.sources import NotFetched, Sources
from witnz.postgres import slot as slots
from witnz.postgres.session import Identity, connect, server_identity
from witnz.store import journal as stored
from witnz.store import meta
from witnz.store.database import Database
from witnz.store.datadir import DataDir

log = structlog.get_logger(__name__)

RETRY_S: Final = 1.0
RETRY_MAX_S: Final = 5.0  # whoever is let in meanwhile is waited for: until it takes part there may be no quorum
JOINED: Final = "joined"  # meta: everything is here; until then `start` goes on joining


class Joining:
    """One node on its way in.  ``clock``: µs since the Unix epoch; ``stopping`` ends the waiting.

    ``take_part``: called, once the journal is stored, to begin with ordering or go on with it; perhaps more than once.
    """

    def __init__(
        self,
        config: Config,
        channel: Peers,
        clock: Callable[[], int],
        stopping: threading.Event,
        *,
        timeout_s: float = 30.0,
        take_part: Callable[[], None] = lambda: None,
    ) -> None:
        self._config, self._channel, self._clock, self._stopping = config, channel, clock, stopping
        self._timeout_s, self._take_part = timeout_s, take_part
        self.unsealed_wait_s = UNSEALED_WAIT_S
        self._data = DataDir(config.data_dir)

    @staticmethod
    def is_due(config: Config) -> bool:
        """Whether the store waits for what other members have.

        The first look at it of a start: one that an older version left is brought up to date here.
        """
        data = DataDir(config.data_dir)
        data.check()
        with data.lock(), Database.open(data.database) as db, db.read() as conn:
            return stored.journal_size(conn) == 0 or meta.load_value(conn, JOINED) == "no"

    def run(self) -> None:
        """Until the node can start.  Raises ConfigError where genesis is not what the file says, Inconclusive when stopped."""
        with self._data.lock():
            db = Database.open(self._data.database)
            try:
                wait_s, said = RETRY_S, ""
                while True:
                    try:
                        self._run(db)
                        return
                    except ConfigError:
                        raise
                    except (WitnzError, psycopg.Error) as error:
                        if str(error) != said:
                            said = str(error)
                            log.warning("not joined yet", reason=said.strip(), **_what_to_do(error))
                    if self._stopping.wait(wait_s):
                        raise Inconclusive("stopped before the node had joined; it goes on where it was when it starts again")
                    wait_s = min(wait_s * 2, RETRY_MAX_S)
            finally:
                db.close()

    def _run(self, db: Database) -> None:
        position = self._slot_position()
        genesis = self._genesis(db)
        known = self._members(genesis)
        self._channel.update_members(Peer(member.id, member.addr, member.identity) for member in known)
        others = [member.id for member in known if member.id != self._config.node_id]
        sources = Sources(self._channel, others, self._timeout_s)
        catch_up = CatchUp(
            self._home(db), sources, self._connect, stopped=self._stopping.is_set, unsealed_wait_s=self.unsealed_wait_s
        )
        state = catch_up.journal()
        _check_member(state, self._config)
        self._channel.update_members(peers_of(state))
        self._take_part()
        sources.nodes = [node for node in state.members if node != self._config.node_id]
        added = catch_up.all_logs(position)
        with db.write() as conn:
            for key, value in (
                ("acked", position),
                ("position", position),
                ("last_final_lsn", state.last_seal_lsn),
                ("timeline", state.timeline),
                (FOLLOWED, state.size),
                (JOINED, None),
            ):
                meta.save_value(conn, key, value)
        log.info("node has joined", records=state.size, entries=added, tables=len(state.tables()))

    def _home(self, db: Database) -> Home:
        config = self._config
        own = load_node_keys(self._data.keys_dir, config.cluster, config.node_id)
        box = ImageBox(load_retain_key(self._data.keys_dir))
        return Home(
            db, config.cluster, config.node_id, own.identity, self._data.keys_dir, self._data.evidence_dir, box, self._clock
        )

    # -- slot -----------------------------------------------------------------------------------------------------------------

    def _connect(self) -> psycopg.Connection[Any]:
        return connect(conninfo_of(self._config), application_name="witnz join")

    def _slot_position(self) -> int:
        """From where on the own slot keeps the stream."""
        with self._connect() as conn:
            state = slots.slot_state(conn, self._config.slot_name)
        if state is None or state.lost or state.confirmed_flush_lsn is None:
            raise ReplicationImpossible(
                f"replication slot {self._config.slot_name} is not there, or can not be read from any more",
                hint="`witnz init` makes it; drop what is left of it first (pg_drop_replication_slot)",
            )
        return state.confirmed_flush_lsn

    # -- genesis --------------------------------------------------------------------------------------------------------------

    def _genesis(self, db: Database) -> Record:
        """Record 1: the store's, or that of another member, once it has been compared with the file."""
        with db.read() as conn:
            known = [parse_record(leaf) for leaf in stored.records(conn, 1, 1)]
        if known:
            return known[0]
        with self._connect() as database:
            identity = server_identity(database)
        listed = [entry.member() for entry in self._config.nodes]
        self._channel.update_members(Peer(m.id, m.addr, m.identity) for m in listed)
        sources = Sources(self._channel, [m.id for m in listed if m.id != self._config.node_id], self._timeout_s)
        differing: dict[str, str] = {}

        def take(node: str) -> Record:
            record = parse_record(sources.ask(node, "join.genesis", {}))
            JournalState().check(record)
            problems = genesis_problems(record, self._config, identity)
            if problems:
                differing[node] = "; ".join(problems)
                raise NotFetched(f"{node} shows a genesis that does not fit {self._config.path}: {differing[node]}")
            return record

        try:
            record = sources.first("genesis", take)
        except WitnzError:
            if len(differing) == len(sources.nodes):
                raise _foreign(self._config, differing) from None
            raise
        self._save_genesis(db, record)
        return record

    def _save_genesis(self, db: Database, record: Record) -> None:
        with db.write() as conn:
            meta.save_value(conn, "cluster_id", record.cluster)
            meta.save_value(conn, JOINED, "no")
            stored.append_record(conn, stored.load_head(conn), format_record(record))
        log.info("genesis was taken over", cluster=record.body["cluster"], members=len(record.body["members"]))

    def _members(self, genesis: Record) -> list[Member]:
        """Whom to ask at first: those whom the file lists, else those of genesis."""
        listed = [entry.member() for entry in self._config.nodes]
        return listed or [Member.from_body(body) for body in genesis.body["members"]]


def genesis_problems(record: Record, config: Config, database: Identity) -> list[str]:
    """In words, everything in which a genesis is not what this node's file and database say; empty where it fits.

    A founder's file lists what genesis must name.  Who comes later, or after keys were rotated, has its digest in the file.
    """
    body = record.body
    problems = []
    if body["cluster"] != config.cluster:
        problems.append(f"it founds the cluster {body['cluster']}, not {config.cluster}")
    if (body["database"]["system"], body["database"]["name"]) != (database.system, database.dbname):
        problems.append(f"it is about database {body['database']['name']} of system {body['database']['system']}")
    operators = {operator["name"]: operator["key"] for operator in body["operators"]}
    problems += [
        f"it does not name the operator {operator.name} with the key in operators"
        for operator in config.operators
        if operators.get(operator.name) != operator.key
    ]
    if config.genesis is None:
        return problems + _member_problems(body, config)
    digest = genesis_digest(record)
    return problems if digest == config.genesis else [*problems, f"its digest is {digest}, not the one in genesis"]


def genesis_digest(record: Record) -> str:
    """What the file's ``genesis`` holds: the hex SHA-256 of record 1."""
    return sha256(format_record(record)).hexdigest()


def _member_problems(body: Mapping[str, Any], config: Config) -> list[str]:
    named = {member["id"]: Member.from_body(member) for member in body["members"]}
    listed = {entry.id or "": entry.member() for entry in config.nodes}
    if config.node_id not in named:
        return [
            f"it does not name {config.node_id}, so the file must hold its digest (genesis), which `witnz keys show` prints"
        ]
    problems = [f"it names {node}, whom nodes does not list" for node in sorted(named.keys() - listed.keys())]
    problems += [f"it does not name {node}" for node in sorted(listed.keys() - named.keys())]
    quorum = config.quorum or len(listed) // 2 + 1
    if body["quorum"] != quorum:
        problems.append(f"its quorum is {body['quorum']}, expected {quorum}")
    for node in sorted(named.keys() & listed.keys()):
        for name, word in (("identity", "key"), ("cosigner", "cosigner"), ("addr", "addr")):
            if getattr(named[node], name) != getattr(listed[node], name):
                problems.append(f"the {word} of {node} is another one than in nodes")
    return problems


def _check_member(state: JournalState, config: Config) -> None:
    """Raise ConfigError where the journal knows this node under other keys, Inconclusive while it does not know it."""
    member, wish = state.members.get(config.node_id), config.member(config.node_id)
    if member is None:
        raise Inconclusive(
            f"{config.node_id} is no member of {config.cluster} yet",
            hint="on a member: witnz cluster add, with an operator's key",
        )
    if wish is not None and (wish.member().identity, wish.member().cosigner) != (member.identity, member.cosigner):
        raise ConfigError(
            f"the journal knows {config.node_id} under other keys than {config.path} lists",
            hint="a node that lost its keys comes back under a new id: see docs/operations.md",
        )


def _foreign(config: Config, differing: dict[str, str]) -> ConfigError:
    said = "".join(f"\n  {node}: {reason}" for node, reason in differing.items())
    return ConfigError(
        f"no member shows a genesis that fits {config.path}{said}",
        hint="put the file right; if it is right, somebody shows you another cluster",
        code="config.foreign-genesis",
    )


def stored_genesis_digest(db: Database) -> str | None:
    """The digest of the genesis in a store, None where it has none yet."""
    with db.read() as conn:
        return next((genesis_digest(parse_record(leaf)) for leaf in stored.records(conn, 1, 1)), None)


def _what_to_do(error: Exception) -> dict[str, str]:
    """The hint of an error, for the log, where it has one."""
    hint = getattr(error, "hint", "")
    return {"hint": hint} if hint else {}
