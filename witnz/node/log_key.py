"""The cluster's log key on a node that does not have it yet: one that joins, or one of several after the key was rotated.

It is handed over sealed to this node (:mod:`witnz.node.handover`) and believed only where it is the key that the journal names;
so are the generations' secrets, each of which its ``table`` record commits to.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from witnz.core.journal import JournalState
from witnz.core.keys import ED25519, format_verifier_key, parse_private_key
from witnz.core.rowline import secret_commitment
from witnz.errors import KeyProblem, ProofError
from witnz.node import handover
from witnz.node.handover import Handed, Log
from witnz.node.keyring import KeptSigner, Keyring, next_file
from witnz.node.sources import Sources
from witnz.store.datadir import save_key_file


def fetch_handed(
    identity: KeptSigner,
    node_id: str,
    state: JournalState,
    sources: Sources,
    wanted: Sequence[Log] = (),
    commitments: Mapping[Log, str] | None = None,
    optional: Collection[Log] = (),
) -> Handed:
    """The log key and the secrets of these generations from the first member whose answer holds.

    ``optional``: those that may have been forgotten by order.  Raises NotFetched, WrongAnswer.
    """

    def take(node: str) -> Handed:
        asked = handover.ask(identity, state.cluster_id, node_id, wanted)
        handed = asked.open(sources.ask(node, "join.keys", asked.body), state.members[node])
        _check(handed, state, [log for log in wanted if log in handed.secrets or log not in optional], commitments or {})
        return handed

    return sources.first("the log key and the secrets", take)


def save_log_key(keys_dir: Path, cluster: str, handed: Handed, state: JournalState) -> None:
    """Keep the log key in force: at once where there is none, else as the one that follows."""
    path = keys_dir / "log.key"
    for line in handed.log_keys:
        key = parse_private_key(line).verifier()
        if format_verifier_key(key) != state.log_key:
            continue
        if not path.exists():
            save_key_file(path, line)
        elif KeptSigner(path, cluster).public != key.public:
            next_file(path).unlink(missing_ok=True)
            save_key_file(next_file(path), line)


def fetch_log_key(keys: Keyring, node_id: str, state: JournalState, sources: Sources) -> bool:
    """Have the log key in force handed over, and sign with it; whether nothing is missing any more."""
    handed = fetch_handed(keys.identity, node_id, state, sources)
    save_log_key(keys.log.directory, keys.log.name, handed, state)
    return keys.follow(node_id, state.members, state.log_key) == []


def _check(handed: Handed, state: JournalState, wanted: Sequence[Log], commitments: Mapping[Log, str]) -> None:
    """Raise ProofError unless this is the log key in force, and every secret is what its ``table`` record commits to."""
    try:
        keys = [parse_private_key(line) for line in handed.log_keys]
    except KeyProblem as error:
        raise ProofError(f"handover: {error.message}") from None
    if not any(key.type == ED25519 and format_verifier_key(key.verifier()) == state.log_key for key in keys):
        raise ProofError("handover: expected the log key that the journal names, found another")
    for wish in wanted:
        if wish not in handed.secrets:
            raise ProofError(f"handover: expected the secret of {wish[0]}, generation {wish[1]}, found none")
        if secret_commitment(handed.secrets[wish]) != commitments[wish]:
            raise ProofError(f"handover: the secret of {wish[0]}, generation {wish[1]}, is not the one that was committed to")
