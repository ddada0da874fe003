"""What connects a node to the other members: the channel under pinned keys, and the engine that orders the journal.

The channel comes first: a node that joins asks the others over it before it has a journal.  Everything of :mod:`witnz.cluster`
is loaded here, and only where there are other members.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from witnz.config import Config
from witnz.core.journal import JournalState
from witnz.core.keys import parse_private_key
from witnz.errors import ConfigError, NotInitialised
from witnz.node.journal import load_membership
from witnz.node.peering import Fellows
from witnz.node.view import load_journal_state
from witnz.store.database import Database
from witnz.store.datadir import DataDir, load_key_file

if TYPE_CHECKING:
    from witnz.cluster.engine import Engine, Membership
    from witnz.cluster.transport import TlsPeers

RAFT_DIR = "raft"
REPLACE = (
    "a new member: run `witnz init` first; a member that lost its directory must not come back under its id, for it does not"
    " know what it had acknowledged: put one with a new id in its place (docs/operations.md, Replacing a node)"
)


def make_channel(config: Config) -> TlsPeers:
    """The members' channel of a node as its file and keys describe it; not started."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from witnz.cluster.peers import Member
    from witnz.cluster.transport import TlsPeers

    listed = [entry.member() for entry in config.nodes]
    members = [Member(member.id, member.addr, member.identity) for member in listed]
    me = next((member for member in members if member.id == config.node_id), None)
    address = config.node.listen_addr or config.node.bind_addr
    if me is None or address is None:
        raise ConfigError(
            f"nodes does not list this node, {config.node_id}, or node.bind_addr is not set", hint="`witnz config check`"
        )
    key = parse_private_key(load_key_file(DataDir(config.data_dir).keys_dir / "identity.key"))
    host, _, port = address.rpartition(":")
    bind = host.strip("[]"), int(port)
    return TlsPeers(me, members, Ed25519PrivateKey.from_private_bytes(key.seed), config.cluster, bind)


def connect(config: Config, channel: TlsPeers) -> Fellows:
    """The channel with the members in force, and the engine; for a store that has its genesis."""
    from witnz.cluster.peers import Member

    data = DataDir(config.data_dir)
    with Database.open(data.database) as db:
        state = load_journal_state(db)
        membership = stored_membership(db, state)
    channel.update_members([Member(member.id, member.addr, member.identity) for member in state.members.values()])
    return Fellows(_engine(config, state, membership, data, channel), channel)


def enter(config: Config, clock: Callable[[], int], stopping: threading.Event) -> Fellows:
    """The same; a node that the others do not know yet joins them first, and goes on with the channel and engine of then.

    Raises what :meth:`witnz.node.joining.Joining.run` raises, and NotInitialised where there is no store: before any key is
    looked for, so that a directory that is gone is told as what it is.
    """
    from witnz.node.joining import Joining

    try:
        due = Joining.is_due(config)
    except NotInitialised as error:
        raise NotInitialised(error.message, hint=REPLACE) from None
    channel = make_channel(config)
    if not due:
        return connect(config, channel)
    made: list[Fellows] = []

    def take_part() -> None:
        if not made:
            made.append(connect(config, channel))
            made[0].engine.take_part()
            return
        with Database.open(DataDir(config.data_dir).database) as db:
            membership = stored_membership(db, load_journal_state(db))
        if membership.epoch > made[0].engine.status().epoch:
            made[0].engine.reconfigure(membership)

    channel.start()
    try:
        Joining(config, channel, clock, stopping, take_part=take_part).run()
    except BaseException:
        for fellows in made:
            fellows.engine.close()
        channel.close()
        raise
    return made[0]


def stored_membership(db: Database, state: JournalState) -> Membership:
    """Who orders the journal from here on."""
    from witnz.cluster.engine import Membership

    with db.read() as conn:
        epoch, since_index = load_membership(conn)
    return Membership(epoch, since_index, tuple(sorted(state.members)))


def _engine(config: Config, state: JournalState, membership: Membership, data: DataDir, channel: TlsPeers) -> Engine:
    if config.engine == "etcd":
        from witnz.cluster.etcd import EtcdEngine
        from witnz.cluster.etcd_client import EtcdTls

        etcd = config.etcd
        tls = EtcdTls(etcd.ca, etcd.cert, etcd.key) if etcd.ca is not None else None
        return EtcdEngine(config.node_id, state.cluster_id, etcd.endpoints, tls)
    from witnz.cluster.raft.engine import RaftEngine

    return RaftEngine(config.node_id, membership, data.path / RAFT_DIR, channel)
